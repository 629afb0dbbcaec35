"""The Docker socket is gone: the system says so at once, and stays up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .endpoint import within

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = pytest.mark.outage


@pytest.mark.parametrize("path", ["/livez", "/nginx-health"])
def test_processes_are_well(path: str, nginx: Endpoint) -> None:
    """Liveness has nothing to do with Docker: a restart would not bring it back."""
    answer = nginx.ask(path)
    assert answer.json()["status"] == "ok"
    assert answer.seconds < 2


@pytest.mark.parametrize("path", ["/readyz", "/api/v1/containers", "/api/v1/containers?state=all"])
def test_source_is_missed_within_2_s(path: str, nginx: Endpoint) -> None:
    """Readiness and the list answer 503 within 2 s, each time that they are asked.

    A copy of the list is good for a second or two when Docker goes away, and no longer.
    """

    def missed() -> None:
        answer = nginx.ask(path)
        assert answer.seconds < 2
        details = answer.problem(503)
        assert details["instance"] == path.partition("?")[0]

    within(3, missed)
    for _ in range(3):
        missed()


@pytest.mark.parametrize("path", ["/_ping", "/version", "/containers/json"])
def test_socket_proxy_answers_within_2_s(path: str, socket_proxy: Endpoint) -> None:
    """The socket proxy does not hang on a socket that is gone; a daemon that hangs is 504."""
    answer = socket_proxy.ask(path)
    answer.problem(504 if answer.status == 504 else 502)
    assert answer.seconds < 2


def test_rules_still_hold(nginx: Endpoint, socket_proxy: Endpoint) -> None:
    """What was refused is refused as before, and a wrong call is still the client's mistake."""
    nginx.ask("/api/v1/containers", "POST").problem(405)
    nginx.ask("/no/such/page").problem(404)
    nginx.ask("/api/v1/containers?state=sleeping").problem(400)
    socket_proxy.ask("/info").problem(403)
