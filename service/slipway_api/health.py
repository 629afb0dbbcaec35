"""``/livez``, ``/healthz`` and ``/readyz``: whether the process lives, and whether it can serve."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from flask import Response, abort, jsonify
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel

from slipway_api import problem
from slipway_api.drain import draining

if TYPE_CHECKING:
    from flask_openapi3.types import ResponseDict

    from slipway_api.sources.shared import Shared

PATHS = frozenset({"/livez", "/readyz", "/healthz"})
"""What probes ask for, every few seconds; the access log leaves it out."""


class Health(BaseModel):
    """It is well."""

    status: Literal["ok"]


def blueprint(source: Shared) -> APIBlueprint:
    """Serve them."""
    routes = APIBlueprint("health", __name__, abp_tags=[Tag(name="health")])
    well: ResponseDict = {HTTPStatus.OK: Health}

    @routes.get("/livez", operation_id="livez", responses=well)
    def livez() -> Response:
        """Tell whether the process answers; a restart brings no source back."""
        return _ok()

    @routes.get("/healthz", operation_id="healthz", responses=well)
    def healthz() -> Response:
        """Do as /livez, for tools that expect this path."""
        return _ok()

    @routes.get(
        "/readyz",
        operation_id="readyz",
        description=(
            "It asks for the very list, because a source that answers a ping may still refuse that."
        ),
        responses={
            **well,
            **problem.responses({HTTPStatus.SERVICE_UNAVAILABLE: "The list cannot be served."}),
        },
    )
    def readyz() -> Response:
        """Tell whether the list can be served."""
        if draining:
            abort(503, "The server is about to stop.")
        source.listing()
        return _ok()

    return routes


def _ok() -> Response:
    answer = jsonify(status="ok")
    answer.headers["Cache-Control"] = "no-store"
    return answer
