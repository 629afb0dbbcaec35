"""How requests share one source, and that none waits longer than the limit."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from slipway_api.sources import Container, SourceError
from slipway_api.sources import shared as module
from slipway_api.sources.shared import Listing, Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class GatedSource:
    """Counts calls; each waits until the gate is open, and then answers or fails."""

    name = "docker"

    def __init__(self) -> None:
        self.keep = 0.0
        self.gate = threading.Event()
        self.error: Exception | None = None
        self.calls = 0

    def containers(self) -> tuple[Container, ...]:
        """List nothing."""
        self.calls += 1
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return ()


@pytest.fixture
def source() -> Iterator[GatedSource]:
    """Make a source whose gate is shut, and open it at the end so that no thread is left."""
    gated = GatedSource()
    try:
        yield gated
    finally:
        gated.gate.set()
        for thread in threading.enumerate():
            if thread.name == "source":
                thread.join(5)


@pytest.fixture
def short_hold(monkeypatch: pytest.MonkeyPatch) -> float:
    """Shorten the time for which a failure is repeated."""
    monkeypatch.setattr(module, "HOLD", 0.1)
    return 0.1


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
    shared = Shared(source, 5.0)
    threading.Timer(0.2, source.gate.set).start()
    outcomes = gather(20, shared.listing)
    assert len(outcomes) == 20
    assert all(isinstance(outcome, Listing) for outcome in outcomes)
    assert source.calls == 1


def test_list_is_not_kept_unless_the_source_says_so(source: GatedSource) -> None:
    """Each request that finds no call under way makes a new one."""
    source.gate.set()
    shared = Shared(source, 5.0)
    first, second = shared.listing(), shared.listing()
    assert source.calls == 2
    assert first.as_of <= second.as_of


def test_list_is_kept_as_long_as_the_source_says(source: GatedSource) -> None:
    """A list serves until its time is over, counted from when it was asked for, not longer."""
    source.keep = 0.3
    source.gate.set()
    shared = Shared(source, 5.0)
    first = shared.listing()
    assert shared.listing() is first
    assert source.calls == 1
    time.sleep(0.3)
    assert shared.listing().as_of > first.as_of
    assert source.calls == 2


def test_failure_is_not_kept_as_long_as_a_list(source: GatedSource, short_hold: float) -> None:
    """How long a list is kept says nothing about a failure."""
    source.keep = 30.0
    source.gate.set()
    source.error = SourceError("Docker cannot be reached")
    shared = Shared(source, 5.0)
    with pytest.raises(SourceError):
        shared.listing()
    source.error = None
    time.sleep(short_hold * 1.5)
    assert shared.listing().containers == ()


def test_call_that_hangs_is_given_up(source: GatedSource) -> None:
    """Whatever a call hangs in, everybody has an answer within the limit of the first."""
    shared = Shared(source, 0.3)
    start = time.monotonic()
    outcomes = gather(20, shared.listing)
    assert time.monotonic() - start < 1.0
    assert {str(outcome) for outcome in outcomes} == {"Docker did not answer within 0.3 s"}
    assert source.calls == 1


def test_failure_is_repeated_for_a_moment(source: GatedSource, short_hold: float) -> None:
    """After a call that hung, requests fail at once for a moment, then the source is asked."""
    shared = Shared(source, 0.1)
    with pytest.raises(SourceError):
        shared.listing()
    start = time.monotonic()
    with pytest.raises(SourceError):
        shared.listing()
    assert time.monotonic() - start < short_hold / 2
    assert source.calls == 1
    source.gate.set()
    time.sleep(short_hold)
    assert shared.listing().containers == ()
    assert source.calls == 2


def test_error_is_repeated_for_a_moment(source: GatedSource, short_hold: float) -> None:
    """The same for a source that fails at once; its sentence is what everybody gets."""
    source.gate.set()
    source.error = SourceError("Docker cannot be reached")
    shared = Shared(source, 5.0)
    for _ in range(3):
        with pytest.raises(SourceError, match=r"^Docker cannot be reached$"):
            shared.listing()
    assert source.calls == 1
    source.error = None
    time.sleep(short_hold * 1.5)
    assert shared.listing().containers == ()


def test_hold_is_within_the_promise() -> None:
    """A failure is held for at most a second, so that recovery is seen within five."""
    assert module.HOLD <= 1.0


def test_calls_that_hang_are_bounded(source: GatedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many calls hang, no more are made, and it says so; when they end, it recovers."""
    monkeypatch.setattr(module, "HOLD", 0.0)
    monkeypatch.setattr(module, "MOST_CALLS", 2)
    shared = Shared(source, 0.02)
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
        Shared(source, 1.0).listing()


def test_failure_is_logged_once_with_its_cause(
    source: GatedSource, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has what the answer leaves out, once a call and not once a request."""
    source.gate.set()
    source.error = SourceError("Docker cannot be reached")
    source.error.__cause__ = OSError("tcp://10.0.0.1: refused")
    shared = Shared(source, 5.0)
    gather(5, shared.listing)
    assert [record.getMessage() for record in caplog.records] == [
        "Docker cannot be reached: tcp://10.0.0.1: refused"
    ]


def test_system_without_threads(source: GatedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system starts no thread it is a failure, and the next request asks again."""
    source.gate.set()
    shared = Shared(source, 1.0)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(SourceError, match="no thread"):
            shared.listing()
    assert shared.listing().containers == ()
