"""A session on a runtime in memory, with the parts that a test looks at."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.tree import Entry, Tree
from pipeline.engine.relay import Relays
from pipeline.engine.schema import Engine
from pipeline.engine.server import Server
from pipeline.engine.services import Services
from pipeline.engine.solver import Solver
from pipeline.engine.store import Store
from pipeline.engine.vault import Vault

from .fake_backend import PLATFORM, FakeBackend, FakeHandle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@dataclass
class Bench:
    """One session."""

    store: Store
    backend: FakeBackend
    vault: Vault
    solver: Solver
    services: Services
    engine: Engine
    server: Server
    private: Path
    handles: list[FakeHandle] = field(default_factory=list)

    def image(self, name: str = "base", **files: str) -> c.Container:
        """Return a container from an image that holds some files, named without their dots."""
        tree = tree_of(self.backend.store, {f"etc/{key}": text for key, text in files.items()})
        config = {"Env": ["PATH=/bin"], "Cmd": ["default"]}
        self.backend.remote[name] = self.backend.add_image(tree, config)
        return c.Container(PLATFORM).then(c.From(name))

    def tree(self, files: dict[str, str]) -> Tree:
        """Return a tree with files."""
        return tree_of(self.store, files)

    def folder(self, files: dict[str, str]) -> d.Literal:
        """Return a folder with files."""
        return d.Literal(self.tree(files))

    async def query(self, text: str) -> dict[str, Any]:
        """Execute a query that must succeed; return its data."""
        answer = await self.server.execute(text, None, None)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    async def refusal(self, text: str) -> str:
        """Execute a query that must fail; return its message."""
        answer = await self.server.execute(text, None, None)
        message: str = answer["errors"][0]["message"]
        return message


def tree_of(store: Store, files: dict[str, str]) -> Tree:
    """Return a tree with files, kept in a store."""
    entries = []
    for path, text in files.items():
        content, size = store.add_bytes(text.encode())
        entries.append(Entry(path, "file", 0o644, content=content, size=size))
    return Tree.of(entries)


def run(*args: str, expect: c.Expect = c.Expect.SUCCESS) -> c.Exec:
    """Return a command."""
    return c.Exec(c.Start(args), expect=expect)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds, which it must soon."""
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - it may be anything
            await anyio.sleep(0.01)


async def _write(handle: FakeHandle, args: tuple[str, ...]) -> int:
    """``write PATH TEXT…``: write a file."""
    handle.write(args[0], " ".join(args[1:]))
    return 0


async def _append(handle: FakeHandle, args: tuple[str, ...]) -> int:
    """``append PATH TEXT``: write more into a file."""
    handle.write(args[0], handle.read(args[0]) + args[1])
    return 0


async def _print(handle: FakeHandle, args: tuple[str, ...]) -> int:
    """``print TEXT…``: print, with ``%NAME%`` replaced by the environment."""
    text = " ".join(args)
    handle.out += re.sub(r"%(\w+)%", lambda m: handle.env.get(m[1], ""), text).encode()
    return 0


async def _cat(handle: FakeHandle, args: tuple[str, ...]) -> int:
    """``cat [PATH]``: print a file, or the input."""
    handle.out += handle.read(args[0]).encode() if args else handle.spec.stdin or b""
    return 0


async def _fail(handle: FakeHandle, args: tuple[str, ...]) -> int:
    """``fail CODE``: end with an exit code, with words on both outputs."""
    handle.out += b"half\n"
    handle.err += b"why\n"
    return int(args[0])


async def _sleep(_handle: FakeHandle, args: tuple[str, ...]) -> int:
    """``sleep SECONDS``."""
    await anyio.sleep(float(args[0]))
    return 0


PROGRAMS = {
    "write": _write,
    "append": _append,
    "print": _print,
    "cat": _cat,
    "fail": _fail,
    "sleep": _sleep,
}


@contextlib.asynccontextmanager
async def session(
    folder: Path, backend: FakeBackend | None = None, *, limit: float = 60
) -> AsyncIterator[Bench]:
    """Open a session in a folder; one that is opened there later finds what this one kept."""
    store = Store(folder / "cache")
    private = folder / "private"
    private.mkdir(exist_ok=True)
    backend = backend or FakeBackend(Store(folder / "runtime"), programs=dict(PROGRAMS))
    vault = Vault()
    async with anyio.create_task_group() as tasks:
        solver = Solver(store, backend, vault, Relays(tasks), private)
        services = Services(solver, tasks)
        solver.services = services
        engine = Engine(solver, services, store, vault, folder)
        yield Bench(
            store,
            backend,
            vault,
            solver,
            services,
            engine,
            Server(engine, "token", limit),
            private,
        )
        tasks.cancel_scope.cancel()
