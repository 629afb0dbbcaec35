"""What is built: the project's files, and what git calls their state.

Which files count is git's decision: what is committed or staged, and what is neither but not
ignored. Content that is in no checkout, an unpacked archive say, is walked with the same
``.gitignore``, and its tag is made from its contents. Everything here reads; nothing is written.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PrerequisiteError
from pipeline.images import as_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_GIT_LIMIT = 30.0
"""Seconds for one call of git; it takes some milliseconds, a cold network disk some seconds."""
_EPOCH = "1970-01-01T00:00:00Z"
_DIRTY = "-dirty"
_UNTRACKED = ("--others", "--exclude-standard")
_NEVER = frozenset(
    {".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules"}
)
"""Folders that are never content, whether or not a .gitignore says so."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of the project.

    Attributes:
        path: Relative to the root, with ``/``.
        digest: Of its content and of what an image keeps of its mode: whether it is executable.
            For a symbolic link, of its target.
    """

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Source:
    """The project's files at one moment.

    Attributes:
        root: The folder that the paths are relative to.
        files: All files, sorted by path.
        tag: What the images are tagged with unless somebody says otherwise.
        revision: The commit; empty outside a git checkout.
        created: RFC 3339, UTC: the commit's time, so that equal commits give equal images;
            SOURCE_DATE_EPOCH or the epoch itself outside a git checkout.
    """

    root: Path
    files: tuple[File, ...]
    tag: str
    revision: str
    created: str

    def select(self, *prefixes: str, suffixes: tuple[str, ...] = ()) -> tuple[File, ...]:
        """Return the files that are, or are below, one of the paths, or have one of the suffixes.

        Args:
            prefixes: Paths relative to the root.
            suffixes: Ends of file names, as ``.py``.
        """
        folders = tuple(f"{prefix.rstrip('/')}/" for prefix in prefixes)
        return tuple(
            file
            for file in self.files
            if file.path in prefixes
            or file.path.startswith(folders)
            or file.path.endswith(suffixes)
        )


def read(
    root: Path, environ: Mapping[str, str] | None = None, *, built: tuple[str, ...] = ()
) -> Source:
    """Return the project's files and what they are called.

    Args:
        root: The project.
        environ: The environment; that of this process when None.
        built: The folders that images are made of: a file in them that is not committed is in an
            image all the same. The whole project when empty.

    Raises:
        PrerequisiteError: A file cannot be read, or git does not answer.
    """
    environ = os.environ if environ is None else environ
    paths = _tracked(root)
    if paths is None:
        files = _digests(root, _walk(root))
        created = _from_epoch(environ.get("SOURCE_DATE_EPOCH", ""))
        return Source(root, files, f"content-{digest(files)[7:19]}", "", created)
    files = _digests(root, paths)
    head = _git(root, "log", "-1", "--format=%H %ct")
    if head is None:
        return Source(root, files, f"content-{digest(files)[7:19]}", "", _EPOCH)
    revision, _, seconds = head.strip().partition(" ")
    described = _git(root, "describe", "--tags", "--always", "--dirty") or revision[:12]
    tag = described.strip()
    # Git calls a checkout dirty for what has changed, and not for what is new.
    if not tag.endswith(_DIRTY) and _git(root, "ls-files", *_UNTRACKED, "--", *built):
        tag += _DIRTY
    return Source(root, files, as_tag(tag), revision, _from_epoch(seconds))


def digest(files: Iterable[File]) -> str:
    """Return the digest of some files, their paths included: ``sha256:…``."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.path}\0{file.digest}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{whole.hexdigest()}"


def again(root: Path, files: Iterable[File]) -> tuple[File, ...]:
    """Return the same files as they are now; those that are gone are left out."""
    return _digests(root, (file.path for file in files))


def _from_epoch(seconds: str) -> str:
    """Return a number of seconds as RFC 3339 has it; the epoch for what is no such number."""
    if not (seconds.isascii() and seconds.isdecimal()):
        return _EPOCH
    return datetime.fromtimestamp(int(seconds), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tracked(root: Path) -> list[str] | None:
    """Return the paths that git counts as content; None when this is no checkout of ours."""
    listed = _git(root, "ls-files", "-z", "--cached", *_UNTRACKED)
    if listed is None:
        return None
    # An archive that was unpacked inside somebody else's checkout is not that checkout's content.
    if not _git(root, "ls-files", "-z", "--", "pyproject.toml"):
        return None
    return sorted({path for path in listed.split("\0") if path})


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git prints; None when it is not there or this is no checkout."""
    try:
        done = subprocess.run(
            # In CI the checkout often belongs to another user. git refuses that because of what
            # the checkout's own configuration may run; its code is what is being run here anyway.
            ["git", "-c", "safe.directory=*", "-C", str(root), *arguments],
            check=False,
            capture_output=True,
            timeout=_GIT_LIMIT,
            # Untouched by the lock that `git status` would take, and in no other language.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PrerequisiteError(
            f"git cannot tell what is in {root}: {error}",
            remedy=f"Run `git -C {root} status` to see why",
        ) from error
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def _digests(root: Path, paths: Iterable[str]) -> tuple[File, ...]:
    found = []
    for path in paths:
        content = _content(root / path)
        if content is not None:
            found.append(File(path, hashlib.sha256(content).hexdigest()))
    return tuple(found)


def _content(path: Path) -> bytes | None:
    """Return what makes a file differ from others; None for one that is gone, or a submodule."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return b"link\0" + os.fsencode(path.readlink())
        if not stat.S_ISREG(status.st_mode):
            return None
        kind = b"program\0" if status.st_mode & stat.S_IXUSR else b"file\0"
        return kind + path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PrerequisiteError(
            f"{path} cannot be read: {error.strerror or error}",
            remedy="Correct its permissions, or have git ignore it",
        ) from error


def _walk(root: Path) -> list[str]:
    ignored = _ignored(root)
    return sorted(_below(root, "", ignored))


def _below(folder: Path, prefix: str, ignored: Callable[[str], bool]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _NEVER and not ignored(f"{path}/"):
                    yield from _below(Path(entry.path), f"{path}/", ignored)
            elif not ignored(path):
                yield path


def _ignored(root: Path) -> Callable[[str], bool]:
    try:
        lines = (root / ".gitignore").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return lambda _path: False
    from pathspec import GitIgnoreSpec  # 30 ms that only an archive costs

    return GitIgnoreSpec.from_lines(lines).match_file
