"""The API server goes away during a deploy, and deploys are killed."""

from __future__ import annotations

import json
import random
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.stage import VERSIONS, WORKLOADS, describe

if TYPE_CHECKING:
    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster

AWAY = 20.0
SETTLED = 20.0
"""Seconds after the deploy in which what it took away is not asked any more."""
CALM = 5.0
"""Seconds without a failure, at the end of it."""
PARTS = ((0.03, 0.1), (0.1, 0.4), (0.4, 0.9))
"""The parts of a deploy's time in each of which one deploy is killed."""
USUAL = 35.0
"""Seconds of a deploy, where it was not measured before."""
KINDS = (
    "namespaces,resourcequotas,limitranges,networkpolicies,serviceaccounts,roles,rolebindings,"
    "services,poddisruptionbudgets,deployments,scaledobjects,configmaps,secrets,leases"
)


def test_deploy_survives_an_api_server_that_is_away(deployed: Stage) -> None:
    """With the API server gone for 20 s, a deploy ends well, or says so and can be run again.

    The list cannot be had meanwhile, which is said with 503. When the API server is back,
    kube-proxy and the controllers look again after up to half a minute each, so that a pod that
    goes may still be asked: how long that lasts is measured, and that it ends is what is held.
    """
    version, target = deployed.version, deployed.other
    # As it is shipped: the controllers of Kubernetes look again only after a while of their own.
    patches = [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "slipway"},
            "spec": {"progressDeadlineSeconds": 120},
        }
        for name in WORKLOADS
    ]
    patient = ("--overlay", deployed.overlay("patient", *patches), "--timeout", "240")
    with deployed.load() as load:
        running = deployed.start("deploy", "--images", str(deployed.report(target)), *patient)
        time.sleep(5)
        gone = time.monotonic()
        with deployed.without_api_server():
            time.sleep(AWAY)
        back = time.monotonic()
        done = running.wait(300)
        time.sleep(SETTLED)
        last = time.monotonic()
    deployed.figures["API server away for 20 s"] = {
        "exit_code": done.code,
        "deploy_s": round(done.seconds, 1),
        "served_again_after_s": round(
            max((each.due - back for each in load.all.failed), default=0.0), 1
        ),
        "load": load.all.figures(),
    }
    assert done.code in {0, 1}, done
    assert deployed.runs(target if done.code == 0 else version), deployed.told()
    # Whatever came of it, it can be run again.
    deployed.deploy(target)
    assert deployed.runs(target), deployed.told()
    assert list(deployed.releases().values()).count("deployed") == 1
    assert not load.all.between(last - CALM, last).failed, describe(load.all, deployed)
    # Until the API server was gone, nobody noticed anything.
    assert not [each for each in load.all.failed if each.done < gone], describe(load.all, deployed)


def state(stage: Stage) -> dict[str, Any]:
    """Return what a deploy is to leave, without what differs from one version to the other."""
    found: dict[str, Any] = {}
    for each in stage.get(KINDS)["items"]:
        metadata = each["metadata"]
        labels = metadata.get("labels") or {}
        record = labels.get("slipway.io/record") == "release"
        if record or labels.get("app.kubernetes.io/managed-by") != "slipway":
            continue
        content = {k: v for k, v in each.items() if k not in {"metadata", "status"}}
        if each["kind"] == "Deployment":
            # The autoscaler's.
            content["spec"] = {k: v for k, v in content["spec"].items() if k != "replicas"}
        text = json.dumps([labels, content], sort_keys=True)
        for version in VERSIONS:
            for digest in stage.digests(version).values():
                text = text.replace(digest, "digest")
        found[f"{each['kind']}/{metadata['name']}"] = text
    states = list(stage.releases().values())
    found["releases"] = {name: states.count(name) for name in ("deployed", "pending")}
    return found


def test_deploy_that_was_killed_is_run_again_and_ends_in_the_same_state(deployed: Stage) -> None:
    """Wherever a deploy was killed, the next one brings the cluster where it was to be."""
    wanted = state(deployed)
    # What is compared is not empty.
    assert len(wanted) > 15
    assert wanted["releases"] == {"deployed": 1, "pending": 0}
    full = deployed.figures.get("rolling update", {}).get("deploy_s", USUAL)
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}, a deploy takes {full:.1f} s\n")
    points = random.Random(seed)  # noqa: S311 - a seed that is printed is no secret
    killed = []
    for low, high in PARTS:
        target = deployed.other
        point = points.uniform(low, high) * full
        running = deployed.start("deploy", "--images", str(deployed.report(target)))
        time.sleep(point)
        alive = running.process.poll() is None
        running.kill()
        again = deployed.deploy(target)
        killed.append(
            {"after_s": round(point, 1), "alive": alive, "again_s": round(again.seconds, 1)}
        )
        said = f"seed {seed}, killed after {point:.1f} s"
        assert deployed.runs(target), said
        assert settled(deployed, wanted), said
    deployed.figures["deploy killed"] = {"seed": seed, "full_s": full, "kills": killed}
    assert sum(bool(each["alive"]) for each in killed) > 1, f"seed {seed}: it was over before"


def settled(stage: Stage, wanted: dict[str, Any], limit: float = 30.0) -> bool:
    """Return whether the cluster is in a state, or gets there within a limit in seconds.

    Something of before may still be on its way out when a deploy has ended.
    """
    deadline = time.monotonic() + limit
    while (found := state(stage)) != wanted:
        if time.monotonic() > deadline:
            for key in sorted(found.keys() | wanted.keys()):
                if found.get(key) != wanted.get(key):
                    sys.stdout.write(f"{key}: {found.get(key)} and not {wanted.get(key)}\n")
            return False
        time.sleep(2)
    return True
