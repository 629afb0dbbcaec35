"""What is rendered, overlay by overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import tools
from .objects import BASE, K8S, OVERLAYS, load, name_of, of, one, pod_of
from .rules import RULES
from .test_schemas import MINORS, validate

if TYPE_CHECKING:
    from pathlib import Path

    from .objects import Object

pytestmark = pytest.mark.cluster

LONG = ("minikube", "production")


@pytest.mark.parametrize("rule", RULES)
def test_overlay_obeys(rule: str, overlay: list[Object]) -> None:
    """What holds for the base holds for what is made of it."""
    assert RULES[rule](overlay) == []


def test_overlay_has_what_the_base_has(overlay: list[Object]) -> None:
    """An overlay takes nothing away."""
    wanted = {(each["kind"], name_of(each)) for each in load(BASE)}
    assert wanted <= {(each["kind"], name_of(each)) for each in overlay}


def test_everything_is_in_the_namespace_and_labelled(overlay: list[Object]) -> None:
    """The deploy step finds what is ours by the label; nothing is in another namespace."""
    for each in overlay:
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "slipway", each
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "slipway", each
    for binding in of(overlay, "RoleBinding"):
        assert [each["namespace"] for each in binding["subjects"]] == ["slipway"]


def test_images_are_named_by_digest(overlay: list[Object]) -> None:
    """The names in the manifests are those that the deploy step sets."""
    images = {
        container["name"]: container["image"]
        for each in of(overlay, "Deployment")
        for container in pod_of(each)["containers"]
    }
    assert images == {
        "api": f"registry.example/slipway-api@sha256:{'5' * 64}",
        "nginx": f"registry.example/slipway-nginx@sha256:{'6' * 64}",
    }


def test_production_asks_for_more(rendered: dict[str, list[Object]]) -> None:
    """More replicas, two that always serve, nodes of their own, TLS in front."""
    objects, base = rendered["production"], rendered["minikube"]
    for name in tools.WORKLOADS:
        more, less = (one(each, "ScaledObject", name)["spec"] for each in (objects, base))
        assert more["minReplicaCount"] > less["minReplicaCount"]
        assert more["maxReplicaCount"] > less["maxReplicaCount"]
        assert one(objects, "PodDisruptionBudget", name)["spec"]["minAvailable"] == 2
        spread = pod_of(one(objects, "Deployment", name))["topologySpreadConstraints"]
        assert [each["whenUnsatisfiable"] for each in spread] == ["DoNotSchedule", "ScheduleAnyway"]
    (ingress,) = of(objects, "Ingress")
    hosts = [rule["host"] for rule in ingress["spec"]["rules"]]
    assert [each["hosts"] for each in ingress["spec"]["tls"]] == [hosts]
    assert not of(base, "Ingress")


@pytest.mark.parametrize("name", tools.WORKLOADS)
def test_windows_are_short_in_tests_and_calm_elsewhere(
    name: str, rendered: dict[str, list[Object]]
) -> None:
    """What differs in the overlay of the tests is time and number; the rest is what is shipped.

    The rate limit is such a number: all of the load comes from one client.
    """
    behavior = {
        key: one(objects, "ScaledObject", name)["spec"]["advanced"][
            "horizontalPodAutoscalerConfig"
        ]["behavior"]
        for key, objects in rendered.items()
    }
    for each in behavior.values():
        assert each["scaleUp"]["stabilizationWindowSeconds"] == 0
    calm = {key: each["scaleDown"]["stabilizationWindowSeconds"] for key, each in behavior.items()}
    assert calm["test"] <= 15
    assert all(calm[key] >= 60 for key in LONG)
    shipped, tested = (
        pod_of(one(rendered[key], "Deployment", name)) for key in ("minikube", "test")
    )
    for pod in (shipped, tested):
        (container,) = pod["containers"]
        del container["readinessProbe"]["periodSeconds"]
        container["env"] = [each for each in container["env"] if "RATE_" not in each["name"]]
    assert shipped == tested


def test_another_namespace_takes_everything_along(
    kubectl: Path, rendered: dict[str, list[Object]]
) -> None:
    """With the namespace changed, nothing says the old one."""
    objects = tools.rendered(kubectl, OVERLAYS["minikube"], "other")
    assert len(objects) == len(rendered["minikube"])
    assert name_of(of(objects, "Namespace")[0]) == "other"
    assert {each["metadata"].get("namespace", "other") for each in objects} == {"other"}
    assert {s["namespace"] for each in of(objects, "RoleBinding") for s in each["subjects"]} == {
        "other"
    }


def test_all_components_at_once_obey(kubectl: Path) -> None:
    """Whatever is added to the base, all that holds for it still does."""
    components = sorted((K8S / "components").iterdir())
    objects = tools.rendered(kubectl, OVERLAYS["minikube"], "other", components)
    assert {name: rule(objects) for name, rule in RULES.items()} == {name: [] for name in RULES}
    for minor in MINORS:
        validate(objects, minor)
    for each in objects:
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "slipway", each
        assert each["metadata"].get("namespace", "other") == "other", each


def test_component_brings_the_files_as_they_are(kubectl: Path) -> None:
    """Under names that stay, since others name them, and with what Grafana's sidecar looks for."""
    folders = [K8S / "components" / name for name in ("monitoring", "logging")]
    objects = tools.rendered(kubectl, OVERLAYS["minikube"], components=folders)
    data = {name_of(each): each["data"] for each in of(objects, "ConfigMap")}
    files = {path.name: path.read_text() for folder in folders for path in folder.iterdir()}
    assert {name: list(each) for name, each in data.items()} == {
        "slipway-rules": ["slipway.rules.yml"],
        "slipway-dashboard": ["dashboard.json"],
        "slipway-filebeat": ["filebeat.yml", "index-template.json"],
    }
    assert all(files[name] == text for each in data.values() for name, text in each.items())
    dashboard = one(objects, "ConfigMap", "slipway-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_production_has_the_monitoring(rendered: dict[str, list[Object]]) -> None:
    """It alone: whether somebody is called about a laptop is for that laptop's owner."""
    there = {key for key, objects in rendered.items() if of(objects, "ConfigMap")}
    assert there == {"production"}


def test_component_opens_the_way_to_a_public_kubernetes_api(kubectl: Path) -> None:
    """With it, the addresses are gone and the ports are not."""
    component = K8S / "components/kubernetes-api-anywhere"
    objects = tools.rendered(kubectl, BASE, components=(component,))
    (egress,) = one(objects, "NetworkPolicy", "slipway-api")["spec"]["egress"]
    assert set(egress) == {"ports"}
    assert [each["port"] for each in egress["ports"]] == [443, 6443, 8443]
