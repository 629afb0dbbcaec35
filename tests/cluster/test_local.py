"""The local cluster on a real machine: it begins, survives, and ends without a trace."""

from __future__ import annotations

import re
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.cluster import versions
from pipeline.cluster.local.node import ADDRESS
from tests.cluster import node as nodes

if TYPE_CHECKING:
    from tests.cluster.node import OwnCluster

pytestmark = pytest.mark.cluster

START_LIMIT = 60.0
"""Seconds within which a cluster serves once everything is built."""
AGAIN_LIMIT = 10.0
LATE = "10.96.255.254"
"""The address of a Service that is made after a connection to it was begun."""


def test_a_cluster_ends_without_a_trace(own: OwnCluster) -> None:
    """No process, mount, interface, route, rule, control group or file of it is left."""
    before = nodes.machine()
    up = own.run("up")
    said = re.search(r"Kubernetes serves after (\d+) s", up.stdout)
    assert said is not None, up.stdout
    assert float(said[1]) <= START_LIMIT
    during = nodes.machine()
    namespaces = own.namespaces()
    assert nodes.processes_in(namespaces)
    assert {path.rpartition("/")[2] for path in during.groups - before.groups} == {own.node.cgroup}
    # Even while it runs, there is nothing but its control groups.
    assert during.rules <= before.rules
    assert during.routes <= before.routes
    assert during.settings == before.settings
    assert during.places <= before.places
    port = own.record()["port"]
    own.run("down")
    after = nodes.machine()
    assert nodes.processes_in(namespaces) == []
    assert after.interfaces <= before.interfaces
    assert after.mounts <= before.mounts
    assert after.rules <= before.rules
    assert after.groups <= before.groups
    assert after.places <= before.places
    assert after.settings == before.settings
    assert not own.state.exists()
    assert not (own.folder / "kubeconfig").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_a_cluster_serves(own: OwnCluster) -> None:
    """Of the version that it says, with Services and names; and nothing leads out of it."""
    own.run("up")
    version = own.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo}")
    assert f'"kubeletVersion":"v{versions.KUBERNETES}"' in version
    nodes.until(lambda: own.resolve("kubernetes.default.svc.cluster.local") == (0, "10.96.0.1"))
    assert own.resolve("example.org") == (nodes.NOT_FOUND, "")
    began = time.monotonic()
    again = own.run("up")
    assert time.monotonic() - began < AGAIN_LIMIT
    assert "is up already" in again.stdout
    assert own.run("status").stdout.startswith("Local cluster: up, Kubernetes v")


def test_a_connection_does_not_miss_the_moment_in_which_its_service_comes(
    own: OwnCluster,
) -> None:
    """One that was begun while nobody translated the address is translated with its next packet."""
    own.run("up")
    # First where it is and then what it is called: kube-proxy refuses a Service that has nobody.
    # It is the API server, which is the one that listens in a cluster without pods.
    number = 6443
    port = {"name": "https", "port": number, "protocol": "TCP"}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "late", "labels": {"kubernetes.io/service-name": "late"}},
        "addressType": "IPv4",
        "ports": [port],
        "endpoints": [{"addresses": [ADDRESS]}],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "late"},
        "spec": {"clusterIP": LATE, "ports": [port]},
    }
    own.create(endpoints)
    with own.connecting(LATE, number) as outcome:
        own.create(service)
        assert outcome() == nodes.CONNECTED


def test_after_a_crash_it_comes_back_with_what_was_in_it(own: OwnCluster) -> None:
    """Whether its first process was killed or its keeper; and a status says that it is down."""
    own.run("up")
    own.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    for who in ("node", "keeper"):
        namespaces = own.namespaces()
        own.kill(who)
        nodes.until_none_in(namespaces)
        assert own.run("status", code=1).stdout.startswith("Local cluster: down")
        own.run("up")
        assert own.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"
        own.kubectl("wait", "--for=condition=Ready", "node/slipway-local", "--timeout=60s")
        nodes.until(lambda: own.resolve("kubernetes.default.svc.cluster.local") == (0, "10.96.0.1"))


def test_after_a_crash_it_can_be_taken_down(own: OwnCluster) -> None:
    """However it ended, nothing is left."""
    before = nodes.machine()
    own.run("up")
    namespaces = own.namespaces()
    own.kill("keeper")
    own.run("down")
    after = nodes.machine()
    assert nodes.processes_in(namespaces) == []
    assert after.groups <= before.groups
    assert after.interfaces <= before.interfaces
    assert not own.state.exists()


def test_without_its_record_it_is_taken_down_all_the_same(own: OwnCluster) -> None:
    """Its keeper is known by the lock that it holds."""
    own.run("up")
    namespaces = own.namespaces()
    (own.state / "keeper.json").unlink()
    own.run("down")
    assert nodes.processes_in(namespaces) == []
    assert not own.state.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_stopped_leaves_nothing_running(
    own: OwnCluster, number: signal.Signals
) -> None:
    """The programs end with the command; what they wrote is taken up or removed later."""
    own.run("up")
    own.run("down")
    before = nodes.machine()
    with own.start("up") as process:
        nodes.until((own.state / "log" / "kube-apiserver.log").exists, 60)
        namespaces = own.namespaces()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert nodes.processes_in(namespaces) == []
    assert nodes.machine().groups <= before.groups
