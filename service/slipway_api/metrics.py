"""What Prometheus is told, summed up over the workers of one server.

prometheus_client keeps the values of each worker in files of a folder, which ``FOLDER`` names, and
whoever is asked reads them all. A worker takes a slot, and with it the files that its predecessor
in the slot has left: so counters go on when a worker dies, and there are never more files than
there were workers at once.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter as Tally
from functools import lru_cache
from typing import TYPE_CHECKING

from flask import Blueprint, Response
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from slipway_api.sources import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "/metrics"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The library's own variable; without it the values are those of this process alone."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds: from a list that is kept to a request that was given up by the proxy before."""

UNMATCHED = "unmatched"
"""The route of a request that none was found for."""

# What is not known is counted together: anybody can make up methods, and each would be a series.
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"})

_slot = "main"


def take_slot(slot: int) -> None:
    """Keep the values of this process, a worker, under this number from now on."""
    global _slot  # noqa: PLW0603 - a process has one
    _slot = str(slot)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self._shared = FOLDER in os.environ
        if self._shared:
            values.ValueClass = values.MultiProcessValue(lambda: _slot)  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "slipway_http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._series = lru_cache(maxsize=1024)(self._find)
        self._durations = Histogram(
            "slipway_http_request_duration_seconds",
            "Time from a request to its answer.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._calls = Counter(
            "slipway_source_calls",
            "Calls to the source of the list.",
            ("source", "outcome"),
            registry=self._registry,
        )
        self._call_durations = Histogram(
            "slipway_source_call_duration_seconds",
            "Time that calls to the source took, or after which they were given up.",
            ("source",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._containers = Gauge(
            "slipway_containers",
            "Containers in the last list that the source gave.",
            ("state",),
            multiprocess_mode="mostrecent",
            registry=self._registry,
        )
        # The library's own process_start_time_seconds is not there with several workers. This one
        # is set in their parent, so that a worker that is replaced changes nothing: theirs are 0.
        Gauge(
            "slipway_start_time_seconds",
            "When the server was started, in seconds since 1970.",
            multiprocess_mode="max",
            registry=self._registry,
        ).set(time.time())

    def answered(self, method: str, rule: str | None, status: str, seconds: float) -> None:
        """Count a request.

        Args:
            method: Its method.
            rule: The rule of the route that was found for it.
            status: The status of its answer.
            seconds: How long it took.
        """
        count, duration = self._series(method if method in _METHODS else "other", rule, status)
        count.inc()
        duration.observe(seconds)

    def _find(self, method: str, rule: str | None, status: str) -> tuple[Counter, Histogram]:
        route = UNMATCHED if rule is None else template(rule)
        return (
            self._requests.labels(method, route, status),
            self._durations.labels(method, route),
        )

    def called(self, source: str, outcome: str, seconds: float) -> None:
        """Count a call to the source, whose outcome is ``ok``, ``error`` or ``timeout``."""
        self._calls.labels(source, outcome).inc()
        self._call_durations.labels(source).observe(seconds)

    def listed(self, states: Iterable[str]) -> None:
        """Take the states of the containers in a list."""
        tally = Tally(states)
        for state in STATES:
            self._containers.labels(state).set(tally[state])

    def exposition(self) -> bytes:
        """Write the metrics of all workers in the text format of Prometheus."""
        registry = self._registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def blueprint(metrics: Metrics) -> Blueprint:
    """Serve ``/metrics``."""
    routes = Blueprint("metrics", __name__)

    @routes.get(PATH)
    def exposition() -> Response:
        """Answer the metrics, for Prometheus; a proxy keeps the rest of the world away from it."""
        answer = Response(metrics.exposition(), content_type=CONTENT_TYPE_PLAIN_0_0_4)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    return routes


def template(rule: str) -> str:
    """Return a rule of Flask's without its converters: ``/x/<id>`` of ``/x/<path:id>``."""
    return re.sub(r"<[^<>:]+:", "<", rule)
