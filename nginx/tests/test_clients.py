"""Who the client is, and how much it may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .recorder import Recorder
from .role import UNLIMITED, before
from .test_log import logged

if TYPE_CHECKING:
    from pathlib import Path

    from .role import Role


def seen(role: Role, api: Recorder, given: str | None) -> str:
    """The client that the API is told of, when the header says something."""
    api.reset()
    role.ask("/page", headers={} if given is None else {"X-Forwarded-For": given})
    return api.arrivals[0].headers["x-forwarded-for"]


def test_nobody_is_trusted_unless_it_is_said(tmp_path: Path) -> None:
    """The client is who is at the other end of the connection, whatever it says about itself."""
    api = Recorder()
    with before(api, tmp_path, **UNLIMITED) as role:
        for given in (None, "6.6.6.6", "127.0.0.1, 6.6.6.6", "nonsense"):
            assert seen(role, api, given) == "127.0.0.1"
        headers = {"X-Real-IP": "6.6.6.6", "X-Forwarded-Proto": "https", "Forwarded": "for=6.6.6.6"}
        role.ask("/page", headers=headers)
        told = api.arrivals[-1].headers
        assert told["x-forwarded-proto"] == "http"
        assert not told.keys() & {"x-real-ip", "forwarded"}


def test_trusted_proxy_tells_who_the_client_is(tmp_path: Path) -> None:
    """The last address that is not a trusted proxy's: what is before it may be made up."""
    api = Recorder()
    trusted = "127.0.0.0/8,10.1.2.3,fd00::/8"
    with before(api, tmp_path, TRUSTED_PROXIES=trusted, **UNLIMITED) as role:
        for given, client in {
            None: "127.0.0.1",
            "203.0.113.7": "203.0.113.7",
            "6.6.6.6, 203.0.113.7": "203.0.113.7",
            "6.6.6.6, 203.0.113.7, 10.1.2.3": "203.0.113.7",
            "203.0.113.7, fd12::1, 10.1.2.3": "203.0.113.7",
            "6.6.6.6, 10.1.2.4": "10.1.2.4",
            "2001:db8::1": "2001:db8::1",
            "nonsense": "127.0.0.1",
        }.items():
            assert seen(role, api, given) == client, given
        role.ask("/page", headers={"X-Forwarded-Proto": "https"})
        role.ask("/page", headers={"X-Forwarded-Proto": "gopher"})
        told = [arrival.headers["x-forwarded-proto"] for arrival in api.arrivals[-2:]]
        assert told == ["https", "http"]


def test_log_has_the_client_and_who_brought_it(tmp_path: Path) -> None:
    """A rate that is exceeded can be laid at somebody's door."""
    with before(Recorder(), tmp_path, TRUSTED_PROXIES="127.0.0.1", **UNLIMITED) as role:
        headers = {"X-Request-ID": "behind", "X-Forwarded-For": "203.0.113.7"}
        role.ask("/page", headers=headers)
        line = logged(role, "behind")
    assert (line["source.ip"], line["client.ip"]) == ("127.0.0.1", "203.0.113.7")


LIMITED = {"RATE_LIMIT": "1", "RATE_BURST": "3"}


@pytest.mark.parametrize("path", ["/page", "/api/v1/containers"])
def test_client_that_asks_too_much_is_429(path: str, tmp_path: Path) -> None:
    """Past the burst it is told to come back, and the API does not hear of it."""
    api = Recorder()
    with before(api, tmp_path, **LIMITED) as role:
        answers = [role.ask(f"{path}?{number}") for number in range(8)]
        assert [answer.status for answer in answers] == [200] * 4 + [429] * 4
        assert len(api.arrivals) == 4
        assert answers[-1].problem()["title"] == "Too Many Requests"
        assert answers[-1].headers["Retry-After"] == "1"
        assert answers[-1].headers["Cache-Control"] == "no-store"
        # The probes of whoever runs this are no clients.
        assert {role.ask("/nginx-health").status for _ in range(20)} == {200}
        assert "limiting requests" not in role.errors.read_text()


def test_clients_do_not_pay_for_each_other(tmp_path: Path) -> None:
    """Each has a limit of its own, behind a proxy too, and cannot get another by a header."""
    api = Recorder()
    with before(api, tmp_path, TRUSTED_PROXIES="127.0.0.1", **LIMITED) as role:

        def ask(client: str) -> int:
            return role.ask("/page", headers={"X-Forwarded-For": client}).status

        assert [ask("203.0.113.1") for _ in range(5)] == [200] * 4 + [429]
        assert [ask("203.0.113.2") for _ in range(5)] == [200] * 4 + [429]
        assert ask("203.0.113.3, 203.0.113.2") == 429


def test_limit_is_raised_by_its_setting(tmp_path: Path) -> None:
    """Who measures sets it out of the way."""
    with before(Recorder(), tmp_path, **UNLIMITED) as role:
        assert {role.ask("/page").status for _ in range(300)} == {200}
