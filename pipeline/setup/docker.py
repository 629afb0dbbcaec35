"""A client of the Docker API, as little of it as set-up needs; blocking, standard library only.

Set-up runs before everything else on each ``make run``: what it imports, every run pays for.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pipeline.errors import PrerequisiteError, UsageError

DEFAULT_HOST = "unix:///var/run/docker.sock"
TIMEOUT = 10.0
"""Seconds for one answer; the calls that take longer say so."""

Why = Literal["absent", "refused", "forbidden", "silent", "broken"]


class DockerUnreachableError(PrerequisiteError):
    """No Docker Engine answers at an address.

    Attributes:
        why: ``absent`` no such socket, ``refused`` nobody listens, ``forbidden`` this user may
            not, ``silent`` it does not answer in time, ``broken`` it answers something else.
    """

    def __init__(self, host: str, why: Why, detail: str) -> None:
        super().__init__(
            f"No Docker Engine answers at {host} ({detail})",
            remedy=(
                'Join the group that may use it: `sudo usermod -aG docker "$USER"`, then log in '
                "again."
                if why == "forbidden"
                else "Run `make setup`, or start Docker."
            ),
        )
        self.why = why


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the Docker API."""

    status: int
    body: bytes

    def json(self) -> Any:  # noqa: ANN401  what JSON holds is for the caller to say
        """Return the body, decoded."""
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """What the API says went wrong."""
        try:
            return str(self.json()["message"])
        except (ValueError, KeyError, TypeError):
            return self.body.decode(errors="replace").strip()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Docker:
    """The Docker Engine at an address.

    Args:
        host: ``unix:///path`` or ``tcp://host:port``; TLS as Docker's own client does it, by
            DOCKER_TLS_VERIFY and DOCKER_CERT_PATH.

    Raises:
        UsageError: The address is of another kind.
    """

    def __init__(self, host: str = DEFAULT_HOST) -> None:
        parts = urlsplit(host)
        if parts.scheme not in {"unix", "tcp"} or not (parts.path or parts.hostname):
            raise UsageError(
                f"The Docker host {host!r} is neither unix:///path nor tcp://host:port",
                remedy="Set DOCKER_HOST to one of these, or unset it.",
            )
        self.host = host
        self.socket = Path(parts.path) if parts.scheme == "unix" else None
        self._address = (parts.hostname or "", parts.port or 2375)

    @property
    def local(self) -> bool:
        """Whether it is on this machine, so that its loopback interface is ours."""
        return self.socket is not None or self._address[0] in {"127.0.0.1", "::1", "localhost"}

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout: float = TIMEOUT,
    ) -> Reply:
        """Send one request and return the whole answer, whatever its status.

        Raises:
            DockerUnreachableError: There was no answer; its ``why`` says which way.
        """
        connection = self._connection(timeout)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body).encode(),
                headers={} if body is None else {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            return Reply(answer.status, answer.read())
        except FileNotFoundError as error:
            raise DockerUnreachableError(self.host, "absent", "there is no socket") from error
        except ConnectionRefusedError as error:
            raise DockerUnreachableError(self.host, "refused", "nobody listens") from error
        except PermissionError as error:
            raise DockerUnreachableError(
                self.host, "forbidden", "this user may not use the socket"
            ) from error
        except TimeoutError as error:
            raise DockerUnreachableError(
                self.host, "silent", f"no answer within {timeout:.0f} s"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise DockerUnreachableError(self.host, "broken", str(error)) from error
        finally:
            connection.close()

    def ping(self, *, timeout: float = 5.0) -> None:
        """Return when the engine answers.

        Raises:
            DockerUnreachableError: It does not.
        """
        reply = self.request("GET", "/_ping", timeout=timeout)
        if reply.status != http.client.OK:
            raise DockerUnreachableError(
                self.host, "broken", f"/_ping gave {reply.status}: {reply.message}"
            )

    def version(self) -> str:
        """Return the version of the engine."""
        return str(self.request("GET", "/version").json()["Version"])

    def root(self) -> str:
        """Return the folder in which the engine keeps its data, on its own machine."""
        return str(self.request("GET", "/info").json().get("DockerRootDir", ""))

    def has_image(self, reference: str) -> bool:
        """Return whether an image is there under this name."""
        path = f"/images/{quote(reference, safe='/:@')}/json"
        return self.request("GET", path).status == http.client.OK

    def running(self) -> tuple[str, ...]:
        """Return the names of all containers that run."""
        return tuple(
            str(container["Names"][0]).lstrip("/")
            for container in self.request("GET", "/containers/json").json()
        )

    def container(self, name: str) -> dict[str, Any] | None:
        """Return what is known of a container, by its name or id; None when there is none."""
        reply = self.request("GET", f"/containers/{quote(name, safe='')}/json")
        if reply.status != http.client.OK:
            return None
        found: dict[str, Any] = reply.json()
        return found

    def remove(self, container: str, *, grace: int = 10) -> None:
        """Stop a container, and remove it with its anonymous volumes; its named ones stay."""
        path = f"/containers/{quote(container, safe='')}"
        self.request("POST", f"{path}/stop?t={grace}", timeout=grace + TIMEOUT)
        self.request("DELETE", f"{path}?force=true&v=true", timeout=TIMEOUT)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.socket is not None:
            return _UnixConnection(str(self.socket), timeout)
        host, port = self._address
        if not os.environ.get("DOCKER_TLS_VERIFY"):
            return http.client.HTTPConnection(host, port, timeout=timeout)
        import ssl  # 10 ms that only a remote engine costs

        folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
        try:
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        except OSError as error:
            raise UsageError(
                f"DOCKER_TLS_VERIFY is set, and the certificates in {folder} cannot be read: "
                f"{error}",
                remedy="Set DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem.",
            ) from error
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
