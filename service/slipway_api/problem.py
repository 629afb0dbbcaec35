"""Errors as ``application/problem+json`` (RFC 9457), with the status that they have."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import jsonify, request
from werkzeug.exceptions import HTTPException

from slipway_api.sources import SourceError

if TYPE_CHECKING:
    from flask import Flask, Response

MEDIA_TYPE = "application/problem+json"


def response(status: int, detail: str) -> Response:
    """Make a problem response about the current request.

    Args:
        status: The HTTP status; ``type`` is ``about:blank``, so it alone says what kind it is.
        detail: One sentence about this occurrence.
    """
    answer = jsonify(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.path,
    )
    answer.status_code = status
    answer.mimetype = MEDIA_TYPE
    answer.headers["Cache-Control"] = "no-store"
    return answer


def register(app: Flask) -> None:
    """Make every error that a request of ``app`` ends in a problem response."""
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(SourceError, _from_source)


def _from_http(error: HTTPException) -> Response:
    answer = response(error.code or HTTPStatus.INTERNAL_SERVER_ERROR, error.description or "")
    for name, value in error.get_headers():
        # Allow and Retry-After belong to the status; the type was the HTML page's.
        if name != "Content-Type":
            answer.headers[name] = value
    return answer


def _from_source(error: SourceError) -> Response:
    answer = response(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}.")
    answer.headers["Retry-After"] = "1"
    return answer
