"""The rules hold for the base, and each of them notices what it is there for.

The base is read from its files, which needs neither kubectl nor Go; `test_overlays.py` holds the
same rules for what is rendered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from .objects import BASE, changed, load, of, one, pod_of, without
from .rules import RULES, quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from .objects import Object


class Mutation(NamedTuple):
    """A mistake, and the rule that has to notice it.

    Attributes:
        rule: Its name.
        says: What its complaint has in it.
        make: Makes the mistake in a copy of the objects, and returns them.
    """

    rule: str
    says: str
    make: Callable[[list[Object]], list[Object]]


def at(kind: str, name: str, path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what sets a value in an object; None removes it. A path is keys with dots between."""
    *parents, last = path.split("/")

    def make(objects: list[Object]) -> list[Object]:
        place = one(objects, kind, name)
        for key in parents:
            place = place[int(key)] if key.isdigit() else place[key]  # type: ignore[index]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return objects

    return make


POD = "spec/template/spec"


def deployment(path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what changes the API's Deployment, within its spec."""
    return at("Deployment", "slipway-api", f"spec/{path}", value)


def pod(path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what changes the API's pod, within its spec."""
    return deployment(f"template/spec/{path}", value)


def container(path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what changes the API's container."""
    return pod(f"containers/0/{path}", value)


def scaled(path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what changes the API's ScaledObject, within its spec."""
    return at("ScaledObject", "slipway-api", f"spec/{path}", value)


def role(path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what changes the API's Role."""
    return at("Role", "slipway-api", path, value)


def service(path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what changes the API's Service, within its spec."""
    return at("Service", "slipway-api", f"spec/{path}", value)


def budget(path: str, value: object) -> Callable[[list[Object]], list[Object]]:
    """Return what changes the API's PodDisruptionBudget, within its spec."""
    return at("PodDisruptionBudget", "slipway-api", f"spec/{path}", value)


def loses(kind: str, name: str) -> Callable[[list[Object]], list[Object]]:
    """Return what removes an object."""
    return lambda objects: without(objects, kind, name)


def twice(objects: list[Object]) -> list[Object]:
    """Add a second ScaledObject for the API."""
    (copy,) = changed([one(objects, "ScaledObject", "slipway-api")])
    copy["metadata"]["name"] = "again"
    return [*objects, copy]


def sidecar(objects: list[Object]) -> list[Object]:
    """Add a container that requests nothing."""
    pod_of(one(objects, "Deployment", "slipway-api"))["containers"].append({"name": "log"})
    return objects


def cluster_wide(objects: list[Object]) -> list[Object]:
    """Add a ClusterRole."""
    return [*objects, {"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": []}]


MUTATIONS = [
    Mutation("keda", "has replicas", deployment("replicas", 2)),
    Mutation("keda", "minReplicaCount 0", scaled("minReplicaCount", 0)),
    Mutation("keda", "minReplicaCount 0", scaled("minReplicaCount", None)),
    Mutation("keda", "maxReplicaCount 1", scaled("maxReplicaCount", 1)),
    Mutation("keda", "metadata.type", scaled("triggers/0/metadata/type", "Utilization")),
    Mutation("keda", "not a number in a string", scaled("triggers/0/metadata/value", 60)),
    Mutation("keda", "metricType", scaled("triggers/0/metricType", None)),
    Mutation("keda", "is not there", scaled("scaleTargetRef/name", "other")),
    Mutation("keda", "is scaled twice", twice),
    Mutation("keda", "requests no CPU", sidecar),
    Mutation("keda", "scaled by nothing", loses("ScaledObject", "slipway-nginx")),
    Mutation("rollout", "maxUnavailable", deployment("strategy/rollingUpdate/maxUnavailable", 1)),
    Mutation("rollout", "minReadySeconds", deployment("minReadySeconds", None)),
    Mutation("rollout", "progressDeadline", deployment("progressDeadlineSeconds", None)),
    Mutation("rollout", "is not spread", pod("topologySpreadConstraints", [])),
    Mutation("rollout", "no startupProbe", container("startupProbe", None)),
    Mutation("rollout", "no livenessProbe", container("livenessProbe", None)),
    Mutation("rollout", "no readinessProbe", container("readinessProbe", None)),
    Mutation("rollout", "no preStop", container("lifecycle/preStop", {})),
    Mutation("rollout", "too short", pod("terminationGracePeriodSeconds", 12)),
    Mutation("hardening", "never as root", pod("securityContext/runAsNonRoot", value=False)),
    Mutation("hardening", "never as root", pod("securityContext/runAsUser", 0)),
    Mutation("hardening", "seccomp", pod("securityContext/seccompProfile", None)),
    Mutation("hardening", "variables of Services", pod("enableServiceLinks", None)),
    Mutation("hardening", "of its host", pod("hostNetwork", value=True)),
    Mutation("hardening", "no emptyDir", pod("volumes/0/emptyDir", {})),
    Mutation("hardening", "no emptyDir", pod("volumes", [{"name": "x", "hostPath": {}}])),
    Mutation(
        "hardening",
        "gain privileges",
        container("securityContext/allowPrivilegeEscalation", None),
    ),
    Mutation(
        "hardening", "write to its root", container("securityContext/readOnlyRootFilesystem", None)
    ),
    Mutation("hardening", "keeps capabilities", container("securityContext/capabilities", None)),
    Mutation("hardening", "overrides its pod", container("securityContext/runAsUser", 0)),
    Mutation("hardening", "no /tmp", container("volumeMounts", [])),
    Mutation("hardening", "limits of memory", container("resources/limits/memory", None)),
    Mutation("hardening", "may gain privileges", sidecar),
    Mutation(
        "hardening",
        "does not enforce",
        at("Namespace", "slipway", "metadata/labels", {}),
    ),
    Mutation("hardening", "not one Namespace", loses("Namespace", "slipway")),
    Mutation("tokens", "mounts its token everywhere", at(
        "ServiceAccount", "slipway-nginx", "automountServiceAccountToken", None)),
    Mutation("tokens", "no ServiceAccount of its own", pod("serviceAccountName", "default")),
    Mutation("tokens", "lacks the one it needs", pod("automountServiceAccountToken", None)),
    Mutation("tokens", "no use for", at(
        "Deployment", "slipway-nginx", f"{POD}/automountServiceAccountToken", value=True)),
    Mutation("rights", "other than get, list", role("rules/0/verbs", ["*"])),
    Mutation("rights", "other than get, list", role("rules/0/resources", ["pods", "secrets"])),
    Mutation("rights", "other than get, list", loses("Role", "slipway-api")),
    Mutation("rights", "bound to something other", at(
        "RoleBinding", "slipway-api", "subjects/0/name", "default")),
    Mutation("rights", "whole cluster", cluster_wide),
    Mutation("references", "Service slipway-api", service("selector", {"app": "other"})),
    Mutation("references", "Service slipway-api", service(
        "selector", {"app.kubernetes.io/part-of": "slipway"})),
    Mutation("references", "leads nowhere", service("ports/0/targetPort", "metrics")),
    Mutation("references", "another type", service("type", "LoadBalancer")),
    Mutation("references", "no PodDisruptionBudget", loses("PodDisruptionBudget", "slipway-api")),
    Mutation("references", "no PodDisruptionBudget", budget("selector/matchLabels", {})),
    Mutation("references", "its own pods", deployment("selector/matchLabels", {"app": "other"})),
    Mutation("references", "something else", pod(
        "topologySpreadConstraints/0/labelSelector/matchLabels", {"app": "other"})),
    Mutation("budgets", "none may ever be evicted", budget("maxUnavailable", 0)),
    Mutation("budgets", "none may ever be evicted", budget("minAvailable", 2)),
    Mutation("budgets", "not ready", budget("unhealthyPodEvictionPolicy", None)),
    Mutation("quota", "of pods", scaled("maxReplicaCount", 20)),
    Mutation("quota", "of requests.cpu", container("resources/requests/cpu", "1")),
    Mutation("quota", "of limits.memory", container("resources/limits/memory", "2Gi")),
    Mutation("limits", "out of order", container("resources/limits/cpu", "4")),
    Mutation("limits", "out of order", container("resources/requests/memory", "512Mi")),
]  # fmt: skip


@pytest.fixture
def base() -> list[Object]:
    """Return the objects of the base, with the label that its kustomization puts on the pods."""
    objects = load(BASE)
    for each in of(objects, "Deployment"):
        each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] = "slipway"
    return objects


@pytest.mark.parametrize("rule", RULES)
def test_base_obeys(rule: str, base: list[Object]) -> None:
    """The base gives no rule a reason to complain."""
    assert RULES[rule](base) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.rule}: {each.says}")
def test_rule_notices(mutation: Mutation, base: list[Object]) -> None:
    """A rule complains of each mistake that it is there for."""
    complaints = RULES[mutation.rule](mutation.make(base))
    assert any(mutation.says in each for each in complaints), complaints


def test_each_rule_has_a_mutation() -> None:
    """No rule is one that cannot fail."""
    assert {each.rule for each in MUTATIONS} == set(RULES)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2", 2), (3, 3), ("100m", 0.1), ("64Mi", 64 * 2**20), ("1Gi", 2**30), ("4Ki", 4096)],
)
def test_quantity(text: object, amount: float) -> None:
    """A quantity is read as Kubernetes reads it."""
    assert quantity(text) == pytest.approx(amount)


def test_quantity_refuses_what_it_does_not_know() -> None:
    """A form that the manifests do not use is refused, and not taken for a number."""
    with pytest.raises(ValueError, match="no quantity"):
        quantity("1e3")
