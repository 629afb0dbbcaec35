"""A Docker Engine that is not one: it answers what a test says, and records what is asked."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What Docker Engine 26.1 answers for one element, shortened by what nobody reads.
RUNNING: dict[str, Any] = {
    "Id": "4f" * 32,
    "Names": ["/web"],
    "Image": "nginx:1.29",
    "Command": "nginx",
    "Created": 1735689600,
    "Ports": [
        {"IP": "::", "PrivatePort": 8080, "PublicPort": 80, "Type": "tcp"},
        {"IP": "192.0.2.1", "PrivatePort": 8080, "PublicPort": 80, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ],
    "Labels": {"secret": "s3cr3t"},
    "State": "running",
    "Status": "Up 3 minutes (healthy)",
    "HostConfig": {"NetworkMode": "bridge"},
    "Mounts": [],
}
EXITED: dict[str, Any] = {
    **RUNNING,
    "Id": "a0" * 32,
    "Names": ["/job"],
    "Ports": [],
    "State": "exited",
    "Status": "Exited (0) 2 hours ago",
}


class FakeDocker:
    """Answers like a Docker Engine, over HTTP on the loopback interface.

    Attributes:
        containers: What the list answers; may be anything that JSON can say.
        body: Sent instead of the list's JSON, when not None.
        status: The status of the list.
        drop: How many lists end with the connection closed and no answer.
        answer: While it is not set, lists hang.
        asked: The request line's method and path of each request, without the query.
    """

    def __init__(self) -> None:
        self.containers: Any = [RUNNING, EXITED]
        self.body: bytes | None = None
        self.status = 200
        self.drop = 0
        self.answer = threading.Event()
        self.answer.set()
        self.asked: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                fake.asked.append(f"{self.command} {path}")
                if path == "/version":
                    self._send(200, b'{"ApiVersion": "1.45"}')
                    return
                fake.answer.wait(30)
                if fake.drop:
                    fake.drop -= 1
                    self.close_connection = True
                    return
                body = json.dumps(fake.containers).encode() if fake.body is None else fake.body
                self._send(fake.status, body)

            def _send(self, status: int, body: bytes) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # the client has given up

            def log_message(self, *args: object) -> None:
                """Keep the test's output for the test."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def host(self) -> str:
        """As in ``DOCKER_HOST``."""
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Let go of what hangs, and of the port."""
        self.answer.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@pytest.fixture
def fake_docker() -> Iterator[FakeDocker]:
    """A Docker Engine with one running and one exited container."""
    fake = FakeDocker()
    try:
        yield fake
    finally:
        fake.close()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Find a port of the loopback interface on which nothing listens."""

    def find() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return int(listener.getsockname()[1])

    return find
