"""Which requests the access log leaves out."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from slipway_api.access_log import QuietLogger


@pytest.mark.parametrize(
    ("path", "status", "logged"),
    [
        ("/livez", "200 OK", False),
        ("/readyz", "200 OK", False),
        ("/readyz", "503 SERVICE UNAVAILABLE", True),
        ("/livez/x", "404 NOT FOUND", True),
        ("/api/v1/containers", "200 OK", True),
    ],
)
def test_answered_probes_are_left_out(
    path: str, status: str, *, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe that was answered well is not logged; everything else is."""
    config = Config()
    config.set("accesslog", "-")
    logger = QuietLogger(config)
    logger.access_log.propagate = True  # to where caplog listens
    response = SimpleNamespace(status=status, sent=2, headers=[])
    request = SimpleNamespace(headers=[])
    environ = {
        "PATH_INFO": path,
        "RAW_URI": path,
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    with caplog.at_level("INFO", logger="gunicorn.access"):
        logger.access(response, request, environ, timedelta(milliseconds=3))
    assert (len(caplog.records) == 1) is logged
