"""Services: something that listens, and how it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from . import identity

if TYPE_CHECKING:
    from .container import Container, Start

Protocol = Literal["TCP", "UDP"]


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a container listens on."""

    port: int
    protocol: Protocol = "TCP"
    description: str | None = None
    skip_healthcheck: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """``frontend`` is where clients connect; 0 or None lets the engine choose."""

    backend: int
    frontend: int | None = None
    protocol: Protocol = "TCP"


@dataclass(frozen=True)
class ContainerService:
    """A container's command, run as long as somebody needs it."""

    container: Container
    start: Start
    alias: str = ""

    @cached_property
    def digest(self) -> str:
        """The identity of what runs; equal services are one service."""
        return identity.digest("service", self.container, self.start, self.alias)

    @property
    def hostname(self) -> str:
        """A name that depends on nothing but what runs."""
        return self.alias or self.digest[:16]


@dataclass(frozen=True)
class HostService:
    """Ports of a host that the engine can reach, by default its own loopback."""

    host: str
    ports: tuple[Forward, ...]

    @cached_property
    def digest(self) -> str:
        """The identity of the address."""
        return identity.digest("host-service", self.host, self.ports)

    @property
    def hostname(self) -> str:
        """A name that depends on nothing but the address."""
        return self.digest[:16]


@dataclass(frozen=True)
class Tunnel:
    """Ports on this host's loopback that lead to a service."""

    service: Service
    ports: tuple[Forward, ...]
    native: bool = False

    @cached_property
    def digest(self) -> str:
        """The identity of the tunnel."""
        return identity.digest("tunnel", self.service, self.ports, self.native)

    @property
    def hostname(self) -> str:
        """Where the tunnel listens."""
        return "localhost"


Service = ContainerService | HostService | Tunnel
