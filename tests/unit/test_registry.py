"""The client of image registries, against a fake exchange and a real HTTP server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from pipeline import images, registry
from pipeline.errors import PrerequisiteError, StepError
from pipeline.registry import Answer, Client, Login, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.anyio

REMOTE = images.parse_registry("registry.example.com/team")
REFERENCE = REMOTE.reference("web", "1")
PLATFORM = "linux/amd64"
TAR = b"a tar file" * 1000
PACKED = gzip.compress(TAR)


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Exchange:
    """Answers by the path of the URL, and remembers what was asked."""

    def __init__(self, answers: Mapping[str, Answer | Exception | Callable[..., Answer]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], *, limit: int
    ) -> Answer:
        """Answer one request."""
        self.asked.append((method, url, headers))
        answer = self.answers.get(urlsplit(url).path, Answer(404, {}))
        if callable(answer):
            answer = answer(headers)
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer.status, answer.headers, answer.body[:limit])


def layer(data: bytes, kind: str = "application/vnd.oci.image.layer.v1.tar+gzip") -> dict[str, Any]:
    """Return how a manifest describes a layer."""
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def ranged(data: bytes) -> Callable[[Mapping[str, str]], Answer]:
    """Return an answer that honours the header Range, as registries do."""

    def answer(headers: Mapping[str, str]) -> Answer:
        if "Range" not in headers:
            return Answer(200, {}, data)
        first, _, last = headers["Range"].removeprefix("bytes=").partition("-")
        return Answer(206, {}, data[int(first) : int(last) + 1])

    return answer


def with_layers(*layers: tuple[dict[str, Any], Any]) -> Exchange:
    """Return a registry that has an image with these layers."""
    manifest = json.dumps({"layers": [described for described, _ in layers]}).encode()
    answers: dict[str, Any] = {"/v2/team/web/manifests/1": Answer(200, {}, manifest)}
    for described, answer in layers:
        answers[f"/v2/team/web/blobs/{described['digest']}"] = answer
    return Exchange(answers)


async def test_digest_of_a_tag_is_what_the_registry_says() -> None:
    """HEAD of the manifest; the header has the digest."""
    path = "/v2/team/web/manifests/1"
    exchange = Exchange({path: Answer(200, {"docker-content-digest": "sha256:1"})})
    assert await Client(REMOTE, exchange=exchange).digest(REFERENCE) == "sha256:1"
    ((method, url, headers),) = exchange.asked
    assert (method, url) == ("HEAD", f"https://registry.example.com:443{path}")
    assert "application/vnd.oci.image.index.v1+json" in headers["Accept"]


async def test_tag_that_is_not_there_has_no_digest() -> None:
    """Not found is an answer, not an error."""
    assert await Client(REMOTE, exchange=Exchange({})).digest(REFERENCE) is None


async def test_answer_without_a_digest_is_an_error() -> None:
    """Something that is no registry may answer 200 to everything."""
    exchange = Exchange({"/v2/team/web/manifests/1": Answer(200, {})})
    with pytest.raises(StepError, match="gives no digest"):
        await Client(REMOTE, exchange=exchange).digest(REFERENCE)


@pytest.mark.parametrize("status", [200, 401])
async def test_registry_that_asks_who_is_there_is_up(status: int) -> None:
    """A registry that wants a password answers as well as one that does not."""
    await Client(REMOTE, exchange=Exchange({"/v2/": Answer(status, {})})).ping()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("registry.example.com", "network"),
        ("127.0.0.1:5050", "Run `make setup`"),
        ("127.0.0.1:5051", "Run `PIPELINE_REGISTRY=127.0.0.1:5051 make setup`"),
    ],
)
async def test_registry_that_is_down_is_found_before_the_first_step(name: str, remedy: str) -> None:
    """The remedy is another for the registry that set-up starts."""
    exchange = Exchange({"/v2/": Unreachable("Connection refused")})
    with pytest.raises(PrerequisiteError, match=f"{name} does not answer: Conn") as caught:
        await Client(images.parse_registry(name), exchange=exchange).ping()
    assert remedy in caught.value.remedy


async def test_certificate_that_is_not_trusted_has_its_own_remedy() -> None:
    """It is a CA that is missing, not the network."""
    exchange = Exchange({"/v2/": Unreachable("self-signed", certificate=True)})
    with pytest.raises(PrerequisiteError, match="not trusted") as caught:
        await Client(REMOTE, exchange=exchange).ping()
    assert "--ca" in caught.value.remedy


async def test_what_is_no_registry_is_told() -> None:
    """Another program may listen on the port."""
    exchange = Exchange({"/v2/": Answer(404, {})})
    with pytest.raises(PrerequisiteError, match="is not an image registry"):
        await Client(REMOTE, exchange=exchange).ping()


async def test_basic_challenge_is_answered_with_the_login_and_remembered() -> None:
    """The password is sent only after it was asked for, and then at once."""

    def answer(headers: Mapping[str, str]) -> Answer:
        if headers.get("Authorization") == f"Basic {base64.b64encode(b'alice:pw').decode()}":
            return Answer(200, {"docker-content-digest": "sha256:1"})
        return Answer(401, {"www-authenticate": 'Basic realm="x"'})

    exchange = Exchange({"/v2/team/web/manifests/1": answer})
    client = Client(REMOTE, Login("alice", "pw"), exchange=exchange)
    assert await client.digest(REFERENCE) == "sha256:1"
    assert "Authorization" not in exchange.asked[0][2]
    assert await client.digest(REFERENCE) == "sha256:1"
    assert len(exchange.asked) == 3


@pytest.mark.parametrize("login", [None, Login("alice", "pw")])
@pytest.mark.parametrize("key", ["token", "access_token"])
async def test_bearer_challenge_is_answered_with_a_token(login: Login | None, key: str) -> None:
    """The token comes from where the challenge says, also for one without a name."""

    def token(headers: Mapping[str, str]) -> Answer:
        assert ("Authorization" in headers) is (login is not None)
        return Answer(200, {}, json.dumps({key: "t0"}).encode())

    def answer(headers: Mapping[str, str]) -> Answer:
        if headers.get("Authorization") == "Bearer t0":
            return Answer(200, {"docker-content-digest": "sha256:1"})
        challenge = 'Bearer realm="https://auth.example/token",service="reg"'
        return Answer(401, {"www-authenticate": challenge})

    exchange = Exchange({"/v2/team/web/manifests/1": answer, "/token": token})
    assert await Client(REMOTE, login, exchange=exchange).digest(REFERENCE) == "sha256:1"
    url = exchange.asked[1][1]
    assert url == "https://auth.example/token?service=reg&scope=repository%3Ateam%2Fweb%3Apull"


@pytest.mark.parametrize(
    ("login", "who"), [(None, "one without a name"), (Login("alice", "wrong"), "the user alice")]
)
async def test_refused_login_names_the_user_and_not_the_password(
    login: Login | None, who: str
) -> None:
    """A wrong password is a failed step with its remedy."""
    refusal = Answer(401, {"www-authenticate": "Basic"}, b"denied")
    exchange = Exchange({"/v2/team/web/manifests/1": refusal})
    with pytest.raises(StepError, match=who) as caught:
        await Client(REMOTE, login, exchange=exchange).digest(REFERENCE)
    assert "docker login registry.example.com" in caught.value.remedy
    assert "wrong" not in str(caught.value)
    assert caught.value.evidence == "denied"


async def test_token_server_that_talks_nonsense_is_a_refusal() -> None:
    """There is no token in it."""
    challenge = {"www-authenticate": 'Bearer realm="https://auth.example/token"'}
    exchange = Exchange(
        {"/v2/team/web/manifests/1": Answer(401, challenge), "/token": Answer(200, {}, b"<html>")}
    )
    with pytest.raises(StepError, match="refuses"):
        await Client(REMOTE, exchange=exchange).digest(REFERENCE)


async def test_registry_that_fails_or_goes_away_is_a_failed_step() -> None:
    """After the first step it is no prerequisite any more."""
    for answer, words in (
        (Unreachable("nothing came"), "does not answer: nothing came"),
        (Answer(500, {}, b"oops"), "answers 500"),
    ):
        exchange = Exchange({"/v2/team/web/manifests/1": answer})
        with pytest.raises(StepError, match=words):
            await Client(REMOTE, exchange=exchange).digest(REFERENCE)


async def test_size_is_the_unpacked_size_of_all_layers() -> None:
    """It is read from the end of each layer, without the rest of it."""
    exchange = with_layers(
        (layer(PACKED), ranged(PACKED)),
        (layer(b"x" * 77, "application/vnd.oci.image.layer.v1.tar"), None),
    )
    assert await Client(REMOTE, exchange=exchange).size(REFERENCE, PLATFORM) == len(TAR) + 77
    assert len(exchange.asked) == 2


@pytest.mark.parametrize("honours", [True, False])
async def test_layer_of_several_members_is_unpacked(*, honours: bool) -> None:
    """Where the end does not tell, or cannot be had alone, all of it is read."""
    parts = gzip.compress(TAR) + gzip.compress(b"end")
    answer = ranged(parts) if honours else Answer(200, {}, parts)
    exchange = with_layers((layer(parts), answer))
    assert await Client(REMOTE, exchange=exchange).size(REFERENCE, PLATFORM) == len(TAR) + 3


async def test_layer_that_cannot_be_measured_is_named() -> None:
    """A size is told, or it is an error: never a guess."""
    exchange = with_layers((layer(b"x", "application/vnd.oci.image.layer.v1.tar+zstd"), None))
    with pytest.raises(StepError, match="zstd"):
        await Client(REMOTE, exchange=exchange).size(REFERENCE, PLATFORM)


async def test_layer_that_is_another_one_is_refused() -> None:
    """What comes from a registry is checked against its digest."""
    described = layer(PACKED)
    exchange = with_layers((described, Answer(200, {}, gzip.compress(b"other"))))
    with pytest.raises(StepError, match="does not have"):
        await Client(REMOTE, exchange=exchange).size(REFERENCE, PLATFORM)


async def test_image_for_several_platforms_is_that_of_the_run() -> None:
    """Attestations and other platforms do not count."""
    index = {
        "manifests": [
            {"digest": "sha256:a", "platform": {"os": "linux", "architecture": "arm64"}},
            {"digest": "sha256:u"},
            {
                "digest": "sha256:v7",
                "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
            },
            {"digest": "sha256:b", "platform": {"os": "linux", "architecture": "amd64"}},
        ]
    }
    answers = {"/v2/team/web/manifests/1": Answer(200, {}, json.dumps(index).encode())}
    for name in ("a", "b", "v7"):
        body = json.dumps({"layers": [], "name": name}).encode()
        answers[f"/v2/team/web/manifests/sha256:{name}"] = Answer(200, {}, body)
    client = Client(REMOTE, exchange=Exchange(answers))
    assert (await client.manifest(REFERENCE, "linux/amd64"))["name"] == "b"
    assert (await client.manifest(REFERENCE, "linux/arm/v7"))["name"] == "v7"
    with pytest.raises(StepError, match="not there for linux/s390x"):
        await client.manifest(REFERENCE, "linux/s390x")


async def test_image_that_is_not_there_or_not_json_is_named() -> None:
    """Both are failed steps."""
    with pytest.raises(StepError, match="is not on the registry"):
        await Client(REMOTE, exchange=Exchange({})).size(REFERENCE, PLATFORM)
    exchange = Exchange({"/v2/team/web/manifests/1": Answer(200, {}, b"<html>")})
    with pytest.raises(StepError, match="is not JSON"):
        await Client(REMOTE, exchange=exchange).size(REFERENCE, PLATFORM)


# --- over a real connection ----------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Docker-Content-Digest", "sha256:1")
        self.send_header("Content-Length", "4")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"body")

    do_HEAD = do_GET  # noqa: N815 - as the base class names it

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        """Say nothing."""


@contextmanager
def serving() -> Iterator[int]:
    """Serve on a free port of the loopback interface."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def test_loopback_is_asked_over_plain_http() -> None:
    """The standard library does it, without TLS and without a proxy."""
    with serving() as port:
        local = images.parse_registry(f"127.0.0.1:{port}")
        client = Client(local)
        await client.ping()
        assert await client.digest(local.reference("x", "1")) == "sha256:1"


async def test_loopback_that_nobody_listens_on_is_told() -> None:
    """The reason is the operating system's, in words."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PrerequisiteError, match="Connection refused"):
            await Client(images.parse_registry(address)).ping()


async def test_what_speaks_no_http_is_told() -> None:
    """Neither is a server that closes at once a registry."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(PrerequisiteError, match="does not answer"):
            await Client(images.parse_registry(address)).ping()
        thread.join()


async def test_remote_exchange_cuts_the_body_and_translates_errors() -> None:
    """Another host is asked by httpx; what it raises is told in our words."""
    exchange = registry._Remote(None)  # noqa: SLF001 - the seam's other side
    with serving() as port:
        answer = await exchange("GET", f"http://127.0.0.1:{port}/v2/", {}, limit=2)
        assert (answer.status, answer.body) == (200, b"bo")
        assert answer.headers["docker-content-digest"] == "sha256:1"
    with pytest.raises(Unreachable):
        await exchange("GET", f"http://127.0.0.1:{port}/v2/", {}, limit=2)
    with pytest.raises(Unreachable):
        await exchange("GET", "nonsense", {}, limit=2)


@pytest.mark.parametrize("host", ["127.0.0.1", "registry.example.com"])
async def test_blocking_exchange_asks_as_the_other_does(host: str) -> None:
    """Its transfer is the one for where the registry is."""
    with serving() as port:
        url = f"http://127.0.0.1:{port}/v2/"
        exchange = registry.blocking(images.parse_registry(f"{host}:{port}"), None)
        answer = await exchange("GET", url, {}, limit=2)
        assert (answer.status, answer.body) == (200, b"bo")
    with pytest.raises(Unreachable, match="Connection refused"):
        await exchange("GET", url, {}, limit=2)
