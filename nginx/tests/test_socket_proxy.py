"""The socket proxy, by a table: what reaches Docker, byte for byte, and what never does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from .calls import ALLOWED, DENIED, ODD
from .role import LIMIT
from .test_log import logged

if TYPE_CHECKING:
    from .recorder import Recorder
    from .role import Role


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
    assert answer.status == 403
    if method != "HEAD":
        answer.problem()


@pytest.mark.parametrize("request_bytes", ODD)
def test_odd_request_never_reaches_docker(
    request_bytes: bytes, socket_proxy: Role, docker: Recorder
) -> None:
    """A request that two programs could read in two ways is refused before the second one."""
    answer = socket_proxy.send(request_bytes + b"\r\n")
    assert docker.arrivals == []
    assert answer.status == 403
    answer.problem()


def test_request_without_a_version_never_reaches_docker(
    socket_proxy: Role, docker: Recorder
) -> None:
    """HTTP/0.9, which has no version, no header and no status, is refused too."""
    with socket.create_connection(("127.0.0.1", socket_proxy.port), LIMIT) as connection:
        connection.sendall(b"GET /_ping\r\n")
        answer = connection.makefile("rb").read()
    assert b'"status":403' in answer
    assert docker.arrivals == []


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


@pytest.mark.waits(1.5)
def test_docker_that_hangs_is_504_within_2_s(socket_proxy: Role, docker: Recorder) -> None:
    """A daemon that takes the call and says nothing is given up within 2 s."""
    docker.delay = 4
    answer = socket_proxy.ask("/containers/json", headers={"X-Request-ID": "hangs"})
    assert answer.status == 504
    assert answer.problem()["title"] == "Gateway Timeout"
    # As nginx itself has it, which a client on a busy machine hears of later.
    assert logged(socket_proxy, "hangs")["event.duration"] < 2_000_000_000
