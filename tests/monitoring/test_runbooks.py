"""Whoever is called finds what to do."""

from __future__ import annotations

import re

import pytest

from .files import ROOT, alerts

RUNBOOKS = ROOT / "docs/runbooks"
SOURCES = ROOT / "service/slipway_api/sources"
PLACE = "https://git.example.com/slipway/docs/runbooks/"
"""Where the repository is; to be set once in the rules."""


@pytest.mark.parametrize("alert", alerts())
def test_alert_has_a_runbook(alert: str) -> None:
    """Its address leads to a document of ours, one for each alert, which says whose it is."""
    (address,) = {rule["annotations"]["runbook_url"] for rule in alerts()[alert]}
    assert address.startswith(PLACE)
    name = address.removeprefix(PLACE)
    # As in source-failing.md, of SlipwaySourceFailing.
    assert name == re.sub("(?<!^)([A-Z])", r"-\1", alert.removeprefix("Slipway")).lower() + ".md"
    text = (RUNBOOKS / name).read_text()
    assert f"`{alert}`" in text
    assert "**What the users see:**" in text


def test_runbook_quotes_what_the_api_says() -> None:
    """A sentence that somebody looks up under pressure is the one that the log has."""
    text = (RUNBOOKS / "source-failing.md").read_text()
    table = text.partition("| what it says |")[2].partition("\n\n")[0]
    quoted = [quote for row in table.splitlines() for quote in re.findall("`([^`]+)`", first(row))]
    source = "".join(path.read_text() for path in sorted(SOURCES.glob("*.py")))
    assert len(quoted) > 3
    for quote in quoted:
        # A sentence may go on in the next line of the code.
        assert quote in re.sub(r'"\s+f?"', "", source), quote


def first(row: str) -> str:
    """Return the first cell of a row."""
    return row.split("|")[1] if "|" in row else ""


@pytest.mark.parametrize("alert", alerts())
def test_alert_is_in_the_document(alert: str) -> None:
    """docs/monitoring.md lists it, with how urgent it is and its runbook."""
    rows = [
        line
        for line in (ROOT / "docs/monitoring.md").read_text().splitlines()
        if line.startswith(f"| `{alert}` |")
    ]
    assert [row.split("|")[2].strip() for row in rows] == [
        rule["labels"]["severity"] for rule in alerts()[alert]
    ]
    name = alerts()[alert][0]["annotations"]["runbook_url"].removeprefix(PLACE)
    assert all(f"(runbooks/{name})" in row for row in rows)
