"""KEDA scales both workloads under load and back after it, and no request is lost on the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.cluster import figures
from tests.cluster.stage import LEAST, RATE, WORKLOADS, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.stage import Stage
    from tests.cluster.watch import Moment

pytestmark = pytest.mark.cluster

BURST = 110.0
"""Requests in a second, beside the usual ones, that two pods of each kind are too few for."""
UP_LIMIT = 120.0
DOWN_LIMIT = 180.0
HELD = 15.0
"""Seconds for which the burst goes on when both have scaled, so that more pods have work."""


def more_of(workload: str) -> Callable[[Moment], bool]:
    """Return whether more pods of a workload serve than the least number."""
    return lambda now: now.ready.get(workload, 0) > LEAST


def least_of(workload: str) -> Callable[[Moment], bool]:
    """Return whether just the least number of pods of a workload is there, and serves."""
    return lambda now: now.ready.get(workload) == now.present.get(workload) == LEAST


def test_scales_up_under_load_and_back_after_it(deployed: Stage) -> None:
    """Both get more pods while the load lasts and fewer after it; a pod that goes loses nothing."""
    with deployed.watch() as watch, deployed.load() as usual:
        start = time.monotonic()
        with deployed.load(BURST) as burst:
            up = {name: watch.until(more_of(name), UP_LIMIT) - start for name in WORKLOADS}
            time.sleep(HELD)
        end = time.monotonic()
        most = {name: watch.most(name) for name in WORKLOADS}
        down = {name: watch.until(least_of(name), DOWN_LIMIT) - end for name in WORKLOADS}
        # The last pod that left is still ending, and must not take a request along.
        time.sleep(10)
    both = usual.all.with_(burst.all)
    deployed.figures["scaling"] = {
        "usual_rate": RATE,
        "burst_rate": BURST,
        "up_s": {name: round(value, 1) for name, value in up.items()},
        "down_s": {name: round(value, 1) for name, value in down.items()},
        "most_ready": most,
        "load": both.figures(),
        "scale_down": usual.all.between(end, time.monotonic()).figures(),
        "timeline": figures.timeline(watch.moments, both, start - 2, time.monotonic()),
    }
    assert all(value > 2 for value in most.values()), most
    going = usual.all.between(end, time.monotonic())
    assert len(going.items) > 10 * RATE
    assert not going.failed, describe(going, deployed)
    assert not both.failed, describe(both, deployed)
