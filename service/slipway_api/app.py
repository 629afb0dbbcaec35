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
from slipway_api.sources.shared import Shared

if TYPE_CHECKING:
    from slipway_api.sources import Source

log = logging.getLogger(__name__)


class CompactJSON(DefaultJSONProvider):
    """JSON without blanks, its keys in the order in which the code gives them."""

    compact = True
    sort_keys = False


def create_app(settings: Settings, source: Source | None = None) -> Flask:
    """Make the application; connects to nothing until a request comes.

    Args:
        settings: How it runs.
        source: Where containers come from; what the settings choose when not given.

    Raises:
        SettingsError: The source that the settings order cannot be had here.
    """
    if source is None:
        source = _source(settings)
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
    if settings.log_level != "debug":
        # It tells of every request that is made, once a second.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
    log.info("containers are listed from %s", settings.chosen_source())
    return create_app(settings)


def _source(settings: Settings) -> Source:
    # Each brings a library that the other has no use for, and that takes memory and time to load.
    if settings.chosen_source() == "kubernetes":
        from slipway_api.sources.kubernetes import KubernetesSource

        return KubernetesSource(settings.service_account, settings.source_timeout)
    from slipway_api.sources.docker import DockerSource

    return DockerSource(settings.docker_host, settings.source_timeout)
