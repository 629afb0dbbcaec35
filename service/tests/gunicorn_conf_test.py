"""The server as it is started: it serves, stops gracefully, logs quietly, refuses bad settings."""

from __future__ import annotations

import http.client
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from slipway_api import probe
from slipway_api.metrics import FOLDER
from slipway_api.sources import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.conftest import FakeDocker, FakeServer

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "gunicorn", "--config", "python:slipway_api.gunicorn_conf"]
LIST = "/api/v1/containers"


class Server:
    """A gunicorn that runs, and how to ask it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
        self.process = process
        self.port = port
        self._output = output

    def ask(self, path: str) -> tuple[int, http.client.HTTPMessage, str]:
        """Ask for a path on a new connection; return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, str]:
        """Ask for a path; return status and body."""
        status, _, body = self.ask(path)
        return status, body

    def send(self, raw: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send bytes as they are; return status, headers and body of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(raw)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.headers, answer.read()

    def metric(self, name: str, **labels: str) -> float:
        """Return what the samples of a metric with these labels add up to."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def workers(self) -> list[int]:
        """Return the processes that serve."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the parent of the workers."""
        self.process.send_signal(number)

    def stop(self) -> tuple[int, list[dict[str, Any]]]:
        """Send SIGTERM; return exit code and log."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait until it has ended; return exit code and log, whose every line is JSON."""
        code = self.process.wait(20)
        self._output.seek(0)
        return code, [json.loads(line) for line in self._output]


@contextmanager
def serving(
    fake: FakeServer, port: int, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start gunicorn, which asks the fake, and wait until it lives."""
    bind = f"127.0.0.1:{port}"
    environment = {
        **os.environ,
        **fake.environment,
        "SLIPWAY_BIND": bind,
        "SLIPWAY_SOURCE_TIMEOUT": "1.8",  # on a machine that is busy with other tests
        "SLIPWAY_DRAIN_DELAY": "0",
        **(settings or {}),
    }
    # A file, since a pipe that nobody reads stops whoever fills it.
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            COMMAND, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            until(lambda: probe.lives(bind) or process.poll() is not None)
            assert process.poll() is None, "gunicorn has ended"
            yield Server(process, port, output)
        finally:
            fake.answer.set()
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until it is true, for a limited time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.01)


def until_asked(fake: FakeServer) -> None:
    """Wait until the list of the fake was asked for."""
    until(lambda: any(line.endswith(("/containers/json", "/pods")) for line in fake.asked))


def test_serves_and_stops_gracefully(fake: FakeServer, free_port: Callable[[], int]) -> None:
    """On SIGTERM a request in flight is answered, and then the server exits with 0."""
    with serving(fake, free_port()) as server:
        fake.answer.clear()
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(server.get, f"{LIST}?state=all")
            until_asked(fake)
            threading.Timer(0.2, fake.answer.set).start()
            code, log = server.stop()
            status, body = answer.result(10)
    assert code == 0, log
    assert status == 200
    assert json.loads(body)["total"] == 2


def test_readiness_fails_first(fake_docker: FakeDocker, free_port: Callable[[], int]) -> None:
    """On SIGTERM readiness fails and everything else is served, until the delay is over.

    Meanwhile connections end with their answers, so that whoever keeps them goes elsewhere. A
    second SIGTERM changes nothing.
    """
    with serving(fake_docker, free_port(), {"SLIPWAY_DRAIN_DELAY": "1.2"}) as server:
        assert server.get("/readyz")[0] == 200
        assert server.ask(LIST)[1]["Connection"] == "keep-alive"
        server.signal(signal.SIGTERM)
        start = time.monotonic()
        until(lambda: server.get("/readyz")[0] == 503)
        server.signal(signal.SIGTERM)
        problem = json.loads(server.get("/readyz")[1])
        assert problem["detail"] == "The server is about to stop."
        while time.monotonic() - start < 0.6:
            time.sleep(0.02)  # the processor is for other tests, too
            status, headers, _ = server.ask(LIST)
            assert (status, headers["Connection"]) == (200, "close")
            assert server.get("/livez")[0] == 200
            assert server.get("/readyz")[0] == 503
        code, _ = server.ended()
        assert time.monotonic() - start >= 1.2
    assert code == 0


def test_no_connection_is_lost_when_it_stops(
    fake_docker: FakeDocker, free_port: Callable[[], int]
) -> None:
    """Whoever has got a connection gets an answer, even if no worker has seen it yet.

    The worker is halted while clients come and while it is told to stop: so they are where gunicorn
    would forget them.
    """
    with serving(fake_docker, free_port(), {"SLIPWAY_WORKERS": "1"}) as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        clients = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(8)]
        for client in clients:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        server.signal(signal.SIGTERM)
        until(lambda: pending(worker, signal.SIGTERM))
        os.kill(worker, signal.SIGCONT)
        for client in clients:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            client.close()
        assert server.ended()[0] == 0


def pending(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has got a signal that it has not taken yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("ShdPnd:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_reload_fails_no_request(fake_docker: FakeDocker, free_port: Callable[[], int]) -> None:
    """On SIGHUP new workers take over while requests come, and the counters go on.

    Also when it comes again before they are there; the server is as ready as before.
    """
    with serving(fake_docker, free_port()) as server:
        before = server.workers()
        stop = threading.Event()
        statuses: list[int] = []

        def ask() -> None:
            while not stop.wait(0.005):  # the processor is for the new workers, too
                statuses.append(server.get(LIST)[0])

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            for _ in range(3):
                server.signal(signal.SIGHUP)
                time.sleep(0.02)
            until(lambda: not set(before).intersection(server.workers()))
            stop.set()
            for each in asking:
                each.result(10)
        assert set(statuses) == {200}
        assert server.metric("slipway_http_requests_total", route=LIST) == len(statuses)
        assert server.get("/readyz")[0] == 200
        assert server.stop()[0] == 0


def test_log_is_json(fake: FakeServer, free_port: Callable[[], int]) -> None:
    """Every line is an object in ECS names; requests are there, and probes only when they fail."""
    with serving(fake, free_port()) as server:
        for path in ("/livez", "/healthz", "/readyz", "/metrics", f"{LIST}?name=s3cr3t"):
            assert server.get(path)[0] == 200
        fake.status = 500
        until(lambda: server.get("/readyz")[0] == 503)  # a list serves for a moment
        _, log = server.stop()
    requests = [line for line in log if line["log.logger"] == "gunicorn.access"]
    assert [line["message"] for line in requests] == [f"GET {LIST} 200", "GET /readyz 503"]
    assert all(line["service.name"] == "slipway-api" for line in log)
    messages = [line["message"] for line in log]
    assert f"containers are listed from {fake.name}" in messages
    assert not any("ontrol socket" in message or "HTTP Request" in message for message in messages)
    assert "s3cr3t" not in json.dumps(log)


def test_request_id_goes_from_the_request_to_the_log(
    fake_docker: FakeDocker, free_port: Callable[[], int]
) -> None:
    """The id of a request is on its answer and in its line; every request has one."""
    with serving(fake_docker, free_port()) as server:
        asked = f"GET {LIST} HTTP/1.1\r\nHost: a\r\nX-Request-ID: my.id\r\n\r\n"
        assert server.send(asked.encode())[1]["X-Request-ID"] == "my.id"
        other = server.ask("/nothing")[1]["X-Request-ID"]
        _, log = server.stop()
    ids = [line["http.request.id"] for line in log if "url.path" in line]
    # Not in this order: a line is written after its answer, and there are two workers.
    assert sorted(ids) == sorted(["my.id", other])


UNREADABLE = [
    (b"s3cr3t\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\ns3cr3t \x00: x\r\n\r\n", 400),
    (b"GET /?s3cr3t" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: s3cr3t" + b"x" * 9000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: s3cr3t\r\n\r\n", 501),
]


def test_what_is_not_http_is_a_problem(
    fake_docker: FakeDocker, free_port: Callable[[], int]
) -> None:
    """Also what gunicorn itself refuses; the log says so without what was sent."""
    words = []
    with serving(fake_docker, free_port(), {"SLIPWAY_WORKERS": "1"}) as server:
        for raw, status in UNREADABLE:
            found, headers, body = server.send(raw)
            assert found == status
            assert headers["Content-Type"] == "application/problem+json"
            problem = json.loads(body)
            assert problem["status"] == status
            assert problem["request_id"] == headers["X-Request-ID"]
            words.append(problem["request_id"])
        _, log = server.stop()
    lines = [line for line in log if "http.request.id" in line]
    assert [line["http.request.id"] for line in lines] == words
    assert [line["http.response.status_code"] for line in lines] == [each[1] for each in UNREADABLE]
    assert "s3cr3t" not in json.dumps(log)


def test_metrics_are_those_of_all_workers(fake: FakeServer, free_port: Callable[[], int]) -> None:
    """Whoever of the workers is asked, it answers for all, also for one that was killed."""
    with serving(fake, free_port(), {"SLIPWAY_WORKERS": "3"}) as server:
        until(lambda: len(server.workers()) == 3)
        for _ in range(20):
            assert server.get(LIST)[0] == 200
        killed = server.workers()[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in server.workers() and len(server.workers()) == 3)
        for _ in range(20):
            assert server.get(LIST)[0] == 200
        server.get("/nothing")
        requests = "slipway_http_requests_total"
        assert server.metric(requests, method="GET", route=LIST, status="200") == 40
        assert server.metric(requests, route="unmatched", status="404") == 1
        duration = "slipway_http_request_duration_seconds"
        assert server.metric(f"{duration}_count", method="GET", route=LIST) == 40
        assert server.metric(f"{duration}_bucket", route=LIST, le="+Inf") == 40
        assert server.metric("slipway_source_calls_total", source=fake.name, outcome="ok") >= 1
        assert server.metric("slipway_source_call_duration_seconds_count", source=fake.name) >= 1
        text = server.get("/metrics")[1]
        for state in STATES:
            running = 1.0 if state in ("running", "exited") else 0.0
            assert f'slipway_containers{{state="{state}"}} {running}' in text


def test_start_is_that_of_the_server(fake_docker: FakeDocker, free_port: Callable[[], int]) -> None:
    """A worker that is replaced changes nothing: somebody is told when the whole starts again."""
    before = time.time()
    with serving(fake_docker, free_port(), {"SLIPWAY_WORKERS": "1"}) as server:
        started = server.metric("slipway_start_time_seconds")
        assert before < started < time.time()
        (killed,) = server.workers()
        os.kill(killed, signal.SIGKILL)
        until(lambda: server.workers() not in ([killed], []))
        assert server.metric("slipway_start_time_seconds") == started


def test_metrics_take_no_more_room_when_workers_die(
    fake_docker: FakeDocker, free_port: Callable[[], int]
) -> None:
    """A worker goes on with the files of its predecessor; at the end all are removed."""
    with serving(fake_docker, free_port(), {"SLIPWAY_WORKERS": "1"}) as server:
        (folder,) = folders_of(server.process.pid)
        server.get(LIST)
        files = sorted(path.name for path in folder.iterdir())
        for _ in range(2):
            (worker,) = server.workers()
            os.kill(worker, signal.SIGKILL)
            until(lambda gone=worker: server.workers() not in ([gone], []))  # type: ignore[misc]
            server.get(LIST)
        assert sorted(path.name for path in folder.iterdir()) == files
        assert server.metric("slipway_http_requests_total", route=LIST) == 3
        server.stop()
    assert not folder.exists()


def folders_of(pid: int) -> set[Path]:
    """Return the folders of metrics that a process has files of open in its workers."""
    found: set[Path] = set()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        for line in Path(f"/proc/{child}/maps").read_text().splitlines():
            if "slipway-metrics-" in line:
                found.add(Path(line.split(maxsplit=5)[5]).parent)
    return found


def test_source_is_asked_once_a_second_and_worker(
    fake_docker: FakeDocker, free_port: Callable[[], int]
) -> None:
    """However many requests come, at once and in turn, each worker asks once a second."""
    with serving(fake_docker, free_port()) as server:
        start = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            while time.monotonic() - start < 1.2:
                time.sleep(0.05)  # the processor is for other tests, too
                answers = [pool.submit(server.get, LIST) for _ in range(64)]
                assert {answer.result(10)[0] for answer in answers} == {200}
        seconds = time.monotonic() - start
    asked = [line for line in fake_docker.asked if line.endswith("/containers/json")]
    # At the beginning, and once more in each second that followed.
    assert 2 <= len(asked) <= 2 * (int(seconds) + 1)


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
    monkeypatch.setenv(FOLDER, "")  # it sets it, and so it is put back
    conf = runpy.run_module("slipway_api.gunicorn_conf")
    assert (conf["workers"], conf["threads"]) == (3, 5)
    assert conf["bind"] == ["0.0.0.0:8000"]
    assert conf["control_socket_disable"] is True
    conf["on_exit"](None)


def test_probe_fails_when_nobody_listens(free_port: Callable[[], int]) -> None:
    """The container's health check is false, not an error, when the server is gone."""
    assert probe.lives(f"127.0.0.1:{free_port()}") is False
