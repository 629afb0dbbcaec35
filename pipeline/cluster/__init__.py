"""Clusters: have one on this machine, and prepare any for the system.

    versions.py     what this works with         kubectl.py   finds kubectl
    preparation.py  metrics-server and KEDA      addons.py    the same as values
    minikube.py     a cluster of Minikube's      local/       a real single-node cluster of our own
    findings.py     what `doctor` tells of it

Nothing here imports `pipeline.deploy`, which stands on this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.setup.settings import Say


class Settings(Protocol):
    """The part of the settings that is about clusters."""

    @property
    def provider(self) -> Literal["minikube", "local"]:
        """What makes a cluster on this machine."""

    @property
    def context(self) -> str:
        """The context of the kubeconfig; empty means the current one."""

    @property
    def keda(self) -> str:
        """Where KEDA comes from: an address, a file, or ``helm``; empty means what fits."""

    @property
    def registry(self) -> str:
        """Where images are pushed, ``HOST[:PORT][/NAMESPACE]``."""

    @property
    def docker_host(self) -> str:
        """The address of the Docker Engine."""

    @property
    def ca(self) -> Path | None:
        """A CA bundle for what is downloaded."""


class _Provider(Protocol):
    async def up(self, settings: Settings, say: Say) -> None: ...
    async def down(self, settings: Settings, say: Say) -> None: ...
    async def status(self, settings: Settings, say: Say) -> bool: ...


def _provider(settings: Settings) -> _Provider:
    """Return the provider's module; the other one's import is not paid for."""
    if settings.provider == "local":
        from pipeline.cluster import local

        return local
    from pipeline.cluster import minikube

    return minikube


async def up(settings: Settings, say: Say) -> None:
    """Have a cluster on this machine that runs.

    Raises:
        PrerequisiteError: This machine or user cannot have one.
        StepError: It does not start.
    """
    await _provider(settings).up(settings, say)


async def down(settings: Settings, say: Say) -> None:
    """Take back what `up` did, and no more.

    Raises:
        PrerequisiteError: This machine or user cannot do it.
        StepError: It does not end.
    """
    await _provider(settings).down(settings, say)


async def status(settings: Settings, say: Say) -> bool:
    """Tell how the cluster on this machine is, and return whether it is up.

    Raises:
        PrerequisiteError: Nobody here can tell.
    """
    return await _provider(settings).status(settings, say)


async def prepare(settings: Settings, say: Say) -> None:
    """Install metrics-server and KEDA in a cluster where they are missing; see `preparation`.

    Raises:
        PrerequisiteError: The cluster cannot be reached, or it or what is in it does not fit;
            nothing was changed.
        UsageError: There is no such context, or what ``--keda`` names is not KEDA's manifest;
            nothing was changed.
        StepError: It was installed, and does not work.
    """
    from pipeline import kube
    from pipeline.cluster import preparation

    client = await kube.connect(settings.context, say=say)
    await preparation.prepare(client, settings, say)
