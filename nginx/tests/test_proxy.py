"""The reverse proxy, in front of a recorder."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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


def test_connections_to_the_api_are_kept(proxy: Role, api: Recorder) -> None:
    """A request goes out on a connection that is there already, as long as that is young."""
    api.kept = True
    for _ in range(20):
        assert proxy.ask("/livez").status == 200
    assert len(api.arrivals) == 20
    # One for each worker of nginx, and one more if it takes 3 s.
    assert api.connections <= 4


def test_body_never_reaches_the_api(proxy: Role, api: Recorder) -> None:
    """What only reads has none; one that comes all the same is read and dropped."""
    proxy.ask("/page", headers={"Content-Length": "2"}, body=b"{}")
    chunks = b"2\r\n{}\r\n0\r\n\r\n"
    proxy.ask("/page", headers={"Transfer-Encoding": "chunked"}, body=chunks)
    for arrival in api.arrivals:
        assert arrival.body == b""
        assert not arrival.headers.keys() & {"content-length", "transfer-encoding"}
    assert api.lines() == ["GET /page HTTP/1.1"] * 2


def test_protocol_is_not_changed(proxy: Role, api: Recorder) -> None:
    """The API is asked in HTTP/1.1, whatever else the client offers."""
    proxy.ask("/page", headers={"Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"})
    assert not api.arrivals[0].headers.keys() & {"upgrade", "connection"}


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "/metrics?x=1",
        "/metrics;x",
        "//metrics",
        "/./metrics",
        "/x/../metrics",
        "/%6detrics",
        "/metrics%2f",
        "/x%2f..%2fmetrics",
        "http://api:8000/metrics",
    ],
)
def test_metrics_are_not_for_outside(path: str, proxy: Role, api: Recorder) -> None:
    """However it is written, it is refused here."""
    answer = proxy.ask(path)
    assert answer.status == 403
    assert answer.problem()["title"] == "Forbidden"
    assert api.arrivals == []


SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""What every answer says to a browser."""


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("path", ["/", "/api/v1/containers", "/nginx-health", "/metrics"])
def test_security_headers_are_on_every_answer_once(
    path: str,
    given: bool,  # noqa: FBT001 - a parameter of pytest
    proxy: Role,
    api: Recorder,
) -> None:
    """Whether or not the API sends them too."""
    api.headers = dict.fromkeys(SECURITY.keys() - {"Content-Security-Policy"}, "x") if given else {}
    answer = proxy.ask(f"{path}?given={given}")
    assert {name: answer.headers.get_all(name) for name in SECURITY} == {
        name: [value] for name, value in SECURITY.items()
    }


def test_policy_of_a_page_is_its_own(proxy: Role, api: Recorder) -> None:
    """The API knows what its pages need; nginx adds to it nothing that would break them."""
    api.headers = {"Content-Security-Policy": "default-src 'self'"}
    found = proxy.ask("/").headers.get_all("Content-Security-Policy")
    assert found == ["default-src 'self'"]


@pytest.mark.parametrize(
    ("media_type", "packed"),
    [
        ("text/html; charset=utf-8", True),
        ("text/css; charset=utf-8", True),
        ("text/javascript", True),
        ("application/json", True),
        ("application/problem+json", True),
        ("image/svg+xml", True),
        ("image/png", False),
    ],
)
def test_text_is_compressed_for_who_takes_it(
    media_type: str, *, packed: bool, proxy: Role, api: Recorder
) -> None:
    """Text is, what is compressed already is not; and who asks for nothing gets it plain."""
    api.body = b"text " * 2000
    api.content_type = media_type
    answer = proxy.ask("/page", headers={"Accept-Encoding": "gzip, br"})
    assert (answer.headers["Content-Encoding"] == "gzip") is packed
    assert answer.plain() == api.body
    assert len(answer.body) < 200 or not packed
    assert proxy.ask("/page").body == api.body


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


def test_problem_of_the_api_has_the_id_of_the_request(proxy: Role, api: Recorder) -> None:
    """The API makes one up for what it cannot read; who asked finds their own."""
    api.status = 400
    api.content_type = "application/problem+json"
    api.body = b'{"status":400,"request_id":"made-up"}'
    api.headers = {"X-Request-ID": "made-up"}
    answer = proxy.ask("/page", headers={"X-Request-ID": "asked"})
    assert answer.headers.get_all("X-Request-ID") == ["asked"]
    assert answer.body == b'{"status":400,"request_id":"asked"}'


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
        (b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 8000 + b"\r\n\r\n", 431, "/x"),
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
    assert details.keys() <= {"type", "title", "status", "detail", "instance", "request_id"}
    if instance is not None:
        assert details["instance"] == instance
    assert answer.headers["Cache-Control"] == "no-store"
    assert api.arrivals == []


def test_version_of_nginx_is_not_told(proxy: Role) -> None:
    """No answer names the version that runs."""
    for path in ("/nginx-health", "/.problem", "/"):
        assert proxy.ask(path).headers["Server"] == "nginx"


@pytest.mark.waits(0.8)
def test_large_answer_comes_whole_to_a_slow_reader(proxy: Role, api: Recorder) -> None:
    """An answer larger than all buffers waits in the API's connection and in no file."""
    api.body = b"x" * 20_000_000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(LIMIT)
        connection.connect(("127.0.0.1", proxy.port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        # It would be deleted already, but open.
        assert not [path for path in opened(proxy) if path.startswith(str(proxy.prefix / "proxy"))]
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.read() == api.body


def opened(role: Role) -> list[str]:
    """The files that nginx has open."""
    master = role.process.pid
    workers = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split()
    found = []
    for fd in (fd for each in workers for fd in Path(f"/proc/{each}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # closed by now
            found.append(str(fd.readlink()))
    return found


@pytest.mark.waits(0.6)
def test_slow_client_does_not_hold_up_others(proxy: Role, api: Recorder) -> None:
    """Requests side by side each take their own time."""
    api.delay = 0.5
    started = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(proxy.ask, [f"/{number}" for number in range(20)]))
    assert [answer.status for answer in answers] == [200] * 20
    # One after the other, in both of nginx's workers, would be 5 s.
    assert time.monotonic() - started < 4
