"""The images of the cluster tests, on two registries that are dictionaries."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cluster import images

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND = "application/vnd.oci.image.manifest.v1+json"


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """What a registry has: contents by their paths."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.uploads = 0
        self.address = ""

    def push(self) -> str:
        """Have an image, and return its reference."""
        configuration = json.dumps({"config": {"Cmd": ["serve"]}, "rootfs": {}}).encode()
        layer = b"a layer"
        manifest = {
            "schemaVersion": 2,
            "config": {"digest": digest_of(configuration), "size": len(configuration)},
            "layers": [{"digest": digest_of(layer), "size": len(layer)}],
        }
        content = json.dumps(manifest).encode()
        for blob in (configuration, layer):
            self.contents[f"/v2/team/web/blobs/{digest_of(blob)}"] = blob
        self.contents[f"/v2/team/web/manifests/{digest_of(content)}"] = content
        return f"{self.address}/team/web:1@{digest_of(content)}"

    def manifest(self, reference: str) -> dict[str, Any]:
        """Return the manifest of an image."""
        digest = reference.partition("@")[2]
        found: dict[str, Any] = json.loads(self.contents[f"/v2/team/web/manifests/{digest}"])
        return found


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for a registry."""

    registry: Registry

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        """Give what is there."""
        found = self.registry.contents.get(urlsplit(self.path).path)
        if found is None:
            self.answer(404)
        else:
            self.answer(200, found, Content_Type=KIND)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def do_POST(self) -> None:
        """Begin an upload."""
        self.answer(202, Location=f"{self.path}one?state=a")

    def do_PUT(self) -> None:
        """Take what fits its digest."""
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        name = parts.path
        if "/uploads/" in name:
            self.registry.uploads += 1
            asked = parse_qs(parts.query)
            assert asked["state"] == ["a"]
            name = name.replace("uploads/one", asked["digest"][0])
        if name.rpartition("/")[2] != digest_of(content):
            self.answer(400)
            return
        self.registry.contents[name] = content
        self.answer(201)


@contextmanager
def serving() -> Iterator[Registry]:
    """Serve an empty registry on the loopback interface."""
    registry = Registry()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Bound", (Handler,), {"registry": registry})
    )
    registry.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Return a registry."""
    with serving() as found:
        yield found


def test_copied_is_the_same_byte_for_byte(registry: Registry) -> None:
    """A copy has the digest of the first, and what is there already is not sent again."""
    first = registry.push()
    with serving() as other:
        copy = images.copied(first, other.address)
        assert copy == first.replace(registry.address, other.address)
        assert other.contents == registry.contents
        assert other.uploads == 2
        images.copied(first, other.address)
        assert other.uploads == 2


def test_variant_is_another_image_of_the_same_layers(registry: Registry) -> None:
    """Its configuration alone differs, so it rolls a workload and costs nothing."""
    first = registry.push()
    second = images.variant(first, labels={"a": "b"}, entrypoint=["false"])
    assert second != first
    old, new = registry.manifest(first), registry.manifest(second)
    assert new["layers"] == old["layers"]
    assert new["config"]["digest"] != old["config"]["digest"]
    configuration = registry.contents[f"/v2/team/web/blobs/{new['config']['digest']}"]
    assert json.loads(configuration)["config"] == {
        "Cmd": [],
        "Entrypoint": ["false"],
        "Labels": {"a": "b"},
    }
    assert new["config"]["size"] == len(configuration)


def test_variant_of_a_label_keeps_what_runs(registry: Registry) -> None:
    """A second version of the system is the first one under another name."""
    second = images.variant(registry.push(), labels={"a": "b"})
    digest = registry.manifest(second)["config"]["digest"]
    configuration = json.loads(registry.contents[f"/v2/team/web/blobs/{digest}"])
    assert configuration["config"] == {"Cmd": ["serve"], "Labels": {"a": "b"}}


def test_absent_is_an_image_that_is_not_there(registry: Registry) -> None:
    """It has a digest, so that nothing but a registry can tell."""
    missing = images.absent(registry.push())
    with pytest.raises(KeyError):
        registry.manifest(missing)
    assert "@sha256:" in missing
