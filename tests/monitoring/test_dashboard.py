"""The dashboard, as far as files tell; test_scrape.py looks at its figures."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from .files import dashboard, expressions, names, rules
from .test_rules import exported

WIDTH = 24
"""Columns of Grafana's grid."""


@pytest.fixture
def panels() -> list[dict[str, Any]]:
    """Return the panels."""
    found: list[dict[str, Any]] = dashboard()["panels"]
    return found


def test_panels_say_what_they_show(panels: list[dict[str, Any]]) -> None:
    """Each has a title of its own, a sentence about it, a unit, and a name for each series."""
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_panels_lie_beside_each_other(panels: list[dict[str, Any]]) -> None:
    """None is over another, or beyond the grid."""

    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        return {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }

    for one, other in combinations(panels, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_data_come_from_the_prometheus_that_is_chosen(panels: list[dict[str, Any]]) -> None:
    """No data source of somebody's is written down, and no namespace either."""
    shown = dashboard()
    variables = {each["name"]: each for each in shown["templating"]["list"]}
    assert variables.keys() == {"datasource", "namespace"}
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    asked = [*panels, *(target for panel in panels for target in panel["targets"])]
    asked += [*shown["annotations"]["list"], variables["namespace"]]
    assert all(each["datasource"] == wanted for each in asked)
    for panel in panels:
        assert all('namespace=~"$namespace"' in each["expr"] for each in panel["targets"])


@pytest.mark.parametrize("where", expressions())
def test_figures_are_of_metrics_that_there_are(where: str) -> None:
    """Every name in an expression is one that the API exports, or that a rule records."""
    known = exported() | {rule["record"] for rule in rules() if "record" in rule}
    found = names(expressions()[where])
    assert found
    assert found <= known


def test_metrics_are_shown() -> None:
    """Every metric of the API is in the dashboard: one that nobody looks at need not be there."""
    shown = {name for expression in expressions().values() for name in names(expression)}
    suffixes = ("_bucket", "_count", "_sum")
    plain = {name for name in exported() if not name.endswith(suffixes)}
    assert plain <= shown
    assert {name for name in exported() if name.endswith("_bucket")} <= shown
