"""The node's programs and files, as values."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cluster.local import node as nodes
from pipeline.cluster.local.node import Node

NODE = Node(folder="/state/cluster", built="/cache/x", cni="/usr/lib/cni", registry=5050)
COREDNS = Path(__file__).parents[2] / "k8s" / "local" / "coredns.yaml"


def arguments(name: str, node: Node = NODE) -> tuple[str, ...]:
    """Return how a program is called."""
    return next(p.argv for p in nodes.programs(node) if p.name == name)


def configuration(name: str) -> dict[str, object]:
    """Return a configuration file that is JSON."""
    found: dict[str, object] = json.loads(nodes.files(NODE)[name])
    return found


def test_a_node_survives_being_written() -> None:
    """What the keeper reads is what `up` wrote."""
    assert Node.from_json(NODE.to_json()) == NODE


@pytest.mark.parametrize("text", ["", "{}", '{"folder": "x", "colour": 1}', "[]"])
def test_what_is_no_node_is_refused(text: str) -> None:
    """With the one error that its reader knows."""
    with pytest.raises(ValueError, match=r".*"):
        Node.from_json(text)


def test_each_state_folder_has_control_groups_of_its_own() -> None:
    """Two clusters run side by side, and each ends without the other's."""
    other = replace(NODE, folder="/other/cluster")
    assert NODE.cgroup != other.cgroup
    assert NODE.cgroup.startswith("slipway-")
    assert "/" not in NODE.cgroup


def test_the_autoscaler_looks_as_often_as_was_asked() -> None:
    """Tests ask for a shorter period than Kubernetes' own."""
    flag = "--horizontal-pod-autoscaler-sync-period="
    assert f"{flag}15s" in arguments("kube-controller-manager")
    asked = replace(NODE, hpa_sync_period="5s")
    assert f"{flag}5s" in arguments("kube-controller-manager", asked)


def test_programs_wait_for_what_they_cannot_do_without() -> None:
    """The controllers end when there is no API server, the kubelet without its runtime."""
    after = {program.name: program.after for program in nodes.programs(NODE)}
    api = "tcp:127.0.0.1:6443"
    assert after == {
        "etcd": "",
        "kube-apiserver": "tcp:127.0.0.1:2379",
        "containerd": "",
        "kube-controller-manager": api,
        "kube-scheduler": api,
        "kubelet": "unix:/run/containerd/containerd.sock",
        "kube-proxy": api,
    }


def test_nothing_of_the_node_is_open_beyond_its_own_network() -> None:
    """Only the API server and the kubelet listen on more than the loopback interface."""
    listening = [
        argument
        for program in nodes.programs(NODE)
        for argument in program.argv
        if "0.0.0.0" in argument  # noqa: S104  looked for, not bound
    ]
    assert listening == ["--bind-address=0.0.0.0"]
    assert configuration("kubelet.json")["address"] == nodes.ADDRESS


def test_containerd_has_its_own_places() -> None:
    """Another containerd of the machine is not touched."""
    found = tomllib.loads(nodes.files(NODE)["containerd.toml"])
    assert found["root"] == "/run/slipway/containerd"
    assert found["grpc"]["address"] == nodes.RUNTIME_SOCKET
    cri = found["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["disable_apparmor"] is True
    assert cri["sandbox_image"] == nodes.PAUSE
    assert cri["containerd"]["snapshotter"] == "overlayfs"
    assert cri["cni"] == {"bin_dir": "/usr/lib/cni", "conf_dir": "/run/slipway/config/cni"}


def test_the_kubelet_leaves_the_machine_as_it_is() -> None:
    """No setting of the kernel, no swap, no image and no pod falls to what is the machine's."""
    found = configuration("kubelet.json")
    assert found["cgroupRoot"] == f"/{NODE.cgroup}"
    assert found["failSwapOn"] is False
    assert found["failCgroupV1"] is False
    assert found["featureGates"] == {"KubeletInUserNamespace": True}
    assert found["imageGCHighThresholdPercent"] == 100


def test_kube_proxy_leaves_the_table_of_connections_alone() -> None:
    """It is one for the machine: every setting of it is nought."""
    found = configuration("kube-proxy.json")["conntrack"]
    assert isinstance(found, dict)
    assert set(found.values()) == {0, "0s"}


def test_the_dns_is_where_the_pods_look_for_it() -> None:
    """The address is written in the kubelet's configuration and in the Service."""
    assert configuration("kubelet.json")["clusterDNS"] == [nodes.DNS]
    assert f"clusterIP: {nodes.DNS}" in COREDNS.read_text(encoding="utf-8")


def test_sockets_have_short_paths() -> None:
    """A user's folders may be long, and a socket's path has at most 107 bytes."""
    long = replace(NODE, folder=f"/{'x' * 200}", built=f"/{'y' * 200}")
    texts = [*nodes.files(long).values(), *(a for p in nodes.programs(long) for a in p.argv)]
    assert not [text for text in texts if "xxx" in text or "yyy" in text]
