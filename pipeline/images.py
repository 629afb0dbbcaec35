"""Image references, registries, tags and digests, by the grammar of the distribution project.

The grammar is that of ``reference.go`` (https://github.com/distribution/reference):

    reference  := name [ ":" tag ] [ "@" digest ]
    name       := [ host [ ":" port ] "/" ] path        at most 255 characters
    path       := component { "/" component }           lower case, digits, and . _ __ - between
    tag        := [A-Za-z0-9_] { [A-Za-z0-9_.-] }       at most 128 characters
    digest     := algorithm ":" hex                     sha256 with 64 digits is what we make

A first component is a host when it has a dot or a port, or is ``localhost``: everything else is a
name on Docker Hub. Pure: this module does no I/O.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

DOCKER_HUB = "docker.io"
_DOCKER_HUB_API = "registry-1.docker.io"
_NAME_LIMIT = 255
_TAG_LIMIT = 128
_PORT_LIMIT = 65535

_DOMAIN = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_HOST = re.compile(rf"(?P<host>{_DOMAIN}(?:\.{_DOMAIN})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]+))?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DIGEST = re.compile(
    r"sha256:[0-9a-f]{64}"
    r"|(?!sha256:)[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}"
)
_TAG_REMEDY = (
    "A tag has letters, digits, '_', '.' and '-', starts with a letter, digit or '_', and has at "
    f"most {_TAG_LIMIT} characters"
)


@dataclass(frozen=True, slots=True)
class Registry:
    """Where images are pushed to.

    Attributes:
        host: A name or an address; an IPv6 address without its brackets.
        port: 0 when none was given.
        namespace: The path in front of the repositories; empty when there is none.
    """

    host: str
    port: int = 0
    namespace: str = ""

    @property
    def address(self) -> str:
        """``host[:port]``, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    @property
    def loopback(self) -> bool:
        """Whether it is on the loopback interface, where only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def plain_http(self) -> bool:
        """Whether it is spoken to without TLS: on the loopback interface, as Docker has it."""
        return self.loopback

    @property
    def effective_port(self) -> int:
        """The TCP port that a connection goes to."""
        return self.port or (80 if self.plain_http else 443)

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host and port that serve its API; Docker Hub's is on another host than its name."""
        host = _DOCKER_HUB_API if self.host == DOCKER_HUB else self.host
        return host, self.effective_port

    def repository(self, name: str) -> str:
        """Return the path of a repository, its namespace included."""
        return f"{self.namespace}/{name}" if self.namespace else name

    def reference(self, name: str, tag: str) -> Reference:
        """Return the reference of an image on it."""
        return Reference(self.address, self.repository(name), tag)

    def __str__(self) -> str:
        return f"{self.address}/{self.namespace}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Reference:
    """A full image reference.

    Attributes:
        host: The registry's ``host[:port]``; ``docker.io`` when none was given.
        repository: The path on it; ``library/…`` for Docker Hub's own images.
        tag: Empty when there is none.
        digest: ``algorithm:hex``; empty when there is none.
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def registry(self) -> Registry:
        """The registry that has it, without a namespace."""
        return _host(self.host)

    @property
    def pinned(self) -> str:
        """Tag or digest, whichever says more: what a registry is asked for."""
        return self.digest or self.tag or "latest"

    def with_digest(self, digest: str) -> Reference:
        """Return the same image, pinned.

        Raises:
            UsageError: It is no digest.
        """
        return replace(self, digest=validate_digest(digest))

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's loopback interface: by address, or ``localhost``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_registry(text: str) -> Registry:
    """Return the registry that ``HOST[:PORT][/NAMESPACE]`` names.

    Raises:
        UsageError: It names none; the remedy says what is wrong with it.
    """
    if "://" in text:
        raise _no_registry(text, f"Leave out {text.partition('://')[0]}://")
    address, slash, namespace = text.partition("/")
    found = _HOST.fullmatch(address)
    if found is None:
        raise _no_registry(text, "Write HOST[:PORT][/NAMESPACE], as in 127.0.0.1:5050")
    if slash:
        _check_path(namespace, text, _no_registry)
    registry = Registry(*_split(found, text), namespace=namespace)
    if not _names_host(address):
        raise _no_registry(
            text,
            f"{address!r} would be read as a name on Docker Hub: give the port as well, as in "
            f"{address}:5000, or write {DOCKER_HUB}/{text}",
        )
    return registry


def parse(text: str) -> Reference:
    """Return the image reference that a text is, with what Docker fills in.

    Raises:
        UsageError: It is none.
    """
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _no_reference(text, "What follows '@' must be a digest, as in sha256:… (64 digits)")
    head, slash, tail = rest.rpartition("/")
    last, colon, tag = tail.partition(":")
    if colon:
        validate_tag(tag)
    name = f"{head}{slash}{last}"
    first, slash, path = name.partition("/")
    if slash and _names_host(first):
        found = _HOST.fullmatch(first)
        if found is None:
            raise _no_reference(text, f"{first!r} is no host[:port]")
        host = Registry(*_split(found, text)).address
    else:
        host, path = DOCKER_HUB, name
    _check_path(path, text, _no_reference)
    if len(host) + 1 + len(path) > _NAME_LIMIT:
        raise _no_reference(text, f"A name has at most {_NAME_LIMIT} characters")
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return Reference(host, path, tag, digest)


def validate_tag(tag: str) -> str:
    """Return the tag.

    Raises:
        UsageError: It is none.
    """
    if len(tag) > _TAG_LIMIT or not _TAG.fullmatch(tag):
        shown = tag if len(tag) <= _TAG_LIMIT else f"{tag[:20]}… ({len(tag)} characters)"
        raise UsageError(f"{shown!r} is not a valid tag", remedy=_TAG_REMEDY)
    return tag


def validate_digest(digest: str) -> str:
    """Return the digest.

    Raises:
        UsageError: It is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise UsageError(
            f"{digest!r} is not a digest", remedy="A digest is sha256: and 64 hexadecimal digits"
        )
    return digest


def as_tag(text: str) -> str:
    """Return a valid tag that is as close to a text as can be.

    Args:
        text: What git calls a revision, say, where ``/`` and ``+`` are allowed.
    """
    tag = re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip(".-")[:_TAG_LIMIT]
    return tag or "untagged"


def _names_host(component: str) -> bool:
    return any(sign in component for sign in ".:[") or component == "localhost"


def _host(text: str) -> Registry:
    found = _HOST.fullmatch(text)
    if found is None:  # pragma: no cover - a Reference is made by this module
        raise _no_registry(text, "")
    return Registry(*_split(found, text))


def _split(found: re.Match[str], text: str) -> tuple[str, int]:
    host = found["host"]
    if host.startswith("["):
        host = host.strip("[]")
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _no_registry(text, f"[{host}] is no IPv6 address") from None
    if found["port"] is None:
        return host, 0
    port = int(found["port"][:6])
    if not 1 <= port <= _PORT_LIMIT:
        raise _no_registry(text, f"A port is a number from 1 to {_PORT_LIMIT}")
    return host, port


def _check_path(path: str, text: str, error: Callable[[str, str], UsageError]) -> None:
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            remedy = "A name has lower-case letters, digits, and '.', '_' or '-' between them"
            if not component:
                remedy = "Leave out the '/' that nothing follows"
            raise error(text, remedy)


def _no_registry(text: str, remedy: str) -> UsageError:
    return UsageError(f"{text!r} is not a registry", remedy=remedy)


def _no_reference(text: str, remedy: str) -> UsageError:
    return UsageError(f"{text!r} is not an image reference", remedy=remedy)
