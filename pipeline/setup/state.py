"""What set-up remembers: what it started, so that `down` stops just that, and a lock.

All of it is in one folder of the user, not of the checkout: two checkouts share one Docker Engine
and one registry. A process is remembered with the time it started and the boot it started in, so
that another one with the same number is never taken for it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from pipeline.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pipeline.setup.settings import Say

_log = logging.getLogger(__name__)

LOCK_LIMIT = 600.0
"""Seconds that one set-up waits for another: the longest that a first one takes, and more."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, so named that no other is taken for it.

    Attributes:
        pid: Its number.
        started: When it started, in clock ticks after the boot (proc(5), field 22 of stat).
        boot: The identity of the boot.
    """

    pid: int
    started: int
    boot: str


@dataclass(frozen=True, slots=True)
class Daemon:
    """A Docker Engine that set-up started.

    Attributes:
        host: Its address.
        process: It, when it was started by hand; None when a service manager has it.
        service: The name of the service; empty when it was started by hand.
        log: The file that it writes to; empty when a service manager has it.
    """

    host: str
    process: Process | None = None
    service: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A container that set-up started: its id, its name and the Docker Engine that has it."""

    id: str
    name: str
    host: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything that set-up started and that has not been stopped by `down`."""

    daemon: Daemon | None = None
    registries: tuple[Container, ...] = ()

    def with_daemon(self, daemon: Daemon | None) -> State:
        """Return this with another Docker Engine."""
        return replace(self, daemon=daemon)

    def with_registry(self, registry: Container) -> State:
        """Return this with one more registry, in the place of one of the same name."""
        return replace(self, registries=(*self.without(registry.name).registries, registry))

    def without(self, name: str) -> State:
        """Return this without the registry of that name."""
        return replace(self, registries=tuple(r for r in self.registries if r.name != name))


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of what is remembered; it need not exist."""
    environ = os.environ if environ is None else environ
    # The XDG base directory specification has a relative path ignored.
    home = Path(environ.get("XDG_STATE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".local" / "state") / "slipway"


def load(place: Path) -> State:
    """Return what is remembered in a folder; nothing when there is no file.

    Raises:
        PrerequisiteError: The file is there and cannot be read as what `save` writes.
    """
    file = place / "setup.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        daemon = found["daemon"]
        return State(
            daemon=None
            if daemon is None
            else Daemon(
                **{
                    **daemon,
                    "process": None if daemon["process"] is None else Process(**daemon["process"]),
                }
            ),
            registries=tuple(Container(**registry) for registry in found["registries"]),
        )
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrerequisiteError(
            f"What set-up remembers in {file} cannot be read: {error}",
            remedy=f"Remove it (`rm {file}`), and stop by hand what set-up started.",
        ) from error


def save(place: Path, state: State) -> None:
    """Remember this; a reader sees the old or the new, whole.

    Raises:
        PrerequisiteError: The folder cannot be written.
    """
    write(place / "setup.json", json.dumps(asdict(state), indent=2))


def write(file: Path, text: str) -> None:
    """Write a file of the state folder in one move.

    Raises:
        PrerequisiteError: It cannot be written.
    """
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise PrerequisiteError(
            f"{file} cannot be written: {error.strerror}",
            remedy="Point XDG_STATE_HOME to a folder that can be written.",
        ) from error


def remember(file: Path, text: str) -> None:
    """Write a file of the state folder that is a memory and no more; without it, one asks again."""
    try:
        write(file, text)
    except PrerequisiteError as error:
        _log.debug("%s", error)


@asynccontextmanager
async def lock(place: Path, say: Say, *, limit: float = LOCK_LIMIT) -> AsyncIterator[None]:
    """Hold the only set-up of this user; the kernel lets go when the process ends, however it does.

    Args:
        place: The state folder.
        say: Told when another one is at work.
        limit: Seconds to wait for it.

    Raises:
        PrerequisiteError: The other one is still at work after the limit, or the folder cannot
            be written.
    """
    file = place / "lock"
    try:
        await anyio.Path(place).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PrerequisiteError(
            f"{file} cannot be written: {error.strerror}",
            remedy="Point XDG_STATE_HOME to a folder that can be written.",
        ) from error
    try:
        await _acquire(descriptor, file, say, limit)
        yield
    finally:
        os.close(descriptor)


async def _acquire(descriptor: int, file: Path, say: Say, limit: float) -> None:
    told = False
    with anyio.move_on_after(limit):
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    say("Another set-up is at work; waiting for it")
                    told = True
                await anyio.sleep(0.1)
            else:
                return
    raise PrerequisiteError(
        f"Another set-up has held {file} for {limit:.0f} s",
        remedy=f"See what it does (`fuser -v {file}`), and end it or wait.",
    )


def process(pid: int) -> Process | None:
    """Return a process that runs now; None when there is none, or only what is left of one."""
    try:
        # The name in parentheses may hold anything, parentheses too: count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    dead = fields[0] in {"Z", "X"}
    return None if dead else Process(pid=pid, started=int(fields[19]), boot=boot)


def alive(known: Process) -> bool:
    """Return whether just this process still runs."""
    return process(known.pid) == known
