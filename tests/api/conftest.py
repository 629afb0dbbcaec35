"""What the tests of the running system share: one of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient


@pytest.fixture(scope="package")
def system(docker: DockerClient, images: dict[str, str]) -> Iterator[stack.Stack]:
    """Run the system, without a limit of requests."""
    with stack.running(docker, images, nginx=stack.UNLIMITED) as started:
        yield started
