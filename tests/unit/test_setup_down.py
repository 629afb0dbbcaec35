"""Stopping what set-up started, and nothing else."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup import daemon, down, state
from pipeline.setup.command import Output
from pipeline.setup.state import Container, Daemon, Process, State

from .setup_fakes import FakeDocker, Recorder, fake_docker
from .test_setup_daemon import absent, engine

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["engine"]


def call(place: Path, recorder: Recorder | None = None) -> list[str]:
    """Run it, and return what it said."""
    said: list[str] = []
    run = recorder or Recorder()
    anyio.run(partial(down.down, None, say=said.append, place=place, run=run))
    return said


def put(docker: FakeDocker, name: str, number: str) -> None:
    """Have a container run."""
    docker.containers[name] = {"Id": number, "Name": name, "State": {"Running": True}}


def test_nothing_started_is_nothing_stopped(tmp_path: Path) -> None:
    """Running it on a machine that was never set up, or twice, is fine."""
    assert call(tmp_path) == ["Set-up started nothing that is still up"]


def test_the_registry_is_stopped_and_others_are_left(tmp_path: Path) -> None:
    """By its id, so that one of the same name that somebody else made is left."""
    place = tmp_path / "state"
    with fake_docker(tmp_path) as docker:
        put(docker, "slipway-registry", "mine")
        put(docker, "web", "theirs")
        state.save(place, State(registries=(Container("mine", "slipway-registry", docker.host),)))
        said = call(place)
        assert list(docker.containers) == ["web"]
        assert state.load(place) == State()
        put(docker, "slipway-registry", "another")
        state.save(place, State(registries=(Container("mine", "slipway-registry", docker.host),)))
        again = call(place)
        assert list(docker.containers) == ["web", "slipway-registry"]
    assert said == [
        "Stopped the registry slipway-registry; its data stays in the volume slipway-registry"
    ]
    assert again == ["Registry slipway-registry was gone already"]


def test_a_registry_on_an_engine_that_ended_is_gone(tmp_path: Path) -> None:
    """An engine that is down is no error here."""
    known = Container("1", "slipway-registry", f"unix://{tmp_path}/none.sock")
    state.save(tmp_path, State(registries=(known,)))
    assert call(tmp_path) == ["Registry slipway-registry ended with its Docker Engine"]


def test_an_engine_with_containers_of_others_stays_up(tmp_path: Path) -> None:
    """It is said why, and it stays remembered for the next time."""
    place = tmp_path / "state"
    with fake_docker(tmp_path) as docker:
        put(docker, "web", "theirs")
        state.save(place, State(daemon=Daemon(host=docker.host, service="docker")))
        recorder = Recorder()
        assert call(place, recorder) == ["Docker stays up: containers run on it (web)"]
        assert recorder.calls == []
        assert state.load(place).daemon is not None
        docker.containers.clear()
        assert call(place, recorder) == ["Stopped Docker (service docker)"]
    assert recorder.calls == ["systemctl stop docker.socket docker.service"]
    assert state.load(place) == State()


def test_a_service_manager_that_refuses_is_an_error(tmp_path: Path) -> None:
    """What could not be stopped stays remembered."""
    state.save(tmp_path, State(daemon=Daemon(host=f"unix://{tmp_path}/x", service="docker")))
    recorder = Recorder({"systemctl": Output(1, "", "Access denied")})
    with pytest.raises(PrerequisiteError, match="Docker cannot be stopped") as raised:
        call(tmp_path, recorder)
    assert raised.value.evidence == "Access denied"
    assert state.load(tmp_path).daemon is not None


def test_an_engine_by_hand_is_stopped(tmp_path: Path, engine: list[str]) -> None:
    """The process that was remembered ends, and the memory of it."""
    place = tmp_path / "state"
    docker = absent(tmp_path)
    started = anyio.run(partial(daemon.start, docker, engine, print, place=place))
    assert started.process is not None
    # The program that stands for dockerd answers OK to everything: no JSON, so ask no containers.
    hidden = Daemon(host=f"unix://{tmp_path}/none.sock", process=started.process)
    state.save(place, State(daemon=hidden))
    assert call(place) == [f"Stopped Docker (process {started.process.pid})"]
    assert not state.alive(started.process)
    assert state.load(place) == State()


def test_an_engine_that_ended_by_itself_is_forgotten(tmp_path: Path) -> None:
    """A process that was given its number since is not touched."""
    here = state.process(1)
    assert here is not None
    gone = Process(here.pid, here.started + 1, here.boot)
    state.save(tmp_path, State(daemon=Daemon(host="unix:///x", process=gone)))
    assert call(tmp_path) == ["The Docker Engine that set-up started had ended already"]
    assert state.load(tmp_path) == State()
