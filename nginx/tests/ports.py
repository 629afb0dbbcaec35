"""Ports that nobody else takes, so that the tests may run side by side."""

from __future__ import annotations

import os

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Which of the processes of pytest-xdist this is; 0 without it."""

# Below those that the kernel gives to connections, which begin at 32768.
_OWN = iter(range(10_000 + 1_000 * WORKER, 11_000 + 1_000 * WORKER))


def new_port() -> int:
    """A port that no other process of these tests takes, and that this one has not taken before."""
    return next(_OWN)
