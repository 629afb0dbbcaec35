"""What the solver asks of a container runtime, as a Protocol.

``docker.py`` answers it with a Docker Engine and BuildKit; tests answer it with a fake. Methods
are coroutines, each with a limit of its own, and raise ``BackendError`` with a message for a
person. Everything that a session makes carries the session's label, so that the next one can
remove what a killed one left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from typing import Any

    from pipeline.engine.core.tree import Tree


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the engine waits, in seconds, before it takes something for gone.

    Attributes:
        answer: Without a byte from the Docker Engine. Answers to the calls that are made here take
            milliseconds; a busy disk has been seen to take seconds. A registry through which
            nothing comes for as long has stalled.
        pulse: Between two questions, during a long wait, whether the Docker Engine still lives.
        pulse_answer: For the answer to such a question.
        pulses: How many of them in a row may fail: one that hangs ends the run after about 45 s.
        close: For the end of a session, whatever happens.
    """

    answer: float = 60
    pulse: float = 5
    pulse_answer: float = 10
    pulses: int = 3
    close: float = 9


@dataclass(frozen=True, slots=True)
class Login:
    """Who the client is to a registry."""

    username: str
    password: str


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image that the runtime holds.

    Attributes:
        id: Its content-addressed id.
        layers: The digests of its unpacked layers, lowest first.
        config: Its configuration in Docker's form (Env, Cmd, Labels, …).
        platform: ``os/architecture[/variant]``.
        created: RFC 3339.
        size: Bytes of all layers, unpacked.
    """

    id: str
    layers: tuple[str, ...]
    config: Mapping[str, Any]
    platform: str
    created: str
    size: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something mounted into a container.

    Attributes:
        target: Where, in the container.
        source: A path of the host (``bind``), or a volume's name (``volume``).
        kind: ``bind``, ``volume`` or ``tmpfs``.
        size: Limit in bytes, for tmpfs.
    """

    target: str
    source: str = ""
    kind: str = "bind"
    read_only: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to be made.

    Attributes:
        hosts: Names to be resolved within it, with their addresses.
        network: A network of this session; empty for the runtime's own.
    """

    image: str
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    attachments: tuple[Attachment, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    network: str = ""
    privileged: bool = False
    init: bool = False
    stdin: bytes | None = None


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A target of a Dockerfile to be built.

    Attributes:
        context: The folder with the build context.
        secrets: File of each secret, by id.
        ssh: Path of an SSH agent's socket; empty for none.
    """

    context: Path
    dockerfile: str
    target: str
    platform: str
    args: tuple[tuple[str, str], ...] = ()
    secrets: Mapping[str, Path] = field(default_factory=dict)
    ssh: str = ""


class Handle(Protocol):
    """A container that exists, running or not."""

    id: str

    async def put(self, path: str, archive: IO[bytes]) -> None:
        """Unpack a tar archive at a path; owners are kept."""

    async def get(self, path: str, read: Callable[[IO[bytes], str], Tree]) -> Tree:
        """Read a path, following links; NotFound when nothing is there.

        ``read`` is given the tar stream and the name of the folder or file at its top, and runs
        in a thread.
        """

    async def start(self) -> None:
        """Start the command; ExecFailed with 126 or 127 when it cannot be started."""

    async def wait(self) -> int:
        """Wait for the command to end; return its exit code."""

    async def logs(self) -> tuple[bytes, bytes]:
        """Return what the command has written so far: stdout, stderr."""

    async def address(self) -> str:
        """Return its IP address; empty when it is not running."""

    async def commit(self) -> str:
        """Keep its filesystem, mounts left out, as an image with an empty configuration."""

    async def stop(self, *, kill: bool = False) -> None:
        """Stop the command: TERM, and KILL after 5 s; with ``kill`` at once."""


class Backend(Protocol):
    """A container runtime on this machine."""

    platform: str

    async def inspect(self, image: str) -> ImageInfo | None:
        """Return an image that the runtime holds, or None."""

    async def pull(self, reference: str, login: Login | None) -> ImageInfo:
        """Return the image that a registry has under a reference now."""

    async def compose(
        self,
        layers: Sequence[str],
        config: Mapping[str, Any],
        *,
        like: str,
        platform: str,
        created: str | None = None,
    ) -> str:
        """Make an image of layers that the runtime holds, with exactly this configuration.

        ``like`` is an image with those layers.
        """

    async def scratch(self) -> str:
        """Return an image with nothing in it."""

    async def build(self, spec: BuildSpec) -> str:
        """Build a target; return the image's id."""

    async def push(self, image: str, reference: str, login: Login | None) -> str:
        """Push an image; return the manifest's digest."""

    async def save(self, image: str, path: Path) -> None:
        """Write an image as an archive to a path of the host."""

    def container(self, spec: ContainerSpec) -> AbstractAsyncContextManager[Handle]:
        """Make a container; it is removed at the end, whatever happens."""

    def volume(self) -> AbstractAsyncContextManager[str]:
        """Make a volume; yield its name. It is removed at the end."""

    async def cache_volume(self, name: str) -> bool:
        """Make a volume that stays, unless it is there; tell whether it was made now."""

    async def network(self) -> tuple[str, str]:
        """Return the session's own network and this host's address in it; made when missing."""

    async def close(self) -> None:
        """Remove everything that the session made."""

    async def sweep(self, session: str) -> bool:
        """Remove everything that another session, which is dead, has left; tell whether it went."""
