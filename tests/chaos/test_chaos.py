"""What is done to the system while it is asked, and what comes of it.

Two loads ask all the time, in new connections, and try nothing again (`tests.load`). *Failed* is
any request without a whole answer of 200. Who loses a part of the system that is behind others is
told so: by 503 as problem details, within `ANSWER`, and by nothing else.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.conftest import Loads, children, described, kill, until
from tests.chaos.slow import Crowd
from tests.stack import is_ready

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.chaos.hanging import Hanging
    from tests.load import Answers
    from tests.stack import Stack

    Loading = Callable[[Stack], AbstractContextManager[Loads]]

pytestmark = pytest.mark.docker

ANSWER = 2.0
"""Seconds within which an answer says that the source is gone."""
NOTICED = 4.0
"""Seconds after a loss from which on nothing but 503 is answered: Nginx's copy of the list is good
for up to 2 s, and then the API waits 1.5 s for its source."""
RECOVERY = 5.0
"""Seconds after a return from which on nothing but 200 is answered."""
OUTAGE = 8.0
"""Seconds that a loss lasts."""
WORKERS = 2
"""What gunicorn and Nginx have each, by their settings."""


def fail_nothing(loads: Loads, system: Stack) -> None:
    """Hold that each answer of both loads was 200."""
    for answers in loads.both.values():
        assert len(answers.items) > 50
        assert not answers.failed, described(answers, *system.apis, system.nginx)


def noted(loads: Loads, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - what is worth keeping
    """Return what is kept of a test."""
    return {**more, "loads": {name: answers.figures() for name, answers in loads.both.items()}}


def test_killed_workers_fail_no_answer(
    system: Stack, loaded: Loading, record: dict[str, Any]
) -> None:
    """Each worker of the API is killed; Nginx asks again, and gunicorn begins another one."""
    (api,) = system.apis
    before = children(api)
    assert len(before) == WORKERS
    took = []
    with loaded(system) as loads:
        for worker in sorted(before):
            kill(api, worker)
            took.append(
                until(
                    lambda gone=worker: (
                        (now := children(api))
                        and gone not in now  # type: ignore[misc]
                        and len(now) == WORKERS
                    ),
                    10,
                    "another worker is there",
                )
            )
            time.sleep(1)
    record["worker killed"] = noted(loads, times=len(took), replaced_s=round(max(took), 1))
    assert not before & children(api)
    fail_nothing(loads, system)


def test_api_that_takes_new_workers_fails_no_answer(
    system: Stack, loaded: Loading, record: dict[str, Any]
) -> None:
    """On SIGHUP gunicorn begins new workers, and the old ones finish what they have."""
    (api,) = system.apis
    before = children(api)
    with loaded(system) as loads:
        api.kill("SIGHUP")
        took = until(
            lambda: not before & (now := children(api)) and len(now) == WORKERS,
            20,
            "all workers are new",
        )
        time.sleep(1)
    record["API reloaded"] = noted(loads, replaced_s=round(took, 1))
    fail_nothing(loads, system)


def test_restarted_apis_fail_no_answer(
    pair: Stack, loaded: Loading, record: dict[str, Any]
) -> None:
    """Of two APIs one is restarted after the other; what one has no time for, the other answers."""
    took = []
    with loaded(pair) as loads:
        for api, url in zip(pair.apis, pair.api_urls, strict=True):
            began = time.monotonic()
            api.restart(timeout=20)
            until(lambda at=url: is_ready(at), 30, "the API is ready again")  # type: ignore[misc]
            took.append(time.monotonic() - began)
            time.sleep(1)
    record["APIs restarted in turn"] = noted(loads, took_s=round(max(took), 1))
    fail_nothing(loads, pair)


def test_restart_of_the_only_api_fails_no_list(
    system: Stack, loaded: Loading, record: dict[str, Any]
) -> None:
    """Nginx's copy stands in for it; who asks for what has no copy is told that nobody is there."""
    (api,) = system.apis
    with loaded(system) as loads:
        began = time.monotonic()
        api.restart(timeout=20)
        until(lambda: is_ready(system.url), 30, "the API is ready again")
        took = time.monotonic() - began
        time.sleep(1)
    record["the only API restarted"] = noted(loads, took_s=round(took, 1))
    assert not loads.list.all.failed, described(loads.list.all, api, system.nginx)
    missed = loads.fresh.all.failed
    # Otherwise nothing was restarted.
    assert missed
    assert {each.outcome for each in missed} <= {"502", "504"}, loads.fresh.all.told()
    assert all(each.problem for each in missed)


def hold_outage(answers: Answers, system: Stack, lost: float, back: float) -> float:
    """Hold what is promised while the source is gone; return the seconds until it was over."""
    told = described(answers, system.socket_proxy, *system.apis)
    # Otherwise nothing was lost.
    assert answers.failed, told
    for each in answers.failed:
        assert each.outcome == "503", told
        assert each.problem, told
        assert each.done - each.due <= ANSWER, told
        assert each.done >= lost, told
    # Who waited for a call that hung, and got its answer when it went on, was served.
    gone = [each for each in answers.between(lost + NOTICED, back).items if each.done < back]
    assert len(gone) > 50
    assert {each.outcome for each in gone} == {"503"}, told
    over = max(each.done for each in answers.failed) - back
    assert over <= RECOVERY, told
    again = answers.between(back + RECOVERY, back + 60)
    assert len(again.items) > 10
    assert not again.failed, told
    return over


def outage(loads: Loads, system: Stack, lost: float, back: float) -> dict[str, Any]:
    """Hold what is promised of both loads; return what is worth keeping."""
    over = [hold_outage(answers, system, lost, back) for answers in loads.both.values()]
    first = [answers.failed[0].due - lost for answers in loads.both.values()]
    longest = [
        max(each.done - each.due for each in answers.failed) for answers in loads.both.values()
    ]
    return noted(
        loads,
        gone_s=round(back - lost, 1),
        noticed_s=round(max(0.0, *first), 1),
        longest_s=round(max(longest), 2),
        recovered_s=round(max(0.0, *over), 1),
    )


def test_stopped_socket_proxy_is_told_as_503_and_is_over_in_5_s(
    system: Stack, loaded: Loading, record: dict[str, Any]
) -> None:
    """Without a way to Docker there is no list, and no old one is taken for it."""
    with loaded(system) as loads:
        lost = time.monotonic()
        system.socket_proxy.stop(timeout=10)
        time.sleep(OUTAGE)
        back = time.monotonic()
        system.socket_proxy.start()
        time.sleep(RECOVERY + 2)
    record["socket proxy stopped"] = outage(loads, system, lost, back)


def test_docker_that_hangs_is_told_as_503_and_is_over_in_5_s(
    system: Stack, way: Hanging, loaded: Loading, record: dict[str, Any]
) -> None:
    """A Docker that takes calls and answers none costs nobody more than the limit."""
    with loaded(system) as loads:
        lost = time.monotonic()
        way.hang()
        try:
            time.sleep(OUTAGE)
        finally:
            back = time.monotonic()
            way.go_on()
        time.sleep(RECOVERY + 2)
    record["Docker paused"] = outage(loads, system, lost, back)


def test_reloaded_nginx_fails_no_answer(
    system: Stack, loaded: Loading, record: dict[str, Any]
) -> None:
    """Old processes finish what they have while new ones serve."""
    times = 3
    with loaded(system) as loads:
        for _ in range(times):
            before = children(system.nginx)
            system.nginx.kill("SIGHUP")
            until(
                lambda old=before: len(children(system.nginx) - old) >= WORKERS,  # type: ignore[misc]
                10,
                "new processes are there",
            )
            time.sleep(1)
    record["Nginx reloaded"] = noted(loads, times=times)
    fail_nothing(loads, system)


def test_slow_and_half_open_clients_keep_nobody_waiting(
    system: Stack, loaded: Loading, record: dict[str, Any]
) -> None:
    """Who is slow is let go within seconds, and nobody else notices that there was somebody."""
    with loaded(system) as loads, Crowd(system.url) as crowd:
        ended = crowd.wait()
    record["slow clients"] = noted(
        loads, clients=len(crowd), ended_s={kind: round(s, 1) for kind, s in ended.items()}
    )
    fail_nothing(loads, system)
    for answers in loads.both.values():
        assert answers.percentile(0.99) < ANSWER / 2, answers.told()
