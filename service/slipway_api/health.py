"""Whether the process lives, and whether it can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, jsonify

if TYPE_CHECKING:
    from flask import Response

    from slipway_api.sources.shared import Shared

PATHS = frozenset({"/livez", "/readyz"})
"""What probes ask for, every few seconds; the access log leaves it out."""


def blueprint(source: Shared) -> Blueprint:
    """Serve ``/livez`` and ``/readyz``."""
    routes = Blueprint("health", __name__)

    @routes.get("/livez")
    def livez() -> Response:
        """Answer 200 as long as the process answers; a restart brings no source back."""
        return _ok()

    @routes.get("/readyz")
    def readyz() -> Response:
        """Answer 200 when the list can be served, or else 503.

        It asks for the very list, because a source that answers a ping may still refuse that.
        """
        source.listing()
        return _ok()

    return routes


def _ok() -> Response:
    answer = jsonify(status="ok")
    answer.headers["Cache-Control"] = "no-store"
    return answer
