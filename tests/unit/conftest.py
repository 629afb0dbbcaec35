"""What the unit tests share: the async backend, and a process that is not this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline import log

from .fakes import Desk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def anyio_backend() -> str:
    """Run the async tests on asyncio, which is what the Dagger SDK runs on."""
    return "asyncio"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Return a project whose output a test can read; what it concealed is forgotten after."""
    with log.remembering():
        yield Desk.lay_out(tmp_path / "project")
