"""The host's fields."""

from __future__ import annotations

from typing import Any

from anyio import to_thread

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.errors import EngineError, NotFound
from pipeline.engine.core.identity import digest
from pipeline.engine.core.service import Forward, HostService, Tunnel
from pipeline.engine.core.tree import Entry

from ._engine import Engine, Host, served


def forwards(rows: list[dict[str, Any]] | None) -> tuple[Forward, ...]:
    """Read port forwards as the API gives them."""
    return tuple(
        Forward(row["backend"], row.get("frontend"), row.get("protocol") or "TCP")
        for row in rows or ()
    )


@served("Host", "directory")
async def directory(
    engine: Engine,
    _host: Host,
    path: str,
    exclude: list[str] | None = None,
    include: list[str] | None = None,
    no_cache: bool = False,
    gitignore: bool = False,
) -> d.Directory:
    """Read a folder; once a session, unless the client wants it anew."""
    root = engine.path(path)
    included, excluded = tuple(include or ()), tuple(exclude or ())
    key = digest("host-directory", str(root), included, excluded, gitignore)

    async def read() -> d.Literal:
        def scan() -> d.Literal:
            return d.Literal(engine.store.scan(root, included, excluded, gitignore=gitignore))

        try:
            return await to_thread.run_sync(scan)
        except OSError as e:
            msg = f"{e.filename or root}: {e.strerror}"
            raise NotFound(msg) from e

    if no_cache:
        return await read()
    return await engine.solver.once(key, read)


@served("Host", "file")
async def file(engine: Engine, _host: Host, path: str, no_cache: bool = False) -> d.File:
    """Read a file; once a session, unless the client wants it anew."""
    source = engine.path(path)

    async def read() -> d.LiteralFile:
        try:
            content, size = await to_thread.run_sync(engine.store.add_file, source)
        except OSError as e:
            msg = f"{source}: {e.strerror}"
            raise NotFound(msg) from e
        mode = source.stat().st_mode & 0o7777
        return d.LiteralFile(Entry(source.name, "file", mode, content=content, size=size))

    if no_cache:
        return await read()
    return await engine.solver.once(digest("host-file", str(source)), read)


@served("Host", "unixSocket")
async def unix_socket(engine: Engine, _host: Host, path: str) -> c.Socket:
    """Name a socket; nothing connects to it yet."""
    return c.Socket(str(engine.path(path)))


@served("Host", "service")
async def service(
    _engine: Engine, _host: Host, ports: list[dict[str, Any]], host: str = "localhost"
) -> HostService:
    """Name ports of a host that the engine reaches."""
    if not ports:
        msg = "Host.service: it needs at least one port"
        raise EngineError(msg)
    return HostService(host, forwards(ports))


@served("Host", "tunnel")
async def tunnel(
    engine: Engine,
    _host: Host,
    service: str,
    native: bool = False,
    ports: list[dict[str, Any]] | None = None,
) -> Tunnel:
    """Name ports of this host that lead to a service, once it is started."""
    return Tunnel(engine.load(service, "Service"), forwards(ports), native)
