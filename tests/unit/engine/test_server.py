"""Tests of the endpoint: who is let in, what is no request, and what a client that goes leaves."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline.engine import server as module
from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.tree import Tree

from .bench import run, session, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import SocketStream

    from .bench import Bench

pytestmark = pytest.mark.anyio
TOKEN = base64.b64encode(b"token:").decode()
VERSION = json.dumps({"query": "{version}"})


@contextlib.asynccontextmanager
async def listening(bench: Bench) -> AsyncIterator[int]:
    """Serve a session's endpoint; yield its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, bench.server.handle)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tg.cancel_scope.cancel()


def request(
    body: str | bytes = VERSION,
    *,
    method: str = "POST",
    path: str = "/query",
    authorization: str = f"Basic {TOKEN}",
) -> bytes:
    """Return a request."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}"]
    lines += [f"Authorization: {authorization}"] if authorization else []
    return "\r\n".join([*lines, "", ""]).encode() + data


async def response(stream: SocketStream) -> tuple[int, dict[str, Any]]:
    """Read one response."""
    data = b""
    with anyio.fail_after(10):
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        while len(body) < length:
            body += await stream.receive()
    answer: dict[str, Any] = json.loads(body)
    return status, answer


async def ask(port: int, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes on a connection of their own; return the response."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(data)
        return await response(stream)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(), 200),
        (request(authorization=f"bAsIc {TOKEN}"), 200),
        (request(path="/query?x=1"), 200),
        (request(authorization=""), 401),
        (request(authorization=f"Basic {base64.b64encode(b'other:').decode()}"), 401),
        (request(authorization=f"Basic {base64.b64encode(b'toke').decode()}"), 401),
        (request(authorization=f"Basic {base64.b64encode(b':token').decode()}"), 401),
        (request(authorization=f"Bearer {TOKEN}"), 401),
        (request(authorization="Basic ***"), 401),
        (request(authorization="Basic"), 401),
        (request(authorization="", path="/other"), 401),
        (request(path="/"), 404),
        (request(path="/query/"), 404),
        (request(method="GET"), 405),
        (request(method="PUT"), 405),
        (request(""), 400),
        (request("{"), 400),
        (request("[]"), 400),
        (request("null"), 400),
        (request('{"query": 5}'), 400),
        (request('{"query": "{version}", "variables": []}'), 400),
        (request('{"query": "{version}", "operationName": 1}'), 400),
        (request(b'{"query": "\xff"}'), 400),
        (request('{"variables": {}}'), 400),
    ],
)
async def test_only_a_query_of_the_client_is_answered(
    bench: Bench, data: bytes, status: int
) -> None:
    """The token first, then the path, the method and the body; each refusal says what is wrong."""
    async with listening(bench) as port:
        found, answer = await ask(port, data)
        assert found == status
        assert ("errors" in answer) == (status != 200)
        # Whatever came, the next client is served.
        assert (await ask(port, request()))[0] == 200


async def test_a_stranger_is_refused_before_his_body_is_read(bench: Bench) -> None:
    """The answer comes though the body does not."""
    head = b"POST /query HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    async with listening(bench) as port:
        assert (await ask(port, head))[0] == 401


async def test_a_body_beyond_the_limit_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not kept any longer than it takes to see that."""
    monkeypatch.setattr(module, "BODY_LIMIT", 1000)
    async with listening(bench) as port:
        assert (await ask(port, request("x" * 1001)))[0] == 413
        assert (await ask(port, request(json.dumps({"query": "{version}" + " " * 900}))))[0] == 200


async def test_a_connection_serves_one_request_after_another(bench: Bench) -> None:
    """Kept alive, as the SDK does, and with requests that were sent early."""
    async with listening(bench) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        for _ in range(2):
            await stream.send(request())
            assert (await response(stream))[0] == 200


async def test_a_request_that_comes_early_is_answered_in_its_turn(bench: Bench) -> None:
    """A client may send the next one while it waits."""
    slow = request('{"query": "{directory{entries}}"}')
    async with listening(bench) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(slow + request())
        assert (await response(stream))[1] == {"data": {"directory": {"entries": []}}}
        assert (await response(stream))[1]["data"]["version"].startswith("v")


async def closed(stream: SocketStream) -> None:
    """Wait until the other side has closed a connection without a word."""
    with anyio.fail_after(5):
        try:
            assert await stream.receive() == b""
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


@pytest.mark.parametrize(
    "half", [b"P", b"POST /query HTTP/1.1\r\n", request()[:-3], b"\x16\x03\x01garbage\r\n\r\n"]
)
async def test_half_a_request_ends_in_time(tmp_path: Path, half: bytes) -> None:
    """A client that does not finish is not waited for."""
    async with session(tmp_path, limit=0.1) as bench, listening(bench) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(half)
            await closed(stream)
        assert (await ask(port, request()))[0] == 200


async def test_a_request_that_drips_ends_in_time(tmp_path: Path) -> None:
    """The limit is for the whole request, and not for each of its bytes."""
    async with (
        session(tmp_path, limit=0.3) as bench,
        listening(bench) as port,
        await anyio.connect_tcp("127.0.0.1", port) as stream,
        anyio.create_task_group() as tg,
    ):

        async def drip() -> None:
            with contextlib.suppress(anyio.BrokenResourceError):
                for byte in request():
                    await stream.send(bytes([byte]))
                    await anyio.sleep(0.05)

        tg.start_soon(drip)
        await closed(stream)
        tg.cancel_scope.cancel()


def sleeping(bench: Bench) -> str:
    """Return a request whose answer takes long."""
    made = bench.image().then(run("sleep", "60"))
    return json.dumps(
        {"query": f'{{node(id:"{bench.engine.id(made)}"){{... on Container{{sync}}}}}}'}
    )


async def test_a_client_that_goes_away_has_its_work_cancelled(bench: Bench) -> None:
    """No container is left of it."""
    async with listening(bench) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(request(sleeping(bench)))
            await until(lambda: bench.backend.runs)
            assert bench.backend.live["container"] == 1
        await until(lambda: not bench.backend.live["container"])
        assert (await ask(port, request()))[0] == 200


async def test_work_that_somebody_else_waits_for_goes_on(bench: Bench) -> None:
    """When one of two clients goes, the other still gets its answer."""
    made = bench.image().then(run("sleep", "0.3"))
    query = f'{{node(id:"{bench.engine.id(made)}"){{... on Container{{exitCode}}}}}}'
    data = request(json.dumps({"query": query}))
    answers = []
    async with listening(bench) as port, anyio.create_task_group() as tg:

        async def second() -> None:
            answers.append(await ask(port, data))

        async with await anyio.connect_tcp("127.0.0.1", port) as first:
            await first.send(data)
            await until(lambda: bench.backend.runs)
            tg.start_soon(second)
            await anyio.sleep(0.05)
    assert answers == [(200, {"data": {"node": {"exitCode": 0}}})]


async def test_errors_are_told_with_what_the_sdk_needs(bench: Bench) -> None:
    """A failed command carries its extensions."""
    made = bench.image().then(run("fail", "7"))
    query = f'{{node(id:"{bench.engine.id(made)}"){{... on Container{{stdout}}}}}}'
    answer = await bench.server.execute(query, None, None)
    assert answer["errors"][0]["extensions"] == {
        "_type": "EXEC_ERROR",
        "cmd": ["fail", "7"],
        "exitCode": 7,
        "stdout": "half",
        "stderr": "why",
    }


async def test_no_secret_is_told_in_an_error(bench: Bench) -> None:
    """Messages are scrubbed as outputs are."""
    bench.vault.put("s", "hunter2")
    message = await bench.refusal('{directory{file(path:"hunter2"){contents}}}')
    assert message.startswith("***: no such file")


async def test_a_path_that_is_no_text_is_told_all_the_same(bench: Bench) -> None:
    """File names are bytes, and an error about one must not end the session."""
    answer = await bench.server.execute(
        "query ($p: String!) {directory{file(path:$p){contents}}}", {"p": "\udcff"}, None
    )
    assert "\\udcff: no such file" in answer["errors"][0]["message"]


async def test_a_field_that_is_unknown_is_refused_with_the_advice(bench: Bench) -> None:
    """One that is in no schema as well."""
    assert "--engine dagger" in await bench.refusal("{container{surelyNot}}")
    message = await bench.refusal("{container{terminal{id}}}")
    assert message.startswith("Container.terminal is not served by the embedded engine; use Dagger")


async def test_an_internal_error_is_told_as_one_and_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """It names its type, the log has the rest, and the session goes on."""
    strange = d.Sub(d.Literal(Tree()), None)  # type: ignore[arg-type]
    query = f'{{node(id:"{bench.engine.id(strange)}"){{... on Directory{{entries}}}}}}'
    with caplog.at_level(logging.ERROR):
        message = await bench.refusal(query)
    assert message.startswith("internal error of the engine: TypeError")
    assert caplog.records[0].exc_info


async def test_a_query_that_breaks_the_executor_does_not_end_the_session(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Nested more deeply than Python can follow, it is refused, and the next one served."""
    deep = "{" + "directory{a:" * 2000 + "id" + "}" * 2001
    async with listening(bench) as port:
        status, answer = await ask(port, request(json.dumps({"query": deep})))
        assert "errors" in answer
        assert status in {200, 500}
        assert (await ask(port, request()))[0] == 200
    assert all("Traceback" not in r.message for r in caplog.records)


async def test_a_long_chain_of_changes_is_answered(bench: Bench) -> None:
    """The SDK nests one level for each change."""
    depth = 120
    query = "{container" + "".join(
        f'{{withEnvVariable(name:"N{n}",value:"{n}")' for n in range(depth)
    ) + '{envVariable(name:"N7")}' + "}" * (depth + 1)  # fmt: skip
    answer: Any = await bench.query(query)
    while isinstance(answer, dict):
        answer = next(iter(answer.values()))
    assert answer == "7"


async def test_an_unknown_id_is_an_error_and_so_is_one_of_another_type(bench: Bench) -> None:
    """Ids are of one session."""
    assert "no object with the id" in await bench.refusal('{node(id:"x"){id}}')
    id_ = bench.engine.id(c.Container("linux/amd64"))
    message = await bench.refusal(f'{{loadFileFromID(id:"{id_}"){{name}}}}')
    assert message == "the id is that of a Container, not of a File"
