"""The way to Docker that can hang, with a socket of the test's own behind it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.chaos.hanging import hanging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def echoing(path: Path) -> Iterator[None]:
    """Send back what comes, connection by connection, until the other side is closed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    while data := connection.recv(4096):
                        connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_hangs_and_goes_on(tmp_path: Path) -> None:
    """While it hangs it accepts and answers nothing; then what was sent meanwhile is answered."""
    with echoing(tmp_path / "s"), hanging(tmp_path / "s") as way:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(way.path))
            client.sendall(b"before")
            assert client.recv(100) == b"before"
        way.hang()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.3)
            client.connect(str(way.path))
            client.sendall(b"meanwhile")
            with pytest.raises(TimeoutError):
                client.recv(100)
            way.go_on()
            client.settimeout(5)
            assert client.recv(100) == b"meanwhile"


def test_leaves_nothing_even_when_it_hangs(tmp_path: Path) -> None:
    """Its folder and its process are gone afterwards."""
    with hanging(tmp_path / "s") as way:
        way.hang()
    assert way.process.returncode == 0
    assert not way.path.parent.exists()
