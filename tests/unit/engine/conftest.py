"""What the engine's unit tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.engine.store import Store

from .bench import Bench, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of its own."""
    return Store(tmp_path / "cache")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Return a session on a runtime in memory."""
    async with session(tmp_path) as made:
        yield made
