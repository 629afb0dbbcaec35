"""A local cluster of a test's own, beside any other."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .node import OwnCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def own() -> Iterator[OwnCluster]:
    """Return a state folder and a kubeconfig for a cluster, and see that none is left in them."""
    # Not pytest's folder, which stays: what a node leaves is measured in gigabytes.
    folder = Path(tempfile.mkdtemp(prefix="slipway-local-"))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PIPELINE_")}
    environ |= {
        "XDG_STATE_HOME": str(folder),
        "KUBECONFIG": str(folder / "kubeconfig"),
        "PIPELINE_PROVIDER": "local",
    }
    cluster = OwnCluster(folder, environ)
    try:
        yield cluster
    finally:
        down = cluster.run("down", code=None)
        shutil.rmtree(folder, ignore_errors=True)
        assert down.returncode == 0, down.stderr
