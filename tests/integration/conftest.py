"""What the tests against a real Docker Engine share."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.embedded import resources

from .engines import TINY_SCRIPT, Client, Daemon
from .projects import Ended, Project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import docker

DOCKER_HOST = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


@pytest.fixture
def anyio_backend() -> str:
    """Run the async tests on asyncio, which is what the Dagger SDK runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def api() -> Iterator[docker.APIClient]:
    """Return a client of this machine's Docker Engine."""
    import docker

    with contextlib.closing(docker.APIClient(base_url=DOCKER_HOST, timeout=120)) as client:
        yield client


@pytest.fixture(scope="session")
def image(api: docker.APIClient) -> str:
    """Return an image in a registry, by digest, with a shell and python3."""
    import docker.errors

    reference = os.environ.get("ENGINE_TEST_IMAGE") or resources().image
    look: Any = api.inspect_distribution
    try:
        digest = look(reference)["Descriptor"]["digest"]
    except docker.errors.APIError as error:
        pytest.skip(f"{reference} cannot be pulled (run `make setup`): {error.explanation}")
    name = reference.partition("@")[0]
    head, _, tag = name.rpartition(":")
    # So that builds on it are remembered as well.
    return f"{head if '/' not in tag else name}@{digest}"


@pytest.fixture(scope="session")
def registry() -> str:
    """Return the address of a registry that takes what is pushed to it."""
    return os.environ.get("ENGINE_TEST_REGISTRY") or resources().registry


@pytest.fixture
def tidy(api: docker.APIClient, tmp_path: Path) -> Iterator[None]:
    """Remove the images and volumes that the engines of a test keep for a next run of theirs."""
    import docker.errors

    yield
    for file in tmp_path.rglob("results/*/*.json"):
        kept = json.loads(file.read_text()).get("image", "").removeprefix("sha256:")
        if kept:
            with contextlib.suppress(docker.errors.APIError):
                api.remove_image(f"slipway-cache:{kept[:32]}")
    for file in tmp_path.rglob("volumes/slipway-cache-*"):
        with contextlib.suppress(docker.errors.APIError):
            api.remove_volume(file.name)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Client]:
    """Return a client of an engine in this process, with a cache of its own."""
    from pipeline.engine.session import serve

    async with (
        serve(cache_dir=tmp_path / "cache", docker_host=DOCKER_HOST, cwd=tmp_path) as endpoint,
        Client(endpoint.port, endpoint.token) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def tiny(api: docker.APIClient, image: str) -> bytes:
    """Return an archive with a filesystem of a few megabytes that has a shell."""
    from docker.types import LogConfig

    api.pull(image)
    # The default log driver does not keep bytes as they are.
    logs = api.create_host_config(log_config=LogConfig(type="local", config={}))
    made = api.create_container(image, ["sh", "-c", TINY_SCRIPT], host_config=logs)
    try:
        api.start(made["Id"])
        api.wait(made["Id"], timeout=60)
        return b"".join(api.logs(made["Id"], stdout=True, stderr=False, stream=True))
    finally:
        api.remove_container(made["Id"], force=True)


@pytest.fixture
def daemon(tiny: bytes) -> Iterator[Daemon]:
    """Return a second Docker Engine, which a test may stop, kill and prune."""
    if os.geteuid() or not (shutil.which("dockerd") and shutil.which("unshare")):
        pytest.skip("a second Docker Engine needs root, dockerd and unshare")
    made = Daemon(tiny)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what the runs of these tests keep."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def green(
    home: Path, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, Ended]:
    """Return a project, and the first run of it, which started with nothing."""
    project = Project.make(tmp_path_factory.mktemp("green") / "project", home, registry)
    return project, project.run()


@pytest.fixture
def project(green: tuple[Project, Ended], registry: str, tmp_path: Path) -> Project:
    """Return a project with the content of the one that was green, pushed nowhere yet."""
    assert green[1].code == 0, f"{green[1].stdout}\n{green[1].stderr}"
    return Project.make(tmp_path / "project", green[0].home, registry)
