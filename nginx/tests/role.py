"""nginx in one of its roles, started as in the image, and plain requests to it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .ports import new_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from .recorder import Recorder

UNLIMITED = {"RATE_LIMIT": "999999", "RATE_BURST": "999999"}
"""Settings with which no test meets the rate limit, unless it is about that."""

LIMIT = 10.0
"""Seconds that anything here may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and the seconds it took."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    def plain(self) -> bytes:
        """The body, unpacked if need be."""
        packed = self.headers["Content-Encoding"] == "gzip"
        return gzip.decompress(self.body) if packed else self.body

    def problem(self) -> dict[str, Any]:
        """The problem details in it; fails when the answer is something else."""
        assert self.headers.get_content_type() == "application/problem+json", self
        details = json.loads(self.plain())
        assert isinstance(details, dict)
        assert details["status"] == self.status
        assert details["request_id"] == self.headers["X-Request-ID"]
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

    @property
    def prefix(self) -> Path:
        """Where nginx keeps its own files."""
        return self.temporary / "slipway-nginx"

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
def running(
    role: str, temporary: Path, settings: Mapping[str, str], default_port: int | None = None
) -> Iterator[Role]:
    """Run a role until the block ends; it is told to stop as a container is.

    Args:
        role: The command, `proxy` or `socket-proxy`.
        temporary: An empty folder for it alone.
        settings: Its environment variables.
        default_port: Where it listens by itself; without, it is told a port of its own.
    """
    port = default_port or new_port()
    told = {} if default_port else {"PORT": str(port)}
    assert not is_listening(port), f"{port} is taken; is the role running already?"
    output = temporary / "stdout"
    errors = temporary / "stderr"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            ["slipway-nginx", role],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(temporary), **told, **settings},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        await_port(port, process, errors)
        yield Role(port, process, output, errors, temporary)
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(LIMIT)
        finally:
            kill(process)


@contextlib.contextmanager
def before(api: Recorder, temporary: Path, **settings: str) -> Iterator[Role]:
    """A proxy with settings of its own, before an API."""
    port = new_port()
    upstream = {"API_UPSTREAM": f"127.0.0.1:{port}"}
    with (
        api.listening(("127.0.0.1", port)),
        running("proxy", temporary, upstream | settings) as role,
    ):
        yield role


def until(check: Callable[[], bool], limit: float = 2 * LIMIT) -> float:
    """Wait until something holds; return the seconds after which it did not hold yet.

    Those up to the beginning of the last look that failed: never more than what was waited for
    takes, however busy the machine is, so that a bound on them holds there too.
    """
    started = failed = time.monotonic()
    while True:
        looked = time.monotonic()
        if check():
            return failed - started
        failed = looked
        assert failed - started < limit
        time.sleep(0.02)


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
