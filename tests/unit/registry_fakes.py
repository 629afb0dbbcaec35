"""An image registry in memory, over real sockets of the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from pipeline import images
from pipeline.deploy.release import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def described(data: bytes, kind: str = "application/octet-stream") -> dict[str, Any]:
    """Return how a manifest describes a part."""
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


@dataclass
class FakeRegistry:
    """What a registry has, and how it answers.

    Attributes:
        port: Where it listens.
        blobs: Parts by repository and digest.
        manifests: Media type and bytes by repository and tag or digest.
        requests: What was asked, without questions for a login.
        password: What it wants to hear with the user ``u``; empty when it wants nothing.
        broken: What it gives in the place of the parts with these digests.
        refuse: The status of every upload; 0 when they are taken.
    """

    port: int = 0
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    password: str = ""
    broken: dict[str, bytes] = field(default_factory=dict)
    refuse: int = 0

    @property
    def name(self) -> images.Registry:
        """The registry, as the settings name it."""
        return images.parse_registry(f"127.0.0.1:{self.port}")

    def put(self, repository: str, tag: str, *layers: bytes, **labels: str) -> str:
        """Have an image, and return its digest."""
        config = json.dumps({"config": {"Labels": labels}}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(config),
            "layers": [described(layer) for layer in layers],
        }
        for part in (config, *layers):
            self.blobs[repository, digest_of(part)] = part
        return self.put_manifest(repository, tag, MANIFEST, json.dumps(manifest).encode())

    def put_manifest(self, repository: str, tag: str, kind: str, body: bytes) -> str:
        """Have a manifest under a tag, and return its digest."""
        digest = digest_of(body)
        self.manifests[repository, digest] = self.manifests[repository, tag] = (kind, body)
        return digest

    def image(self, name: str, tag: str = "1") -> Image:
        """Return an image that is there, by digest."""
        _, body = self.manifests[f"slipway-{name}", tag]
        reference = self.name.reference(f"slipway-{name}", tag)
        return Image(name, str(reference.with_digest(digest_of(body))))


class _Handler(http.server.BaseHTTPRequestHandler):
    registry: FakeRegistry
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _do(self) -> None:
        registry = type(self).registry
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        login = base64.b64encode(f"u:{registry.password}".encode()).decode()
        if registry.password and self.headers.get("Authorization") != f"Basic {login}":
            self._answer(401, b"who?", {"WWW-Authenticate": 'Basic realm="test"'})
            return
        registry.requests.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        words = parts.path.removeprefix("/v2/").split("/")
        match [self.command, *words]:
            case ["GET", ""]:
                self._answer(200, b"{}")
            case ["GET" | "HEAD", *repository, "blobs", digest]:
                found = registry.blobs.get(("/".join(repository), digest))
                found = registry.broken.get(digest, found)
                self._answer(404 if found is None else 200, found or b"")
            case ["GET" | "HEAD", *repository, "manifests", name]:
                kept = registry.manifests.get(("/".join(repository), name))
                if kept is None:
                    self._answer(404, b"{}")
                    return
                head = {"Content-Type": kept[0], "Docker-Content-Digest": digest_of(kept[1])}
                self._answer(200, registry.broken.get(name, kept[1]), head)
            case ["POST", *repository, "blobs", "uploads", ""]:
                place = f"/v2/{'/'.join(repository)}/blobs/uploads/one?state=x%3D"
                self._answer(registry.refuse or 202, b"no room", {"Location": place})
            case ["PUT", *repository, "blobs", "uploads", "one"]:
                query = parse_qs(parts.query)
                (digest,) = query["digest"]
                assert query["state"] == ["x="]
                right = digest_of(body) == digest
                if right:
                    registry.blobs["/".join(repository), digest] = body
                self._answer(201 if right else 400, b"digest invalid")
            case ["PUT", *repository, "manifests", name]:
                kind = self.headers["Content-Type"]
                self._keep("/".join(repository), name, kind, body)
            case _:
                self._answer(404, b"no such route")

    do_GET = do_HEAD = do_POST = do_PUT = _do  # noqa: N815 - as the base class names it

    def _keep(self, repository: str, name: str, kind: str, body: bytes) -> None:
        registry = type(self).registry
        manifest = json.loads(body)
        parts = [*manifest.get("layers", ()), *filter(None, [manifest.get("config")])]
        missing = [p["digest"] for p in parts if (repository, p["digest"]) not in registry.blobs]
        missing += [
            each["digest"]
            for each in manifest.get("manifests", ())
            if (repository, each["digest"]) not in registry.manifests
        ]
        if missing:
            self._answer(400, b"MANIFEST_BLOB_UNKNOWN")
            return
        registry.put_manifest(repository, name, kind, body)
        self._answer(201, b"", {"Docker-Content-Digest": digest_of(body)})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(registry: FakeRegistry | None = None) -> Iterator[FakeRegistry]:
    """Serve a registry on a free port of the loopback interface."""
    registry = registry or FakeRegistry()
    handler = type("Handler", (_Handler,), {"registry": registry})
    with http.server.ThreadingHTTPServer(("127.0.0.1", registry.port), handler) as server:
        server.daemon_threads = True
        registry.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
