"""What set-up needs to know of the settings of a run, as a seam: any object with these will do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Say = Callable[[str], None]
    """Tells a person one line."""


class Settings(Protocol):
    """The part of ``pipeline.config.Settings`` that set-up reads."""

    @property
    def registry(self) -> str:
        """Where images are pushed, ``HOST[:PORT][/NAMESPACE]``."""

    @property
    def bases(self) -> str:
        """``auto``, ``registry`` or ``debian``."""

    @property
    def engine(self) -> str:
        """``auto``, ``dagger`` or ``embedded``."""

    @property
    def docker_host(self) -> str:
        """The address of the Docker Engine, ``unix://…`` or ``tcp://…``."""

    @property
    def ca(self) -> Path | None:
        """The CA bundle for what is downloaded in builds."""
