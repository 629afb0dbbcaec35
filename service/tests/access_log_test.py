"""What the access log says of a request, and which it leaves out."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from slipway_api.access_log import EcsLogger
from slipway_api.log import EcsFormatter

ENVIRON = {
    "PATH_INFO": "/api/v1/containers",
    "RAW_URI": "/api/v1/containers?label=s3cr3t",
    "QUERY_STRING": "label=s3cr3t",
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "192.0.2.7",
    "HTTP_AUTHORIZATION": "Bearer s3cr3t",
    "HTTP_COOKIE": "s3cr3t",
    "HTTP_USER_AGENT": 'curl/8 "x"\n',
    "HTTP_X_FORWARDED_FOR": "2001:db8::1",
    "slipway.request_id": "abc",
}


def logged(caplog: pytest.LogCaptureFixture, environ: dict[str, str], status: str) -> Any:  # noqa: ANN401 - JSON
    """Log one request; return what the line says, or None when there is no line."""
    logger = EcsLogger(Config())
    logger.access_log.propagate = True  # to where caplog listens
    response = SimpleNamespace(status=status, sent=2, headers=[])
    with caplog.at_level("INFO", logger="gunicorn.access"):
        logger.access(response, None, environ, timedelta(milliseconds=3, microseconds=7))
    if not caplog.records:
        return None
    (record,) = caplog.records
    line = EcsFormatter().format(record)
    assert "\n" not in line
    assert "s3cr3t" not in line
    return json.loads(line)


def test_line_has_the_fields_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """Each has the name and the type that ECS gives it, and nothing of a query or a header."""
    line = logged(caplog, ENVIRON, "200 OK")
    for name in ("@timestamp", "process.pid"):
        assert line.pop(name)
    assert line == {
        "log.level": "info",
        "message": "GET /api/v1/containers 200",
        "ecs.version": "8.17.0",
        "event.dataset": "slipway.api",
        "service.name": "slipway-api",
        "log.logger": "gunicorn.access",
        "http.request.method": "GET",
        "http.request.id": "abc",
        "http.response.status_code": 200,
        "http.response.body.bytes": 2,
        "url.path": "/api/v1/containers",
        "event.duration": 3_007_000,
        "source.ip": "192.0.2.7",
        "client.ip": "2001:db8::1",
        "user_agent.original": 'curl/8 "x"\n',
    }


def test_what_is_not_there_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """An address that is none, as anybody may send it, and a header that is missing."""
    environ = {**ENVIRON, "HTTP_X_FORWARDED_FOR": "s3cr3t", "HTTP_USER_AGENT": ""}
    line = logged(caplog, environ, "200 OK")
    assert not {"client.ip", "user_agent.original"}.intersection(line)


def test_path_and_user_agent_are_read_as_utf_8(caplog: pytest.LogCaptureFixture) -> None:
    """WSGI's Latin-1 is undone, and what is no text is replaced."""
    raw = b"/\xc3\xbc\xff".decode("latin-1")
    environ = {**ENVIRON, "PATH_INFO": raw, "HTTP_USER_AGENT": raw}
    line = logged(caplog, environ, "404 NOT FOUND")
    assert line["url.path"] == line["user_agent.original"] == "/ü�"


@pytest.mark.parametrize(
    ("path", "status", "there"),
    [
        ("/livez", "200 OK", False),
        ("/healthz", "200 OK", False),
        ("/readyz", "200 OK", False),
        ("/metrics", "200 OK", False),
        ("/readyz", "503 SERVICE UNAVAILABLE", True),
        ("/livez/x", "404 NOT FOUND", True),
        ("/api/v1/containers", "200 OK", True),
    ],
)
def test_answered_probes_are_left_out(
    path: str, status: str, *, there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe that was answered well is not logged; everything else is."""
    line = logged(caplog, {**ENVIRON, "PATH_INFO": path}, status)
    assert (line is not None) is there


def test_error_has_type_message_and_trace() -> None:
    """An exception is in fields of its own, in the same line."""
    error = ZeroDivisionError("x")
    record = logging.LogRecord(
        "a", logging.ERROR, __file__, 1, "it %s", ("failed",), (type(error), error, None)
    )
    text = EcsFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text
    assert (line["log.level"], line["message"]) == ("error", "it failed")
    assert (line["error.type"], line["error.message"]) == ("ZeroDivisionError", "x")
    assert "ZeroDivisionError: x" in line["error.stack_trace"]
