"""The micro-cache of the list: what is asked for once, what may be old, and what is never kept.

nginx counts whole seconds, so "fresh for 1 s" is 1 to 2 s, and what may stand in for 8 s more is at
most 10 s old.
"""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from .recorder import Recorder
from .role import UNLIMITED, before, until

if TYPE_CHECKING:
    from pathlib import Path

    from .role import Answer, Role

LIST = "/api/v1/containers"

KEPT = {"Cache-Control": "max-age=1, stale-while-revalidate=8, stale-if-error=8"}
"""What the API says about a list."""
LOST = {"Cache-Control": "no-store", "X-Accel-Expires": "1", "Retry-After": "1"}
"""What it says about a list that cannot be had."""

HIT = "slipway-nginx; hit"
MISS = "slipway-nginx; fwd=miss"
FORWARDED = "slipway-nginx; fwd=stale"
WHILE_REVALIDATE = "slipway-nginx; hit; detail=stale-while-revalidate"
IF_ERROR = "slipway-nginx; hit; detail=stale-if-error"


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """A list that no other test has asked for."""
    return f"{LIST}?name={request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def api(api: Recorder) -> Recorder:
    """The recorder, which answers as the API does when it has a list."""
    api.headers = dict(KEPT)
    return api


def state(answer: Answer) -> str | None:
    """What an answer says of the cache."""
    found: str | None = answer.headers["Cache-Status"]
    return found


def many(role: Role, path: str, number: int = 20) -> list[Answer]:
    """Ask a number of times at once."""
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(role.ask, [path] * number))


def await_searches_gone(role: Role) -> float:
    """Wait until no copy of a query is left; return as ``until``.

    nginx looks for what is to go whenever it has read its configuration, then as often as there may
    be something, and every 10 s where there was nothing.
    """
    role.process.send_signal(signal.SIGHUP)
    return until(lambda: not list((role.prefix / "searches").iterdir()))


@pytest.mark.waits(2)
def test_list_is_asked_for_once_a_second(path: str, proxy: Role, api: Recorder) -> None:
    """The first request goes to the API, those of the next second are answered with its copy."""
    first = proxy.ask(path)
    again = proxy.ask(path)
    assert (state(first), state(again)) == (MISS, HIT)
    assert (first.status, first.body) == (again.status, again.body) == (200, b"[]\n")
    assert len(api.arrivals) == 1
    api.body = b"[1]\n"
    assert until(lambda: state(proxy.ask(path)) == FORWARDED) < 2
    assert proxy.ask(path).body == b"[1]\n"
    assert len(api.arrivals) == 2


@pytest.mark.waits(0.6)
def test_requests_at_once_are_one_at_the_api(path: str, proxy: Role, api: Recorder) -> None:
    """Without a copy, the others wait for the one that asks."""
    api.delay = 0.3
    answers = many(proxy, path)
    assert len(api.arrivals) == 1
    assert {(each.status, each.body) for each in answers} == {(200, b"[]\n")}
    assert sorted(map(state, answers), key=str) == [MISS] + [HIT] * 19
    # nginx looks every 0.5 s whether the copy is there, and would let them go after 1.7 s.
    assert max(each.seconds for each in answers) < 1.6


@pytest.mark.waits(2.1)
def test_old_copy_serves_while_a_new_one_is_fetched(proxy: Role, api: Recorder) -> None:
    """One request fetches, the others get the old copy meanwhile, and it is marked as that."""
    # That of a query might be gone before it is old.
    path = f"{LIST}?state=running"
    proxy.ask(path)
    time.sleep(2.1)
    api.body = b"[1]\n"
    api.held = release = threading.Event()
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(proxy.ask, path) for _ in range(20)]
        until(lambda: [each.done() for each in asked].count(True) == 19)
        release.set()
    assert len(api.arrivals) == 2
    found = sorted((str(state(each.result())), each.result().body) for each in asked)
    assert found == [(FORWARDED, b"[1]\n")] + [(WHILE_REVALIDATE, b"[]\n")] * 19


@pytest.mark.waits(2.5)
def test_copies_go_when_nobody_asks_for_them(path: str, tmp_path: Path) -> None:
    """A query's soon: who comes then waits for news, one for all. A common list's when it must.

    So who asks for that every few seconds has a copy when the API goes away in between.
    """
    common = [LIST, f"{LIST}?state=all", f"{LIST}?state=exited"]
    api = Recorder(headers=dict(KEPT))
    with before(api, tmp_path, **UNLIMITED) as role:
        for each in (path, *common):
            role.ask(each)
        time.sleep(2.1)
        await_searches_gone(role)
        api.body = b"[1]\n"
        answers = many(role, path)
        assert {each.body for each in answers} == {b"[1]\n"}
        assert len(api.arrivals) == 5
        assert [state(role.ask(each)) for each in common] == [FORWARDED] * 3


def test_head_and_get_share_a_copy(path: str, proxy: Role, api: Recorder) -> None:
    """HEAD is GET without the body, for the API as well."""
    head = proxy.ask(path, "HEAD")
    get = proxy.ask(path)
    assert (state(head), state(get)) == (MISS, HIT)
    assert (head.status, head.body, get.body) == (200, b"", b"[]\n")
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == "3"
    assert api.lines() == [f"GET {path} HTTP/1.1"]


def test_options_is_not_kept(path: str, proxy: Role, api: Recorder) -> None:
    """Another method has no copy, and is no copy."""
    proxy.ask(path)
    for _ in range(2):
        assert state(proxy.ask(path, "OPTIONS")) is None
    assert api.lines() == [f"GET {path} HTTP/1.1", *[f"OPTIONS {path} HTTP/1.1"] * 2]


@pytest.mark.parametrize(
    "other",
    [
        "{path}&state=all",
        "{path}&",
        "{path}X",
        "/api/v1//containers?{query}",
        "/api/v1/%63ontainers?{query}",
        "/api/v1/x/../containers?{query}",
    ],
)
def test_each_list_has_its_own_copy(other: str, path: str, proxy: Role, api: Recorder) -> None:
    """What is asked for, letter by letter, is the name of the copy: nobody gets another's list."""
    other = other.format(path=path, query=path.partition("?")[2])
    proxy.ask(path)
    api.body = b"[1]\n"
    assert (state(proxy.ask(other)), proxy.ask(other).body) == (MISS, b"[1]\n")
    assert proxy.ask(path).body == b"[]\n"
    assert api.lines() == [f"GET {path} HTTP/1.1", f"GET {other} HTTP/1.1"]


def test_copy_has_nothing_of_the_client(path: str, proxy: Role, api: Recorder) -> None:
    """What one client says about itself cannot change what the others get."""
    given = {
        "Accept": "text/html",
        "Accept-Encoding": "gzip",
        "Accept-Language": "tlh",
        "Authorization": "Basic c2VjcmV0",
        "Cookie": "a=b",
        "If-None-Match": '"x"',
        "Origin": "https://elsewhere.test",
        "Range": "bytes=0-0",
        "X-Forwarded-Host": "elsewhere.test",
        "X-Forwarded-Prefix": "/elsewhere",
        "X-HTTP-Method-Override": "DELETE",
        "Content-Length": "2",
    }
    proxy.ask(path, headers=given, body=b"{}")
    (arrival,) = api.arrivals
    assert arrival.body == b""
    assert arrival.headers.keys() == {
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    }
    assert arrival.headers["x-forwarded-host"] == arrival.headers["host"] == "api"
    assert proxy.ask(path).body == b"[]\n"


def test_one_copy_serves_with_and_without_gzip(path: str, proxy: Role, api: Recorder) -> None:
    """The copy is plain, and compressed for who takes that."""
    api.body = b"[" + b"1," * 2000 + b"1]"
    packed = proxy.ask(path, headers={"Accept-Encoding": "gzip"})
    plain = proxy.ask(path)
    assert (state(packed), state(plain)) == (MISS, HIT)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.plain() == plain.body == api.body
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"


def test_request_id_is_not_that_of_the_copy(path: str, proxy: Role, api: Recorder) -> None:
    """Each request keeps its own id, whoever's request the copy came with."""
    api.headers["X-Request-ID"] = "first"
    for identity in ("first", "second"):
        answer = proxy.ask(path, headers={"X-Request-ID": identity})
        assert answer.headers.get_all("X-Request-ID") == [identity]
    assert [arrival.headers["x-request-id"] for arrival in api.arrivals] == ["first"]


def test_client_is_told_the_second_alone(path: str, proxy: Role, api: Recorder) -> None:
    """How long a copy may stand in is between nginx and the API: two such caches would add up."""
    assert proxy.ask(path).headers.get_all("Cache-Control") == ["max-age=1"]
    api.headers = {"Cache-Control": "no-store"}
    assert proxy.ask("/page").headers.get_all("Cache-Control") == ["no-store"]
    api.headers = {}
    assert proxy.ask("/page").headers.get_all("Cache-Control") is None


@pytest.mark.parametrize("status", [400, 404, 406, 500])
def test_other_answers_are_not_kept(status: int, path: str, proxy: Role, api: Recorder) -> None:
    """Only what the API says may be kept is."""
    api.status = status
    api.headers = {"Cache-Control": "no-store"}
    for _ in range(2):
        assert (proxy.ask(path).status, state(proxy.ask(path))) == (status, MISS)
    assert len(api.arrivals) == 4


@pytest.mark.parametrize("other", ["/", "/livez", "/readyz", f"{LIST}/abc", "/openapi.json"])
def test_other_pages_are_not_kept(other: str, proxy: Role, api: Recorder) -> None:
    """The cache is for the list; health above all is always asked for."""
    for _ in range(2):
        assert state(proxy.ask(other)) is None
    assert api.lines() == [f"GET {other} HTTP/1.1"] * 2


def problem_of_the_api(identity: str) -> bytes:
    """What the API answers when its source is gone."""
    return (
        b'{"type":"about:blank","title":"Service Unavailable","status":503,'
        b'"detail":"Docker cannot be reached.","instance":"%s","request_id":"%s"}'
        % (LIST.encode(), identity.encode())
    )


@pytest.mark.waits(5)
def test_503_of_the_api_is_passed_on(proxy: Role, api: Recorder) -> None:
    """However new the old list is: nobody takes it for the truth once the API knows better."""
    # That of a query might be gone before it is old.
    path = f"{LIST}?state=paused"
    proxy.ask(path)
    api.status = 503
    api.content_type = "application/problem+json"
    api.body = problem_of_the_api("of-the-api")
    api.headers = {**LOST, "X-Request-ID": "of-the-api"}
    time.sleep(2.1)
    answer = proxy.ask(path)
    assert answer.problem()["detail"] == "Docker cannot be reached."
    assert (answer.status, state(answer)) == (503, FORWARDED)
    assert answer.headers.get_all("Cache-Control") == ["no-store"]
    assert answer.headers["Retry-After"] == "1"
    assert "X-Accel-Expires" not in answer.headers
    assert [each.status for each in many(proxy, path)] == [503] * 20
    api.delay = 0.5
    time.sleep(2.1)
    assert [each.status for each in many(proxy, path)] == [503] * 20


def test_503_that_is_shared_has_the_id_of_each_request(
    path: str, proxy: Role, api: Recorder
) -> None:
    """One answer of the API serves who asks within the second, and each finds their own id."""
    api.status = 503
    api.content_type = "application/problem+json"
    api.body = problem_of_the_api("first")
    api.headers = {**LOST, "X-Request-ID": "first"}
    for identity, expected in (("first", MISS), ("second", HIT), ("third", HIT)):
        answer = proxy.ask(path, headers={"X-Request-ID": identity})
        assert state(answer) == expected
        assert answer.problem()["request_id"] == identity
        assert answer.headers.get_all("X-Request-ID") == [identity]
    assert len(api.arrivals) == 1


@pytest.mark.waits(2)
def test_list_is_back_when_the_source_is(path: str, proxy: Role, api: Recorder) -> None:
    """A 503 is kept for no longer than a list is."""
    api.status = 503
    api.headers = dict(LOST)
    proxy.ask(path)
    api.reset()
    assert until(lambda: proxy.ask(path).status == 200) < 2


@pytest.mark.waits(4)
def test_queries_do_not_fill_the_disk(path: str, tmp_path: Path) -> None:
    """However many queries somebody thinks out: all are served, and no copy stays for long."""
    paths = [f"{path}{number}" for number in range(300)]
    # Other ways to write a common one.
    paths += [f"/{number}/..{LIST}?state=all" for number in range(300)]
    api = Recorder(headers=dict(KEPT))
    with before(api, tmp_path, **UNLIMITED) as role:
        with ThreadPoolExecutor(8) as pool:
            assert {answer.status for answer in pool.map(role.ask, paths)} == {200}
        assert len(api.arrivals) == 600
        assert await_searches_gone(role) < 5
        assert "[alert]" not in role.errors.read_text()
