"""Settings of the API, read from the environment and checked before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOURCES = ("auto", "docker", "kubernetes")
LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """A setting has a value that the API cannot work with; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the API runs; every field is an environment variable, see ``VARIABLES``.

    Attributes:
        source: Where containers come from, one of ``SOURCES``; see ``chosen_source``.
        docker_host: Where Docker answers: ``tcp://HOST[:PORT]``, ``http://HOST[:PORT]`` or
            ``unix:///PATH``.
        service_account: The folder in which Kubernetes mounts ``token``, ``ca.crt`` and
            ``namespace``.
        source_timeout: Seconds after which a list that did not come counts as failed, 0.1 to 1.8.
            What is left of 2 s is for the way to the client.
        bind: ``ADDRESS:PORT`` to listen on, or ``localhost:PORT``.
        workers: Processes, 1 to 64.
        threads: Requests that one process works on at once, 1 to 256.
        drain_delay: Seconds on SIGTERM for which everything is served but readiness, which fails,
            so that nobody sends more, 0 to 60.
        graceful_timeout: Seconds that requests in flight get to finish after that, 1 to 300.
        label_prefixes: What the labels begin with that the list shows; ``none`` for none at all.
        log_level: One of ``LOG_LEVELS``.

    Raises:
        SettingsError: A field is out of its range.
    """

    source: str = "auto"
    docker_host: str = "unix:///var/run/docker.sock"
    service_account: str = "/var/run/secrets/kubernetes.io/serviceaccount"
    source_timeout: float = 1.5
    bind: str = "0.0.0.0:8000"
    workers: int = 2
    threads: int = 8
    drain_delay: float = 1.0
    graceful_timeout: int = 8  # `docker stop` kills after 10 s
    label_prefixes: tuple[str, ...] = (
        "org.opencontainers.image.",
        # Not all of Compose's: others tell of folders on the host.
        "com.docker.compose.service",
        "app.kubernetes.io/",
    )
    log_level: str = "info"

    # No name ends in _PORT or _HOST of a service: Kubernetes puts variables of that form, made from
    # the names of services, into every pod.
    VARIABLES: ClassVar[Mapping[str, str]] = {
        "source": "SLIPWAY_SOURCE",
        "docker_host": "DOCKER_HOST",
        "service_account": "SLIPWAY_SERVICE_ACCOUNT",
        "source_timeout": "SLIPWAY_SOURCE_TIMEOUT",
        "bind": "SLIPWAY_BIND",
        "workers": "SLIPWAY_WORKERS",
        "threads": "SLIPWAY_THREADS",
        "drain_delay": "SLIPWAY_DRAIN_DELAY",
        "graceful_timeout": "SLIPWAY_GRACEFUL_TIMEOUT",
        "label_prefixes": "SLIPWAY_LABEL_PREFIXES",
        "log_level": "SLIPWAY_LOG_LEVEL",
    }

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise self._error("source", "one of " + ", ".join(SOURCES))
        if not _is_docker_host(self.docker_host):
            raise self._error("docker_host", "tcp://HOST:PORT, http://HOST:PORT or unix:///PATH")
        if not self.service_account.startswith("/"):
            raise self._error("service_account", "an absolute path")
        if not _is_bind(self.bind):
            raise self._error("bind", "ADDRESS:PORT, an IPv6 address in brackets")
        if self.log_level not in LOG_LEVELS:
            raise self._error("log_level", "one of " + ", ".join(LOG_LEVELS))
        self._within("source_timeout", 0.1, 1.8)
        self._within("workers", 1, 64)
        self._within("threads", 1, 256)
        self._within("drain_delay", 0, 60)
        self._within("graceful_timeout", 1, 300)
        # An empty one, as a comma too many makes it, would let every label through.
        if not all(map(_PREFIX.fullmatch, self.label_prefixes)):
            raise self._error("label_prefixes", "prefixes of labels with commas between, or none")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings; an empty variable counts as not set.

        Raises:
            SettingsError: A variable does not hold what its field needs.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            variable = cls.VARIABLES[field.name]
            text = environ.get(variable, "").strip()
            if not text:
                continue
            read, wanted = _READERS.get(str(field.type), (str, "text"))
            try:
                values[field.name] = read(text)
            except ValueError as error:
                raise SettingsError(f"{variable} must be {wanted}, not {text!r}") from error
        return cls(**values)

    def chosen_source(self) -> str:
        """Return ``docker`` or ``kubernetes``.

        With ``auto`` it depends on where this runs: Kubernetes, if it mounted the token of a
        service account. Once started, nothing changes that, so it is asked for at the start.

        Raises:
            SettingsError: Kubernetes is ordered where there is no token.
        """
        mounted = Path(self.service_account, "token").is_file()
        if self.source == "kubernetes" and not mounted:
            raise SettingsError(
                f"{self.VARIABLES['source']} must be docker or auto where there is no token of a"
                f" service account in {self.service_account}, not 'kubernetes'"
            )
        if self.source == "auto":
            return "kubernetes" if mounted else "docker"
        return self.source

    def _within(self, name: str, low: float, high: float) -> None:
        # Written so that it is false for a NaN.
        if not low <= getattr(self, name) <= high:
            raise self._error(name, f"from {low} to {high}")

    def _error(self, name: str, wanted: str) -> SettingsError:
        value = getattr(self, name)
        if isinstance(value, tuple):
            value = ",".join(value)
        if name == "docker_host":
            # It is told to a log, and this is where an address has a password.
            value = re.sub(r"//.*@", "//…@", value)
        return SettingsError(f"{self.VARIABLES[name]} must be {wanted}, not {value!r}")


# What the key of a label is made of, https://docs.docker.com/engine/manage-resources/labels/.
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def _prefixes(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(part.strip() for part in text.split(","))


_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "tuple[str, ...]": (_prefixes, "prefixes with commas between"),
}


def _is_docker_host(value: str) -> bool:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return parts.path.startswith("/") and not parts.netloc
    # Nothing else: docker-py would take no notice of it.
    alone = parts.path in ("", "/") and not ("@" in parts.netloc or parts.query or parts.fragment)
    return parts.scheme in ("tcp", "http") and bool(parts.hostname) and port != 0 and alone


def _is_bind(value: str) -> bool:
    host, _, port = value.rpartition(":")
    return _is_here(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536  # noqa: PLR2004 - TCP's range


def _is_here(host: str) -> bool:
    """Tell whether a host may be this one; a name might mean any, and is looked up too late."""
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost"
    return bracketed == (address.version == 6)  # noqa: PLR2004 - the one with brackets
