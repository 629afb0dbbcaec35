"""Who can reach whom, computed from the rendered policies and compared with a full table.

cyclonus evaluates the policies as the Kubernetes API defines them. What it cannot know is whether a
cluster's CNI enforces them: see docs/manifests.md. Traffic between a node and its own pods, probes
among it, is always let through by definition, and is not in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import tools
from .objects import K8S, OVERLAYS, changed, labels_of, name_of, of, one
from .tools import Connection, Peer, allowed

if TYPE_CHECKING:
    from pathlib import Path

    from .objects import Object

pytestmark = pytest.mark.cluster

SOURCES = (
    "the internet",
    "an ingress controller",
    "a pod elsewhere",
    "Prometheus",
    "another in monitoring",
    "Prometheus elsewhere",
    "Nginx",
    "the API",
    "another in slipway",
)
DESTINATIONS = (
    ("Nginx", 8080, "TCP"),
    ("Nginx", 9000, "TCP"),
    ("the API", 8000, "TCP"),
    ("the API", 9000, "TCP"),
    ("another in slipway", 8000, "TCP"),
    ("the cluster's DNS", 53, "UDP"),
    ("the cluster's DNS", 53, "TCP"),
    ("the cluster's DNS", 8080, "TCP"),
    ("another in kube-system", 53, "UDP"),
    ("a control plane", 443, "TCP"),
    ("a control plane", 6443, "TCP"),
    ("a control plane", 8443, "TCP"),
    ("a control plane", 2379, "TCP"),
    ("a pod elsewhere", 8000, "TCP"),
    ("a pod elsewhere", 443, "TCP"),
    ("the internet", 443, "TCP"),
    ("the internet", 53, "UDP"),
)

# A row a source, a column a destination, in the order of both lists above. X: it gets through.
TABLE = """
                        Nginx      API       another DNS              other control plane            pod       internet
                        8080 9000  8000 9000 8000    53u  53t  8080   53u   443  6443 8443 2379      8000 443  443  53u
the internet            X    .     .    .    .       X    X    X      X     X    X    X    X         X    X    X    X
an ingress controller   X    .     .    .    .       X    X    X      X     X    X    X    X         X    X    X    X
a pod elsewhere         X    .     .    .    .       X    X    X      X     X    X    X    X         X    X    X    X
Prometheus              X    .     X    .    .       X    X    X      X     X    X    X    X         X    X    X    X
another in monitoring   X    .     .    .    .       X    X    X      X     X    X    X    X         X    X    X    X
Prometheus elsewhere    X    .     .    .    .       X    X    X      X     X    X    X    X         X    X    X    X
Nginx                   .    .     X    .    .       X    X    .      .     .    .    .    .         .    .    .    .
the API                 .    .     .    .    .       X    X    .      .     X    X    X    .         .    X    .    .
another in slipway      .    .     .    .    .       .    .    .      .     .    .    .    .         .    .    .    .
"""  # noqa: E501 - a table
"""What is not ours may reach what is not ours: the policies say nothing of it."""


def peers(objects: list[Object]) -> dict[str, Peer]:
    """Return everybody in the table, our pods with the labels that they are deployed with."""
    ours = {
        name: tuple(labels_of(one(objects, "Deployment", name)).items())
        for name in ("slipway-api", "slipway-nginx")
    }
    prometheus = (("app.kubernetes.io/name", "prometheus"),)
    return {
        "the internet": Peer("203.0.113.7"),
        "a control plane": Peer("192.168.49.2"),
        "an ingress controller": Peer("10.244.0.2", "ingress-nginx"),
        "a pod elsewhere": Peer("10.244.0.3", "default", ours["slipway-nginx"]),
        "Prometheus": Peer("10.244.0.4", "monitoring", prometheus),
        "another in monitoring": Peer("10.244.0.5", "monitoring"),
        "Prometheus elsewhere": Peer("10.244.0.6", "default", prometheus),
        "Nginx": Peer("10.244.0.7", "slipway", ours["slipway-nginx"]),
        "the API": Peer("10.244.0.8", "slipway", ours["slipway-api"]),
        "another in slipway": Peer("10.244.0.9", "slipway", (("job", "by-hand"),)),
        "the cluster's DNS": Peer("10.244.0.10", "kube-system", (("k8s-app", "kube-dns"),)),
        "another in kube-system": Peer("10.244.0.11", "kube-system"),
    }


def rows(text: str) -> list[list[bool]]:
    """Return the verdicts of a table, row by row."""
    lines = text.strip("\n").splitlines()[2:]
    assert [line[:24].strip() for line in lines] == list(SOURCES)
    return [[cell == "X" for cell in line[24:].split()] for line in lines]


def reach(
    cyclonus: Path, objects: list[Object], policies: list[Object], scratch: Path
) -> list[list[bool]]:
    """Return the table as it is."""
    known = peers(objects)
    asked = [
        Connection(known[source], known[destination], port, protocol)
        for source in SOURCES
        for destination, port, protocol in DESTINATIONS
    ]
    verdicts = allowed(cyclonus, policies, asked, scratch)
    width = len(DESTINATIONS)
    return [verdicts[start : start + width] for start in range(0, len(verdicts), width)]


@pytest.fixture
def cyclonus(checks: Path) -> Path:
    """Return the program."""
    return checks / "cyclonus"


@pytest.mark.parametrize("name", OVERLAYS)
def test_who_can_reach_whom(
    name: str, rendered: dict[str, list[Object]], cyclonus: Path, tmp_path: Path
) -> None:
    """In every overlay: outside → Nginx → API → Kubernetes API, DNS for both, the scraper → API."""
    objects = rendered[name]
    assert reach(cyclonus, objects, of(objects, "NetworkPolicy"), tmp_path) == rows(TABLE)


def lessened(policies: list[Object]) -> dict[str, list[Object]]:
    """Return the policies less one thing, for each thing that they consist of."""
    made = {}
    for index, policy in enumerate(policies):
        name = name_of(policy)
        made[name] = [each for each in changed(policies) if name_of(each) != name]
        for way, peers_of in (("ingress", "from"), ("egress", "to")):
            for place, rule in enumerate(policy["spec"].get(way, ())):
                made[f"{name} {way} {place}"] = less = changed(policies)
                del less[index]["spec"][way][place]
                for part in (peers_of, "ports"):
                    for number in range(len(rule.get(part, ()))):
                        key = f"{name} {way} {place} {part} {number}"
                        made[key] = less = changed(policies)
                        del less[index]["spec"][way][place][part][number]
    return made


def test_nothing_can_be_taken_away(
    rendered: dict[str, list[Object]], cyclonus: Path, tmp_path: Path
) -> None:
    """Without any one policy, rule, peer or port the table is another: each is needed, and seen.

    But for the ranges of addresses that nobody in the table has: they stand for control planes
    and are in the next test; and the port that Nginx may reach the API at, which the API says
    itself.
    """
    objects = rendered["minikube"]
    whole = rows(TABLE)
    known = {f"slipway-api egress 0 to {number}" for number in (1, 3, 4)}
    known.add("slipway-nginx egress 0 ports 0")
    same = {
        what
        for what, policies in lessened(of(objects, "NetworkPolicy")).items()
        if reach(cyclonus, objects, policies, tmp_path) == whole
    }
    assert same == known


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("10.0.0.1", 443, True),
        ("172.31.255.1", 6443, True),
        ("192.168.49.2", 8443, True),
        ("100.64.0.1", 443, True),
        ("fd00::1", 6443, True),
        ("172.32.0.1", 443, False),
        ("100.128.0.1", 443, False),
        ("2001:db8::1", 443, False),
        ("10.0.0.1", 80, False),
        ("169.254.169.254", 80, False),
        ("169.254.169.254", 443, False),
    ],
)
def test_where_the_api_finds_a_control_plane(  # noqa: PLR0913, PLR0917 - three of them are one case
    address: str,
    port: int,
    expected: bool,  # noqa: FBT001 - a verdict
    rendered: dict[str, list[Object]],
    cyclonus: Path,
    tmp_path: Path,
) -> None:
    """In the private ranges, at its ports; not at a public address, nor at a cloud's metadata."""
    objects = rendered["minikube"]
    asked = [Connection(peers(objects)["the API"], Peer(address), port)]
    assert allowed(cyclonus, of(objects, "NetworkPolicy"), asked, tmp_path) == [expected]


def test_component_opens_it_for_the_api_alone(
    kubectl: Path, cyclonus: Path, tmp_path: Path
) -> None:
    """With kubernetes-api-anywhere, a public control plane is reached, and by nobody else."""
    component = K8S / "components/kubernetes-api-anywhere"
    objects = tools.rendered(kubectl, OVERLAYS["minikube"], components=(component,))
    known = peers(objects)
    asked = [
        Connection(known[source], known["the internet"], port)
        for source in ("the API", "Nginx")
        for port in (443, 6443, 80)
    ]
    policies = of(objects, "NetworkPolicy")
    assert allowed(cyclonus, policies, asked, tmp_path) == [True, True, False, False, False, False]
