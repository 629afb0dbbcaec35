"""Find kubectl: the one on PATH, else the one that was built for the local cluster."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = "https://kubernetes.io/docs/tasks/tools/"


def find(
    which: Callable[[str], str | None] = shutil.which,
    built: Callable[[], Path | None] | None = None,
) -> Path:
    """Return where kubectl is.

    Args:
        which: Finds a program on PATH.
        built: Finds the one that was built for the local cluster; looks in its folder when None.

    Raises:
        PrerequisiteError: There is none.
    """
    named = which("kubectl")
    if named is not None:
        return Path(named)
    found = (built or newest)()
    if found is None:
        raise PrerequisiteError(
            "kubectl is not on PATH",
            remedy=f"Install it as {DOCS} says, or run `python -m pipeline cluster up --provider "
            "local`, which builds one",
        )
    return found


def newest() -> Path | None:
    """Return the kubectl that was built or used last for the local cluster; None without one."""
    from pipeline.cluster.local import build  # only where kubectl is missing

    found = [p for p in build.cache().glob("local-*/bin/kubectl") if os.access(p, os.X_OK)]
    return max(found, key=lambda path: path.parents[1].stat().st_mtime, default=None)
