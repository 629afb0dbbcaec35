"""The Docker Engine with buildx: used if it is there, else installed and started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from pipeline.errors import PrerequisiteError
from pipeline.setup import apt, buildx, state
from pipeline.setup.apt import SOURCES
from pipeline.setup.command import run as run_program
from pipeline.setup.command import succeed, tail
from pipeline.setup.docker import DEFAULT_HOST, Docker, DockerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.setup.command import Run
    from pipeline.setup.settings import Say

START_LIMIT = 30.0
STOP_LIMIT = 30.0
DOCS = "https://docs.docker.com/engine/install/"
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

_started: list[subprocess.Popen[bytes]] = []
"""The daemons that this process started; kept, so that none becomes a zombie of ours unseen."""


def dockerd() -> str | None:
    """Return the Docker Engine's program; None when it is not installed."""
    return shutil.which("dockerd", path=_path())


@dataclass(frozen=True, slots=True)
class Machine:
    """What may be done on this machine.

    Attributes:
        root: Whether this user may do everything.
        apt: Whether there is apt.
        systemd: Whether systemd is the service manager, and runs.
        distribution: ID of os-release(5).
        say: Told what is done.
        run: Runs programs.
        dockerd: Looks for the Docker Engine's program; None when it is not installed.
        docker_host: The one address at which set-up may start a Docker Engine.
        place: The folder for the log of what is started; the state folder when None.
        sources: The folder of apt's configuration.
        client: Looks for Docker's client.
        plugin: Looks for its plug-in buildx.
    """

    root: bool
    apt: bool
    systemd: bool
    distribution: str
    say: Say
    run: Run = run_program
    dockerd: Callable[[], str | None] = dockerd
    docker_host: str = DEFAULT_HOST
    place: Path | None = None
    sources: Path = SOURCES
    client: Callable[[], Path | None] = buildx.client
    plugin: Callable[[], Path | None] = buildx.plugin

    async def install(self, names: Sequence[str], *, why: str) -> None:
        """Install packages.

        Args:
            names: Debian's names of them.
            why: What is missing, one sentence without a full stop, for the error.

        Raises:
            PrerequisiteError: This user or this machine cannot; nothing was changed.
        """
        if not self.apt:
            raise PrerequisiteError(
                why,
                remedy=f"Install {' '.join(names)} with this machine's package manager, or as "
                f"{DOCS} says; set-up itself knows apt only.",
            )
        if not self.root:
            raise PrerequisiteError(
                f"{why}, and this user may not install anything",
                remedy=f"Run `sudo make setup`, which installs {' '.join(names)}.",
            )
        manager = apt.Apt(self.run, self.say, self.sources, self.distribution)
        await manager.install(names)


def this_machine(say: Say) -> Machine:
    """Return what may be done here."""
    return Machine(
        root=os.geteuid() == 0,
        apt=shutil.which("apt-get") is not None,
        # sd_booted(3): the folder exists exactly when systemd is the service manager.
        systemd=Path("/run/systemd/system").is_dir(),
        distribution=apt.distribution(),
        say=say,
    )


async def missing(docker: Docker, may_start: str) -> DockerUnreachableError | None:
    """Return why the Docker Engine cannot be used; None when it answers.

    Args:
        docker: Where it is to answer.
        may_start: The one address at which set-up may start one.

    Raises:
        PrerequisiteError: It is there and cannot be used, and starting one would not help.
    """
    error = await to_thread.run_sync(_unreachable, docker)
    if error is None:
        return None
    if error.why not in {"absent", "refused"}:
        raise error
    if docker.host != may_start:
        error.remedy = "Start Docker there, or unset DOCKER_HOST to have set-up start one here."
        raise error
    context = buildx.context()
    if context:
        error.remedy = (
            f"Docker's client uses the context {context}; name its address: `export "
            "DOCKER_HOST=$(docker context inspect --format '{{.Endpoints.docker.Host}}')`."
        )
        raise error
    return error


async def ensure_engine(
    docker: Docker, machine: Machine, *, packages: Sequence[str] = ()
) -> state.Daemon | None:
    """See to it that a Docker Engine answers.

    Args:
        docker: Where it is to answer.
        machine: What may be done here.
        packages: More to install, when something has to be installed at all.

    Returns:
        What was started; None when it was there.

    Raises:
        PrerequisiteError: There is none and this machine or user cannot have one.
    """
    why = await missing(docker, machine.docker_host)
    if why is None:
        return None
    if machine.dockerd() is None:
        await machine.install([*apt.ENGINE, *packages], why=why.message)
    if not machine.root:
        raise PrerequisiteError(
            f"{why.message}, and this user may not start it",
            remedy="Run `sudo systemctl start docker`, or `sudo make setup`.",
        ) from why
    if machine.systemd:
        machine.say("Starting Docker (systemctl start docker)")
        await succeed(
            machine.run,
            ["systemctl", "start", "docker"],
            failure="Docker cannot be started",
            remedy="See `journalctl -u docker`.",
            limit=90.0,
        )
        await _wait(docker)
        return state.Daemon(host=docker.host, service="docker")
    program = [machine.dockerd() or "dockerd", "--host", docker.host]
    return await start(docker, program, machine.say, place=machine.place)


async def ensure_buildx(machine: Machine) -> None:
    """See to it that Docker's client has buildx.

    Raises:
        PrerequisiteError: It has not, and this machine or user cannot have it.
    """
    if machine.client() is None:
        await machine.install(
            ["docker-cli", "docker-buildx"], why="Docker's client (docker) is not on PATH"
        )
    elif machine.plugin() is None:
        # Docker's own packages call it otherwise, and the two exclude each other.
        own = machine.apt and await _installed(machine, "docker-ce-cli")
        await machine.install(
            ["docker-buildx-plugin" if own else "docker-buildx"],
            why="Docker's client has no plug-in buildx",
        )


async def start(
    docker: Docker, argv: Sequence[str], say: Say, *, place: Path | None = None
) -> state.Daemon:
    """Start a Docker Engine by hand, apart from this process, and wait until it answers.

    Args:
        docker: Where it is to answer.
        argv: The program and its arguments.
        say: Told that it starts.
        place: The folder for its log; the state folder when None.

    Raises:
        PrerequisiteError: It ended, or did not answer in time; the end of its log is the evidence.
    """
    log = (place or state.folder()) / "dockerd.log"
    say(f"Starting Docker by hand, no service manager runs (log: {log})")
    process = await to_thread.run_sync(_spawn, argv, log)
    known = state.process(process.pid)
    try:
        await _wait(docker, process, log)
    except BaseException:
        # Also when this is cancelled: what nobody knows of must not stay.
        process.terminate()
        with anyio.move_on_after(STOP_LIMIT, shield=True):
            await to_thread.run_sync(process.wait, STOP_LIMIT)
        raise
    _started.append(process)
    return state.Daemon(host=docker.host, process=known, log=str(log))


def started() -> tuple[subprocess.Popen[bytes], ...]:
    """Return the Docker Engines that this very process started, stopped ones too."""
    return tuple(_started)


async def stop(known: state.Process, say: Say, *, limit: float = STOP_LIMIT) -> None:
    """Stop a Docker Engine that was started by hand, with the containerd that it started.

    Args:
        known: The process; nothing else is touched.
        say: Told when it has to be killed.
        limit: Seconds for it to end by itself.
    """
    # The daemon ends its containerd by itself; what is left after it is signalled, too.
    for process in (known, *await to_thread.run_sync(children, known)):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not state.alive(process):
                break
            if number == signal.SIGKILL:
                say(f"Process {process.pid} did not end within {limit:.0f} s; killing it")
            os.kill(process.pid, number)
            await _ended(process, limit)


async def _ended(process: state.Process, limit: float) -> None:
    with anyio.move_on_after(limit):
        while state.alive(process):  # noqa: ASYNC110  the kernel tells only a parent
            await anyio.sleep(0.05)
    for child in _started:
        child.poll()


async def _wait(
    docker: Docker, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    remedy = f"See {log}." if log else "See `journalctl -u docker`."
    with anyio.move_on_after(START_LIMIT):
        while await to_thread.run_sync(_unreachable, docker) is not None:
            if process is not None and process.poll() is not None:
                raise PrerequisiteError(
                    f"The Docker Engine ended with {process.returncode} when it was started",
                    remedy=remedy,
                    evidence=tail(_read(log)),
                )
            await anyio.sleep(0.1)
        return
    raise PrerequisiteError(
        f"The Docker Engine does not answer at {docker.host} within {START_LIMIT:.0f} s",
        remedy=remedy,
        evidence=tail(_read(log)),
    )


def _unreachable(docker: Docker) -> DockerUnreachableError | None:
    try:
        docker.ping()
    except DockerUnreachableError as error:
        return error
    return None


async def _installed(machine: Machine, name: str) -> bool:
    output = await machine.run(["dpkg-query", "-W", "-f=${db:Status-Status}", name], limit=30.0)
    return output.stdout == "installed"


def _spawn(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            return subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=os.environ | {"PATH": _path()},
                # A session of its own: Ctrl-C and the end of a job are not meant for it.
                start_new_session=True,
            )
    except OSError as error:
        raise PrerequisiteError(
            f"`{argv[0]}` cannot be started: {error}", remedy=f"Check it, and {log.parent}."
        ) from error


def children(known: state.Process) -> list[state.Process]:
    """Return the processes that a process started itself and that still run."""
    found: list[state.Process] = []
    for file in Path(f"/proc/{known.pid}/task").glob("*/children"):
        try:
            pids = file.read_text(encoding="ascii").split()
        except OSError:
            continue
        found += [child for child in map(state.process, map(int, pids)) if child is not None]
    return found


def _path() -> str:
    # A user's PATH may leave out the folders that hold dockerd and iptables.
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def _read(log: Path | None) -> str:
    if log is None or not log.is_file():
        return ""
    return log.read_text(encoding="utf-8", errors="replace")
