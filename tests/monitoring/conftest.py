"""What the tests of monitoring share: Debian's Prometheus, and the system that it looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.errors import PrerequisiteError
from tests import debian, stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return promtool and Prometheus."""
    folder = tmp_path_factory.mktemp("debian")
    try:
        # Some distributions have promtool in a package of its own.
        return debian.unpacked(["promtool", "prometheus"], ["prometheus", "promtool"], folder)
    except PrerequisiteError as error:
        pytest.skip(f"{error} {error.evidence}".rstrip())


@pytest.fixture(scope="session")
def promtool(programs: list[Path]) -> Path:
    """Return the program that checks rules and tries them out."""
    return programs[0]


@pytest.fixture(scope="session")
def prometheus(programs: list[Path]) -> Path:
    """Return the server."""
    return programs[1]


@pytest.fixture(scope="package")
def system(docker: DockerClient, images: dict[str, str]) -> Iterator[stack.Stack]:
    """Run the system."""
    with stack.running(docker, images) as started:
        yield started
