"""A Unix socket that leads to another one and can be switched off: how Docker is made to go away.

While it is off, nothing listens and what was connected is cut, as when the daemon has stopped; the
daemon itself never notices. The socket is in a private folder: who may connect to Docker does not
change. The folder is locked as long as its process lives, so that `sweep` finds it when that was
killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio.abc import ByteStream, SocketStream, TaskGroup, TaskStatus

_log = logging.getLogger(__name__)

CONNECT_LIMIT = 5.0
"""Seconds in which the socket behind the relay must accept."""

# Short, since the path of a socket has at most 107 bytes, which TMPDIR may exceed.
_PLACE = Path("/tmp")  # noqa: S108 - each folder in it is private
_PREFIX = "slipway-relay-"
_LOCK = "lock"


class Relay:
    """A relay, switched on; made by `relay`.

    Attributes:
        path: The socket; while the relay is off, it is not there.
    """

    def __init__(self, path: Path, target: Path, tasks: TaskGroup) -> None:
        self.path = path
        self._target = target
        self._tasks = tasks
        self._scope: anyio.CancelScope | None = None
        self._ended = anyio.Event()

    async def open(self) -> None:
        """Listen, unless it does already."""
        if self._scope is None:
            self._ended = anyio.Event()
            self._scope = await self._tasks.start(self._serve)

    async def close(self) -> None:
        """Stop listening and cut what is connected; return when both are done."""
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()
            self._scope = None

    async def _serve(self, *, task_status: TaskStatus[anyio.CancelScope]) -> None:
        try:
            with anyio.CancelScope() as scope:
                listener = await anyio.create_unix_listener(self.path, mode=0o600)
                async with listener, anyio.create_task_group() as connections:
                    task_status.started(scope)
                    await listener.serve(self._handle, connections)
        finally:
            self.path.unlink(missing_ok=True)
            self._ended.set()

    async def _handle(self, near: SocketStream) -> None:
        async with near:
            try:
                with anyio.fail_after(CONNECT_LIMIT):
                    far = await anyio.connect_unix(self._target)
            except (OSError, TimeoutError) as error:
                _log.info("nothing answers behind the relay: %s", error)
                return
            async with far, anyio.create_task_group() as both:
                both.start_soon(carry, near, far)
                both.start_soon(carry, far, near)


@contextlib.asynccontextmanager
async def relay(target: Path) -> AsyncIterator[Relay]:
    """Yield a relay to a Unix socket, switched on; nothing of it is left afterwards.

    Args:
        target: The socket that it leads to.
    """
    with _folder() as folder:
        async with anyio.create_task_group() as tasks:
            made = Relay(folder / "docker.sock", target, tasks)
            await made.open()
            try:
                yield made
            finally:
                tasks.cancel_scope.cancel()


def sweep() -> None:
    """Remove what relays have left whose process was killed. Blocks."""
    for folder in _PLACE.glob(f"{_PREFIX}*"):
        # Somebody else's, in use, or removed by another run at this moment.
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            with (folder / _LOCK).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # Made under a hidden name and locked before `sweep` looks at it.
    making = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=_PLACE))
    with (making / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = making.rename(making.with_name(making.name.removeprefix(".")))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


async def carry(source: ByteStream, target: ByteStream) -> None:
    """Pass on what one side sends, its end included, until either side is gone."""
    try:
        async for chunk in source:
            await target.send(chunk)
        await target.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        # One side is gone: the other is closed as well, as it would be without a relay.
        await anyio.aclose_forcefully(source)
        await anyio.aclose_forcefully(target)
