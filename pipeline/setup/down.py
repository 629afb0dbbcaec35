"""Stop what set-up started, and nothing else; data stays: volumes, images, caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import to_thread

from pipeline.setup import daemon, state, tell
from pipeline.setup.command import run as run_program
from pipeline.setup.command import succeed
from pipeline.setup.docker import Docker, DockerUnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.setup.command import Run
    from pipeline.setup.settings import Say, Settings


async def down(
    settings: Settings | None = None,
    *,
    say: Say = tell,
    place: Path | None = None,
    run: Run = run_program,
) -> None:
    """Stop the registry and the Docker Engine, each only if set-up started it.

    A Docker Engine on which other containers run is left up, and stays remembered.

    Args:
        settings: Not needed: what was started is remembered with its address.
        say: Told what was stopped, and what was left up and why.
        place: The state folder; this user's when None.
        run: Runs programs.

    Raises:
        PrerequisiteError: The service manager refuses to stop Docker, or what is remembered
            cannot be read.
    """
    del settings
    place = place or state.folder()
    async with state.lock(place, say):
        known = state.load(place)
        if known == state.State():
            say("Set-up started nothing that is still up")
            return
        for registry in known.registries:
            say(await to_thread.run_sync(_stop_registry, registry))
            known = known.without(registry.name)
            state.save(place, known)
        if known.daemon is not None and await _stop_daemon(known.daemon, say, run):
            state.save(place, known.with_daemon(None))


def _stop_registry(registry: state.Container) -> str:
    docker = Docker(registry.host)
    try:
        if docker.container(registry.id) is None:
            return f"Registry {registry.name} was gone already"
        docker.remove(registry.id)
    except DockerUnreachableError:
        return f"Registry {registry.name} ended with its Docker Engine"
    return f"Stopped the registry {registry.name}; its data stays in the volume {registry.name}"


async def _stop_daemon(known: state.Daemon, say: Say, run: Run) -> bool:
    """Return whether it is down."""
    if known.process is not None and not state.alive(known.process):
        say("The Docker Engine that set-up started had ended already")
        return True
    try:
        others = await to_thread.run_sync(Docker(known.host).running)
    except DockerUnreachableError:
        others = ()
    if others:
        say(f"Docker stays up: containers run on it ({', '.join(others)})")
        return False
    if known.process is not None:
        await daemon.stop(known.process, say)
        say(f"Stopped Docker (process {known.process.pid})")
        return True
    await succeed(
        run,
        # The socket unit would start it again at the next call.
        ["systemctl", "stop", f"{known.service}.socket", f"{known.service}.service"],
        failure="Docker cannot be stopped",
        remedy="Run `make down` as the user who ran set-up.",
        limit=90.0,
    )
    say(f"Stopped Docker (service {known.service})")
    return True
