"""The watch on pods, against a program that tells what an API server would."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.watch import NAME, Moment, Watch, is_ready

if TYPE_CHECKING:
    from pathlib import Path

TELL = """\
import sys, time
for line in open({file!r}):
    if line.startswith("wait"):
        time.sleep(float(line.split()[1]))
    else:
        print(line, end="", flush=True)
time.sleep(60)
"""


def pod(name: str, *, ready: bool, leaving: bool = False) -> dict[str, Any]:
    """Return a pod of the API."""
    metadata: dict[str, Any] = {"name": name, "labels": {NAME: "api"}}
    if leaving:
        metadata["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"kind": "Pod", "metadata": metadata, "status": {"conditions": conditions}}


def event(kind: str, obj: dict[str, Any]) -> str:
    """Return a line of a watch."""
    return json.dumps({"type": kind, "object": obj})


END = event(
    "BOOKMARK",
    {"kind": "Pod", "metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}},
)


def watching(folder: Path, *lines: str) -> Watch:
    """Return a watch that is told these lines."""
    told = folder / "events"
    told.write_text("".join(f"{line}\n" for line in lines))
    script = folder / "kubectl.py"
    script.write_text(TELL.format(file=str(told)))
    return Watch([sys.executable, str(script)], os.environ, "somewhere")


def test_watch_counts_pods_that_serve(tmp_path: Path) -> None:
    """A pod counts when it is ready, and no more when it is on its way out."""
    lines = (
        event("ADDED", pod("a", ready=True)),
        event("ADDED", pod("b", ready=False)),
        END,
        event("MODIFIED", pod("b", ready=True)),
        event("MODIFIED", pod("a", ready=True, leaving=True)),
        event("DELETED", pod("a", ready=False, leaving=True)),
    )
    with watching(tmp_path, *lines) as watch:
        deadline = time.monotonic() + 10
        while len(watch.moments) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert [moment.ready for moment in watch.moments] == [
        {"api": 1},
        {"api": 2},
        {"api": 1},
        {"api": 1},
    ]
    assert [moment.present["api"] for moment in watch.moments] == [2, 2, 1, 1]
    assert watch.most("api") == 2


def test_watch_takes_half_a_list_for_nothing(tmp_path: Path) -> None:
    """Before all that was there is told, there is no moment: one of two pods is not "one pod"."""
    lines = (event("ADDED", pod("a", ready=True)), "wait 0.5", event("ADDED", pod("b", ready=True)))
    with watching(tmp_path, *lines, END) as watch:
        watch.until(lambda now: now.ready["api"] > 0, 10)
    assert watch.moments[0].ready == {"api": 2}


def test_until_returns_the_moment_from_which_it_was_so(tmp_path: Path) -> None:
    """What is measured is when it happened, and not when somebody looked."""
    lines = (
        event("ADDED", pod("a", ready=False)),
        END,
        "wait 0.6",
        event("MODIFIED", pod("a", ready=True)),
    )
    with watching(tmp_path, *lines) as watch:
        began = watch.until(lambda now: now.present["api"] == 1, 10)
        at = watch.until(lambda now: now.ready["api"] == 1, 10)
    assert 0.4 < at - began < 5


def test_until_gives_up(tmp_path: Path) -> None:
    """What does not happen within the limit is an error that tells the last moment."""
    with (
        watching(tmp_path, END) as watch,
        pytest.raises(TimeoutError, match=r"not so within 0 s"),
    ):
        watch.until(lambda now: now.ready.get("api", 0) > 0, 0.3)


def test_pod_without_a_status_is_not_ready() -> None:
    """A pod that was made just now has none."""
    assert not is_ready({"metadata": {}})
    assert Moment(1.0, {}, {}).at == 1.0
