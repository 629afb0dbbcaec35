"""Whole runs of the pipeline that are stopped half-way, and what the next one finds."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .engines import leftovers

if TYPE_CHECKING:
    import docker

    from .projects import Project

pytestmark = [pytest.mark.docker, pytest.mark.network]

TEMPORARY, RELAYS = Path("/tmp"), "slipway-relay-*"  # noqa: S108 - where relays are made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_everything_of_the_run(
    project: Project, api: docker.APIClient, number: signal.Signals
) -> None:
    """Within 10 s, with the reports, and nothing of it is left: containers, networks, processes."""
    running = project.start("--fresh", "verify")
    session = running.until_serving(api, project.home)
    ended = running.stop(number)
    ended.check(128 + number)
    assert ended.seconds < 10
    assert "stopped with the run" in ended.cause("verify")
    assert leftovers(api, session) == []


def test_run_after_a_kill_removes_what_was_left(project: Project, api: docker.APIClient) -> None:
    """A kill leaves no time to put away; the next run finds it, also one that needs no engine."""
    project.run().check(0)
    relays = set(TEMPORARY.glob(RELAYS))
    running = project.start("--fresh", "verify")
    session = running.until_serving(api, project.home)
    running.stop(signal.SIGKILL)
    assert leftovers(api, session)
    made = set(TEMPORARY.glob(RELAYS)) - relays
    assert made
    ended = project.run()
    ended.check(0)
    assert set(ended.states.values()) == {"cached"}
    assert leftovers(api, session) == []
    assert not any(folder.exists() for folder in made)
