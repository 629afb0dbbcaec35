"""The reverse proxy, in front of a recorder."""

from __future__ import annotations

import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from .role import LIMIT

if TYPE_CHECKING:
    from .recorder import Recorder
    from .role import Role


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_methods_pass(method: str, proxy: Role, api: Recorder) -> None:
    """Whatever reads goes to the API as it is, path and query untouched."""
    path = "/api/v1//containers/%2e%2E/a?state=all&x=%20y"
    answer = proxy.ask(path, method)
    assert answer.status == 200
    assert api.lines() == [f"{method} {path} HTTP/1.1"]
    assert answer.body == (b"" if method == "HEAD" else b"[]\n")


@pytest.mark.parametrize("path", ["/api/v1/containers", "/nginx-health", "/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "BREW"])
def test_other_methods_are_refused(method: str, path: str, proxy: Role, api: Recorder) -> None:
    """What does not read is answered 405 with what is allowed, and never reaches the API."""
    answer = proxy.ask(path, method, {"Content-Length": "2"}, b"{}")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert answer.problem()["instance"] == path
    assert api.arrivals == []


def test_health_is_nginx_own(proxy: Role, api: Recorder) -> None:
    """The health page says that nginx answers, and asks nobody."""
    answer = proxy.ask("/nginx-health")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}\n')
    assert answer.headers.get_content_type() == "application/json"
    assert api.arrivals == []


def test_headers_tell_the_api_who_asked(proxy: Role, api: Recorder) -> None:
    """What a client says about its own origin is replaced by what nginx knows."""
    proxy.ask("/", headers={"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"})
    headers = api.arrivals[0].headers
    assert headers["host"] == "example.test"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-host"] == "example.test"
    assert headers["x-forwarded-proto"] == "http"
    assert "forwarded" not in headers


def test_request_id_of_the_client_is_kept(proxy: Role, api: Recorder) -> None:
    """One word follows a request to the API and back, and it is said once."""
    api.headers = {"X-Request-ID": "of-the-api"}
    answer = proxy.ask("/", headers={"X-Request-ID": "abc_1.2-3"})
    assert api.arrivals[0].headers["x-request-id"] == "abc_1.2-3"
    assert answer.headers.get_all("X-Request-ID") == ["abc_1.2-3"]


@pytest.mark.parametrize("given", ["", "a b", 'a"b', "x" * 65, "a/b"])
def test_request_id_is_made_when_none_is_good(given: str, proxy: Role, api: Recorder) -> None:
    """A word that is not fit for a log line is replaced, on errors too."""
    for path, method in (("/", "GET"), ("/nginx-health", "GET"), ("/", "POST")):
        answer = proxy.ask(path, method, {"X-Request-ID": given})
        made = answer.headers["X-Request-ID"]
        assert len(made) == 32
        assert int(made, 16)
    assert len(api.arrivals[0].headers["x-request-id"]) == 32


@pytest.mark.parametrize("status", [400, 404, 405, 429, 500, 502, 503, 504])
def test_errors_of_the_api_pass(status: int, proxy: Role, api: Recorder) -> None:
    """An error that the API answers reaches the client as the API said it."""
    api.status = status
    api.content_type = "application/problem+json"
    api.body = b'{"title":"said by the API"}'
    api.headers = {"Allow": "GET"}
    answer = proxy.ask("/")
    assert (answer.status, answer.body) == (status, api.body)
    assert answer.headers["Allow"] == "GET"
    assert len(api.arrivals) == 1


@pytest.mark.parametrize(
    ("request_bytes", "status", "instance"),
    [
        (b"nonsense\r\n\r\n", 400, None),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "/"),
        (b"GET /../x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400, None),
        (
            b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            "/x",
        ),
        (
            (
                b"GET /x HTTP/1.1\r\nHost: a\r\n"
                b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            400,
            "/x",
        ),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 16385\r\n\r\n", 413, "/x"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, None),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431, "/x"),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "/x"),
        (b"GET /x HTTP/3.0\r\nHost: a\r\n\r\n", 505, None),
        (b"GET /.problem HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "/.problem"),
        (b'POST /" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n', 405, None),
        (b'POST /a?b="c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n', 405, "/a"),
    ],
)
def test_errors_of_nginx_are_problems(
    request_bytes: bytes, status: int, instance: str | None, proxy: Role, api: Recorder
) -> None:
    """What nginx itself refuses is answered as problem details with the true status."""
    answer = proxy.send(request_bytes)
    assert answer.status == status
    details = answer.problem()
    assert details["type"] == "about:blank"
    assert details["title"] != "Error"
    assert details["detail"].endswith(".")
    if instance is not None:
        assert details["instance"] == instance
    assert answer.headers["Cache-Control"] == "no-store"
    assert api.arrivals == []


def test_version_of_nginx_is_not_told(proxy: Role) -> None:
    """No answer names the version that runs."""
    for path in ("/nginx-health", "/.problem", "/"):
        assert proxy.ask(path).headers["Server"] == "nginx"


def test_api_that_hangs_is_504(proxy: Role, api: Recorder) -> None:
    """An API that takes the request and says nothing costs a client a bounded time."""
    api.delay = 7
    answer = proxy.ask("/slow")
    assert answer.status == 504
    assert answer.problem()["detail"] == "The server behind this proxy did not answer in time."
    assert 4 < answer.seconds < 6.5


def test_large_answer_comes_whole_to_a_slow_reader(proxy: Role, api: Recorder) -> None:
    """An answer larger than all buffers waits in the API's connection and in no file."""
    api.body = b"x" * 20_000_000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(LIMIT)
        connection.connect(("127.0.0.1", proxy.port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.read() == api.body
    # nginx says so when it puts an answer into a file, and deletes that at once.
    assert "temporary file" not in proxy.errors.read_text()


def test_slow_client_does_not_hold_up_others(proxy: Role, api: Recorder) -> None:
    """Requests side by side each take their own time."""
    api.delay = 0.5
    started = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(proxy.ask, [f"/{number}" for number in range(20)]))
    assert [answer.status for answer in answers] == [200] * 20
    assert time.monotonic() - started < 3
