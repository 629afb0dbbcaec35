"""The embedded engine for tests: a session of it, and what set-up has made to test with."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import pytest

from pipeline import config
from pipeline.engine.session import Endpoint, serve
from pipeline.errors import PrerequisiteError
from pipeline.setup.bases import home, resolve_bases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Endpoint", "Resources", "engine", "resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What tests of an engine need.

    Attributes:
        bases: The base image of each image, by its reference: official ones, or stand-ins.
        registry: A registry without TLS, ``host:port``.
    """

    bases: Mapping[str, str]
    registry: str

    @property
    def image(self) -> str:
        """An image with /bin/sh and python3, by its reference."""
        return self.bases["api"]


@cache
def resources() -> Resources:
    """Return the bases and the loopback registry that set-up saw to; a test is skipped without."""
    settings = config.load({}, os.environ, cwd=Path(__file__).parent)
    try:
        bases = anyio.run(resolve_bases, settings)
    except PrerequisiteError as e:
        pytest.skip(str(e))
    return Resources(bases.references, str(home(settings)))


@contextlib.contextmanager
def engine(folder: Path, *, docker_host: str = "") -> Iterator[Endpoint]:
    """Serve a session from a thread of its own, so that a test that blocks does not block it."""
    host = docker_host or os.environ.get("DOCKER_HOST", "")
    with anyio.from_thread.start_blocking_portal() as portal:
        served = serve(cache_dir=folder / "cache", docker_host=host, cwd=folder)
        with portal.wrap_async_context_manager(served) as endpoint:
            yield endpoint
