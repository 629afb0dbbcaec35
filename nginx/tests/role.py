"""nginx in one of its roles, started as in the image, and plain requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PORTS = {"proxy": 8080, "socket-proxy": 2375}
"""Where each role listens."""

LIMIT = 10.0
"""Seconds that anything here may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and the seconds it took."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    def problem(self) -> dict[str, Any]:
        """The problem details in it; fails when the answer is something else."""
        assert self.headers.get_content_type() == "application/problem+json", self
        details = json.loads(self.body)
        assert isinstance(details, dict)
        assert details["status"] == self.status
        return details


@dataclass(frozen=True, slots=True)
class Role:
    """A running nginx.

    Attributes:
        port: Where it listens.
        process: The process.
        output: File with what it writes to stdout, the access log.
        errors: File with what it writes to stderr.
        temporary: The folder that it may write to.
    """

    port: int
    process: subprocess.Popen[bytes]
    output: Path
    errors: Path
    temporary: Path

    def send(self, request: bytes) -> Answer:
        """Send bytes as they are and read one answer."""
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), LIMIT) as connection:
            connection.sendall(request)
            # The method decides whether an answer has a body.
            method = request.split(b" ", 1)[0].decode("latin-1")
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            body = response.read()
            seconds = time.monotonic() - started
            return Answer(response.status, response.headers, body, seconds)

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Send a request whose path goes out as it is given."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: example.test",
            "Connection: close",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        return self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)


@contextlib.contextmanager
def running(role: str, temporary: Path, settings: Mapping[str, str]) -> Iterator[Role]:
    """Run a role until the block ends; it is told to stop as a container is.

    Args:
        role: One of ``PORTS``.
        temporary: An empty folder for it alone.
        settings: Its environment variables.
    """
    deadline = time.monotonic() + LIMIT
    while is_listening(PORTS[role]):
        # The workers of one that was killed listen for a moment longer than it lives.
        assert time.monotonic() < deadline, f"{PORTS[role]} is taken; is the role running already?"
        time.sleep(0.02)
    output = temporary / "stdout"
    errors = temporary / "stderr"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            ["slipway-nginx", role],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(temporary), **settings},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        await_port(PORTS[role], process, errors)
        yield Role(PORTS[role], process, output, errors, temporary)
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(LIMIT)
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill nginx with its workers, which outlive it otherwise and go on listening."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(LIMIT)


def is_listening(port: int) -> bool:
    """Tell whether somebody listens on a port of this host."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except (ConnectionRefusedError, ConnectionResetError):
        # Reset: the one that listened closed while it was being connected to.
        return False
    return True


def await_port(port: int, process: subprocess.Popen[bytes], errors: Path) -> None:
    """Wait until the process listens; fails when it ends before, or after ``LIMIT`` seconds."""
    deadline = time.monotonic() + LIMIT
    while not is_listening(port):
        assert process.poll() is None, f"nginx ended at once: {errors.read_text()}"
        assert time.monotonic() < deadline, f"nothing listens on {port} after {LIMIT} s"
        time.sleep(0.02)
