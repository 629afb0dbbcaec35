"""Removing the system."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.scenarios.conftest import at_rest

if TYPE_CHECKING:
    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster


def everything(stage: Stage) -> set[str]:
    """Return the name of every object in the cluster that comes and goes with nothing else."""
    kinds = stage.kubectl("api-resources", "--verbs=list", "--output=name").split()
    passing = {"events", "events.events.k8s.io", "leases.coordination.k8s.io"}
    measured = {kind for kind in kinds if kind.endswith((".metrics.k8s.io", ".metrics.keda.sh"))}
    named = ",".join(kind for kind in kinds if kind not in passing | measured)
    items = json.loads(stage.kubectl("get", named, "--all-namespaces", "--output=json"))["items"]
    return {
        f"{each['kind']} {each['metadata'].get('namespace', '')}/{each['metadata']['name']}"
        for each in items
    }


def test_remove_leaves_nothing(stage: Stage) -> None:
    """No object of ours is left, no record, and not the namespace that deploy made."""
    at_rest(stage)
    before = everything(stage)
    assert f"Namespace /{stage.namespace}" in before
    done = stage.run("deploy", "remove")
    left = everything(stage)
    assert not {each for each in left if stage.namespace in each.split(" ")[1]}, done
    managed = json.loads(
        stage.kubectl(
            *("get", "clusterroles,clusterrolebindings,namespaces", "--output=json"),
            "--selector=app.kubernetes.io/managed-by=slipway",
        )
    )["items"]
    assert not [each for each in managed if each["metadata"]["name"].startswith(stage.namespace)], (
        managed
    )
    stage.figures["remove"] = {"remove_s": round(done.seconds, 1)}
    again = stage.run("deploy", "remove", code=None)
    assert again.code in {0, 3}, again
