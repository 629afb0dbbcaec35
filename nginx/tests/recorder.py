"""A fake of what is behind nginx: it writes down what reaches it, and answers as it is told."""

from __future__ import annotations

import contextlib
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
        held: Where there is one, no answer goes out before it is set.
        dropped: How many of the next requests get no answer, their connection closed.
        kept: Whether a connection is kept for further requests.
        connections: How many connections there were.
    """

    arrivals: list[Arrival] = field(default_factory=list)
    status: int = HTTPStatus.OK
    content_type: str = "application/json"
    body: bytes = b"[]\n"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    held: threading.Event | None = None
    dropped: int = 0
    kept: bool = False
    connections: int = 0

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
        recorder: Recorder = self.server.recorder  # type: ignore[attr-defined] # both servers have it
        recorder.connections += 1
        while self._answered(recorder) and recorder.kept:
            pass

    def _answered(self, recorder: Recorder) -> bool:
        line = self.rfile.readline().decode("latin-1").rstrip("\r\n")
        if not line:
            return False
        headers = {}
        while text := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        recorder.arrivals.append(Arrival(line, headers, body))
        if recorder.dropped:
            recorder.dropped -= 1
            return False
        time.sleep(recorder.delay)
        if recorder.held is not None:
            recorder.held.wait(self.timeout)
        lines = [
            f"HTTP/1.1 {recorder.status} Whatever",
            f"Content-Type: {recorder.content_type}",
            f"Content-Length: {len(recorder.body)}",
            *([] if recorder.kept else ["Connection: close"]),
            *(f"{name}: {value}" for name, value in recorder.headers.items()),
        ]
        answer = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if not line.startswith("HEAD "):
            answer += recorder.body
        with contextlib.suppress(ConnectionError):  # nginx may have given up; the tests see that
            self.wfile.write(answer)
        return True


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
