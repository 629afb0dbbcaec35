"""The Docker Engine: used, installed, started, stopped; with programs that stand for it."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup import daemon, state
from pipeline.setup.command import Output
from pipeline.setup.docker import Docker

from .setup_fakes import Recorder, fake_docker, machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENGINE = """
import os, signal, socketserver, subprocess, sys, http.server
path, stubborn = sys.argv[1], "stubborn" in sys.argv
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in sys.argv:
    subprocess.Popen(["sleep", "60"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")
    def address_string(self):
        return "fake"
print("listening", flush=True)
with socketserver.UnixStreamServer(path, Handler) as server:
    server.serve_forever()
"""
"""A program that answers a ping on a socket, as dockerd does."""


@pytest.fixture(autouse=True)
def _no_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[list[str]]:
    """Return the command line of a program that stands for dockerd, and see that it ends."""
    program = tmp_path / "engine.py"
    program.write_text(ENGINE)
    yield [sys.executable, str(program), str(tmp_path / "d.sock")]
    for process in daemon.started():
        process.kill()
        process.wait(5)


def absent(tmp_path: Path) -> Docker:
    """Return a Docker Engine that is not there."""
    return Docker(f"unix://{tmp_path}/d.sock")


def test_an_engine_that_answers_is_used(tmp_path: Path) -> None:
    """Nothing is run, and nothing is remembered as started."""
    recorder = Recorder()
    with fake_docker(tmp_path) as docker:
        started = anyio.run(daemon.ensure_engine, docker.client, machine(recorder, []))
    assert started is None
    assert recorder.calls == []


def test_without_root_nothing_is_installed(tmp_path: Path) -> None:
    """Exit code 3, what is missing, and the command that gets it; nothing was run."""
    recorder = Recorder()
    docker = absent(tmp_path)
    poor = machine(recorder, [], root=False, dockerd=lambda: None, docker_host=docker.host)
    with pytest.raises(PrerequisiteError, match="may not install anything") as raised:
        anyio.run(daemon.ensure_engine, docker, poor)
    assert "sudo make setup" in raised.value.remedy
    assert raised.value.exit_code == 3
    assert recorder.calls == []


def test_without_apt_nothing_is_installed(tmp_path: Path) -> None:
    """Another package manager is not driven; the error says so."""
    recorder = Recorder()
    docker = absent(tmp_path)
    other = machine(recorder, [], apt=False, dockerd=lambda: None, docker_host=docker.host)
    with pytest.raises(PrerequisiteError) as raised:
        anyio.run(daemon.ensure_engine, docker, other)
    assert "knows apt only" in raised.value.remedy
    assert recorder.calls == []


def test_without_root_an_installed_engine_is_not_started(tmp_path: Path) -> None:
    """The remedy is the service manager's command."""
    docker = absent(tmp_path)
    poor = machine(Recorder(), [], root=False, docker_host=docker.host)
    with pytest.raises(PrerequisiteError, match="may not start it") as raised:
        anyio.run(daemon.ensure_engine, docker, poor)
    assert "systemctl start docker" in raised.value.remedy


def test_an_address_of_ones_own_is_never_started_at(tmp_path: Path) -> None:
    """A DOCKER_HOST that does not answer is for its owner to start."""
    docker = absent(tmp_path)
    with pytest.raises(PrerequisiteError, match="there is no socket") as raised:
        anyio.run(daemon.ensure_engine, docker, machine(Recorder(), []))
    assert "unset DOCKER_HOST" in raised.value.remedy


def test_a_context_of_dockers_client_is_pointed_out(tmp_path: Path) -> None:
    """On a laptop with Docker Desktop no second engine is installed beside it."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text('{"currentContext": "desktop-linux"}')
    docker = absent(tmp_path)
    recorder = Recorder()
    with pytest.raises(PrerequisiteError) as raised:
        anyio.run(daemon.ensure_engine, docker, machine(recorder, [], docker_host=docker.host))
    assert "docker context inspect" in raised.value.remedy
    assert recorder.calls == []


def test_an_engine_that_is_out_of_order_is_not_replaced(tmp_path: Path) -> None:
    """Starting another beside it would help nobody."""
    with fake_docker(tmp_path) as docker:
        docker.ping_answer = (500, {"message": "wait"}, {})
        host = docker.host
        with pytest.raises(PrerequisiteError, match="500: wait"):
            anyio.run(
                daemon.ensure_engine, docker.client, machine(Recorder(), [], docker_host=host)
            )


def test_systemd_starts_it_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is started, waited for, and remembered as a service."""
    monkeypatch.setattr(daemon, "START_LIMIT", 5.0)
    said: list[str] = []
    recorder = Recorder()
    docker = absent(tmp_path)
    servers = []

    def serve(line: str) -> None:
        assert line == "systemctl start docker"
        servers.append(fake_docker(tmp_path))
        (tmp_path / "d.sock").symlink_to(tmp_path / "docker.sock")
        servers[-1].__enter__()

    recorder.on_call = serve
    able = machine(recorder, said, systemd=True, docker_host=docker.host)
    try:
        started = anyio.run(daemon.ensure_engine, docker, able)
    finally:
        for server in servers:
            server.__exit__(None, None, None)
    assert started == state.Daemon(host=docker.host, service="docker")
    assert said == ["Starting Docker (systemctl start docker)"]


def test_it_is_installed_where_it_is_missing(tmp_path: Path) -> None:
    """With what else has to be installed in the same call of apt."""
    recorder = Recorder({"apt-cache policy": Output(0, "  Candidate: 1.0\n", "")})
    recorder.outputs["apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg"] = Output(1, "", "no")
    docker = absent(tmp_path)
    able = machine(
        recorder, [], dockerd=lambda: None, docker_host=docker.host, distribution="ubuntu"
    )
    with pytest.raises(PrerequisiteError, match="cannot be installed"):
        anyio.run(partial(daemon.ensure_engine, docker, able, packages=("mmdebstrap",)))
    assert "docker-buildx" in recorder.calls[-1]
    assert "mmdebstrap" in recorder.calls[-1]


def test_by_hand_it_is_started_apart_and_stopped_by_its_identity(
    tmp_path: Path, engine: list[str]
) -> None:
    """It answers when start returns, has a session of its own, and its children end with it."""
    said: list[str] = []
    docker = absent(tmp_path)
    started = anyio.run(
        partial(daemon.start, docker, [*engine, "child"], said.append, place=tmp_path)
    )
    assert started.process is not None
    pid = started.process.pid
    assert state.alive(started.process)
    assert os.getsid(pid) == pid
    children = daemon.children(started.process)
    assert len(children) == 1
    assert (tmp_path / "dockerd.log").read_text().startswith("listening\n")
    assert "Starting Docker by hand" in said[0]
    anyio.run(daemon.stop, started.process, said.append)
    assert not state.alive(started.process)
    assert not state.alive(children[0])
    assert len(said) == 1


def test_one_that_ignores_the_signal_is_killed_and_that_is_said(
    tmp_path: Path, engine: list[str]
) -> None:
    """The wait has a limit; killing is the last resort, and never silent."""
    said: list[str] = []
    started = anyio.run(
        partial(daemon.start, absent(tmp_path), [*engine, "stubborn"], print, place=tmp_path)
    )
    assert started.process is not None
    anyio.run(partial(daemon.stop, started.process, said.append, limit=0.2))
    assert not state.alive(started.process)
    assert len(said) == 1
    assert "killing it" in said[0]


def test_a_recycled_number_is_never_signalled(tmp_path: Path, engine: list[str]) -> None:
    """A process that started at another time is somebody else's."""
    started = anyio.run(partial(daemon.start, absent(tmp_path), engine, print, place=tmp_path))
    assert started.process is not None
    other = state.Process(started.process.pid, started.process.started - 1, started.process.boot)
    anyio.run(daemon.stop, other, print)
    assert state.alive(started.process)


def test_one_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    """The error comes with the end of its log, at once."""
    code = "import sys; print('failed to start: no iptables'); sys.exit(3)"
    with pytest.raises(PrerequisiteError, match="ended with 3") as raised:
        anyio.run(
            partial(
                daemon.start,
                absent(tmp_path),
                [sys.executable, "-c", code],
                print,
                place=tmp_path,
            )
        )
    assert raised.value.evidence == "failed to start: no iptables"


def test_one_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the limit, and nothing that nobody knows of stays."""
    monkeypatch.setattr(daemon, "START_LIMIT", 0.3)
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(PrerequisiteError, match="does not answer at"):
        anyio.run(
            partial(
                daemon.start,
                absent(tmp_path),
                [sys.executable, "-c", code],
                print,
                place=tmp_path,
            )
        )
    assert state.process(int(pid.read_text())) is None


def test_a_program_that_cannot_be_started_is_said(tmp_path: Path) -> None:
    """It is a prerequisite, not a traceback."""
    with pytest.raises(PrerequisiteError, match="cannot be started"):
        anyio.run(partial(daemon.start, absent(tmp_path), ["/no/dockerd"], print, place=tmp_path))


def test_a_missing_client_is_installed_with_its_plugin() -> None:
    """Both come from one call."""
    recorder = Recorder({"apt-cache policy": Output(0, "  Candidate: 1.0\n", "")})
    anyio.run(daemon.ensure_buildx, machine(recorder, [], client=lambda: None))
    assert "docker-cli" in recorder.calls[-1]
    assert "docker-buildx" in recorder.calls[-1]


@pytest.mark.parametrize(
    ("status", "package"), [("", "docker-buildx"), ("installed", "docker-buildx-plugin")]
)
def test_a_missing_plugin_is_installed_by_its_name(status: str, package: str) -> None:
    """Docker's own packages name it otherwise than Debian's."""
    recorder = Recorder({"apt-cache policy": Output(0, "  Candidate: 1.0\n", "")})
    recorder.outputs["dpkg-query"] = Output(0, status, "")
    anyio.run(daemon.ensure_buildx, machine(recorder, [], plugin=lambda: None))
    assert recorder.calls[-1].split()[-1] == package


def test_a_client_with_its_plugin_is_left_as_it_is() -> None:
    """Nothing is run."""
    recorder = Recorder()
    anyio.run(daemon.ensure_buildx, machine(recorder, []))
    assert recorder.calls == []


def test_this_machine_is_what_it_is() -> None:
    """The facts are those of the kernel and the file system."""
    found = daemon.this_machine(print)
    assert found.root == (os.geteuid() == 0)
