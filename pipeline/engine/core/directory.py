"""Folders and files as definitions: where they come from and what was changed.

A definition costs nothing until something is asked of it; the solver turns it into a Tree.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from . import identity

if TYPE_CHECKING:
    from .container import Container
    from .tree import Entry, Tree


@dataclass(frozen=True, slots=True)
class Filter:
    """Which files of a folder are taken (see ``patterns``)."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gitignore: bool = False


@dataclass(frozen=True)
class _Definition:
    @cached_property
    def digest(self) -> str:
        """The identity of the definition."""
        parts = [getattr(self, name) for name in self.__dataclass_fields__]
        return identity.digest(type(self).__name__, *parts)


@dataclass(frozen=True)
class Literal(_Definition):
    """A tree that is known, as that of a folder on the host once it has been read."""

    tree: Tree


@dataclass(frozen=True)
class InContainer(_Definition):
    """A folder of a container's filesystem, mounts included where a path leads into one."""

    container: Container
    path: str
    mounts: bool = True


@dataclass(frozen=True)
class Sub(_Definition):
    """A folder within another."""

    parent: Directory
    path: str


@dataclass(frozen=True)
class Overlay(_Definition):
    """A folder with another one laid over it."""

    parent: Directory
    path: str
    source: Directory
    filter: Filter = Filter()
    owner: str = ""
    permissions: int | None = None


@dataclass(frozen=True)
class Placed(_Definition):
    """A folder with one file put into it."""

    parent: Directory
    path: str
    source: File
    owner: str = ""
    permissions: int | None = None


@dataclass(frozen=True)
class Removed(_Definition):
    """A folder without what a path or a glob names."""

    parent: Directory
    path: str


Directory = Literal | InContainer | Sub | Overlay | Placed | Removed


@dataclass(frozen=True)
class LiteralFile(_Definition):
    """A file whose content is stored; the entry's path is its name."""

    entry: Entry


@dataclass(frozen=True)
class FileIn(_Definition):
    """A file in a folder."""

    parent: Directory
    path: str


File = LiteralFile | FileIn


def folder(parent: Directory, path: str) -> Directory:
    """Return the folder at a path; within a container no more is read than that."""
    if isinstance(parent, InContainer):
        return InContainer(parent.container, posixpath.join(parent.path, path), parent.mounts)
    return Sub(parent, path)
