"""A client of image registries: does it answer, what digest has a tag, how big is an image.

As little of the distribution protocol (https://distribution.github.io/distribution/spec/api/) as
the pipeline needs to confirm what it pushed; pushing and pulling is the engine's. A registry on
the loopback interface is asked with the standard library, in a thread, since every run asks it and
httpx alone takes 0.2 s to import; any other through httpx, which knows proxies and redirects.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.client
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from anyio import to_thread

from pipeline.errors import PipelineError, PrerequisiteError, StepError
from pipeline.setup.registry import loopback

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.images import Reference, Registry

TIMEOUT = 10.0
"""Seconds for one answer of a registry."""
MANIFEST_LIMIT = 4 * 1024 * 1024
"""Bytes of a manifest; registries refuse larger ones."""

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT = ", ".join((*_MANIFESTS, *_INDEXES))
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password for one registry."""

    username: str
    password: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answered; the names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class Unreachable(Exception):  # it never leaves this module
    """No answer came; ``certificate`` says whether it was the certificate that was refused."""

    def __init__(self, why: str, *, certificate: bool = False) -> None:
        super().__init__(why)
        self.certificate = certificate


class Exchange(Protocol):
    """Sends one request and returns the whole answer; the seam that tests replace."""

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], *, limit: int
    ) -> Answer:
        """Return the answer, whatever its status.

        Args:
            method: GET or HEAD.
            url: An absolute URL; its path alone counts for the loopback exchange.
            headers: What to send.
            limit: Bytes of the body at most; a longer one is cut.

        Raises:
            Unreachable: There was none.
        """


class Client:
    """Asks one registry.

    Args:
        registry: Which one.
        login: Who asks; None asks without a name.
        ca: A bundle of certificates to trust beside the system's.
        exchange: Sends requests; chosen by where the registry is when None.
    """

    def __init__(
        self,
        registry: Registry,
        login: Login | None = None,
        *,
        ca: Path | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self.registry = registry
        self._login = login
        host, port = registry.endpoint
        if exchange is None:
            local = registry.plain_http
            exchange = functools.partial(_local, host, port) if local else _Remote(ca)
        self._exchange: Exchange = exchange
        scheme = "http" if registry.plain_http else "https"
        bracketed = f"[{host}]" if ":" in host else host
        self._root = f"{scheme}://{bracketed}:{port}"
        self._tokens: dict[str, str] = {}

    async def ping(self) -> None:
        """Return when the registry answers, also when it wants to know who asks.

        Raises:
            PrerequisiteError: It does not, or what answers is no registry.
        """
        try:
            answer = await self._exchange("GET", f"{self._root}/v2/", {}, limit=MANIFEST_LIMIT)
        except Unreachable as error:
            raise self._down(error) from error
        if answer.status not in (200, 401):
            raise PrerequisiteError(
                f"What answers at {self.registry.address} is not an image registry "
                f"(status {answer.status} for /v2/)",
                remedy="Free the port, or name another registry with --registry"
                if self.registry.loopback
                else "Check the name given with --registry",
            )

    async def digest(self, reference: Reference) -> str | None:
        """Return the digest that the registry has under a tag or digest; None when it has none.

        Raises:
            StepError: It does not answer, or not this user.
        """
        answer = await self._get("HEAD", reference, "manifests", reference.pinned)
        if answer.status == http.client.NOT_FOUND:
            return None
        found = answer.headers.get("docker-content-digest")
        if not found:
            raise StepError(f"The registry {self.registry.address} gives no digest of {reference}")
        return found

    async def size(self, reference: Reference, platform: str) -> int:
        """Return the unpacked size of all layers of an image, in bytes.

        Args:
            reference: The image.
            platform: ``os/arch[/variant]``, to choose from an image for several.

        Raises:
            StepError: The registry does not have it, or does not answer.
        """
        layers = (await self.manifest(reference, platform))["layers"]
        return sum([await self._unpacked(reference, layer) for layer in layers])

    async def manifest(self, reference: Reference, platform: str) -> dict[str, Any]:
        """Return the manifest of an image, the one for a platform when it is for several.

        Args:
            reference: The image.
            platform: ``os/arch[/variant]``.

        Raises:
            StepError: The registry does not have it, or does not answer.
        """
        manifest = await self._manifest(reference, reference.pinned)
        if "manifests" in manifest:
            chosen = [m for m in manifest["manifests"] if _matches(m.get("platform"), platform)]
            if not chosen:
                raise StepError(f"{reference} is not there for {platform}")
            manifest = await self._manifest(reference, chosen[0]["digest"])
        return manifest

    async def blob(self, reference: Reference, described: Mapping[str, Any]) -> bytes:
        """Return a part of an image, checked against its digest.

        Args:
            reference: The image.
            described: How its manifest names the part.

        Raises:
            StepError: The registry does not have it, or something else.
        """
        digest, size = str(described["digest"]), int(described["size"])
        answer = await self._get("GET", reference, "blobs", digest, limit=size)
        if f"sha256:{hashlib.sha256(answer.body).hexdigest()}" != digest:
            raise StepError(
                f"The registry {self.registry.address} does not have {digest} of {reference}",
                remedy="Push it again",
            )
        return answer.body

    async def _manifest(self, reference: Reference, name: str) -> dict[str, Any]:
        answer = await self._get("GET", reference, "manifests", name)
        if answer.status == http.client.NOT_FOUND:
            raise StepError(f"{reference} is not on the registry {self.registry.address}")
        try:
            manifest: dict[str, Any] = json.loads(answer.body)
        except ValueError as error:
            raise StepError(
                f"The manifest of {reference} on {self.registry.address} is not JSON"
            ) from error
        return manifest

    async def _unpacked(self, reference: Reference, layer: Mapping[str, Any]) -> int:
        size = int(layer["size"])
        kind = str(layer["mediaType"])
        if kind.endswith(".tar"):
            return size
        if not kind.endswith("gzip"):
            raise StepError(f"The size of a layer of {reference} cannot be told: it is {kind}")
        # RFC 1952: the last four bytes of a gzip member are its unpacked size, modulo 2**32.
        digest = str(layer["digest"])
        last = await self._get(
            "GET", reference, "blobs", digest, {"Range": f"bytes={size - 4}-{size - 1}"}, limit=4
        )
        if last.status == http.client.PARTIAL_CONTENT and len(last.body) == 4:  # noqa: PLR2004
            unpacked = int.from_bytes(last.body, "little")
            # Compression makes a tar smaller. Where it seems not to have, the layer has several
            # members (estargz), and the figure is the last one's.
            if unpacked >= size:
                return unpacked
        return await to_thread.run_sync(_gunzipped, await self.blob(reference, layer))

    async def _get(  # noqa: PLR0913 - one request, its parts
        self,
        method: str,
        reference: Reference,
        kind: str,
        name: str,
        headers: Mapping[str, str] | None = None,
        *,
        limit: int = MANIFEST_LIMIT,
    ) -> Answer:
        url = f"{self._root}/v2/{reference.repository}/{kind}/{quote(name, safe=':')}"
        send = {"Accept": _ACCEPT, **(headers or {})}
        scope = f"repository:{reference.repository}:pull"
        try:
            token = self._tokens.get(scope)
            answer = await self._send(method, url, send, token, limit)
            if answer.status == http.client.UNAUTHORIZED:
                token = await self._authorize(answer.headers.get("www-authenticate", ""), scope)
                answer = await self._send(method, url, send, token, limit)
        except Unreachable as error:
            raise StepError(
                f"The registry {self.registry.address} does not answer: {error}",
                remedy="See whether it is up, then run it again",
            ) from error
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise self._refused(reference, answer)
        if answer.status not in (200, 206, 404):
            raise StepError(
                f"The registry {self.registry.address} answers {answer.status} for {reference}",
                evidence=answer.body.decode(errors="replace"),
            )
        return answer

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], token: str | None, limit: int
    ) -> Answer:
        send = {**headers, "Authorization": token} if token else headers
        return await self._exchange(method, url, send, limit=limit)

    async def _authorize(self, challenge: str, scope: str) -> str | None:
        """Return the Authorization header that a challenge asks for; None when we have none."""
        scheme, _, rest = challenge.partition(" ")
        basic = None
        if self._login is not None:
            pair = f"{self._login.username}:{self._login.password}".encode()
            basic = f"Basic {base64.b64encode(pair).decode()}"
        if scheme.lower() != "bearer":
            if basic:
                self._tokens[scope] = basic
            return basic
        parts = dict(_CHALLENGE.findall(rest))
        query = {"service": parts.get("service", ""), "scope": parts.get("scope") or scope}
        url = f"{parts.get('realm', '')}?{urlencode(query)}"
        answer = await self._exchange(
            "GET", url, {"Authorization": basic} if basic else {}, limit=MANIFEST_LIMIT
        )
        with contextlib.suppress(ValueError, KeyError, TypeError):
            body = json.loads(answer.body)
            token = body.get("token") or body["access_token"]
            self._tokens[scope] = f"Bearer {token}"
        return self._tokens.get(scope)

    def _refused(self, reference: Reference, answer: Answer) -> PipelineError:
        who = f"the user {self._login.username}" if self._login else "one without a name"
        return StepError(
            f"The registry {self.registry.address} refuses {reference} to {who} "
            f"(status {answer.status})",
            remedy=(
                "Check PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD, or log in again with "
                f"`docker login {self.registry.address}`"
            ),
            evidence=answer.body.decode(errors="replace"),
        )

    def _down(self, error: Unreachable) -> PrerequisiteError:
        local = loopback(self.registry.address)
        if error.certificate:
            return PrerequisiteError(
                f"The certificate of the registry {self.registry.address} is not trusted: {error}",
                remedy="Name the CA bundle that signed it with --ca or PIPELINE_CA",
            )
        return PrerequisiteError(
            f"The registry {self.registry.address} does not answer: {error}",
            remedy=f"Run `{local.command}`, or name another one with --registry"
            if local
            else "Check the network and the name given with --registry",
        )


async def _local(  # noqa: PLR0913 - the registry, and one request
    host: str, port: int, method: str, url: str, headers: Mapping[str, str], *, limit: int
) -> Answer:
    """Exchange with the loopback interface: plain HTTP, no proxy, no redirects."""
    path = "/" + url.partition("://")[2].partition("/")[2]

    def exchange() -> Answer:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        try:
            connection.request(method, path, headers=dict(headers))
            reply = connection.getresponse()
            body = reply.read(limit)
            return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, body)
        except TimeoutError as error:
            raise Unreachable(f"nothing came for {TIMEOUT:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise Unreachable(why or type(error).__name__) from error
        finally:
            connection.close()

    return await to_thread.run_sync(exchange, abandon_on_cancel=True)


class _Remote:
    """Exchanges with another host."""

    def __init__(self, ca: Path | None) -> None:
        self._ca = ca
        self._trust: ssl.SSLContext | None = None

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], *, limit: int
    ) -> Answer:
        # 0.2 s that a registry on this machine does not cost.
        import ssl

        import httpx

        if self._trust is None:
            self._trust = ssl.create_default_context()
            if self._ca is not None:
                self._trust.load_verify_locations(cafile=str(self._ca))
        try:
            async with (
                # A redirect to another host leaves the Authorization header behind.
                httpx.AsyncClient(
                    verify=self._trust, timeout=TIMEOUT, follow_redirects=True
                ) as client,
                client.stream(method, url, headers=dict(headers)) as reply,
            ):
                body = bytearray()
                async for chunk in reply.aiter_raw():
                    body += chunk
                    if len(body) >= limit:
                        break
                return Answer(reply.status_code, reply.headers, bytes(body[:limit]))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreachable(
                str(error) or f"nothing came for {TIMEOUT:.0f} s",
                certificate="CERTIFICATE_VERIFY_FAILED" in str(error),
            ) from error


def _matches(platform: Mapping[str, str] | None, wanted: str) -> bool:
    if platform is None:
        return False
    system, architecture, *variant = wanted.split("/")
    return (
        platform.get("os") == system
        and platform.get("architecture") == architecture
        and (not variant or platform.get("variant", "") == variant[0])
    )


def _gunzipped(packed: bytes) -> int:
    """Return the unpacked size of all gzip members in a row."""
    total = 0
    while packed:
        member = zlib.decompressobj(wbits=31)
        total += len(member.decompress(packed, 1 << 20))
        while member.unconsumed_tail:
            total += len(member.decompress(member.unconsumed_tail, 1 << 20))
        total += len(member.flush())
        if not member.eof:
            break
        packed = member.unused_data
    return total
