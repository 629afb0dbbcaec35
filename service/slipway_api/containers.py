"""``GET /api/v1/containers``: the list of containers, and how it looks in JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flask import Blueprint, abort, jsonify, request

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from flask import Response

    from slipway_api.sources import Container
    from slipway_api.sources.shared import Shared

STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
"""The states of a container, https://docs.docker.com/reference/api/engine/."""

ALL = "all"
"""The word that stands for every state."""


def blueprint(source: Shared) -> Blueprint:
    """Serve the list."""
    routes = Blueprint("containers", __name__, url_prefix="/api/v1")

    @routes.get("/containers")
    def containers() -> Response:
        """Answer the containers in the states that ``state`` names, running ones by default."""
        states = wanted(request.args.getlist("state"))
        listing = source.listing()
        found = [present(item) for item in listing.containers if item.state in states]
        return jsonify(
            containers=found,
            total=len(found),
            source=source.name,
            as_of=timestamp(listing.as_of, "milliseconds"),
        )

    return routes


def wanted(states: Iterable[str]) -> frozenset[str]:
    """Read the ``state`` parameters of a request.

    Raises:
        werkzeug.exceptions.BadRequest: One of them is no state.
    """
    given = frozenset(states)
    unknown = sorted(given.difference(STATES, (ALL,)))
    if unknown:
        known = ", ".join((*STATES, ALL))
        abort(400, f"Not a state of a container: {unknown[0]!r}. Use one of {known}.")
    if ALL in given:
        return frozenset(STATES)
    return given or frozenset({"running"})


def present(item: Container) -> dict[str, Any]:
    """Turn a container into what stands in the answer."""
    return {**asdict(item), "created": timestamp(item.created, "seconds")}


def timestamp(moment: datetime, precision: str) -> str:
    """Write a UTC time as RFC 3339 with a ``Z``."""
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")
