"""Both roles, each with a recorder behind it, and started once for a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .ports import new_port
from .recorder import Recorder
from .role import UNLIMITED, Role, running

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the tests that wait begin first, the longest before all, so that the end waits for none.

    A process of pytest-xdist is handed two at first: behind one that waits, one that does not.
    """
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    waiting = sorted((item for item in items if seconds(item)), key=seconds, reverse=True)
    others = [item for item in items if not seconds(item)]
    items[:] = waiting[:processes] + others[:processes] + waiting[processes:] + others[processes:]


def seconds(item: pytest.Item) -> float:
    """How long a test says that it waits."""
    mark = item.get_closest_marker("waits")
    return float(mark.args[0]) if mark else 0.0


@pytest.fixture(scope="module")
def api_recorder() -> Recorder:
    """What is behind the reverse proxy; use ``api``, which is reset for each test."""
    return Recorder()


@pytest.fixture(scope="module")
def docker_recorder() -> Recorder:
    """What is behind the socket proxy; use ``docker``, which is reset for each test."""
    return Recorder()


@pytest.fixture(scope="module")
def proxy(api_recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    """The reverse proxy, in front of ``api``."""
    port = new_port()
    settings = {"API_UPSTREAM": f"127.0.0.1:{port}", **UNLIMITED}
    with (
        api_recorder.listening(("127.0.0.1", port)),
        running("proxy", tmp_path_factory.mktemp("proxy"), settings) as role,
    ):
        yield role


@pytest.fixture(scope="module")
def socket_proxy(
    docker_recorder: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Role]:
    """The socket proxy, in front of ``docker``."""
    path = tmp_path_factory.mktemp("docker") / "docker.sock"
    settings = {"DOCKER_SOCKET": str(path)}
    with (
        docker_recorder.listening(path),
        running("socket-proxy", tmp_path_factory.mktemp("socket-proxy"), settings) as role,
    ):
        yield role


@pytest.fixture
def api(api_recorder: Recorder) -> Recorder:
    """The recorder behind the reverse proxy, as new."""
    api_recorder.reset()
    return api_recorder


@pytest.fixture
def docker(docker_recorder: Recorder) -> Recorder:
    """The recorder behind the socket proxy, as new."""
    docker_recorder.reset()
    return docker_recorder
