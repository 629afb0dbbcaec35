"""What Nginx adds to the answers of the API, and what it keeps from it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from .endpoint import within

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = pytest.mark.serving

LIST = "/api/v1/containers"


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6detrics"]
)
def test_metrics_are_not_for_outside(path: str, nginx: Endpoint) -> None:
    """What the API tells those who measure it stays inside, however it is asked for."""
    nginx.ask(path).problem(403)


@pytest.mark.parametrize("path", ["/livez", "/nginx-health", "/no/such/page", "/metrics", LIST])
def test_browser_is_told_to_be_careful(path: str, nginx: Endpoint) -> None:
    """Every answer says so, whoever gives it, and says it once."""
    headers = nginx.ask(path).headers
    assert headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert headers.get_all("X-Frame-Options") == ["DENY"]
    assert headers.get_all("Referrer-Policy") == ["no-referrer"]
    (policy,) = headers.get_all("Content-Security-Policy") or [""]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/no/such/page", "/metrics", f"{LIST}?state=sleeping"])
def test_problem_has_the_id_of_its_request(path: str, nginx: Endpoint) -> None:
    """What a user reads out is what stands in the logs."""
    answer = nginx.ask(path, headers={"X-Request-ID": "verify-2"})
    assert json.loads(answer.body)["request_id"] == "verify-2"


@pytest.mark.source
def test_list_is_kept_for_a_moment(nginx: Endpoint) -> None:
    """The second of two requests is answered with the copy of the first, and says so."""

    def twice() -> None:
        first, second = nginx.ask(LIST), nginx.ask(LIST)
        assert second.headers["Cache-Status"] == "slipway-nginx; hit"
        if first.headers["Cache-Status"] != "slipway-nginx; hit":
            assert "fwd=" in first.headers["Cache-Status"]
        assert second.json()["as_of"] >= first.json()["as_of"]
        assert second.headers["Cache-Control"] == "max-age=1"

    within(3, twice)


def test_text_is_compressed_for_who_takes_it(nginx: Endpoint) -> None:
    """The same content, in fewer bytes."""
    packed = nginx.ask("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert gzip.decompress(packed.body) == nginx.ask("/openapi.json").body
    assert len(packed.body) < len(gzip.decompress(packed.body))
