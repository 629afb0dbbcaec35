"""The access log: a JSON object a line, in the names of the Elastic Common Schema."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from .recorder import Recorder
from .role import LIMIT, before, running

if TYPE_CHECKING:
    from pathlib import Path

    from .role import Role

KINDS = {
    "@timestamp": str,
    "log.level": str,
    "message": str,
    "ecs.version": str,
    "event.dataset": str,
    "event.duration": int,
    "service.name": str,
    "http.request.method": str,
    "http.request.id": str,
    "http.response.status_code": int,
    "http.response.body.bytes": int,
    "http.version": str,
    "url.path": str,
    "source.ip": str,
    "client.ip": str,
    "user_agent.original": str,
    "slipway.cache": str,
    "slipway.upstream.status": str,
    "slipway.upstream.duration": str,
}
"""Every field, and what JSON has for it."""


def logged(role: Role, identity: str) -> dict[str, Any]:
    """The line of a request, once it is there: nginx writes it after it has answered."""
    deadline = time.monotonic() + LIMIT
    while True:
        for line in role.output.read_bytes().splitlines():
            found = json.loads(line)
            assert isinstance(found, dict)
            assert {name: type(value) for name, value in found.items()} == KINDS
            if found["http.request.id"] == identity:
                return found
        assert time.monotonic() < deadline, role.output.read_text()
        time.sleep(0.02)


def test_request_is_a_line(proxy: Role, api: Recorder) -> None:
    """When, what, by whom, and how it ended."""
    api.delay = 0.05
    headers = {"X-Request-ID": "a-line", "User-Agent": "test/1.0"}
    proxy.ask("/some/page?token=secret", headers=headers)
    line = logged(proxy, "a-line")
    now = datetime.now(UTC)
    assert now - timedelta(seconds=LIMIT) < datetime.fromisoformat(line.pop("@timestamp")) <= now
    assert 50_000_000 <= line.pop("event.duration") < 5_000_000_000
    assert float(line.pop("slipway.upstream.duration")) >= 0.05
    assert line == {
        "log.level": "info",
        "message": "GET /some/page 200",
        "ecs.version": "8.17.0",
        "event.dataset": "slipway.nginx",
        "service.name": "slipway-nginx",
        "http.request.method": "GET",
        "http.request.id": "a-line",
        "http.response.status_code": 200,
        "http.response.body.bytes": 3,
        "http.version": "1.1",
        "url.path": "/some/page",
        "source.ip": "127.0.0.1",
        "client.ip": "127.0.0.1",
        "user_agent.original": "test/1.0",
        "slipway.cache": "",
        "slipway.upstream.status": "200",
    }
    assert api.arrivals[0].headers["x-request-id"] == "a-line"


def test_no_secret_is_in_the_log(proxy: Role, api: Recorder) -> None:
    """Neither the query nor a header that holds one."""
    headers = {
        "X-Request-ID": "no-secret",
        "Authorization": "Bearer hidden-1",
        "Cookie": "session=hidden-2",
        "Referer": "http://a.test/?token=hidden-3",
        "X-Forwarded-For": "hidden-4",
    }
    proxy.ask("/page?token=hidden-5", headers=headers)
    logged(proxy, "no-secret")
    assert len(api.arrivals) == 1
    assert "hidden-" not in proxy.output.read_text()


@pytest.mark.parametrize(
    ("sent", "path", "status"),
    [
        ((b'GET /a"b\\c', b""), '/a"b\\c', 200),
        ((b"GET /\xff\xfe", b""), "/", 200),
        ((b"GET /x?\xff", b""), "/x", 200),
        ((b"GET /%22%0a", b""), "/%22%0a", 200),
        ((b"GET /ua", b'User-Agent: "\t\xff\r\n'), "/ua", 200),
        ((b"POST /x", b""), "/x", 405),
        ((b"GET /" + b"x" * 9000, b""), "", 414),
        ((b"GET /long", b"X: " + b"x" * 9000 + b"\r\n"), "/long", 431),
    ],
)
def test_every_line_is_json(
    sent: tuple[bytes, bytes], path: str, status: int, tmp_path: Path
) -> None:
    """Whatever a client sends, the line can be read, in UTF-8; what is no ASCII is cut off."""
    request_line, more = sent
    with before(api := Recorder(), tmp_path) as role:
        answer = role.send(
            request_line + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + more + b"\r\n"
        )
        line = logged(role, answer.headers["X-Request-ID"])
    assert line["http.request.method"] == request_line.split()[0].decode()
    assert (line["url.path"], line["http.response.status_code"]) == (path, status)
    assert line["user_agent.original"] == ('"' if b"User-Agent" in more else "")
    assert len(role.output.read_bytes().splitlines()) == 1
    assert len(api.arrivals) == (status == 200)


def test_request_that_is_none_is_a_line_too(proxy: Role) -> None:
    """What nginx cannot read has no method and no path, and its line is still whole."""
    answer = proxy.send(b"nonsense\r\n\r\n")
    line = logged(proxy, answer.headers["X-Request-ID"])
    assert line["http.response.status_code"] == 400
    assert (line["http.request.method"], line["url.path"], line["http.version"]) == ("", "", "")


def test_copy_is_told_in_the_log(proxy: Role, api: Recorder) -> None:
    """Whether the API was asked."""
    for identity, cache, status in (("log-1", "MISS", "200"), ("log-2", "HIT", "")):
        proxy.ask("/api/v1/containers?name=log", headers={"X-Request-ID": identity})
        line = logged(proxy, identity)
        assert (line["slipway.cache"], line["slipway.upstream.status"]) == (cache, status)
    assert len(api.arrivals) == 1


def test_no_query_is_in_the_error_log(tmp_path: Path) -> None:
    """It may hold a secret; what went wrong is in the access log, without it."""
    with running("proxy", tmp_path, {"API_UPSTREAM": "127.0.0.1:1"}) as role:
        for more, status in (({}, 502), ({"Content-Length": "99999"}, 413)):
            answer = role.ask("/page?token=s3cr3t", headers=more)
            line = logged(role, answer.headers["X-Request-ID"])
            assert line["http.response.status_code"] == status
        assert "s3cr3t" not in role.errors.read_text() + role.output.read_text()


def test_socket_proxy_names_itself(socket_proxy: Role) -> None:
    """Its lines are told from those of the other role."""
    socket_proxy.ask("/info", headers={"X-Request-ID": "socket"})
    line = logged(socket_proxy, "socket")
    assert line["service.name"] == "slipway-socket-proxy"
    assert line["http.response.status_code"] == 403
