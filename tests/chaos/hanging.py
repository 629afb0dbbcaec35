"""A way to Docker that can hang: ``python -m tests.chaos.hanging SOCKET`` relays to it.

A process that is stopped by a signal still has its socket: who connects is accepted, by the kernel,
and nobody answers. That is what a daemon that hangs looks like; the daemon itself never notices.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from pipeline.relay import relay

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
MODE = 0o660
"""The group of this process may connect, as whom the socket proxy does; the folder is private."""

_START_LIMIT = 15.0


@dataclass(frozen=True, slots=True)
class Hanging:
    """A relay in a process of its own.

    Attributes:
        path: Its socket.
    """

    path: Path
    process: subprocess.Popen[str]

    def hang(self) -> None:
        """Accept and answer nothing from now on."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Do what it did before, with all that came meanwhile."""
        os.kill(self.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def hanging(target: Path) -> Iterator[Hanging]:
    """Run a relay to a Unix socket; nothing of it is left afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.hanging", str(target)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(_START_LIMIT), "the relay does not begin"
            line = process.stdout.readline().strip()
            assert line, f"the relay ended with {process.wait(10)}"
            yield Hanging(Path(line), process)
        finally:
            # One that hangs hears of its end when it goes on.
            process.terminate()
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


async def main(target: Path) -> None:
    """Relay until SIGTERM or SIGINT."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with relay(target) as made:
            made.path.chmod(MODE)
            sys.stdout.write(f"{made.path}\n")
            sys.stdout.flush()
            async for _ in signals:
                return


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
