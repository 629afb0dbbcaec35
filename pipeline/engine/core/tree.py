"""A file tree as a value: what is where, with contents by digest.

Rules:
- Paths are relative, with ``/``, without ``.`` and ``..``; the root itself is not an entry.
- Every folder that holds something is an entry. Entries are sorted by path.
- Nothing depends on time: two trees with equal names, contents, modes and owners are equal.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from . import identity
from .errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .patterns import Selected

Kind = Literal["file", "dir", "link"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or symbolic link.

    Attributes:
        path: Where, relative to the root of the tree.
        kind: What it is.
        mode: Permission bits, with setuid, setgid and sticky.
        uid: Owner.
        gid: Group.
        content: SHA-256 of a file's content; the target of a link; empty for a folder.
        size: Bytes in a file; 0 otherwise.
    """

    path: str
    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    content: str = ""
    size: int = 0

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path)


def clean(path: str) -> str:
    """Return a path relative to the root, normalised; the root itself is empty.

    Raises:
        NotFound: The path leaves the root.
    """
    normal = posixpath.normpath(posixpath.join("/", path)).lstrip("/")
    depth = 0
    for part in path.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            msg = f"{path}: no such file or directory (it leaves the root)"
            raise NotFound(msg)
    return normal


def ancestors(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, the innermost first."""
    parent = posixpath.dirname(path)
    while parent:
        yield parent
        parent = posixpath.dirname(parent)


@dataclass(frozen=True)
class Tree:
    """A folder with everything in it; ``Tree.of`` makes one that keeps the rules."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Tree:
        """Sort entries, let later ones replace earlier ones, add folders that are missing."""
        by_path: dict[str, Entry] = {}
        for entry in entries:
            by_path[entry.path] = entry
        for path in list(by_path):
            for parent in ancestors(path):
                found = by_path.get(parent)
                if found is None or found.kind == "file":
                    by_path[parent] = Entry(parent, "dir", 0o755)
        return cls(tuple(by_path[path] for path in sorted(by_path)))

    @cached_property
    def digest(self) -> str:
        """The identity of the tree."""
        rows = [[e.path, e.kind, e.mode, e.uid, e.gid, e.content] for e in self.entries]
        return identity.digest("tree", rows)

    @cached_property
    def by_path(self) -> dict[str, Entry]:
        """Entries by their path."""
        return {entry.path: entry for entry in self.entries}

    def find(self, path: str) -> Entry:
        """Return the entry at a path, following links within the tree.

        Raises:
            NotFound: Nothing is there.
        """
        wanted = clean(path)
        for _hop in range(40):  # as many as Linux follows (path_resolution(7))
            link = self._first_link(wanted)
            if link is None:
                break
            rest = wanted[len(link.path) :]
            wanted = clean(posixpath.join(posixpath.dirname(link.path), link.content) + rest)
        entry = self.by_path.get(wanted)
        if entry is None or entry.kind == "link":
            msg = f"{path}: no such file or directory"
            raise NotFound(msg)
        return entry

    def _first_link(self, path: str) -> Entry | None:
        for at in (*reversed(list(ancestors(path))), path):
            entry = self.by_path.get(at)
            if entry is not None and entry.kind == "link":
                return entry
        return None

    def sub(self, path: str) -> Tree:
        """Return the folder at a path as a tree of its own.

        Raises:
            NotFound: Nothing is there, or it is not a folder.
        """
        wanted = clean(path)
        if not wanted:
            return self
        entry = self.find(wanted)
        if entry.kind != "dir":
            msg = f"{path}: not a directory"
            raise NotFound(msg)
        prefix = entry.path + "/"
        return Tree(
            tuple(
                replace(e, path=e.path[len(prefix) :])
                for e in self.entries
                if e.path.startswith(prefix)
            )
        )

    def children(self, path: str = "") -> list[str]:
        """Return the sorted names directly in a folder; a folder's ends in ``/``."""
        found = self.sub(path)
        return sorted(
            e.path + ("/" if e.kind == "dir" else "") for e in found.entries if "/" not in e.path
        )

    def glob(self, matches: Callable[[str], bool]) -> list[str]:
        """Return the sorted paths that match; a folder's ends in ``/``."""
        return [e.path + ("/" if e.kind == "dir" else "") for e in self.entries if matches(e.path)]

    def select(self, selected: Selected) -> Tree:
        """Return the tree with what is selected, and the folders in which that lies."""
        kept = {e.path for e in self.entries if selected(e.path, folder=e.kind == "dir")}
        kept |= {parent for path in kept for parent in ancestors(path)}
        return Tree(tuple(e for e in self.entries if e.path in kept))

    def owned(self, owner: tuple[int, int] | None, permissions: int | None = None) -> Tree:
        """Return the tree with another owner, and files with other permission bits."""
        if owner is None and permissions is None:
            return self
        uid, gid = owner or (None, None)
        return Tree(
            tuple(
                replace(
                    e,
                    uid=e.uid if uid is None else uid,
                    gid=e.gid if gid is None else gid,
                    mode=e.mode if permissions is None or e.kind == "link" else permissions,
                )
                for e in self.entries
            )
        )

    def under(self, path: str) -> tuple[Entry, ...]:
        """Return the entries as they are when the tree stands at a path."""
        at = clean(path)
        return tuple(replace(e, path=f"{at}/{e.path}") if at else e for e in self.entries)

    def merge(self, path: str, other: Tree) -> Tree:
        """Return this tree with another laid over it at a path, which becomes a folder."""
        at = clean(path)
        added = list(other.under(at))
        if at and at not in self.by_path:
            added.insert(0, Entry(at, "dir", 0o755))
        replaced = {e.path for e in added if e.kind != "dir"}
        kept = [
            e for e in self.entries if not any(parent in replaced for parent in ancestors(e.path))
        ]
        return Tree.of([*kept, *added])

    def put(self, entry: Entry) -> Tree:
        """Return this tree with one more entry, replacing what is at its path."""
        return self.without(entry.path).merge("", Tree((entry,)))

    def without(self, path: str) -> Tree:
        """Return the tree without what a path (which may be a glob) names."""
        gone = clean(path)
        if not gone:
            return Tree()
        return Tree(
            tuple(e for e in self.entries if e.path != gone and not e.path.startswith(gone + "/"))
        )
