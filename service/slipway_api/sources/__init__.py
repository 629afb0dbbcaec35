"""Where the list of containers comes from: the values and the Protocol that every source shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a container.

    Attributes:
        private_port: The port inside the container.
        public_port: The port it is published on; None when it is only exposed.
        protocol: ``tcp``, ``udp`` or ``sctp``.
        ip: The host address it is published on; None when it is only exposed.
    """

    private_port: int
    public_port: int | None
    protocol: str
    ip: str | None


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the source describes it in a list.

    Attributes:
        id: The full id.
        name: The name, without the slash that Docker puts in front; in a pod, unique only there.
        image: The image as it was named when the container was made.
        state: One word of Docker's, such as ``running``, whatever the source.
        status: A phrase for people, such as ``Up 3 minutes``.
        created: When it was made, in UTC.
        ports: Its ports, in ascending order.
    """

    id: str
    name: str
    image: str
    state: str
    status: str
    created: datetime
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class PodContainer(Container):
    """A container of a pod.

    Attributes:
        pod: The name of the pod.
        node: The node that the pod is bound to; None as long as there is none.
        restarts: How often the container was started again.
        ready: Whether Kubernetes says so; for an init container, that it has done its work.
    """

    pod: str
    node: str | None
    restarts: int
    ready: bool


class SourceError(Exception):
    """The source gave no list; the message is fit for a client to read and names no address."""


class Source(Protocol):
    """Something that lists containers; may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The word for it in an answer, such as ``docker``."""

    @property
    def keep(self) -> float:
        """Seconds for which a list serves further requests, counted from when it was asked for."""

    def containers(self) -> tuple[Container, ...]:
        """List all containers, in whatever state; blocks, and may block for longer than is wanted.

        Raises:
            SourceError: The list cannot be had.
        """


def in_order(ports: Iterable[Port]) -> tuple[Port, ...]:
    """Sort ports by number, protocol, and where they are published."""
    return tuple(sorted(ports, key=_port_order))


def _port_order(port: Port) -> tuple[int, str, int, str]:
    return (port.private_port, port.protocol, port.public_port or 0, port.ip or "")
