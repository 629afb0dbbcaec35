"""The socket proxy, by a table: what reaches Docker, byte for byte, and what never does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .recorder import Recorder
    from .role import Role

LIST = "/v1.44/containers/json"

ALLOWED = [
    ("GET", "/_ping"),
    ("HEAD", "/_ping"),
    ("GET", "/v1.44/_ping"),
    ("HEAD", "/v1.44/_ping"),
    ("GET", "/version"),
    ("GET", "/v1.44/version"),
    ("GET", "/containers/json"),
    ("GET", LIST),
    ("GET", f"{LIST}?all=1"),
    ("GET", f"{LIST}?limit=-1&all=1&size=0&trunc_cmd=0"),
    ("GET", f"{LIST}?filters=%7B%22status%22%3A+%5B%22running%22%5D%7D"),
    ("GET", f"{LIST}?"),
    ("GET", "/containers/json?x=/../../exec"),
]

DENIED = [
    # Other calls that only read, and tell more than they should.
    ("GET", "/"),
    ("GET", "/info"),
    ("GET", "/events"),
    ("GET", "/images/json"),
    ("GET", "/v1.44/images/json"),
    ("GET", "/images/debian/get"),
    ("GET", "/containers/abc/json"),
    ("GET", "/v1.44/containers/abc/json"),
    ("GET", "/containers/abc/top"),
    ("GET", "/containers/abc/logs?stdout=1"),
    ("GET", "/containers/abc/changes"),
    ("GET", "/containers/abc/export"),
    ("GET", "/containers/abc/stats"),
    ("GET", "/containers/abc/attach/ws"),
    ("GET", "/containers/abc/archive?path=/etc"),
    ("HEAD", "/containers/abc/archive?path=/etc"),
    ("GET", "/exec/abc/json"),
    ("GET", "/networks"),
    ("GET", "/volumes"),
    ("GET", "/secrets"),
    ("GET", "/configs"),
    ("GET", "/plugins"),
    ("GET", "/services"),
    ("GET", "/tasks"),
    ("GET", "/nodes"),
    ("GET", "/swarm"),
    ("GET", "/swarm/unlockkey"),
    ("GET", "/system/df"),
    ("GET", "/distribution/debian/json"),
    # Calls that change something.
    ("POST", "/containers/create"),
    ("POST", "/v1.44/containers/create?name=x"),
    ("POST", "/containers/abc/start"),
    ("POST", "/containers/abc/exec"),
    ("POST", "/containers/abc/attach?stream=1"),
    ("POST", "/exec/abc/start"),
    ("PUT", "/containers/abc/archive?path=/etc"),
    ("DELETE", "/containers/abc"),
    ("POST", "/build"),
    ("POST", "/images/create?fromImage=debian"),
    ("POST", "/swarm/init"),
    ("POST", "/session"),
    ("POST", "/grpc"),
    # The allowed paths with another method.
    *(
        (method, path)
        for path in ("/_ping", "/version", "/containers/json")
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get", "XGET")
    ),
    ("HEAD", "/version"),
    ("HEAD", "/containers/json"),
    # Paths that are nearly allowed.
    ("GET", "/_ping/"),
    ("GET", "/_pingx"),
    ("GET", "/x/_ping"),
    ("GET", "/_ping?"),
    ("GET", "/_ping?x=1"),
    ("GET", "/version/"),
    ("GET", "/version?x=1"),
    ("GET", "/Version"),
    ("GET", "/_PING"),
    ("GET", "/Containers/JSON"),
    ("GET", "/V1.44/version"),
    ("GET", "/containers/json/"),
    ("GET", "/containers/json/x"),
    ("GET", "/containers/jsonx"),
    ("GET", "/containers/json;x"),
    ("GET", "/containers/json#x"),
    ("GET", "/containers/json?x#y"),
    ("GET", '/containers/json?filters={"id":1}'),
    ("GET", "/containers/json?a\\b"),
    ("GET", "/v1/_ping"),
    ("GET", "/v1./_ping"),
    ("GET", "/v2.44/_ping"),
    ("GET", "/v1.4.4/_ping"),
    ("GET", "/v1.44x/_ping"),
    ("GET", "/v1x44/_ping"),
    ("GET", "/v1.44"),
    ("GET", "/v1.44/v1.44/_ping"),
    ("GET", "/.problem"),
    # Paths that mean an allowed one, or mean another one, once they are decoded or resolved.
    ("GET", "//_ping"),
    ("GET", "/v1.44//_ping"),
    ("GET", "//containers/json"),
    ("GET", "/containers//json"),
    ("GET", "/containers/./json"),
    ("GET", "/./containers/json"),
    ("GET", "/x/../containers/json"),
    ("GET", "/containers/json/../abc/json"),
    ("GET", "/containers/json/..%2fabc/json"),
    ("GET", "/containers/json/%2e%2e/abc/json"),
    ("GET", "/containers/%6ason"),
    ("GET", "/%63ontainers/json"),
    ("GET", "/containers%2fjson"),
    ("GET", "/containers/json%3fall=1"),
    ("GET", "/containers/json%20"),
    ("GET", "/containers/json%0d%0aX:%20y"),
    ("GET", "/%5fping"),
    ("GET", "/_ping%2f"),
    ("GET", "/v1%2e44/_ping"),
]


@pytest.mark.parametrize(("method", "path"), ALLOWED)
def test_allowed_call_reaches_docker_as_it_is(
    method: str, path: str, socket_proxy: Role, docker: Recorder
) -> None:
    """An allowed call arrives with its own request line, and with no header of the client."""
    answer = socket_proxy.ask(path, method, {"X-Registry-Auth": "x", "Authorization": "y"})
    assert answer.status == 200
    assert answer.body == (b"" if method == "HEAD" else b"[]\n")
    assert docker.lines() == [f"{method} {path} HTTP/1.1"]
    assert docker.arrivals[0].headers == {"host": "docker", "connection": "close"}
    assert docker.arrivals[0].body == b""


@pytest.mark.parametrize(("method", "path"), DENIED)
def test_denied_call_never_reaches_docker(
    method: str, path: str, socket_proxy: Role, docker: Recorder
) -> None:
    """Everything else is answered 403, and Docker does not hear of it."""
    answer = socket_proxy.ask(path, method)
    assert docker.arrivals == []
    # nginx refuses by itself to read a method in lower case.
    assert answer.status == (400 if method == "get" else 403)
    if method != "HEAD":
        answer.problem()


@pytest.mark.parametrize(
    "request_bytes",
    [
        # In absolute form, and with the line written in another way.
        b"GET http://docker/containers/json HTTP/1.1\r\nHost: a\r\n",
        b"GET  /containers/json HTTP/1.1\r\nHost: a\r\n",
        b"GET /containers/json  HTTP/1.1\r\nHost: a\r\n",
        b"GET /containers/json HTTP/1.1 \r\nHost: a\r\n",
        b"GET /containers/json HTTP/1.2\r\nHost: a\r\n",
        b"GET /containers/json?a b HTTP/1.1\r\nHost: a\r\n",
        b"GET /containers/json?\x01 HTTP/1.1\r\nHost: a\r\n",
        b"GET /containers/json?\xff HTTP/1.1\r\nHost: a\r\n",
        # Out of the root.
        b"GET /../containers/json HTTP/1.1\r\nHost: a\r\n",
        b"GET /containers/json%00 HTTP/1.1\r\nHost: a\r\n",
        b"CONNECT / HTTP/1.1\r\nHost: a\r\n",
        b"TRACE /_ping HTTP/1.1\r\nHost: a\r\n",
        # With a body, or with two opinions on its length.
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        b"POST /build HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 9\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n",
        # Towards another protocol.
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
        b"GET /version HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n",
        b"CONNECT docker:2375 HTTP/1.1\r\nHost: a\r\n",
        b"PRI * HTTP/2.0\r\n",
    ],
)
def test_odd_request_never_reaches_docker(
    request_bytes: bytes, socket_proxy: Role, docker: Recorder
) -> None:
    """A request that two programs could read in two ways is refused before the second one."""
    answer = socket_proxy.send(request_bytes + b"\r\n")
    assert docker.arrivals == []
    # 400 where nginx itself does not read it, which differs a little from version to version.
    assert answer.status in {400, 403}
    answer.problem()


def test_second_request_on_a_connection_is_judged_by_itself(
    socket_proxy: Role, docker: Recorder
) -> None:
    """An allowed request opens no door for the one behind it."""
    socket_proxy.send(
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        b"POST /containers/create HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    socket_proxy.ask("/version")
    assert docker.lines() == ["GET /_ping HTTP/1.1", "GET /version HTTP/1.1"]


def test_old_http_is_served(socket_proxy: Role, docker: Recorder) -> None:
    """HTTP/1.0 without a host is as good as HTTP/1.1 for these calls."""
    answer = socket_proxy.send(b"GET /_ping HTTP/1.0\r\n\r\n")
    assert answer.status == 200
    assert docker.lines() == ["GET /_ping HTTP/1.1"]


def test_answer_of_docker_passes(socket_proxy: Role, docker: Recorder) -> None:
    """Status, media type, version header and a large body come through, with no file in between."""
    docker.status = 400
    docker.content_type = "text/plain"
    docker.headers = {"Api-Version": "1.44"}
    docker.body = b"x" * 5_000_000
    answer = socket_proxy.ask("/containers/json")
    assert (answer.status, answer.body) == (400, docker.body)
    assert answer.headers["Api-Version"] == "1.44"
    assert answer.headers.get_content_type() == "text/plain"


def test_docker_that_hangs_is_504_within_2_s(socket_proxy: Role, docker: Recorder) -> None:
    """A daemon that takes the call and says nothing is given up within 2 s."""
    docker.delay = 4
    answer = socket_proxy.ask("/containers/json")
    assert answer.status == 504
    assert answer.problem()["title"] == "Gateway Timeout"
    assert answer.seconds < 2
