"""A fake of what is behind nginx: it writes down what reaches it, and answers as it is told."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it arrived, byte for byte.

    Attributes:
        line: The request line, without its end.
        headers: Header fields by lower-case name.
        body: What followed the header, as far as a Content-Length announced it.
    """

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Recorder:
    """What arrived, and what is answered from now on.

    Attributes:
        arrivals: The requests so far, in order.
        status: The status of an answer.
        content_type: Its media type.
        body: Its body.
        headers: More header fields.
        delay: Seconds before an answer.
        dropped: How many of the next requests get no answer, their connection closed.
    """

    arrivals: list[Arrival] = field(default_factory=list)
    status: int = HTTPStatus.OK
    content_type: str = "application/json"
    body: bytes = b"[]\n"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    dropped: int = 0

    def reset(self) -> None:
        """Forget what arrived, and answer as at first."""
        fresh = Recorder()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def lines(self) -> list[str]:
        """The request lines that arrived."""
        return [arrival.line for arrival in self.arrivals]

    @contextlib.contextmanager
    def listening(self, address: Path | tuple[str, int]) -> Iterator[Self]:
        """Serve at a Unix socket or at a host and port until the block ends."""
        server = (
            _UnixServer(self, address)
            if not isinstance(address, tuple)
            else _TCPServer(self, address)
        )
        with server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join(5)


class _Handler(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        recorder = self.server.recorder  # type: ignore[attr-defined] # both servers below have it
        line = self.rfile.readline().decode("latin-1").rstrip("\r\n")
        if not line:
            return
        headers = {}
        while text := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        recorder.arrivals.append(Arrival(line, headers, body))
        if recorder.dropped:
            recorder.dropped -= 1
            return
        time.sleep(recorder.delay)
        lines = [
            f"HTTP/1.1 {recorder.status} Whatever",
            f"Content-Type: {recorder.content_type}",
            f"Content-Length: {len(recorder.body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in recorder.headers.items()),
        ]
        answer = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if not line.startswith("HEAD "):
            answer += recorder.body
        with contextlib.suppress(ConnectionError):  # nginx may have given up; the tests see that
            self.wfile.write(answer)


class _TCPServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, recorder: Recorder, address: tuple[str, int]) -> None:
        self.recorder = recorder
        super().__init__(address, _Handler)


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, recorder: Recorder, path: Path) -> None:
        self.recorder = recorder
        super().__init__(str(path), _Handler)


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
