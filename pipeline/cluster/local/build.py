"""Build the tools of a Go module once, and keep them by what they were built from.

Rules:

- What was built is found again by a digest of the module's files, the flags and the Go version; a
  folder is there whole or not at all.
- It takes long, so it says how far it is.
- Who uses what was built holds a lock on its folder, a cluster as long as it runs. Once there is a
  new build, those of other versions that nobody holds are removed: each has more than a gigabyte,
  and what was compiled for it is in Go's own cache.
- Whoever removes holds the lock on the cache, as whoever builds does; and a folder is renamed
  before it is emptied, so that nobody finds half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.streams.text import TextReceiveStream

from pipeline.cluster import versions
from pipeline.cluster.local import archive
from pipeline.errors import PrerequisiteError
from pipeline.setup import state
from pipeline.setup.command import tail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pipeline.setup.command import Run
    from pipeline.setup.settings import Say

LIMIT = 3600.0
"""Seconds for all of it: Kubernetes and KEDA took 12 minutes on two processors."""
ASK_LIMIT = 60.0
TELL_EVERY = 15.0
PRUNE_LIMIT = 5.0
"""Seconds that a prune waits for another one; a build that is under way takes longer."""
DOCS = "https://go.dev/doc/install"

_FOLDER = Path(__file__).parents[3] / "k8s" / "local"


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module whose tools are built.

    Attributes:
        name: What they are called together, for a person.
        folder: Where its go.mod is.
        stamps: What is written into variables of the programs, by their full names.
        disk: Bytes that building from nothing takes: modules, Go's cache, and the programs.
    """

    name: str
    folder: Path
    stamps: Mapping[str, str]
    disk: int

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the flags of ``go build``."""
        stamps = " ".join(f"-X {name}={value}" for name, value in sorted(self.stamps.items()))
        return ("-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {stamps}".rstrip())


def _kubernetes() -> dict[str, str]:
    major, minor, _ = versions.KUBERNETES.split(".")
    stamps = {"github.com/kedacore/keda/v2/version.Version": versions.KEDA}
    # A build by `go build` has no version of its own, and an API server without one is v0.0.0.
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        stamps |= {
            f"{package}.gitVersion": f"v{versions.KUBERNETES}",
            f"{package}.gitMajor": major,
            f"{package}.gitMinor": minor,
            f"{package}.gitTreeState": "clean",
        }
    return stamps


CLUSTER = Module("Kubernetes and KEDA", _FOLDER, _kubernetes(), disk=12 * 1024**3)
"""The programs of the local cluster."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is; the values of a fold over the lines that Go writes.

    Attributes:
        modules: How many modules were downloaded.
        packages: How many packages were compiled.
        last: The last lines that are neither.
    """

    modules: int = 0
    packages: int = 0
    last: tuple[str, ...] = ()

    def with_line(self, line: str) -> Progress:
        """Return this after one more line."""
        if line.startswith("go: downloading "):
            return Progress(self.modules + 1, self.packages, self.last)
        if line and " " not in line and not line.startswith("#"):
            return Progress(self.modules, self.packages + 1, self.last)
        return Progress(self.modules, self.packages, (*self.last[-19:], line))


class Pipe:
    """Runs a program and hands on each line that it writes to standard error."""

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> tuple[int, str]:
        """Return its exit code and its standard output.

        Raises:
            PrerequisiteError: It cannot be started.
        """
        written: list[str] = []

        async def collect(stream: anyio.abc.ByteReceiveStream) -> None:
            written.extend([text async for text in TextReceiveStream(stream, errors="replace")])

        async def watch(stream: anyio.abc.ByteReceiveStream) -> None:
            rest = ""
            async for text in TextReceiveStream(stream, errors="replace"):
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    on_line(line)

        try:
            process = await anyio.open_process(list(argv), stdin=None, cwd=cwd, env=env)
        except OSError as error:
            raise PrerequisiteError(
                f"`{argv[0]}` cannot be run: {error.strerror}", remedy=f"Install Go: see {DOCS}"
            ) from error
        async with process:
            if process.stdout is None or process.stderr is None:  # both are pipes by default
                raise RuntimeError("no pipes")
            async with anyio.create_task_group() as both:
                both.start_soon(collect, process.stdout)
                both.start_soon(watch, process.stderr)
            code = await process.wait()
        return code, "".join(written)


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds modules.

    Attributes:
        run: Runs programs that are quick.
        pipe: Runs programs that are not.
        say: Told how far it is.
        cache: The folder of what was built.
        go: Go's program; None when it is not installed.
        free: Returns the bytes that are free where a folder is.
        clock: Seconds.
    """

    run: Run
    say: Say
    cache: Path
    go: str | None
    pipe: Callable[..., Awaitable[tuple[int, str]]] = Pipe()  # noqa: RUF009  it has no state
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    clock: Callable[[], float] = time.monotonic

    async def version(self, module: Module) -> str:
        """Return the version of Go that builds a module, as ``go1.26.8``.

        Raises:
            PrerequisiteError: There is none, or it is too old.
        """
        wanted = required(await anyio.Path(module.folder / "go.mod").read_text(encoding="utf-8"))
        if self.go is None:
            raise PrerequisiteError(
                f"{module.name} are built with Go, and `go` is not on PATH",
                remedy=f"Install Go {wanted} or later: see {DOCS}",
            )
        # Asked with the module's wish as the version to use, an older Go may fetch a newer one.
        output = await self.run(
            [self.go, "-C", str(module.folder), "env", "GOVERSION"],
            limit=LIMIT,
            env=environment(),
        )
        if output.code != 0:
            raise PrerequisiteError(
                f"{module.name} are built with Go {wanted} or later, and this one is another",
                remedy=f"Install it: see {DOCS}",
                evidence=tail(output.stderr + output.stdout),
            )
        return output.stdout.strip()

    async def ensure(
        self, module: Module, finish: Callable[[Path], Awaitable[object]] | None = None
    ) -> Path:
        """Return the folder in which ``bin`` holds the tools of a module; build them if need be.

        Args:
            module: The module.
            finish: Puts more beside them.

        Raises:
            PrerequisiteError: They cannot be built here.
        """
        version = await self.version(module)
        key = await to_thread.run_sync(digest, module, version)
        target = self.cache / key
        with contextlib.suppress(FileNotFoundError):
            # It was used last now: of several, that counts.
            os.utime(target)
            return target
        async with state.lock(self.cache, self.say, limit=LIMIT):
            if target.is_dir():
                return target
            await self._build(module, version, target, finish)
        return target

    async def folder(self, module: Module, name: str) -> Path:
        """Return the folder of a module that this one requires.

        Raises:
            PrerequisiteError: Go does not know it.
        """
        argv = [self.go or "go", "-C", str(module.folder), "list", "-m", "-f", "{{.Dir}}", name]
        output = await self.run(argv, limit=ASK_LIMIT, env=environment())
        if output.code != 0 or not output.stdout.strip():
            raise PrerequisiteError(
                f"The Go module {name} is not here", evidence=tail(output.stderr)
            )
        return Path(output.stdout.strip())

    async def _build(
        self,
        module: Module,
        version: str,
        target: Path,
        finish: Callable[[Path], Awaitable[object]] | None,
    ) -> None:
        free = self.free(self.cache)
        if free < module.disk:
            raise PrerequisiteError(
                f"Building {module.name} takes {module.disk / 1024**3:.0f} GiB of disk, and "
                f"{self.cache} has {free / 1024**3:.1f} GiB left",
                remedy="Make room, or point XDG_CACHE_HOME, GOCACHE and GOMODCACHE elsewhere",
            )
        self.say(f"Building {module.name} with {version}; this takes some minutes, and only once")
        began = self.clock()
        new = target.with_name(f".{target.name}")
        await to_thread.run_sync(_emptied, new)
        try:
            await self._go(module, new / "bin")
            if finish is not None:
                await finish(new)
            await anyio.Path(new).rename(target)
            await to_thread.run_sync(_forget_others, target)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(lambda: shutil.rmtree(new, ignore_errors=True))
        self.say(f"Built {module.name} in {_duration(self.clock() - began)}")

    async def _go(self, module: Module, target: Path) -> None:
        go = self.go or "go"
        text = await anyio.Path(module.folder / "go.mod").read_text(encoding="utf-8")
        modules = len(named(text, "require"))
        listed = await self._tell(
            module,
            [go, "list", "-deps", "tool"],
            lambda done: f"{done.modules} of at most {modules} modules downloaded",
        )
        packages = len(listed.split())
        tools = len(named(text, "tool"))

        def told(done: Progress) -> str:
            linked = len(list(target.iterdir()))
            return (
                f"{done.packages} of at most {packages} packages compiled, {linked} of {tools} "
                "programs linked"
            )

        await self._tell(
            module, [go, "build", "-v", *module.flags, "-o", f"{target}/", "tool"], told
        )

    async def _tell(
        self, module: Module, argv: Sequence[str], told: Callable[[Progress], str]
    ) -> str:
        progress = Progress()
        began = self.clock()

        def on_line(line: str) -> None:
            nonlocal progress
            progress = progress.with_line(line)

        async def tell() -> None:
            while True:
                await anyio.sleep(TELL_EVERY)
                self.say(f"  {told(progress)}, {_duration(self.clock() - began)}")

        try:
            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as group:
                    group.start_soon(tell)
                    code, output = await self.pipe(
                        argv, cwd=module.folder, env=environment(), on_line=on_line
                    )
                    group.cancel_scope.cancel()
        except TimeoutError as error:
            raise PrerequisiteError(
                f"Building {module.name} did not end within {_duration(LIMIT)}",
                remedy="Run it again: what was compiled is kept",
                evidence="\n".join(progress.last),
            ) from error
        if code != 0:
            raise PrerequisiteError(
                f"Building {module.name} failed: `{' '.join(argv[:3])} …` ended with {code}",
                remedy="Check that the Go module proxy is reached (`go env GOPROXY`), and run it "
                "again: what was done is kept",
                evidence=tail("\n".join(progress.last)),
            )
        return output


def required(go_mod: str) -> str:
    """Return the version of Go that a go.mod asks for."""
    found = named(go_mod, "go")
    if not found:
        raise ValueError("go.mod asks for no version of Go")
    return found[0]


def named(go_mod: str, directive: str) -> tuple[str, ...]:
    """Return what a go.mod names with a directive, such as ``require`` or ``tool``."""
    found: list[str] = []
    inside = False
    for line in go_mod.splitlines():
        words = line.partition("//")[0].split()
        if words[:1] == [directive] and words[1:] == ["("]:
            inside = True
        elif words[:1] == [directive]:
            found.append(words[1])
        elif words == [")"]:
            inside = False
        elif inside and words:
            found.append(words[0])
    return tuple(found)


def digest(module: Module, version: str) -> str:
    """Return the name for what is built of a module.

    Args:
        module: The module; its files are read.
        version: The version of Go.
    """
    files = [module.folder / "go.mod", module.folder / "go.sum"]
    files += sorted(module.folder.rglob("*.go"))
    if module is CLUSTER:
        # What is made of the programs is kept with them.
        files += [Path(__file__).with_name(name) for name in ("archive.py", "bundle.py")]
    found = hashlib.sha256()
    for part in (version, archive.architecture(), *module.flags):
        found.update(f"{part}\0".encode())
    for file in files:
        found.update(f"{file.name}\0".encode())
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return f"{module.folder.name}-{found.hexdigest()[:16]}"


def environment() -> dict[str, str]:
    """Return the environment for Go: programs that need nothing but the kernel."""
    return os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}


def cache() -> Path:
    """Return the folder of what was built; it need not exist."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "slipway" / "kubernetes"


def hold(folder: Path) -> int | None:
    """Return a descriptor that keeps a folder of what was built from being removed.

    Whoever inherits it holds the folder as well; closing the last one lets go of it.

    Args:
        folder: What `Builder.ensure` returned.

    Returns:
        None when it was removed meanwhile.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        # It is being removed, or was.
        pass
    os.close(descriptor)
    return None


@dataclass(frozen=True, slots=True)
class Freed:
    """What a prune removed.

    Attributes:
        size: Bytes.
        held: The folders that stay, because somebody uses them.
    """

    size: int
    held: tuple[Path, ...] = ()


async def prune(folder: Path, say: Say) -> Freed:
    """Remove what was built, but for what is in use.

    Args:
        folder: The cache.
        say: Told when somebody else is at work there.

    Raises:
        PrerequisiteError: A build is under way.
    """
    if not await anyio.Path(folder).is_dir():
        return Freed(0)
    async with state.lock(folder, say, limit=PRUNE_LIMIT):
        return await to_thread.run_sync(_pruned, folder)


def _pruned(folder: Path) -> Freed:
    size, held = 0, []
    for found in sorted(path for path in folder.iterdir() if path.is_dir()):
        freed = _removed(found)
        if freed is None:
            held.append(found)
        size += freed or 0
    return Freed(size, tuple(held))


def _removed(folder: Path) -> int | None:
    """Remove a folder, and return how many bytes it had; None when somebody holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
        going = folder.with_name(f".{folder.name.lstrip('.')}.old")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(going)
        shutil.rmtree(folder.rename(going))
    except BlockingIOError:
        return None
    finally:
        os.close(descriptor)
    return size


def _emptied(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    (folder / "bin").mkdir(parents=True)


def _forget_others(kept: Path) -> None:
    """Remove what was built of the same module in other versions, where nobody uses it."""
    module = kept.name.rpartition("-")[0]
    for folder in kept.parent.glob(f"{module}-*"):
        if folder != kept:
            _removed(folder)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
