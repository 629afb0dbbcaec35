"""A client of image registries: what they have under a tag, and images out of them and into them.

As little of the distribution protocol (https://distribution.github.io/distribution/spec/api/) as
the pipeline needs to confirm what it pushed, and to move an image as it is from one registry to a
file and from there to another; building and pushing one is the engine's. A registry on the loopback
interface is asked with the standard library, in a thread, since every run asks it and httpx alone
takes 0.2 s to import; any other through httpx, which knows proxies and redirects.

The parts of images pass in pieces (`CHUNK`), so that none is ever whole in memory, and what comes
is checked against its digest while it passes.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.client
import json
import re
import threading
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode, urljoin, urlsplit

import anyio
import anyio.lowlevel
from anyio import to_thread

from pipeline.errors import PipelineError, PrerequisiteError, StepError
from pipeline.setup.registry import loopback

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import httpx

    from pipeline.images import Reference, Registry

TIMEOUT = 10.0
"""Seconds for one answer of a registry."""
MANIFEST_LIMIT = 4 * 1024 * 1024
"""Bytes of a manifest; registries refuse larger ones."""
CHUNK = 1024 * 1024
"""Bytes of a piece of an image in transfer."""
TRANSFER_LIMIT = 600.0
"""Seconds for one part of an image: 200 MB at 3 Mbit/s, as for a push."""

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


class Stopped(Exception):  # it never leaves this module
    """Nobody waits for a transfer any more."""


class Ours(Exception):  # it never leaves this module
    """What went wrong was at our end of a transfer, as a full disk."""

    # An attribute, since httpcore takes the cause from what passes through it.
    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


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


class Transfer(Protocol):
    """Moves what may be large; blocks, and is called in a thread. The seam that tests replace."""

    def fetch(
        self, url: str, headers: Mapping[str, str], sink: Callable[[bytes], object]
    ) -> Answer:
        """Return the answer to GET, whose body has gone to ``sink`` piece by piece when it is 200.

        Args:
            url: An absolute URL; its path alone counts on the loopback interface.
            headers: What to send.
            sink: Takes the pieces; what it raises ends the transfer and is raised.

        Raises:
            Unreachable: There was no answer, or not all of it.
        """

    def send(
        self, method: str, url: str, headers: Mapping[str, str], chunks: Iterable[bytes]
    ) -> Answer:
        """Return the answer to a request with a body.

        Args:
            method: POST or PUT.
            url: As for `fetch`.
            headers: What to send, Content-Length included.
            chunks: The body; what it raises ends the transfer and is raised.

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
        transfer: Moves the parts of images; chosen in the same way.
    """

    def __init__(
        self,
        registry: Registry,
        login: Login | None = None,
        *,
        ca: Path | None = None,
        exchange: Exchange | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self.registry = registry
        self._login = login
        host, port = registry.endpoint
        local = registry.plain_http
        if exchange is None:
            exchange = functools.partial(_local, host, port) if local else _Remote(ca)
        if transfer is None:
            transfer = _LocalTransfer(host, port) if local else _RemoteTransfer(ca)
        self._exchange: Exchange = exchange
        self._transfer: Transfer = transfer
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
        if _digest(answer.body) != digest:
            raise self._lacks(reference, digest)
        return answer.body

    async def labels(self, reference: Reference) -> dict[str, str]:
        """Return the labels of an image; those of the first platform when it is for several.

        Raises:
            StepError: The registry does not have it, or does not answer.
        """
        manifest = await self._manifest(reference, reference.pinned)
        if "manifests" in manifest:
            first = next((m for m in manifest["manifests"] if _is_image(m)), None)
            if first is None:
                return {}
            manifest = await self._manifest(reference, str(first["digest"]))
        if not isinstance(manifest.get("config"), dict):
            return {}
        with contextlib.suppress(ValueError, AttributeError):
            config = json.loads(await self.blob(reference, manifest["config"]))
            return dict((config.get("config") or {}).get("Labels") or {})
        return {}

    async def document(self, reference: Reference, digest: str) -> tuple[str, bytes]:
        """Return the media type and the very bytes of a manifest or index.

        Args:
            reference: The image that it is of.
            digest: Its own.

        Raises:
            StepError: The registry does not have it, or something else, or does not answer.
        """
        answer = await self._get("GET", reference, "manifests", digest)
        if answer.status == http.client.NOT_FOUND or _digest(answer.body) != digest:
            raise self._lacks(reference, digest)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        with contextlib.suppress(ValueError, AttributeError):
            kind = str(json.loads(answer.body).get("mediaType") or kind)
        return kind, answer.body

    async def download(
        self, reference: Reference, described: Mapping[str, Any], sink: Callable[[bytes], object]
    ) -> None:
        """Hand over a part of an image in pieces, and check its size and digest.

        Args:
            reference: The image.
            described: How its manifest names the part.
            sink: Takes the pieces, in a thread. It has had all of them when something is found to
                be wrong with them.

        Raises:
            StepError: The registry does not have it, or something else, or does not answer.
        """
        digest, size = str(described["digest"]), int(described["size"])
        hashed = hashlib.sha256()
        count = 0

        def take(piece: bytes) -> None:
            nonlocal count
            count += len(piece)
            if count > size:
                raise self._lacks(reference, digest)
            hashed.update(piece)
            try:
                sink(piece)
            except OSError as error:
                raise Ours(error) from error

        def fetch(url: str, headers: Mapping[str, str], alive: Callable[[], None]) -> Answer:
            def each(piece: bytes) -> None:
                alive()
                take(piece)

            return self._transfer.fetch(url, headers, each)

        url = self._url(reference, "blobs", digest)
        answer = await self._move(reference, "pull", url, {}, fetch)
        if answer.status == http.client.NOT_FOUND:
            raise self._lacks(reference, digest)
        self._expect(answer, reference, (http.client.OK,))
        if count != size or f"sha256:{hashed.hexdigest()}" != digest:
            raise self._lacks(reference, digest)

    async def upload(
        self,
        reference: Reference,
        described: Mapping[str, Any],
        chunks: Callable[[], Iterable[bytes]],
    ) -> bool:
        """Have the registry keep a part of an image, and return whether it had to be sent.

        Args:
            reference: The image.
            described: How its manifest names the part.
            chunks: Returns its pieces; iterated in a thread.

        Raises:
            StepError: The registry does not take it, or does not answer.
        """
        digest, size = str(described["digest"]), int(described["size"])
        there = await self._get("HEAD", reference, "blobs", digest, push=True)
        if there.status == http.client.OK:
            return False
        url = f"{self._root}/v2/{reference.repository}/blobs/uploads/"
        begun = await self._send_all(reference, "POST", url, {}, b"")
        self._expect(begun, reference, (http.client.ACCEPTED,))
        # Where to: relative or absolute, and with a query of the registry's own.
        place = urljoin(url, begun.headers.get("location", ""))
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}

        def send(url: str, headers: Mapping[str, str], alive: Callable[[], None]) -> Answer:
            def pieces() -> Iterator[bytes]:
                try:
                    for piece in chunks():
                        alive()
                        yield piece
                except OSError as error:
                    raise Ours(error) from error

            return self._transfer.send("PUT", url, headers, pieces())

        answer = await self._move(reference, "pull,push", place, headers, send)
        self._expect(answer, reference, (http.client.CREATED,))
        return True

    async def put(self, reference: Reference, name: str, kind: str, body: bytes) -> None:
        """Have the registry keep a manifest or index, whose parts it has.

        Args:
            reference: The image.
            name: The tag or digest to keep it under.
            kind: Its media type.
            body: Its bytes.

        Raises:
            StepError: The registry does not take it, or keeps something else, or does not answer.
        """
        url = self._url(reference, "manifests", name)
        answer = await self._send_all(reference, "PUT", url, {"Content-Type": kind}, body)
        self._expect(answer, reference, (http.client.CREATED, http.client.OK))
        kept = answer.headers.get("docker-content-digest", "")
        if kept and kept != _digest(body):
            raise StepError(
                f"The registry {self.registry.address} keeps {reference} as {kept}, and it is "
                f"{_digest(body)}",
                remedy="See whether something between here and the registry changes it",
            )

    async def _send_all(
        self, reference: Reference, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        def send(url: str, headers: Mapping[str, str], alive: Callable[[], None]) -> Answer:
            alive()
            return self._transfer.send(method, url, headers, (body,) if body else ())

        sized = {**headers, "Content-Length": str(len(body))}
        return await self._move(reference, "pull,push", url, sized, send)

    async def _move(
        self,
        reference: Reference,
        actions: str,
        url: str,
        headers: Mapping[str, str],
        work: Callable[[str, Mapping[str, str], Callable[[], None]], Answer],
    ) -> Answer:
        """Do a request in a thread, and again with a login when the registry wants to know who."""
        scope = f"repository:{reference.repository}:{actions}"
        # A registry may keep parts on another host, with a password of its own in the address.
        own = urlsplit(url).netloc == urlsplit(self._root).netloc

        async def once(token: str | None) -> Answer:
            send = {**headers, "Authorization": token} if token and own else dict(headers)
            return await _in_thread(functools.partial(work, url, send))

        try:
            answer = await once(self._tokens.get(scope))
            if answer.status == http.client.UNAUTHORIZED and own:
                challenge = answer.headers.get("www-authenticate", "")
                answer = await once(await self._authorize(challenge, scope))
        except Unreachable as error:
            raise self._silent(error) from error
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise self._refused(reference, answer)
        return answer

    def _expect(self, answer: Answer, reference: Reference, statuses: tuple[int, ...]) -> None:
        if answer.status not in statuses:
            raise StepError(
                f"The registry {self.registry.address} answers {answer.status} for {reference}",
                evidence=answer.body.decode(errors="replace"),
            )

    def _url(self, reference: Reference, kind: str, name: str) -> str:
        return f"{self._root}/v2/{reference.repository}/{kind}/{quote(name, safe=':')}"

    def _lacks(self, reference: Reference, digest: str) -> StepError:
        return StepError(
            f"The registry {self.registry.address} does not have {digest} of {reference}",
            remedy="Push it again",
        )

    def _silent(self, error: Unreachable) -> StepError:
        return StepError(
            f"The registry {self.registry.address} does not answer: {error}",
            remedy="See whether it is up, then run it again",
        )

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
        push: bool = False,
    ) -> Answer:
        url = self._url(reference, kind, name)
        send = {"Accept": _ACCEPT, **(headers or {})}
        scope = f"repository:{reference.repository}:{'pull,push' if push else 'pull'}"
        try:
            token = self._tokens.get(scope)
            answer = await self._send(method, url, send, token, limit)
            if answer.status == http.client.UNAUTHORIZED:
                token = await self._authorize(answer.headers.get("www-authenticate", ""), scope)
                answer = await self._send(method, url, send, token, limit)
        except Unreachable as error:
            raise self._silent(error) from error
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise self._refused(reference, answer)
        self._expect(answer, reference, (200, 206, 404))
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
            return Answer(reply.status, _headers(reply), body)
        except TimeoutError as error:
            raise Unreachable(f"nothing came for {TIMEOUT:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise Unreachable(why or type(error).__name__) from error
        finally:
            connection.close()

    return await to_thread.run_sync(exchange, abandon_on_cancel=True)


def blocking(registry: Registry, ca: Path | None) -> Exchange:
    """Return an exchange that gets, and holds up its thread: for who may leave that behind.

    The look-up of a name has no limit; httpx's own way to wait for one leaves it to a thread that
    the process waits for at its end.

    Args:
        registry: Whom it asks.
        ca: As for `Client`.
    """
    host, port = registry.endpoint
    transfer: Transfer = _LocalTransfer(host, port) if registry.plain_http else _RemoteTransfer(ca)

    async def exchange(
        method: str,  # noqa: ARG001 - `Client.ping` only gets
        url: str,
        headers: Mapping[str, str],
        *,
        limit: int,
    ) -> Answer:
        body = bytearray()
        answer = transfer.fetch(url, headers, body.extend)
        return Answer(answer.status, answer.headers, bytes(body[:limit]) or answer.body)

    return exchange


async def _in_thread(work: Callable[[Callable[[], None]], Answer]) -> Answer:
    """Run a transfer in a thread, and end it when nobody waits for it or it takes too long.

    The thread is waited for, also when this is cancelled: what it reads and writes is closed
    after. It looks up at each piece, and a socket that gives none for `TIMEOUT` seconds ends it.

    Args:
        work: Does it; calls what it is given at each piece.
    """
    stopped = threading.Event()
    deadline = time.monotonic() + TRANSFER_LIMIT
    outcome: list[Answer | Exception] = []

    def alive() -> None:
        if stopped.is_set():
            raise Stopped
        if time.monotonic() > deadline:
            raise Unreachable(f"a part of an image took more than {TRANSFER_LIMIT:.0f} s")

    def run() -> None:
        try:
            outcome.append(work(alive))
        except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
            outcome.append(error)

    async def watch() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await to_thread.run_sync(run)
        group.cancel_scope.cancel()
    # Where it was cancelled from outside, that is raised here: the thread had to end first.
    await anyio.lowlevel.checkpoint_if_cancelled()
    (found,) = outcome
    if isinstance(found, Ours):
        raise found.error
    if isinstance(found, Exception):
        raise found
    return found


class _LocalTransfer:
    """Moves parts of images over the loopback interface: plain HTTP, no proxy, no redirects."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def fetch(
        self, url: str, headers: Mapping[str, str], sink: Callable[[bytes], object]
    ) -> Answer:
        with self._asked("GET", url, headers) as reply:
            answered = _headers(reply)
            if reply.status != http.client.OK:
                return Answer(reply.status, answered, reply.read(MANIFEST_LIMIT))
            while piece := reply.read(CHUNK):
                sink(piece)
            return Answer(reply.status, answered)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], chunks: Iterable[bytes]
    ) -> Answer:
        with self._asked(method, url, headers, chunks) as reply:
            return Answer(reply.status, _headers(reply), reply.read(MANIFEST_LIMIT))

    @contextlib.contextmanager
    def _asked(
        self, method: str, url: str, headers: Mapping[str, str], chunks: Iterable[bytes] = ()
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        try:
            with _translated():
                # The length is among the headers: nothing is sent in chunks of HTTP's own.
                connection.request(method, path, body=chunks, headers=dict(headers))
                reply = connection.getresponse()
            with _translated():
                yield reply
        finally:
            connection.close()


class _RemoteTransfer:
    """Moves parts of images to and from another host."""

    def __init__(self, ca: Path | None) -> None:
        self._ca = ca

    def fetch(
        self, url: str, headers: Mapping[str, str], sink: Callable[[bytes], object]
    ) -> Answer:
        plain = {**headers, "Accept-Encoding": "identity"}
        # A registry that keeps its parts elsewhere redirects there; httpx leaves the Authorization
        # header behind.
        with (
            _translated(),
            self._client(redirects=True) as client,
            client.stream("GET", url, headers=plain) as reply,
        ):
            if reply.status_code != http.client.OK:
                return Answer(reply.status_code, reply.headers, reply.read()[:MANIFEST_LIMIT])
            for piece in reply.iter_raw(CHUNK):
                sink(piece)
            return Answer(reply.status_code, reply.headers)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], chunks: Iterable[bytes]
    ) -> Answer:
        with _translated(), self._client(redirects=False) as client:
            reply = client.request(method, url, headers=dict(headers), content=iter(chunks))
            return Answer(reply.status_code, reply.headers, reply.content[:MANIFEST_LIMIT])

    def _client(self, *, redirects: bool) -> httpx.Client:
        import httpx

        trust = _trust(self._ca)
        return httpx.Client(verify=trust, timeout=TIMEOUT, follow_redirects=redirects)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Tell what the libraries raise when no answer comes in our words."""
    try:
        yield
    except TimeoutError as error:
        raise Unreachable(f"nothing came for {TIMEOUT:.0f} s") from error
    except (OSError, http.client.HTTPException) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Unreachable(why or type(error).__name__) from error
    except Exception as error:
        # httpx is imported where another host is asked, and nowhere else.
        if type(error).__module__.partition(".")[0] != "httpx":
            raise
        raise _unreached(error) from error


def _unreached(error: Exception) -> Unreachable:
    return Unreachable(
        str(error) or f"nothing came for {TIMEOUT:.0f} s",
        certificate="CERTIFICATE_VERIFY_FAILED" in str(error),
    )


def _trust(ca: Path | None) -> ssl.SSLContext:
    import ssl

    trust = ssl.create_default_context()
    if ca is not None:
        trust.load_verify_locations(cafile=str(ca))
    return trust


def _headers(reply: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.getheaders()}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _is_image(described: Mapping[str, Any]) -> bool:
    """Return whether an entry of an index is an image, and no attestation about one."""
    return str((described.get("platform") or {}).get("os", "unknown")) != "unknown"


class _Remote:
    """Exchanges with another host."""

    def __init__(self, ca: Path | None) -> None:
        self._ca = ca
        self._trust: ssl.SSLContext | None = None

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], *, limit: int
    ) -> Answer:
        # 0.2 s that a registry on this machine does not cost.
        import httpx

        if self._trust is None:
            self._trust = _trust(self._ca)
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
            raise _unreached(error) from error


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
