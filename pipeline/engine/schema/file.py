"""A file's fields."""

from __future__ import annotations

import io
import itertools
import posixpath

from anyio import to_thread

from pipeline.engine.core import directory as d
from pipeline.engine.core.errors import EngineError
from pipeline.engine.core.identity import digest as identity

from ._engine import Engine, served


@served("File", "contents")
async def contents(
    engine: Engine, file: d.File, offset_lines: int | None = None, limit_lines: int | None = None
) -> str:
    """Return the text, or some lines of it."""
    entry = await engine.solver.file(file)
    text = (await to_thread.run_sync(engine.store.read, entry.content)).decode(errors="replace")
    if offset_lines is None and limit_lines is None:
        return text
    for argument, number in (("offsetLines", offset_lines), ("limitLines", limit_lines)):
        if number is not None and number < 0:
            msg = f"File.contents: {argument} is negative"
            raise EngineError(msg)
    first = offset_lines or 0
    last = None if limit_lines is None else first + limit_lines
    lines = io.StringIO(text, newline="\n")
    return "".join(itertools.islice(lines, first, last))


@served("File", "size")
async def size(engine: Engine, file: d.File) -> int:
    """Return the size in bytes."""
    return (await engine.solver.file(file)).size


@served("File", "name")
async def name(_engine: Engine, file: d.File) -> str:
    """Return the last part of the path."""
    return file.entry.path if isinstance(file, d.LiteralFile) else posixpath.basename(file.path)


@served("File", "digest")
async def digest(engine: Engine, file: d.File, exclude_metadata: bool = False) -> str:
    """Return the digest of the content, with mode and owner unless these are left out."""
    entry = await engine.solver.file(file)
    if exclude_metadata:
        return f"sha256:{entry.content}"
    return f"sha256:{identity(entry.content, entry.mode, entry.uid, entry.gid)}"


@served("File", "sync")
async def sync(engine: Engine, file: d.File) -> str:
    """Make sure that it is there."""
    await engine.solver.file(file)
    return engine.id(file)


@served("File", "export")
async def export(
    engine: Engine,
    file: d.File,
    path: str,
    allow_parent_dir_path: bool = False,
) -> str:
    """Write it to the host; into a folder only when that is allowed."""
    entry = await engine.solver.file(file)
    target = engine.path(path)
    if target.is_dir() or path.endswith("/"):
        if not allow_parent_dir_path:
            msg = f"cannot export to {target}: it is a directory (see allowParentDirPath)"
            raise EngineError(msg)
        target /= entry.name
    await to_thread.run_sync(engine.store.export_file, entry, target)
    return str(target)
