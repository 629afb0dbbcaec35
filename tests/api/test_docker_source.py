"""The API lists the containers of a real Docker Engine, through the socket proxy."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.stack import LABELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient
    from docker.models.containers import Container

    from tests.stack import Stack

pytestmark = pytest.mark.docker

LIST = "/api/v1/containers"
WORKERS = 2
"""As the API's settings are by themselves."""


@pytest.fixture
def sleeper(docker: DockerClient, images: dict[str, str]) -> Iterator[Container]:
    """Run a container that is healthy, has a port, and keeps secrets where people keep them."""
    made = docker.containers.create(
        images["api"],
        ["sleep", "600"],
        labels={**LABELS, "com.docker.compose.service": "sleeper", "password": "s3cr3t"},
        environment={"PASSWORD": "s3cr3t"},
        ports={"8000/tcp": ("127.0.0.1", 0)},
        healthcheck={"test": ["CMD", "true"], "interval": 1_000_000_000},
    )
    try:
        made.start()
        yield made
    finally:
        made.remove(force=True)


def until_listed(url: str, health: str) -> Any:  # noqa: ANN401 - JSON
    """Wait until a container is listed with this health; return it."""
    deadline = time.monotonic() + 30
    while True:
        answer = httpx.get(url)
        if answer.status_code == httpx.codes.OK and answer.json()["health"] == health:
            assert "s3cr3t" not in answer.text
            return answer.json()
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)


def test_container_is_listed_as_it_is(system: Stack, sleeper: Container) -> None:
    """What Docker says of it is there, and what people keep in labels and variables is not."""
    found = until_listed(f"{system.url}{LIST}/{sleeper.id}", "healthy")
    sleeper.reload()
    assert found["id"] == sleeper.id
    assert found["name"] == sleeper.name
    assert found["state"] == sleeper.status == "running"
    assert found["labels"]["com.docker.compose.service"] == "sleeper"
    assert "password" not in found["labels"]
    (port,) = found["ports"]
    assert (port["private_port"], port["protocol"], port["ip"]) == (8000, "tcp", "127.0.0.1")
    query = {"label": "com.docker.compose.service=sleeper", "name": found["name"]}
    listed = httpx.get(f"{system.url}{LIST}", params=query).json()
    assert [item["id"] for item in listed["containers"]] == [sleeper.id]


def test_docker_is_asked_once_a_second_and_worker(system: Stack) -> None:
    """However many ask at once, past Nginx and its copies: what the socket proxy saw says so."""
    before = asked(system)
    start = time.monotonic()
    statuses: set[int] = set()
    with ThreadPoolExecutor(8) as pool, httpx.Client(timeout=10) as client:
        while time.monotonic() - start < 3.2:
            answers = pool.map(lambda _: client.get(f"{system.api_urls[0]}{LIST}"), range(64))
            statuses |= {answer.status_code for answer in answers}
    seconds = time.monotonic() - start
    assert statuses == {200}
    assert 2 <= asked(system) - before <= WORKERS * (int(seconds) + 1)


def asked(system: Stack) -> int:
    """Return how many lists the socket proxy was asked for."""
    lines = [json.loads(line) for line in system.socket_proxy.logs(stderr=False).splitlines()]
    return sum(line.get("url.path", "").endswith("/containers/json") for line in lines)
