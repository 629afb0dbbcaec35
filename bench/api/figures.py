"""What `make bench-api` measured, told: from what the tools print to a table and a plot."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "speed-api.json"
PLOT = "speed-api.svg"

LIST = "the list through Nginx"
FILE = "a static file of the same size from the same Nginx"
API = "the list from the API alone"
CONSTANT = "a Flask route that returns a constant, under the same gunicorn"
CLIENT = "a Docker client made for each request, under the same gunicorn"


class BenchError(Exception):
    """A run did not measure what it was to measure."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be so.

    Attributes:
        title: What is measured.
        against: What it is measured against.
        unit: What the figures are.
        bound: What their ratio, or their difference in bytes, is to be at least or at most.
        least: Whether it is a lower bound.
    """

    title: str
    against: str
    unit: str
    bound: float
    least: bool


AIMS = (
    Aim(LIST, FILE, "requests a second", 0.7, least=True),
    Aim(LIST, FILE, "99 % within", 2.0, least=False),
    Aim(API, CONSTANT, "requests a second", 0.6, least=True),
    Aim(API, CLIENT, "requests a second", 30.0, least=True),
)
MOST_GROWTH = 5_000_000
"""Bytes that the API may take more with 10,000 requests behind it than with 1,000."""


def wrk(text: str) -> float:
    """Return the requests a second that wrk tells of.

    Raises:
        BenchError: One was not answered with 200, or nothing is told.
    """
    found = re.search(r"^Requests/sec: +([0-9.]+)$", text, re.MULTILINE)
    errors = re.search(r"^ +(Socket errors: .*|Non-2xx or 3xx responses: .*)$", text, re.MULTILINE)
    if errors or found is None:
        raise BenchError(f"wrk was not answered as it should be:\n{text}")
    return float(found[1])


def vegeta(text: str) -> float:
    """Return the seconds within which 99 % of the answers came that vegeta tells of.

    Raises:
        BenchError: One was not answered with 200.
    """
    found = json.loads(text)
    if set(found["status_codes"]) != {"200"} or found["success"] != 1:
        raise BenchError(f"vegeta was not answered as it should be:\n{text}")
    return float(found["latencies"]["99th"]) / 1e9


def figure(result: Mapping[str, Any], way: str, unit: str) -> float:
    """Return the median of what was measured of one way."""
    return float(statistics.median(result["measured"][unit][way]))


def ratio(result: Mapping[str, Any], aim: Aim) -> float:
    """Return what an aim is about."""
    return figure(result, aim.title, aim.unit) / figure(result, aim.against, aim.unit)


def missed(result: Mapping[str, Any]) -> list[str]:
    """Return the aims that were not met, one sentence each."""
    found = []
    for aim in AIMS:
        value = ratio(result, aim)
        if (value < aim.bound) if aim.least else (value > aim.bound):
            word = "at least" if aim.least else "at most"
            found.append(
                f"{aim.title} against {aim.against}, {aim.unit}: {value:.2f}, and it is to be"
                f" {word} {aim.bound:g}"
            )
    grown = growth(result)
    if grown > MOST_GROWTH:
        found.append(f"the API took {grown / 1e6:.1f} MB more after 10,000 requests than 1,000")
    return found


def growth(result: Mapping[str, Any]) -> int:
    """Return the bytes that the API took more with 10,000 requests behind it than with 1,000."""
    return int(result["memory"]["10000"]) - int(result["memory"]["1000"])


def section(result: Mapping[str, Any]) -> str:
    """Return what was measured, for a person, as a section in Markdown."""
    lines = [
        *_INTRODUCTION.format(
            date=result["measured_at"][:10],
            cores=result["machine"]["cores"],
            containers=result["containers"],
            size=result["bytes"] / 1000,
            connections=result["connections"],
            seconds=result["seconds"],
            rate=result["rate"],
            rounds=result["rounds"],
        ).split("\n"),
        "| | | against | | ratio | aim |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for aim in AIMS:
        cells = [_told(figure(result, way, aim.unit), aim.unit) for way in (aim.title, aim.against)]
        value = ratio(result, aim)
        sign = "≥" if aim.least else "≤"
        lines.append(
            f"| {aim.title}, {aim.unit} | {cells[0]} | {aim.against} | {cells[1]} |"
            f" {_number(value)} | {sign} {_number(aim.bound)} |"
        )
    before, after = (int(result["memory"][key]) / 1e6 for key in ("1000", "10000"))
    lines.append(
        f"| memory of the API after 10,000 requests | {after:.1f} MB | after 1,000 |"
        f" {before:.1f} MB | {after - before:+.1f} MB | ≤ {MOST_GROWTH / 1e6:g} MB |"
    )
    spread = "; ".join(
        f"{way}, {unit}: {_told(min(values), unit)} to {_told(max(values), unit)}"
        for unit, ways in result["measured"].items()
        for way, values in ways.items()
    )
    return "\n".join(
        [*lines, "", f"![Requests a second as bars]({PLOT})", "", f"Spread: {spread}.", ""]
    )


_INTRODUCTION = """\
## The API and its proxy

Medians of {rounds} rounds, measured in turns by `make bench-api` on {date} with {cores} cores for
everything, the load included, while {containers} containers ran. Requests a second are what wrk
gets on {connections} connections in {seconds:g} s, and 99 % is what vegeta sees at a constant
{rate:g} requests a second; both ask on the loopback interface of the server's own network. The list
has {size:.1f} kB. The rate limit is raised; every answer was 200. The figures as JSON are in
[speed-api.json](speed-api.json).
"""


def _told(value: float, unit: str) -> str:
    if unit == "99 % within":
        return f"{value * 1000:.2f} ms"
    return _number(value)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < _TWO_DIGITS else f"{value:,.0f}"


_TWO_DIGITS = 10


def plot(result: Mapping[str, Any], to: Path) -> None:
    """Draw the requests a second as bars, from zero."""
    import pygal
    from pygal.style import CleanStyle

    ways = result["measured"]["requests a second"]
    chart = pygal.HorizontalBar(
        style=CleanStyle(value_font_size=13, label_font_size=13, legend_font_size=13),
        print_values=True, print_values_position="top", height=360, js=[], include_x_axis=True,
        legend_at_bottom=True, legend_at_bottom_columns=1, truncate_legend=-1,
        title="Requests a second, median",
        value_formatter=lambda value: _told(value, "requests a second"),
    )  # fmt: skip
    for way in ways:
        chart.add(way, [figure(result, way, "requests a second")])
    chart.render_to_file(str(to))
