"""The log: one JSON object a line on stdout, in the field names of ECS.

The names are dotted, as the Elastic Common Schema writes them; Elasticsearch and Filebeat read them
as the objects that they stand for. https://www.elastic.co/docs/reference/ecs
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from traceback import format_exception
from typing import Any

from flask import has_request_context, request

from slipway_api import request_id

FIELDS = "ecs"
"""The attribute of a record that holds further fields: ``log.info(…, extra={FIELDS: {…}})``."""

_ALWAYS = {
    "ecs.version": "8.17.0",
    "event.dataset": "slipway.api",
    "service.name": "slipway-api",
}


class EcsFormatter(logging.Formatter):
    """Writes a record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline at its end."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "@timestamp": moment.replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            **_ALWAYS,
            "log.logger": record.name,
            "process.pid": record.process,
            **_request(),
            **record.__dict__.get(FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            fields["error.type"] = type(error).__qualname__
            fields["error.message"] = str(error)
            fields["error.stack_trace"] = "".join(format_exception(error))
        return json.dumps(fields, separators=(",", ":"), default=str)


def _request() -> dict[str, str]:
    """Return the id of the request that this thread works on, if it does."""
    if not has_request_context():
        return {}
    return {"http.request.id": request.environ[request_id.ENVIRON]}


def configuration(level: str) -> dict[str, Any]:
    """Return what ``logging.config`` is told: everything from this level on goes to stdout."""
    through = {"level": level.upper(), "handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ecs": {"()": EcsFormatter}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "formatter": "ecs",
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        # gunicorn gives them handlers of their own, which write to stderr.
        "loggers": {
            "gunicorn.error": through,
            # A line for each request is what the log is for, whatever its level.
            "gunicorn.access": {**through, "level": "INFO"},
        },
    }
