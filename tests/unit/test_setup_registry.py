"""The registry on the loopback interface."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup import registry
from pipeline.setup.docker import Docker
from pipeline.setup.registry import Registry, loopback

from .setup_fakes import fake_docker, fake_registry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("127.0.0.1:5050", Registry("127.0.0.1", 5050)),
        ("127.9.9.9:5051/team/a", Registry("127.9.9.9", 5051)),
        ("localhost:5050", Registry("localhost", 5050)),
        ("[::1]:5050", Registry("::1", 5050)),
        ("localhost", Registry("localhost", 80)),
        ("registry.example.com:5050", None),
        ("registry.example.com/team", None),
        ("10.0.0.1:5050", None),
    ],
)
def test_only_a_loopback_address_is_ours_to_start(setting: str, found: Registry | None) -> None:
    """A registry elsewhere is never started by set-up."""
    assert loopback(setting) == found


def test_an_address_is_written_as_docker_writes_it() -> None:
    """An IPv6 address has its brackets; the container's name tells ports apart."""
    assert str(Registry("::1", 5050)) == "[::1]:5050"
    assert Registry("127.0.0.1", 5050).name == "slipway-registry"
    assert Registry("127.0.0.1", 5051).name == "slipway-registry-5051"


def test_who_answers_is_told_apart(free_port: int) -> None:
    """A registry, something else, and nothing are three cases with three remedies."""
    with fake_registry() as fake:
        found = loopback(fake.address)
        assert found is not None
        assert found.answer() == "registry"
        fake.status = 401
        assert found.answer() == "registry"
        fake.version = ""
        assert found.answer() == "something"
    assert Registry("127.0.0.1", free_port).answer() == "nothing"


def test_a_port_that_speaks_no_http_is_something(free_port: int) -> None:
    """Whatever listens there is not taken for a registry."""
    with socket.create_server(("127.0.0.1", free_port)) as server:
        server.settimeout(5)
        anyio.run(_hang_up, server, Registry("127.0.0.1", free_port))


def _accept(server: socket.socket) -> None:
    server.accept()[0].close()


async def _hang_up(server: socket.socket, found: Registry) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, _accept, server)
        assert await anyio.to_thread.run_sync(found.answer) == "something"


def test_a_digest_is_that_of_the_registry() -> None:
    """What is there has its digest, what is not there has none, anything else is an error."""
    with fake_registry() as fake:
        fake.digests["team/a:1"] = "sha256:abc"
        found = loopback(fake.address)
        assert found is not None
        assert found.digest("team/a", "1") == "sha256:abc"
        assert found.digest("team/a", "2") is None
        fake.status = 401
        with pytest.raises(PrerequisiteError, match="answers 401 for team/a:1"):
            found.digest("team/a", "1")


def test_a_registry_that_is_down_is_a_prerequisite(free_port: int) -> None:
    """The remedy is set-up, for the registry that is meant."""
    with pytest.raises(PrerequisiteError, match="does not answer") as raised:
        Registry("127.0.0.1", free_port).digest("a", "1")
    assert raised.value.remedy == f"Run `PIPELINE_REGISTRY=127.0.0.1:{free_port} make setup`."
    assert Registry("127.0.0.1", 5050).command == "make setup"


def test_starting_publishes_on_the_loopback_only(tmp_path: Path, free_port: int) -> None:
    """The container listens on 127.0.0.1, keeps its data in a volume and may delete."""
    found = Registry("127.0.0.1", free_port)
    said: list[str] = []
    with fake_docker(tmp_path) as docker:
        servers = []

        def serve(_container: dict[str, Any]) -> None:
            servers.append(fake_registry(free_port))
            servers[-1].__enter__()

        docker.on_start = serve
        try:
            container = anyio.run(registry.start, found, docker.client, "registry:2", said.append)
        finally:
            for server in servers:
                server.__exit__(None, None, None)
        made = docker.containers[found.name]
    assert container == made["Id"]
    assert made["HostConfig"]["PortBindings"] == {
        "5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(free_port)}]
    }
    assert made["HostConfig"]["Mounts"][0]["Source"] == found.name
    assert made["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in made["Env"]
    assert made["Labels"] == {"io.slipway.role": "registry"}
    assert said == [f"Starting a registry on {found} (container {found.name}, image registry:2)"]


def test_a_spent_container_is_replaced(tmp_path: Path, free_port: int) -> None:
    """A container of the name that does not serve is removed first; its volume stays."""
    found = Registry("127.0.0.1", free_port)
    with fake_docker(tmp_path) as docker:
        docker.containers[found.name] = {
            "Id": "old",
            "Name": found.name,
            "State": {"Running": False},
        }
        docker.start_answer = (500, {"message": "no"}, {})
        with pytest.raises(PrerequisiteError):
            anyio.run(registry.start, found, docker.client, "registry:2", print)
        assert f"DELETE /containers/{found.name}?force=true&v=true" in docker.requests
        assert docker.containers == {}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Bind for 127.0.0.1:1 failed: port is already allocated", "is taken by something"),
        ("listen tcp4 127.0.0.1:1: bind: address already in use", "is taken by something"),
        ("no space left on device", "cannot be started: no space left on device"),
    ],
)
def test_a_container_that_does_not_start_is_removed(
    tmp_path: Path, free_port: int, message: str, expected: str
) -> None:
    """What failed is not left behind, and a taken port is called that."""
    found = Registry("127.0.0.1", free_port)
    with fake_docker(tmp_path) as docker:
        docker.start_answer = (500, {"message": message}, {})
        with pytest.raises(PrerequisiteError, match=expected):
            anyio.run(registry.start, found, docker.client, "registry:2", print)
        assert docker.containers == {}


def test_a_container_that_ends_at_once_is_not_waited_for(tmp_path: Path, free_port: int) -> None:
    """The wait ends with the container, not with the limit, and names its log."""
    found = Registry("127.0.0.1", free_port)

    def end(container: dict[str, Any]) -> None:
        container["State"]["Running"] = False

    with fake_docker(tmp_path) as docker:
        docker.on_start = end
        with pytest.raises(PrerequisiteError, match="does not answer on") as raised:
            anyio.run(registry.start, found, docker.client, "registry:2", print)
    assert f"docker logs {found.name}" in raised.value.remedy


def test_a_name_that_is_refused_is_said(tmp_path: Path, free_port: int) -> None:
    """Docker's own words are in the error."""
    with fake_docker(tmp_path) as docker:
        docker.create_answer = (409, {"message": "Conflict"}, {})
        with pytest.raises(PrerequisiteError, match="cannot be made: Conflict"):
            anyio.run(registry.start, Registry("127.0.0.1", free_port), docker.client, "x", print)


def test_an_engine_on_another_machine_has_another_loopback() -> None:
    """Nothing is started there that nobody here could reach."""
    docker = Docker("tcp://192.0.2.1:2375")
    with pytest.raises(PrerequisiteError, match="another machine"):
        anyio.run(registry.start, Registry("127.0.0.1", 5050), docker, "x", print)
