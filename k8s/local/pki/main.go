// Pki writes the certificates and keys of a cluster of one node into a folder, with the kubeconfig
// files of its programs.
// It makes two authorities, which forget their keys but for the one that signs in the cluster: one
// for everybody, one for the API server in front of other API servers (the front proxy), so that a
// client's certificate is never taken for the front proxy's.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// A year, as kubeadm has it: a cluster for tests does not live that long.
const validity = 365 * 24 * time.Hour

type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

type writer struct {
	folder string
	start  time.Time
}

func main() {
	log.SetFlags(0)
	folder := flag.String("folder", "", "where to write; it exists")
	node := flag.String("node", "", "the name of the node")
	address := flag.String("address", "", "the address of the node")
	service := flag.String("service", "", "the address of the Service kubernetes")
	server := flag.String("server", "", "the API server as programs on the node reach it")
	flag.Parse()
	w := writer{*folder, time.Now().Add(-time.Minute)}
	if err := w.write(*node, *address, *service, *server); err != nil {
		log.Fatal(err)
	}
}

func (w writer) write(node, address, service, server string) error {
	ca, err := w.authority("ca", "kubernetes-ca")
	if err != nil {
		return err
	}
	if err := w.save("ca.key", "EC PRIVATE KEY", ca.key, 0o600); err != nil {
		return err
	}
	front, err := w.authority("front-proxy-ca", "front-proxy-ca")
	if err != nil {
		return err
	}
	serving := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	local := net.IPv4(127, 0, 0, 1)
	host := net.ParseIP(address)
	if err := w.issue(ca, "apiserver", &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: serving,
		IPAddresses: []net.IP{local, host, net.ParseIP(service)},
		DNSNames: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local",
		},
	}); err != nil {
		return err
	}
	if err := w.issue(ca, "kubelet-server", &x509.Certificate{
		Subject:     pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		ExtKeyUsage: serving,
		IPAddresses: []net.IP{local, host},
		DNSNames:    []string{node},
	}); err != nil {
		return err
	}
	// RBAC's default bindings go by these names:
	// https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings
	for _, client := range []struct {
		by         *authority
		file, user string
		groups     []string
		server     string // in its kubeconfig file; without one it has none
	}{
		{front, "front-proxy-client", "front-proxy-client", nil, ""},
		{ca, "apiserver-kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, ""},
		{ca, "kubelet", "system:node:" + node, []string{"system:nodes"}, server},
		{ca, "kube-controller-manager", "system:kube-controller-manager", nil, server},
		{ca, "kube-scheduler", "system:kube-scheduler", nil, server},
		{ca, "kube-proxy", "system:kube-proxy", nil, server},
		{ca, "admin", "slipway:admin", []string{"system:masters"}, ""},
	} {
		if err := w.issue(client.by, client.file, &x509.Certificate{
			Subject:     pkix.Name{CommonName: client.user, Organization: client.groups},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}); err != nil {
			return err
		}
		if client.server != "" {
			if err := w.kubeconfig(client.file, client.server); err != nil {
				return err
			}
		}
	}
	return w.accounts()
}

// authority makes a certificate that signs others.
func (w writer) authority(file, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	made := &authority{template, key}
	der, err := w.sign(template, made, key.Public())
	if err != nil {
		return nil, err
	}
	// Read back, so that what it signs names it by its key.
	if made.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return made, w.encode(file+".crt", "CERTIFICATE", der, 0o644)
}

// issue makes a certificate, signed by an authority, and its key.
func (w writer) issue(by *authority, file string, template *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := w.sign(template, by, key.Public())
	if err != nil {
		return err
	}
	if err := w.encode(file+".crt", "CERTIFICATE", der, 0o644); err != nil {
		return err
	}
	return w.save(file+".key", "EC PRIVATE KEY", key, 0o600)
}

func (w writer) sign(template *x509.Certificate, by *authority, public crypto.PublicKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = w.start
	template.NotAfter = w.start.Add(validity)
	return x509.CreateCertificate(rand.Reader, template, by.certificate, public, by.key)
}

// accounts makes the key that signs the tokens of service accounts.
func (w writer) accounts() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := w.save("accounts.key", "EC PRIVATE KEY", key, 0o600); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return w.encode("accounts.pub", "PUBLIC KEY", der, 0o644)
}

func (w writer) kubeconfig(client, server string) error {
	content := func(file string) string {
		data, err := os.ReadFile(filepath.Join(w.folder, file))
		if err != nil {
			log.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(data)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
contexts:
- name: %[1]s
  context:
    cluster: cluster
    user: %[1]s
current-context: %[1]s
`, client, server, content("ca.crt"), content(client+".crt"), content(client+".key"))
	return os.WriteFile(filepath.Join(w.folder, client+".kubeconfig"), []byte(text), 0o600)
}

func (w writer) save(file, kind string, key crypto.Signer, mode os.FileMode) error {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	return w.encode(file, kind, der, mode)
}

func (w writer) encode(file, kind string, der []byte, mode os.FileMode) error {
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return os.WriteFile(filepath.Join(w.folder, file), data, mode)
}
