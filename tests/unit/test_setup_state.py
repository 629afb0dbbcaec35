"""What set-up remembers, and its lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup import state
from pipeline.setup.state import Container, Daemon, Process, State


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """A state survives the process that made it, whole."""
    known = State(
        daemon=Daemon(host="unix:///x", process=Process(1, 2, "boot"), log="/log"),
        registries=(Container("id", "slipway-registry", "unix:///x"),),
    )
    state.save(tmp_path / "new", known)
    assert state.load(tmp_path / "new") == known
    state.save(tmp_path / "new", known.with_daemon(Daemon(host="unix:///x", service="docker")))
    assert state.load(tmp_path / "new").daemon == Daemon(host="unix:///x", service="docker")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["setup.json"]


def test_nothing_is_remembered_at_first(tmp_path: Path) -> None:
    """No file means that set-up started nothing."""
    assert state.load(tmp_path) == State()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"daemon": {"x": 1}, "registries": []}'])
def test_a_broken_memory_is_said_with_its_file(tmp_path: Path, text: str) -> None:
    """What cannot be read is not taken for nothing: something may still run."""
    (tmp_path / "setup.json").write_text(text)
    with pytest.raises(PrerequisiteError, match=r"setup\.json cannot be read") as raised:
        state.load(tmp_path)
    assert "rm " in raised.value.remedy


def test_a_folder_that_cannot_be_written_is_said_with_the_remedy(tmp_path: Path) -> None:
    """Where the state cannot be kept, the variable that moves it is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PrerequisiteError, match="cannot be written") as raised:
        state.save(tmp_path / "file" / "state", State())
    assert "XDG_STATE_HOME" in raised.value.remedy


def test_a_registry_of_the_same_name_takes_the_place_of_the_old_one() -> None:
    """One name is one container."""
    known = State().with_registry(Container("1", "a", "h")).with_registry(Container("2", "b", "h"))
    known = known.with_registry(Container("3", "a", "h"))
    assert [registry.id for registry in known.registries] == ["2", "3"]
    assert known.without("b").registries == (Container("3", "a", "h"),)


def test_the_folder_is_that_of_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_STATE_HOME counts when it is absolute; else it is ~/.local/state."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert state.folder({"XDG_STATE_HOME": "/state"}) == Path("/state/slipway")
    assert state.folder({}) == Path("/home/somebody/.local/state/slipway")
    assert state.folder({"XDG_STATE_HOME": "here"}) == state.folder({})


def test_a_process_is_known_by_more_than_its_number() -> None:
    """Another process with a number that was used again is never taken for the old one."""
    here = state.process(os.getpid())
    assert here is not None
    assert state.alive(here)
    assert not state.alive(Process(here.pid, here.started + 1, here.boot))
    assert not state.alive(Process(here.pid, here.started, "another boot"))


def test_what_is_left_of_a_dead_process_is_not_alive() -> None:
    """A zombie has ended, though it is still listed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = state.process(child.pid)
        assert known is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{child.pid}").exists()
        assert not state.alive(known)
    assert state.process(child.pid) is None


def test_two_setups_at_once_take_turns(tmp_path: Path) -> None:
    """The second waits for the first, and says so once."""
    said: list[str] = []
    order: list[str] = []

    async def one(name: str) -> None:
        async with state.lock(tmp_path, said.append):
            order.append(f"{name} in")
            await anyio.sleep(0.2)
            order.append(f"{name} out")

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(one, "a")
            group.start_soon(one, "b")

    anyio.run(both)
    assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])
    assert said == ["Another set-up is at work; waiting for it"]


def test_waiting_for_another_setup_has_a_limit(tmp_path: Path) -> None:
    """A set-up that hangs does not make the next one hang."""

    async def nested() -> None:
        async with state.lock(tmp_path, print), state.lock(tmp_path, print, limit=0.1):
            pass

    with pytest.raises(PrerequisiteError, match="Another set-up has held"):
        anyio.run(nested)


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    """The kernel lets go of it, so that no file must be removed by hand."""
    code = (
        "import fcntl, os, sys, time\n"
        f"f = os.open({str(tmp_path / 'lock')!r}, os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        child.kill()

    async def take() -> None:
        async with state.lock(tmp_path, print, limit=5):
            pass

    anyio.run(take)


def test_a_lock_that_cannot_be_made_is_a_prerequisite(tmp_path: Path) -> None:
    """A folder that cannot be written is said before anything is started."""
    (tmp_path / "file").write_text("")

    async def take() -> None:
        async with state.lock(tmp_path / "file" / "state", print):
            pass

    with pytest.raises(PrerequisiteError, match="lock cannot be written"):
        anyio.run(take)
