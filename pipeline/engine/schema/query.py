"""The root's fields."""

from __future__ import annotations

from typing import Any

from pipeline.engine import __version__
from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.errors import EngineError
from pipeline.engine.core.secret import Secret
from pipeline.engine.core.tree import Entry, Tree

from ._engine import Engine, Host, Query, served

DEFAULT_MODE = 0o644
# Bytes of a secret's value, as the API documents them.
_SECRET_LIMIT = 128_000


@served("Query", "id")
@served("Host", "id")
@served("CacheVolume", "id")
@served("Socket", "id")
@served("Container", "id")
@served("Directory", "id")
@served("File", "id")
@served("Secret", "id")
@served("Service", "id")
@served("Port", "id")
@served("EnvVariable", "id")
@served("Label", "id")
async def id_(engine: Engine, value: object) -> str:
    """Return the id of any value."""
    return engine.id(value)


@served("Query", "version")
async def version(_engine: Engine, _query: Query) -> str:
    """Return the engine's own version."""
    return f"v{__version__}"


@served("Query", "defaultPlatform")
async def default_platform(engine: Engine, _query: Query) -> str:
    """Return this machine's platform."""
    return engine.solver.check_platform(None)


@served("Query", "node")
async def node(engine: Engine, _query: Query, id: str) -> Any:
    """Return the value of an id."""
    return engine.load(id)


@served("Query", "host")
async def host(_engine: Engine, _query: Query) -> Host:
    """Return the machine that the client runs on."""
    return Host()


@served("Query", "container")
async def container(engine: Engine, _query: Query, platform: str | None = None) -> c.Container:
    """Return an empty container."""
    return c.Container(engine.solver.check_platform(platform))


@served("Query", "directory")
async def directory(_engine: Engine, _query: Query) -> d.Directory:
    """Return an empty folder."""
    return d.Literal(Tree())


@served("Query", "file")
async def file(
    engine: Engine, _query: Query, name: str, contents: str, permissions: int | None = None
) -> d.File:
    """Return a file of its own."""
    return new_file(engine, name, contents, permissions)


def new_file(engine: Engine, name: str, contents: str, permissions: int | None) -> d.LiteralFile:
    """Keep a content and return it as a file."""
    content, size = engine.store.add_bytes(contents.encode())
    mode = DEFAULT_MODE if permissions is None else permissions
    return d.LiteralFile(Entry(name, "file", mode, content=content, size=size))


@served("Query", "cacheVolume")
async def cache_volume(
    engine: Engine,
    _query: Query,
    key: str,
    source: str | None = None,
    sharing: str = "SHARED",
    owner: str = "",
) -> c.CacheVolume:
    """Return the volume of a key."""
    initial = engine.load(source, "Directory") if source else None
    return c.CacheVolume(key, c.Sharing[sharing], initial, owner)


@served("Query", "setSecret")
async def set_secret(engine: Engine, _query: Query, name: str, plaintext: str) -> Secret:
    """Keep a secret for this session."""
    if len(plaintext.encode()) > _SECRET_LIMIT:
        msg = f"setSecret({name}): the value is larger than {_SECRET_LIMIT} bytes"
        raise EngineError(msg)
    return engine.vault.put(name, plaintext)


@served("Query", "secret")
async def secret(_engine: Engine, _query: Query, uri: str, cache_key: str = "") -> Secret:
    """Return a secret that is looked up when it is needed."""
    if "://" not in uri:
        msg = f"{uri} is no secret URI; write env://NAME, file://PATH or cmd://COMMAND"
        raise EngineError(msg)
    return Secret(uri, uri=uri, cache_key=cache_key)


def _loads(type_: str) -> None:
    @served("Query", f"load{type_}FromID")
    async def _load(engine: Engine, _query: Query, id: str) -> Any:
        return engine.load(id, type_)


for _type in ("Container", "Directory", "File", "Secret", "Service", "CacheVolume", "Socket"):
    _loads(_type)
