"""What the node is made of: its addresses, its programs and their configuration.

Pure: this module does no I/O. The node has a network of its own, so its addresses and ports are the
same in every cluster and collide with nothing.

A path here is one as the programs see it, where the state folder is mounted on `STATE` and the
folder of what was built on `BUILT`: a socket's path has at most 107 bytes, and a user's folders may
have more.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "slipway-local"
"""The node, and the cluster, user and context in a kubeconfig."""
ADDRESS = "10.255.0.1"
"""The node's own, on its loopback interface: an address of 127/8 may not be that of an API server's
endpoint."""
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
"""The first address of the Services, which is always that of the Service `kubernetes`."""
DNS = "10.96.0.10"
API_PORT = 6443
ETCD = "http://127.0.0.1:2379"

STATE = "/run/slipway"
BUILT = "/run/slipway-built"
RUNTIME_SOCKET = "/run/containerd/containerd.sock"
PAUSE = "slipway.local/pause:1"

HPA_SYNC_PERIOD = "15s"
"""How often Kubernetes looks at what it scales, when nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node, as it is started.

    Attributes:
        folder: The state folder.
        built: The folder with ``bin`` and ``images``.
        cni: The folder of the CNI plug-ins.
        registry: The port of the registry on the loopback interface; 0 when there is none to reach.
        hpa_sync_period: How often the autoscaler looks, as Go writes a duration.
        snapshotter: How containerd stacks the layers of an image.
    """

    folder: str
    built: str
    cni: str
    registry: int
    hpa_sync_period: str = HPA_SYNC_PERIOD
    snapshotter: str = "overlayfs"

    @property
    def cgroup(self) -> str:
        """Return the name of the cgroup that its pods are in; another for each state folder."""
        return f"slipway-{hashlib.sha256(self.folder.encode()).hexdigest()[:8]}"

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Node:
        """Return what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs as long as the node does.

    Attributes:
        name: What its log is named for.
        argv: It and its arguments.
        after: What must accept connections before it is started, ``tcp:HOST:PORT`` or
            ``unix:PATH``; empty when nothing.
    """

    name: str
    argv: tuple[str, ...]
    after: str = ""


def programs(node: Node) -> tuple[Program, ...]:
    """Return the programs of a node, in the order in which they are started."""
    return (
        _etcd(),
        _api_server(),
        Program("containerd", ("containerd", "--config", f"{STATE}/config/containerd.toml")),
        _controller_manager(node),
        _scheduler(),
        _kubelet(),
        Program(
            "kube-proxy",
            (
                f"{BUILT}/bin/kube-proxy",
                f"--config={STATE}/config/kube-proxy.json",
                f"--hostname-override={NAME}",
            ),
            after=_API,
        ),
    )


_API = f"tcp:127.0.0.1:{API_PORT}"
_PKI = f"{STATE}/pki"


def _etcd() -> Program:
    peer = "http://127.0.0.1:2380"
    return Program(
        "etcd",
        (
            "etcd",
            f"--name={NAME}",
            f"--data-dir={STATE}/etcd",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={NAME}={peer}",
            # Only a crash of the machine itself can lose something, and then it is made anew.
            "--unsafe-no-fsync=true",
            "--log-level=warn",
        ),
    )


def _api_server() -> Program:
    return Program(
        "kube-apiserver",
        (
            f"{BUILT}/bin/kube-apiserver",
            f"--advertise-address={ADDRESS}",
            "--bind-address=0.0.0.0",
            f"--secure-port={API_PORT}",
            f"--etcd-servers={ETCD}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={_PKI}/ca.crt",
            f"--tls-cert-file={_PKI}/apiserver.crt",
            f"--tls-private-key-file={_PKI}/apiserver.key",
            f"--kubelet-certificate-authority={_PKI}/ca.crt",
            f"--kubelet-client-certificate={_PKI}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={_PKI}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={_PKI}/accounts.pub",
            f"--service-account-signing-key-file={_PKI}/accounts.key",
            f"--requestheader-client-ca-file={_PKI}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={_PKI}/front-proxy-client.crt",
            f"--proxy-client-key-file={_PKI}/front-proxy-client.key",
            # To a pod itself: it does not have to wait for kube-proxy.
            "--enable-aggregator-routing=true",
            f"--cert-dir={STATE}/pki",
        ),
        after=f"tcp:{ETCD.removeprefix('http://')}",
    )


def _controller_manager(node: Node) -> Program:
    return Program(
        "kube-controller-manager",
        (
            f"{BUILT}/bin/kube-controller-manager",
            *_client("kube-controller-manager"),
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--root-ca-file={_PKI}/ca.crt",
            f"--service-account-private-key-file={_PKI}/accounts.key",
            f"--cluster-signing-cert-file={_PKI}/ca.crt",
            f"--cluster-signing-key-file={_PKI}/ca.key",
            f"--horizontal-pod-autoscaler-sync-period={node.hpa_sync_period}",
            f"--cert-dir={STATE}/pki",
        ),
        after=_API,
    )


def _scheduler() -> Program:
    return Program(
        "kube-scheduler",
        (
            f"{BUILT}/bin/kube-scheduler",
            *_client("kube-scheduler"),
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            f"--cert-dir={STATE}/pki",
        ),
        after=_API,
    )


def _client(name: str) -> tuple[str, ...]:
    """Return the arguments for a program that asks the API server and is asked itself."""
    file = f"{_PKI}/{name}.kubeconfig"
    return (
        f"--kubeconfig={file}",
        f"--authentication-kubeconfig={file}",
        f"--authorization-kubeconfig={file}",
    )


def _kubelet() -> Program:
    return Program(
        "kubelet",
        (
            f"{BUILT}/bin/kubelet",
            f"--config={STATE}/config/kubelet.json",
            f"--kubeconfig={_PKI}/kubelet.kubeconfig",
            f"--hostname-override={NAME}",
            f"--node-ip={ADDRESS}",
        ),
        after=f"unix:{RUNTIME_SOCKET}",
    )


def files(node: Node) -> Mapping[str, str]:
    """Return the configuration files of a node, by their names in the folder ``config``."""
    return {
        "containerd.toml": _containerd(node),
        "kubelet.json": json.dumps(_kubelet_configuration(node), indent=2),
        "kube-proxy.json": json.dumps(_kube_proxy_configuration(), indent=2),
        "cni/10-slipway.conflist": json.dumps(_network(), indent=2),
        # There is no way out of the node, so there is nobody to ask.
        "resolv.conf": "",
    }


def _containerd(node: Node) -> str:
    return f"""\
version = 2
root = "{STATE}/containerd"
state = "/run/containerd"

[grpc]
address = "{RUNTIME_SOCKET}"

[debug]
level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# A container may not be better protected from the kernel's memory killer than containerd itself,
# which where the capability CAP_SYS_RESOURCE is absent could not be done.
restrict_oom_score_adj = true
# A profile would be loaded into the machine's kernel, and stay there.
disable_apparmor = true
tolerate_missing_hugetlb_controller = true
disable_hugetlb_controller = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{node.snapshotter}"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{node.cni}"
conf_dir = "{STATE}/config/cni"
"""


def _kubelet_configuration(node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{_PKI}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{_PKI}/kubelet-server.key",
        "containerRuntimeEndpoint": f"unix://{RUNTIME_SOCKET}",
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{STATE}/config/resolv.conf",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "enforceNodeAllocatable": [],
        # Cgroup v1 and swap are what the machine has; it is not for us to change.
        "failCgroupV1": False,
        "failSwapOn": False,
        # Kernel settings are the machine's: what the kubelet cannot set, it does without.
        "featureGates": {"KubeletInUserNamespace": True},
        "volumePluginDir": f"{STATE}/kubelet/volume-plugins",
        "serializeImagePulls": False,
        # The disk is the machine's too. Images that were loaded could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
    }


def _kube_proxy_configuration() -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": f"{_PKI}/kube-proxy.kubeconfig"},
        "clusterCIDR": PODS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # The table of connections is the kernel's, and one for all namespaces.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
            "udpTimeout": "0s",
            "udpStreamTimeout": "0s",
        },
    }


def _network() -> dict[str, object]:
    """Return the pods' network: each has a pair of interfaces, and the node routes between them.

    With a bridge, a pod's answer to another one would pass by what kube-proxy has to translate
    back, unless the bridge calls iptables, which is a setting of the kernel's and may be absent.
    """
    return {
        "cniVersion": "0.4.0",
        "name": "slipway",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/cni/networks",
                },
            }
        ],
    }


def state_files(folder: Path) -> dict[str, Path]:
    """Return where the state folder has what more than one module reads."""
    return {
        "node": folder / "node.json",
        "keeper": folder / "keeper.json",
        "lock": folder / "keeper.lock",
        "log": folder / "log",
        "hold": folder / "hold",
        "pki": folder / "pki",
        "serves": folder / "serves",
    }
