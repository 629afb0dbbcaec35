"""What is here and what is missing."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline import context, doctor
from pipeline.config import Settings
from pipeline.connect import Engine
from pipeline.console import open_console
from pipeline.doctor import Questions
from pipeline.errors import PrerequisiteError, UsageError
from pipeline.finding import Finding
from pipeline.registry import Answer, Login, Unreachable
from pipeline.setup import bases

from .setup_fakes import FakeRegistry, fake_docker, fake_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.images import Registry
    from pipeline.registry import Exchange

DAGGER = Engine("dagger", "0.21.9", "auto: the command line /bin/dagger, as it answers")
EMBEDDED = Engine("embedded", "0.1.0", "auto: Dagger cannot be had here (nothing came)")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache" / "not" / "made"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    folder = tmp_path / "docker" / "cli-plugins"
    folder.mkdir(parents=True)
    for file in (folder / "docker-buildx", tmp_path / "bin" / "docker", tmp_path / "bin" / "git"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def fill(registry: FakeRegistry) -> None:
    """Put the stand-ins into a registry."""
    for target in bases.TARGETS.values():
        registry.digests[f"slipway-standin/{target}:trixie-{bases.recipe()}"] = "sha256:x"


def bundle(tmp_path: Path) -> Path:
    """Make a CA bundle."""
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    return file


def questions(engine: Engine | Exception = EMBEDDED, **asked: Any) -> Questions:  # noqa: ANN401
    """Return what is asked, where the engine is known, no network is, and no cluster."""

    def choose(_settings: Settings) -> Engine:
        if isinstance(engine, Exception):
            raise engine
        return engine

    async def clusters() -> tuple[Finding, ...]:
        return (Finding("cluster", "note", "none"),)

    known: dict[str, Any] = {"engine": choose, "trust": lambda _ca: None, "clusters": clusters}
    return Questions(**(known | asked))


def found(settings: Settings, asked: Questions | None = None) -> dict[str, Finding]:
    """Return findings by their names."""
    every = anyio.run(doctor.examine, settings, asked or questions())
    return {finding.name: finding for finding in every}


def answering(status: int) -> Callable[[Registry, Path | None], Exchange]:
    """Return what asks a registry elsewhere: it answers with a status, 0 for not at all."""

    async def exchange(method: str, url: str, headers: Mapping[str, str], *, limit: int) -> Answer:
        assert (method, url) == ("GET", "https://registry.example.com:443/v2/")
        assert limit
        assert not headers
        if not status:
            why = "no route to host"
            raise Unreachable(why)
        return Answer(status, {})

    return lambda _registry, _ca: exchange


@contextmanager
def silent() -> Iterator[int]:
    """Yield a port on which connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def bare(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of a run on a machine that has nothing, not even the default registry."""
    monkeypatch.setattr(context, "DEFAULT_REGISTRY", f"127.0.0.1:{free_port}")
    return Settings(
        root=tmp_path,
        registry=f"127.0.0.1:{free_port}",
        docker_host=f"unix://{tmp_path}/none.sock",
        bases="debian",
    )


def prints(settings: Settings, asked: Questions | None = None) -> tuple[int, str]:
    """Return the exit code, and what is printed where nobody watches."""
    out = io.StringIO()
    console = open_console(
        quiet=False, json=settings.json, stdout=out, stderr=io.StringIO(), environ={}
    )
    code = anyio.run(doctor.doctor, settings, console, asked or questions())
    return int(code), out.getvalue()


def test_a_machine_that_has_all_passes(tmp_path: Path) -> None:
    """Exit code 0, and a row for each thing a run needs."""
    with fake_docker(tmp_path) as docker, fake_registry() as registry:
        fill(registry)
        settings = Settings(
            root=tmp_path,
            registry=registry.address,
            docker_host=docker.host,
            bases="debian",
            ca=bundle(tmp_path),
        )
        code, shown = prints(settings)
    assert code == 0
    rows = [line.split("  ")[0] for line in shown.splitlines()]
    assert rows[:8] == [
        *("python", "engine", "docker", "buildx", "registry", "base images", "CA", "disk")
    ]
    assert "missing" not in shown


def test_a_bare_machine_is_told_the_one_command_for_each(
    bare: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3, and nothing was started or changed."""
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    # The real questions, on a machine that has no program to start an engine with.
    asked = replace(questions(), engine=context.choose_engine)
    every = found(bare, asked)
    for name in ("engine", "docker", "buildx", "registry", "base images"):
        assert every[name].state == "missing", name
        assert "make setup" in every[name].command, name
    assert every["engine"].command == every["docker"].command
    # As it is, set-up would start the default one.
    assert every["registry"].command == f"PIPELINE_REGISTRY={bare.registry} make setup"
    assert every["git"].state == "note"
    assert every["git"].command
    assert every["CA"].state == "note"
    assert prints(bare, asked)[0] == 3


def test_a_program_reads_the_same(bare: Settings) -> None:
    """With --json the output is JSON and nothing else."""
    code, shown = prints(replace(bare, json=True))
    assert code == 3
    rows = json.loads(shown)
    assert {"name", "state", "detail", "command"} == set(rows[0])
    assert {"docker", "cluster"} <= {row["name"] for row in rows}


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_nobody_has_to_read_it_to_the_end(bare: Settings, arguments: list[str]) -> None:
    """A closed pipe, as of ``| head``, changes neither the exit code nor what is on the other."""
    read, write = os.pipe()
    os.close(read)
    words = [*arguments, "--registry", bare.registry, "--docker-host", bare.docker_host]
    words += ["--engine", "embedded", "--bases", "debian"]
    with os.fdopen(write) as closed:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("engine", [DAGGER, EMBEDDED])
def test_the_engine_is_the_one_that_a_run_takes(bare: Settings, engine: Engine) -> None:
    """With the reason that the run gives."""
    told = found(bare, questions(engine))["engine"]
    detail = f"{engine.name} {engine.version}: {engine.reason}"
    assert told == Finding("engine", "ok", detail)


def test_what_dagger_does_without_is_no_more_than_noted(bare: Settings) -> None:
    """A run starts without Docker then; verify says what it skips."""
    every = found(bare, questions(DAGGER))
    assert every["docker"].state == "note"
    assert every["docker"].command
    assert found(bare, questions(EMBEDDED))["docker"].state == "missing"


@pytest.mark.parametrize(
    ("error", "detail", "command"),
    [
        (
            PrerequisiteError(
                "No engine can be had (--engine dagger)",
                remedy="Install Dagger's command line",
                evidence="Tried, in this order:\n- a session: none\n- a host: no answer",
            ),
            "No engine can be had (--engine dagger): a session: none; a host: no answer",
            "Install Dagger's command line",
        ),
        (UsageError("Half is set", remedy="Set both"), "Half is set", "Set both"),
    ],
)
def test_no_engine_is_missing_with_what_was_tried(
    bare: Settings, error: Exception, detail: str, command: str
) -> None:
    """An order never falls back, and is not to be had by setting up Docker."""
    ordered = replace(bare, engine="dagger")
    assert found(ordered, questions(error))["engine"] == Finding(
        "engine", "missing", detail, command
    )


@pytest.mark.parametrize(
    ("host", "command"),
    [("ssh://me@there", "Set DOCKER_HOST"), ("tcp://127.0.0.1:1", "make setup")],
)
def test_a_docker_that_is_none_is_one_finding(bare: Settings, host: str, command: str) -> None:
    """The rest is told all the same."""
    every = found(replace(bare, docker_host=host))
    assert every["docker"].state == "missing"
    assert command in every["docker"].command
    assert every["disk"].state == "ok"


def test_a_taken_port_names_another(bare: Settings) -> None:
    """The command is one that works as it stands, for the bases as well."""
    with fake_registry() as registry:
        registry.version, registry.status = "", 404
        every = found(replace(bare, registry=registry.address))
    port = int(registry.address.rpartition(":")[2])
    for name in ("registry", "base images"):
        assert every[name].state == "missing"
        assert every[name].command == f"PIPELINE_REGISTRY=127.0.0.1:{port + 1} make setup"


def test_bases_are_those_that_a_run_would_use(
    bare: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry of one's own has none; the run takes those of the default one."""
    with fake_registry() as default, fake_registry() as other:
        fill(default)
        monkeypatch.setattr(context, "DEFAULT_REGISTRY", default.address)
        every = found(replace(bare, registry=other.address))
    assert every["registry"].state == "ok"
    assert every["base images"].state == "ok"
    assert f"{default.address}/slipway-standin/python" in every["base images"].detail


@pytest.mark.parametrize(("status", "state"), [(200, "ok"), (401, "ok"), (404, "missing")])
def test_a_registry_elsewhere_is_asked(bare: Settings, status: int, state: str) -> None:
    """By the name that it knows us by."""
    asked = questions(login=lambda *_: Login("ann", "secret"), exchange=answering(status))
    told = found(replace(bare, registry="registry.example.com/a"), asked)["registry"]
    assert told.state == state
    assert "registry.example.com" in told.detail
    assert "secret" not in told.detail
    if state == "ok":
        assert told.detail.endswith(", as ann")
    else:
        assert told.command == "Check the name given with --registry"


def test_a_registry_that_no_step_asks_is_no_more_than_noted(bare: Settings) -> None:
    """As a run that neither pushes nor verifies begins without it."""
    asked = questions(exchange=answering(0))
    away = replace(bare, registry="registry.example.com")
    assert found(away, asked)["registry"].state == "missing"
    assert found(replace(away, steps=("lint", "test")), asked)["registry"].state == "note"


def test_a_login_that_cannot_be_told_is_missing(bare: Settings) -> None:
    """Since a run asks for it first; the command has the registry's name in it."""

    def untold(*_: object) -> Login:
        message = "Docker's credential store cannot tell the login"
        raise UsageError(message, remedy="Log in again with `docker login`")

    asked = questions(login=untold, exchange=answering(200))
    told = found(replace(bare, registry="registry.example.com"), asked)["registry"]
    assert (told.state, told.command) == ("missing", "docker login registry.example.com")


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_bundle_that_is_none_is_missing(bare: Settings, tmp_path: Path, text: str | None) -> None:
    """A file that was named and does not serve stops a run before it begins."""
    file = tmp_path / "bad.pem"
    if text is not None:
        file.write_text(text)
    told = found(replace(bare, ca=file))["CA"]
    assert told.state == "missing"
    assert "PIPELINE_CA" in told.command


def test_an_intercepted_network_is_missing_its_ca(bare: Settings) -> None:
    """A run stops at it before its first step."""

    def intercepted(_ca: Path | None) -> None:
        message = "The connection to pypi.org is intercepted"
        raise PrerequisiteError(message, remedy="Name the CA bundle")

    told = found(bare, questions(trust=intercepted))["CA"]
    assert (told.state, told.command) == ("missing", "PIPELINE_CA=FILE make run")


def test_what_does_not_answer_holds_up_nothing(
    bare: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every question has its limit, and they are asked side by side."""
    monkeypatch.setattr(doctor, "LIMIT", 0.3)
    hang = partial(time.sleep, 3)
    with silent() as port:
        asked = replace(
            questions(login=lambda *_: hang(), trust=lambda _ca: hang()),
            engine=lambda _settings: hang() or EMBEDDED,
        )
        address = f"127.0.0.1:{port}"
        here = replace(bare, registry=address, docker_host=f"tcp://{address}")
        began = time.monotonic()
        every = found(here, asked)
        took = time.monotonic() - began
    assert took < 2
    late = ("engine", "docker", "registry", "base images", "CA")
    assert [every[name].state for name in late] == ["missing"] * 5
    assert all(every[name].command for name in late)
    assert every["disk"].state == "ok"
