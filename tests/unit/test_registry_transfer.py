"""Moving images from registries and into them, against one in memory over real connections."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import pytest

from pipeline import images, registry
from pipeline.errors import StepError
from pipeline.registry import Client, Login

from .registry_fakes import INDEX, FakeRegistry, described, digest_of, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.images import Reference

pytestmark = pytest.mark.anyio

LAYER = bytes(range(256)) * 9000
"""Two pieces and a bit."""


@pytest.fixture(params=["loopback", "remote"])
def way(request: pytest.FixtureRequest) -> str:
    """Return how the registry is reached: both ways have to do the same."""
    return str(request.param)


@pytest.fixture
def there() -> Iterator[FakeRegistry]:
    """Return a registry that is up."""
    with serving() as fake:
        yield fake


def client_of(fake: FakeRegistry, way: str, login: Login | None = None) -> Client:
    """Return a client, as it would be for a registry on this machine or elsewhere."""
    transfer = registry._RemoteTransfer(None) if way == "remote" else None  # noqa: SLF001 - what a name elsewhere would choose
    return Client(fake.name, login, transfer=transfer)


def reference_of(fake: FakeRegistry, name: str = "web", tag: str = "1") -> Reference:
    """Return the reference of an image on it."""
    return fake.name.reference(name, tag)


async def test_download_comes_in_pieces(there: FakeRegistry, way: str) -> None:
    """A layer is never whole in memory."""
    there.put("web", "1", LAYER)
    pieces: list[bytes] = []
    await client_of(there, way).download(reference_of(there), described(LAYER), pieces.append)
    assert b"".join(pieces) == LAYER
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= registry.CHUNK


@pytest.mark.parametrize("wrong", [LAYER[:-1], LAYER + b"x", b"", b"y" * len(LAYER)])
async def test_download_of_something_else_is_refused(
    there: FakeRegistry, way: str, wrong: bytes
) -> None:
    """Its size and digest are those that the manifest names, or it is an error."""
    there.put("web", "1", LAYER)
    there.broken[digest_of(LAYER)] = wrong
    with pytest.raises(StepError, match=f"does not have {digest_of(LAYER)}"):
        await client_of(there, way).download(reference_of(there), described(LAYER), id)


async def test_download_of_what_is_not_there_is_refused(there: FakeRegistry, way: str) -> None:
    """A part may have been deleted from the registry."""
    with pytest.raises(StepError, match="does not have"):
        await client_of(there, way).download(reference_of(there), described(LAYER), id)


async def test_error_of_this_end_is_not_the_registrys(there: FakeRegistry, way: str) -> None:
    """A full disk is told as what it is."""
    there.put("web", "1", LAYER)

    def full(_piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await client_of(there, way).download(reference_of(there), described(LAYER), full)

    def unreadable() -> Iterator[bytes]:
        yield b"x"
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        await client_of(there, way).upload(reference_of(there), described(b"xy"), unreadable)


async def test_upload_is_kept_under_its_digest(there: FakeRegistry, way: str) -> None:
    """It is asked for first, and sent in pieces to where the registry says."""
    pieces = [LAYER[at : at + 1000] for at in range(0, len(LAYER), 1000)]
    client = client_of(there, way)
    assert await client.upload(reference_of(there), described(LAYER), lambda: iter(pieces))
    assert there.blobs["web", digest_of(LAYER)] == LAYER
    assert [line.split()[0] for line in there.requests] == ["HEAD", "POST", "PUT"]


async def test_upload_of_what_is_there_sends_nothing(there: FakeRegistry, way: str) -> None:
    """Two images share a layer, and a second restore has nothing to do."""
    there.put("web", "1", LAYER)
    client = client_of(there, way)
    assert not await client.upload(reference_of(there), described(LAYER), lambda: iter([b"no"]))
    assert [line.split()[0] for line in there.requests] == ["HEAD"]


async def test_upload_that_is_something_else_is_refused(there: FakeRegistry, way: str) -> None:
    """The registry checks the digest as well; its words are the evidence."""
    with pytest.raises(StepError, match="answers 400") as caught:
        await client_of(there, way).upload(
            reference_of(there), described(b"right"), lambda: iter([b"wrong"])
        )
    assert caught.value.evidence == "digest invalid"


@pytest.mark.parametrize("status", [403, 413, 500, 507])
async def test_upload_that_is_not_taken_is_told(there: FakeRegistry, way: str, status: int) -> None:
    """Not allowed, too large, or no room."""
    there.refuse = status
    with pytest.raises(StepError, match="refuses" if status == 403 else f"answers {status}"):
        await client_of(there, way).upload(
            reference_of(there), described(b"x"), lambda: iter([b"x"])
        )


async def test_login_is_used_for_both_directions(there: FakeRegistry, way: str) -> None:
    """It is sent after the registry asked for it, and an upload's body is then sent once."""
    digest = there.put("web", "1", LAYER)
    there.password = "pw"
    client = client_of(there, way, Login("u", "pw"))
    pieces: list[bytes] = []
    await client.download(reference_of(there), described(LAYER), pieces.append)
    assert b"".join(pieces) == LAYER
    await client.upload(reference_of(there), described(b"x"), lambda: iter([b"x"]))
    kind, body = await client.document(reference_of(there), digest)
    await client.put(reference_of(there), "2", kind, body)
    with pytest.raises(StepError, match=r"refuses .* one without a name"):
        await client_of(there, way).download(reference_of(there), described(LAYER), id)


async def test_manifest_keeps_its_bytes_and_its_kind(there: FakeRegistry, way: str) -> None:
    """Its digest is that of its very bytes: nothing is read and written anew."""
    digest = there.put("web", "1", LAYER)
    client = client_of(there, way)
    kind, body = await client.document(reference_of(there), digest)
    assert (kind, digest_of(body)) == ("application/vnd.oci.image.manifest.v1+json", digest)
    await client.put(reference_of(there, tag="2"), "2", kind, body)
    assert there.manifests["web", "2"] == there.manifests["web", digest] == (kind, body)


async def test_manifest_that_is_another_one_is_refused(there: FakeRegistry, way: str) -> None:
    """What comes is checked against the digest that was asked for."""
    digest = there.put("web", "1", LAYER)
    there.broken[digest] = b"{}"
    client = client_of(there, way)
    for name in (digest, digest_of(b"nothing")):
        with pytest.raises(StepError, match=f"does not have {name}"):
            await client.document(reference_of(there), name)


async def test_manifest_whose_parts_are_missing_is_not_taken(there: FakeRegistry, way: str) -> None:
    """A registry checks it; so the parts are sent first."""
    body = json.dumps({"config": described(b"c"), "layers": []}).encode()
    with pytest.raises(StepError, match="answers 400"):
        await client_of(there, way).put(reference_of(there), "1", "x", body)


async def test_labels_are_those_of_the_image(there: FakeRegistry) -> None:
    """Also of one for several platforms; an attestation is no image."""
    digest = there.put("web", "1", LAYER, revision="abc")
    client = client_of(there, "loopback")
    assert await client.labels(reference_of(there)) == {"revision": "abc"}
    unknown = {"os": "unknown", "architecture": "unknown"}
    entries = [
        {"digest": "sha256:0", "platform": unknown},
        {"digest": digest, "platform": {"os": "linux", "architecture": "amd64"}},
    ]
    body = json.dumps({"manifests": entries}).encode()
    there.put_manifest("web", "several", INDEX, body)
    assert await client.labels(reference_of(there, tag="several")) == {"revision": "abc"}
    there.put_manifest("web", "none", INDEX, json.dumps({"manifests": entries[:1]}).encode())
    assert await client.labels(reference_of(there, tag="none")) == {}


async def test_registry_that_is_away_is_told(way: str) -> None:
    """With the reason in words, as for every other question."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fake = FakeRegistry(port=taken.getsockname()[1])
        with pytest.raises(StepError, match=r"does not answer: .*Connection refused"):
            await client_of(fake, way).download(reference_of(fake), described(b"x"), id)


async def test_connection_that_breaks_is_told(way: str) -> None:
    """Half of a part is no part."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def half() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            connection.close()

        thread = threading.Thread(target=half)
        thread.start()
        fake = FakeRegistry(port=server.getsockname()[1])
        with pytest.raises(StepError, match=r"does not (answer|have)"):
            await client_of(fake, way).download(reference_of(fake), described(b"0123456789"), id)
        thread.join()


async def test_transfer_ends_when_nobody_waits_for_it(there: FakeRegistry, way: str) -> None:
    """Its thread has ended when the call has: what it wrote to may be closed."""
    there.put("web", "1", LAYER * 5)
    pieces = 0
    begun = anyio.Event()

    def slow(_piece: bytes) -> None:
        nonlocal pieces
        pieces += 1
        anyio.from_thread.run_sync(begun.set)
        time.sleep(0.05)

    async with anyio.create_task_group() as group:
        group.start_soon(
            client_of(there, way).download, reference_of(there), described(LAYER * 5), slow
        )
        with anyio.fail_after(10):
            await begun.wait()
        group.cancel_scope.cancel()
    so_far = pieces
    assert 0 < so_far < len(LAYER) * 5 // registry.CHUNK
    await anyio.sleep(0.15)
    assert pieces == so_far


async def test_transfer_has_a_limit(
    there: FakeRegistry, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that gives a byte now and then does not hold a deploy up."""
    there.put("web", "1", LAYER)
    monkeypatch.setattr(registry, "TRANSFER_LIMIT", 0.0)
    with pytest.raises(StepError, match="a part of an image took more than 0 s"):
        await client_of(there, way).download(reference_of(there), described(LAYER), id)


async def test_login_is_not_sent_to_another_host() -> None:
    """Where a registry keeps its parts elsewhere, that place has a key of its own."""
    seen: list[str] = []

    class Elsewhere:
        """Sends uploads to another host."""

        def fetch(self, url: str, headers: object, sink: object) -> registry.Answer:
            """Nothing is fetched."""
            raise AssertionError((url, headers, sink))

        def send(
            self, method: str, url: str, headers: Mapping[str, str], chunks: object
        ) -> registry.Answer:
            """Answer as a registry in front of a store does."""
            assert chunks is not None
            seen.append(f"{method} {url} {headers.get('Authorization')}")
            if method == "PUT":
                return registry.Answer(201, {})
            if "Authorization" not in headers:
                return registry.Answer(401, {"www-authenticate": 'Basic realm="x"'})
            return registry.Answer(202, {"location": "https://store.example.com/up?key=1"})

    async def missing(method: str, url: str, headers: object, *, limit: int) -> registry.Answer:
        assert (method, limit) == ("HEAD", registry.MANIFEST_LIMIT), (url, headers)
        return registry.Answer(404, {})

    remote = images.parse_registry("registry.example.com")
    client = Client(remote, Login("u", "pw"), exchange=missing, transfer=Elsewhere())
    await client.upload(remote.reference("web", "1"), described(b"x"), lambda: iter([b"x"]))
    assert seen[-1].startswith("PUT https://store.example.com/up?key=1&digest=sha256%3A")
    assert seen[-1].endswith(" None")
    assert " Basic " in seen[-2]
