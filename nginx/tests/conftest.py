"""Both roles, each with a recorder behind it, and started once for a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .recorder import Recorder, free_port
from .role import Role, running

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    port = free_port()
    settings = {"API_UPSTREAM": f"127.0.0.1:{port}"}
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
