"""Containers from a Docker Engine, by ``GET /version`` once and ``GET /containers/json`` alone."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import requests
from docker.api import APIClient
from docker.errors import DockerException

from slipway_api.sources import Container, Port, SourceError, SourceTimeout, in_order, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway_api.sources import Health

log = logging.getLogger(__name__)

# What `/version` is asked with; that path has no version in it, so any that docker-py accepts does.
_UNUSED_VERSION = "1.44"

# What a proxy before Docker answers when Docker is gone.
_GATEWAY_ERRORS = frozenset({502, 503, 504})


class DockerSource:
    """Lists the containers of one Docker Engine.

    The API version is agreed with the engine on the first call and again after each failure, so
    that an engine that was replaced meanwhile is asked in its own version.

    Args:
        host: As in ``DOCKER_HOST``.
        timeout: Seconds to connect and seconds between two pieces of the answer. A name that does
            not resolve can take longer; see ``Shared``.
        prefixes: What the labels begin with that are shown.
    """

    name = "docker"

    def __init__(self, host: str, timeout: float, prefixes: tuple[str, ...]) -> None:
        self._prefixes = prefixes
        self._host = host
        self._timeout = timeout
        self._client: APIClient | None = None

    def containers(self) -> tuple[Container, ...]:
        """List all containers with one request, never inspecting any.

        Raises:
            SourceError: Docker is gone, refuses, or answers what is not a list of containers.
        """
        try:
            return tuple(container(item, self._prefixes) for item in self._list())
        except requests.Timeout as error:
            raise SourceTimeout(f"Docker did not answer within {self._timeout:g} s") from error
        except requests.ConnectionError as error:
            raise SourceError("Docker cannot be reached") from error
        except (
            requests.RequestException,
            DockerException,
            RuntimeError,  # docker-py's StreamParseError
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            refusal = _refusal(error)
            raise SourceError(_sentence(refusal)) from refusal or error

    def _list(self) -> list[dict[str, Any]]:
        client = self._client
        if client is not None:
            try:
                return self._ask(client)
            except requests.Timeout:
                raise
            except requests.ConnectionError:
                # The other side may have closed a connection that was kept for the next request,
                # which says nothing about whether it answers: ask once more, on a new one.
                log.debug("a kept connection to Docker was closed; asking on a new one")
        return self._ask(self._connect())

    def _ask(self, client: APIClient) -> list[dict[str, Any]]:
        try:
            answer: list[dict[str, Any]] = client.containers(all=True)
        except BaseException:
            # A late failure of a call that nobody waits for any more must not drop its successor.
            if self._client is client:
                self._client = None
            client.close()
            raise
        self._client = client
        return answer

    def _connect(self) -> APIClient:
        with self._open(_UNUSED_VERSION) as client:
            version = client.version(api_version=False)["ApiVersion"]
        return self._open(version)

    def _open(self, version: str) -> APIClient:
        # The stubs say int; the value goes to requests as it is, which takes fractions of a second.
        timeout: Any = self._timeout
        client = APIClient(base_url=self._host, version=version, timeout=timeout)
        client.trust_env = False  # a proxy for the internet is not the way to Docker
        return client


def container(item: Mapping[str, Any], prefixes: tuple[str, ...]) -> Container:
    """Turn one element of Docker's list into a value, with the labels that begin with a prefix.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, OverflowError: It is not one.
    """
    identity = str(item["Id"])
    return Container(
        id=identity,
        name=_name(item.get("Names") or (), identity),
        image=str(item["Image"]),
        state=str(item["State"]),
        status=str(item["Status"]),
        health=_health(item),
        created=datetime.fromtimestamp(item["Created"], tz=UTC),
        ports=in_order(_port(port) for port in item.get("Ports") or ()),
        labels=shown(item.get("Labels"), prefixes),
    )


# How Docker ends the status of a container that has a health check.
_HEALTH: Mapping[str, Health] = {
    "(healthy)": "healthy",
    "(unhealthy)": "unhealthy",
    "(health: starting)": "starting",
}


def _health(item: Mapping[str, Any]) -> Health | None:
    status = str(item["Status"])
    return next((word for end, word in _HEALTH.items() if status.endswith(end)), None)


def _refusal(error: BaseException | None) -> requests.HTTPError | None:
    # docker-py stumbles over an error whose body is JSON without a `message`, such as a problem of
    # a proxy's; the error with the status is then the one during whose handling it did.
    while error is not None:
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return error
        error = error.__context__
    return None


def _sentence(refusal: requests.HTTPError | None) -> str:
    if refusal is None:
        return "Docker's answer is not a list of containers"
    status = refusal.response.status_code
    if status in _GATEWAY_ERRORS:
        return "Docker cannot be reached"
    return f"Docker refused to list containers ({status})"


def _name(names: Any, identity: str) -> str:  # noqa: ANN401 - what came over the wire
    # A container that another one links to has that one's name in front as well: `/other/alias`.
    own = [name for name in names if name.count("/") == 1]
    # One that is being removed may have lost its name.
    return str(own[0]).removeprefix("/") if own else identity[:12]


def _port(item: Mapping[str, Any]) -> Port:
    public = item.get("PublicPort")
    return Port(
        private_port=int(item["PrivatePort"]),
        public_port=int(public) if public else None,
        protocol=str(item["Type"]),
        ip=str(item["IP"]) if item.get("IP") else None,
    )
