"""The access log of gunicorn in ECS fields, without what is asked every few seconds."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger

from slipway_api import health, metrics, request_id
from slipway_api.log import FIELDS

if TYPE_CHECKING:
    from collections.abc import MutableMapping

QUIET = health.PATHS | {metrics.PATH}
"""Paths that are left out when they are answered well."""

_MICROSECOND = timedelta(microseconds=1)

LONGEST = 512
"""Characters of what a client says about itself that are logged."""


class EcsLogger(Logger):
    """Logs every request but a probe or a scrape that was answered well."""

    def access(
        self,
        resp: Any,  # noqa: ANN401 - one type for each kind of worker
        req: Any,  # noqa: ANN401 - the same
        environ: MutableMapping[str, Any],
        request_time: timedelta,
    ) -> None:
        """Log one request.

        A probe that failed is logged, because it is what explains a restart. No query is, nor any
        header but those named here: people put secrets there.
        """
        del req
        status = str(resp.status).partition(" ")[0]
        # What could not be read as HTTP has no path but the raw one.
        path = environ.get("PATH_INFO") or str(environ.get("RAW_URI", "")).partition("?")[0]
        if path in QUIET and status.startswith("2"):
            return
        method = environ.get("REQUEST_METHOD", "")
        fields = {
            "http.request.method": method,
            "http.request.id": environ.get(request_id.ENVIRON),
            "http.response.status_code": int(status),
            "http.response.body.bytes": resp.sent,
            "url.path": _readable(path),
            "event.duration": request_time // _MICROSECOND * 1000,
            "source.ip": _address(environ.get("REMOTE_ADDR", "")),
            # The proxy in front sets it to the one address that it knows.
            "client.ip": _address(environ.get("HTTP_X_FORWARDED_FOR", "")),
            "user_agent.original": _readable(environ.get("HTTP_USER_AGENT", "")) or None,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        self.access_log.info("%s %s %s", method, fields["url.path"], status, extra={FIELDS: given})


def _readable(text: str) -> str:
    # WSGI has the bytes of a path or a header as Latin-1.
    return text.encode("latin-1", "replace").decode(errors="replace")[:LONGEST]


@lru_cache(maxsize=1024)
def _address(text: str) -> str | None:
    """Return an address, or None for what is none: Elasticsearch would refuse the whole line."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
