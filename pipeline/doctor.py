"""What is here and what is missing, with the one command that gets each thing.

It asks what a run asks before its first step, with the run's own code (`context.prepare`), so that
the two cannot disagree; and what is told of clusters beside it. All questions are asked side by
side, each in a thread that is left behind when it takes longer than `LIMIT`: of some, as the
look-up of a name, nothing else bounds the wait. Nothing is started or changed, but for what a run
remembers of the answers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import anyio.lowlevel
from anyio import from_thread

from pipeline import context, credentials, images, registry, trust
from pipeline.cluster import findings as clusters
from pipeline.connect import PROBE_LIMIT, Engine
from pipeline.errors import ExitCode, PipelineError, PrerequisiteError
from pipeline.finding import Finding
from pipeline.setup import apt, bases, buildx
from pipeline.setup.docker import Docker, DockerUnreachableError
from pipeline.setup.registry import loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.config import Settings
    from pipeline.console import Console
    from pipeline.registry import Exchange, Login
    from pipeline.setup.bases import Bases
    from pipeline.setup.registry import Registry

T = TypeVar("T")

LIMIT = 4.5
"""Seconds for an answer: choosing an engine takes 4 where neither Dagger nor Docker answers."""
DISK_NEEDED = 3 * 1024**3
"""Bytes: base images, both images with their tests, and the build cache came to 2 GB."""

_SET_UP = "make setup"
_WITH_CA = "PIPELINE_CA=FILE make run"
_COMMAND = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Questions:
    """What a run asks; a test hands in its own.

    Attributes:
        engine: Chooses one. Blocks, as do `login` and `trust`.
        bases: Finds the base images.
        login: Finds who we are to the registry.
        exchange: Returns what sends a request to the registry, and blocks.
        trust: Raises when downloads are intercepted by somebody unknown.
        clusters: Tells of clusters, which no run needs.
    """

    engine: Callable[[Settings], Engine] = context.choose_engine
    bases: Callable[[Settings], Awaitable[Bases]] = context.find_bases
    login: Callable[[Settings, images.Registry], Login | None] = credentials.find
    exchange: Callable[[images.Registry, Path | None], Exchange] = registry.blocking
    trust: Callable[[Path | None], None] = trust.check
    clusters: Callable[[], Awaitable[tuple[Finding, ...]]] = clusters.examine


async def doctor(
    settings: Settings, console: Console, questions: Questions | None = None
) -> ExitCode:
    """Print what is here and what is missing.

    Args:
        settings: What a run would be asked for; as JSON when it is to print that.
        console: Prints it.
        questions: What is asked; what a run asks when None.

    Returns:
        The exit code: 0 when a run could start, 3 when not.
    """
    found = await examine(settings, questions)
    if settings.json:
        console.say(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        console.findings(found)
    missing = any(finding.state == "missing" for finding in found)
    return ExitCode.PREREQUISITE if missing else ExitCode.DONE


async def examine(settings: Settings, questions: Questions | None = None) -> tuple[Finding, ...]:
    """Return what is here and what is missing, within about `LIMIT`.

    Args:
        settings: As for `doctor`.
        questions: As for `doctor`.
    """
    ask = questions or Questions()
    chosen, docker, root, registered, based, trusted, more = await _together(
        lambda: _chosen(settings, ask),
        lambda: _docker(settings.docker_host),
        lambda: _root(settings.docker_host),
        lambda: _registry(settings, ask),
        lambda: _bases(settings, ask),
        lambda: _ca(settings.ca, ask),
        ask.clusters,
    )
    engine, tools = _engine(chosen), _buildx()
    if isinstance(chosen, Engine) and chosen.name == "dagger":
        # It has its builder, and what verify cannot do without Docker it skips.
        docker, tools = _optional(docker), _optional(tools)
    elif engine.command == _SET_UP and docker.state == "missing":
        # It knows whose right it takes, and a daemon that hangs.
        engine = replace(engine, command=docker.command)
    if based.command == bases.home(settings).command and registered.command.endswith(_SET_UP):
        # What has the registry has the bases as well.
        based = replace(based, command=registered.command)
    return (
        _python(),
        engine,
        docker,
        tools,
        registered,
        based,
        trusted,
        _disk(root),
        _git(),
        *more,
    )


async def _together(*questions: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Ask side by side, and return the answers in order."""
    answers: list[Any] = [None] * len(questions)

    async def ask(number: int, question: Callable[[], Awaitable[Any]]) -> None:
        answers[number] = await question()

    async with anyio.create_task_group() as group:
        for number, question in enumerate(questions):
            group.start_soon(ask, number, question)
    return answers


async def _bounded(work: Callable[[], T], late: PipelineError) -> T | PipelineError:
    """Return what blocking work returns, or the error of ours that it raises.

    Args:
        work: Runs in a thread that does not keep the process from ending.
        late: What is returned when it takes longer than `LIMIT`.
    """
    outcome: list[T | Exception] = []
    done = anyio.Event()
    token = anyio.lowlevel.current_token()

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised below, where it is waited for
            outcome.append(error)
        try:
            from_thread.run_sync(done.set, token=token)
        except RuntimeError:
            # It was left behind, and the loop has ended since.
            return

    threading.Thread(target=run, daemon=True).start()
    with anyio.move_on_after(LIMIT):
        await done.wait()
    found = outcome[0] if outcome else late
    if isinstance(found, Exception) and not isinstance(found, PipelineError):
        raise found
    return found


def _missing(name: str, error: PipelineError, command: str = "") -> Finding:
    """Return an error of a run as what is missing.

    Args:
        name: What is missing.
        error: What a run would end with.
        command: What gets it; the command in the error's remedy, else the remedy, when empty.
    """
    tried = "; ".join(
        line.removeprefix("- ") for line in error.evidence.splitlines() if line.startswith("- ")
    )
    detail = f"{error.message}: {tried}" if tried else error.message
    named = _COMMAND.search(error.remedy)
    return Finding(name, "missing", detail, command or (named[1] if named else error.remedy))


def _optional(finding: Finding) -> Finding:
    return replace(finding, state="note") if finding.state == "missing" else finding


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    locked = sys.prefix != sys.base_prefix
    return Finding(
        "python",
        "ok" if locked else "note",
        f"{version} in {sys.prefix}",
        "" if locked else _SET_UP,
    )


async def _chosen(settings: Settings, ask: Questions) -> Engine | PipelineError:
    late = PrerequisiteError(
        f"No engine was found within {LIMIT:g} s", remedy="Order one with --engine"
    )
    return await _bounded(lambda: ask.engine(settings), late)


def _engine(chosen: Engine | PipelineError) -> Finding:
    if isinstance(chosen, PipelineError):
        return _missing("engine", chosen)
    return Finding("engine", "ok", f"{chosen.name} {chosen.version}: {chosen.reason}")


async def _docker(host: str) -> Finding:
    def version() -> str:
        docker = Docker(host)
        docker.ping(timeout=PROBE_LIMIT)
        return docker.version()

    late = DockerUnreachableError(host, "silent", f"no answer within {LIMIT:g} s")
    found = await _bounded(version, late)
    if isinstance(found, DockerUnreachableError):
        command = {
            "forbidden": 'sudo usermod -aG docker "$USER"',
            "silent": "sudo systemctl restart docker",
        }.get(found.why, _as_root())
        return _missing("docker", found, command)
    if isinstance(found, PipelineError):
        return _missing("docker", found)
    return Finding("docker", "ok", f"{found} at {host}")


async def _root(host: str) -> str:
    """Return the folder of the Docker Engine's data; empty when it is not here, or is not told."""

    def root() -> str:
        docker = Docker(host)
        return docker.root() if docker.socket is not None else ""

    found = await _bounded(root, PrerequisiteError("late"))
    return "" if isinstance(found, PipelineError) else found


def _buildx() -> Finding:
    client, plugin = buildx.client(), buildx.plugin()
    if client is not None and plugin is not None:
        return Finding("buildx", "ok", f"{plugin}, with {client}")
    lacking = (
        "Docker's client is not on PATH" if client is None else "Docker's client has no buildx"
    )
    return Finding("buildx", "missing", lacking, _as_root())


def _as_root() -> str:
    return _SET_UP if os.geteuid() == 0 else f"sudo {_SET_UP}"


async def _registry(settings: Settings, ask: Questions) -> Finding:
    address = images.parse_registry(settings.registry)
    client = registry.Client(address, exchange=ask.exchange(address, settings.ca))
    # Side by side, since whether it answers is asked without a name.
    login, answered, owner = await _together(
        lambda: _bounded(
            lambda: ask.login(settings, address),
            PrerequisiteError(
                f"Docker's credential store gave no answer within {LIMIT:g} s",
                remedy="Unlock it, or set PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD",
            ),
        ),
        lambda: _bounded(
            lambda: anyio.run(client.ping),
            PrerequisiteError(
                f"The registry {address.address} does not answer: nothing came for {LIMIT:g} s",
                remedy="Check the network and the name given with --registry",
            ),
        ),
        lambda: _owner(settings.registry),
    )
    if isinstance(login, PipelineError):
        again = f"docker login {address.address}" if "docker login" in login.remedy else ""
        return _missing("registry", login, again)
    if isinstance(answered, PipelineError):
        local = loopback(settings.registry)
        command = ""
        if local is not None:
            command = _beside(local) if owner == "something" else local.command
        found = _missing("registry", answered, command)
        return found if {"push", "verify"} & set(settings.steps) else _optional(found)
    who = f", as {login.username}" if login is not None else ""
    return Finding("registry", "ok", f"{address}{who}")


async def _owner(setting: str) -> Literal["registry", "something", "nothing", "elsewhere"]:
    """Return who has the port of a registry on this machine."""
    local = loopback(setting)
    if local is None:
        return "elsewhere"
    found = await _bounded(local.answer, PrerequisiteError("late"))
    return "something" if isinstance(found, PipelineError) else found


def _beside(taken: Registry) -> str:
    """Return the command that has a registry where the port of another is taken."""
    return f"PIPELINE_REGISTRY={replace(taken, port=taken.port + 1)} {_SET_UP}"


async def _bases(settings: Settings, ask: Questions) -> Finding:
    async def bases_() -> Bases:
        return await ask.bases(settings)

    late = PrerequisiteError(
        f"No base images were found within {LIMIT:g} s", remedy=f"Run `{_SET_UP}`"
    )
    found = await _bounded(lambda: anyio.run(bases_), late)
    if isinstance(found, PipelineError):
        home = bases.home(settings)
        if "--registry" in found.remedy:
            command = _beside(home)
        elif _SET_UP in found.remedy:
            command = home.command
        else:
            command = _WITH_CA if "--ca" in found.remedy else f"PIPELINE_BASES=debian {_SET_UP}"
        return _missing("base images", found, command)
    names = ", ".join(ref.partition("@")[0] for ref in found.references.values())
    return Finding("base images", "ok", f"{found.kind} ({found.reason}): {names}")


async def _ca(ca: Path | None, ask: Questions) -> Finding:
    def count() -> int:
        bundle = "" if ca is None else trust.read(ca)
        ask.trust(ca)
        return bundle.count("-----BEGIN CERTIFICATE-----")

    late = PrerequisiteError(f"Whether downloads are trusted was not told within {LIMIT:g} s")
    found = await _bounded(count, late)
    if isinstance(found, PipelineError):
        return _missing("CA", found, _WITH_CA)
    if ca is None:
        return Finding("CA", "note", "no bundle; needed where a proxy intercepts TLS", _WITH_CA)
    return Finding("CA", "ok", f"{ca} ({found} certificates)")


def _disk(root: str) -> Finding:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [Path(root), cache] if root else [cache]
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
