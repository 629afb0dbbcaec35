"""The local provider: a real single-node Kubernetes, for Linux as root, without Minikube.

The node runs in namespaces of its own and keeps its state in one folder. So nothing of it can stay
behind on the machine, and a Docker or containerd that runs there is not touched.

    lifecycle.py   up, down, status                  build.py       Go's part: the programs
    node.py        what the node is made of          bundle.py      images and manifests of them
    keeper.py      the process outside the node      archive.py     an image out of a program
    supervisor.py  the first process in the node     packages.py    Debian's part
    relay.py       from one network to the other     kubeconfig.py  a person's kubeconfig
    cgroups.py     its control groups                record.py      what is remembered of it

Rules: k8s/local/README.md.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from pipeline.cluster.local import build
from pipeline.cluster.local.build import Freed
from pipeline.cluster.local.bundle import Manifests
from pipeline.cluster.local.lifecycle import Cluster, Tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.setup.settings import Say

__all__ = [
    "Freed",
    "Manifests",
    "Tools",
    "away",
    "down",
    "enter",
    "manifests",
    "prune",
    "status",
    "up",
]


class Settings(Protocol):
    """What the provider reads of the settings."""

    @property
    def registry(self) -> str:
        """Where images are pushed, ``HOST[:PORT][/NAMESPACE]``."""


def _silent(_: str) -> None:
    """Tell nobody."""


async def up(settings: Settings, say: Say, *, tools: Tools | None = None) -> None:
    """Have a cluster that serves, and make its context the current one.

    What is missing is installed and built. A cluster that ended without `down`, as with the
    machine, comes back with what was in it.

    Args:
        settings: What was asked for.
        say: Told what is done, line by line.
        tools: What it uses of this machine.

    Raises:
        PrerequisiteError: This machine or user cannot have one.
        StepError: It does not start.
    """
    await Cluster(tools or Tools(), say).up(settings.registry)


async def down(settings: Settings, say: Say, *, tools: Tools | None = None) -> None:
    """End the cluster and remove all of its data; what was built is kept.

    Raises:
        PrerequisiteError: This user cannot.
        StepError: It does not end.
    """
    del settings  # all that there is to know is remembered
    await Cluster(tools or Tools(), say).down()


async def status(settings: Settings, say: Say, *, tools: Tools | None = None) -> bool:
    """Tell how the cluster is, and return whether it serves."""
    del settings
    return await Cluster(tools or Tools(), say).status()


async def prune(say: Say, *, cache: Path | None = None) -> Freed:
    """Remove what clusters were built into, but for what one that runs uses.

    Args:
        say: Told when somebody else is at work there.
        cache: The folder of what was built; this user's when None.

    Raises:
        PrerequisiteError: A build is under way.
    """
    return await build.prune(cache or build.cache(), say)


def manifests(settings: Settings | None = None, *, tools: Tools | None = None) -> Manifests:
    """Return the manifests that install KEDA and metrics-server from images that the node has.

    Raises:
        PrerequisiteError: There is no local cluster.
    """
    del settings
    return Cluster(tools or Tools(), _silent).manifests()


def enter(*, tools: Tools | None = None) -> tuple[str, ...]:
    """Return what to put before a command so that it runs in the node's network.

    There it reaches every Service and pod by its address, with the files and users of this machine.

    Raises:
        PrerequisiteError: There is no local cluster that runs.
    """
    return Cluster(tools or Tools(), _silent).enter()


@asynccontextmanager
async def away(program: str, *, tools: Tools | None = None) -> AsyncIterator[None]:
    """Keep a program of the node from running, as ``kube-apiserver``; it is back afterwards.

    Args:
        program: Its name in the log folder.
        tools: What it uses of this machine.

    Raises:
        PrerequisiteError: There is no local cluster that runs.
    """
    async with Cluster(tools or Tools(), _silent).away(program):
        yield
