"""Removing the system."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.scenarios.conftest import at_rest
from tests.cluster.stage import API

if TYPE_CHECKING:
    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster


def everything(stage: Stage) -> set[tuple[str, str, str]]:
    """Return kind, namespace and name of every object that does not come and go by itself."""
    kinds = stage.kubectl("api-resources", "--verbs=list", "--output=name").split()
    passing = {"events", "events.events.k8s.io", "leases.coordination.k8s.io"}
    measured = {kind for kind in kinds if kind.endswith((".metrics.k8s.io", ".metrics.keda.sh"))}
    named = ",".join(kind for kind in kinds if kind not in passing | measured)
    items = json.loads(stage.kubectl("get", named, "--all-namespaces", "--output=json"))["items"]
    return {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
        for each in items
    }


def test_remove_leaves_nothing(stage: Stage) -> None:
    """No object of ours is left, no record, and not the namespace that deploy made."""
    at_rest(stage)
    namespace = ("Namespace", "", stage.namespace)
    before = everything(stage)
    assert namespace in before
    assert ("Deployment", stage.namespace, API) in before
    done = stage.run("deploy", "remove")
    left = everything(stage)
    assert namespace not in left, done
    assert not {each for each in left if each[1] == stage.namespace}, done
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
