"""What is here and what is missing, as a table, with the one command that gets each thing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anyio import to_thread

from pipeline.errors import ExitCode, PrerequisiteError
from pipeline.setup import apt, bases, buildx, registry
from pipeline.setup.docker import Docker, DockerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.setup.settings import Settings

State = Literal["ok", "missing", "note"]

DISK_NEEDED = 3 * 1024**3
"""Bytes: base images, both images with their tests, and the build cache came to 2 GB."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a run needs, or that is good to know.

    Attributes:
        name: What it is.
        state: ``ok``; ``missing`` when no run can start without it; ``note`` otherwise.
        detail: What was found.
        command: The one command that gets what is missing; empty when nothing is.
    """

    name: str
    state: State
    detail: str
    command: str = ""


async def doctor(
    settings: Settings,
    as_json: bool = False,  # noqa: FBT001, FBT002  the switch of the command line
    more: tuple[Finding, ...] = (),
) -> int:
    """Print what is here and what is missing, on standard output.

    Args:
        settings: What a run would be asked for.
        as_json: Print it for a program.
        more: What was found of things that set-up knows nothing of.

    Returns:
        The exit code: 0 when a run could start, 3 when not.
    """
    findings = (*await examine(settings), *more)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))  # noqa: T201
    else:
        _print(findings)
    missing = any(finding.state == "missing" for finding in findings)
    return int(ExitCode.PREREQUISITE if missing else ExitCode.DONE)


async def examine(settings: Settings) -> tuple[Finding, ...]:
    """Return what is here and what is missing; starts and changes nothing."""
    docker = Docker(settings.docker_host)
    found = await to_thread.run_sync(_docker, docker)
    return (
        _python(),
        engine(settings.engine, os.environ, docker_answers=found.state == "ok"),
        found,
        _buildx(),
        await to_thread.run_sync(_registry, settings),
        await _bases(settings),
        _ca(settings.ca),
        await to_thread.run_sync(_disk, docker, found.state == "ok"),
        _git(),
    )


def engine(ordered: str, environ: Mapping[str, str], *, docker_answers: bool) -> Finding:
    """Return which engine a run would take, by what is cheap to see.

    Args:
        ordered: ``auto``, ``dagger`` or ``embedded``.
        environ: The environment.
        docker_answers: Whether a Docker Engine does.
    """
    dagger = _dagger(environ)
    if ordered != "embedded" and dagger:
        return Finding("engine", "ok", f"dagger: {dagger}")
    if ordered == "dagger":
        return Finding(
            "engine",
            "note",
            "dagger: no session, program or runner is here, the SDK would download it",
            "see https://docs.dagger.io/getting-started/installation",
        )
    if docker_answers:
        return Finding("engine", "ok", "embedded, on the Docker Engine")
    return Finding("engine", "missing", "embedded, and it needs a Docker Engine", "make setup")


def _dagger(environ: Mapping[str, str]) -> str:
    if environ.get("DAGGER_SESSION_PORT") and environ.get("DAGGER_SESSION_TOKEN"):
        return f"a session on port {environ['DAGGER_SESSION_PORT']}"
    named = environ.get("_EXPERIMENTAL_DAGGER_CLI_BIN")
    if named:
        return f"the program {named}"
    if environ.get("_EXPERIMENTAL_DAGGER_RUNNER_HOST"):
        return f"the runner {environ['_EXPERIMENTAL_DAGGER_RUNNER_HOST']}"
    program = shutil.which("dagger", path=environ.get("PATH"))
    return f"the program {program}" if program else ""


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    locked = sys.prefix != sys.base_prefix
    return Finding(
        "python",
        "ok" if locked else "note",
        f"{version} in {sys.prefix}",
        "" if locked else "make setup",
    )


def _docker(docker: Docker) -> Finding:
    try:
        docker.ping()
        return Finding("docker", "ok", f"{docker.version()} at {docker.host}")
    except DockerUnreachableError as error:
        command = {
            "forbidden": 'sudo usermod -aG docker "$USER"',
            "silent": "sudo systemctl restart docker",
        }.get(error.why, "make setup" if os.geteuid() == 0 else "sudo make setup")
        return Finding("docker", "missing", error.message, command)


def _buildx() -> Finding:
    client, plugin = buildx.client(), buildx.plugin()
    if client is not None and plugin is not None:
        return Finding("buildx", "ok", f"{plugin}, with {client}")
    lacking = (
        "Docker's client is not on PATH" if client is None else "Docker's client has no buildx"
    )
    return Finding(
        "buildx", "missing", lacking, "make setup" if os.geteuid() == 0 else "sudo make setup"
    )


def _registry(settings: Settings) -> Finding:
    local = registry.loopback(settings.registry)
    if local is None:
        return Finding("registry", "ok", f"{settings.registry}, elsewhere; push will tell")
    answer = local.answer()
    if answer == "registry":
        return Finding("registry", "ok", str(local))
    if answer == "nothing":
        return Finding("registry", "missing", f"nothing answers on {local}", local.command)
    return Finding(
        "registry",
        "missing",
        f"port {local.port} is taken by something else",
        f"PIPELINE_REGISTRY={local.host}:{local.port + 1} make setup",
    )


async def _bases(settings: Settings) -> Finding:
    try:
        found = await bases.resolve_bases(settings)
    except PrerequisiteError as error:
        command = (
            bases.home(settings).command
            if "make setup" in error.remedy
            else "PIPELINE_BASES=debian make setup"
        )
        return Finding("base images", "missing", error.message, command)
    names = ", ".join(ref.partition("@")[0].rpartition("/")[2] for ref in found.references.values())
    return Finding("base images", "ok", f"{found.kind} ({found.reason}): {names}")


def _ca(ca: Path | None) -> Finding:
    if ca is None:
        return Finding(
            "CA",
            "note",
            "no bundle; needed where a proxy intercepts TLS",
            "PIPELINE_CA=FILE make run",
        )
    try:
        count = ca.read_bytes().count(b"-----BEGIN CERTIFICATE-----")
    except OSError as error:
        return Finding("CA", "missing", f"{ca}: {error.strerror}", "PIPELINE_CA=FILE make run")
    if count == 0:
        return Finding("CA", "missing", f"{ca} holds no certificate", "PIPELINE_CA=FILE make run")
    return Finding("CA", "ok", f"{ca} ({count} certificates)")


def _disk(docker: Docker, answers: bool) -> Finding:  # noqa: FBT001  a fact, not a switch
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [cache]
    if answers and docker.socket is not None:
        places.insert(0, Path(docker.root()))
    free = {place: _free(place) for place in places}
    detail = ", ".join(
        f"{place}: {amount / 1024**3:.1f} GiB free" for place, amount in free.items()
    )
    if min(free.values()) < DISK_NEEDED:
        return Finding("disk", "note", detail, "python -m pipeline prune")
    return Finding("disk", "ok", detail)


def _free(place: Path) -> int:
    """Return what is free where a folder is, or would be made; in bytes."""
    for folder in (place, *place.parents):
        try:
            return shutil.disk_usage(folder).free
        except (FileNotFoundError, PermissionError):
            continue
    return 0


def _git() -> Finding:
    found = shutil.which("git")
    if found is not None:
        return Finding("git", "ok", found)
    command = "apt-get install git" if apt.distribution() in {"debian", "ubuntu"} else "install git"
    return Finding("git", "note", "not on PATH; tags come from content then", command)


def _print(findings: tuple[Finding, ...]) -> None:
    from rich.console import Console  # 0.1 s, and only here
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    table = Table(box=None, pad_edge=False)
    for heading in ("", "", "what is here", "to get it"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(
            Text(finding.name),
            Text(finding.state, style=colours[finding.state]),
            Text(finding.detail),
            Text(finding.command),
        )
    # Where nobody watches, nothing is folded: a command must survive being copied from a log.
    console = Console()
    if not console.is_terminal:
        console.width = 250
    console.print(table)
