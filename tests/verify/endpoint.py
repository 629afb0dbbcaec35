"""Plain HTTP requests to one part of the system, and what comes back."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LIMIT = 10.0
"""Seconds after which a request that has no answer fails, far above what any rule allows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and the seconds from the connection to its last byte."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    def json(self) -> Any:  # noqa: ANN401 - whatever the answer holds
        """The value in a successful answer; fails when the answer is something else."""
        assert self.status == http.HTTPStatus.OK, self
        assert self.headers.get_content_type() == "application/json", self
        return json.loads(self.body)

    def problem(self, status: int) -> dict[str, Any]:
        """The problem details (RFC 9457) in an error with this status; fails on anything else."""
        assert self.status == status, self
        assert self.headers.get_content_type() == "application/problem+json", self
        details = json.loads(self.body)
        assert isinstance(details, dict), self
        assert details["status"] == status, "the status in the body is not the true one"
        for member in ("type", "title", "detail"):
            assert isinstance(details[member], str), f"{member} is not text: {details}"
            assert details[member], f"{member} is empty: {details}"
        return details


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a part of the system listens."""

    host: str
    port: int

    @classmethod
    def at(cls, url: str) -> Endpoint:
        """Read ``http://HOST:PORT``."""
        parts = urlsplit(url)
        assert parts.scheme == "http", f"not http://HOST:PORT: {url!r}"
        assert parts.hostname, f"not http://HOST:PORT: {url!r}"
        return cls(parts.hostname, parts.port or 80)

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request on a connection of its own; the path goes out as it is given."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=LIMIT)
        started = time.monotonic()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
            seconds = time.monotonic() - started
        finally:
            connection.close()
        return Answer(response.status, response.headers, content, seconds)


def within(seconds: float, check: Callable[[], object]) -> None:
    """Repeat a check that asserts something until it holds; its last failure stands after a limit.

    For what takes effect a little later, and for comparing two answers that were not given at the
    same moment, while containers come and go.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() >= deadline:
                raise
        else:
            return
        time.sleep(0.1)
