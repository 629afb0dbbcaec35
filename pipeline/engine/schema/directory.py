"""A folder's fields."""

from __future__ import annotations

from typing import Any

from anyio import to_thread

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.tree import Tree

from ._engine import Engine, served
from .query import new_file


@served("Directory", "entries")
async def entries(engine: Engine, directory: d.Directory, path: str = "") -> list[str]:
    """List what is directly in it, or in a folder within."""
    folder = d.folder(directory, path) if path else directory
    return (await engine.solver.tree(folder)).children()


@served("Directory", "glob")
async def glob(engine: Engine, directory: d.Directory, pattern: str) -> list[str]:
    """List the paths that match."""
    return await engine.solver.glob(directory, pattern)


@served("Directory", "file")
async def file(_engine: Engine, directory: d.Directory, path: str) -> d.File:
    """Name a file in it."""
    return d.FileIn(directory, path)


@served("Directory", "directory")
async def directory(_engine: Engine, directory: d.Directory, path: str) -> d.Directory:
    """Name a folder in it."""
    return d.folder(directory, path)


@served("Directory", "withDirectory")
async def with_directory(
    engine: Engine,
    directory: d.Directory,
    path: str,
    source: str,
    exclude: list[str] | None = None,
    include: list[str] | None = None,
    gitignore: bool = False,
    owner: str = "",
    permissions: int | None = None,
) -> d.Directory:
    """Lay another folder over it."""
    filter_ = d.Filter(tuple(include or ()), tuple(exclude or ()), gitignore)
    over = engine.load(source, "Directory")
    return d.Overlay(directory, path, over, filter_, owner, permissions)


@served("Directory", "withFile")
async def with_file(
    engine: Engine,
    directory: d.Directory,
    path: str,
    source: str,
    permissions: int | None = None,
    owner: str = "",
) -> d.Directory:
    """Put a file into it, at exactly this path."""
    return d.Placed(directory, path, engine.load(source, "File"), owner, permissions)


@served("Directory", "withNewFile")
async def with_new_file(
    engine: Engine,
    directory: d.Directory,
    path: str,
    contents: str,
    permissions: int | None = None,
) -> d.Directory:
    """Put a new file into it."""
    return d.Placed(directory, path, new_file(engine, path, contents, permissions))


@served("Directory", "withoutFile")
@served("Directory", "withoutDirectory")
async def without(_engine: Engine, directory: d.Directory, path: str) -> d.Directory:
    """Leave out what a path or a glob names."""
    return d.Removed(directory, path)


@served("Directory", "filter")
async def filter_(
    _engine: Engine,
    directory: d.Directory,
    exclude: list[str] | None = None,
    include: list[str] | None = None,
    gitignore: bool = False,
) -> d.Directory:
    """Take some of it."""
    chosen = d.Filter(tuple(include or ()), tuple(exclude or ()), gitignore)
    return d.Overlay(d.Literal(Tree()), "", directory, chosen)


@served("Directory", "digest")
async def digest(engine: Engine, directory: d.Directory) -> str:
    """Return the digest of all that is in it."""
    return f"sha256:{(await engine.solver.tree(directory)).digest}"


@served("Directory", "sync")
async def sync(engine: Engine, directory: d.Directory) -> str:
    """Make sure that it is there."""
    await engine.solver.tree(directory)
    return engine.id(directory)


@served("Directory", "export")
async def export(
    engine: Engine,
    directory: d.Directory,
    path: str,
    wipe: bool = False,
) -> str:
    """Write it to the host."""
    tree, target = await engine.solver.tree(directory), engine.path(path)
    await to_thread.run_sync(lambda: engine.store.export(tree, target, wipe=wipe))
    return str(target)


@served("Directory", "dockerBuild")
async def docker_build(
    engine: Engine,
    directory: d.Directory,
    dockerfile: str = "Dockerfile",
    platform: str | None = None,
    build_args: list[dict[str, Any]] | None = None,
    target: str = "",
    secrets: list[str] | None = None,
    no_init: bool = False,  # noqa: ARG001 - BuildKit in Docker never adds an init
    ssh: str | None = None,
) -> c.Container:
    """Build a target of a Dockerfile."""
    native = engine.solver.check_platform(platform)
    build = c.Build(
        context=directory,
        dockerfile=dockerfile,
        platform=native,
        args=tuple((row["name"], row["value"]) for row in build_args or ()),
        target=target,
        secrets=tuple(engine.load(secret, "Secret") for secret in secrets or ()),
        ssh=engine.load(ssh, "Socket") if ssh else None,
    )
    return c.Container(native).then(build)
