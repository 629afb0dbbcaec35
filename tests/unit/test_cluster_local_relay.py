"""Connections that are carried from a listening socket to an address."""

from __future__ import annotations

import contextlib
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.cluster.local.relay import relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream

pytestmark = pytest.mark.anyio
LIMIT = 10.0


async def echo(stream: SocketStream) -> None:
    """Send back in capitals what comes, and end when the other side has ended."""
    with contextlib.suppress(anyio.BrokenResourceError):
        async with stream:
            async for chunk in stream:
                await stream.send(chunk.upper())


@asynccontextmanager
async def relayed(target: int) -> AsyncIterator[int]:
    """Yield the port of a relay to a port of the loopback interface."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay, listening, "127.0.0.1", target)
        with anyio.fail_after(LIMIT):
            yield port
        tasks.cancel_scope.cancel()
    assert listening.fileno() == -1


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Yield the port of a server that echoes."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, echo)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def said(stream: SocketStream) -> bytes:
    """Return all that comes until the other side ends."""
    return b"".join([chunk async for chunk in stream])


async def test_both_directions_are_carried_to_their_ends() -> None:
    """Much of it, and several at once; an end on one side is an end on the other."""
    much = b"x" * 3_000_000
    async with (
        echoing() as target,
        relayed(target) as port,
        await anyio.connect_tcp("127.0.0.1", port) as first,
        await anyio.connect_tcp("127.0.0.1", port) as second,
        anyio.create_task_group() as tasks,
    ):

        async def send() -> None:
            await first.send(much)
            await first.send_eof()

        tasks.start_soon(send)
        await second.send(b"hello")
        assert await second.receive() == b"HELLO"
        assert await said(first) == much.upper()


async def test_what_nobody_accepts_is_closed(free_port: int) -> None:
    """As it would be without a relay; the relay itself goes on."""
    async with relayed(free_port) as port:
        for _ in range(2):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()


async def test_one_that_is_cut_does_not_end_the_others() -> None:
    """A client that is killed closes nothing properly."""
    async with echoing() as target, relayed(target) as port:
        cut = socket.create_connection(("127.0.0.1", port))
        cut.send(b"hello")
        cut.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        cut.close()
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"still")
            assert await stream.receive() == b"STILL"
