"""The server as it is started: it serves, stops gracefully, logs quietly, refuses bad settings."""

from __future__ import annotations

import http.client
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slipway_api import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import FakeServer

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "gunicorn", "--config", "python:slipway_api.gunicorn_conf"]


class Server:
    """A gunicorn that runs, and how to ask it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        """Ask for a path; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def stop(self) -> tuple[int, str]:
        """Send SIGTERM; return exit code and output."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output


@contextmanager
def serving(fake: FakeServer, port: int) -> Iterator[Server]:
    """Start gunicorn, which asks the fake, and wait until it lives."""
    bind = f"127.0.0.1:{port}"
    environment = {
        **os.environ,
        **fake.environment,
        "SLIPWAY_BIND": bind,
        "SLIPWAY_SOURCE_TIMEOUT": "1.8",  # on a machine that is busy with other tests
    }
    process = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not probe.lives(bind):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "gunicorn does not answer"
            time.sleep(0.02)
        yield Server(process, port)
    finally:
        process.kill()
        process.communicate()


def test_serves_and_stops_gracefully(fake: FakeServer, free_port: Callable[[], int]) -> None:
    """On SIGTERM a request in flight is answered, and then the server exits with 0."""
    with serving(fake, free_port()) as server:
        fake.answer.clear()
        answers: list[tuple[int, str]] = []
        client = threading.Thread(
            target=lambda: answers.append(server.get("/api/v1/containers?state=all"))
        )
        client.start()
        while not any(line.endswith(("/containers/json", "/pods")) for line in fake.asked):
            time.sleep(0.005)
        threading.Timer(0.2, fake.answer.set).start()
        code, output = server.stop()
        client.join(10)
    assert code == 0, output
    assert [status for status, _ in answers] == [200]
    assert json.loads(answers[0][1])["total"] == 2


def test_probes_are_not_logged(fake: FakeServer, free_port: Callable[[], int]) -> None:
    """The access log has requests, and probes only when they fail."""
    with serving(fake, free_port()) as server:
        for path in ("/livez", "/readyz", "/api/v1/containers"):
            assert server.get(path)[0] == 200
        fake.status = 500
        deadline = time.monotonic() + 5
        while server.get("/readyz")[0] != 503:  # a list may be kept for a moment
            assert time.monotonic() < deadline
            time.sleep(0.05)
        _, output = server.stop()
    logged = [line.split('"')[1:] for line in output.splitlines() if ' "GET ' in line]
    assert [line[0] for line in logged] == [
        "GET /api/v1/containers HTTP/1.1",
        "GET /readyz HTTP/1.1",
    ]
    assert "ontrol socket" not in output
    assert "HTTP Request" not in output


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SLIPWAY_WORKERS", "none", "SLIPWAY_WORKERS must be a whole number, not 'none'"),
        (
            "SLIPWAY_SOURCE",
            "kubernetes",
            (
                "SLIPWAY_SOURCE must be docker or auto where there is no token of a service account"
                " in /nowhere, not 'kubernetes'"
            ),
        ),
    ],
)
def test_bad_setting_ends_the_process(variable: str, value: str, sentence: str) -> None:
    """A setting that cannot be used ends it with exit code 2 and one sentence that names it."""
    environment = {**os.environ, "SLIPWAY_SERVICE_ACCOUNT": "/nowhere", variable: value}
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"slipway-api: {sentence}\n"


def test_settings_reach_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers, threads and the rest are set by the environment; there is no control socket."""
    monkeypatch.setenv("SLIPWAY_WORKERS", "3")
    monkeypatch.setenv("SLIPWAY_THREADS", "5")
    conf = runpy.run_module("slipway_api.gunicorn_conf")
    assert (conf["workers"], conf["threads"], conf["worker_class"]) == (3, 5, "gthread")
    assert conf["bind"] == ["0.0.0.0:8000"]
    assert conf["control_socket_disable"] is True


def test_probe_fails_when_nobody_listens(free_port: Callable[[], int]) -> None:
    """The container's health check is false, not an error, when the server is gone."""
    assert probe.lives(f"127.0.0.1:{free_port()}") is False
