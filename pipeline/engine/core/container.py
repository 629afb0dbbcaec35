"""Containers: a chain of changes, and the state that a chain leads to.

A ``Container`` is a definition: its last change and the container before it. Nothing runs while
one is built up. The solver walks the chain from the start and keeps a ``State``. Most changes
are pure (``apply``); the solver does those that need Docker: From, Build and Exec.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from . import identity
from .errors import EngineError, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .directory import Directory, File
    from .secret import Secret
    from .service import Port, Service
    from .tree import Tree

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


class Expect(Enum):
    """Which exit codes a command may end with."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    ANY = "ANY"


class Sharing(Enum):
    """How several commands use one cache volume at once."""

    SHARED = "SHARED"
    PRIVATE = "PRIVATE"
    LOCKED = "LOCKED"


@dataclass(frozen=True, slots=True)
class CacheVolume:
    """A folder that outlives containers, named by its key."""

    key: str
    sharing: Sharing = Sharing.SHARED
    source: Directory | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Socket:
    """A Unix socket on the host."""

    path: str


# --- what a state is made of ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Config:
    """An image's configuration.

    Attributes:
        rest: What the engine does not change, as the image had it (Healthcheck, StopSignal,
            Volumes, Shell, OnBuild), in Docker's own form.
    """

    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[Port, ...] = ()
    rest: Mapping[str, object] = field(default_factory=dict)

    def variable(self, name: str) -> str | None:
        """Return the value of an environment variable."""
        return dict(self.env).get(name)

    def path(self, path: str) -> str:
        """Return a path made absolute from the working directory."""
        return posixpath.normpath(posixpath.join("/", self.workdir, path))

    def expand(self, text: str, wanted: bool) -> str:  # noqa: FBT001 - the API's own argument
        """Replace ``$NAME`` and ``${NAME}`` by the environment, where that is wanted."""
        if not wanted:
            return text
        values = dict(self.env)
        return _VARIABLE.sub(lambda m: values.get(m.group(1) or m.group(2), ""), text)


@dataclass(frozen=True, slots=True)
class Mount:
    """Something that stands at a path and is no part of the image.

    Exactly one of the sources is set. ``tree`` takes the place of ``directory`` once a command
    has written there.
    """

    path: str
    directory: Directory | None = None
    tree: Tree | None = None
    file: File | None = None
    cache: CacheVolume | None = None
    secret: Secret | None = None
    socket: Socket | None = None
    temporary: bool = False
    owner: str = ""
    mode: int = 0o400
    size: int | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """A folder or a file to be put into the filesystem before anything runs again."""

    path: str
    directory: Directory | None = None
    file: File | None = None
    owner: str = ""
    permissions: int | None = None


@dataclass(frozen=True, slots=True)
class Auth:
    """Who the client is to a registry."""

    registry: str
    username: str
    secret: Secret


@dataclass(frozen=True, slots=True)
class Output:
    """What the last command came to."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class State:
    """What a chain of changes leads to.

    Attributes:
        image: The Docker image (by id, with an empty configuration) that holds the filesystem;
            empty for nothing at all.
        origin: The Docker image that is equal to this state, configuration included; empty
            after any change.
    """

    platform: str
    image: str = ""
    origin: str = ""
    config: Config = field(default_factory=Config)
    writes: tuple[Write, ...] = ()
    mounts: tuple[Mount, ...] = ()
    secret_env: tuple[tuple[str, Secret], ...] = ()
    bindings: tuple[tuple[str, Service], ...] = ()
    auths: tuple[Auth, ...] = ()
    output: Output | None = None

    @cached_property
    def digest(self) -> str:
        """The identity of what a command would see; who may pull is no part of it."""
        return identity.digest(
            "state",
            self.platform,
            self.image,
            self.config,
            self.writes,
            self.mounts,
            self.secret_env,
            self.bindings,
        )

    def configured(self, **changes: object) -> State:
        """Return the state with a changed configuration."""
        return replace(self, config=replace(self.config, **changes), origin="")  # type: ignore[arg-type]

    def auth(self, registry: str) -> Auth | None:
        """Return the credentials for a registry."""
        return next((a for a in reversed(self.auths) if a.registry == registry), None)


# --- changes ------------------------------------------------------------------------------


class Change(Protocol):
    """A change that needs nothing but the state before it."""

    def apply(self, state: State) -> State:
        """Return the state after the change."""


def _set(pairs: tuple[tuple[str, str], ...], name: str, value: str) -> tuple[tuple[str, str], ...]:
    """Set one pair and keep the order of those that were there."""
    return tuple({**dict(pairs), name: value}.items())


def _unset(pairs: tuple[tuple[str, str], ...], name: str) -> tuple[tuple[str, str], ...]:
    return tuple(p for p in pairs if p[0] != name)


@dataclass(frozen=True, slots=True)
class WithEnv:
    """Set an environment variable."""

    name: str
    value: str
    expand: bool = False

    def apply(self, state: State) -> State:
        """See ``Change``."""
        value = state.config.expand(self.value, self.expand)
        secret_env = tuple(p for p in state.secret_env if p[0] != self.name)
        changed = state.configured(env=_set(state.config.env, self.name, value))
        return replace(changed, secret_env=secret_env)


@dataclass(frozen=True, slots=True)
class WithoutEnv:
    """Remove an environment variable."""

    name: str

    def apply(self, state: State) -> State:
        """See ``Change``."""
        return state.configured(env=_unset(state.config.env, self.name))


@dataclass(frozen=True, slots=True)
class WithWorkdir:
    """Set the working directory."""

    path: str
    expand: bool = False

    def apply(self, state: State) -> State:
        """See ``Change``."""
        path = state.config.expand(self.path, self.expand)
        return state.configured(workdir=state.config.path(path))


@dataclass(frozen=True, slots=True)
class WithUser:
    """Set the user that commands run as."""

    name: str

    def apply(self, state: State) -> State:
        """See ``Change``."""
        return state.configured(user=self.name)


@dataclass(frozen=True, slots=True)
class WithEntrypoint:
    """Set the entrypoint, and drop the default arguments unless they are to be kept."""

    args: tuple[str, ...]
    keep_default_args: bool = False

    def apply(self, state: State) -> State:
        """See ``Change``."""
        args = state.config.args if self.keep_default_args else ()
        return state.configured(entrypoint=self.args, args=args)


@dataclass(frozen=True, slots=True)
class WithDefaultArgs:
    """Set the default arguments."""

    args: tuple[str, ...]

    def apply(self, state: State) -> State:
        """See ``Change``."""
        return state.configured(args=self.args)


@dataclass(frozen=True, slots=True)
class WithLabel:
    """Set a label."""

    name: str
    value: str

    def apply(self, state: State) -> State:
        """See ``Change``."""
        return state.configured(labels=_set(state.config.labels, self.name, self.value))


@dataclass(frozen=True, slots=True)
class WithPort:
    """Expose a port."""

    port: Port

    def apply(self, state: State) -> State:
        """See ``Change``."""
        key = (self.port.port, self.port.protocol)
        kept = [p for p in state.config.ports if (p.port, p.protocol) != key]
        return state.configured(ports=(*kept, self.port))


@dataclass(frozen=True, slots=True)
class WithMount:
    """Put something at a path that is no part of the image."""

    mount: Mount
    expand: bool = False

    def apply(self, state: State) -> State:
        """See ``Change``."""
        path = state.config.path(state.config.expand(self.mount.path, self.expand))
        kept = [m for m in state.mounts if m.path != path]
        return replace(state, mounts=(*kept, replace(self.mount, path=path)))


@dataclass(frozen=True, slots=True)
class WithoutMount:
    """Take a mount away, with what is mounted within it."""

    path: str
    expand: bool = False

    def apply(self, state: State) -> State:
        """See ``Change``."""
        path = state.config.path(state.config.expand(self.path, self.expand))
        kept = tuple(m for m in state.mounts if not _within(path, m.path))
        return replace(state, mounts=kept)


@dataclass(frozen=True, slots=True)
class WithSecretEnv:
    """Set an environment variable to a secret, for commands only."""

    name: str
    secret: Secret

    def apply(self, state: State) -> State:
        """See ``Change``."""
        kept = tuple(p for p in state.secret_env if p[0] != self.name)
        return replace(state, secret_env=(*kept, (self.name, self.secret)))


@dataclass(frozen=True, slots=True)
class WithBinding:
    """Bind a service, to be reached by an alias."""

    alias: str
    service: Service

    def apply(self, state: State) -> State:
        """See ``Change``."""
        kept = tuple(b for b in state.bindings if b[0] != self.alias)
        return replace(state, bindings=(*kept, (self.alias, self.service)))


@dataclass(frozen=True, slots=True)
class WithAuth:
    """Set the credentials for a registry."""

    auth: Auth

    def apply(self, state: State) -> State:
        """See ``Change``."""
        kept = tuple(a for a in state.auths if a.registry != self.auth.registry)
        return replace(state, auths=(*kept, self.auth))


@dataclass(frozen=True, slots=True)
class WithWrite:
    """Put a folder or a file into the filesystem."""

    write: Write
    expand: bool = False

    def apply(self, state: State) -> State:
        """See ``Change``."""
        path = state.config.path(state.config.expand(self.write.path, self.expand))
        covering = mount_at(state, path)
        if covering is not None:
            msg = f"{path} lies in the mount at {covering.path}; write to the source of the mount"
            raise EngineError(msg)
        write = replace(self.write, path=path)
        return replace(state, writes=(*state.writes, write), origin="")


@dataclass(frozen=True, slots=True)
class From:
    """Start from an image of a registry."""

    address: str
    registry: Service | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """Start from a target of a Dockerfile."""

    context: Directory
    dockerfile: str
    platform: str
    args: tuple[tuple[str, str], ...]
    target: str
    secrets: tuple[Secret, ...]
    ssh: Socket | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """How a command or a service is started."""

    args: tuple[str, ...] | None = None
    use_entrypoint: bool = False
    privileged: bool = False
    expand: bool = False
    no_init: bool = False

    def command(self, config: Config) -> tuple[str, ...]:
        """Return the whole command line.

        Raises:
            EngineError: There is nothing to run.
        """
        args = self.args or config.args
        args = tuple(config.expand(arg, self.expand) for arg in args)
        line = (*config.entrypoint, *args) if self.use_entrypoint else args
        if not line:
            msg = "no command: give withExec arguments, or the container default arguments"
            raise EngineError(msg)
        return line


@dataclass(frozen=True, slots=True)
class Exec:
    """Run a command; what it leaves in the filesystem is the next state."""

    start: Start
    stdin: str | None = None
    redirect_stdin: str | None = None
    redirect_stdout: str | None = None
    redirect_stderr: str | None = None
    expect: Expect = Expect.SUCCESS


AnyChange = Change | From | Build | Exec


@dataclass(frozen=True)
class Container:
    """A chain of changes; see the module's own words."""

    platform: str
    change: AnyChange | None = None
    parent: Container | None = None

    @cached_property
    def digest(self) -> str:
        """The identity of the definition."""
        before = self.parent.digest if self.parent else ""
        return identity.digest("container", self.platform, before, self.change)

    def then(self, change: AnyChange) -> Container:
        """Return a container with one more change."""
        # Computed here, link by link, so that a long chain never recurses deeply.
        _ = self.digest
        return Container(self.platform, change, self)

    def chain(self) -> Iterator[Container]:
        """Yield this container, the one before it, and so on to the first."""
        at: Container | None = self
        while at is not None:
            yield at
            at = at.parent


# --- questions about a state ---------------------------------------------------------------


def _within(outer: str, path: str) -> bool:
    return path == outer or path.startswith(outer.rstrip("/") + "/")


def mount_at(state: State, path: str) -> Mount | None:
    """Return the mount that a path leads into, the innermost one."""
    found = [m for m in state.mounts if _within(m.path, path)]
    return max(found, key=lambda m: len(m.path), default=None)


def registry_of(address: str) -> str:
    """Return the registry's host of an image reference, as Docker reads it."""
    host, slash, _ = address.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return host
    return "docker.io"


def numeric_owner(owner: str, passwd: str, group: str) -> tuple[int, int]:
    """Resolve ``user[:group]`` by the container's own account files.

    Raises:
        NotFound: A name that is in neither file.
    """
    user, _, group_name = owner.partition(":")
    users = {row[0]: row for line in passwd.splitlines() if len(row := line.split(":")) > 3}  # noqa: PLR2004 - passwd(5)
    groups = {row[0]: row for line in group.splitlines() if len(row := line.split(":")) > 2}  # noqa: PLR2004 - group(5)
    if user.isdecimal():
        uid = int(user)
    elif user in users:
        uid = int(users[user][2])
    else:
        msg = f"owner {owner}: no user {user} in the container's /etc/passwd"
        raise NotFound(msg)
    if not group_name:
        # Dagger gives the group the user's own number, and so do we.
        return uid, uid if user.isdecimal() else int(users[user][3])
    if group_name.isdecimal():
        return uid, int(group_name)
    if group_name in groups:
        return uid, int(groups[group_name][2])
    msg = f"owner {owner}: no group {group_name} in the container's /etc/group"
    raise NotFound(msg)
