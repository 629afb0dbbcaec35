"""What nginx does when it is told to stop, or to read its configuration again, under load."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .recorder import Recorder
from .role import LIMIT, UNLIMITED, before, is_listening, running, until

if TYPE_CHECKING:
    import subprocess

    from .role import Role


def test_quit_lets_what_is_in_flight_finish(tmp_path: Path) -> None:
    """No new connection is taken, every request that is on its way gets its answer."""
    api = Recorder(held=(release := threading.Event()))
    with before(api, tmp_path, **UNLIMITED) as role, ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(role.ask, f"/page/{number}") for number in range(10)]
        until(lambda: len(api.arrivals) == 10)
        role.process.send_signal(signal.SIGQUIT)
        until(lambda: not is_listening(role.port))
        assert not any(answer.done() for answer in answers)
        release.set()
        assert [answer.result(LIMIT).status for answer in answers] == [200] * 10
        assert role.process.wait(LIMIT) == 0


@pytest.mark.waits(5)
def test_quit_is_over_when_a_client_does_not_go(tmp_path: Path) -> None:
    """Who keeps a connection open without a request does not keep nginx from ending."""
    with (
        running("proxy", tmp_path, {"API_UPSTREAM": "127.0.0.1:1"}) as role,
        socket.create_connection(("127.0.0.1", role.port), LIMIT) as half_open,
    ):
        half_open.sendall(b"GET / HTTP/1.1\r\nHost:")
        started = time.monotonic()
        role.process.send_signal(signal.SIGQUIT)
        assert role.process.wait(10) == 0
        # `docker stop` waits for 10 s.
        assert time.monotonic() - started < 9


def test_reload_fails_no_request(tmp_path: Path) -> None:
    """The old workers finish what they have, the new ones take what comes."""
    with before(Recorder(delay=0.02), tmp_path, **UNLIMITED) as role:
        stop = threading.Event()
        statuses: list[int] = []

        def asking() -> None:
            while not stop.is_set():
                statuses.append(role.ask("/page").status)

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(asking) for _ in range(4)]
            try:
                for _ in range(3):
                    await_more(statuses)
                    reload(role)
                await_more(statuses)
            finally:
                stop.set()
            for load in loads:
                load.result(LIMIT)
    assert set(statuses) == {200}


def await_more(answers: list[int]) -> None:
    """Wait until there are 20 answers more."""
    number = len(answers)
    until(lambda: len(answers) >= number + 20)


def reload(role: Role) -> None:
    """Have nginx read its configuration again, and wait until none of its old processes is left."""
    old = children(role.process)
    assert old
    role.process.send_signal(signal.SIGHUP)
    until(lambda: old.isdisjoint(children(role.process)))


def children(process: subprocess.Popen[bytes]) -> set[str]:
    """The processes that a process has started, by their numbers."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            status = (entry / "status").read_text()
            if f"\nPPid:\t{process.pid}\n" in status:
                found.add(entry.name)
    return found
