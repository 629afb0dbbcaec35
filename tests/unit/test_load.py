"""The load generator of the tests sees every failure, against a server that makes them."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute

from tests import load
from tests.load import Answer, Answers, Generator, Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import SocketStream

    Serve = Callable[[SocketStream, int], Awaitable[None]]

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]
WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def answer(due: float, seconds: float = 0.01, outcome: str = load.OK) -> Answer:
    """Return an answer that took some seconds."""
    return Answer(due, due, due + seconds, outcome)


def answers(*items: Answer) -> Answers:
    """Return a load of these."""
    return Answers("http://127.0.0.1/", 10, keep_alive=False, items=items)


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Target]:
    """Serve on the loopback interface; ``serve`` has a connection and its number."""
    count = 0

    async def one(stream: SocketStream) -> None:
        nonlocal count
        count += 1
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await serve(stream, count)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, one)
        port = listener.extra(SocketAttribute.local_port)
        yield Target.parse(f"http://127.0.0.1:{port}/api/v1/containers")
        tasks.cancel_scope.cancel()


async def read_request(stream: SocketStream) -> bytes:
    """Return the head of one request."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive()
    return head


def replying(*parts: bytes) -> Serve:
    """Return a server that answers each connection with these bytes and closes it."""

    async def serve(stream: SocketStream, _number: int) -> None:
        await read_request(stream)
        for part in parts:
            await stream.send(part)

    return serve


async def counted(
    serve: Serve, *, requests: int = 4, keep_alive: bool = False, limit: float = 5.0
) -> dict[str, int]:
    """Return what a load of some requests counts against a server."""
    async with serving(serve) as target:
        generator = Generator(target, 100, requests / 100, keep_alive, limit)
        return (await generator.run()).counts


async def test_counts_every_answer_of_200() -> None:
    """What is answered as it should be is counted so, each request once."""
    assert await counted(replying(WELL), requests=20) == {"200": 20}


async def test_knows_problem_details_from_any_other_error() -> None:
    """What an error says of itself is what a client can make something of."""

    async def serve(stream: SocketStream, number: int) -> None:
        await read_request(stream)
        kind = b"application/problem+json" if number == 1 else b"text/html"
        await stream.send(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: %b\r\nContent-Length: 0\r\n\r\n"
            % kind
        )

    async with serving(serve) as target:
        found = await Generator(target, 10, 0.2).run()
    assert [(each.outcome, each.problem) for each in found.items] == [("503", True), ("503", False)]


async def test_counts_an_error_by_its_status() -> None:
    """A 503 is a failure, and told from the answers around it."""

    async def serve(stream: SocketStream, number: int) -> None:
        await read_request(stream)
        await stream.send(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
            if number == 2
            else WELL
        )

    assert await counted(serve) == {"200": 3, "503": 1}


@pytest.mark.parametrize(
    "parts",
    [(), (b"HTTP/1.1 200 OK\r\nContent-Le",), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",)],
    ids=["before the answer", "within its head", "within its body"],
)
async def test_counts_a_connection_that_is_closed_too_soon(parts: tuple[bytes, ...]) -> None:
    """An answer that is not whole is none, whatever its status was to be."""
    assert await counted(replying(*parts)) == {load.CLOSED: 4}


async def test_counts_a_connection_that_is_reset() -> None:
    """A server that is killed resets what it had."""

    async def serve(stream: SocketStream, _number: int) -> None:
        await read_request(stream)
        raw = stream.extra(SocketAttribute.raw_socket)
        # With nothing to linger for, closing is resetting.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert await counted(serve) == {load.RESET: 4}


async def test_counts_a_refused_connection(free_port: int) -> None:
    """Where nobody listens, every request is a failure."""
    target = Target.parse(f"http://127.0.0.1:{free_port}/")
    found = await Generator(target, 100, 0.04).run()
    assert found.counts == {load.REFUSED: 4}
    assert "(never connected)" in found.told()


async def test_counts_a_request_that_is_not_answered_in_time() -> None:
    """A server that hangs is a failure after the limit, which counts from when it was due."""

    async def serve(_stream: SocketStream, _number: int) -> None:
        await anyio.sleep_forever()

    began = time.monotonic()
    assert await counted(serve, limit=0.2) == {load.TIMED_OUT: 4}
    assert time.monotonic() - began < 2


async def test_counts_what_is_no_http() -> None:
    """Something that answers is not yet the system."""
    assert await counted(replying(b"SSH-2.0-OpenSSH_10\r\n\r\n")) == {load.MALFORMED: 4}


async def test_sends_on_when_nothing_comes_back() -> None:
    """The clock alone says when a request is sent, or slow servers would look well."""

    async def serve(stream: SocketStream, _number: int) -> None:
        await read_request(stream)
        await anyio.sleep(0.5)
        await stream.send(WELL)

    async with serving(serve) as target:
        began = time.monotonic()
        found = await Generator(target, 50, 0.4).run()
    assert len(found.items) == 20
    assert time.monotonic() - began < 2
    assert found.percentile(0.5) >= 0.5
    assert max(each.sent - each.due for each in found.items) < 0.3


async def test_counts_what_is_too_much_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on what is in flight makes failures, and never a lower rate."""
    monkeypatch.setattr(load, "MOST_IN_FLIGHT", 2)

    async def serve(_stream: SocketStream, _number: int) -> None:
        await anyio.sleep_forever()

    assert await counted(serve, limit=0.5) == {load.TIMED_OUT: 2, load.UNSENT: 2}


async def test_stops_when_told_and_counts_what_is_in_flight() -> None:
    """A load that is ended early loses none of what it has sent."""

    async def serve(stream: SocketStream, _number: int) -> None:
        await read_request(stream)
        await anyio.sleep(0.1)
        await stream.send(WELL)

    async with serving(serve) as target, anyio.create_task_group() as tasks:
        generator = Generator(target, 100, 60)

        async def stop() -> None:
            await anyio.sleep(0.2)
            generator.stop()

        tasks.start_soon(stop)
        found = await generator.run()
    assert 5 < len(found.items) < 60
    assert set(found.counts) == {load.OK}


async def test_uses_a_connection_again_when_asked_to() -> None:
    """With keep-alive, one connection serves requests that do not overlap."""
    connections = 0

    async def serve(stream: SocketStream, number: int) -> None:
        nonlocal connections
        connections = number
        while True:
            await read_request(stream)
            await stream.send(WELL)

    assert await counted(serve, requests=10, keep_alive=True) == {"200": 10}
    assert connections < 10


async def test_opens_a_connection_anew_when_the_other_side_has_closed_it() -> None:
    """What is known to be closed is not used, which every client knows to avoid."""
    assert await counted(replying(WELL), requests=8, keep_alive=True) == {"200": 8}


async def test_counts_a_used_connection_that_is_closed_under_a_request() -> None:
    """What was sent and not answered is a failure on a used connection as well."""

    async def serve(stream: SocketStream, _number: int) -> None:
        await read_request(stream)
        await stream.send(WELL)
        await read_request(stream)

    async with serving(serve) as target:
        found = await Generator(target, 20, 0.3, keep_alive=True).run()
    assert {each.reused for each in found.failed} == {True}
    assert found.counts[load.CLOSED] == len(found.failed) > 0


async def test_numbers_its_requests_where_it_is_told_to() -> None:
    """Each asks for something else, so that what stands between does not answer for the server."""
    asked: list[bytes] = []

    async def serve(stream: SocketStream, _number: int) -> None:
        asked.append((await read_request(stream)).split()[1])
        await stream.send(WELL)

    async with serving(serve) as target:
        numbered = Target.parse(f"{target.url}?name=x&n={{n}}")
        await Generator(numbered, 100, 0.03).run()
    assert sorted(asked) == [b"/api/v1/containers?name=x&n=%d" % each for each in range(3)]


@pytest.mark.parametrize("url", ["http://8.8.8.8/", "https://127.0.0.1/", "http://example.com/"])
def test_loads_nobody_but_this_machine_and_its_networks(url: str) -> None:
    """A load is nothing that may hit somebody by a slip."""
    with pytest.raises(ValueError):  # noqa: PT011 - which of the two sentences does not matter
        Target.parse(url)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (501, 1), (1, 0), (1, 901)])
def test_refuses_what_exceeds_its_bounds(rate: float, seconds: float) -> None:
    """A load has a bounded rate and a bounded time."""
    with pytest.raises(ValueError, match="to"):
        Generator(Target.parse("http://127.0.0.1/"), rate, seconds)


def test_in_flight_at_a_moment() -> None:
    """A request is in flight from when it is sent until it is over."""
    found = answers(answer(1.0, 0.5), answer(1.2, 0.1), answer(1.4, 0.1))
    assert found.in_flight(1.25) == found.items[:2]
    assert found.in_flight(2.0) == ()


def test_percentile_is_of_the_answers_that_came() -> None:
    """What failed has no time of an answer; with nothing there is no figure."""
    found = answers(*(answer(0, n / 100) for n in range(1, 101)), answer(0, 9, load.REFUSED))
    assert found.percentile(0.5) == pytest.approx(0.5)
    assert found.percentile(0.99) == pytest.approx(0.99)
    assert math.isnan(answers().percentile(0.5))


def test_per_second_counts_failures_apart() -> None:
    """The plot is made of these."""
    found = answers(answer(10.1), answer(10.9), answer(11.5, outcome="502"))
    assert list(found.per_second(10, 13)) == [(0, 2, 0), (1, 0, 1), (2, 0, 0)]


def test_two_loads_are_told_as_one() -> None:
    """Answers of both stand in the order of their times."""
    both = answers(answer(1), answer(3)).with_(answers(answer(2, outcome="503")))
    assert [each.due for each in both.items] == [1, 2, 3]
    assert both.counts == {"200": 2, "503": 1}
    assert "1 x 503" in both.told()
    assert both.between(1.5, 3).counts == {"503": 1}


def test_runs_as_a_program_until_it_is_told_to_end(tmp_path: Path, free_port: int) -> None:
    """SIGTERM ends a load early, and its file has everything that was counted."""
    out = tmp_path / "answers.json"
    argv = [sys.executable, "-m", "tests.load", "--rate", "50", "--seconds", "60"]
    process = subprocess.Popen(
        [*argv, "--out", str(out), f"http://127.0.0.1:{free_port}/"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(1.5)
        process.terminate()
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    found = Answers.load(out)
    assert found.counts == {load.REFUSED: len(found.items)}
    assert 0 < len(found.items) < 200
    assert f"{len(found.items)} x refused" in said
    assert found.figures()["failed"] == len(found.items)
