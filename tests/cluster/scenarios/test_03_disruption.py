"""What a person or a machine does to pods that serve, and what a client sees of it.

A load asks all the time. "Failed" is any request without an answer of 200, and nothing is tried
again by the load.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.stage import API, NGINX, RATE, WORKLOADS, describe
from tests.load import LIMIT

if TYPE_CHECKING:
    from tests.cluster.stage import Stage
    from tests.load import Answers

pytestmark = pytest.mark.cluster

RECOVERY = 30.0
"""Seconds within which the system is back by itself when all of its pods are gone."""
CALM = 5.0
"""Seconds without a failure that count as being back."""


def test_rolling_update_fails_no_request(deployed: Stage) -> None:
    """A deploy of new images under load is not noticed by any client.

    Neither by clients with a connection for each request nor by those that keep theirs.
    """
    target = deployed.other
    with deployed.load() as new, deployed.load(keep_alive=True) as kept:
        done = deployed.deploy(target)
        # Until the last of the old pods is gone.
        time.sleep(10)
    deployed.figures["rolling update"] = {
        "deploy_s": round(done.seconds, 1),
        "new connections": new.all.figures(),
        "kept connections": kept.all.figures(),
    }
    assert deployed.runs(target)
    assert len(new.all.items) > done.seconds * RATE
    assert any(each.reused for each in kept.all.items)
    assert not new.all.failed, describe(new.all, deployed)
    assert not kept.all.failed, describe(kept.all, deployed)


def in_flight_bound(answers: Answers, first: float, last: float) -> tuple[set[Any], int]:
    """Return the failures that no kill between two moments explains, and how many it may explain.

    A request may be lost to a kill when it was in flight at it. So whatever failed has to have been
    sent before the last moment and to have ended after the first, and no more may have failed than
    were in flight at once.
    """
    unexplained = {
        each for each in answers.failed if not (each.sent <= last and each.done >= first)
    }
    at_once = max(
        (len(answers.in_flight(each.sent)) for each in answers.items if first <= each.sent <= last),
        default=0,
    )
    return unexplained, max(at_once, len(answers.in_flight(first)))


@pytest.mark.parametrize("workload", WORKLOADS)
def test_deleting_a_pod_at_once_fails_at_most_what_was_in_flight(
    deployed: Stage, workload: str
) -> None:
    """A pod that is deleted without a grace period takes along what it worked on, and no more."""
    victim = deployed.pods(workload)[0]["metadata"]
    with deployed.load() as load, deployed.watch() as watch:
        first = time.monotonic()
        deployed.kubectl(
            *("delete", "pod", victim["name"], "--namespace", deployed.namespace),
            *("--grace-period=0", "--force", "--wait=false"),
        )
        # The node ends a pod that the API server knows no more a moment later.
        last = time.monotonic() + 3
        back = watch.until(lambda now: now.ready.get(workload, 0) >= 2, 60) - first
        time.sleep(3)
    unexplained, bound = in_flight_bound(load.all, first, last)
    deployed.figures.setdefault("pod deleted at once", {})[workload] = {
        "replaced_after_s": round(back, 1),
        "in_flight": bound,
        "load": load.all.figures(),
    }
    assert victim["uid"] not in {pod["metadata"]["uid"] for pod in deployed.pods(workload)}
    assert not unexplained, describe(load.all, deployed)
    assert len(load.all.failed) <= bound, describe(load.all, deployed)


def test_killing_the_process_of_an_api_pod_is_over_in_seconds(deployed: Stage) -> None:
    """Nginx tries again, and each try may meet the dead pod until the node has noticed.

    With two pods that is every second try, and four of them for a request: next to none fails, and
    none after the node, which looks once a second, has taken the pod out.
    """
    victim = deployed.first_process(API, "gunicorn")
    with deployed.load() as load:
        first = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        last = time.monotonic()
        time.sleep(10)
    _, bound = in_flight_bound(load.all, first, last)
    deployed.figures.setdefault("process killed", {})[API] = {
        "in_flight": bound,
        "load": load.all.figures(),
        "longest_effect_s": effect(load.all, first),
    }
    moment = load.all.between(first, first + 3)
    assert len(load.all.failed) <= bound + len(moment.items) / 8, describe(load.all, deployed)
    assert effect(load.all, first) <= 3, describe(load.all, deployed)


def test_killing_the_process_of_an_nginx_pod_is_over_in_seconds(deployed: Stage) -> None:
    """Nobody stands in front of Nginx: until the node has noticed, half of the clients are refused.

    How long that takes is the node's: it looks once a second, and starts the container again.
    """
    victim = deployed.first_process(NGINX, "nginx")
    with deployed.load() as load:
        first = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        time.sleep(15)
    deployed.figures.setdefault("process killed", {})[NGINX] = {
        "load": load.all.figures(),
        "longest_effect_s": effect(load.all, first),
    }
    assert not [each for each in load.all.failed if each.due > first + 8], describe(
        load.all, deployed
    )


def effect(answers: Answers, since: float, patience: float = LIMIT) -> float:
    """Return the seconds from a moment until the last request that failed, or was late, was due.

    Args:
        answers: What was answered.
        since: The moment.
        patience: Seconds after which an answer is late.
    """
    bad = (each for each in answers.items if each.failed or each.done - each.due > patience)
    return round(max((each.due - since for each in bad), default=0.0), 2)


def test_all_pods_deleted_at_once_are_back_within_30_seconds(deployed: Stage) -> None:
    """With no pod of either kind left, the system is back by itself and stays."""
    with deployed.load() as load:
        first = time.monotonic()
        deployed.kubectl(
            *("delete", "pods", "--namespace", deployed.namespace),
            *("--selector", f"app.kubernetes.io/name in ({','.join(WORKLOADS)})"),
            *("--grace-period=0", "--force", "--wait=false"),
        )
        time.sleep(RECOVERY + CALM)
        last = time.monotonic()
    # With nobody there a request is lost or, when its connection is tried again, late.
    back = effect(load.all, first, patience=0.5)
    deployed.figures["all pods deleted at once"] = {
        "recovered_after_s": back,
        "load": load.all.figures(),
    }
    # A test that noticed nothing would say nothing.
    assert 0 < back <= RECOVERY, describe(load.all, deployed)
    assert not load.all.between(last - CALM, last).failed, describe(load.all, deployed)
