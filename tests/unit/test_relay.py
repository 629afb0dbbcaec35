"""A Unix socket that can be switched off."""

from __future__ import annotations

import stat
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.relay import relay, sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def echoing(path: Path) -> AsyncIterator[None]:
    """Serve a socket that sends back what it receives, until the other side has sent all."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    listener = await anyio.create_unix_listener(path)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield
        tasks.cancel_scope.cancel()


async def ask(path: Path, text: bytes) -> bytes:
    """Send a text and return what comes back until the end."""
    with anyio.fail_after(5):
        async with await anyio.connect_unix(path) as stream:
            await stream.send(text)
            await stream.send_eof()
            return b"".join([chunk async for chunk in stream])


async def test_open_relay_leads_to_the_other_socket(tmp_path: Path) -> None:
    """Bytes go both ways, and so does the end of them."""
    async with echoing(tmp_path / "s"), relay(tmp_path / "s") as switch:
        assert await ask(switch.path, b"x" * 300_000) == b"x" * 300_000
        assert await ask(switch.path, b"again") == b"again"


async def test_nobody_else_may_connect(tmp_path: Path) -> None:
    """The socket, and the folder that it is in, are this user's alone."""
    async with echoing(tmp_path / "s"), relay(tmp_path / "s") as switch:
        assert stat.S_IMODE(switch.path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(switch.path.stat().st_mode) == 0o600
        assert len(str(switch.path)) < 100


async def test_closed_relay_refuses_and_cuts(tmp_path: Path) -> None:
    """As when the daemon has stopped: nobody listens, and what was connected ends."""
    async with echoing(tmp_path / "s"), relay(tmp_path / "s") as switch:
        async with await anyio.connect_unix(switch.path) as stream:
            await stream.send(b"a")
            assert await stream.receive() == b"a"
            await switch.close()
            with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        with pytest.raises(OSError, match=r"No such file|refused"):
            await anyio.connect_unix(switch.path)
        await switch.close()


async def test_relay_opens_again_in_the_same_place(tmp_path: Path) -> None:
    """Whoever had the path finds it again."""
    async with echoing(tmp_path / "s"), relay(tmp_path / "s") as switch:
        before = switch.path
        await switch.close()
        await switch.open()
        await switch.open()
        assert switch.path == before
        assert await ask(switch.path, b"back") == b"back"


async def test_socket_that_is_gone_ends_the_connection(tmp_path: Path) -> None:
    """The relay itself goes on."""
    async with relay(tmp_path / "s") as switch:
        assert await ask(switch.path, b"") == b""
        async with echoing(tmp_path / "s"):
            assert await ask(switch.path, b"now") == b"now"


async def test_nothing_is_left(tmp_path: Path) -> None:
    """Neither after the block, nor after a cancellation within it."""
    async with echoing(tmp_path / "s"):
        async with relay(tmp_path / "s") as switch:
            pass
        assert not switch.path.parent.exists()
        with anyio.CancelScope() as scope:
            async with relay(tmp_path / "s") as other, await anyio.connect_unix(other.path):
                scope.cancel()
                await anyio.sleep(1)
        assert not other.path.parent.exists()


async def test_sweep_removes_what_a_kill_has_left_and_nothing_else(tmp_path: Path) -> None:
    """The lock of a folder ends with its process; a relay that is at work keeps its own."""
    code = (
        "import anyio, os, signal\n"
        "from pathlib import Path\n"
        "from pipeline.relay import relay\n"
        "async def main():\n"
        "    async with relay(Path('/none')) as made:\n"
        "        print(made.path, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "anyio.run(main)"
    )
    async with echoing(tmp_path / "s"), relay(tmp_path / "s") as switch:
        done = await anyio.run_process([sys.executable, "-c", code], check=False)
        left = Path(done.stdout.decode().strip())
        assert await anyio.Path(left).is_socket()
        sweep()
        assert not left.parent.exists()
        assert await ask(switch.path, b"on") == b"on"
