"""How requests share one source, and that none waits longer than the limit."""

from __future__ import annotations

import threading
import time
from traceback import walk_tb
from typing import TYPE_CHECKING

import pytest
from slipway_api.metrics import Metrics
from slipway_api.sources import Container, SourceError, SourceTimeout
from slipway_api.sources import shared as module
from slipway_api.sources.shared import Listing, Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class GatedSource:
    """Counts calls; each waits until the gate is open, and then answers or fails."""

    name = "docker"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.error: Exception | None = None
        self.calls = 0
        self.times: list[float] = []

    def containers(self) -> tuple[Container, ...]:
        """List nothing."""
        self.calls += 1
        self.times.append(time.monotonic())
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return ()


def join_calls() -> None:
    """Wait until no call is under way, be it one that nobody waits for any more."""
    for thread in threading.enumerate():
        if thread.name == "source":
            thread.join(5)


@pytest.fixture
def source() -> Iterator[GatedSource]:
    """Make a source whose gate is shut, and open it at the end so that no thread is left."""
    gated = GatedSource()
    try:
        yield gated
    finally:
        gated.gate.set()
        join_calls()


class Told(Metrics):
    """Keeps the outcomes of calls, and how long each took."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.seconds: list[float] = []

    def called(self, source: str, outcome: str, seconds: float) -> None:
        """Keep them."""
        assert source == "docker"
        self.outcomes.append(outcome)
        self.seconds.append(seconds)

    def listed(self, states: Iterable[str]) -> None:
        """Take the states of no container."""
        assert list(states) == []


def sharing(source: GatedSource, limit: float) -> Shared:
    """Share a source, and tell nobody."""
    return Shared(source, limit, Told())


class Clock:
    """The clock that `Shared` reads: a test sets it forward, in the place of waiting.

    Attributes:
        ahead: By how many seconds.
    """

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """Return what `time.monotonic` would, then."""
        return time.monotonic() + self.ahead


LONG = 30.0
"""Seconds that no test takes, however busy the machine is."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have lists serve and failures be repeated until the clock is set forward by ``LONG``."""
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(module, "HOLD", LONG)
    monkeypatch.setattr(module, "INTERVAL", LONG)
    return made


def gather(count: int, ask: Callable[[], Listing]) -> list[Listing | SourceError]:
    """Ask from many threads at once; return what each got."""
    outcomes: list[Listing | SourceError] = []

    def one() -> None:
        try:
            outcomes.append(ask())
        except SourceError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return outcomes


def test_concurrent_requests_share_one_call(source: GatedSource) -> None:
    """Who asks while a call is under way gets its answer, and no further call is made."""
    shared = sharing(source, 5.0)
    threading.Timer(0.2, source.gate.set).start()
    outcomes = gather(20, shared.listing)
    assert len(outcomes) == 20
    assert all(isinstance(outcome, Listing) for outcome in outcomes)
    assert source.calls == 1


def test_source_is_called_once_an_interval(source: GatedSource, clock: Clock) -> None:
    """However many requests come, in turn and at once, there is a call in each, and it is counted.

    The first list of each interval is new, and the others of that interval are the same.
    """
    source.gate.set()
    told = Told()
    shared = Shared(source, LONG, told)
    lists: list[Listing | SourceError] = []
    for number in (1, 2, 3):
        for _ in range(3):
            lists += gather(8, shared.listing)
        assert source.calls == number
        assert len({id(listing) for listing in lists}) == number
        clock.ahead += LONG
    assert told.outcomes == ["ok"] * 3


def test_list_serves_for_an_interval(source: GatedSource, clock: Clock) -> None:
    """A list serves until its time is over, counted from when it was asked for, not longer."""
    source.gate.set()
    shared = sharing(source, LONG)
    first = shared.listing()
    assert shared.listing() is first
    assert source.calls == 1
    clock.ahead += LONG
    assert shared.listing() is not first
    assert source.calls == 2


def test_list_that_took_longer_than_it_serves(source: GatedSource, clock: Clock) -> None:
    """What comes late is the answer of those who wait for it, and of nobody after them."""
    shared = sharing(source, LONG)

    def late() -> None:
        clock.ahead += LONG
        source.gate.set()

    threading.Timer(0.2, late).start()
    first = shared.listing()
    assert shared.listing() is not first


def test_interval_is_within_the_promise() -> None:
    """There is at most one call a second."""
    assert module.INTERVAL == 1.0


def test_failure_is_not_kept_as_long_as_a_list(
    source: GatedSource, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a list is kept says nothing about a failure."""
    monkeypatch.setattr(module, "INTERVAL", 9 * LONG)
    source.gate.set()
    source.error = SourceError("Docker cannot be reached")
    shared = sharing(source, 5.0)
    with pytest.raises(SourceError):
        shared.listing()
    source.error = None
    clock.ahead += LONG
    assert shared.listing().containers == ()


@pytest.mark.usefixtures("clock")
def test_call_that_hangs_is_given_up(source: GatedSource) -> None:
    """Whatever a call hangs in, everybody has an answer within the limit of the first."""
    shared = sharing(source, 0.3)
    start = time.monotonic()
    outcomes = gather(20, shared.listing)
    # The call hangs for 30 s, and twenty limits are 6 s.
    assert time.monotonic() - start < 5
    assert {str(outcome) for outcome in outcomes} == {"Docker did not answer within 0.3 s"}
    assert source.calls == 1


def test_failure_is_repeated_for_a_moment(source: GatedSource, clock: Clock) -> None:
    """After a call that hung, requests fail at once for a moment, then the source is asked."""
    limit = 1.5
    shared = sharing(source, limit)
    with pytest.raises(SourceError):
        shared.listing()
    start = time.monotonic()
    with pytest.raises(SourceError):
        shared.listing()
    assert time.monotonic() - start < limit
    assert source.calls == 1
    source.gate.set()
    join_calls()
    clock.ahead += limit + LONG
    assert shared.listing().containers == ()
    assert source.calls == 2


def test_error_is_repeated_for_a_moment(source: GatedSource, clock: Clock) -> None:
    """The same for a source that fails at once; its sentence is what everybody gets."""
    source.gate.set()
    source.error = SourceError("Docker cannot be reached")
    shared = sharing(source, 5.0)
    for _ in range(3):
        with pytest.raises(SourceError, match=r"^Docker cannot be reached$"):
            shared.listing()
    assert source.calls == 1
    source.error = None
    clock.ahead += LONG
    assert shared.listing().containers == ()


def test_hold_is_within_the_promise() -> None:
    """A failure is held for at most a second, so that recovery is seen within five."""
    assert module.HOLD <= 1.0


def test_calls_that_hang_are_bounded(source: GatedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many calls hang, no more are made, and it says so; when they end, it recovers."""
    monkeypatch.setattr(module, "HOLD", 0.0)
    monkeypatch.setattr(module, "MOST_CALLS", 2)
    shared = sharing(source, 0.02)
    for _ in range(2):
        with pytest.raises(SourceError, match="did not answer"):
            shared.listing()
    with pytest.raises(SourceError, match=r"^Docker has left 2 calls unanswered$"):
        shared.listing()
    assert source.calls == 2
    source.gate.set()
    deadline = time.monotonic() + 5
    while True:
        try:
            shared.listing()
        except SourceError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            break


def test_defect_reaches_the_caller(source: GatedSource) -> None:
    """What is not the source's failure is passed on as it is."""
    source.gate.set()
    source.error = ZeroDivisionError("x")
    with pytest.raises(ZeroDivisionError):
        sharing(source, 1.0).listing()


def test_failure_is_logged_once_with_its_cause(
    source: GatedSource, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has what the answer leaves out, once a call and not once a request."""
    source.gate.set()
    source.error = SourceError("Docker cannot be reached")
    source.error.__cause__ = OSError("tcp://10.0.0.1: refused")
    shared = sharing(source, 5.0)
    gather(5, shared.listing)
    assert [record.getMessage() for record in caplog.records] == [
        "Docker cannot be reached: tcp://10.0.0.1: refused"
    ]


def test_system_without_threads(source: GatedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system starts no thread it is a failure, and the next request asks again."""
    source.gate.set()
    shared = sharing(source, 1.0)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(SourceError, match="no thread"):
            shared.listing()
    assert shared.listing().containers == ()


def test_outcome_of_each_call_is_told_once(
    source: GatedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call counts once, however many wait for it: when it ends, or when it is given up."""
    monkeypatch.setattr(module, "HOLD", 0.0)
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    told = Told()
    limit = 1.5
    shared = Shared(source, limit, told)
    gather(5, shared.listing)
    assert told.outcomes == ["timeout"]
    assert told.seconds == [limit]
    source.gate.set()
    join_calls()
    assert told.outcomes == ["timeout"]
    shared.listing()
    for source.error in (SourceError("no"), SourceTimeout("late"), ZeroDivisionError("x")):
        with pytest.raises(type(source.error)):
            shared.listing()
    assert told.outcomes == ["timeout", "ok", "error", "timeout", "error"]
    assert all(seconds < limit for seconds in told.seconds[1:])


def test_repeated_failure_keeps_nothing_of_those_who_were_told(source: GatedSource) -> None:
    """Each request gets an error of its own; one that all raise would grow with every one."""
    source.gate.set()
    source.error = SourceTimeout("late")
    shared = sharing(source, 5.0)
    told = []
    for _ in range(3):
        with pytest.raises(SourceTimeout, match=r"^late$") as caught:
            shared.listing()
        told.append(caught.value)
    assert source.calls == 1
    assert len(set(map(id, told))) == 3
    assert {len(list(walk_tb(source.error.__traceback__)))} == {2}
