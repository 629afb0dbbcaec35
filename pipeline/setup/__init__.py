"""What has to be here before a run: a Docker Engine with buildx, base images and a registry.

Each part is used where it is there and made where it is not. When all is there, set-up takes a few
milliseconds and changes nothing; it runs before every `make run`. What it starts is remembered
(`state`), and `down` stops just that.

    docker.py    a client of the Docker API         daemon.py   the Docker Engine, started or not
    apt.py       Debian's packages                  buildx.py   Docker's client and its plug-in
    bases.py     base images and their stand-ins    registry.py the registry on the loopback
    state.py     what was started, and a lock       command.py  programs that are run
    down.py      stop what was started
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from anyio import to_thread

from pipeline.setup import apt, bases, daemon, registry, state
from pipeline.setup.command import succeed
from pipeline.setup.docker import Docker

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.setup.bases import Ask, Bases, Kind
    from pipeline.setup.daemon import Machine
    from pipeline.setup.registry import Registry
    from pipeline.setup.settings import Say, Settings


def tell(line: str) -> None:
    """Tell a person one line, on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


async def setup(
    settings: Settings,
    *,
    say: Say = tell,
    machine: Machine | None = None,
    place: Path | None = None,
    ask: Ask | None = None,
) -> Bases | None:
    """See to it that a run finds what it needs.

    Args:
        settings: What the run was asked for.
        say: Told what is done, line by line.
        machine: What may be done here; found out when None.
        place: The state folder; this user's when None.
        ask: Asks the official registry; over the network when None.

    Returns:
        The base images; None when no part of the run needs set-up to know them, because an
        engine elsewhere was ordered and nothing is local.

    Raises:
        PrerequisiteError: Something is missing that this machine or user cannot have.
        UsageError: The Docker host is not an address.
    """
    place = place or state.folder()
    machine = machine or daemon.this_machine(say)
    kind, why, _ = await bases.choose(settings, ask=ask, place=place)
    say(f"Base images: {kind} ({why})")
    local = _local(settings, kind)
    if settings.engine == "dagger" and local is None:
        # Dagger brings its own builder, and nothing is to be started on this machine.
        return None
    docker = Docker(settings.docker_host)
    if await _complete(docker, machine, kind, local):
        return await bases.resolve_bases(settings, ask=ask, place=place)
    if local is not None and await to_thread.run_sync(local.answer) == "something":
        # Before anything is installed: this needs a person to decide.
        raise registry.taken(local)
    async with state.lock(place, say):
        started = await daemon.ensure_engine(
            docker, machine, packages=_tools(kind, machine.distribution)
        )
        if started is not None:
            state.save(place, state.load(place).with_daemon(started))
        await daemon.ensure_buildx(machine)
        await _furnish(settings, docker, machine, kind, place)
    return await bases.resolve_bases(settings, ask=ask, place=place)


async def _complete(docker: Docker, machine: Machine, kind: Kind, local: Registry | None) -> bool:
    """Return whether nothing is left to do."""
    if await daemon.missing(docker, machine.docker_host) is not None:
        return False
    if machine.client() is None or machine.plugin() is None:
        return False
    if local is None:
        return True
    if await to_thread.run_sync(local.answer) != "registry":
        return False
    return (
        kind == "registry" or None not in (await to_thread.run_sync(bases.standins, local)).values()
    )


async def _furnish(
    settings: Settings, docker: Docker, machine: Machine, kind: Kind, place: Path
) -> None:
    """Make the stand-ins and start the registry, those of them that are wanted and missing."""
    local = _local(settings, kind)
    if local is None:
        return
    up = await to_thread.run_sync(local.answer) == "registry"
    if kind == "registry":
        if not up:
            machine.say(f"Pulling {bases.REGISTRY_IMAGE}")
            await succeed(
                machine.run,
                ["docker", "--host", docker.host, "pull", "--quiet", bases.REGISTRY_IMAGE],
                failure=f"{bases.REGISTRY_IMAGE} cannot be pulled",
                remedy="Check that Docker reaches Docker Hub, or use `--bases debian`.",
                limit=300.0,
            )
            await _start(local, docker, bases.REGISTRY_IMAGE, machine.say, place)
        return
    if up and None not in (await to_thread.run_sync(bases.standins, local)).values():
        return
    mirror = await to_thread.run_sync(apt.mirror, apt.sources(machine.sources))
    workshop = bases.Workshop(docker, machine.run, machine.say, settings.ca, mirror.uri)
    if not await to_thread.run_sync(workshop.has_root):
        tools = _tools(kind, machine.distribution)
        if tools:
            await machine.install(tools, why="The stand-ins for the base images need mmdebstrap")
    await bases.prepare(workshop, local, with_registry=not up)
    if not up:
        await _start(local, docker, workshop.registry_image, machine.say, place)
    await bases.publish(workshop, local)


async def _start(local: Registry, docker: Docker, image: str, say: Say, place: Path) -> None:
    if await to_thread.run_sync(local.answer) == "something":
        raise registry.taken(local)
    container = await registry.start(local, docker, image, say)
    known = state.Container(id=container, name=local.name, host=docker.host)
    state.save(place, state.load(place).with_registry(known))


def _local(settings: Settings, kind: Kind) -> Registry | None:
    """Return the registry on this machine that the run needs; None when it needs none."""
    return bases.home(settings) if kind == "debian" else registry.loopback(settings.registry)


def _tools(kind: Kind, distribution: str) -> tuple[str, ...]:
    """Return the packages that making stand-ins needs and that are not here."""
    if kind == "registry" or shutil.which("mmdebstrap") is not None:
        return ()
    return ("mmdebstrap",) if distribution == "debian" else ("mmdebstrap", "debian-archive-keyring")
