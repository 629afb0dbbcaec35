"""What is here and what is missing."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.setup import bases, doctor
from pipeline.setup.doctor import Finding

from .setup_fakes import FakeRegistry, FakeSettings, fake_docker, fake_registry

if TYPE_CHECKING:
    from pathlib import Path


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
    for name in ("DAGGER_SESSION_PORT", "_EXPERIMENTAL_DAGGER_CLI_BIN"):
        monkeypatch.delenv(name, raising=False)


def fill(registry: FakeRegistry) -> None:
    """Put the stand-ins into a registry."""
    for target in bases.TARGETS.values():
        registry.digests[f"slipway-standin/{target}:trixie-{bases.recipe()}"] = "sha256:x"


def named(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    """Return findings by their names."""
    return {finding.name: finding for finding in findings}


def bundle(tmp_path: Path) -> Path:
    """Make a CA bundle."""
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    return file


def test_a_machine_that_has_all_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and a row for each thing a run needs."""
    with fake_docker(tmp_path) as docker, fake_registry() as registry:
        fill(registry)
        settings = FakeSettings(
            registry=registry.address, docker_host=docker.host, ca=bundle(tmp_path)
        )
        assert anyio.run(doctor.doctor, settings) == 0
    shown = capsys.readouterr().out
    for row in ("python", "engine", "docker", "buildx", "registry", "base images", "CA", "disk"):
        assert f"\n{row} " in shown
    assert "missing" not in shown


def test_a_bare_machine_is_told_the_one_command_for_each(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3, and nothing was started or changed."""
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    settings = FakeSettings(
        registry=f"127.0.0.1:{free_port}", docker_host=f"unix://{tmp_path}/none.sock"
    )
    found = named(anyio.run(doctor.examine, settings))
    for name in ("engine", "docker", "buildx", "registry", "base images"):
        assert found[name].state == "missing", name
        assert "make setup" in found[name].command, name
    # As it is, set-up would start the default one.
    assert found["registry"].command == f"PIPELINE_REGISTRY=127.0.0.1:{free_port} make setup"
    assert found["git"].state == "note"
    assert found["git"].command
    assert found["CA"].state == "note"
    assert anyio.run(doctor.doctor, settings) == 3


def test_a_program_reads_the_same(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json the output is JSON and nothing else."""
    settings = FakeSettings(
        registry=f"127.0.0.1:{free_port}", docker_host=f"unix://{tmp_path}/none.sock"
    )
    assert anyio.run(partial(doctor.doctor, settings, as_json=True)) == 3
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "state", "detail", "command"} == set(rows[0])
    assert "docker" in [row["name"] for row in rows]


@pytest.mark.parametrize(
    ("environ", "detail"),
    [
        ({"DAGGER_SESSION_PORT": "1", "DAGGER_SESSION_TOKEN": "t"}, "dagger: a session on port 1"),
        ({"_EXPERIMENTAL_DAGGER_CLI_BIN": "/d"}, "dagger: the program /d"),
        ({"_EXPERIMENTAL_DAGGER_RUNNER_HOST": "tcp://r"}, "dagger: the runner tcp://r"),
        ({"PATH": "/none"}, "embedded, on the Docker Engine"),
    ],
)
def test_the_engine_is_told_by_what_is_cheap_to_see(environ: dict[str, str], detail: str) -> None:
    """A token is never shown."""
    assert doctor.engine("auto", environ, docker_answers=True) == Finding("engine", "ok", detail)


def test_an_engine_that_was_ordered_is_the_one_that_is_told() -> None:
    """Orders never fall back."""
    environ = {"_EXPERIMENTAL_DAGGER_CLI_BIN": "/d", "PATH": "/none"}
    assert "embedded" in doctor.engine("embedded", environ, docker_answers=True).detail
    none = doctor.engine("dagger", {"PATH": "/none"}, docker_answers=True)
    assert none.state == "note"
    assert none.command


def test_a_taken_port_names_another(tmp_path: Path) -> None:
    """The command is one that works as it stands."""
    with fake_docker(tmp_path) as docker, fake_registry() as registry:
        registry.version = ""
        settings = FakeSettings(registry=registry.address, docker_host=docker.host)
        found = named(anyio.run(doctor.examine, settings))["registry"]
    port = int(registry.address.rpartition(":")[2])
    assert found.state == "missing"
    assert found.command == f"PIPELINE_REGISTRY=127.0.0.1:{port + 1} make setup"


def test_a_registry_elsewhere_is_left_to_push(tmp_path: Path) -> None:
    """Nothing is asked of a machine that is not this one."""
    with fake_docker(tmp_path) as docker:
        settings = FakeSettings(registry="registry.example.com/a", docker_host=docker.host)
        found = named(anyio.run(doctor.examine, settings))["registry"]
    assert found.state == "ok"
    assert "elsewhere" in found.detail


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_bundle_that_is_none_is_missing(tmp_path: Path, text: str | None) -> None:
    """A file that was named and does not serve stops a run before it begins."""
    file = tmp_path / "bad.pem"
    if text is not None:
        file.write_text(text)
    settings = FakeSettings(docker_host=f"unix://{tmp_path}/none.sock", ca=file)
    found = named(anyio.run(doctor.examine, settings))["CA"]
    assert found.state == "missing"
    assert "PIPELINE_CA" in found.command
