"""Where the list of containers comes from: the values and the Protocol that every source shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
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
        name: The name, without the slash that Docker puts in front.
        image: The image as it was named when the container was made.
        state: One word, such as ``running``.
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


class SourceError(Exception):
    """The source gave no list; the message is fit for a client to read and names no address."""


class Source(Protocol):
    """Something that lists containers; may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The word for it in an answer, such as ``docker``."""

    def containers(self) -> tuple[Container, ...]:
        """List all containers, in whatever state; blocks, and may block for longer than is wanted.

        Raises:
            SourceError: The list cannot be had.
        """
