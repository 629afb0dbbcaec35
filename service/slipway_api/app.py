"""The Flask application and its factory."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from flask import Flask
from flask.json.provider import DefaultJSONProvider

from slipway_api import containers, health, problem
from slipway_api.config import Settings
from slipway_api.sources.docker import DockerSource
from slipway_api.sources.shared import Shared

if TYPE_CHECKING:
    from slipway_api.sources import Source


class CompactJSON(DefaultJSONProvider):
    """JSON without blanks, its keys in the order in which the code gives them."""

    compact = True
    sort_keys = False


def create_app(settings: Settings, source: Source | None = None) -> Flask:
    """Make the application; connects to nothing until a request comes.

    Args:
        settings: How it runs.
        source: Where containers come from; Docker at ``settings.docker_host`` when not given.
    """
    if source is None:
        source = DockerSource(settings.docker_host, settings.source_timeout)
    shared = Shared(source, settings.source_timeout)
    app = Flask(__name__, static_folder=None)
    app.json = CompactJSON(app)
    app.register_blueprint(containers.blueprint(shared))
    app.register_blueprint(health.blueprint(shared))
    problem.register(app)
    return app


def from_environment() -> Flask:
    """Make the application that a server runs: settings from the environment, log to stdout."""
    settings = Settings.from_environment(os.environ)
    logging.basicConfig(
        stream=sys.stdout,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    return create_app(settings)
