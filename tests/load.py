"""A load generator at a constant rate, which counts every answer.

    python -m tests.load --rate 40 --seconds 60 --out FILE http://10.96.0.20:8080/PATH

Rules:

- Open loop: when a request is sent depends on the clock alone. A server that gets slow gets no
  fewer requests, and the wait counts from when the request was due.
- `{n}` in the path stands for the number of the request: so no cache has an answer yet.
- Nothing is tried again. What a client sees is what is counted: an answer by its status, everything
  else by what went wrong (`Outcome`).
- Bounded: in rate, time, requests in flight, and in whom it may be pointed at (loopback and private
  addresses).
- Times are those of the monotonic clock, which all processes of a machine share: what a test did
  at a moment can be held against what was in flight at it.

SIGTERM ends the sending; what is in flight is waited for and counted, then the file is written.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import math
import select
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import h11
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anyio.abc import SocketStream

ROOT = Path(__file__).resolve().parents[1]
MOST_RATE = 500.0
MOST_SECONDS = 900.0
MOST_IN_FLIGHT = 512
"""With more than these unanswered, a request that is due counts as failed without being sent."""
LIMIT = 10.0
"""Seconds from when a request is due until its answer is there; Nginx gives up after 5 s."""
BODY_LIMIT = 1 << 20
PROBLEM = b"application/problem+json"
_START_LIMIT = 15.0
"""Seconds in which the process of a load must have begun, on a busy machine too."""

OK = "200"
REFUSED = "refused"
RESET = "reset"
CLOSED = "closed"
TIMED_OUT = "time-out"
MALFORMED = "malformed"
UNREACHABLE = "unreachable"
UNSENT = "unsent"
"""What may come instead of a status: nobody listens; the connection was reset; it was closed before
the answer was whole; nothing whole came in time; it was no HTTP; no way there; too many in
flight."""


class Answer(NamedTuple):
    """What became of one request, in seconds of the monotonic clock.

    Attributes:
        due: When it was to be sent.
        sent: When it was begun, with the connection.
        done: When it was over.
        outcome: The status, or what came instead.
        reused: Whether it went over a connection that had served another one before.
        connected: When it had its connection; 0 when it never had one.
        problem: Whether the answer says of itself that it is problem details (RFC 9457).
    """

    due: float
    sent: float
    done: float
    outcome: str
    reused: bool = False
    connected: float = 0.0
    problem: bool = False

    @property
    def failed(self) -> bool:
        """Whether it is anything but an answer of 200."""
        return self.outcome != OK


@dataclass(frozen=True, slots=True)
class Answers:
    """All answers of one load, in the order in which the requests were due.

    Attributes:
        url: What was asked for.
        rate: Requests in a second.
        keep_alive: Whether connections were used again.
        items: The answers.
    """

    url: str
    rate: float
    keep_alive: bool
    items: tuple[Answer, ...]

    @property
    def failed(self) -> tuple[Answer, ...]:
        """Every request that was not answered with 200."""
        return tuple(each for each in self.items if each.failed)

    @property
    def counts(self) -> dict[str, int]:
        """How often each outcome was had, the most frequent first."""
        return dict(Counter(each.outcome for each in self.items).most_common())

    def percentile(self, part: float) -> float:
        """Return the seconds within which this part (0 to 1) of the answers of 200 came.

        Not a number when there is none.
        """
        taken = sorted(each.done - each.due for each in self.items if not each.failed)
        if not taken:
            return math.nan
        return taken[max(0, math.ceil(part * len(taken)) - 1)]

    def in_flight(self, moment: float) -> tuple[Answer, ...]:
        """Return the requests that were begun and not over at a moment."""
        return tuple(each for each in self.items if each.sent <= moment <= each.done)

    def between(self, first: float, last: float) -> Answers:
        """Return what was due from one moment to another."""
        items = tuple(each for each in self.items if first <= each.due < last)
        return Answers(self.url, self.rate, self.keep_alive, items)

    def with_(self, other: Answers) -> Answers:
        """Return this and another load as one."""
        items = tuple(sorted(self.items + other.items))
        rate = self.rate + other.rate
        return Answers(self.url, rate, self.keep_alive or other.keep_alive, items)

    def per_second(self, began: float, ended: float) -> Iterator[tuple[float, int, int]]:
        """Yield each second after ``began``, with how many were well and how many failed."""
        well: Counter[int] = Counter()
        badly: Counter[int] = Counter()
        for each in self.items:
            (badly if each.failed else well)[int(each.due - began)] += 1
        for second in range(int(ended - began)):
            yield float(second), well[second], badly[second]

    def told(self) -> str:
        """Return it in one line, with the first failures for who looks for their cause."""
        counts = ", ".join(f"{count} x {outcome}" for outcome, count in self.counts.items())
        began = self.items[0].due if self.items else 0.0
        first = "; ".join(
            f"{each.outcome} at {each.due - began:.2f} s after {each.done - each.due:.3f} s"
            + ("" if each.connected else " (never connected)")
            + (" (connection used before)" if each.reused else "")
            for each in self.failed[:20]
        )
        took = " and ".join(f"{self.percentile(part) * 1000:.0f}" for part in (0.5, 0.99))
        said = (
            f"{len(self.items)} requests at {self.rate:g}/s: {counts}; half and 99 % in {took} ms"
        )
        return f"{said}; {first}" if first else said

    def figures(self) -> dict[str, Any]:
        """Return what is worth keeping of it."""
        return {
            "requests": len(self.items),
            "rate": self.rate,
            "keep_alive": self.keep_alive,
            "outcomes": self.counts,
            "failed": len(self.failed),
            "median_ms": _milliseconds(self.percentile(0.5)),
            "p99_ms": _milliseconds(self.percentile(0.99)),
            "longest_ms": _milliseconds(self.percentile(1.0)),
        }

    def save(self, file: Path) -> None:
        """Write it to a file."""
        value = {
            "url": self.url,
            "rate": self.rate,
            "keep_alive": self.keep_alive,
            "items": [list(each) for each in self.items],
        }
        file.write_text(json.dumps(value), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Answers:
        """Return what `save` wrote."""
        value = json.loads(file.read_text(encoding="utf-8"))
        items = tuple(Answer(*each) for each in value["items"])
        return cls(value["url"], value["rate"], value["keep_alive"], items)


def _milliseconds(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(seconds * 1000, 1)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go.

    Attributes:
        url: ``http://ADDRESS:PORT/PATH``.
        address: An IP address, loopback or private.
        port: The port.
        path: What is asked for; ``{n}`` in it stands for the number of the request.
    """

    url: str
    address: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read a URL.

        Raises:
            ValueError: It is not plain HTTP to an address on the loopback interface or in a private
                network; a name could lead anywhere.
        """
        parts = urlsplit(url)
        address = ipaddress.ip_address(parts.hostname or "")
        if parts.scheme != "http" or not (address.is_loopback or address.is_private):
            raise ValueError(f"{url} is not plain HTTP to a loopback or private address")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(url, str(address), parts.port or 80, path)

    def numbered(self, number: int) -> str:
        """Return the path of one request."""
        return self.path.replace("{n}", str(number))


@dataclass(slots=True)
class Generator:
    """One load.

    Args:
        target: Where the requests go.
        rate: Requests in a second.
        seconds: For how long.
        keep_alive: Use connections again, as a proxy or a browser does.
        limit: Seconds that one request may take.

    Raises:
        ValueError: A bound is exceeded.
    """

    target: Target
    rate: float
    seconds: float
    keep_alive: bool = False
    limit: float = LIMIT
    _answers: list[Answer] = field(default_factory=list)
    _idle: list[_Connection] = field(default_factory=list)
    _in_flight: int = 0
    _stopped: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        if not 0 < self.rate <= MOST_RATE:
            raise ValueError(f"the rate is from 0 to {MOST_RATE:g} a second, not {self.rate:g}")
        if not 0 < self.seconds <= MOST_SECONDS:
            raise ValueError(f"a load takes up to {MOST_SECONDS:g} s, not {self.seconds:g}")

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()

    async def run(self) -> Answers:
        """Send all requests; return when the last one is over."""
        began = time.monotonic()
        try:
            async with anyio.create_task_group() as tasks:
                for number in range(math.floor(self.rate * self.seconds)):
                    due = began + number / self.rate
                    with anyio.move_on_after(max(0.0, due - time.monotonic())):
                        await self._stopped.wait()
                    if self._stopped.is_set():
                        break
                    if self._in_flight >= MOST_IN_FLIGHT:
                        now = time.monotonic()
                        self._answers.append(Answer(due, now, now, UNSENT))
                        continue
                    self._in_flight += 1
                    tasks.start_soon(self._one, number, due)
        finally:
            with anyio.CancelScope(shield=True):
                for connection in self._idle:
                    await anyio.aclose_forcefully(connection.stream)
        return Answers(self.target.url, self.rate, self.keep_alive, tuple(sorted(self._answers)))

    async def _one(self, number: int, due: float) -> None:
        sent = time.monotonic()
        connection: _Connection | None = None
        reused = False
        connected = 0.0
        problem = False
        outcome = TIMED_OUT
        try:
            with anyio.move_on_after(max(0.0, due + self.limit - sent)):
                try:
                    connection = await self._kept()
                    reused = connection is not None
                    if connection is None:
                        stream = await anyio.connect_tcp(self.target.address, self.target.port)
                        connection = _Connection(stream)
                    connected = time.monotonic()
                    outcome = await connection.ask(
                        self.target, self.target.numbered(number), keep_alive=self.keep_alive
                    )
                    problem = connection.problem
                except (OSError, anyio.BrokenResourceError) as error:
                    outcome = _why(error)
        finally:
            # What is said is of the request; closing the connection is no part of it.
            over = time.monotonic()
            self._answers.append(Answer(due, sent, over, outcome, reused, connected, problem))
            self._in_flight -= 1
            if connection is not None:
                if self.keep_alive and connection.reusable:
                    self._idle.append(connection)
                else:
                    with anyio.CancelScope(shield=True):
                        await anyio.aclose_forcefully(connection.stream)

    async def _kept(self) -> _Connection | None:
        """Return a connection that is still open on both sides, as far as can be known."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
            await anyio.aclose_forcefully(connection.stream)
        return None


class _Connection:
    """One connection to the target, with its place in the protocol."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._protocol = h11.Connection(h11.CLIENT)
        self._ended = False
        self.problem = False
        """Whether the last answer was problem details."""

    @property
    def open(self) -> bool:
        """Whether the other side has neither closed it nor sent what nobody asked for."""
        raw = self.stream.extra(SocketAttribute.raw_socket)
        return not select.select([raw], [], [], 0)[0]

    @property
    def reusable(self) -> bool:
        """Whether both sides are willing to go on with another request."""
        states = (self._protocol.our_state, self._protocol.their_state)
        if states != (h11.DONE, h11.DONE):
            return False
        self._protocol.start_next_cycle()
        return True

    async def ask(self, target: Target, path: str, *, keep_alive: bool) -> str:
        """Return the status of the answer to one request when it is whole, or what came instead.

        Raises:
            OSError, anyio.BrokenResourceError: The connection broke.
        """
        headers = [
            ("Host", f"{target.address}:{target.port}"),
            ("User-Agent", "slipway-load"),
            ("Connection", "keep-alive" if keep_alive else "close"),
        ]
        request = h11.Request(method="GET", target=path, headers=headers)
        asked = self._protocol.send(request) or b""
        asked += self._protocol.send(h11.EndOfMessage()) or b""
        await self.stream.send(asked)
        status = ""
        size = 0
        self.problem = False
        while True:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError:
                # Too soon an end is no bad HTTP, but a connection that was closed.
                return CLOSED if self._ended else MALFORMED
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Response):
                status = str(event.status_code)
                self.problem = (b"content-type", PROBLEM) in event.headers
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > BODY_LIMIT:
                    return MALFORMED
            elif isinstance(event, h11.EndOfMessage):
                return status

    async def _receive(self) -> None:
        try:
            self._protocol.receive_data(await self.stream.receive())
        except anyio.EndOfStream:
            self._ended = True
            self._protocol.receive_data(b"")


def _why(error: BaseException) -> str:
    """Return what an error of a connection is called here."""
    causes: list[BaseException] = [error]
    while causes:
        cause = causes.pop()
        if isinstance(cause, ConnectionRefusedError):
            return REFUSED
        if isinstance(cause, (ConnectionResetError, BrokenPipeError)):
            return RESET
        if isinstance(cause, TimeoutError):
            return TIMED_OUT
        if isinstance(cause, BaseExceptionGroup):
            causes += cause.exceptions
        following = cause.__cause__ or cause.__context__
        if following is not None:
            causes.append(following)
    return RESET if isinstance(error, anyio.BrokenResourceError) else UNREACHABLE


async def _until_told(generator: Generator) -> Answers:
    """Run a load that SIGTERM and SIGINT end before its time."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                async for _ in signals:
                    generator.stop()

            tasks.start_soon(listen)
            answers = await generator.run()
            tasks.cancel_scope.cancel()
    return answers


@dataclass(slots=True)
class Load:
    """A load that runs; its answers are there when it was ended."""

    answers: Answers | None = None

    @property
    def all(self) -> Answers:
        """The answers of the whole load."""
        assert self.answers is not None, "the load still runs"
        return self.answers


@contextlib.contextmanager
def running(  # noqa: PLR0913 - those of a load, by name
    url: str,
    out: Path,
    *,
    rate: float,
    keep_alive: bool = False,
    seconds: float = 600.0,
    within: Sequence[str] = (),
) -> Iterator[Load]:
    """Ask at a constant rate, from a process of its own, as long as this is entered.

    A second passes before what is within begins, and another one after it.

    Args:
        url: As `Target.parse` takes it.
        out: The file for all answers.
        rate: Requests in a second.
        keep_alive: Whether connections are used again.
        seconds: For how long at most.
        within: A command that runs the one that follows it, such as in another network.
    """
    argv = [sys.executable, "-m", "tests.load", f"--rate={rate:g}", f"--seconds={seconds:g}"]
    argv += [f"--out={out}", *(["--keep-alive"] if keep_alive else []), url]
    load = Load()
    with subprocess.Popen(
        [*within, *argv], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            _first_line(process)
            # A second of it before anything happens: one that fails from the start is seen so.
            time.sleep(1)
            yield load
            time.sleep(1)
            process.terminate()
            told, _ = process.communicate(timeout=30)
            assert process.returncode == 0, told
            load.answers = Answers.load(out)
            sys.stdout.write(f"load: {told}\n")
        finally:
            process.kill()


def _first_line(process: subprocess.Popen[str]) -> None:
    """Return when a load says that it has begun."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(_START_LIMIT), "the load does not begin"
    line = process.stdout.readline()
    assert line, f"the load ended with {process.wait(10)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one load from the command line; its answers go to a file, a line about them to stdout."""
    parser = argparse.ArgumentParser(prog="python -m tests.load")
    parser.add_argument("url", help="http://ADDRESS:PORT/PATH, loopback or private")
    parser.add_argument("--rate", type=float, required=True, help="requests in a second")
    parser.add_argument("--seconds", type=float, required=True, help="how long at most")
    parser.add_argument("--keep-alive", action="store_true", help="use connections again")
    parser.add_argument("--out", type=Path, required=True, help="the file for all answers")
    given = parser.parse_args(argv)
    try:
        target = Target.parse(given.url)
        generator = Generator(target, given.rate, given.seconds, given.keep_alive)
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(f"{given.rate:g} requests a second to {given.url}\n")
    sys.stdout.flush()
    answers = anyio.run(_until_told, generator)
    answers.save(given.out)
    sys.stdout.write(answers.told() + "\n")


if __name__ == "__main__":
    main()
