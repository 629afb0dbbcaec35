"""The registry on the loopback interface: asked over HTTP, and started in a container."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio
from anyio import to_thread

from pipeline import images
from pipeline.errors import PrerequisiteError

if TYPE_CHECKING:
    from pipeline.setup.docker import Docker
    from pipeline.setup.settings import Say

DEFAULT = "127.0.0.1:5050"
TIMEOUT = 5.0
_VERSION_HEADER = "Docker-Distribution-Api-Version"
START_LIMIT = 30.0
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that speaks plain HTTP on the loopback interface.

    Attributes:
        host: Its host, without the brackets of an IPv6 address.
        port: Its port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """The name of its container, and of the volume with its data."""
        return "slipway-registry" if str(self) == DEFAULT else f"slipway-registry-{self.port}"

    @property
    def command(self) -> str:
        """What a person types to have it."""
        return "make setup" if str(self) == DEFAULT else f"PIPELINE_REGISTRY={self} make setup"

    def answer(self) -> Literal["registry", "something", "nothing"]:
        """Return who answers at the address: a registry, something else, or nothing."""
        try:
            reply = self._request("GET", "/v2/")
        except ConnectionRefusedError:
            return "nothing"
        except (OSError, http.client.HTTPException):
            return "something"
        # The header is part of the protocol, with a password (401) and without (200).
        version = reply.getheader(_VERSION_HEADER, "")
        return "registry" if version == "registry/2.0" else "something"

    def digest(self, repository: str, tag: str) -> str | None:
        """Return the digest of what is there under a tag; None when nothing is.

        Raises:
            PrerequisiteError: The registry does not answer, or answers something else.
        """
        try:
            reply = self._request("HEAD", f"/v2/{repository}/manifests/{tag}")
        except (OSError, http.client.HTTPException) as error:
            raise PrerequisiteError(
                f"The registry on {self} does not answer ({error})",
                remedy=f"Run `{self.command}`.",
            ) from error
        if reply.status == http.client.NOT_FOUND:
            # A registry says that it is one, also of what it does not have.
            if reply.getheader(_VERSION_HEADER) is None:
                raise taken(self)
            return None
        digest = reply.getheader("Docker-Content-Digest")
        if reply.status != http.client.OK or digest is None:
            raise PrerequisiteError(
                f"The registry on {self} answers {reply.status} for {repository}:{tag}",
                remedy="Use a registry without a password there, or choose another port with "
                "`--registry 127.0.0.1:PORT`.",
            )
        return digest

    def _request(self, method: str, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        try:
            connection.request(method, path, headers={"Accept": ", ".join(MANIFESTS)})
            reply = connection.getresponse()
            reply.read()
        finally:
            connection.close()
        return reply


def loopback(registry: str) -> Registry | None:
    """Return the registry of a setting when it is on the loopback interface of this machine.

    Args:
        registry: ``HOST[:PORT][/NAMESPACE]``; without a port it is 80, as Docker has it.

    Raises:
        UsageError: It names no registry.
    """
    found = images.parse_registry(registry)
    return Registry(found.host, found.effective_port) if found.loopback else None


def taken(registry: Registry) -> PrerequisiteError:
    """Return the error for a port that something else has."""
    return PrerequisiteError(
        f"Port {registry.port} on {registry.host} is taken by something that is not a registry",
        remedy="Free it, or choose another port with `--registry 127.0.0.1:PORT` or "
        "PIPELINE_REGISTRY.",
    )


async def start(registry: Registry, docker: Docker, image: str, say: Say) -> str:
    """Start the registry in a container and wait until it answers.

    Args:
        registry: Where it is to answer; only this machine reaches it there.
        docker: The Docker Engine to start it on.
        image: What to start; ``registry:2`` or its stand-in, present on the engine.
        say: Told that it starts.

    Returns:
        The id of the container.

    Raises:
        PrerequisiteError: The port is taken, or it does not answer in time.
    """
    say(f"Starting a registry on {registry} (container {registry.name}, image {image})")
    container = await to_thread.run_sync(_create, registry, docker, image)
    with anyio.move_on_after(START_LIMIT):
        while True:
            if await to_thread.run_sync(registry.answer) == "registry":
                return container
            found = await to_thread.run_sync(docker.container, container)
            if found is None or not found["State"]["Running"]:
                break
            await anyio.sleep(0.05)
    raise PrerequisiteError(
        f"The registry in container {registry.name} does not answer on {registry}",
        remedy=f"See `docker logs {registry.name}`.",
    )


def _create(registry: Registry, docker: Docker, image: str) -> str:
    if not docker.local:
        raise PrerequisiteError(
            f"A registry on {registry} cannot be started on the Docker Engine at {docker.host}, "
            "which is another machine",
            remedy="Name a registry that both reach with `--registry` or PIPELINE_REGISTRY.",
        )
    old = docker.container(registry.name)
    if old is not None:
        # Its data is in the volume; a container that ended, or that listens elsewhere, is spent.
        docker.remove(registry.name)
    host = "127.0.0.1" if registry.host == "localhost" else registry.host
    created = docker.request(
        "POST",
        f"/containers/create?name={registry.name}",
        {
            "Image": image,
            "Env": ["REGISTRY_STORAGE_DELETE_ENABLED=true"],
            "Labels": {"io.slipway.role": "registry"},
            "ExposedPorts": {"5000/tcp": {}},
            "HostConfig": {
                "PortBindings": {"5000/tcp": [{"HostIp": host, "HostPort": str(registry.port)}]},
                "Mounts": [
                    {"Type": "volume", "Source": registry.name, "Target": "/var/lib/registry"}
                ],
                "RestartPolicy": {"Name": "no"},
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
            },
        },
    )
    if created.status != http.client.CREATED:
        raise PrerequisiteError(
            f"The container {registry.name} cannot be made: {created.message}",
            remedy=f"Remove what has its name (`docker rm -f {registry.name}`).",
        )
    container = str(created.json()["Id"])
    started = docker.request("POST", f"/containers/{container}/start", timeout=30.0)
    if started.status >= http.client.BAD_REQUEST:
        docker.remove(container, grace=0)
        if any(s in started.message for s in ("already allocated", "already in use")):
            raise taken(registry)
        raise PrerequisiteError(
            f"The container {registry.name} cannot be started: {started.message}",
            remedy="See the log of the Docker Engine.",
        )
    return container
