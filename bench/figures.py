"""What the benches measured, told: docs/speed.md, made of one JSON file for each of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.api import figures as api

if TYPE_CHECKING:
    from pathlib import Path

NAME = "speed.json"
DOCUMENT = "speed.md"
SCENARIOS = ("cold", "unchanged", "changed")
TITLES = {
    "cold": "cold start",
    "unchanged": "nothing changed",
    "changed": "one changed line of the API",
}


def document(folder: Path) -> str:
    """Return the document that the figures of a folder make."""
    parts = ["# Speed\n"]
    for name, section in ((NAME, table), (api.NAME, api.section)):
        if (folder / name).exists():
            parts.append(section(json.loads((folder / name).read_text(encoding="utf-8"))))
    return "\n".join(parts)


def table(result: dict[str, Any]) -> str:
    """Return what was measured, for a person, in Markdown."""
    medians, aims = result["medians"], result["aims"]
    ways = [way for way in medians if way != "imperative"]
    method = (
        f"Medians, measured in turns by `make bench` on "
        f"{result['measured_at'][:10]} with {result['machine']['cores']} cores: whole processes, "
        "from the command to its end. Base images, registry and Docker Engine were there. The "
        "imperative way is [one docker command after the other](../bench/imperative.sh); its mypy "
        "begins without a cache each time, as in a container that is thrown away, which the "
        "pipeline's does not."
    )
    lines = [
        method,
        "",
        "| | imperative | " + " | ".join(f"{way} | of it | aim" for way in ways) + " |",
        "|---|---:|" + "---:|---:|---:|" * len(ways),
    ]
    for scenario in SCENARIOS:
        base = medians["imperative"][scenario]
        cells = []
        for way in ways:
            mine = medians[way][scenario]
            cells.append(f"{mine:.2f} s | {mine / base:.2f} | ≤ {aims[scenario]:.2f}")
        lines.append(f"| {TITLES[scenario]} | {base:.2f} s | " + " | ".join(cells) + " |")
    lines += ["", "![The medians as bars](speed.svg)", ""]
    spread = "; ".join(
        f"{way}, {TITLES[scenario]}: {min(times):.2f} to {max(times):.2f} s in {len(times)} runs"
        for way, rows in result["seconds"].items()
        for scenario, times in rows.items()
    )
    return "\n".join([*lines, f"Spread: {spread}.", ""])


def plot(result: dict[str, Any], to: Path) -> None:
    """Draw the medians as bars, from zero."""
    import pygal
    from pygal.style import CleanStyle

    chart = pygal.HorizontalBar(
        style=CleanStyle(value_font_size=13, label_font_size=13, legend_font_size=13),
        print_values=True, print_values_position="top", height=360, js=[], include_x_axis=True,
        legend_at_bottom=True, truncate_legend=-1, truncate_label=-1, x_labels_major_count=6,
        title="Seconds of a whole run, median", value_formatter=lambda value: f"{value:.2f} s",
    )  # fmt: skip
    chart.x_labels = [TITLES[scenario] for scenario in reversed(SCENARIOS)]
    for way, rows in result["medians"].items():
        chart.add(way, [rows[scenario] for scenario in reversed(SCENARIOS)])
    chart.render_to_file(str(to))
