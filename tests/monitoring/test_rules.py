"""The rules are what Prometheus takes, and set an alert off when they should, and only then."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .files import CASES, ROOT, RULES, alerts, names, rules

if TYPE_CHECKING:
    from pathlib import Path

METRICS = (ROOT / "service/slipway_api/metrics.py").read_text()
WINDOWS = {"5m", "30m", "1h", "2h", "6h", "1d", "3d"}
RATES = {
    "page": [("1h", "14.4"), ("5m", "14.4"), ("6h", "6"), ("30m", "6")],
    "ticket": [("1d", "3"), ("2h", "3"), ("3d", "1"), ("6h", "1")],
}
"""Windows and burn rates of the SRE workbook, chapter 5, in the order of the rule."""


def cases(alert: str) -> list[dict[str, Any]]:
    """Return what promtool is told to expect of an alert."""
    return [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]


def exported() -> set[str]:
    """Return the names under which the API's metrics are exported, histograms and counters too."""
    found = set()
    for kind, name in re.findall(r'(Counter|Gauge|Histogram)\(\s*"(slipway_\w+)"', METRICS):
        endings = {"Counter": ("_total",), "Gauge": ("",)}
        found |= {name + end for end in endings.get(kind, ("_bucket", "_count", "_sum"))}
    return found


@pytest.mark.parametrize("alert", alerts())
def test_alert_has_cases_of_both_kinds(alert: str) -> None:
    """Each has a case that sets it off, and one that does not."""
    assert {bool(case.get("exp_alerts")) for case in cases(alert)} == {True, False}


def test_cases_are_of_alerts_that_there_are() -> None:
    """A case of an alert that is gone would hold for ever when it expects nothing."""
    tests = yaml.safe_load(CASES.read_text())["tests"]
    named = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ())}
    assert named == alerts().keys()


@pytest.mark.parametrize("alert", alerts())
def test_alert_says_how_urgent_it_is_and_what_it_is(alert: str) -> None:
    """Somebody is woken, or it is for a working day; and it says what, in a sentence."""
    for rule in alerts()[alert]:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert all(rule["annotations"][each].endswith(".") for each in ("summary", "description"))


@pytest.mark.parametrize("slo", ["availability", "latency"])
def test_burn_rates_are_those_of_their_windows(slo: str) -> None:
    """Each is recorded under the name of the window that all of its expression is about."""
    recorded = set()
    for rule in rules():
        if rule.get("labels", {}).get("slo") == slo:
            window = rule["record"].removeprefix("slipway:error_budget_burn:rate")
            assert set(re.findall(r"\[(\w+)\]", rule["expr"])) == {window}
            recorded.add(window)
    assert recorded == WINDOWS


@pytest.mark.parametrize("slo", ["availability", "latency"])
def test_burn_rates_differ_in_nothing_but_their_windows(slo: str) -> None:
    """What is promised does not depend on how long one looks."""
    expressions = {
        re.sub(r"\[\w+\]", "[]", rule["expr"])
        for rule in rules()
        if rule.get("labels", {}).get("slo") == slo
    }
    assert len(expressions) == 1


@pytest.mark.parametrize("severity", RATES)
def test_burn_rates_that_set_it_off_are_those_of_the_workbook(severity: str) -> None:
    """A long window says that it matters, and a short one that it still goes on."""
    (rule,) = (
        each
        for each in alerts()["SlipwayErrorBudgetBurn"]
        if each["labels"]["severity"] == severity
    )
    found = re.findall(r"rate(\d+[mhd]) > ([\d.]+)", rule["expr"])
    assert found == RATES[severity]


def test_rules_are_about_metrics_that_there_are() -> None:
    """Every name in an expression is one that the API exports, or that a rule records."""
    known = exported() | {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        found = names(rule["expr"])
        assert found, rule
        assert found <= known, rule


def test_promises_are_about_routes_and_bounds_that_there_are() -> None:
    """A route or a bound of a histogram that nothing has would count nothing, for ever."""
    text = RULES.read_text()
    (routes,) = set(re.findall('route=~"([^"]+)"', text))
    paths = json.loads((ROOT / "service/openapi.json").read_text())["paths"]
    known = {path.replace("{", "<").replace("}", ">") for path in paths} | {"/"}
    assert set(routes.split("|")) <= known
    (bound,) = set(re.findall('le="([^"]+)"', text))
    (bounds,) = re.findall(r"^BUCKETS = \((.+)\)$", METRICS, re.MULTILINE)
    assert bound in bounds.split(", ")


def run(promtool: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = [promtool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def tried(promtool: Path, folder: Path, changed: list[dict[str, Any]], alert: str) -> bool:
    """Return whether an alert's cases hold for groups of rules that are not the shipped ones."""
    file = folder / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": changed}))
    cases = yaml.safe_load(CASES.read_text()) | {"rule_files": [str(file)]}
    cases["tests"] = [
        test
        for test in cases["tests"]
        if alert in {case["alertname"] for case in test.get("alert_rule_test", ())}
    ]
    (folder / "cases.yml").write_text(yaml.safe_dump(cases))
    return run(promtool, "test", "rules", folder / "cases.yml").returncode == 0


@pytest.mark.prometheus
def test_rules_are_valid(promtool: Path) -> None:
    """Prometheus takes them, and its lint has nothing against them."""
    done = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_cases_hold(promtool: Path) -> None:
    """What sets each alert off, and what does not, with what it says."""
    done = run(promtool, "test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize("expression", ["vector(1)", "vector(0) > 1"])
@pytest.mark.parametrize("alert", alerts())
def test_cases_notice_an_alert_that_is_always_or_never_there(
    alert: str, expression: str, promtool: Path, tmp_path: Path
) -> None:
    """They are not cases that cannot fail."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    assert tried(promtool, tmp_path, groups, alert)
    for group in groups:
        for rule in group["rules"]:
            if rule.get("alert") == alert:
                rule["expr"] = expression
    assert not tried(promtool, tmp_path, groups, alert)
