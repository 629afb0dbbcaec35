"""The worker of gunicorn that serves the API: threads, with two gaps of gunicorn's closed."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gunicorn.http.errors import (  # type: ignore[attr-defined]  # two are newer than its types
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import ThreadWorker

from slipway_api import metrics, problem, request_id
from slipway_api.log import FIELDS

if TYPE_CHECKING:
    import socket

# The special ones first: all are of the last kind.
_STATUS: dict[type[Exception], HTTPStatus] = {
    InvalidResponseHeader: HTTPStatus.INTERNAL_SERVER_ERROR,
    InvalidResponseHeaderName: HTTPStatus.INTERNAL_SERVER_ERROR,
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    ParseException: HTTPStatus.BAD_REQUEST,
}

_DETAIL = {
    HTTPStatus.REQUEST_URI_TOO_LONG: "The request line is longer than this server accepts",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The header is larger than this server accepts",
    HTTPStatus.NOT_IMPLEMENTED: "This server does not know the transfer coding of the request",
    HTTPStatus.EXPECTATION_FAILED: "This server cannot do what the request expects",
    HTTPStatus.BAD_REQUEST: "The request is not valid HTTP",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The server met with an error of its own",
}


class Worker(ThreadWorker):
    """Answers all errors as problems, and loses no connection when it stops.

    Attributes:
        slot: The number that no other worker has while this one lives.
    """

    slot = 0

    def init_process(self) -> None:
        """Take the slot, then serve."""
        metrics.take_slot(self.slot)
        super().init_process()

    def set_accept_enabled(self, enabled: bool | None) -> None:  # noqa: FBT001 - gunicorn's
        """Accept connections from now on, or no more.

        A worker that stops takes those that the kernel has accepted for it; gunicorn would close
        the socket with them in it (https://github.com/benoitc/gunicorn/issues/3397). Then it closes
        the socket at once, so that a client that comes later is refused, and knows it.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            count = -1
            while count != self.nr_conns:
                count = self.nr_conns
                self.accept(listener)
            listener.close()

    def handle_error(
        self,
        req: Any,  # noqa: ANN401 - gunicorn's
        client: socket.socket,
        addr: tuple[str, int] | str | int,
        exc: BaseException,
    ) -> None:
        """Answer what cannot be read as HTTP, or what the application let through.

        gunicorn would send a page, and log the request line with all that is in it.
        """
        identity = request_id.chosen(None)
        status = _status(exc)
        self.log.log(
            "error" if status == HTTPStatus.INTERNAL_SERVER_ERROR else "warning",
            "%s: %s",
            _DETAIL[status],
            type(exc).__name__,
            exc_info=exc if status == HTTPStatus.INTERNAL_SERVER_ERROR else None,
            extra={
                FIELDS: {
                    "http.request.id": identity,
                    "http.response.status_code": int(status),
                    **({"source.ip": addr[0]} if isinstance(addr, tuple) else {}),
                }
            },
        )
        path = getattr(req, "path", None) or "/"
        members = problem.members(status, f"{_DETAIL[status]}.", path, identity)
        body = json.dumps(members, separators=(",", ":")).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"Content-Type: {problem.MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"{request_id.HEADER}: {identity}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n"
            "\r\n"
        )
        try:
            client.sendall(head.encode() + body)
        except OSError:
            self.log.debug("the client did not wait for its error")


def _status(error: BaseException) -> HTTPStatus:
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR
