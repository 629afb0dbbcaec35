"""What happens to every request, around the application: it gets its id and is counted.

It is WSGI and not hooks of Flask's, which would take longer than what many a request is answered
with.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from slipway_api import request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from slipway_api.metrics import Metrics


def observed(application: WSGIApplication, metrics: Metrics) -> WSGIApplication:
    """Wrap a Flask application's WSGI part.

    Args:
        application: The part.
        metrics: Told of each answer.
    """

    def observe(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        identity = request_id.chosen(environ.get("HTTP_X_REQUEST_ID"))
        environ[request_id.ENVIRON] = identity

        def start(
            status: str,
            headers: list[tuple[str, str]],
            *rest: Any,  # noqa: ANN401 - as it came
        ) -> Callable[[bytes], object]:
            headers.append((request_id.HEADER, identity))
            # Werkzeug leaves the request there; its rule is None when there is no such route.
            rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
            metrics.answered(
                environ["REQUEST_METHOD"],
                rule.rule if rule is not None else None,
                status[:3],
                time.perf_counter() - started,
            )
            return start_response(status, headers, *rest)

        return application(environ, start)

    return observe
