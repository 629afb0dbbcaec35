"""The system in containers of this machine, for tests: socket proxy → API → Nginx.

Its images are built as the pipeline builds them, by its own code and with its cache.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from pipeline import config, context, images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient
    from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[1]
LABELS = {"io.slipway.test": ""}
UNLIMITED = {"RATE_LIMIT": "999999", "RATE_BURST": "999999"}
"""What Nginx is told when a test asks more often than a person would."""

_SOCKET = Path("/var/run/docker.sock")
_START_LIMIT = 60.0
"""Seconds in which all of it must be ready, on a busy machine too."""


def build(folder: Path, more: Mapping[str, Path] | None = None) -> dict[str, str]:
    """Build the images and push them to the registry of the settings; return them by digest.

    Args:
        folder: For what the engine prints.
        more: Folders with a Dockerfile of which an image is built as well, by its name; they get
            the base of the API.

    Raises:
        PrerequisiteError: The machine lacks something that `make setup` gets.
    """
    # In a thread of its own: in this one, a test of the page may have Playwright's event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, _build, folder, more or {}).result()


async def _build(folder: Path, more: Mapping[str, Path]) -> dict[str, str]:
    import dagger

    settings = config.load({"report_dir": str(folder)}, os.environ, cwd=ROOT)
    found: dict[str, str] = {}
    async with context.prepare(settings) as ctx:
        client = await ctx.client()
        made = {name: await ctx.built(client, name, "runtime") for name in context.IMAGES}
        ca = ctx.ca(client)
        for name, place in more.items():
            made[name] = (
                client.host()
                .directory(str(place))
                .docker_build(
                    build_args=[dagger.BuildArg("BASE", ctx.bases.references["api"])],
                    secrets=[ca] if ca is not None else [],
                )
            )
        for name, container in made.items():
            address = await ctx.with_login(client, container).publish(
                str(ctx.registry.reference(f"slipway-test-{name}", "stack")),
                registry_service=ctx.registry_service(client, ctx.registry),
            )
            # docker-py takes a tag or a digest, and not both.
            found[name] = str(replace(images.parse(address), tag=""))
    return found


@dataclass(frozen=True, slots=True)
class Stack:
    """The system, running. Each part is a container, which can be stopped, started and so on.

    Attributes:
        url: Of Nginx; the same when it is started again.
        api_urls: Of each API, past Nginx; the same.
        socket_proxy: What stands before Docker.
        apis: Each API.
        nginx: What stands before the APIs.
    """

    url: str
    api_urls: tuple[str, ...]
    socket_proxy: Container
    apis: tuple[Container, ...]
    nginx: Container


@contextlib.contextmanager
def running(  # noqa: PLR0913 - what may be different, by name
    docker: DockerClient,
    built: Mapping[str, str],
    *,
    api: Mapping[str, str] | None = None,
    nginx: Mapping[str, str] | None = None,
    apis: int = 1,
    socket_file: Path = _SOCKET,
    logged: bool = True,
) -> Iterator[Stack]:
    """Start the system, wait until it is ready, and remove all of it afterwards.

    Args:
        docker: A client of the engine that runs it, and whose containers it lists.
        built: What ``build`` returned.
        api: Settings of the API.
        nginx: Settings of Nginx.
        apis: How many APIs there are.
        socket_file: Where Docker listens.
        logged: Whether Docker keeps what the parts print, which takes time of its own.
    """
    from docker.types import LogConfig

    name = f"slipway-test-{secrets.token_hex(4)}"
    ports = [_free_port() for _ in range(1 + apis)]
    with contextlib.ExitStack() as stack:
        network = docker.networks.create(name, labels=LABELS)
        stack.callback(network.remove)

        def start(
            part: str,
            image: str,
            command: list[str] | None = None,
            environment: Mapping[str, str] | None = None,
            **more: Any,  # noqa: ANN401 - as docker-py takes it
        ) -> Container:
            # As in production: nothing that can be written to but memory, and no rights.
            docker.images.pull(built[image])
            container = docker.containers.create(
                built[
                    image
                ],  # and not what was pulled: Docker lists a container by what it is given
                command,
                name=f"{name}-{part}",
                network=name,
                environment=dict(environment or {}),
                labels=LABELS,
                read_only=True,
                tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - in the container
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                log_config=None if logged else LogConfig(type=LogConfig.types.NONE),
                **more,
            )
            stack.callback(container.remove, force=True)
            container.start()
            return container

        proxy = start(
            "docker-proxy",
            "nginx",
            ["socket-proxy"],
            volumes=[f"{socket_file}:{_SOCKET}:ro"],
            group_add=[str(socket_file.stat().st_gid)],
        )
        services = tuple(
            start(
                f"api-{number}",
                "api",
                environment={"DOCKER_HOST": f"tcp://{name}-docker-proxy:2375", **(api or {})},
                ports={"8000/tcp": ("127.0.0.1", ports[number])},
            )
            for number in range(1, 1 + apis)
        )
        upstream = ",".join(f"{each.name}:8000" for each in services)
        front = start(
            "nginx",
            "nginx",
            ["proxy"],
            environment={"API_UPSTREAM": upstream, **(nginx or {})},
            ports={"8080/tcp": ("127.0.0.1", ports[0])},
        )
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        _until_ready(urls[0], (proxy, *services, front))
        yield Stack(urls[0], tuple(urls[1:]), proxy, services, front)


def _free_port() -> int:
    # Chosen here and not by Docker, which would choose another one at each start.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _until_ready(url: str, containers: tuple[Container, ...]) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while not is_ready(url):
        if time.monotonic() > deadline:
            logs = "\n".join(f"== {each.name}\n{each.logs().decode()}" for each in containers)
            raise TimeoutError(f"the system is not ready after {_START_LIMIT:.0f} s\n{logs}")
        time.sleep(0.1)


def is_ready(url: str) -> bool:
    """Return whether what answers at a URL, or whoever is behind it, is ready to serve."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def within(container: Container, *argv: str) -> str:
    """Run a command in a container; return what it printed.

    Raises:
        RuntimeError: It failed.
    """
    code, out = container.exec_run(list(argv))
    text = b"".join([out] if isinstance(out, bytes) else out).decode(errors="replace")
    if code:
        raise RuntimeError(f"`{' '.join(argv)}` in {container.name} ended with {code}: {text}")
    return text


def memory(container: Container) -> int:
    """Return the bytes of memory that the processes of a container take, shared ones counted once.

    Raises:
        RuntimeError: They cannot be counted.
    """
    return int(within(container, "python3", "-c", _COUNT))


# The proportional set size; without the process that counts.
_COUNT = """
import glob, os, re
own = f"/proc/{os.getpid()}/"
texts = (open(f).read() for f in glob.glob("/proc/[0-9]*/smaps_rollup") if not f.startswith(own))
print(sum(int(re.search(r"^Pss: +(\\d+) kB", text, re.M)[1]) for text in texts) * 1024)
"""
