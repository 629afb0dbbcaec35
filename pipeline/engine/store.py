"""What the engine keeps on disk: contents by digest, results by key, and who is running.

    blobs/ab/abcd…     file contents, named by their SHA-256
    results/ab/abcd…   what a key came to, as JSON
    volumes/<name>     lock files of cache volumes
    sessions/<id>/     one per running engine: its lock, what it is writing, and a link to its
                       private folder
    lock               held by all who use the folder; prune wants it for itself

Everything appears under its final name in one rename, so that a process that is killed leaves
either nothing or the whole. A result that cannot be read is no result. A session's lock is held
as long as its process lives; the next session removes what a dead one left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from .core.errors import EngineError, NotFound
from .core.patterns import selector
from .core.tree import Entry, Tree, ancestors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

_CHUNK = 1 << 20
# A fixed time for every file that the engine writes, so that equal trees give equal images:
# 2020-01-01T00:00:00Z. BuildKit takes a file of the same size and time for unchanged, so the
# nanoseconds come from the content.
_EPOCH = 1_577_836_800
# Seconds in which a session has surely made its folder.
_MAKING = 60
# Archives up to this size stay in memory.
_SPOOL = 8 << 20


def _nanoseconds(content: str) -> int:
    return _EPOCH * 10**9 + int(content[:15] or "0", 16) % 10**9


class Store:
    """The engine's folder on disk. All methods block; call them in a thread.

    Args:
        root: The folder; made when missing, readable by its owner only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Where a session writes what is not yet whole; its own folder, once there is one.
        self.temporary = root / "temporary"
        for name in ("blobs", "results", "sessions", "volumes", "temporary"):
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- contents ---------------------------------------------------------------------

    def blob(self, content: str) -> Path:
        """Return where a content is kept."""
        return self.root / "blobs" / content[:2] / content

    def add_stream(self, source: IO[bytes]) -> tuple[str, int]:
        """Keep a content; return its digest and size."""
        chunk = source.read(_CHUNK)
        hasher, size = hashlib.sha256(chunk), len(chunk)
        if size < _CHUNK and self.blob(hasher.hexdigest()).exists():
            # The whole of a small one, as most are, and it is here already.
            return hasher.hexdigest(), size
        with self._temporary() as (path, out):
            out.write(chunk)
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                size += len(chunk)
                out.write(chunk)
            out.close()
            content = hasher.hexdigest()
            final = self.blob(content)
            if not final.exists():
                final.parent.mkdir(exist_ok=True)
                path.rename(final)
        return content, size

    def add_bytes(self, data: bytes) -> tuple[str, int]:
        """Keep a content that is in memory; return its digest and size."""
        content = hashlib.sha256(data).hexdigest()
        if self.blob(content).exists():
            return content, len(data)
        return self.add_stream(io.BytesIO(data))

    def add_file(self, path: Path) -> tuple[str, int]:
        """Keep a host file's content; return its digest and size."""
        with path.open("rb") as source:
            content = hashlib.file_digest(source, "sha256").hexdigest()
            size = source.tell()
            if not self.blob(content).exists():
                source.seek(0)
                return self.add_stream(source)
        return content, size

    def read(self, content: str) -> bytes:
        """Return a content.

        Raises:
            NotFound: It is gone, as after a prune.
        """
        try:
            return self.blob(content).read_bytes()
        except FileNotFoundError as e:
            msg = f"content {content[:12]} is no longer in the cache; run again"
            raise NotFound(msg) from e

    def holds(self, tree: Tree) -> bool:
        """Tell whether every file of a tree is still here."""
        return all(self.blob(e.content).exists() for e in tree.entries if e.kind == "file")

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[Path, IO[bytes]]]:
        path = self.temporary / secrets.token_hex(8)
        try:
            with self._room(), path.open("xb") as out:
                yield path, out
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Say of a full disk which one it is."""
        try:
            yield
        except OSError as e:
            if e.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            msg = (
                f"{self.root}: {e.strerror}; make room on that disk, "
                "or run `python -m pipeline prune`"
            )
            raise EngineError(msg) from e

    # --- trees ------------------------------------------------------------------------------

    def scan(  # noqa: C901 - one case for each kind of file
        self,
        root: Path,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        *,
        gitignore: bool = False,
    ) -> Tree:
        """Read a folder of the host. Owners are not taken over: all is root's, as on Dagger.

        Raises:
            NotFound: There is no such folder.
        """
        if not root.is_dir():
            msg = f"{root}: no such directory on the host"
            raise NotFound(msg)
        lines: list[str] = []
        if gitignore and (root / ".gitignore").is_file():
            text = (root / ".gitignore").read_text(errors="replace")
            lines = [*text.splitlines(), ".git"]
        selected = selector(include, exclude, lines)
        # Without an include a folder that is left out as a whole need not be walked.
        prune = not include and not any(p.startswith("!") for p in (*exclude, *lines))
        found: list[Entry] = []
        modes: dict[str, int] = {}
        pending = [""]
        while pending:
            folder = pending.pop()
            with os.scandir(root / folder) as listing:
                items = list(listing)
            for item in items:
                path = f"{folder}/{item.name}" if folder else item.name
                info = item.stat(follow_symlinks=False)
                mode = stat.S_IMODE(info.st_mode)
                if item.is_symlink():
                    if selected(path, folder=False):
                        target = str(Path(item.path).readlink())
                        found.append(Entry(path, "link", 0o777, content=target))
                elif item.is_dir():
                    taken = selected(path, folder=True)
                    if taken:
                        found.append(Entry(path, "dir", mode))
                    if taken or not prune:
                        modes[path] = mode
                        pending.append(path)
                elif item.is_file() and selected(path, folder=False):
                    content, size = self.add_file(Path(item.path))
                    found.append(Entry(path, "file", mode, content=content, size=size))
                # Sockets, pipes and devices have no content to take.
        around = {parent for entry in found for parent in ancestors(entry.path)}
        return Tree.of([*(Entry(path, "dir", modes[path]) for path in around), *found])

    def untar(  # noqa: C901 - one case for each kind of file
        self, archive: IO[bytes], strip: str = "", without: Collection[str] = ()
    ) -> Tree:
        """Read a tar stream, without what Docker itself puts into each container.

        Args:
            archive: The stream; need not be seekable.
            strip: The name of the folder at the top, whose content is wanted.
            without: Paths that are left out, with all that is in them.
        """
        found: dict[str, Entry] = {}
        with tarfile.open(fileobj=archive, mode="r|") as tar:
            for member in tar:
                path = member.name.strip("/").removeprefix("./")
                if strip:
                    path = path.removeprefix(strip).lstrip("/")
                if path in {"", "."}:
                    if not member.isdir():
                        msg = f"{member.name}: not a directory"
                        raise NotFound(msg)
                    continue
                if any(at in without for at in (path, *ancestors(path))):
                    continue
                mode = stat.S_IMODE(member.mode)
                owner = (member.uid, member.gid)
                if member.isdir():
                    found[path] = Entry(path, "dir", mode, *owner)
                elif member.issym():
                    found[path] = Entry(path, "link", 0o777, *owner, content=member.linkname)
                elif member.islnk():
                    target = member.linkname.strip("/").removeprefix(strip).lstrip("/")
                    if target in found:
                        source = found[target]
                        found[path] = Entry(
                            path, "file", mode, *owner, content=source.content, size=source.size
                        )
                elif member.isreg():
                    data = cast("IO[bytes]", tar.extractfile(member))
                    content, size = self.add_stream(data)
                    found[path] = Entry(path, "file", mode, *owner, content=content, size=size)
        return Tree.of(found.values())

    def tar(self, entries: Iterable[Entry]) -> IO[bytes]:
        """Return a seekable tar archive of entries, positioned at its start."""
        out = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - the caller closes it
            max_size=_SPOOL, dir=str(self.temporary)
        )
        try:
            self._pack(out, entries)
        except BaseException:
            out.close()
            raise
        out.seek(0)
        return cast("IO[bytes]", out)

    def _pack(self, out: IO[bytes], entries: Iterable[Entry]) -> None:
        with self._room(), tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for entry in entries:
                info = tarfile.TarInfo(entry.path)
                info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
                info.mtime = _EPOCH
                if entry.kind == "dir":
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                elif entry.kind == "link":
                    info.type, info.linkname = tarfile.SYMTYPE, entry.content
                    tar.addfile(info)
                else:
                    info.size = entry.size
                    try:
                        with self.blob(entry.content).open("rb") as data:
                            tar.addfile(info, data)
                    except FileNotFoundError as e:
                        msg = f"{entry.path}: its content is no longer in the cache; run again"
                        raise NotFound(msg) from e

    def export(self, tree: Tree, to: Path, *, wipe: bool = False, pinned: bool = False) -> None:
        """Write a tree into a folder of the host, as the user that runs this process.

        Args:
            tree: What to write.
            to: The folder; made when missing. What else is in it stays.
            wipe: Remove everything from the folder first.
            pinned: Give files times that depend on nothing but their content.
        """
        if wipe and to.is_dir():
            shutil.rmtree(to)
        to.mkdir(parents=True, exist_ok=True)
        inside = to.resolve()
        for entry in tree.entries:
            path = to / entry.path
            if not path.parent.resolve().is_relative_to(inside):
                msg = f"{entry.path}: leads out of {to} through a link that is already there"
                raise EngineError(msg)
            if entry.kind == "dir":
                if path.is_symlink() or path.is_file():
                    path.unlink()
                path.mkdir(exist_ok=True)
                path.chmod(entry.mode | 0o700)
                continue
            if path.is_symlink() or path.is_file():
                path.unlink()
            if entry.kind == "link":
                path.symlink_to(entry.content)
                continue
            self.export_file(entry, path)
            if pinned:
                at = _nanoseconds(entry.content)
                os.utime(path, ns=(at, at))

    def export_file(self, entry: Entry, to: Path) -> None:
        """Write one file to a path of the host, in one rename."""
        to.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: the file's may be as long as a name can be.
        temporary = to.with_name(f".slipway-{secrets.token_hex(8)}")
        try:
            shutil.copyfile(self.blob(entry.content), temporary)
            temporary.chmod(entry.mode)
            temporary.replace(to)
        except FileNotFoundError as e:
            msg = f"{entry.path}: its content is no longer in the cache; run again"
            raise NotFound(msg) from e
        finally:
            temporary.unlink(missing_ok=True)

    # --- results ----------------------------------------------------------------------------

    def _result(self, key: str) -> Path:
        return self.root / "results" / key[:2] / f"{key}.json"

    def result(self, key: str) -> dict[str, Any] | None:
        """Return what a key came to, if that is known."""
        try:
            value = json.loads(self._result(key).read_text())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def keep(self, key: str, value: dict[str, Any]) -> None:
        """Remember what a key came to."""
        final = self._result(key)
        final.parent.mkdir(exist_ok=True)
        with self._temporary() as (path, out):
            out.write(json.dumps(value).encode())
            out.close()
            path.rename(final)

    # --- locks --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def volume_lock(self, name: str) -> Iterator[Callable[[], bool]]:
        """Open the lock of a cache volume; yield a function that tries to take it."""
        with (self.root / "volumes" / name).open("a") as file:
            yield lambda: _locked(file)


def _locked(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Session:
    """This process's place in the store, and its private folder for sockets and secrets.

    The private folder is in memory where the system has /dev/shm; nobody else may enter it.
    """

    def __init__(self, store: Store) -> None:
        self.id = secrets.token_hex(6)
        self._using = (store.root / "lock").open("a")
        try:
            fcntl.flock(self._using, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._using.close()
            msg = f"{store.root} is being pruned; run again when that is done"
            raise EngineError(msg) from e
        # Made under a hidden name and locked before anybody else looks at it.
        making = store.root / "sessions" / f".{self.id}"
        making.mkdir(mode=0o700)
        self._lock = (making / "lock").open("w")
        _locked(self._lock)
        (making / "temporary").mkdir(mode=0o700)
        memory = Path("/dev/shm")  # noqa: S108 - a fresh folder of mode 0700 is made in it
        parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        self.private = parent / f"slipway-{self.id}-{secrets.token_hex(4)}"
        # Named before it is made, so that it is found when this process is killed in between.
        (making / "private").symlink_to(self.private)
        self.private.mkdir(mode=0o700)
        self.folder = making.rename(making.with_name(self.id))
        store.temporary = self.folder / "temporary"

    def close(self, *, left: bool = False) -> None:
        """Remove the folders.

        Args:
            left: There are still Docker objects of this session: leave what tells the next one.
        """
        if left:
            _empty(self.folder)
        else:
            remove_session(self.folder)
        self._lock.close()
        self._using.close()


@contextlib.contextmanager
def dead_sessions(store: Store) -> Iterator[list[Path]]:
    """Yield the folders of sessions whose process is gone; nobody else sees them meanwhile."""
    dead = []
    with contextlib.ExitStack() as stack:
        for folder in (store.root / "sessions").iterdir():
            try:
                lock = stack.enter_context((folder / "lock").open("r"))
                young = time.time() - folder.stat().st_mtime < _MAKING
            except FileNotFoundError:
                # Its owner, or another session, is making or removing it at this moment.
                continue
            if not (young and folder.name.startswith(".")) and _locked(lock):
                dead.append(folder)
        yield dead


def session_of(folder: Path) -> str:
    """Return the id of the session that has a folder."""
    return folder.name.lstrip(".")


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """Keep every session out.

    Raises:
        EngineError: One is running.
    """
    with (store.root / "lock").open("a") as file:
        if not _locked(file):
            msg = "a pipeline is running and needs its cache; prune when it has ended"
            raise EngineError(msg)
        yield


def remove_session(folder: Path) -> None:
    """Remove a session's folders."""
    _empty(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    link = folder / "private"
    if link.is_symlink():
        private = link.readlink()
        if private.name.startswith("slipway-"):
            shutil.rmtree(private, ignore_errors=True)
    shutil.rmtree(folder / "temporary", ignore_errors=True)
