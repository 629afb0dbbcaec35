"""What k8s/components/monitoring and k8s/components/logging consist of, as values.

Pure but for reading those files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "k8s/components/monitoring"
LOGGING = ROOT / "k8s/components/logging"
RULES = MONITORING / "slipway.rules.yml"
CASES = Path(__file__).parent / "slipway.tests.yml"

Rule = dict[str, Any]

_NAME = re.compile(r"\bslipway[a-z0-9_]*(?::[a-z0-9_:]+)?")


def rules() -> list[Rule]:
    """Return all rules, recording and alerting, in order."""
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def alerts() -> dict[str, list[Rule]]:
    """Return the alerting rules by the alert's name, of which several may have the same."""
    found: dict[str, list[Rule]] = {}
    for rule in rules():
        if "alert" in rule:
            found.setdefault(rule["alert"], []).append(rule)
    return found


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def expressions() -> dict[str, str]:
    """Return every expression of the dashboard, by where it is, as Grafana would send it."""
    shown = dashboard()
    found = {
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in shown["panels"]
        for target in panel["targets"]
    }
    found |= {each["name"]: each["expr"] for each in shown["annotations"]["list"]}
    return {
        where: expression.replace("$namespace", ".*").replace("$__rate_interval", "1m")
        for where, expression in found.items()
    }


def names(expression: str) -> set[str]:
    """Return the metrics that an expression is about; all of ours begin in the same way."""
    # What is within quotes is the value of a label.
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', expression)))
