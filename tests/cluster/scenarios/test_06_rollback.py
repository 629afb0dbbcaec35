"""Going back to an earlier release, and forgetting what a release has no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.scenarios.conftest import at_rest
from tests.cluster.stage import describe

if TYPE_CHECKING:
    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster


def test_rollback_brings_the_release_before_back(stage: Stage) -> None:
    """``deploy rollback`` runs what ran before, and no request fails over it."""
    at_rest(stage)
    stage.deploy("two")
    assert stage.runs("two")
    with stage.load() as load:
        done = stage.run("deploy", "rollback")
    assert stage.runs("one"), done
    assert not load.all.failed, describe(load.all, stage)
    stage.figures["rollback"] = {
        "rollback_s": round(done.seconds, 1),
        "load": load.all.figures(),
    }


def test_rollback_to_a_number_brings_that_release_back(stage: Stage) -> None:
    """``deploy rollback N`` takes the release of that number; one that is not there is refused."""
    at_rest(stage)
    number = max(n for n, state in stage.releases().items() if state == "deployed")
    stage.deploy("two")
    stage.run("deploy", "rollback", str(number))
    assert stage.runs("one")
    before = stage.releases()
    refused = stage.run("deploy", "rollback", "9999", code=None)
    assert refused.code in {2, 3}, refused
    assert "9999" in refused.out
    assert stage.releases() == before


def test_object_that_a_release_has_no_more_is_removed(deployed: Stage) -> None:
    """What an earlier release made and this one lacks goes; what others made stays."""
    extra = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extra", "namespace": "slipway"},
        "data": {"a": "1"},
    }
    folder = deployed.overlay("extra", resources=["extra.yaml"])
    deployed.write(folder, "extra.yaml", extra)
    deployed.kubectl(
        "create", "configmap", "of-others", "--namespace", deployed.namespace, "--from-literal=a=1"
    )
    try:
        deployed.deploy("one", "--overlay", folder)
        assert deployed.get("configmap", "extra")["data"] == {"a": "1"}
        done = deployed.deploy("one")
        names = {each["metadata"]["name"] for each in deployed.get("configmaps")["items"]}
        assert "extra" not in names, done
        assert "of-others" in names
    finally:
        deployed.kubectl(
            "delete", "configmap", "of-others", "--namespace", deployed.namespace, check=False
        )


def test_diff_tells_what_a_deploy_would_change_and_changes_nothing(deployed: Stage) -> None:
    """The two digests are shown, and the pods are the same ones afterwards."""
    before = {pod["metadata"]["uid"] for pod in deployed.pods()}
    done = deployed.run("deploy", "diff", "--images", str(deployed.report("two")), code=None)
    for digest in (*deployed.digests("one").values(), *deployed.digests("two").values()):
        assert digest in done.out
    assert {pod["metadata"]["uid"] for pod in deployed.pods()} == before
    assert deployed.runs("one")


def test_field_of_another_manager_is_shown_and_not_taken(deployed: Stage) -> None:
    """Somebody who set a field by hand is named, and the deploy does not win by force."""
    other = "--field-manager=somebody"
    deployed.kubectl(
        *("patch", "deployment", "slipway-api", "--namespace", deployed.namespace, other),
        *("--type=merge", "--patch", '{"spec":{"minReadySeconds":3}}'),
    )
    try:
        done = deployed.deploy("two", code=None)
        assert done.code in {1, 3}, done
        assert "somebody" in done.out
        assert "minReadySeconds" in done.out
        assert deployed.get("deployment", "slipway-api")["spec"]["minReadySeconds"] == 3
        assert deployed.runs("one")
    finally:
        deployed.kubectl(
            *("patch", "deployment", "slipway-api", "--namespace", deployed.namespace),
            *("--field-manager=somebody", "--type=merge"),
            *("--patch", '{"spec":{"minReadySeconds":1}}'),
        )
