"""Going back to an earlier release, and forgetting what a release has no more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.cluster.stage import describe

if TYPE_CHECKING:
    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster


def test_rollback_brings_an_earlier_release_back(deployed: Stage) -> None:
    """``deploy rollback`` runs what ran before, ``deploy rollback N`` what a release had.

    No request fails over it. Another deploy that is begun meanwhile is refused and disturbs
    nothing, and a release that is not there is refused before anything changes.
    """
    if deployed.history[-2:] not in (["one", "two"], ["two", "one"]):
        deployed.deploy(deployed.other)
    version, before = deployed.version, deployed.other
    (number,) = (n for n, state in deployed.releases().items() if state == "deployed")
    with deployed.load() as load:
        running = deployed.start("deploy", "rollback")
        time.sleep(6)
        other = deployed.deploy(version, code=3)
        done = running.wait(300)
    deployed.figures["rollback"] = {
        "rollback_s": round(done.seconds, 1),
        "load": load.all.figures(),
    }
    assert done.code == 0, done
    assert "under way" in other.out
    assert deployed.runs(before), done
    assert not load.all.failed, describe(load.all, deployed)
    releases = deployed.releases()
    refused = deployed.run("deploy", "rollback", "9999", code=None)
    assert refused.code in {2, 3}, refused
    assert "9999" in refused.out
    assert deployed.releases() == releases
    deployed.run("deploy", "rollback", str(number))
    assert deployed.runs(version)


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
        version = deployed.version
        deployed.deploy(version, "--overlay", folder)
        assert deployed.get("configmap", "extra")["data"] == {"a": "1"}
        done = deployed.deploy(version)
        names = {each["metadata"]["name"] for each in deployed.get("configmaps")["items"]}
        assert "extra" not in names, done
        assert "of-others" in names
    finally:
        deployed.kubectl(
            "delete", "configmap", "of-others", "--namespace", deployed.namespace, check=False
        )


def test_diff_tells_what_a_deploy_would_change_and_changes_nothing(deployed: Stage) -> None:
    """The two digests are shown, and the pods are the same ones afterwards."""
    before, version = {pod["metadata"]["uid"] for pod in deployed.pods()}, deployed.version
    report = str(deployed.report(deployed.other))
    done = deployed.run("deploy", "diff", "--images", report, code=None)
    for digest in (*deployed.digests("one").values(), *deployed.digests("two").values()):
        assert digest in done.out
    assert {pod["metadata"]["uid"] for pod in deployed.pods()} == before
    assert deployed.runs(version)


def test_field_of_another_manager_is_shown_and_not_taken(deployed: Stage) -> None:
    """Somebody who set a field by hand is named, and the deploy does not win by force."""
    other, version = "--field-manager=somebody", deployed.version
    deployed.kubectl(
        *("patch", "deployment", "slipway-api", "--namespace", deployed.namespace, other),
        *("--type=merge", "--patch", '{"spec":{"minReadySeconds":3}}'),
    )
    try:
        done = deployed.deploy(deployed.other, code=None)
        assert done.code in {1, 3}, done
        assert "somebody" in done.out
        assert "minReadySeconds" in done.out
        assert deployed.get("deployment", "slipway-api")["spec"]["minReadySeconds"] == 3
        assert deployed.runs(version)
    finally:
        deployed.kubectl(
            *("patch", "deployment", "slipway-api", "--namespace", deployed.namespace),
            *("--field-manager=somebody", "--type=merge"),
            *("--patch", '{"spec":{"minReadySeconds":1}}'),
        )
