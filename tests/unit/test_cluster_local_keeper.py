"""The process beside the node, with a program that stands for the node.

Namespaces take root and a kernel that allows them: tests/cluster/test_local.py has the real node.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.cluster.local import keeper
from pipeline.cluster.local.node import Node, state_files
from pipeline.cluster.local.record import Record, keeper_of
from pipeline.setup import state

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KEEPER = """
import fcntl, os, socket, sys
from pathlib import Path
import anyio
from pipeline.cluster.local import keeper
folder, descriptor, *supervisor = sys.argv[1:]
listening = socket.socket(fileno=int(descriptor))
lock = os.open(keeper.state_files(Path(folder))["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
fcntl.flock(lock, fcntl.LOCK_EX)
sys.exit(anyio.run(keeper.keep, Path(folder), listening, supervisor))
"""
NODE = """
import pathlib, socket, subprocess, sys
folder, listening, link = sys.argv[1], int(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))
child = subprocess.Popen(["sleep", "60"])
registry = socket.create_server(("127.0.0.1", 0))
pathlib.Path(folder, "registry").write_text(str(registry.getsockname()[1]))
socket.send_fds(link, [b"here"], [registry.fileno()])
registry.close()
# The API server of this node says one word.
api = socket.socket(fileno=listening)
api.settimeout(0.05)
link.setblocking(False)
while True:
    try:
        if link.recv(1) == b"":
            break
    except BlockingIOError:
        pass
    try:
        with api.accept()[0] as caller:
            caller.sendall(b"ready")
    except TimeoutError:
        pass
child.kill()
child.wait()
sys.exit(7)
"""
"""Sends its end of a registry, serves on the socket that it inherits, and ends with the link."""


class Kept:
    """A keeper that runs, in its state folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.folder = folder
        self.process = process
        self.port = port

    @property
    def record(self) -> Record:
        """What is remembered, as soon as all of it is."""
        file = state_files(self.folder)["keeper"]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if file.exists():
                found = Record.from_json(file.read_text())
                if found.node is not None:
                    return found
            time.sleep(0.02)
        raise AssertionError("the keeper remembers no node")


def said(port: int) -> bytes:
    """Return what is said on a port of the loopback interface."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        return caller.recv(64)


@contextmanager
def serving(word: bytes) -> Iterator[int]:
    """Yield the port of somebody who says a word to the first that comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            server.settimeout(20)
            with server.accept()[0] as caller:
                caller.sendall(word)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join(20)


@contextmanager
def kept(folder: Path, registry: int) -> Iterator[Kept]:
    """Yield a keeper of a node that has a registry."""
    folder.mkdir()
    node = Node(str(folder), "", "", registry)
    state_files(folder)["node"].write_text(node.to_json())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        descriptor = listening.fileno()
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", KEEPER, str(folder), str(descriptor)),
                *(sys.executable, "-S", "-c", NODE),
            ],
            pass_fds=(descriptor,),
            cwd=ROOT,
        )
    try:
        yield Kept(folder, process, port)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def test_a_node_is_remembered_and_reached_and_ends_when_its_keeper_is_told(tmp_path: Path) -> None:
    """Its API server on the socket that was handed on, the registry through the one it sent."""
    folder = tmp_path / "cluster"
    with serving(b"image") as registry, kept(folder, registry) as here:
        record = here.record
        assert record.port == here.port
        assert record.keeper == state.process(here.process.pid)
        assert keeper_of(folder, state_files(folder)["lock"]) == record.keeper
        assert all(map(state.alive, record.processes))
        assert len(record.processes) == 3
        assert said(here.port) == b"ready"
        assert said(int((folder / "registry").read_text())) == b"image"
        here.process.send_signal(signal.SIGTERM)
        assert here.process.wait(20) == 7
        assert not any(map(state.alive, record.processes))


def test_a_keeper_ends_with_its_node(tmp_path: Path) -> None:
    """Nobody stays to be found by the next start."""
    with kept(tmp_path / "cluster", 1) as here:
        record = here.record
        assert record.parent is not None
        subprocess.run(["kill", "-KILL", str(record.parent.pid)], check=True)
        assert here.process.wait(20) == -signal.SIGKILL % 256
        assert record.node is not None
        subprocess.run(["kill", "-KILL", str(record.node.pid)], check=False)


def test_a_node_that_says_nothing_has_no_registry() -> None:
    """It ended, or closed its end of the pair: that is written down, and not waited for."""
    here, there = socket.socketpair()
    with here:
        there.close()
        assert keeper.received(here) is None


@pytest.mark.parametrize("word", ["--mount", "--net", "--pid", "--kill-child=KILL", "--fork"])
def test_a_node_shares_neither_network_nor_processes_nor_mounts(word: str) -> None:
    """And no process of it outlives the one that waits for it."""
    argv = keeper.namespaces()
    assert word in argv
    assert argv[-1] == "--"
