"""Where the system is, from the environment, and the phases of its examination."""

from __future__ import annotations

import os

import pytest

from .endpoint import Endpoint

VARIABLES = ("SLIPWAY_URL", "SLIPWAY_SOCKET_PROXY")
"""URLs of Nginx and of the Docker socket proxy."""

# Without a system to ask there is nothing to collect: not a skip, which would say that something
# should have run, since a plain run of the project's tests is no place for this suite.
collect_ignore_glob = [] if all(map(os.environ.get, VARIABLES)) else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the phases, which whoever starts the system runs in this order."""
    for marker in (
        "serving: everything runs",
        "outage: the Docker socket is gone",
        "recovery: the Docker socket has just come back",
        "source: needs a Docker Engine behind the socket proxy",
    ):
        config.addinivalue_line("markers", marker)


def pytest_report_header() -> list[str]:
    """Say what is examined, or why nothing is."""
    return [f"{name}: {os.environ.get(name) or 'not set, so nothing runs'}" for name in VARIABLES]


@pytest.fixture(scope="session")
def nginx() -> Endpoint:
    """Nginx, the way into the system."""
    return Endpoint.at(os.environ["SLIPWAY_URL"])


@pytest.fixture(scope="session")
def socket_proxy() -> Endpoint:
    """The Docker socket proxy, which the API alone asks otherwise."""
    return Endpoint.at(os.environ["SLIPWAY_SOCKET_PROXY"])
