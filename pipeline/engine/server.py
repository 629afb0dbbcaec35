"""The session's HTTP endpoint: ``POST /query`` on the loopback interface.

Requests are authenticated with HTTP basic authentication, the token as user name, as the SDK
does it; the token is compared in constant time. A client that goes away takes its request with
it: what it asked for is cancelled, unless somebody else waits for the same.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import math
from typing import TYPE_CHECKING, Any

import anyio
import graphql
import h11

from .core.errors import ADVICE, EngineError
from .schema import build

if TYPE_CHECKING:
    from anyio.abc import SocketStream

    from .schema import Engine

logger = logging.getLogger(__name__)

# Bytes of one query; the largest carry the text of a file.
BODY_LIMIT = 64 << 20
_TRANSFER_LIMIT = 60.0
_CHUNK = 1 << 16


class Server:
    """Answers the connections of one session.

    Args:
        engine: The session.
        token: What its client knows.
        limit: Seconds in which a request must have arrived once it has begun, and its response
            be taken.
    """

    def __init__(self, engine: Engine, token: str, limit: float = _TRANSFER_LIMIT) -> None:
        self._engine = engine
        self._token = token.encode()
        self._limit = limit

    async def handle(self, stream: SocketStream) -> None:
        """Answer one connection until it closes."""
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while True:
                    request, body = await self._receive(stream, connection)
                    if request is None:
                        return
                    status, answer = await self._unless_gone(stream, connection, request, body)
                    await self._send(stream, connection, status, answer)
                    if connection.our_state is not h11.DONE:
                        return
                    connection.start_next_cycle()
            except (
                anyio.BrokenResourceError,
                anyio.ClosedResourceError,
                anyio.EndOfStream,
                h11.ProtocolError,
                TimeoutError,
            ) as e:
                # The client broke off or does not speak HTTP; there is nobody to tell.
                logger.debug("connection ended: %r", e)

    async def _receive(
        self, stream: SocketStream, connection: h11.Connection
    ) -> tuple[h11.Request | None, bytes]:
        request: h11.Request | None = None
        body = bytearray()
        deadline = math.inf
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                with anyio.fail_after(deadline - anyio.current_time()):
                    try:
                        data = await stream.receive(_CHUNK)
                    except anyio.EndOfStream:
                        data = b""
                connection.receive_data(data)
                deadline = min(deadline, anyio.current_time() + self._limit)
            elif isinstance(event, h11.Request):
                request = event
                if not self._authentic(dict(request.headers).get(b"authorization", b"")):
                    # Before its body: nobody else's bytes are kept.
                    await self._send(stream, connection, 401, _UNKNOWN)
                    return None, b""
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_LIMIT:
                    await self._send(stream, connection, 413, _TOO_LARGE)
                    return None, b""
            elif isinstance(event, h11.EndOfMessage):
                return request, bytes(body)
            else:
                return None, b""

    async def _unless_gone(
        self, stream: SocketStream, connection: h11.Connection, request: h11.Request, body: bytes
    ) -> tuple[int, dict[str, Any]]:
        """Answer a request, or give it up when its client closes the connection."""
        answers: list[tuple[int, dict[str, Any]]] = []
        early: list[bytes] = []

        async def watch(scope: anyio.CancelScope) -> None:
            try:
                # A client that pipelines is heard later; the SDK does not.
                early.append(await stream.receive(_CHUNK))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                scope.cancel()

        async with anyio.create_task_group() as tg:
            tg.start_soon(watch, tg.cancel_scope)
            answers.append(await self._answer(request, body))
            tg.cancel_scope.cancel()
        if not answers:
            raise anyio.EndOfStream
        if early:
            connection.receive_data(early[0])
        return answers[0]

    async def _answer(self, request: h11.Request, body: bytes) -> tuple[int, dict[str, Any]]:
        if request.target.partition(b"?")[0] != b"/query":
            return 404, _refusal("the only path is /query")
        if request.method != b"POST":
            return 405, _refusal("the only method is POST")
        try:
            query = json.loads(body)
            text, variables = query["query"], query.get("variables")
            operation = query.get("operationName")
        except (ValueError, KeyError, TypeError, AttributeError):
            return 400, _refusal('the body is no {"query": "…"} in JSON')
        if not (
            isinstance(text, str)
            and isinstance(variables, dict | None)
            and isinstance(operation, str | None)
        ):
            return 400, _refusal("query, variables or operationName is of the wrong type")
        try:
            return 200, await self.execute(text, variables, operation)
        except Exception as e:
            # One query that the engine has no answer to must not end the session.
            logger.exception("internal error")
            return 500, _refusal(f"internal error of the engine: {type(e).__name__}")

    def _authentic(self, header: bytes) -> bool:
        scheme, _, encoded = header.partition(b" ")
        try:
            user, _, _ = base64.b64decode(encoded, validate=True).partition(b":")
        except binascii.Error:
            return False
        return scheme.lower() == b"basic" and hmac.compare_digest(user, self._token)

    async def execute(
        self, text: str, variables: dict[str, Any] | None, operation: str | None
    ) -> dict[str, Any]:
        """Execute one GraphQL query; return its response."""
        result = await graphql.graphql(
            build(),
            text,
            context_value=self._engine,
            root_value=_root(),
            variable_values=variables,
            operation_name=operation,
        )
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = [self._error(e) for e in result.errors]
        return answer

    def _error(self, error: graphql.GraphQLError) -> dict[str, Any]:
        cause = error.original_error
        row: dict[str, Any] = dict(error.formatted)
        if isinstance(cause, EngineError):
            row["message"] = str(cause)
            if cause.extensions:
                row["extensions"] = cause.extensions
        elif isinstance(cause, OSError):
            where = f": {cause.filename}" if cause.filename else ""
            row["message"] = f"{cause.strerror or type(cause).__name__}{where}"
        elif cause is not None:
            logger.error("internal error in %s", error.path, exc_info=cause)
            row["message"] = f"internal error of the engine: {type(cause).__name__}: {cause}"
        elif row["message"].startswith("Cannot query field"):
            row["message"] += f" It is not served by the embedded engine; {ADVICE}"
        elif "nested too deeply" in row["message"]:
            row["message"] += " A chain of about 190 calls is the limit: sync() it half-way."
        text = row["message"].encode(errors="backslashreplace")
        row["message"] = self._engine.vault.scrub(text).decode()
        return row

    async def _send(
        self, stream: SocketStream, connection: h11.Connection, status: int, answer: dict[str, Any]
    ) -> None:
        body = json.dumps(answer).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        if status != 200:  # noqa: PLR2004 - after any refusal the connection ends
            headers.append(("connection", "close"))
        data = b"".join(
            part
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            if (part := connection.send(event))
        )
        with anyio.fail_after(self._limit):
            await stream.send(data)


def _refusal(message: str) -> dict[str, Any]:
    return {"errors": [{"message": message}]}


_TOO_LARGE = _refusal(f"the query is larger than {BODY_LIMIT >> 20} MiB")
_UNKNOWN = _refusal("the session's token is missing or wrong")


def _root() -> object:
    from .schema._engine import Query

    return Query()
