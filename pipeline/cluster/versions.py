"""The versions that this works with: what was tried, and what is refused by name.

Pure: this module does no I/O.
"""

from __future__ import annotations

import re

from pipeline.errors import PrerequisiteError

KUBERNETES = "1.36.3"
"""What a cluster of ours is started with."""
MINORS = ((1, 34), (1, 35), (1, 36))
"""The minor versions of Kubernetes that the system is deployed to."""
KEDA = "2.21.0"
METRICS_SERVER = "0.9.0"

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.|$|[-+])")


def supported(version: str) -> bool:
    """Return whether the system may be deployed to a version of Kubernetes.

    Args:
        version: As the API server gives it: ``v1.36.3``, with what a vendor adds behind it.
    """
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) in MINORS


def require(version: str, where: str) -> None:
    """Return when a version of Kubernetes is supported.

    Args:
        version: As for `supported`.
        where: The cluster, as an error names it.

    Raises:
        PrerequisiteError: It is not.
    """
    if not supported(version):
        first, last = (".".join(map(str, minor)) for minor in (MINORS[0], MINORS[-1]))
        raise PrerequisiteError(
            f"{where} runs Kubernetes {version.removeprefix('v')}, "
            f"and this needs {first} to {last}",
            remedy="Upgrade the cluster, or name another one with --context",
        )
