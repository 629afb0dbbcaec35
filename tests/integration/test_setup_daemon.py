"""A real Docker Engine of our own, beside the one of this machine: from nothing, and back."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.setup import daemon, down, state
from pipeline.setup.docker import Docker
from pipeline.setup.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a Docker Engine"),
    pytest.mark.skipif(daemon.dockerd() is None, reason="dockerd is not installed here"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short name: the path of a socket has at most 107 characters."""
    made = Path(tempfile.mkdtemp(prefix="slipway-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def bridge() -> str:
    """Return what tells this machine's own bridge from one that was made anew."""
    file = Path("/sys/class/net/docker0/ifindex")
    return file.read_text() if file.exists() else ""


def test_an_engine_is_started_by_hand_and_leaves_no_process(folder: Path) -> None:
    """It answers when start returns; `down` ends it, its containerd too, and says so."""
    docker = Docker(f"unix://{folder}/docker.sock")
    program = [
        # In a network of its own: a second daemon would take away the bridge of the first.
        *("unshare", "--net"),
        *(daemon.dockerd() or "", "--host", docker.host, "--data-root", f"{folder}/data"),
        *("--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"),
        *("--iptables=false", "--ip6tables=false"),
    ]
    before = bridge()
    said: list[str] = []
    started = anyio.run(partial(daemon.start, docker, program, said.append, place=folder / "state"))
    assert started.process is not None
    family = [started.process, *daemon.children(started.process)]
    try:
        assert len(family) == 2, "dockerd has its own containerd"
        assert docker.version()
        assert docker.root() == f"{folder}/data"
        state.save(folder / "state", State(daemon=started))
        anyio.run(partial(down.down, None, say=said.append, place=folder / "state"))
    finally:
        anyio.run(daemon.stop, started.process, said.append)
    assert not any(state.alive(process) for process in family)
    assert said[1:] == [f"Stopped Docker (process {started.process.pid})"]
    assert bridge() == before, "the network of this machine is as it was"
    assert not (folder / "docker.sock").exists()
    assert state.load(folder / "state") == State()
