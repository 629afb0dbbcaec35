"""The process beside the node, on the machine's own network: it starts the node and ends with it.

Started by `up`, apart from it, as ``python -m pipeline.cluster.local.keeper FOLDER FD``: FD is a
socket that listens on the machine's loopback interface for the API server. It

- makes the namespaces of the node, with `pipeline.cluster.local.supervisor` as the first process in
  them, which gets the listening socket;
- carries what comes to the node's end of the registry, a socket that the supervisor made in there
  and sent, to the registry on the machine's loopback interface;
- ends when the node does, and the node when it does: a pair of sockets joins them, which closes
  with either.

Whoever holds the lock beside its record is alive; nobody else is what the record says. It inherits
a third descriptor, which it does nothing with: that keeps what the node was built into from being
removed as long as this process lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from pipeline.cluster.local.node import Node, state_files
from pipeline.cluster.local.packages import PATH
from pipeline.cluster.local.record import Record
from pipeline.cluster.local.relay import relay
from pipeline.setup import state

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)

GREETING_LIMIT = 30.0
"""Seconds in which the supervisor sends the node's end of the registry."""
STOP_LIMIT = 8.0
"""Seconds in which the node's programs end by themselves."""


def namespaces() -> list[str]:
    """Return the command that makes the namespaces of a node and runs another in them."""
    return [
        *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts"),
        # Mounts of the node are not seen outside, and it dies with whoever waits for it.
        *("--propagation", "private", "--fork", "--mount-proc", "--kill-child=KILL", "--"),
    ]


async def keep(
    folder: Path, listening: socket.socket, supervisor: Sequence[str] | None = None
) -> int:
    """Run the node until it ends or this process is told to stop, and return its exit code.

    Args:
        folder: The state folder; ``node.json`` is in it.
        listening: Where the API server is reached.
        supervisor: The command that is the node, to which its arguments are added; the real one, in
            namespaces of its own, when None.
    """
    files = state_files(folder)
    node = Node.from_json(files["node"].read_text(encoding="utf-8"))
    here, there = socket.socketpair()
    port = listening.getsockname()[1]
    me = state.process(os.getpid())
    if me is None:  # it runs this line
        raise RuntimeError("no process")
    record = Record(keeper=me, port=port)
    state.write(files["keeper"], record.to_json())
    real = [*namespaces(), sys.executable, "-P", "-m", "pipeline.cluster.local.supervisor"]
    argv = [
        *(real if supervisor is None else supervisor),
        *(str(folder), str(listening.fileno()), str(there.fileno())),
    ]
    process = subprocess.Popen(  # noqa: ASYNC220  nothing else is under way yet
        argv,
        stdin=subprocess.DEVNULL,
        pass_fds=(listening.fileno(), there.fileno()),
        cwd="/",
        env=os.environ | {"PATH": PATH},
    )
    there.close()
    listening.close()
    record = replace(record, parent=state.process(process.pid))
    state.write(files["keeper"], record.to_json())
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_told, process, here)
            tasks.start_soon(_serve, process, here, node, files["keeper"], record)
            code = await to_thread.run_sync(process.wait, abandon_on_cancel=True)
            tasks.cancel_scope.cancel()
    finally:
        here.close()
        process.kill()
        process.wait()
    return code


async def _until_told(process: subprocess.Popen[bytes], link: socket.socket) -> None:
    """End the node when this process is told to."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            # The supervisor sees that nobody is there any more, and ends what it started.
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            await anyio.sleep(STOP_LIMIT)
            process.kill()


async def _serve(
    process: subprocess.Popen[bytes], link: socket.socket, node: Node, file: Path, record: Record
) -> None:
    """Remember the first process of the node, and carry what comes for the registry."""
    registry = await to_thread.run_sync(received, link, abandon_on_cancel=True)
    state.write(file, replace(record, node=_child(process.pid)).to_json())
    if registry is not None:
        await relay(registry, "127.0.0.1", node.registry)


def received(link: socket.socket) -> socket.socket | None:
    """Return the node's end of the registry; None when it has none."""
    link.settimeout(GREETING_LIMIT)
    try:
        greeting, descriptors, _, _ = socket.recv_fds(link, 16, 1)
    except (OSError, TimeoutError) as error:
        _log.warning("the node does not answer: %s", error)
        return None
    finally:
        link.settimeout(None)
    _log.info("the node is there: %r", greeting)
    return socket.socket(fileno=descriptors[0]) if descriptors else None


def _child(pid: int) -> state.Process | None:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return next((p for p in map(state.process, map(int, text.split())) if p is not None), None)


def main() -> int:
    """Keep the node that the arguments name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    lock = os.open(state_files(folder)["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return anyio.run(keep, folder, socket.socket(fileno=descriptor))


if __name__ == "__main__":
    sys.exit(main())
