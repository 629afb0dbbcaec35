"""Errors as ``application/problem+json`` (RFC 9457), with the status that they have."""

from __future__ import annotations

import reprlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import jsonify, request
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException

from slipway_api import request_id
from slipway_api.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask, Response
    from flask_openapi3.types import ResponseDict

MEDIA_TYPE = "application/problem+json"

# What Flask says by itself is for somebody before a browser, and longer than a sentence.
_DETAIL: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "There is nothing at this path.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This path cannot be asked for by that method.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The server met with an error of its own.",
}


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="`about:blank`: the status alone says what kind it is.")
    title: str = Field(description="The name of the status.")
    status: int = Field(description="The status, as of the answer.")
    detail: str = Field(description="One sentence about this occurrence.")
    instance: str = Field(description="The path that was asked for.")
    request_id: str = Field(description="The `X-Request-ID` of the answer, as in the logs.")


def responses(described: Mapping[HTTPStatus, str]) -> ResponseDict:
    """Describe problems for the OpenAPI document, each with a sentence."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    return {status: {"description": text, "content": content} for status, text in described.items()}


def members(status: int, detail: str, instance: str, identity: str) -> dict[str, Any]:
    """Return what stands in a problem.

    Args:
        status: The HTTP status; ``type`` is ``about:blank``, so it alone says what kind it is.
        detail: One sentence about this occurrence.
        instance: The path that was asked for.
        identity: The id of the request.
    """
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "request_id": identity,
    }


def response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Make a problem response about the current request.

    Args:
        status: The HTTP status.
        detail: One sentence about this occurrence.
        headers: Further ones of the answer.
    """
    # A URI reference (RFC 9457, section 3.1.5), and Flask has decoded the path.
    instance = quote(request.path, safe="/:@!$&'()*+,;=~")
    answer = jsonify(members(status, detail, instance, request.environ[request_id.ENVIRON]))
    answer.status_code = status
    answer.mimetype = MEDIA_TYPE
    answer.headers.update(headers or {})
    answer.headers["Cache-Control"] = "no-store"
    return answer


def register(app: Flask) -> None:
    """Make every error that a request of ``app`` ends in a problem response."""
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(SourceError, from_source)


def from_validation(error: ValidationError) -> Response:
    """Say the first thing that is wrong with the parameters of a request."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = first["loc"][0] if first["loc"] else "?"
    value = reprlib.repr(first["input"])
    wanted = first["msg"][:1].lower() + first["msg"][1:]
    return response(HTTPStatus.BAD_REQUEST, f"The parameter {name} cannot be {value}: {wanted}.")


def _from_http(error: HTTPException) -> Response:
    # Allow and Retry-After belong to the status; the type was the HTML page's.
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    detail = error.description or ""
    if detail == type(error).description:
        detail = _DETAIL.get(status, detail)
    return response(status, detail, headers)


def from_source(error: SourceError, headers: Mapping[str, str] | None = None) -> Response:
    """Say that there is no list, with further headers."""
    headers = {"Retry-After": "1", **(headers or {})}
    return response(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}.", headers)
