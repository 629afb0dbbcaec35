"""What the chaos tests share: the system, a way to Docker that can hang, loads, and a record."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.setup.docker import DEFAULT_HOST
from tests import load, stack

from . import figures
from .hanging import Hanging, hanging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker import DockerClient
    from docker.models.containers import Container

LIST = "/api/v1/containers"
RATE = 40.0
"""Requests a second of each load, which the system has no trouble with on two cores."""
REST_LIMIT = 30.0
"""Seconds within which the system must be well before a test begins."""


class Loads:
    """The list as everybody asks for it, and the list of which Nginx has no copy.

    Attributes:
        list: Nginx answers most of these with its copy.
        fresh: Each of these is a question to the API.
    """

    def __init__(self, of_list: load.Load, fresh: load.Load) -> None:
        self.list = of_list
        self.fresh = fresh

    @property
    def both(self) -> dict[str, load.Answers]:
        """The answers of each, by name."""
        return {"the list": self.list.all, "a list without a copy": self.fresh.all}


@pytest.fixture(scope="package")
def way() -> Iterator[Hanging]:
    """Return a way to this machine's Docker Engine that can hang."""
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    if not host.startswith("unix://"):
        pytest.skip(f"the relay leads to a Unix socket, and DOCKER_HOST is {host}")
    with hanging(Path(host.removeprefix("unix://"))) as made:
        yield made


@pytest.fixture(scope="package")
def running(docker: DockerClient, images: dict[str, str], way: Hanging) -> Iterator[stack.Stack]:
    """Run the system with one API, for all tests of the package."""
    with stack.running(docker, images, nginx=stack.UNLIMITED, socket_file=way.path) as started:
        yield started


@pytest.fixture
def system(running: stack.Stack) -> stack.Stack:
    """Return the system, well."""
    until(lambda: stack.is_ready(running.url), REST_LIMIT, "the system is well")
    return running


@pytest.fixture
def pair(docker: DockerClient, images: dict[str, str]) -> Iterator[stack.Stack]:
    """Run the system with two APIs."""
    with stack.running(docker, images, nginx=stack.UNLIMITED, apis=2) as started:
        yield started


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[stack.Stack], contextlib.AbstractContextManager[Loads]]:
    """Return what asks a system at a constant rate, in both ways, as long as it is entered."""

    @contextlib.contextmanager
    def loading(system: stack.Stack) -> Iterator[Loads]:
        url = f"{system.url}{LIST}"
        with (
            load.running(url, tmp_path / "list.json", rate=RATE) as of_list,
            load.running(f"{url}?load={{n}}", tmp_path / "fresh.json", rate=RATE) as fresh,
        ):
            yield Loads(of_list, fresh)

    return loading


@pytest.fixture(scope="session")
def record() -> dict[str, Any]:
    """Return what is kept of what was measured, by what was done."""
    return {}


@pytest.fixture(autouse=True)
def _kept(record: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep what was measured so far after each test, and say how long the test took."""
    began = time.monotonic()
    yield
    if record:
        figures.save(record)
    sys.stdout.write(f"{request.node.name}: {time.monotonic() - began:.0f} s\n")


def until(true: Callable[[], object], limit: float, what: str) -> float:
    """Wait until something is true; return the seconds that it took.

    Raises:
        TimeoutError: It was not within the limit.
    """
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > limit:
            raise TimeoutError(f"not so within {limit:g} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def children(container: Container) -> set[int]:
    """Return the processes that the first process of a container has begun, as it numbers them."""
    return {int(word) for word in stack.within(container, "cat", "/proc/1/task/1/children").split()}


def kill(container: Container, process: int) -> None:
    """Kill a process of a container, as it numbers it."""
    stack.within(container, "sh", "-c", f"kill -KILL {process}")


def described(answers: load.Answers, *parts: Container) -> str:
    """Return what somebody would look at first when a load was not answered as it should be."""
    logs = (f"== {part.name}\n{part.logs(tail=40).decode(errors='replace')}" for part in parts)
    return "\n".join([answers.told(), *logs])
