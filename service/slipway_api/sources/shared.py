"""A source that many requests ask at once, within a limit of time.

Rules:

- At most one call is waited for at a time; who asks meanwhile gets its answer. Its list serves
  further requests until ``INTERVAL`` after the call was made. So there is at most one call a
  second, however many requests come: a list costs Docker, or the database of a cluster, more than
  it costs whoever asks for it.
- Nobody waits longer than the limit, whatever the call hangs in: a name look-up, for one, takes no
  timeout. The call is left to its thread, which ends when the system lets it.
- A failure is repeated for ``HOLD`` seconds without asking again, so that a queue of requests is
  answered at once when Docker hangs, instead of one limit after the other.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from slipway_api.sources import SourceError, SourceTimeout

if TYPE_CHECKING:
    from slipway_api.metrics import Metrics
    from slipway_api.sources import Container, Source

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds for which a list serves, counted from when the source was asked for it."""

HOLD = 1.0
"""Seconds for which a failure is repeated."""

MOST_CALLS = 16
"""How many calls may hang; glibc gives up a name after 10 s for each search domain."""


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A list of containers, and when the source was asked for it (UTC); equal to itself alone."""

    containers: tuple[Container, ...]
    as_of: datetime


@dataclass(slots=True)
class _Call:
    """A call to the source.

    Attributes:
        started: When it was made, on the monotonic clock.
        deadline: When it counts as failed, on the same clock.
        joined_until: Until when a request takes this call's outcome instead of asking anew.
        given_up: Whether somebody has waited for it in vain.
    """

    started: float
    deadline: float
    joined_until: float
    given_up: bool = False
    future: Future[Listing] = field(default_factory=Future)


class Shared:
    """Shares one source between threads.

    Args:
        source: Whom to ask.
        limit: Seconds that a call may take.
        metrics: Told of each call, and of each list.
    """

    def __init__(self, source: Source, limit: float, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics
        self._title = source.name.capitalize()  # it begins a sentence
        self._limit = limit
        self._lock = threading.Lock()
        self._call: _Call | None = None
        self._running = 0

    @property
    def name(self) -> str:
        """The source's name."""
        return self._source.name

    def listing(self) -> Listing:
        """List all containers; takes at most the limit.

        Raises:
            SourceError: The list cannot be had, or not within the limit.
        """
        call = self._join()
        try:
            error = call.future.exception(max(0.0, call.deadline - time.monotonic()))
        except TimeoutError as late:
            with self._lock:
                first, call.given_up = not call.given_up, True
            if first:
                self._metrics.called(self.name, "timeout", self._limit)
            raise SourceTimeout(f"{self._title} did not answer within {self._limit:g} s") from late
        if isinstance(error, SourceError):
            # A new one for each request: one that all of them raise would keep, in its traceback,
            # the frames of each, with all that they hold.
            raise type(error)(*error.args) from error
        return call.future.result()

    def _join(self) -> _Call:
        with self._lock:
            now = time.monotonic()
            if self._call is not None and now < self._call.joined_until:
                return self._call
            if self._running >= MOST_CALLS:
                raise SourceError(f"{self._title} has left {self._running} calls unanswered")
            deadline = now + self._limit
            call = self._call = _Call(started=now, deadline=deadline, joined_until=deadline + HOLD)
            # A daemon, so that a call that hangs does not keep the process from ending. Started
            # within the lock, so that the call is undone when the system has no thread for it.
            thread = threading.Thread(target=self._run, args=(call,), name="source", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._call = None
                raise SourceError(
                    f"{self._title} was not asked, because the system has no thread for it"
                ) from error
            self._running += 1
            return call

    def _run(self, call: _Call) -> None:
        as_of = datetime.now(UTC)
        try:
            listing = Listing(self._source.containers(), as_of)
        except BaseException as error:  # noqa: BLE001 - goes to whoever waits for the future
            if isinstance(error, SourceError):
                log.warning("%s: %s", error, error.__cause__)
            outcome = "timeout" if isinstance(error, SourceTimeout) else "error"
            self._finish(call, outcome, joined_until=time.monotonic() + HOLD)
            call.future.set_exception(error)
        else:
            self._finish(call, "ok", joined_until=call.started + INTERVAL)
            self._metrics.listed(item.state for item in listing.containers)
            call.future.set_result(listing)

    def _finish(self, call: _Call, outcome: str, *, joined_until: float) -> None:
        with self._lock:
            self._running -= 1
            call.joined_until = joined_until
            counted = call.given_up
        if not counted:
            self._metrics.called(self.name, outcome, time.monotonic() - call.started)
