// CoreDNS with the plug-ins that this cluster's Corefile names, and no other: all of them would
// bring the libraries of a dozen clouds.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func init() {
	// The order in which a request meets them: what is not of the cluster gets to the last.
	dnsserver.Directives = []string{
		"health", "ready", "errors", "loadbalance", "cache", "kubernetes", "template",
	}
}

func main() {
	coremain.Run()
}
