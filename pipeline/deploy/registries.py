"""Clients of the registries that have the images of a release, and the error for one that fails.

Everything that a deploy asks a registry is asked before anything changes: what goes wrong then is
that the environment lacks something, not that a step failed.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import to_thread

from pipeline import credentials
from pipeline.errors import PrerequisiteError, StepError
from pipeline.registry import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.config import Settings
    from pipeline.images import Registry
    from pipeline.registry import Login

HELPER_LIMIT = 20.0
"""Seconds for Docker's credential store, which may ask a person to unlock it."""


class Open(Protocol):
    """Makes a client of a registry; the seam that tests replace."""

    async def __call__(self, settings: Settings, registry: Registry, /) -> Client:
        """Return it, with the login that somebody gave."""


async def open_client(settings: Settings, registry: Registry) -> Client:
    """Return a client of a registry, with the login that the settings or Docker have for it.

    Raises:
        UsageError: A credential is named but missing, or cannot be read.
        PrerequisiteError: The credential store does not answer.
    """
    return Client(registry, await login(settings, registry), ca=settings.ca)


async def login(settings: Settings, registry: Registry) -> Login | None:
    """Return the login that the settings or Docker have for a registry; None when none is known.

    Raises:
        UsageError: A credential is named but missing, or cannot be read.
        PrerequisiteError: The credential store does not answer.
    """
    try:
        with anyio.fail_after(HELPER_LIMIT):
            return await to_thread.run_sync(
                credentials.find, settings, registry, abandon_on_cancel=True
            )
    except TimeoutError as error:
        raise PrerequisiteError(
            f"Docker's credential store gave no answer within {HELPER_LIMIT:.0f} s",
            remedy="Unlock it, or set PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD",
        ) from error


@contextmanager
def beforehand() -> Iterator[None]:
    """Tell a failed request as something that the environment lacks."""
    try:
        yield
    except StepError as error:
        raise PrerequisiteError(
            error.message, remedy=error.remedy, evidence=error.evidence
        ) from error
