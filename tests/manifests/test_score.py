"""kube-score has nothing against what is rendered, but for the exceptions beside the objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import tools
from .objects import changed, name_of, of, one, pod_of, without

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .objects import Object

pytestmark = pytest.mark.cluster


def test_overlay_passes(overlay: list[Object], checks: Path) -> None:
    """No critical finding and no warning, the optional checks included."""
    assert tools.score(checks / "kube-score", overlay) == []


def test_each_exception_is_needed(overlay: list[Object], checks: Path) -> None:
    """An exception that is no longer one is taken away."""
    declared = []
    for each in of(overlay, "Deployment"):
        said = each["metadata"]["annotations"].pop("kube-score/ignore")
        declared += [f"{name_of(each)}: {check}" for check in said.split(",")]
    found = tools.score(checks / "kube-score", overlay)
    assert sorted({each.rpartition(": ")[0] for each in found}) == sorted(declared)


def remove_limits(objects: list[Object]) -> list[Object]:
    """Let the API take what it can get."""
    del pod_of(one(objects, "Deployment", "slipway-api"))["containers"][0]["resources"]["limits"]
    return objects


def add_replicas(objects: list[Object]) -> list[Object]:
    """Let each apply set the number of pods back."""
    one(objects, "Deployment", "slipway-api")["spec"]["replicas"] = 2
    return objects


def remove_budget(objects: list[Object]) -> list[Object]:
    """Let a drain take all pods at once."""
    return without(objects, "PodDisruptionBudget", "slipway-api")


def remove_policies(objects: list[Object]) -> list[Object]:
    """Let everybody in."""
    return [each for each in objects if each["kind"] != "NetworkPolicy"]


def name_by_tag(objects: list[Object]) -> list[Object]:
    """Name the image by no digest."""
    container = pod_of(one(objects, "Deployment", "slipway-api"))["containers"][0]
    container["image"] = "registry.example/slipway-api:latest"
    return objects


@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        (remove_limits, "container-resources"),
        (add_replicas, "deployment-targeted-by-hpa-does-not-have-replicas-configured"),
        (remove_budget, "deployment-has-poddisruptionbudget"),
        (remove_policies, "pod-networkpolicy"),
        (name_by_tag, "container-image-tag"),
    ],
)
def test_mistake_is_noticed(
    mistake: Callable[[list[Object]], list[Object]],
    check: str,
    rendered: dict[str, list[Object]],
    checks: Path,
) -> None:
    """It is not a check that cannot fail."""
    objects = mistake(changed(rendered["minikube"]))
    found = tools.score(checks / "kube-score", objects)
    assert any(each.startswith(f"slipway-api: {check}: ") for each in found), found
