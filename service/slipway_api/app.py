"""The Flask application and its factory."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from flask.json.provider import DefaultJSONProvider

from slipway_api import containers, health, metrics, openapi, page, problem
from slipway_api.config import Settings
from slipway_api.metrics import Metrics
from slipway_api.observed import observed
from slipway_api.sources.shared import Shared

if TYPE_CHECKING:
    from flask import Flask

    from slipway_api.sources import Source

log = logging.getLogger(__name__)


class CompactJSON(DefaultJSONProvider):
    """JSON without blanks, its keys in the order in which the code gives them."""

    compact = True
    sort_keys = False


def create_app(settings: Settings, source: Source | None = None) -> openapi.Application:
    """Make the application; connects to nothing until a request comes.

    Args:
        settings: How it runs.
        source: Where containers come from; what the settings choose when not given.

    Raises:
        SettingsError: The source that the settings order cannot be had here.
    """
    if source is None:
        source = _source(settings)
    told = Metrics()
    shared = Shared(source, settings.source_timeout, told)
    app = openapi.Application(__name__)
    app.json = CompactJSON(app)
    # `//` and `/x/` are not `/` and `/x`: no redirects, whose address a proxy may not have.
    app.url_map.merge_slashes = False
    # As Flask says to wrap it.
    app.wsgi_app = observed(app.wsgi_app, told)  # type: ignore[assignment, method-assign]
    app.register_api(containers.blueprint(shared))
    app.register_api(health.blueprint(shared))
    app.register_blueprint(page.blueprint(shared))
    app.register_blueprint(metrics.blueprint(told))
    openapi.register(app)
    problem.register(app)
    return app


def from_environment() -> Flask:
    """Make the application that a server runs, with the settings of the environment."""
    settings = Settings.from_environment(os.environ)
    if settings.log_level != "debug":
        # It tells of every request that is made, once a second.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
    log.info("containers are listed from %s", settings.chosen_source())
    return create_app(settings)


def _source(settings: Settings) -> Source:
    # Each brings a library that the other has no use for, and that takes memory and time to load.
    prefixes = settings.label_prefixes
    if settings.chosen_source() == "kubernetes":
        from slipway_api.sources.kubernetes import KubernetesSource

        return KubernetesSource(settings.service_account, settings.source_timeout, prefixes)
    from slipway_api.sources.docker import DockerSource

    return DockerSource(settings.docker_host, settings.source_timeout, prefixes)
