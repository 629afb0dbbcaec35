"""A real registry on a port of its own, with a stand-in pushed to it and named by digest."""

from __future__ import annotations

import os
import subprocess
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup import bases, registry, setup, state
from pipeline.setup.command import run
from pipeline.setup.docker import DEFAULT_HOST, Docker
from pipeline.setup.down import down
from pipeline.setup.registry import loopback

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.docker

HOST = os.environ.get("DOCKER_HOST") or DEFAULT_HOST


@dataclass
class Settings:
    """What set-up reads."""

    registry: str
    bases: str = "auto"
    engine: str = "auto"
    docker_host: str = HOST
    ca: Path | None = None


def volume(name: str) -> bool:
    """Return whether a volume is there."""
    return Docker(HOST).request("GET", f"/volumes/{name}").status == 200


@pytest.mark.network
def test_a_registry_is_started_used_and_stopped(tmp_path: Path, free_port: int) -> None:
    """Set-up makes it, a run finds its bases there, `down` stops it and its data stays."""
    settings = Settings(f"127.0.0.1:{free_port}")
    local = loopback(settings.registry)
    assert local is not None
    docker = Docker(HOST)
    said: list[str] = []
    try:
        made = anyio.run(partial(setup, settings, say=said.append, place=tmp_path))
        assert made is not None
        assert local.answer() == "registry"
        container = docker.container(local.name)
        assert container is not None
        ports = container["NetworkSettings"]["Ports"]["5000/tcp"]
        assert ports == [{"HostIp": "127.0.0.1", "HostPort": str(free_port)}]
        if made.kind == "debian":
            for name, target in bases.TARGETS.items():
                reference = f"127.0.0.1:{free_port}/slipway-standin/{target}:trixie-"
                assert made.references[name].startswith(reference)
                assert "@sha256:" in made.references[name]
        again: list[str] = []
        assert anyio.run(partial(setup, settings, say=again.append, place=tmp_path)) == made
        assert len(again) == 1, again
        anyio.run(partial(down, None, say=said.append, place=tmp_path))
        assert local.answer() == "nothing"
        assert volume(local.name)
        assert "Stopped the registry" in said[-1]
    finally:
        docker.remove(local.name)
        docker.request("DELETE", f"/volumes/{local.name}")
        for name in bases.TARGETS:
            tagged = bases.reference("debian", name, settings.registry)
            docker.request("DELETE", f"/images/{tagged}")


@pytest.mark.network
def test_a_standin_says_what_it_stands_for() -> None:
    """Its labels name the official image; it has what a Dockerfile needs of its base."""
    settings = Settings("127.0.0.1:5050", bases="debian")
    try:
        made = anyio.run(partial(setup, settings, say=print, place=state.folder()))
    except PrerequisiteError as error:
        pytest.skip(f"stand-ins cannot be made here: {error}")
    assert made is not None
    docker = Docker(HOST)
    needed = {
        "api": "python3 -m venv /tmp/x && /tmp/x/bin/pip --version",
        "nginx": "nginx -v && curl --version && envsubst --version",
    }
    for name, reference in made.references.items():
        done = subprocess.run(
            [
                *("docker", "run", "--rm", "--name", f"slipway-test-{uuid.uuid4().hex[:8]}"),
                *(reference, "sh", "-ec", f"{needed[name]} && cat /etc/os-release"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "VERSION_CODENAME=trixie" in done.stdout
        image = docker.request("GET", f"/images/{reference}/json").json()
        official = bases.OFFICIAL[name].removeprefix("docker.io/library/")
        assert image["Config"]["Labels"]["io.slipway.standin"] == official


def test_a_port_that_docker_refuses_is_taken(free_port: int) -> None:
    """Docker's own refusal is translated, and what was made for it is removed."""
    docker = Docker(HOST)
    images = docker.request("GET", "/images/json").json()
    if not images:
        pytest.skip("there is no image on the Docker Engine to start")
    name = f"slipway-test-{uuid.uuid4().hex[:8]}"
    first = docker.request(
        "POST",
        f"/containers/create?name={name}",
        {
            "Image": images[0]["Id"],
            "Entrypoint": ["sleep", "60"],
            "ExposedPorts": {"5000/tcp": {}},
            "HostConfig": {
                "PortBindings": {"5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(free_port)}]}
            },
        },
    )
    assert first.status == 201, first.message
    try:
        started = docker.request("POST", f"/containers/{name}/start")
        assert started.status == 204, started.message
        with pytest.raises(PrerequisiteError, match="is taken by something"):
            anyio.run(
                registry.start,
                registry.Registry("127.0.0.1", free_port),
                docker,
                images[0]["Id"],
                print,
            )
    finally:
        docker.remove(name, grace=0)
        docker.request("DELETE", f"/volumes/slipway-registry-{free_port}")
    assert docker.container(f"slipway-registry-{free_port}") is None


def test_a_program_of_this_machine_is_run() -> None:
    """Docker's client answers through the same call that set-up uses."""
    output = anyio.run(lambda: run(["docker", "buildx", "version"], limit=30))
    assert output.code == 0
    assert "buildx" in output.stdout
