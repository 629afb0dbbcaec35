"""A container runtime in memory: it answers ``Backend`` and runs Python functions as commands."""

from __future__ import annotations

import contextlib
import posixpath
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any

import anyio

from pipeline.engine.backend import ImageInfo
from pipeline.engine.core.errors import BackendError, ExecFailed, NotFound
from pipeline.engine.core.identity import digest
from pipeline.engine.core.tree import Entry, Tree, clean

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.engine.backend import Attachment, BuildSpec, ContainerSpec, Login
    from pipeline.engine.store import Store

    Program = Callable[["FakeHandle", tuple[str, ...]], Awaitable[int]]

PLATFORM = "linux/amd64"


@dataclass
class FakeBackend:
    """A runtime in memory.

    Attributes:
        store: Where its files are; not the store of the engine.
        programs: What a command does, by its name; it is given its container and its arguments,
            and returns the exit code.
        remote: Images of registries, by reference.
        runs: The command lines that were started, in order.
        builds: The builds that were asked for, in order.
        logins: Who pulled and pushed, in order.
        live: How many containers and volumes exist, by kind.
        said: What a command has printed as soon as it starts, by its name.
        stillborn: Names of commands that have ended as soon as they start.
    """

    store: Store
    platform: str = PLATFORM
    programs: dict[str, Program] = field(default_factory=dict)
    remote: dict[str, str] = field(default_factory=dict)
    images: dict[str, ImageInfo] = field(default_factory=dict)
    trees: dict[tuple[str, ...], Tree] = field(default_factory=dict)
    volumes: dict[str, Tree] = field(default_factory=dict)
    runs: list[tuple[str, ...]] = field(default_factory=list)
    builds: list[BuildSpec] = field(default_factory=list)
    logins: list[tuple[str, Login | None]] = field(default_factory=list)
    live: Counter[str] = field(default_factory=Counter)
    networks: int = 0
    address: str = "127.0.0.1"
    secrets_seen: list[bytes] = field(default_factory=list)
    said: dict[str, bytes] = field(default_factory=dict)
    stillborn: set[str] = field(default_factory=set)

    def add_image(self, tree: Tree, config: Mapping[str, Any] | None = None) -> str:
        """Hold an image; return its id."""
        layers = (tree.digest,)
        self.trees[layers] = tree
        return self._hold(layers, config or {})

    def _hold(self, layers: tuple[str, ...], config: Mapping[str, Any]) -> str:
        self.trees.setdefault(layers, Tree())
        image = "sha256:" + digest("image", layers, dict(config))
        size = sum(e.size for e in self.trees[layers].entries)
        self.images[image] = ImageInfo(image, layers, config, self.platform, "", size)
        return image

    async def inspect(self, image: str) -> ImageInfo | None:
        """See ``Backend``."""
        return self.images.get(image)

    async def pull(self, reference: str, login: Login | None) -> ImageInfo:
        """See ``Backend``."""
        self.logins.append((reference, login))
        if reference not in self.remote:
            msg = f"cannot pull {reference}: not found"
            raise BackendError(msg)
        return self.images[self.remote[reference]]

    async def compose(
        self,
        layers: Sequence[str],
        config: Mapping[str, Any],
        *,
        like: str,  # noqa: ARG002 - layers say it all in memory
        platform: str,  # noqa: ARG002 - the same
        created: str | None = None,  # noqa: ARG002 - the same
    ) -> str:
        """See ``Backend``."""
        return self._hold(tuple(layers), config)

    async def scratch(self) -> str:
        """See ``Backend``."""
        return self._hold((), {})

    async def build(self, spec: BuildSpec) -> str:
        """See ``Backend``; the image is the context."""
        self.builds.append(spec)
        self.secrets_seen += [path.read_bytes() for path in spec.secrets.values()]
        text = (spec.context / spec.dockerfile).read_text()
        if "FAIL" in text:
            seen = b" ".join(self.secrets_seen).decode()
            msg = f"cannot build: {seen}"
            raise BackendError(msg)
        return self.add_image(self.store.scan(spec.context))

    async def push(self, image: str, reference: str, login: Login | None) -> str:
        """See ``Backend``."""
        self.logins.append((reference, login))
        self.remote[reference] = image
        return image

    async def save(self, image: str, path: Path) -> None:
        """See ``Backend``."""
        await anyio.Path(path).write_text(image)

    @contextlib.asynccontextmanager
    async def container(self, spec: ContainerSpec) -> AsyncIterator[FakeHandle]:
        """See ``Backend``."""
        self.live["container"] += 1
        try:
            yield FakeHandle(self, spec, self.trees[self.images[spec.image].layers])
        finally:
            self.live["container"] -= 1

    @contextlib.asynccontextmanager
    async def volume(self) -> AsyncIterator[str]:
        """See ``Backend``."""
        name = f"volume-{len(self.volumes)}"
        self.volumes[name] = Tree()
        self.live["volume"] += 1
        try:
            yield name
        finally:
            del self.volumes[name]
            self.live["volume"] -= 1

    async def cache_volume(self, name: str) -> bool:
        """See ``Backend``."""
        made = name not in self.volumes
        self.volumes.setdefault(name, Tree())
        return made

    async def network(self) -> tuple[str, str]:
        """See ``Backend``."""
        self.networks = 1
        return "network", "127.0.0.1"

    async def close(self) -> None:
        """See ``Backend``."""

    async def sweep(self, session: str) -> bool:  # noqa: ARG002 - nothing is ever left
        """See ``Backend``."""
        return True


class FakeHandle:
    """A container in memory; see ``Handle``."""

    def __init__(self, backend: FakeBackend, spec: ContainerSpec, tree: Tree) -> None:
        self.id = f"container-{id(self)}"
        self.spec = spec
        self.tree = tree
        self.out, self.err = bytearray(), bytearray()
        self.stopped = anyio.Event()
        self.killed = False
        self.running = False
        self._backend = backend

    @property
    def env(self) -> dict[str, str]:
        """The environment of the command."""
        return dict(self.spec.env)

    def _volume(self, path: str) -> tuple[Attachment, str] | None:
        for attachment in self.spec.attachments:
            inside = path == attachment.target or path.startswith(attachment.target + "/")
            if attachment.kind == "volume" and inside:
                return attachment, path[len(attachment.target) :]
        return None

    def write(self, path: str, text: str) -> None:
        """Write a file, as a command does."""
        content, size = self._backend.store.add_bytes(text.encode())
        entry = Entry(clean(path), "file", 0o644, content=content, size=size)
        if (found := self._volume(path)) is not None:
            attachment, rest = found
            volumes = self._backend.volumes
            entry = replace(entry, path=clean(rest))
            volumes[attachment.source] = volumes[attachment.source].put(entry)
        else:
            self.tree = self.tree.put(entry)

    def read(self, path: str) -> str:
        """Read a file, as a command does; empty when there is none."""
        tree, rest = self.tree, path
        if (found := self._volume(path)) is not None:
            tree, rest = self._backend.volumes[found[0].source], found[1]
        try:
            return self._backend.store.read(tree.find(rest).content).decode()
        except NotFound:
            return ""

    async def put(self, path: str, archive: IO[bytes]) -> None:
        """See ``Handle``."""
        volumes = self._backend.volumes
        for entry in self._backend.store.untar(archive).under(path):
            if (found := self._volume(f"/{entry.path}")) is None:
                self.tree = self.tree.merge("", Tree((entry,)))
            elif inside := clean(found[1]):
                own = Tree((replace(entry, path=inside),))
                name = found[0].source
                volumes[name] = volumes[name].merge("", own)

    async def get(self, path: str, read: Callable[[IO[bytes], str], Tree]) -> Tree:
        """See ``Handle``."""
        tree, rest = self.tree, path
        if (found := self._volume(path)) is not None:
            tree, rest = self._backend.volumes[found[0].source], found[1]
        name = posixpath.basename(path.rstrip("/")) or "root"
        if clean(rest):
            entry = tree.find(rest)
            entries = [replace(entry, path=name)]
            if entry.kind == "dir":
                entries += tree.sub(rest).under(name)
        else:
            entries = [Entry(name, "dir", 0o755), *tree.under(name)]
        with self._backend.store.tar(entries) as archive:
            return read(archive, name)

    async def start(self) -> None:
        """See ``Handle``."""
        self._backend.runs.append(self.spec.command)
        if self.spec.command[0] not in self._backend.programs:
            raise ExecFailed(self.spec.command, 127, "", "executable file not found")
        self.running = self.spec.command[0] not in self._backend.stillborn
        self.out += self._backend.said.get(self.spec.command[0], b"")

    async def wait(self) -> int:
        """See ``Handle``."""
        name, *args = self.spec.command
        try:
            return await self._backend.programs[name](self, tuple(args))
        finally:
            self.running = False

    async def logs(self) -> tuple[bytes, bytes]:
        """See ``Handle``."""
        return bytes(self.out), bytes(self.err)

    async def address(self) -> str:
        """See ``Handle``."""
        return self._backend.address if self.running else ""

    async def commit(self) -> str:
        """See ``Handle``."""
        return self._backend.add_image(self.tree)

    async def stop(self, *, kill: bool = False) -> None:
        """See ``Handle``."""
        self.killed = kill
        self.running = False
        self.stopped.set()
