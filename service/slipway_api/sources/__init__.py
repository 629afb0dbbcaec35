"""Where the list of containers comes from: the values and the Protocol that every source shares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - pydantic reads the annotations of the values
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, get_args

from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

State = Literal["created", "restarting", "running", "removing", "paused", "exited", "dead"]
"""The state of a container, https://docs.docker.com/reference/api/engine/."""

STATES: tuple[str, ...] = get_args(State)

Health = Literal["healthy", "unhealthy", "starting"]
"""What a health check says, in Docker's words."""


# What stands beside a field is also what the OpenAPI document says about it.


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a container."""

    private_port: Annotated[int, Field(description="The port inside the container.")]
    public_port: Annotated[
        int | None, Field(description="The port it is published on; null when it is only exposed.")
    ]
    protocol: Annotated[str, Field(description="`tcp`, `udp` or `sctp`.")]
    ip: Annotated[
        str | None,
        Field(description="The host address it is published on; null when it is only exposed."),
    ]


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the source describes it in a list."""

    id: Annotated[str, Field(description="The full id.")]
    name: Annotated[str, Field(description="The name; in a pod, unique only there.")]
    image: Annotated[str, Field(description="The image as it was named by whoever made it.")]
    state: Annotated[
        str, Field(description="One word of Docker's, such as `running`, whatever the source.")
    ]
    status: Annotated[str, Field(description="A phrase for people, such as `Up 3 minutes`.")]
    health: Annotated[
        Health | None, Field(description="What its health check says; null when there is none.")
    ]
    created: Annotated[datetime, Field(description="When it was made, in UTC (RFC 3339).")]
    ports: Annotated[tuple[Port, ...], Field(description="Its ports, in ascending order.")]
    labels: Annotated[
        dict[str, str], Field(description="Those of its labels that the settings let through.")
    ]


@dataclass(frozen=True, slots=True)
class PodContainer(Container):
    """A container of a pod."""

    pod: Annotated[str, Field(description="The name of its pod.")]
    node: Annotated[
        str | None, Field(description="The node of its pod; null as long as there is none.")
    ]
    restarts: Annotated[int, Field(description="How often it was started again.")]
    ready: Annotated[
        bool,
        Field(description="As Kubernetes says; an init container is when it has done its work."),
    ]


class SourceError(Exception):
    """The source gave no list; the message is fit for a client to read and names no address."""


class SourceTimeout(SourceError):
    """The source gave no list in time."""


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


def shown(labels: Mapping[str, str] | None, prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return the labels that a list may show, in order: those that begin with one of the prefixes.

    Labels are where people put passwords and addresses, so a source drops all others at once.
    """
    return {key: value for key, value in sorted((labels or {}).items()) if key.startswith(prefixes)}


def in_order(ports: Iterable[Port]) -> tuple[Port, ...]:
    """Sort ports by number, protocol, and where they are published."""
    return tuple(sorted(ports, key=_port_order))


def _port_order(port: Port) -> tuple[int, str, int, str]:
    return (port.private_port, port.protocol, port.public_port or 0, port.ip or "")
