"""Choosing an engine, connecting to it, and what its errors become."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import pkgutil
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagger
import httpx
import pytest

from pipeline import connect, log
from pipeline.config import Settings
from pipeline.connect import Engine, Machine, choose, translate
from pipeline.engine.store import Session, Store, remove_session
from pipeline.errors import InternalError, PrerequisiteError, StepError, UsageError
from pipeline.setup.docker import DockerUnreachableError

from .engine_fakes import exec_error, query_error

SETTINGS = Settings(root=Path("/project"))
DOWN = DockerUnreachableError("unix:///var/run/docker.sock", "refused", "nobody listens")
FORBIDDEN = DockerUnreachableError("unix:///var/run/docker.sock", "forbidden", "may not")


@dataclass
class Here:
    """What a machine has.

    Attributes:
        place: Where answers are remembered.
        environ: The environment.
        programs: What is on PATH.
        hosts: Those that answer, ``host:port``.
        docker: What asking Docker raises; None when it answers.
    """

    place: Path
    environ: dict[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    docker: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def machine(self) -> Machine:
        """Return it as choosing sees it."""
        environ = {"XDG_CACHE_HOME": str(self.place / "cache"), **self.environ}
        return Machine(environ, self._which, self._reach, self._ping, self.place)

    def _which(self, name: str) -> str | None:
        return f"/bin/{Path(name).name}" if Path(name).name in self.programs else None

    def _reach(self, host: str, port: int, limit: float) -> str:
        assert limit <= 3
        self.asked.append(f"{host}:{port}")
        return "" if f"{host}:{port}" in self.hosts else "nothing came"

    def _ping(self, _host: str) -> None:
        if self.docker is not None:
            raise self.docker


def test_running_session_goes_first(tmp_path: Path) -> None:
    """As the SDK has it, whatever else is there."""
    environ = {"DAGGER_SESSION_PORT": "4242", "DAGGER_SESSION_TOKEN": "t"}
    here = Here(tmp_path, environ, ("dagger", "docker"), ("127.0.0.1:4242",))
    engine = choose(SETTINGS, here.machine())
    assert engine.name == "dagger"
    assert engine.reason == "auto: the session at port 4242 (DAGGER_SESSION_PORT)"
    assert engine.version.startswith("0.21")
    assert engine.cli == ""


def test_session_that_has_ended_is_passed_over(tmp_path: Path) -> None:
    """And is told, when nothing else is there either."""
    environ = {"DAGGER_SESSION_PORT": "4242", "DAGGER_SESSION_TOKEN": "t"}
    here = Here(tmp_path, environ, docker=DOWN)
    with pytest.raises(PrerequisiteError) as caught:
        choose(SETTINGS, here.machine())
    assert "- the session at port 4242 (DAGGER_SESSION_PORT): nothing came" in caught.value.evidence


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"DAGGER_SESSION_PORT": "1"}, "without DAGGER_SESSION_TOKEN"),
        ({"DAGGER_SESSION_TOKEN": "t"}, "without DAGGER_SESSION_PORT"),
        ({"DAGGER_SESSION_PORT": "x", "DAGGER_SESSION_TOKEN": "t"}, "no port"),
        ({"DAGGER_SESSION_PORT": "70000", "DAGGER_SESSION_TOKEN": "t"}, "no port"),
        ({"_EXPERIMENTAL_DAGGER_CLI_BIN": "/no/such"}, "no program"),
    ],
)
def test_half_named_engine_is_an_error_of_usage(
    tmp_path: Path, environ: dict[str, str], word: str
) -> None:
    """What was named on purpose is not passed over in silence."""
    with pytest.raises(UsageError, match=word):
        choose(SETTINGS, Here(tmp_path, environ).machine())


def test_named_command_line_is_taken_at_once(tmp_path: Path) -> None:
    """Whoever names it answers for it."""
    here = Here(tmp_path, {"_EXPERIMENTAL_DAGGER_CLI_BIN": "my-dagger"}, ("my-dagger",))
    engine = choose(SETTINGS, here.machine())
    assert (engine.name, engine.cli) == ("dagger", "/bin/my-dagger")
    assert here.asked == []


def test_command_line_on_path_is_taken_when_its_engine_can_be_had(tmp_path: Path) -> None:
    """Its image has to come from somewhere, and something has to start it."""
    here = Here(tmp_path, {}, ("dagger", "podman"), ("registry.dagger.io:443",))
    engine = choose(SETTINGS, here.machine())
    assert (engine.name, engine.cli) == ("dagger", "/bin/dagger")
    assert "registry.dagger.io answers" in engine.reason


def test_runner_that_is_named_is_taken_by_the_command_line(tmp_path: Path) -> None:
    """A runner elsewhere needs nothing on this machine but the command line."""
    environ = {"_EXPERIMENTAL_DAGGER_RUNNER_HOST": "tcp://runner:1234"}
    engine = choose(SETTINGS, Here(tmp_path, environ, ("dagger",)).machine())
    assert "the runner tcp://runner:1234" in engine.reason


def test_command_line_that_the_sdk_fetched_before_is_known(tmp_path: Path) -> None:
    """It is where the SDK keeps it, in the SDK's version."""
    version = connect._sdk_version()  # noqa: SLF001 - the name of the file
    cli = tmp_path / f"cache/dagger/dagger-{version}"
    cli.parent.mkdir(parents=True)
    cli.touch()
    environ = {"_EXPERIMENTAL_DAGGER_RUNNER_HOST": "tcp://runner:1234"}
    assert choose(SETTINGS, Here(tmp_path, environ).machine()).cli == str(cli)


def test_newest_command_line_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    """Numbers are compared as numbers: 0.21.11 came after 0.21.9."""
    minor = connect._sdk_version().rpartition(".")[0]  # noqa: SLF001 - the name of the file
    folder = tmp_path / "cache/dagger"
    folder.mkdir(parents=True)
    for patch in (9, 11, 10):
        (folder / f"dagger-{minor}.{patch}").touch()
    environ = {"_EXPERIMENTAL_DAGGER_RUNNER_HOST": "tcp://runner:1234"}
    found = choose(SETTINGS, Here(tmp_path, environ).machine()).cli
    assert found == str(folder / f"dagger-{minor}.11")


def test_sdk_s_own_download_is_taken_where_it_answers(tmp_path: Path) -> None:
    """The SDK fetches the command line by itself."""
    here = Here(tmp_path, {}, ("docker",), ("dl.dagger.io:443",))
    engine = choose(SETTINGS, here.machine())
    assert (engine.name, engine.cli) == ("dagger", "")
    assert "dl.dagger.io answers" in engine.reason


def test_embedded_engine_is_taken_where_there_is_no_dagger(tmp_path: Path) -> None:
    """The reason says why it is not Dagger; the answer of Dagger's hosts is remembered."""
    here = Here(tmp_path, {}, ("docker",))
    for _ in range(2):
        engine = choose(SETTINGS, here.machine())
        assert engine.name == "embedded"
        assert engine.version
        assert "dl.dagger.io does not answer" in engine.reason
    assert here.asked == ["dl.dagger.io:443"]


def test_memory_that_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    """The next run asks again, which costs it a moment and no more."""
    (tmp_path / "file").touch()
    here = Here(tmp_path / "file", {}, ("docker",))
    assert choose(SETTINGS, here.machine()).name == "embedded"


def test_order_does_not_believe_an_old_refusal(tmp_path: Path) -> None:
    """The network may have come back since; what answered is believed."""
    assert choose(SETTINGS, Here(tmp_path, {}, ("docker",)).machine()).name == "embedded"
    back = Here(tmp_path, {}, ("docker",), ("dl.dagger.io:443",))
    assert choose(SETTINGS, back.machine()).name == "embedded"
    for _ in range(2):
        assert choose(replace(SETTINGS, engine="dagger"), back.machine()).name == "dagger"
    assert back.asked == ["dl.dagger.io:443"]


@pytest.mark.parametrize("memory", ["{", "[]", '{"host": "dl.dagger.io", "at": 0, "why": "old"}'])
def test_old_or_damaged_memory_is_asked_anew(tmp_path: Path, memory: str) -> None:
    """It is a memory, no more."""
    (tmp_path / "dagger.json").write_text(memory, encoding="utf-8")
    here = Here(tmp_path, {}, ("docker",))
    choose(SETTINGS, here.machine())
    assert here.asked == ["dl.dagger.io:443"]
    known = json.loads((tmp_path / "dagger.json").read_text(encoding="utf-8"))
    assert time.time() - known["at"] < 10


def test_orders_never_fall_back(tmp_path: Path) -> None:
    """``--engine dagger`` takes no embedded engine, ``--engine embedded`` no Dagger."""
    environ = {"_EXPERIMENTAL_DAGGER_CLI_BIN": "dagger"}
    here = Here(tmp_path, environ, ("dagger",))
    engine = choose(replace(SETTINGS, engine="embedded"), here.machine())
    assert (engine.name, engine.reason) == ("embedded", "ordered by --engine embedded")
    assert choose(replace(SETTINGS, engine="dagger"), here.machine()).reason.startswith("ordered")
    with pytest.raises(PrerequisiteError, match="--engine dagger") as caught:
        choose(replace(SETTINGS, engine="dagger"), Here(tmp_path, {}, ("docker",)).machine())
    assert "embedded" not in caught.value.evidence
    with pytest.raises(PrerequisiteError, match="--engine embedded") as caught:
        choose(replace(SETTINGS, engine="embedded"), Here(tmp_path, docker=DOWN).machine())
    assert "Dagger" not in caught.value.evidence


@pytest.mark.parametrize(
    ("docker", "word", "remedy"),
    [(DOWN, "nobody listens", "make setup"), (FORBIDDEN, "may not", "usermod -aG docker")],
)
def test_no_engine_tells_what_was_tried_in_order(
    tmp_path: Path, docker: Exception, word: str, remedy: str
) -> None:
    """Docker that does not run and Docker that may not be used are told apart."""
    with pytest.raises(PrerequisiteError, match="No engine can be had") as caught:
        choose(SETTINGS, Here(tmp_path, docker=docker).machine())
    lines = caught.value.evidence.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "Tried, in this order",
        "- a running session",
        "- Dagger's command line",
        "- a Dagger engine",
        "- the embedded engine",
    ]
    assert word in lines[-1]
    assert remedy in caught.value.remedy


def test_embedded_engine_is_for_this_machine(tmp_path: Path) -> None:
    """A Docker Engine elsewhere has another loopback interface and other files."""
    settings = replace(SETTINGS, docker_host="tcp://10.0.0.1:2375")
    with pytest.raises(PrerequisiteError) as caught:
        choose(settings, Here(tmp_path).machine())
    assert "tcp://10.0.0.1:2375 is not a socket" in caught.value.evidence


def test_port_is_reached_or_not() -> None:
    """Over a real connection, within the limit."""
    machine = Machine.this()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.reach("127.0.0.1", port, 2) == ""
    assert "refused" in machine.reach("127.0.0.1", port, 2)
    assert machine.reach("surely-not.invalid", 443, 2)
    with pytest.raises(DockerUnreachableError):
        machine.docker("unix:///no/such.sock")


# --- errors --------------------------------------------------------------------------------------


def _errors_of_the_sdk() -> set[type[BaseException]]:
    """Return every error that the SDK defines, in whatever module."""
    found: set[type[BaseException]] = set()
    for module in pkgutil.walk_packages(dagger.__path__, "dagger."):
        if ".mod" in module.name or module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if (
                isinstance(value, type)
                and issubclass(value, Exception)
                and not issubclass(value, Warning)
                and value.__module__.split(".")[0] == "dagger"
            ):
                found.add(value)
    return found


def test_every_error_of_the_sdk_is_mapped() -> None:
    """When the SDK grows an error, this says so, and it gets a sentence of its own."""
    names = {error.__name__ for error in _errors_of_the_sdk()}
    assert {"ExecError", "QueryError", "DownloadError", "SessionError"} <= names
    inside = {
        error.__name__
        for error in _errors_of_the_sdk()
        if any(base.__name__ in connect.NOT_OURS for base in error.__mro__)
    }
    assert names - inside == set(connect.ERRORS)


def test_failed_command_is_told_with_its_output() -> None:
    """Command, exit code and output: what a person needs."""
    raised = exec_error(["sh", "-c", "make\n  all"], 7, "half", "why\x1b[31m!")
    assert isinstance(raised, dagger.ExecError)
    error = translate("test api", raised)
    assert isinstance(error, StepError)
    assert error.message == "test api: `sh -c make all` ended with exit code 7"
    assert error.evidence == "half\nwhy!"


def test_long_command_is_cut_short() -> None:
    """A sentence stays one."""
    error = translate("x", exec_error(["sh", "-c", "a" * 500], 1, "", ""))
    assert len(error.message) < 160


def test_refused_query_is_told_by_its_first_line() -> None:
    """The rest is the evidence: a Dockerfile's failing instruction, say."""
    error = translate("build api", query_error("failed to solve:\n  RUN false\n"))
    assert isinstance(error, StepError)
    assert error.message == "build api: failed to solve:"
    assert "RUN false" in error.evidence
    assert translate("x", query_error("one line.")).evidence == "one line."


@pytest.mark.parametrize(
    ("raised", "kind", "word"),
    [
        (dagger.TransportError("gone"), StepError, "stopped answering: gone"),
        (dagger.ClientConnectionError("refused"), StepError, "stopped answering"),
        (dagger.InvalidQueryError("no field"), StepError, "does not serve"),
        (dagger.SessionError("no start"), PrerequisiteError, "no start"),
        (dagger.DownloadError("no net"), PrerequisiteError, "no net"),
        (dagger.DaggerError("else"), StepError, "else"),
        (httpx.ReadTimeout("slow"), StepError, "stopped answering: slow"),
        (TimeoutError(), StepError, "within its limit"),
        (
            OSError(28, "No space left on device", "/x"),
            StepError,
            r"No space left on device \(/x\)",
        ),
        (ValueError("odd"), InternalError, "odd"),
        (
            ExceptionGroup("", [ExceptionGroup("", [dagger.TransportError("gone")])]),
            StepError,
            "gone",
        ),
    ],
)
def test_each_kind_of_error_becomes_one_of_ours(
    raised: Exception, kind: type[Exception], word: str
) -> None:
    """Once, at the boundary, with the sentence that says where."""
    error = translate("push api", raised)
    assert type(error) is kind
    assert error.message.startswith(("push api", "Internal error in push api"))
    with pytest.raises(kind, match=word), connect.translating("push api"):
        raise raised


def test_our_own_error_passes_as_it_is() -> None:
    """It has its sentence already."""
    ours = UsageError("wrong")
    with pytest.raises(UsageError) as caught, connect.translating("x"):
        raise ours
    assert caught.value is ours
    assert translate("x", ours) is ours


def test_secret_in_an_error_is_scrubbed() -> None:
    """Neither the sentence nor the evidence tells it."""
    with log.remembering():
        log.conceal("hunter2")
        error = translate("x", query_error("hunter2\nand hunter2"))
        assert "hunter2" not in error.message + error.evidence
        assert "hunter2" not in translate("x", exec_error(["a"], 1, "hunter2", "")).evidence


# --- connecting ----------------------------------------------------------------------------------

SESSION = """#!{python}
import json, os, sys
print("an engine's log", file=sys.stderr, flush=True)
open({notes!r}, "w").write(json.dumps(sys.argv[1:]))
{body}
"""


def session_program(folder: Path, body: str) -> str:
    """Write a program that answers ``session`` as Dagger's command line does."""
    import sys

    program = folder / "cli"
    text = SESSION.format(python=sys.executable, notes=str(folder / "notes"), body=body)
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    return str(program)


@contextlib.contextmanager
def graphql() -> Any:  # noqa: ANN401 - a generator of a port
    """Serve just so much of the API that the SDK connects: its schema, and the version."""
    import http.server

    import graphql as core

    schema = core.build_schema("type Query { version: String! }")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            query = json.loads(self.rfile.read(size))["query"]
            done = core.graphql_sync(schema, query, {"version": "v0.21.8"})
            body = json.dumps({"data": done.data}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.anyio
async def test_command_line_is_started_and_ended(tmp_path: Path) -> None:
    """The SDK connects to what it says; its output goes to engine.log; nothing is left set."""
    with graphql() as port:
        line = json.dumps({"port": port, "session_token": "t"})
        program = session_program(tmp_path, f"print({line!r}, flush=True)\nsys.stdin.read()")
        settings = replace(SETTINGS, report_dir=tmp_path)
        engine = Engine("dagger", "0.21.11", "a test", program)
        async with connect.client(engine, settings, cache_dir=tmp_path) as client:
            assert await client.version() == "v0.21.8"
            assert "_EXPERIMENTAL_DAGGER_CLI_BIN" not in os.environ
    assert json.loads((tmp_path / "notes").read_text(encoding="utf-8"))[0] == "session"
    assert "an engine's log" in (tmp_path / "engine.log").read_text(encoding="utf-8")


@pytest.mark.anyio
async def test_command_line_that_cannot_start_an_engine_is_told(tmp_path: Path) -> None:
    """Its own words are in the error, and it is a prerequisite."""
    program = session_program(tmp_path, "sys.exit('no such driver')")
    settings = replace(SETTINGS, report_dir=tmp_path)
    engine = Engine("dagger", "0.21.11", "a test", program)
    with pytest.raises(PrerequisiteError, match=r"does not answer \(a test\)") as caught:
        async with connect.client(engine, settings, cache_dir=tmp_path):
            pass
    assert "--engine" in caught.value.remedy


@pytest.mark.anyio
async def test_session_that_does_not_end_well_hides_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the work came to stands; the log says the rest."""
    with graphql() as port, caplog.at_level(logging.WARNING):
        line = json.dumps({"port": port, "session_token": "t"})
        body = f"print({line!r}, flush=True)\nsys.stdin.read()\nsys.exit(3)"
        engine = Engine("dagger", "0.21.11", "a test", session_program(tmp_path, body))
        settings = replace(SETTINGS, report_dir=tmp_path)
        with pytest.raises(StepError, match="the work"):
            async with connect.client(engine, settings, cache_dir=tmp_path):
                raise StepError("the work")
    assert "did not end well" in caplog.text


@pytest.mark.anyio
async def test_embedded_engine_that_cannot_start_is_a_prerequisite(tmp_path: Path) -> None:
    """Its cache has no place, say, or Docker went away after it was looked for."""
    (tmp_path / "file").touch()
    settings = replace(SETTINGS, report_dir=tmp_path)
    engine = Engine("embedded", "0.1.0", "a test")
    with pytest.raises(PrerequisiteError, match="embedded engine cannot start"):
        async with connect.client(engine, settings, cache_dir=tmp_path / "file/cache"):
            pass


def test_what_a_killed_run_has_left_is_seen(tmp_path: Path) -> None:
    """A session whose process is gone, and not one that runs; Dagger looks after its own."""
    embedded = Engine("embedded", "0.1.0", "a test")
    assert not connect.left_behind(embedded, tmp_path)
    session = Session(Store(tmp_path))
    assert not connect.left_behind(embedded, tmp_path)
    # What the end of a process does, and no more.
    for file in (session._lock, session._using):  # noqa: SLF001 - there is no other way to be dead
        file.close()
    assert connect.left_behind(embedded, tmp_path)
    assert not connect.left_behind(replace(embedded, name="dagger"), tmp_path)
    remove_session(session.folder)
    assert not connect.left_behind(embedded, tmp_path)
