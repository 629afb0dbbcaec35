"""Releases that cannot work are taken back, and who asks meanwhile is served by the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.stage import API, NGINX, RATE, TIMEOUT, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.stage import Done, Stage

pytestmark = pytest.mark.cluster

LIMIT = 2 * TIMEOUT
"""Seconds for a deploy that fails and takes itself back."""


def broken_image(stage: Stage) -> Done:
    """Deploy an API that ends as soon as it starts."""
    return stage.deploy("broken", code=1)


def failing_readiness(stage: Stage) -> Done:
    """Deploy an API whose readiness probe asks for what is not there."""
    probe = {"httpGet": {"path": "/no-such-page", "port": "http"}}
    return _with(stage, "unready", API, {"readinessProbe": probe}, deadline=25)


def absent_image(stage: Stage) -> Done:
    """Deploy an API with an init container whose image is on no registry.

    An image of the release itself that is missing is refused before anything changes.
    """
    reference = f"{stage.address}/slipway-nobody@sha256:{'0' * 63}1"
    init = {
        "name": "early",
        "image": reference,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return _with(stage, "absent", API, {}, initContainers=[init])


def forbidden_context(stage: Stage) -> Done:
    """Deploy an Nginx that asks for rights which its namespace refuses."""
    privileged = {"privileged": True, "allowPrivilegeEscalation": True}
    return _with(stage, "privileged", NGINX, {"securityContext": privileged})


def _with(
    stage: Stage,
    name: str,
    workload: str,
    container: dict[str, Any],
    *,
    deadline: int = 60,
    **pod: object,
) -> Done:
    """Deploy the other version with something changed in the pods of a workload."""
    inner = workload.removeprefix("slipway-")
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": workload, "namespace": "slipway"},
        "spec": {
            "progressDeadlineSeconds": deadline,
            "template": {"spec": {"containers": [{"name": inner, **container}], **pod}},
        },
    }
    return stage.deploy(stage.other, "--overlay", stage.overlay(name, patch), code=1)


@pytest.mark.parametrize(
    ("name", "attempt", "reasons"),
    [
        ("a broken image", broken_image, ("the setting X is missing", "exit")),
        ("a failing readiness probe", failing_readiness, ("Readiness probe failed", "404")),
        ("an image that does not exist", absent_image, ("slipway-nobody", "not found")),
        ("a forbidden security context", forbidden_context, ("violates PodSecurity", "privileged")),
    ],
    ids=["crash", "readiness", "absent", "forbidden"],
)
def test_bad_release_is_taken_back_and_the_old_one_serves(
    deployed: Stage, name: str, attempt: Callable[[Stage], Done], reasons: tuple[str, ...]
) -> None:
    """Deploy fails within its limit with the pod's own reason; no request fails meanwhile."""
    version = deployed.version
    pods = {pod["metadata"]["uid"] for pod in deployed.pods()}
    with deployed.load() as load:
        done = attempt(deployed)
    deployed.figures.setdefault("bad releases", {})[name] = {
        "deploy_s": round(done.seconds, 1),
        "load": load.all.figures(),
    }
    for reason in reasons:
        assert reason.casefold() in done.out.casefold(), done
    assert done.seconds < LIMIT
    assert not load.all.failed, describe(load.all, deployed)
    assert len(load.all.items) > done.seconds * RATE * 0.9
    assert deployed.runs(version), done
    states = deployed.releases()
    assert states[max(states)] == "failed"
    assert list(states.values()).count("deployed") == 1
    # One pod of each kind at least was never touched; those that were had no need to be.
    assert pods & {pod["metadata"]["uid"] for pod in deployed.pods()}


def test_image_that_nobody_pushed_is_refused_before_anything_changes(deployed: Stage) -> None:
    """What is known to be missing is not tried: exit 3, and no release of it."""
    before, version = deployed.releases(), deployed.version
    done = deployed.deploy("absent", code=3)
    assert "slipway-api" in done.out
    assert deployed.releases() == before
    assert deployed.runs(version)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--overlay", "nowhere"), 2, "nowhere"),
        (("--context", "nobody"), 2, "nobody"),
        (("--overlay", "production"), 2, "--yes"),
    ],
    ids=["overlay", "context", "production"],
)
def test_bad_input_changes_nothing(
    deployed: Stage, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """One sentence with the remedy, and nothing in the cluster changed."""
    before, version = deployed.get("deployments")["items"], deployed.version
    done = deployed.deploy(deployed.other, *arguments, code=code)
    assert said in done.out
    after = deployed.get("deployments")["items"]
    assert [each["metadata"]["generation"] for each in after] == [
        each["metadata"]["generation"] for each in before
    ]
    assert deployed.runs(version)
