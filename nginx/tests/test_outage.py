"""What is behind nginx goes away and comes back; each test runs a role of its own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from .ports import new_port
from .recorder import Recorder
from .role import LIMIT, UNLIMITED, Role, before, running, until
from .test_cache import IF_ERROR, KEPT, LIST, LOST, WHILE_REVALIDATE, many, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_api_that_is_gone_is_502_until_it_is_back(tmp_path: Path) -> None:
    """Without an API the answer is 502 at once; the first request after its return is served."""
    port = new_port()
    with running("proxy", tmp_path, {"API_UPSTREAM": f"127.0.0.1:{port}"}) as role:
        for _ in range(3):
            answer = role.ask("/livez")
            assert answer.status == 502
            assert answer.problem()["instance"] == "/livez"
            assert answer.headers["Retry-After"] == "1"
            assert answer.seconds < 2
        with Recorder().listening(("127.0.0.1", port)):
            assert role.ask("/livez").status == 200


def test_read_whose_connection_was_cut_is_tried_again(tmp_path: Path) -> None:
    """Up to four times in all: behind the one address there may be others that are well."""
    with before(api := Recorder(), tmp_path) as role:
        for dropped, status in ((3, 200), (4, 502)):
            api.reset()
            api.dropped = dropped
            assert role.ask("/livez").status == status
            assert api.lines() == ["GET /livez HTTP/1.1"] * 4


def test_read_that_fails_is_tried_once_more_on_another_upstream(tmp_path: Path) -> None:
    """Where several are named: with one gone every request is served, with both cut none."""
    ports = new_port(), new_port()
    upstream = ",".join(f"127.0.0.1:{port}" for port in ports)
    with (
        running("proxy", tmp_path, {"API_UPSTREAM": upstream, **UNLIMITED}) as role,
        Recorder().listening(("127.0.0.1", ports[0])) as first,
    ):
        assert [role.ask("/livez").status for _ in range(6)] == [200] * 6
        assert len(first.arrivals) == 6
        with Recorder().listening(("127.0.0.1", ports[1])) as second:
            for method in ("GET", "HEAD", "OPTIONS"):
                first.reset()
                second.reset()
                first.dropped = second.dropped = 9
                assert role.ask("/livez", method).status == 502
                assert first.lines() == second.lines() == [f"{method} /livez HTTP/1.1"]
                first.dropped = 0
                assert role.ask("/livez", method).status == 200


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[tuple[Role, Recorder, tuple[str, int]]]:
    """A proxy of one's own, before an API that a test starts and stops."""
    address = ("127.0.0.1", new_port())
    settings = {"API_UPSTREAM": f"{address[0]}:{address[1]}", **UNLIMITED}
    with running("proxy", tmp_path, settings) as role:
        yield role, Recorder(headers=dict(KEPT)), address


@pytest.mark.waits(10)
def test_old_copy_stands_in_for_an_api_that_is_gone(
    lonely: tuple[Role, Recorder, tuple[str, int]],
) -> None:
    """For 10 s at most, and marked; then, and where there is no copy, it is 502."""
    role, api, address = lonely
    with api.listening(address):
        # The API does not say that this one may stand in. It is old no later than the other.
        api.headers = {}
        role.ask(f"{LIST}?state=all")
        api.headers = dict(KEPT)
        role.ask(LIST)
    gone = time.monotonic()
    assert role.ask(f"{LIST}?state=exited").status == 502
    assert until(lambda: state(role.ask(LIST)) == IF_ERROR) < 2
    answer = role.ask(LIST)
    assert (answer.status, answer.body) == (200, b"[]\n")
    assert answer.headers["Cache-Control"] == "max-age=1"
    assert role.ask(f"{LIST}?state=all").status == 502
    began = time.monotonic()
    assert began - gone + until(lambda: role.ask(LIST).status == 502) < 10
    assert time.monotonic() - gone > 6
    problem = role.ask(LIST)
    assert problem.problem()["title"] == "Bad Gateway"
    assert problem.headers["Cache-Control"] == "no-store"
    with api.listening(address):
        assert role.ask(LIST).status == 200


@pytest.mark.waits(4)
def test_old_copy_does_not_outlive_a_503(
    lonely: tuple[Role, Recorder, tuple[str, int]],
) -> None:
    """The last word of an API that went away was that its source is lost: no list stands in."""
    role, api, address = lonely
    with api.listening(address):
        role.ask(LIST)
        api.status = 503
        api.headers = dict(LOST)
        until(lambda: role.ask(LIST).status == 503)
    until(lambda: role.ask(LIST).status == 502)
    assert [each.status for each in many(role, LIST)] == [502] * 20


@pytest.mark.waits(7)
def test_api_that_hangs_costs_a_bounded_time(
    lonely: tuple[Role, Recorder, tuple[str, int]],
) -> None:
    """Who fetches gives up after a time, and then has the copy that the others have at once.

    Where there is no copy, it is 504.
    """
    role, api, address = lonely
    with api.listening(address):
        role.ask(LIST)
        time.sleep(2.1)
        api.delay = 7
        with ThreadPoolExecutor(2) as pool:
            fetching = pool.submit(role.ask, LIST)
            waiting = pool.submit(role.ask, "/page")
            until(lambda: len(api.arrivals) == 3)
            other = role.ask(LIST)
            assert (state(other), other.status) == (WHILE_REVALIDATE, 200)
            # It did not wait for the one that fetches, which nginx lets wait for 1.7 s.
            assert other.seconds < 1.5
            answer, problem = fetching.result(LIMIT), waiting.result(LIMIT)
        assert (state(answer), answer.status) == (IF_ERROR, 200)
        assert problem.status == 504
        detail = "The server behind this proxy did not answer in time."
        assert problem.problem()["detail"] == detail
        # After 5 s. The API would have answered after 7 s, and a second try would make it 10 s.
        assert 4 < answer.seconds < 7
        assert 4 < problem.seconds < 7


def test_docker_that_is_gone_is_502_until_it_is_back(tmp_path: Path) -> None:
    """Without a socket the answer is 502 at once; the first call after its return is served."""
    path = tmp_path / "docker.sock"
    with running("socket-proxy", tmp_path, {"DOCKER_SOCKET": str(path)}) as role:
        for _ in range(3):
            answer = role.ask("/containers/json")
            assert answer.status == 502
            assert answer.problem()["title"] == "Bad Gateway"
            assert answer.seconds < 2
        assert role.ask("/info").status == 403
        with Recorder().listening(path) as docker:
            assert role.ask("/containers/json").status == 200
        assert docker.lines() == ["GET /containers/json HTTP/1.1"]
        # The socket file stands, and nobody listens.
        assert path.exists()
        assert role.ask("/containers/json").status == 502
