"""What a real Prometheus makes of the running API: nothing is named that is not there."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from . import server
from .files import expressions, names, rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.prometheus]

PATHS = ("/", "/api/v1/containers", "/api/v1/containers?state=all", "/readyz", "/nothing")


def ask(url: str) -> None:
    """Ask for everything that is counted, past Nginx, as its pods are when they are scraped."""
    for path in PATHS:
        httpx.get(f"{url}{path}", timeout=10)


@pytest.fixture(scope="module")
def scraped(
    prometheus: Path, system: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[server.Prometheus]:
    """Start a Prometheus that has scraped the API while it was asked, and evaluated the rules."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = system.api_urls[0]
    folder = tmp_path_factory.mktemp("prometheus")
    with server.running(prometheus, folder, port, url.removeprefix("http://")) as started:

        def complete() -> bool:
            ask(url)
            return all(
                started.values(f"slipway:error_budget_burn:rate3d{{slo='{slo}'}}")
                for slo in ("availability", "latency")
            )

        started.wait(complete, "no burn rate was recorded")
        yield started


def test_target_is_up(scraped: server.Prometheus) -> None:
    """What the API exports is read without a complaint."""
    (target,) = scraped.get("targets", state="active")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_metrics_are_named_as_prometheus_wants(promtool: Path, system: Stack) -> None:
    """Its own lint has nothing against their names, units and help."""
    text = httpx.get(f"{system.api_urls[0]}/metrics").text
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_rules_are_evaluated(scraped: server.Prometheus) -> None:
    """None has an error, and of a system that is well nobody is told.

    But for how fast it is: that is a matter of the machine, and of what else runs there.
    """
    found = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert len(found) == len(rules())
    assert {(rule["health"], rule.get("lastError", "")) for rule in found} == {("ok", "")}
    active = [alert["labels"] for rule in found for alert in rule.get("alerts", ())]
    assert [labels for labels in active if labels.get("slo") != "latency"] == []


NAMES = sorted(
    {
        name
        for expression in (*expressions().values(), *(rule["expr"] for rule in rules()))
        for name in names(expression)
    }
)


@pytest.mark.parametrize("name", NAMES)
def test_metric_is_there(name: str, scraped: server.Prometheus) -> None:
    """Each that a rule or a panel names."""
    assert scraped.values(name)


@pytest.mark.parametrize("where", expressions())
def test_panel_shows_something(where: str, scraped: server.Prometheus, system: Stack) -> None:
    """Its expression comes to a number; of what marks a change, what it compares does."""
    expression = expressions()[where].removesuffix(" > 0")

    def shown() -> bool:
        ask(system.api_urls[0])
        return bool(scraped.values(expression))

    scraped.wait(shown, f"{expression} comes to nothing")
