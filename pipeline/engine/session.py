"""One session of the engine: everything that lives and ends with it.

``serve`` is for a program that has the engine in its own process. ``main`` is the console script
``pipeline-engine``; its ``session`` command answers as Dagger's command line does, so that every
SDK can start it through ``_EXPERIMENTAL_DAGGER_CLI_BIN``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from .core.errors import EngineError
from .relay import Relays
from .services import Services
from .solver import Solver
from .store import Session, Store, dead_sessions, remove_session, session_of
from .vault import Vault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .backend import Backend, Limits

logger = logging.getLogger(__name__)

DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a session answers, and what it wants to be told."""

    port: int
    token: str


def default_cache() -> Path:
    """Return the folder of the engine's cache (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slipway" / "engine"


@contextlib.asynccontextmanager
async def serve(
    *,
    cache_dir: Path | None = None,
    docker_host: str = "",
    cwd: Path | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Endpoint]:
    """Serve a session on a random port of the loopback interface, until the block ends.

    Everything that the session made on the Docker Engine is gone afterwards, except what it
    keeps as a cache.

    Args:
        cache_dir: Where results are kept; by default in the user's cache folder.
        docker_host: The Docker Engine, as in DOCKER_HOST.
        cwd: What relative paths of the host start from.
        limits: How long to wait for what.

    Raises:
        EngineError: The folder cannot be used.
        BackendError: The Docker Engine does not answer, or cannot serve.
    """
    from .backend.docker import DockerBackend

    host = docker_host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    folder = cache_dir or default_cache()
    try:
        store = await to_thread.run_sync(Store, folder)
        session = await to_thread.run_sync(Session, store)
    except OSError as e:
        msg = f"cannot use the cache folder {folder}: {e.strerror} ({e.filename})"
        raise EngineError(msg) from e
    left = False
    try:
        backend = await DockerBackend.connect(host, session.id, session.folder, limits)
        try:
            await _sweep(store, backend)
            async with _answering(store, session, backend, cwd or Path.cwd()) as endpoint:
                try:
                    yield endpoint
                finally:
                    backend.hurry()
        finally:
            left = True
            with anyio.CancelScope(shield=True, deadline=backend.hurry()):
                await backend.close()
            left = backend.left
    finally:
        session.close(left=left)


@contextlib.asynccontextmanager
async def _answering(
    store: Store, session: Session, backend: Backend, cwd: Path
) -> AsyncIterator[Endpoint]:
    from .schema import Engine
    from .server import Server

    token = secrets.token_urlsafe(32)
    async with _unwrapped(), anyio.create_task_group() as tasks:
        vault = Vault()
        solver = Solver(store, backend, vault, Relays(tasks), session.private)
        services = Services(solver, tasks)
        solver.services = services
        server = Server(Engine(solver, services, store, vault, cwd), token)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        async def listen() -> None:
            async with listener:
                await listener.serve(server.handle)

        tasks.start_soon(listen)
        try:
            yield Endpoint(port, token)
        finally:
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _unwrapped() -> AsyncIterator[None]:
    """Let an error of the body out as it is, and not in the group that a task group makes."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


async def _sweep(store: Store, backend: Backend) -> None:
    """Remove what sessions have left that were killed."""
    with dead_sessions(store) as dead:
        for folder in dead:
            logger.info("removing what session %s left", session_of(folder))
            if await backend.sweep(session_of(folder)):
                await to_thread.run_sync(remove_session, folder)


async def _session() -> int:
    """Answer as ``dagger session`` does: one line of JSON, and the end when stdin closes."""
    async with serve() as endpoint:
        line = {"port": endpoint.port, "session_token": endpoint.token}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        async with anyio.create_task_group() as tg:

            async def until_closed() -> None:
                # Cancelled by a signal, it must not wait for input that never comes.
                read = partial(os.read, sys.stdin.fileno(), 4096)
                while await to_thread.run_sync(read, abandon_on_cancel=True):
                    pass
                tg.cancel_scope.cancel()

            async def until_signal() -> None:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for _ in signals:
                        tg.cancel_scope.cancel()

            tg.start_soon(until_closed)
            tg.start_soon(until_signal)
    return 0


def main() -> None:
    """Run the console script ``pipeline-engine``."""
    from . import __version__

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command == "version":
        sys.stdout.write(f"pipeline-engine v{__version__}\n")
        return
    if command != "session":
        # Dagger's own flags after `session` are labels and the like; they change nothing here.
        sys.stderr.write("usage: pipeline-engine session | version\n")
        raise SystemExit(0 if command in {"--help", "-h"} else 2)
    try:
        code = anyio.run(_session)
    except EngineError as e:
        sys.stderr.write(f"pipeline-engine: {e}\n")
        raise SystemExit(3) from None
    # A thread may still wait for input that never comes; nothing is left to be done.
    sys.stdout.flush()
    os._exit(code)
