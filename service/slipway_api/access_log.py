"""The access log of gunicorn, without what probes ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger

from slipway_api import health

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from datetime import timedelta


class QuietLogger(Logger):
    """Logs every request but a probe that was answered well."""

    def access(
        self,
        resp: Any,  # noqa: ANN401 - one type for each kind of worker
        req: Any,  # noqa: ANN401 - the same
        environ: MutableMapping[str, Any],
        request_time: timedelta,
    ) -> None:
        """Log one request, as gunicorn does.

        A probe that failed is logged, because it is what explains a restart.
        """
        if environ.get("PATH_INFO") in health.PATHS and str(resp.status).startswith("2"):
            return
        super().access(resp, req, environ, request_time)
