"""The API server goes away during a deploy, and deploys are killed."""

from __future__ import annotations

import random
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.scenarios.conftest import at_rest
from tests.cluster.stage import WORKLOADS

if TYPE_CHECKING:
    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster

AWAY = 20.0
QUARTERS = ((0.05, 0.25), (0.25, 0.6), (0.6, 0.95))
"""The parts of a deploy's time in each of which one deploy is killed."""
KINDS = (
    "namespaces,resourcequotas,limitranges,networkpolicies,serviceaccounts,roles,rolebindings,"
    "services,poddisruptionbudgets,deployments,scaledobjects,configmaps,secrets,leases"
)


def test_deploy_survives_an_api_server_that_is_away(deployed: Stage) -> None:
    """With the API server gone for 20 s, a deploy ends well, or says so and can be run again."""
    running = deployed.start("deploy", "--images", str(deployed.report("two")))
    with deployed.load() as load:
        time.sleep(5)
        gone = time.monotonic()
        with deployed.without_api_server():
            time.sleep(AWAY)
        done = running.wait(300)
        time.sleep(5)
    deployed.figures["API server away for 20 s"] = {
        "exit_code": done.code,
        "deploy_s": round(done.seconds, 1),
        "load": load.all.figures(),
        "failed_from_s": [
            round(edge(each.due for each in load.all.failed) - gone, 1)
            for edge in (min, max)
            if load.all.failed
        ],
    }
    if done.code != 0:
        assert done.code == 1, done
        assert "does not answer" in done.out or "did not answer" in done.out, done
        deployed.deploy("two")
    assert deployed.runs("two"), deployed.told()
    assert list(deployed.releases().values()).count("deployed") == 1


def state(stage: Stage) -> dict[str, Any]:
    """Return what a deploy is to leave, without what differs from one to the next."""
    found: dict[str, Any] = {}
    for each in stage.get(KINDS)["items"]:
        metadata = each["metadata"]
        labels = metadata.get("labels") or {}
        if labels.get("app.kubernetes.io/managed-by") != "slipway":
            continue
        if labels.get("slipway.io/record") == "release":
            continue
        content = {k: v for k, v in each.items() if k not in ("metadata", "status")}
        if each["kind"] == "Deployment":
            # The autoscaler's.
            content["spec"] = {k: v for k, v in content["spec"].items() if k != "replicas"}
        found[f"{each['kind']}/{metadata['name']}"] = (labels, content)
    found["images"] = {workload: stage.images_of(workload) for workload in WORKLOADS}
    found["deployed"] = list(stage.releases().values()).count("deployed")
    found["pending"] = list(stage.releases().values()).count("pending")
    return found


def test_deploy_that_was_killed_is_run_again_and_ends_in_the_same_state(stage: Stage) -> None:
    """Wherever a deploy was killed, the next one brings the cluster where it was to be."""
    at_rest(stage, "two")
    wanted = {"two": state(stage)}
    full = stage.deploy("one").seconds
    wanted["one"] = state(stage)
    # What is compared is not empty, and tells the versions apart.
    assert len(wanted["one"]) > 15
    assert wanted["one"] != wanted["two"]
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}, a deploy takes {full:.1f} s\n")
    points = random.Random(seed)  # noqa: S311 - a seed that is printed is no secret
    killed = []
    current = "one"
    for low, high in QUARTERS:
        target = "two" if current == "one" else "one"
        point = points.uniform(low, high) * full
        running = stage.start("deploy", "--images", str(stage.report(target)))
        time.sleep(point)
        alive = running.process.poll() is None
        running.kill()
        again = stage.deploy(target)
        killed.append(
            {"after_s": round(point, 1), "alive": alive, "again_s": round(again.seconds, 1)}
        )
        assert settled(stage, wanted[target]), f"seed {seed}, killed after {point:.1f} s"
        current = target
    stage.figures["deploy killed"] = {"seed": seed, "full_s": round(full, 1), "kills": killed}
    assert any(each["alive"] for each in killed), f"seed {seed}: each was over before its kill"


def settled(stage: Stage, wanted: dict[str, Any], limit: float = 60.0) -> bool:
    """Return whether the cluster gets to a state within a limit in seconds.

    A pod of before may still be on its way out when a deploy has ended.
    """
    deadline = time.monotonic() + limit
    while True:
        found = state(stage)
        if found == wanted:
            return True
        if time.monotonic() > deadline:
            for key in sorted(found.keys() | wanted.keys()):
                if found.get(key) != wanted.get(key):
                    sys.stdout.write(f"{key}: {found.get(key)} and not {wanted.get(key)}\n")
            return False
        time.sleep(2)


def test_two_deploys_at_once_do_not_mix(stage: Stage) -> None:
    """The second of two deploys is refused with a sentence, and the first one ends well."""
    at_rest(stage)
    first = stage.start("deploy", "--images", str(stage.report("two")))
    time.sleep(4)
    second = stage.deploy("one", code=None)
    done = first.wait(300)
    assert done.code == 0, done
    assert second.code == 3, second
    assert "under way" in second.out
    assert stage.runs("two"), stage.told()
