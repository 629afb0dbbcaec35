"""Health while everything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = pytest.mark.serving


@pytest.mark.parametrize(
    "path",
    ["/nginx-health", "/livez", "/healthz", pytest.param("/readyz", marks=pytest.mark.source)],
)
def test_health_is_good(path: str, nginx: Endpoint) -> None:
    """Nginx, the API's process and the API's source are each well, and say so within 2 s."""
    answer = nginx.ask(path)
    assert answer.json()["status"] == "ok"
    assert answer.seconds < 2
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/livez", "/nginx-health", "/no/such/page"])
def test_request_id_comes_back(path: str, nginx: Endpoint) -> None:
    """The word that a client gives a request is on the answer, whoever answers."""
    answer = nginx.ask(path, headers={"X-Request-ID": "verify-1"})
    assert answer.headers.get_all("X-Request-ID") == ["verify-1"]


@pytest.mark.parametrize("path", ["/livez", "/nginx-health", "/no/such/page"])
def test_no_version_is_told(path: str, nginx: Endpoint) -> None:
    """No answer names the software's version."""
    assert not any(character.isdigit() for character in nginx.ask(path).headers["Server"])
