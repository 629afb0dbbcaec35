"""Turns definitions into what they stand for: trees, files, states, published images.

The life of a value: a query builds up a definition (core), a field that needs an answer asks the
solver, the solver asks the store whether it is known, and the backend to do it otherwise. Within
a session equal definitions are solved once, also when they are asked for at the same time.
Across sessions, what is kept by content is: commands, builds, writes and folders that were read.
A command that failed is never kept.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import secrets
import tarfile
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import to_thread

from .backend import Attachment, BuildSpec, ContainerSpec, Login
from .core import container as c
from .core import directory as d
from .core import patterns
from .core.dockerfile import pinned
from .core.errors import EngineError, ExecFailed, NotFound, NotServed
from .core.identity import digest
from .core.service import ContainerService, HostService, Port, Tunnel
from .core.tree import Entry, Tree, clean

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path
    from typing import IO

    from .backend import Backend, Handle
    from .core.service import Service
    from .relay import Relays
    from .services import Services
    from .store import Store
    from .vault import Vault

T = TypeVar("T")

# Files that Docker itself puts into each container; they are in no image.
_DOCKER_OWN = {".dockerenv", "dev/console"}
_DOCKER_EMPTY = {"etc/hosts", "etc/hostname", "etc/resolv.conf"}
# What of an image's configuration the engine carries along as it is.
_REST = ("Healthcheck", "StopSignal", "Volumes", "Shell", "OnBuild")
# Commands that run at once; each waits for its own network and disk most of its time.
_COMMANDS = 2 * (os.cpu_count() or 1) + 4
# Seconds that a command waits for a locked cache volume, and how often it looks.
_LOCK_LIMIT, _LOCK_POLL = 3600, 0.05


class _Flight:
    """Work that is under way, for those who ask for the same."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.result: tuple[Any] | None = None
        self.error: Exception | None = None


class SingleFlight:
    """Does equal work once: what is known, or under way, is shared. Failures are not kept."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def do(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of the work; do it unless somebody has or does."""
        while True:
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(key, work)
            await flight.done.wait()
            if flight.result is not None:
                result: T = flight.result[0]
                return result
            if flight.error is not None:
                raise flight.error
            # Whoever did the work was cancelled: somebody else takes it up.

    def has(self, key: str) -> bool:
        """Tell whether the work of a key is done or under way."""
        return key in self._flights

    async def _lead(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        flight = self._flights[key] = _Flight()
        try:
            result = await work()
        except Exception as e:
            flight.error = e
            raise
        else:
            flight.result = (result,)
            return result
        finally:
            if flight.result is None:
                del self._flights[key]
            flight.done.set()


class Solver:
    """Solves definitions for one session.

    Args:
        store: Where contents and results are kept.
        backend: What runs containers.
        vault: The session's secrets.
        relays: Makes sockets for containers.
        private: The session's folder for sockets and secrets.
    """

    services: Services

    def __init__(
        self, store: Store, backend: Backend, vault: Vault, relays: Relays, private: Path
    ) -> None:
        self.store = store
        self.backend = backend
        self.vault = vault
        self.relays = relays
        self.private = private
        self._flights = SingleFlight()
        self._commands = anyio.CapacityLimiter(_COMMANDS)

    async def once(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do work once a session."""
        return await self._flights.do(key, work)

    # --- folders and files --------------------------------------------------------------------

    async def tree(self, directory: d.Directory) -> Tree:
        """Return a folder with everything in it."""
        if isinstance(directory, d.Literal):
            return directory.tree
        return await self._flights.do(directory.digest, lambda: self._tree(directory))

    async def _tree(self, directory: d.Directory) -> Tree:
        match directory:
            case d.InContainer(container, path, mounts):
                return await self._tree_in(await self.state(container), path, mounts=mounts)
            case d.Sub(parent, path):
                return (await self.tree(parent)).sub(path)
            case d.Overlay(parent, path, source, filter_, owner, permissions):
                over = await self.filtered(source, filter_)
                over = over.owned(_numeric(owner), permissions)
                return (await self.tree(parent)).merge(path, over)
            case d.Placed(parent, path, source, owner, permissions):
                entry = await self.file(source)
                placed = _placed(entry, clean(path), _numeric(owner), permissions)
                return (await self.tree(parent)).put(placed)
            case d.Removed(parent, path):
                tree = await self.tree(parent)
                if clean(path) not in tree.by_path and any(sign in path for sign in "*?["):
                    for found in tree.glob(patterns.glob(path)):
                        tree = tree.without(found)
                    return tree
                return tree.without(path)
            case d.Literal(tree):
                return tree

    async def filtered(self, source: d.Directory, filter_: d.Filter) -> Tree:
        """Return the files of a folder that a filter takes."""
        tree = await self.tree(source)
        lines: list[str] = []
        if filter_.gitignore and ".gitignore" in tree.by_path:
            content = self.store.read(tree.find(".gitignore").content)
            lines = [*content.decode(errors="replace").splitlines(), ".git"]
        if not (filter_.include or filter_.exclude or lines):
            return tree
        return tree.select(patterns.selector(filter_.include, filter_.exclude, lines))

    async def glob(self, directory: d.Directory, pattern: str) -> list[str]:
        """Return the paths in a folder that match; no more of a container is read than needed."""
        matches = patterns.glob(pattern)
        prefix = patterns.static_prefix(pattern)
        if isinstance(directory, d.InContainer) and prefix:
            try:
                tree = await self.tree(d.folder(directory, prefix))
            except NotFound:
                return []
            return Tree(tree.under(prefix)).glob(matches)
        return (await self.tree(directory)).glob(matches)

    async def file(self, file: d.File) -> Entry:
        """Return a file; its path is its name."""
        match file:
            case d.LiteralFile(entry):
                return entry
            case d.FileIn(d.InContainer(container, folder, mounts), path):
                full = posixpath.join(folder, path)
                state = await self.state(container)
                entry = await self._file_in(state, full, mounts=mounts)
            case d.FileIn(parent, path):
                entry = (await self.tree(parent)).find(path)
        if entry.kind != "file":
            msg = f"{path}: is a directory, not a file"
            raise NotFound(msg)
        return replace(entry, path=posixpath.basename(path))

    async def _tree_in(self, state: c.State, path: str, *, mounts: bool) -> Tree:
        full = state.config.path(path)
        mount = c.mount_at(state, full) if mounts else None
        if mount is not None:
            return (await self._mounted(mount)).sub(full[len(mount.path) :])
        key = digest("read", state.image, state.writes, full)
        if (rows := self.store.result(key)) is not None:
            tree = _tree_from(rows["tree"])
            if await to_thread.run_sync(self.store.holds, tree):
                return tree

        def read(archive: IO[bytes], name: str) -> Tree:
            return self.store.untar(archive, name)

        tree = _without_dockers_own(await self._read(state, full, read), full)
        self.store.keep(key, {"tree": _rows(tree)})
        return tree

    async def _file_in(self, state: c.State, path: str, *, mounts: bool) -> Entry:
        full = state.config.path(path)
        mount = c.mount_at(state, full) if mounts else None
        if mount is not None and mount.file is not None:
            return await self.file(mount.file)
        if mount is not None:
            return (await self._mounted(mount)).find(full[len(mount.path) :])
        key = digest("read-file", state.image, state.writes, full)
        if (rows := self.store.result(key)) is not None:
            tree = _tree_from(rows["tree"])
            if self.store.holds(tree):
                return tree.entries[0]

        def read(archive: IO[bytes], name: str) -> Tree:
            tree = self.store.untar(archive)
            # A folder comes with all that is in it; only what the name itself is matters here.
            return Tree((tree.find(name),))

        tree = await self._read(state, full, read)
        self.store.keep(key, {"tree": _rows(tree)})
        return tree.entries[0]

    async def _read(
        self, state: c.State, path: str, read: Callable[[IO[bytes], str], Tree]
    ) -> Tree:
        image = await self.settled(state)
        async with self.backend.container(ContainerSpec(image)) as handle:
            return await handle.get(path, read)

    async def _mounted(self, mount: c.Mount) -> Tree:
        if mount.tree is not None:
            return mount.tree
        if mount.directory is not None:
            return await self.tree(mount.directory)
        msg = f"{mount.path} is a cache, temporary, secret or socket mount: it cannot be read"
        raise EngineError(msg)

    # --- containers ---------------------------------------------------------------------------

    async def state(self, container: c.Container) -> c.State:
        """Return what a chain of changes leads to; runs what has to be run."""
        pending = []
        for link in container.chain():
            pending.append(link)
            if _kept(link) and self._flights.has("state" + link.digest):
                break
        state = c.State(container.platform)
        # One after the other and not one within the other: a chain may be long.
        for link in reversed(pending):
            change = partial(self._change, state, link)
            if _kept(link):
                state = await self._flights.do("state" + link.digest, change)
            else:
                state = await change()
        return state

    async def _change(self, state: c.State, link: c.Container) -> c.State:
        match link.change:
            case None:
                return state
            case c.From():
                return await self._from(state, link.change)
            case c.Build():
                return await self._build(state, link.change)
            case c.Exec():
                return await self._exec(state, link.change)
            case c.WithWrite(write, expand):
                solved = await self._solved_write(state, write)
                return c.WithWrite(solved, expand).apply(state)
            case c.WithMount(mount, expand):
                return c.WithMount(await self._solved_mount(mount), expand).apply(state)
            case change:
                return change.apply(state)

    async def _solved_write(self, state: c.State, write: c.Write) -> c.Write:
        """Pin a write to contents and numbers, so that its identity is that of the result."""
        owner = await self.owner(state, write.owner)
        numeric = f"{owner[0]}:{owner[1]}" if owner else ""
        if write.directory is not None:
            tree = await self.tree(write.directory)
            return replace(write, directory=d.Literal(tree), owner=numeric)
        if write.file is not None:
            return replace(write, file=d.LiteralFile(await self.file(write.file)), owner=numeric)
        return write

    async def _solved_mount(self, mount: c.Mount) -> c.Mount:
        if mount.directory is not None:
            return replace(mount, directory=None, tree=await self.tree(mount.directory))
        if mount.file is not None:
            return replace(mount, file=d.LiteralFile(await self.file(mount.file)))
        return mount

    def _login(self, state: c.State, address: str) -> Login | None:
        auth = state.auth(c.registry_of(address))
        if auth is None:
            return None
        return Login(auth.username, self.vault.plaintext(auth.secret).decode())

    async def _from(self, state: c.State, change: c.From) -> c.State:
        async with self._reachable(change.address, change.registry) as address:
            info = await self.backend.pull(address, self._login(state, change.address))
        # As on Dagger, an image replaces all that was set before; who may pull is no part of it.
        return await self._based_on(c.State(state.platform, auths=state.auths), info.id)

    async def _based_on(self, state: c.State, image: str) -> c.State:
        info = await self.backend.inspect(image)
        if info is None:
            msg = f"image {image} is gone from the Docker Engine"
            raise EngineError(msg)
        bare = await self.backend.compose(info.layers, {}, like=info.id, platform=info.platform)
        return replace(
            state,
            platform=info.platform,
            image=bare,
            origin=info.id,
            config=_config_from(info.config),
        )

    async def _build(self, state: c.State, change: c.Build) -> c.State:
        tree = await self.tree(change.context)
        try:
            dockerfile = tree.find(change.dockerfile)
        except NotFound as e:
            msg = f"cannot build: no Dockerfile at {change.dockerfile} in the build context"
            raise NotFound(msg) from e
        text = self.store.read(dockerfile.content).decode(errors="replace")
        key = digest(
            "build",
            tree,
            change.dockerfile,
            change.platform,
            change.args,
            change.target,
            change.secrets,
        )
        remembered = pinned(text, dict(change.args)) and change.ssh is None
        known = self.store.result(key) if remembered else None
        if known is None or await self.backend.inspect(known["image"]) is None:
            image = await self._built(tree, change)
            if remembered:
                self.store.keep(key, {"image": image})
        else:
            image = known["image"]
        return await self._based_on(state, image)

    async def _built(self, tree: Tree, change: c.Build) -> str:
        folder = self.private / secrets.token_hex(6)
        # The context lies where the store is: it may be larger than what fits into memory.
        context = self.store.temporary / f"context-{secrets.token_hex(6)}"
        try:
            await to_thread.run_sync(lambda: self.store.export(tree, context, pinned=True))
            folder.mkdir(mode=0o700)
            files = {}
            for number, secret in enumerate(change.secrets):
                value = await to_thread.run_sync(self.vault.plaintext, secret)
                path = folder / str(number)
                path.touch(mode=0o600)
                path.write_bytes(value)
                files[secret.name] = path
            return await self.backend.build(
                BuildSpec(
                    context=context,
                    dockerfile=change.dockerfile,
                    target=change.target,
                    platform=change.platform,
                    args=change.args,
                    secrets=files,
                    ssh=change.ssh.path if change.ssh else "",
                )
            )
        except EngineError as e:
            # What an instruction printed is in the message, and may hold a secret.
            text = self.vault.scrub(str(e).encode()).decode()
            raise type(e)(text) from None
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_remove, context)
                await to_thread.run_sync(_remove, folder)

    async def settled(self, state: c.State) -> str:
        """Return the image with a state's filesystem, everything written."""
        if not state.image:
            state = replace(state, image=await self.backend.scratch())
        if not state.writes:
            return state.image
        key = digest("settle", state.image, state.writes)
        return await self._flights.do(key, lambda: self._settle(key, state))

    async def _settle(self, key: str, state: c.State) -> str:
        known = self.store.result(key)
        if known is not None and await self.backend.inspect(known["image"]) is not None:
            return str(known["image"])
        async with self.backend.container(ContainerSpec(state.image)) as handle:
            await self._write(handle, state)
            image = await handle.commit()
        self.store.keep(key, {"image": image})
        return image

    async def _write(self, handle: Handle, state: c.State) -> None:
        for write in state.writes:
            entries = await self._entries(write)
            archive = await to_thread.run_sync(self.store.tar, entries)
            with archive:
                await handle.put("/", archive)

    async def _entries(self, write: c.Write) -> tuple[Entry, ...]:
        path = clean(write.path)
        owner = _numeric(write.owner)
        if write.file is not None:
            entry = await self.file(write.file)
            return (_placed(entry, path, owner, write.permissions),)
        if write.directory is None:  # pragma: no cover - a write has one of the two
            return ()
        tree = (await self.tree(write.directory)).owned(owner, write.permissions)
        top = Entry(path, "dir", 0o755, *(owner or (0, 0)))
        # The folder itself is named only where there is nothing in it: naming it would change
        # the mode and owner of one that is there.
        return tree.under(path) or ((top,) if path else ())

    async def owner(self, state: c.State, owner: str) -> tuple[int, int] | None:
        """Resolve an owner within a container; None when none was asked for."""
        if not owner:
            return None
        if owner.replace(":", "", 1).isdecimal():
            return c.numeric_owner(owner, "", "")
        texts = []
        for path in ("/etc/passwd", "/etc/group"):
            try:
                entry = await self._file_in(state, path, mounts=False)
                texts.append(self.store.read(entry.content).decode(errors="replace"))
            except NotFound:
                texts.append("")
        return c.numeric_owner(owner, *texts)

    # --- commands -----------------------------------------------------------------------------

    async def _exec(self, state: c.State, change: c.Exec) -> c.State:
        services = [
            (alias, await self.service_identity(service)) for alias, service in state.bindings
        ]
        key = digest("exec", replace(state, bindings=(), output=None), services, change)
        known = self.store.result(key)
        if known is not None and (again := await self._known(state, known)) is not None:
            return again
        async with self._commands:
            after, output, image, written = await self._run(state, change)
        if output.exit_code == 0 or change.expect is c.Expect.FAILURE:
            rows = {path: _rows(tree) for path, tree in written.items()}
            self.store.keep(key, {"image": image, "output": asdict(output), "mounts": rows})
        return after

    async def service_identity(self, service: Service) -> str:
        """Return what a service runs, by content."""
        match service:
            case ContainerService(container, start, alias):
                state = await self.state(container)
                bound = [(a, await self.service_identity(s)) for a, s in state.bindings]
                return digest("service", replace(state, bindings=()), bound, start, alias)
            case HostService() | Tunnel():
                return service.digest

    async def _known(self, state: c.State, known: dict[str, Any]) -> c.State | None:
        if await self.backend.inspect(known["image"]) is None:
            return None
        written = {path: _tree_from(rows) for path, rows in known["mounts"].items()}
        for tree in written.values():
            if not await to_thread.run_sync(self.store.holds, tree):
                return None
        return _after(state, known["image"], c.Output(**known["output"]), written)

    async def _run(
        self, state: c.State, change: c.Exec
    ) -> tuple[c.State, c.Output, str, dict[str, Tree]]:
        config = state.config
        command = change.start.command(config)
        stdin = change.stdin.encode() if change.stdin is not None else None
        if change.redirect_stdin:
            entry = await self._file_in(state, change.redirect_stdin, mounts=True)
            stdin = self.store.read(entry.content)
        async with AsyncExitStack() as stack:
            spec = await self.prepared(stack, state, change.start, command)
            handle = await stack.enter_async_context(
                self.backend.container(replace(spec, stdin=stdin))
            )
            await self.fill(handle, state, spec)
            await handle.start()
            exit_code = await handle.wait()
            raw = await handle.logs()
            stdout, stderr = (self.vault.scrub(part) for part in raw)
            output = c.Output(
                exit_code, stdout.decode(errors="replace"), stderr.decode(errors="replace")
            )
            expected = {
                c.Expect.SUCCESS: exit_code == 0,
                c.Expect.FAILURE: exit_code != 0,
                c.Expect.ANY: True,
            }
            if not expected[change.expect]:
                raise ExecFailed(command, exit_code, output.stdout, output.stderr)
            for path, content in (
                (change.redirect_stdout, stdout),
                (change.redirect_stderr, stderr),
            ):
                if path:
                    await self._redirect(handle, config.path(path), content)
            written = {
                mount.path: await handle.get(mount.path, self._reader(state, mount))
                for mount in state.mounts
                if mount.tree is not None and not mount.read_only
            }
            image = await handle.commit()
        return _after(state, image, output, written), output, image, written

    def _reader(self, state: c.State, mount: c.Mount) -> Callable[[IO[bytes], str], Tree]:
        """Return what reads a mount, without the mounts within it: a secret may be one."""
        prefix = mount.path.rstrip("/") + "/"
        within = {m.path.removeprefix(prefix) for m in state.mounts if m.path.startswith(prefix)}
        return lambda archive, name: self.store.untar(archive, name, within)

    async def _redirect(self, handle: Handle, path: str, content: bytes) -> None:
        name, size = await to_thread.run_sync(self.store.add_bytes, content)
        entry = Entry(clean(path), "file", 0o644, content=name, size=size)
        with self.store.tar((entry,)) as archive:
            await handle.put("/", archive)

    async def prepared(
        self,
        stack: AsyncExitStack,
        state: c.State,
        start: c.Start,
        command: tuple[str, ...],
    ) -> ContainerSpec:
        """Make everything that a container needs beside it; it lasts as long as the stack."""
        hosts, network = await self.services.bind(state.bindings)
        env = dict(state.config.env)
        for name, secret in state.secret_env:
            value = await to_thread.run_sync(self.vault.plaintext, secret)
            env[name] = value.decode(errors="surrogateescape")
        attachments = [await self._attachment(stack, state, mount) for mount in state.mounts]
        return ContainerSpec(
            image=state.image or await self.backend.scratch(),
            command=command,
            env=tuple(env.items()),
            workdir=state.config.workdir,
            user=state.config.user,
            attachments=tuple(attachments),
            hosts=hosts,
            network=network,
            privileged=start.privileged,
            init=not start.no_init,
        )

    async def fill(self, handle: Handle, state: c.State, spec: ContainerSpec) -> None:
        """Put what a state has written and mounted into a container that was just made."""
        await self._write(handle, state)
        for mount, attachment in zip(state.mounts, spec.attachments, strict=True):
            if mount.tree is not None and not mount.read_only:
                owner = await self.owner(state, mount.owner)
                await self._fill(handle, attachment.target, mount.tree, owner)

    async def _fill(
        self, handle: Handle, target: str, tree: Tree, owner: tuple[int, int] | None
    ) -> None:
        # By its whole path: Docker leaves out what an archive says of its own root.
        top = Entry(clean(target), "dir", 0o755, *(owner or (0, 0)))
        entries = (top, *tree.owned(owner).under(target))
        archive = await to_thread.run_sync(self.store.tar, entries)
        with archive:
            await handle.put("/", archive)

    async def _attachment(
        self, stack: AsyncExitStack, state: c.State, mount: c.Mount
    ) -> Attachment:
        owner = await self.owner(state, mount.owner)
        if mount.temporary:
            return Attachment(mount.path, kind="tmpfs", size=mount.size)
        if mount.tree is not None:
            volume = await stack.enter_async_context(self.backend.volume())
            if mount.read_only:
                # A mount that nobody may write to cannot be filled through its own container.
                writable = Attachment("/mount", volume, "volume")
                image = state.image or await self.backend.scratch()
                spec = ContainerSpec(image, attachments=(writable,))
                async with self.backend.container(spec) as handle:
                    await self._fill(handle, "/mount", mount.tree, owner)
            return Attachment(mount.path, volume, "volume", mount.read_only)
        if mount.cache is not None:
            return await self._cache(stack, state, mount, mount.cache)
        if mount.socket is not None:
            path = await stack.enter_async_context(
                self.relays.unix(self.private, mount.socket.path, owner)
            )
            return Attachment(mount.path, str(path))
        if mount.secret is not None:
            value = await to_thread.run_sync(self.vault.plaintext, mount.secret)
            path = await self._private_file(stack, state, value, owner or (0, 0), mount.mode)
            return Attachment(mount.path, str(path), read_only=True)
        if mount.file is None:  # pragma: no cover - a mount has one of its sources
            msg = f"{mount.path}: nothing to mount"
            raise EngineError(msg)
        entry = await self.file(mount.file)
        value = await to_thread.run_sync(self.store.read, entry.content)
        placed = owner or (entry.uid, entry.gid)
        path = await self._private_file(stack, state, value, placed, entry.mode)
        return Attachment(mount.path, str(path), read_only=True)

    async def _private_file(
        self,
        stack: AsyncExitStack,
        state: c.State,
        value: bytes,
        owner: tuple[int, int],
        mode: int,
    ) -> Path:
        """Write a file into the private folder with an owner that only root can give."""
        folder = self.private / secrets.token_hex(6)
        folder.mkdir(mode=0o700)
        stack.callback(_remove, folder)
        path = folder / "file"
        if os.geteuid() in {0, owner[0]}:
            path.touch(mode=0o600)
            path.write_bytes(value)
            path.chmod(mode)
            if os.geteuid() == 0:
                os.chown(path, *owner)
            return path
        # Straight from memory: what may be a secret is never written to the store.
        spec = ContainerSpec(
            state.image or await self.backend.scratch(),
            attachments=(Attachment("/private", str(folder)),),
        )
        async with self.backend.container(spec) as handle:
            await handle.put("/private", _alone("file", value, mode, owner))
        return path

    async def _cache(
        self,
        stack: AsyncExitStack,
        state: c.State,
        mount: c.Mount,
        cache: c.CacheVolume,
    ) -> Attachment:
        owner = await self.owner(state, mount.owner or cache.owner)
        name = f"slipway-cache-{digest('cache', cache.key)[:24]}"
        if cache.sharing is not c.Sharing.SHARED:
            name = await self._locked_volume(stack, name, cache.sharing)
        if cache.source is None and not owner:
            await self.backend.cache_volume(name)
        else:
            await self._begin(state, cache, name, owner)
        return Attachment(mount.path, name, "volume")

    async def _begin(
        self, state: c.State, cache: c.CacheVolume, name: str, owner: tuple[int, int] | None
    ) -> None:
        """Make a cache volume, and fill a new one whole: also when who began it was killed."""
        key = digest("volume", name)
        async with AsyncExitStack() as stack:
            await self._lock(stack, f"{name}.begin")
            note = self.store.result(key)
            if note is None:
                # Before there is anything, so that a volume half filled is never taken for whole.
                self.store.keep(key, {"whole": False})
            made = await self.backend.cache_volume(name)
            whole = note is None or bool(note["whole"])
            if made or not whole:
                tree = await self.tree(cache.source) if cache.source is not None else Tree()
                image = state.image or await self.backend.scratch()
                spec = ContainerSpec(image, attachments=(Attachment("/mount", name, "volume"),))
                async with self.backend.container(spec) as handle:
                    await self._fill(handle, "/mount", tree, owner)
            if note is None or not whole:
                self.store.keep(key, {"whole": True})

    async def _locked_volume(self, stack: AsyncExitStack, name: str, sharing: c.Sharing) -> str:
        if sharing is c.Sharing.PRIVATE:
            for number in range(1000):
                own = f"{name}-{number}"
                if stack.enter_context(self.store.volume_lock(own))():
                    return own
        await self._lock(stack, name)
        return name

    async def _lock(self, stack: AsyncExitStack, name: str) -> None:
        """Wait until nobody else on this machine has a lock; keep it as long as the stack."""
        take = stack.enter_context(self.store.volume_lock(name))
        with anyio.move_on_after(_LOCK_LIMIT):
            # Another process may hold it, which no event of this one can tell.
            while not take():  # noqa: ASYNC110
                await anyio.sleep(_LOCK_POLL)
            return
        msg = f"another run has kept {name} locked for {_LOCK_LIMIT} s"
        raise EngineError(msg)

    # --- images -------------------------------------------------------------------------------

    async def image(self, state: c.State) -> str:
        """Return the image that is a state, configuration included."""
        if state.origin:
            return state.origin
        settled = await self.settled(state)
        info = await self.backend.inspect(settled)
        layers = info.layers if info else ()
        config = _config_to(state.config)
        return await self.backend.compose(layers, config, like=settled, platform=state.platform)

    async def publish(self, container: c.Container, address: str, registry: Service | None) -> str:
        """Push a container's image; return the address with the manifest's digest."""
        state = await self.state(container)
        image = await self.image(state)
        async with self._reachable(address, registry) as reachable, AsyncExitStack() as stack:
            # To be pushed, an image gets the name on the Docker Engine, which all runs share.
            await self._lock(stack, f"push-{digest('push', reachable)[:24]}")
            pushed = await self.backend.push(image, reachable, self._login(state, address))
        return f"{address.partition('@')[0]}@{pushed}"

    @contextlib.asynccontextmanager
    async def _reachable(self, address: str, registry: Service | None) -> AsyncIterator[str]:
        """Yield the address as the Docker Engine can reach it.

        A registry that is given as a service is reached through this host's loopback, which the
        Docker Engine takes for a registry without TLS.
        """
        if registry is None:
            yield address
            return
        host = c.registry_of(address)
        port = int(host.rpartition(":")[2]) if ":" in host else 80
        async with self.services.loopback(registry, port) as local:
            yield f"127.0.0.1:{local}/{address.removeprefix(host).lstrip('/')}"

    async def save(self, container: c.Container, path: Path) -> None:
        """Write a container's image as an archive to the host."""
        image = await self.image(await self.state(container))
        await to_thread.run_sync(lambda: path.parent.mkdir(parents=True, exist_ok=True))
        await self.backend.save(image, path)

    def check_platform(self, platform: str | None) -> str:
        """Return the platform, which must be this machine's.

        Raises:
            NotServed: It is another one.
        """
        mine = self.backend.platform
        if platform and platform != mine:
            what = f"platform {platform}"
            raise NotServed(what, f"this machine runs {mine}")
        return mine


def _kept(link: c.Container) -> bool:
    """Tell whether a change is worth remembering; the others cost nothing."""
    return isinstance(link.change, c.From | c.Build | c.Exec)


def _after(state: c.State, image: str, output: c.Output, written: Mapping[str, Tree]) -> c.State:
    mounts = tuple(replace(m, tree=written.get(m.path, m.tree)) for m in state.mounts)
    return replace(state, image=image, origin="", writes=(), mounts=mounts, output=output)


def _numeric(owner: str) -> tuple[int, int] | None:
    """Resolve an owner where there are no account files: numbers only."""
    return c.numeric_owner(owner, "", "") if owner else None


def _placed(
    entry: Entry, path: str, owner: tuple[int, int] | None, permissions: int | None
) -> Entry:
    uid, gid = owner or (entry.uid, entry.gid)
    mode = entry.mode if permissions is None else permissions
    return replace(entry, path=path, uid=uid, gid=gid, mode=mode)


def _rows(tree: Tree) -> list[list[Any]]:
    return [[e.path, e.kind, e.mode, e.uid, e.gid, e.content, e.size] for e in tree.entries]


def _tree_from(rows: list[list[Any]]) -> Tree:
    return Tree(tuple(Entry(*row) for row in rows))


def _without_dockers_own(tree: Tree, at: str) -> Tree:
    prefix = at.strip("/")
    return Tree(
        tuple(
            e
            for e in tree.entries
            if (full := f"{prefix}/{e.path}".lstrip("/")) not in _DOCKER_OWN
            and not (full in _DOCKER_EMPTY and e.size == 0)
        )
    )


def _alone(name: str, value: bytes, mode: int, owner: tuple[int, int]) -> IO[bytes]:
    """Return an archive with one file in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.mode, info.size = mode, len(value)
        info.uid, info.gid = owner
        tar.addfile(info, io.BytesIO(value))
    out.seek(0)
    return out


def _remove(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def _config_from(config: Mapping[str, Any]) -> c.Config:
    """Read an image's configuration in Docker's form."""
    ports = []
    for name in sorted(config.get("ExposedPorts") or {}):
        number, _, protocol = name.partition("/")
        ports.append(Port(int(number), "UDP" if protocol == "udp" else "TCP"))
    return c.Config(
        env=tuple(
            (name, value)
            for name, _, value in (pair.partition("=") for pair in config.get("Env") or ())
        ),
        workdir=config.get("WorkingDir") or "",
        user=config.get("User") or "",
        entrypoint=tuple(config.get("Entrypoint") or ()),
        args=tuple(config.get("Cmd") or ()),
        labels=tuple(sorted((config.get("Labels") or {}).items())),
        ports=tuple(ports),
        rest={name: config[name] for name in _REST if config.get(name)},
    )


def _config_to(config: c.Config) -> dict[str, Any]:
    """Write an image's configuration in Docker's form."""
    out: dict[str, Any] = dict(config.rest)
    out["Env"] = [f"{name}={value}" for name, value in config.env]
    out["Entrypoint"] = list(config.entrypoint) or None
    out["Cmd"] = list(config.args) or None
    out["WorkingDir"] = config.workdir
    out["User"] = config.user
    out["Labels"] = dict(config.labels) or None
    out["ExposedPorts"] = {f"{p.port}/{p.protocol.lower()}": {} for p in config.ports} or None
    return out
