"""Tests of relays: bytes go through both ways, and nothing listens any more afterwards."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.engine.core.errors import EngineError
from pipeline.engine.relay import Relays

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from anyio.abc import Listener, SocketStream

pytestmark = pytest.mark.anyio


async def shout(stream: SocketStream) -> None:
    """Answer in capitals once the other side has finished."""
    async with stream:
        heard = b"".join([chunk async for chunk in stream])
        await stream.send(heard.upper())


async def ask(stream: SocketStream, text: bytes) -> bytes:
    """Say something, finish, and return the answer."""
    async with stream:
        await stream.send(text)
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


@contextlib.asynccontextmanager
async def listening(
    handle: Callable[[SocketStream], Awaitable[None]], path: Path | None = None
) -> AsyncIterator[tuple[Relays, int]]:
    """Yield relays, and the port on which somebody listens."""
    listener: Listener[SocketStream]
    if path is None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    else:
        listener = await anyio.create_unix_listener(str(path))
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port, 0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield Relays(tasks), port
        tasks.cancel_scope.cancel()


async def test_a_tcp_relay_carries_both_ways_and_half_closes() -> None:
    """The end of one direction is told and the other goes on; afterwards nobody listens."""
    async with listening(shout) as (relays, port):
        async with relays.tcp(("127.0.0.1", 0), ("127.0.0.1", port)) as address:
            text = b"hello" * 100_000
            assert await ask(await anyio.connect_tcp(*address), text) == text.upper()
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp(*address)


async def test_a_unix_relay_is_a_private_socket_that_goes_afterwards(tmp_path: Path) -> None:
    """The host's own socket keeps its owner and mode."""
    real = tmp_path / "real.sock"
    async with listening(shout, real) as (relays, _):
        before = await anyio.Path(real).stat()
        async with relays.unix(tmp_path, str(real), (os.getuid(), os.getgid())) as path:
            assert await ask(await anyio.connect_unix(str(path)), b"hello") == b"HELLO"
        assert not await anyio.Path(path).exists()
        after = await anyio.Path(real).stat()
        assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)


async def test_nobody_behind_a_relay_closes_the_connection(free_port: int) -> None:
    """The client sees an end and not a hang."""
    async with (
        listening(shout) as (relays, _),
        relays.tcp(("127.0.0.1", 0), ("127.0.0.1", free_port)) as address,
        await anyio.connect_tcp(*address) as stream,
    ):
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_a_side_that_breaks_off_takes_the_other_with_it() -> None:
    """As it would be without a relay."""

    async def slam(stream: SocketStream) -> None:
        await stream.receive()
        await anyio.aclose_forcefully(stream)

    async with (
        listening(slam) as (relays, port),
        relays.tcp(("127.0.0.1", 0), ("127.0.0.1", port)) as address,
        await anyio.connect_tcp(*address) as stream,
    ):
        await stream.send(b"x")
        with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()


async def test_a_port_that_is_taken_is_an_error_that_names_it(free_port: int) -> None:
    """The address is in the message."""
    async with (
        listening(shout) as (relays, _),
        relays.tcp(("127.0.0.1", free_port), ("127.0.0.1", 1)) as address,
    ):
        with pytest.raises(EngineError, match=f"cannot listen on 127.0.0.1:{free_port}"):
            async with relays.tcp(address, ("127.0.0.1", 1)):
                pass
