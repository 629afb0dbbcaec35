"""Choose an engine, and yield a client of it.

The order, for ``auto``: a session that runs already; Dagger's command line; a runner that the
environment names, with the command line that the SDK fetched before; the SDK's own download, where
Dagger's hosts answer; the embedded engine, where Docker answers on this machine. An order for
``dagger`` or ``embedded`` leaves out the rest and never falls back.

Choosing imports neither the SDK nor the embedded engine: a run in which everything is cached needs
neither. What the SDK raises becomes one of our errors here, once: see `translate`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import anyio

from pipeline import log
from pipeline.errors import InternalError, PipelineError, PrerequisiteError, StepError, UsageError
from pipeline.setup import state
from pipeline.setup.docker import Docker, DockerUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    import dagger

    from pipeline.config import Settings

_log = logging.getLogger(__name__)

SESSION_PORT = "DAGGER_SESSION_PORT"
SESSION_TOKEN = "DAGGER_SESSION_TOKEN"  # noqa: S105 - the name of a variable
CLI_BIN = "_EXPERIMENTAL_DAGGER_CLI_BIN"
RUNNER_HOST = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"

DOWNLOAD_HOST = "dl.dagger.io"
IMAGE_HOST = "registry.dagger.io"
"""Where the engine's own image comes from, when it is not on the machine."""

PROBE_LIMIT = 2.0
"""Seconds for the question whether Dagger's hosts answer."""
REMEMBERED = 600.0
"""Seconds for which the answer holds, so that a dead network does not cost every run 2 s."""
CONNECT_LIMIT = 300.0
"""Seconds until an engine must answer: a first start of Dagger pulls an image of 200 MB."""
CLOSE_LIMIT = 10.0
"""Seconds that the end of a connection may take, whatever happens."""

_NUMBER = re.compile("[0-9]+")
_RUNTIMES = ("docker", "podman", "nerdctl", "finch", "container")
"""Programs with which Dagger's command line starts an engine."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs the steps.

    Attributes:
        name: ``dagger`` or ``embedded``.
        version: Of the engine; for Dagger that of the SDK, which asks for the same, until it has
            answered.
        reason: Why this one, one sentence without a full stop.
        cli: Dagger's command line; empty when the SDK needs none, or fetches its own.
    """

    name: str
    version: str
    reason: str
    cli: str = ""


class Reach(Protocol):
    """Tells whether a TCP port accepts; the seam that tests replace."""

    def __call__(self, host: str, port: int, limit: float) -> str:
        """Return why it does not; empty when it does."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What choosing looks at.

    Attributes:
        environ: The environment.
        which: Finds a program on PATH.
        reach: Tells whether a port accepts.
        docker: Raises `DockerUnreachableError` when the Docker Engine does not answer.
        place: The folder in which the answer of Dagger's hosts is remembered.
    """

    environ: Mapping[str, str]
    which: Callable[[str], str | None]
    reach: Reach
    docker: Callable[[str], None]
    place: Path

    @staticmethod
    def this() -> Machine:
        """Return the machine that this process runs on."""
        return Machine(os.environ, shutil.which, _reach, _ping_docker, state.folder())


def choose(settings: Settings, machine: Machine | None = None) -> Engine:
    """Return the engine for a run. Blocks for at most about `PROBE_LIMIT` twice.

    Raises:
        UsageError: The environment names a session or a command line only by half.
        PrerequisiteError: There is none; what was tried, in order, is the evidence.
    """
    machine = machine or Machine.this()
    tried: list[str] = []
    remedy = ""
    ordered = settings.engine != "auto"
    if settings.engine in ("auto", "dagger"):
        found = _choose_dagger(settings, machine, tried)
        if found is not None:
            return found
    if settings.engine in ("auto", "embedded"):
        why, remedy = _embedded_refused(settings, machine)
        if not why:
            reason = "ordered by --engine embedded"
            if not ordered:
                reason = f"auto: Dagger cannot be had here ({tried[-1].partition(': ')[2]})"
            return Engine("embedded", _embedded_version(), reason)
        tried.append(f"the embedded engine: {why}")
    raise PrerequisiteError(
        f"No engine can be had (--engine {settings.engine})" if ordered else "No engine can be had",
        remedy=_remedy(settings, remedy),
        evidence="Tried, in this order:\n" + "\n".join(f"- {line}" for line in tried),
    )


def _remedy(settings: Settings, docker: str) -> str:
    if settings.engine == "embedded":
        return docker
    dagger = f"install Dagger's command line, or name a runner in {RUNNER_HOST}"
    if settings.engine == "dagger":
        return f"{dagger[0].upper()}{dagger[1:]}; or leave --engine out"
    return f"{docker}; or {dagger}"


def _choose_dagger(settings: Settings, machine: Machine, tried: list[str]) -> Engine | None:
    version = _sdk_version()
    prefix = "ordered by --engine dagger, with" if settings.engine == "dagger" else "auto:"

    def took(what: str, cli: str = "") -> Engine:
        return Engine("dagger", version, f"{prefix} {what}", cli)

    session = _session(machine, tried)
    if session:
        return took(session)
    named = machine.environ.get(CLI_BIN, "")
    if named:
        found = machine.which(named)
        if found is None:
            raise UsageError(
                f"{CLI_BIN} names {named}, which is no program",
                remedy="Correct it, or unset it",
            )
        return took(f"the command line {named} ({CLI_BIN})", found)
    fetched = _fetched(machine, version)
    cli = machine.which("dagger") or fetched
    runner = machine.environ.get(RUNNER_HOST, "")
    if cli is None:
        tried.append(f"Dagger's command line: not on PATH, and {CLI_BIN} is not set")
    if cli is not None and runner:
        return took(f"the runner {runner} ({RUNNER_HOST}), by {cli}", cli)
    startable = runner or any(machine.which(runtime) for runtime in _RUNTIMES)
    if not startable:
        tried.append("a Dagger engine: no program that could start one, and no runner is named")
        return None
    host = IMAGE_HOST if cli is not None else DOWNLOAD_HOST
    why = _host_refused(host, machine, ordered=settings.engine == "dagger")
    if not why:
        how = f"the command line {cli}" if cli is not None else "the SDK's own download"
        return took(f"{how}, as {host} answers", cli or "")
    what = f"an engine by {cli}" if cli is not None else "the SDK's download of the command line"
    tried.append(f"{what}: {host} does not answer: {why}")
    return None


def _session(machine: Machine, tried: list[str]) -> str:
    port, token = (machine.environ.get(name, "") for name in (SESSION_PORT, SESSION_TOKEN))
    if not port and not token:
        tried.append(f"a running session: {SESSION_PORT} is not set")
        return ""
    if not (port and token):
        have, lack = (SESSION_PORT, SESSION_TOKEN) if port else (SESSION_TOKEN, SESSION_PORT)
        raise UsageError(f"{have} is set without {lack}", remedy="Set both, or neither")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):  # noqa: PLR2004
        raise UsageError(f"{SESSION_PORT} is {port!r}, which is no port", remedy="Correct it")
    why = machine.reach("127.0.0.1", int(port), PROBE_LIMIT)
    if why:
        tried.append(f"the session at port {port} ({SESSION_PORT}): {why}")
        return ""
    return f"the session at port {port} ({SESSION_PORT})"


def _fetched(machine: Machine, version: str) -> str | None:
    """Return the command line that the SDK downloaded before, where it keeps it."""
    home = machine.environ.get("XDG_CACHE_HOME", "").strip()
    folder = Path(home).expanduser() if home else Path.home() / ".cache"
    found = (folder / "dagger").glob(f"dagger-{version.rpartition('.')[0]}.*")
    newest = max(found, key=lambda file: [int(n) for n in _NUMBER.findall(file.name)], default=None)
    return None if newest is None else str(newest)


def _host_refused(host: str, machine: Machine, *, ordered: bool) -> str:
    """Return why one of Dagger's hosts does not answer; empty when it does.

    Who has ordered Dagger may have just mended the network: a refusal is not remembered then.
    """
    file = machine.place / "dagger.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        recent = known["host"] == host and 0 <= time.time() - known["at"] < REMEMBERED
        if recent and not (ordered and known["why"]):
            return str(known["why"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        # It is a memory, no more: asking again is right whatever is wrong with it.
        _log.debug("asking %s: %s", host, error)
    why = machine.reach(host, 443, PROBE_LIMIT)
    state.remember(file, json.dumps({"host": host, "at": time.time(), "why": why}))
    return why


def _embedded_refused(settings: Settings, machine: Machine) -> tuple[str, str]:
    """Return why the embedded engine cannot serve, and what to do; empty when it can."""
    host = settings.docker_host
    if not host.startswith("unix://"):
        why = f"it is for this machine's Docker Engine, and {host} is not a socket"
        return why, "Unset DOCKER_HOST, or point it to a socket of this machine"
    try:
        machine.docker(host)
    except DockerUnreachableError as error:
        return error.message, error.remedy.rstrip(".")
    return "", ""


def _embedded_version() -> str:
    from pipeline.engine import __version__  # the engine is one of two

    return __version__


def _sdk_version() -> str:
    from importlib.metadata import version  # only where Dagger is looked for

    return version("dagger-io")


def _reach(host: str, port: int, limit: float) -> str:
    """Connect to a port, in a thread that may be left behind: a name's look-up has no limit."""
    import threading  # beside its one use

    outcome: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=limit).close()
        except OSError as error:
            outcome.append(error.strerror or str(error) or "no connection")
        else:
            outcome.append("")

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(limit)
    return outcome[0] if outcome else f"nothing came within {limit:.0f} s"


def _ping_docker(host: str) -> None:
    Docker(host).ping(timeout=PROBE_LIMIT)


def left_behind(engine: Engine, cache_dir: Path) -> bool:
    """Return whether a run that was killed has left what the engine's next session removes. Blocks.

    Args:
        engine: What `choose` returned; Dagger looks after its own.
        cache_dir: As for `client`.
    """
    sessions = cache_dir / "sessions"
    try:
        if engine.name != "embedded" or not any(sessions.iterdir()):
            return False
        from pipeline.engine.store import Store, dead_sessions  # only when somebody was here

        with dead_sessions(Store(cache_dir)) as dead:
            return bool(dead)
    except OSError:
        # No session was ever here, or the engine will say what is wrong with the folder.
        return False


@contextlib.asynccontextmanager
async def client(
    engine: Engine, settings: Settings, *, cache_dir: Path
) -> AsyncIterator[dagger.Client]:
    """Yield a client of the engine; everything of the session is gone afterwards.

    Args:
        engine: What `choose` returned.
        settings: Of the run. The engine's own output goes to ``engine.log`` in its report folder.
        cache_dir: Where the embedded engine keeps its results.

    Raises:
        PrerequisiteError: The engine does not answer within `CONNECT_LIMIT`.
    """
    with (settings.report_dir / "engine.log").open("w", encoding="utf-8", buffering=1) as output:
        if engine.name != "embedded":
            async with _connected(engine, output) as connected:
                yield connected
            return
        from pipeline.engine import session  # the engine is one of two

        with _logged("pipeline.engine", output):
            async with _served(session, settings, cache_dir) as endpoint:
                environ = {SESSION_PORT: str(endpoint.port), SESSION_TOKEN: endpoint.token}
                log.conceal(endpoint.token)
                async with _connected(engine, output, environ) as connected:
                    yield connected


@contextlib.asynccontextmanager
async def _served(session: Any, settings: Settings, cache_dir: Path) -> AsyncIterator[Any]:  # noqa: ANN401
    """Serve the embedded engine; what it raises before it answers is about the machine."""
    from pipeline.engine.core.errors import EngineError

    stack = contextlib.AsyncExitStack()
    try:
        endpoint = await stack.enter_async_context(
            session.serve(cache_dir=cache_dir, docker_host=settings.docker_host, cwd=settings.root)
        )
    except (EngineError, OSError) as error:
        raise PrerequisiteError(
            f"The embedded engine cannot start: {_first_line(str(error))}",
            remedy="See `python -m pipeline doctor`",
            evidence=str(error),
        ) from error
    async with stack:
        yield endpoint


@contextlib.asynccontextmanager
async def _connected(
    engine: Engine,
    output: TextIO,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[dagger.Client]:
    import dagger  # 1.2 s that a run in which everything is cached does not cost

    environ = environ or ({CLI_BIN: engine.cli} if engine.cli else {})
    connection = dagger.Connection(
        dagger.Config(
            log_output=output,
            # An engine that has answered once is not asked again for what it failed to do.
            retry=None,
            timeout=dagger.Timeout(None, connect=10.0),
        )
    )
    try:
        try:
            with _environment(environ), anyio.fail_after(CONNECT_LIMIT):
                connected = await connection.__aenter__()
        except Exception as error:
            raise _unconnected(engine, error) from error
        yield connected
    finally:
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_LIMIT):
            # The work is done or has failed already: what the end of the session has to say is
            # for the log, and must not hide that.
            try:
                await connection.__aexit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - see above
                _log.warning("the session did not end well: %s", error)


def _unconnected(engine: Engine, error: Exception) -> PipelineError:
    """Return the error for an engine that was chosen and does not answer."""
    text = str(error) or f"nothing came within {CONNECT_LIMIT:.0f} s"
    return PrerequisiteError(
        f"The engine does not answer ({engine.reason}): {_first_line(text)}",
        remedy=(
            "See engine.log among the reports, or choose another with --engine"
            if engine.name == "dagger"
            else "See `python -m pipeline doctor`"
        ),
        evidence=text,
    )


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the moment in which the SDK reads them, and no longer."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _logged(name: str, output: TextIO) -> Iterator[None]:
    """Write the records of a logger to a file, scrubbed, from INFO on."""

    class Scrubbed(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return log.scrub(super().format(record))

    handler = logging.StreamHandler(output)
    handler.setFormatter(Scrubbed("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


_LOST = (
    "See engine.log among the reports and whether Docker is up (`python -m pipeline doctor`), then "
    "run it again"
)


def _exec(where: str, error: Any) -> PipelineError:  # noqa: ANN401 - the SDK is not imported here
    output = "\n".join(part for part in (error.stdout, error.stderr) if part)
    return StepError(
        f"{where}: `{_shown(error.command)}` ended with exit code {error.exit_code}",
        evidence=log.printable(output),
    )


def _query(where: str, error: Any) -> PipelineError:  # noqa: ANN401
    text = log.printable(str(error))
    first = _first_line(text)
    return StepError(f"{where}: {first}", evidence="" if text.strip() == first else text)


def _invalid(where: str, error: Any) -> PipelineError:  # noqa: ANN401
    return StepError(
        f"{where}: the engine does not serve what this step asks for",
        remedy="Use an engine of the SDK's version",
        evidence=log.printable(str(error.__cause__ or error)),
    )


def _lost(where: str, error: Any) -> PipelineError:  # noqa: ANN401
    text = log.printable(str(error))
    return StepError(
        f"{where}: the engine stopped answering: {_first_line(text)}", remedy=_LOST, evidence=text
    )


def _unstarted(where: str, error: Any) -> PipelineError:  # noqa: ANN401
    text = log.printable(str(error))
    return PrerequisiteError(
        f"{where}: {_first_line(text)}",
        remedy="See `python -m pipeline doctor`, or choose another engine with --engine",
        evidence=text,
    )


ERRORS: dict[str, Callable[[str, Any], PipelineError]] = {
    "ExecError": _exec,
    "QueryError": _query,
    "InvalidQueryError": _invalid,
    "TransportError": _lost,
    "ClientConnectionError": _lost,
    "ClientError": _lost,
    "DownloadError": _unstarted,
    "SessionError": _unstarted,
    "ProvisionError": _unstarted,
    "DaggerError": _lost,
}
"""What each error of the SDK becomes, by the name of its class; a test compares with the SDK."""

NOT_OURS = frozenset({"ModuleError"})
"""Errors of the SDK that only code inside an engine meets; the test leaves them out."""


def translate(where: str, error: BaseException) -> PipelineError:
    """Return our error for one that came from below.

    Args:
        where: What was going on, to begin the sentence.
        error: One of ours is returned as it is; of a group, the first counts.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PipelineError):
        return error
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] == "dagger" and kind.__name__ in ERRORS:
            return ERRORS[kind.__name__](where, error)
        if kind.__module__.partition(".")[0] in ("httpx", "gql"):
            return _lost(where, error)
    if isinstance(error, TimeoutError):
        return StepError(f"{where}: it did not end within its limit", remedy=_LOST)
    if isinstance(error, OSError):
        return StepError(
            f"{where}: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else ""),
            remedy="See `python -m pipeline doctor`",
        )
    import traceback  # for a mistake of ours only

    text = "".join(traceback.format_exception(error))
    return InternalError(where, error, evidence=log.scrub(text))


@contextlib.contextmanager
def translating(where: str) -> Iterator[None]:
    """Raise our errors for those that come from below; see `translate`."""
    try:
        yield
    except Exception as error:
        ours = translate(where, error)
        if ours is error:
            raise
        raise ours from error


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "").rstrip(".")


def _shown(command: list[str]) -> str:
    """Return a command as one line, a script within it cut short."""
    line = " ".join(" ".join(command).split())
    return line if len(line) <= 100 else f"{line[:97]}…"  # noqa: PLR2004 - what a line holds
