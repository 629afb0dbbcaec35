"""What many requests leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tests import stack
from tests.load import Generator, Target

from .conftest import LIST

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.docker

RATE = 400.0
MOST_GROWTH = 5_000_000
"""Bytes that 9,000 further requests may add to what the API takes."""


def ask(url: str, count: int) -> None:
    """Ask so often for the list; fails when one answer is not 200."""
    load = Generator(Target.parse(f"{url}{LIST}"), RATE, count / RATE, keep_alive=True)
    found = anyio.run(load.run)
    assert len(found.items) == count
    assert not found.failed, found.told()


def test_memory_does_not_grow_with_the_requests(
    docker: DockerClient, images: dict[str, str]
) -> None:
    """With 10,000 requests behind it the API takes at most 5 MB more than with 1,000."""
    with stack.running(docker, images) as system:
        (api,) = system.apis
        ask(system.api_urls[0], 1_000)
        before = stack.memory(api)
        ask(system.api_urls[0], 9_000)
        after = stack.memory(api)
    assert before > 20_000_000, "that is no API"
    assert after - before <= MOST_GROWTH
