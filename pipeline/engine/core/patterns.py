"""Which paths a pattern names.

Two grammars, both Dagger's: include and exclude are those of ``.dockerignore`` (anchored at the
root, a matched folder covers what is in it, ``!`` takes back), glob is doublestar's (matches
whole paths, ``**`` any number of folders, braces).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Selected(Protocol):
    """A predicate over relative paths."""

    def __call__(self, path: str, *, folder: bool) -> bool:
        """Tell whether a path, that of a folder or not, is part of the selection."""


def _anchored(patterns: Iterable[str]) -> list[str]:
    """Turn .dockerignore patterns into .gitignore ones that mean the same."""
    out = []
    for pattern in patterns:
        text = pattern.strip()
        negated = text.startswith("!")
        text = text.removeprefix("!").removeprefix("./").strip("/")
        if text in {"", "."}:
            text = "**"
        out.append(f"{'!' if negated else ''}/{text}")
    return out


def _everything(path: str, *, folder: bool) -> bool:  # noqa: ARG001 - it is one predicate of many
    return True


def selector(
    include: Sequence[str] = (), exclude: Sequence[str] = (), gitignore: Sequence[str] = ()
) -> Selected:
    """Return a predicate over relative paths: is this file or folder part of the selection?

    Args:
        include: .dockerignore patterns of what to take; none takes everything.
        exclude: .dockerignore patterns of what to leave out, after ``include``.
        gitignore: Lines of a .gitignore at the root, after both.
    """
    if not (include or exclude or gitignore):
        return _everything
    from pathspec import GitIgnoreSpec

    wanted = GitIgnoreSpec.from_lines(_anchored(include)) if include else None
    unwanted = GitIgnoreSpec.from_lines(_anchored(exclude)) if exclude else None
    ignored = GitIgnoreSpec.from_lines(gitignore) if gitignore else None

    def selected(path: str, *, folder: bool) -> bool:
        if wanted is not None and not wanted.match_file(path):
            return False
        if unwanted is not None and unwanted.match_file(path):
            return False
        # Only .gitignore has patterns for folders alone.
        return ignored is None or not ignored.match_file(f"{path}/" if folder else path)

    return selected


def glob(pattern: str) -> Callable[[str], bool]:
    """Return a predicate over relative paths that match the whole pattern."""
    from wcmatch import glob as wcglob

    flags = wcglob.GLOBSTAR | wcglob.DOTGLOB | wcglob.BRACE
    matcher = wcglob.compile(pattern.removeprefix("./").lstrip("/"), flags=flags)
    return lambda path: bool(matcher.match(path))


def static_prefix(pattern: str) -> str:
    """Return the folders at the start of a glob in which nothing is special."""
    folders = pattern.removeprefix("./").strip("/").split("/")[:-1]
    fixed = []
    for folder in folders:
        if any(c in folder for c in "*?[]{}\\!"):
            break
        fixed.append(folder)
    return "/".join(fixed)
