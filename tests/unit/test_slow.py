"""Clients that take their time, before servers that end a connection or do not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.slow import Crowd, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = {
    "drips": Kind(3, first=b"GET", drip=b"x" * 100, limit=1.5),
    "closes": Kind(2, first=b"GET", half_closed=True, limit=1.5),
    "reads nothing": Kind(1, first=b"GET", reads=False, limit=0.5),
}


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection in a thread; yield the URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def handle(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                serve(connection)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_tells_when_each_kind_was_let_go() -> None:
    """A server that ends a connection after a while is rid of all of them after that."""
    began = time.monotonic()

    def serve(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        time.sleep(0.4)

    with serving(serve) as url, Crowd(url, KINDS) as crowd:
        assert len(crowd) == 6
        ended = crowd.wait()
    assert set(ended) == set(KINDS)
    assert all(0.3 < seconds < 1.5 for seconds in ended.values())
    assert time.monotonic() - began < 4


def test_fails_for_a_server_that_lets_nobody_go() -> None:
    """One that waits for ever for the end of a header is found out."""

    def serve(connection: socket.socket) -> None:
        while connection.recv(100):
            pass
        time.sleep(3)

    with (
        serving(serve) as url,
        Crowd(url, KINDS) as crowd,
        pytest.raises(AssertionError, match="is still there"),
    ):
        crowd.wait()


def test_fails_for_a_server_that_waits_for_who_does_not_read() -> None:
    """One that neither sends nor ends is found out as well."""

    def serve(connection: socket.socket) -> None:
        connection.recv(10)
        time.sleep(8)

    kinds = {"reads nothing": KINDS["reads nothing"]}
    with (
        serving(serve) as url,
        Crowd(url, kinds) as crowd,
        pytest.raises(AssertionError, match="still there"),
    ):
        crowd.wait()
