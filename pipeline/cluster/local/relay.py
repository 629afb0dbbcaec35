"""Carry connections from a listening socket to an address.

A socket belongs to the network namespace that it was made in. Who holds a listening socket of one
namespace and connects in another joins the two, with no interface between them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketListener

from pipeline.relay import carry

if TYPE_CHECKING:
    import socket

    from anyio.abc import SocketStream

_log = logging.getLogger(__name__)

CONNECT_LIMIT = 5.0
"""Seconds in which the address must accept."""


async def relay(listening: socket.socket, host: str, port: int) -> None:
    """Carry every connection that the socket accepts to an address, until it is cancelled.

    What cannot connect is closed, as a refused connection would be.

    Args:
        listening: A socket that listens; it is closed in the end.
        host: Where to connect to.
        port: Where to connect to.
    """

    async def handle(near: SocketStream) -> None:
        async with near:
            try:
                with anyio.fail_after(CONNECT_LIMIT):
                    far = await anyio.connect_tcp(host, port)
            except (OSError, TimeoutError) as error:
                _log.info("nothing accepts on %s:%s: %s", host, port, error)
                return
            async with far, anyio.create_task_group() as both:
                both.start_soon(carry, near, far)
                both.start_soon(carry, far, near)

    listening.settimeout(0)
    async with await SocketListener.from_socket(listening) as listener:
        await listener.serve(handle)
