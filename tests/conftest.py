"""What every test may rely on: a test is skipped where what its marker names is not there.

With CI=true a skipped docker, groovy, cluster, browser or prometheus test fails: a machine of the
continuous integration has what these need, and a suite that quietly left out half of itself must
not pass.
"""

from __future__ import annotations

import contextlib
import os
import socket
from functools import cache
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup.docker import DEFAULT_HOST, Docker, DockerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from docker import DockerClient

REGISTRIES = ("pypi.org", 443)
REQUIRED = ("docker", "groovy", "cluster", "browser", "prometheus")
"""The markers whose tests may not be skipped where CI is true."""
REFUSAL = "CI=true, and a {} test may not be skipped there: "


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker names something that is not here."""
    if item.get_closest_marker("docker") is not None and (reason := _no_docker()):
        pytest.skip(reason)
    if item.get_closest_marker("network") is not None and (reason := _no_network()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skipped test a failed one where CI is true and what it needs has to be there."""
    report = yield
    in_ci = os.environ.get("CI", "").lower() in {"true", "1"}
    skipped = report.skipped and not hasattr(report, "wasxfail")
    marker = next((name for name in REQUIRED if item.get_closest_marker(name)), None)
    if in_ci and skipped and marker is not None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{REFUSAL.format(marker)}{reason}"
    return report


@cache
def _no_docker() -> str:
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    try:
        Docker(host).ping()
    except DockerUnreachableError as error:
        return error.message
    return ""


@cache
def _no_network() -> str:
    try:
        socket.create_connection(REGISTRIES, timeout=5).close()
    except OSError as error:
        return f"{REGISTRIES[0]} cannot be reached: {error}"
    return ""


@pytest.fixture
def free_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def docker() -> Iterator[DockerClient]:
    """Return a client of this machine's Docker Engine."""
    from docker import DockerClient

    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    with contextlib.closing(DockerClient(base_url=host, timeout=120)) as client:
        yield client


@pytest.fixture(scope="session")
def images(
    docker: DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Build the images of this checkout; return them by digest, by name."""
    from docker.errors import ImageNotFound

    from tests import stack

    try:
        built = stack.build(tmp_path_factory.mktemp("build"))
    except PrerequisiteError as error:
        pytest.skip(str(error))
    yield built
    for reference in built.values():
        # One that no test has run was not pulled.
        with contextlib.suppress(ImageNotFound):
            docker.images.remove(reference)
