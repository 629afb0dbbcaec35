"""Relays: bytes carried between a listener that the engine owns and somewhere else.

They live in the session's task group, so that nothing listens any more once it has ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from typing import TYPE_CHECKING

import anyio

from .core.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from anyio.abc import Listener, SocketStream, TaskGroup, TaskStatus

logger = logging.getLogger(__name__)

_CONNECT_LIMIT = 10


async def _carry(source: SocketStream, target: SocketStream) -> None:
    try:
        async for chunk in source:
            await target.send(chunk)
        await target.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        # One side is gone: the other is closed as well, as it would be without a relay.
        await anyio.aclose_forcefully(source)
        await anyio.aclose_forcefully(target)


class Relays:
    """Makes relays in a task group."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks

    async def _serve(
        self,
        listener: Listener[SocketStream],
        dial: Callable[[], Awaitable[SocketStream]],
        *,
        task_status: TaskStatus[tuple[anyio.CancelScope, anyio.Event]],
    ) -> None:
        closed = anyio.Event()

        async def handle(client: SocketStream) -> None:
            async with client:
                try:
                    with anyio.fail_after(_CONNECT_LIMIT):
                        target = await dial()
                except (OSError, TimeoutError) as e:
                    logger.info("relay: nothing answers behind it: %s", e)
                    return
                async with target, anyio.create_task_group() as both:
                    both.start_soon(_carry, client, target)
                    both.start_soon(_carry, target, client)

        with anyio.CancelScope() as scope:
            try:
                async with listener:
                    task_status.started((scope, closed))
                    await listener.serve(handle)
            finally:
                closed.set()

    @contextlib.asynccontextmanager
    async def _relay(
        self, listener: Listener[SocketStream], dial: Callable[[], Awaitable[SocketStream]]
    ) -> AsyncIterator[None]:
        scope, closed = await self._tasks.start(self._serve, listener, dial)
        try:
            yield
        finally:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                # What is stopped no longer accepts.
                await closed.wait()

    @contextlib.asynccontextmanager
    async def tcp(
        self, listen: tuple[str, int], target: tuple[str, int]
    ) -> AsyncIterator[tuple[str, int]]:
        """Listen on an address; yield it with the port that was chosen where that was 0."""
        try:
            multi = await anyio.create_tcp_listener(
                local_host=listen[0], local_port=listen[1], reuse_port=False
            )
        except OSError as e:
            msg = f"cannot listen on {listen[0]}:{listen[1]}: {e.strerror or e}"
            raise EngineError(msg) from e
        port = multi.extra(anyio.abc.SocketAttribute.local_port)
        async with self._relay(multi, lambda: anyio.connect_tcp(*target)):
            yield listen[0], port

    @contextlib.asynccontextmanager
    async def unix(
        self, folder: Path, target: str, owner: tuple[int, int] | None
    ) -> AsyncIterator[Path]:
        """Make a socket in a private folder that leads to another; yield its path.

        It is the engine's own socket that a container gets, so it can have the owner that the
        client asked for, while the host's keeps its own.
        """
        path = folder / f"{secrets.token_hex(6)}.sock"
        listener = await anyio.create_unix_listener(str(path), mode=0o600)
        if os.geteuid() == 0:
            os.chown(path, *(owner or (0, 0)))
        else:
            # Only root may give a file away. The folder is closed to everybody else on this
            # host, so that only the container reaches it.
            path.chmod(0o666)
        try:
            async with self._relay(listener, lambda: anyio.connect_unix(target)):
                yield path
        finally:
            path.unlink(missing_ok=True)
