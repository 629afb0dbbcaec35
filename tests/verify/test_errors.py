"""Errors, asked through Nginx: problem details with the true status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = pytest.mark.serving


@pytest.mark.parametrize(
    "path", ["/no/such/page", "/docs/", "/api/v1", "/api/v1/containers/", "/api/v2/containers"]
)
def test_unknown_page_is_404(path: str, nginx: Endpoint) -> None:
    """What does not exist is 404, by the API, and names what was asked for."""
    assert nginx.ask(path).problem(404)["instance"] == path


@pytest.mark.parametrize("path", ["/api/v1/containers", "/livez", "/nginx-health", "/no/such/page"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_other_methods_are_405(method: str, path: str, nginx: Endpoint) -> None:
    """Whatever does not read is refused at the door, whatever it asks for."""
    answer = nginx.ask(path, method, {"Content-Type": "application/json"}, b"{}")
    answer.problem(405)
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_body_that_is_too_large_is_413(nginx: Endpoint) -> None:
    """A body is not read beyond a limit, by whatever method."""
    nginx.ask("/livez", headers={"Content-Length": "1000000"}).problem(413)


def test_long_request_is_refused(nginx: Endpoint) -> None:
    """A request line or a header beyond all use has its own error."""
    nginx.ask("/" + "x" * 10_000).problem(414)
    nginx.ask("/livez", headers={"X-Long": "x" * 10_000}).problem(431)
