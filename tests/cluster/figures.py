"""What was measured: kept as JSON by the scenarios, and told as a table and a plot.

python -m tests.cluster.figures      reports/cluster/reliability.json → docs/reliability.*
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos import figures as chaos

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.load import Answers

    from .watch import Moment

    Row = tuple[str, ...]

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "reports/cluster/reliability.json"
DOCUMENTS = ROOT / "docs"
NAME = "reliability"
WORKLOADS = {"slipway-api": "API", "slipway-nginx": "Nginx"}


def save(found: Mapping[str, Any], to: Path = MEASURED) -> None:
    """Write what was measured so far."""
    value = chaos.dated(found)
    to.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False)
    # A list of numbers is one line, and not one for each.
    text = re.sub(r"\[[\d\s,.]+\]", lambda found: " ".join(found[0].split()), text)
    to.write_text(text + "\n", encoding="utf-8")


def timeline(
    moments: Sequence[Moment], answers: Answers, began: float, ended: float
) -> dict[str, list[int]]:
    """Return, for each second, the answers that were had and the pods that were ready, by name.

    Args:
        moments: How many pods there were from each moment on.
        answers: Those of the load.
        began: The first moment, of the monotonic clock.
        ended: The last one.
    """
    seconds = list(answers.per_second(began, ended))
    found = {
        "answered": [well for _, well, _ in seconds],
        "failed": [failed for _, _, failed in seconds],
    }
    for workload, name in WORKLOADS.items():
        found[name] = []
        for second, _, _ in seconds:
            before = [each for each in moments if each.at <= began + second + 1]
            found[name].append(before[-1].ready.get(workload, 0) if before else 0)
    return found


def table(result: Mapping[str, Any]) -> str:
    """Return what was measured, for a person, in Markdown."""
    found = result["figures"]
    rows = [row for make in _ROWS for row in make(found)]
    machine = result["machine"]
    return "\n".join(
        [
            "# Reliability",
            "",
            *_INTRODUCTION.format(date=result["measured_at"][:10], cores=machine["cores"]).split(
                "\n"
            ),
            "| what happens | what comes of it | requests | failed |",
            "|---|---|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "![Replicas and load over time](reliability.svg)",
            "",
            *_CLOSING.split("\n"),
        ]
    )


_INTRODUCTION = """\
Measured by `make test-cluster` on {date}: a real Kubernetes of one node with KEDA, {cores} cores
for everything, the load included. The windows are short ones
([overlay](../tests/cluster/overlay/kustomization.yaml)); the figures as JSON are in
[reliability.json](reliability.json).

A load generator asks through the Service of Nginx, each request when it is due whatever became of
those before it, and tries nothing again. A request has *failed* when it has no whole answer of 200
within 10 s. Unless something else is said, each request has a connection of its own and asks for a
list of which Nginx has no copy: neither the client's side nor an old answer can make up for a
server that is gone.
"""

_CLOSING = """\
The plot is of the scaling test: a usual load throughout, a burst on top of it, and the pods that
KEDA has of it.

## What makes it so

- **A pod that is to go stops being asked before it stops.** `preStop` sleeps while the node takes
  the pod out of the Service; then gunicorn and Nginx finish what they have, within the grace
  period.
- **A pod that comes is asked when it serves.** `maxUnavailable: 0`, a readiness probe that asks for
  the very list, and `minReadySeconds`.
- **A deploy that fails is taken back**, and what served goes on serving: not one of the old pods
  has to go before a new one is ready.
- **What was killed is run again.** A deploy is applied from the server's side, every step of it
  may be done twice, and the lock of one that died runs out.

## What it does not promise

- A process of the API that is killed may still be asked until the node notices, which looks once a
  second. Nginx tries a read four times, and every second try meets another pod: at worst one in
  sixteen requests of that second gets a 502. That is for what Nginx has no copy of; for a list that
  was asked for in the last seconds its copy stands in, for up to 10 s and marked as such.
- A process of Nginx that is killed has clients refused until the node notices, which looks once a
  second: nobody stands in front of Nginx in this test. With an ingress or a load balancer that
  tries another pod, nobody sees it.
- While the API server of Kubernetes is away, the list cannot be had, because it is Kubernetes that
  has it. The API says so with 503. When it is back, Kubernetes' own parts, kube-proxy among them,
  look again after up to half a minute each; a rollout that goes on meanwhile may lose a request.
- One node is one node: losing it is the disaster of the table, and not a disruption.
"""


def _from_nothing(found: Mapping[str, Any]) -> list[Row]:
    had = found.get("from nothing", {})
    rows: list[Row] = []
    parts = (
        ("`cluster up`, `cluster prepare`", ("cluster_up_s", "cluster_prepare_s")),
        ("`deploy` to an empty cluster", ("deploy_s",)),
        ("`deploy` of what runs already", ("deploy_again_s",)),
    )
    for title, keys in parts:
        if all(key in had for key in keys):
            rows.append((title, " and ".join(_seconds(had[key]) for key in keys), "", ""))
    if "rights_asked" in had:
        asked = f"{had['rights_asked']:,}".replace(",", " ")
        rows.append(("rights of the API's token", f"3 of {asked} asked for: it sees pods", "", ""))
    return rows


def _scaling(found: Mapping[str, Any]) -> list[Row]:
    had = found.get("scaling")
    if not had:
        return []
    rate = f"{had['usual_rate'] + had['burst_rate']:g}"
    rows: list[Row] = []
    for workload, name in WORKLOADS.items():
        most = had["most_ready"][workload]
        title = f"{rate} requests a second: KEDA scales {name} from 2 to {most}"
        took = f"the third serves after {_seconds(had['up_s'][workload])}; "
        took += f"back to 2 {_seconds(had['down_s'][workload])} after the burst"
        rows.append((title, took, *(_load(had["load"]) if name == "API" else ("", ""))))
    rows.append(("scale-down, under load", "", *_load(had["scale_down"])))
    return rows


def _disruption(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    had = found.get("rolling update", {})
    for name in ("new connections", "kept connections") if had else ():
        took = f"`deploy` takes {_seconds(had['deploy_s'])}"
        rows.append((f"rolling update of both, {name}", took, *_load(had[name])))
    for workload, had in found.get("pod deleted at once", {}).items():
        took = f"replaced after {_seconds(had['replaced_after_s'])}"
        took += f"; {had['in_flight']} in flight"
        title = f"a pod of {WORKLOADS[workload]} deleted without a grace period"
        rows.append((title, took, *_load(had["load"])))
    for workload, had in found.get("process killed", {}).items():
        took = f"noticed by clients for {_seconds(had['longest_effect_s'])}"
        if "in_flight" in had:
            took += f"; {had['in_flight']} in flight"
        title = f"the process of a pod of {WORKLOADS[workload]} killed"
        rows.append((title, took, *_load(had["load"])))
    had = found.get("all pods deleted at once")
    if had:
        took = f"recovers by itself within {_seconds(had['recovered_after_s'])}"
        title = "all pods of both deleted at once, without a grace period"
        rows.append((title, took, *_load(had["load"])))
    return rows


def _bad_releases(found: Mapping[str, Any]) -> list[Row]:
    return [
        (f"deploy of {name}", f"taken back within {_seconds(had['deploy_s'])}", *_load(had["load"]))
        for name, had in found.get("bad releases", {}).items()
    ]


def _interruptions(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    had = found.get("API server away for 20 s")
    if had:
        how = "survives it" if had["exit_code"] == 0 else "fails and is run again"
        said = f"`deploy` {how}, after {_seconds(had['deploy_s'])}; no list meanwhile (503)"
        rows.append(("API server away for 20 s during a deploy", said, *_load(had["load"])))
    had = found.get("deploy killed")
    if had:
        killed = ", ".join(_seconds(each["after_s"]) for each in had["kills"])
        again = ", ".join(_seconds(each["again_s"]) for each in had["kills"])
        rows.append(
            (f"`deploy` killed after {killed}", f"run again: {again}; the same state", "", "")
        )
    return rows


def _end(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    had = found.get("rollback")
    if had:
        rows.append(("`deploy rollback`", _seconds(had["rollback_s"]), *_load(had["load"])))
    had = found.get("disaster")
    if had and "back_after_s" in had:
        parts = (
            f"back after {_seconds(had['back_after_s'])}: cluster {_seconds(had['cluster_up_s'])}, "
            f"KEDA {_seconds(had['cluster_prepare_s'])}, release from its file "
            f"({had['export_mb']:g} MB) {_seconds(had['deploy_from_file_s'])}"
        )
        rows.append(("cluster and registry destroyed with their data", parts, "", ""))
    had = found.get("remove")
    if had:
        rows.append(("`deploy remove`", f"{_seconds(had['remove_s'])}; nothing is left", "", ""))
    return rows


_ROWS = (_from_nothing, _scaling, _disruption, _bad_releases, _interruptions, _end)


def _load(had: Mapping[str, Any]) -> tuple[str, str]:
    return str(had["requests"]), f"**{had['failed']}**"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def plot(result: Mapping[str, Any], to: Path) -> None:
    """Draw replicas and load over the time of the scaling test."""
    import pygal
    from pygal.style import CleanStyle

    found = result["figures"]["scaling"]["timeline"]
    # One grid for both axes: as many lines as pods, and one more.
    lines = max(max(found[name]) for name in WORKLOADS.values()) + 1
    step = 10 * math.ceil(max(found["answered"]) / lines / 10) or 10
    chart = pygal.Line(
        style=CleanStyle(label_font_size=12, legend_font_size=12, major_label_font_size=12),
        height=420, js=[], show_dots=False, legend_at_bottom=True, truncate_legend=-1,
        title="Answers a second (left) and ready pods (right)", x_title="seconds",
        x_labels_major_every=20, show_minor_x_labels=False, truncate_label=-1,
        value_formatter=lambda value: f"{value:.0f}", y_labels=range(0, lines * step + 1, step),
        range=(0, lines * step), secondary_range=(0, lines),
    )  # fmt: skip
    chart.x_labels = [str(second) for second in range(len(found["answered"]))]
    chart.add("answered", found["answered"], fill=True)
    chart.add("failed", found["failed"])
    for name in WORKLOADS.values():
        title = f"ready pods of {name}"
        chart.add(title, found[name], secondary=True, stroke_style={"width": 3})
    chart.render_to_file(str(to))


def document(documents: Path) -> str:
    """Return the document that a folder's figures make, those of the chaos tests included."""
    text = (documents / f"{NAME}.json").read_text(encoding="utf-8")
    parts = [table(json.loads(text))]
    more = documents / chaos.NAME
    if more.exists():
        parts.append(chaos.section(json.loads(more.read_text(encoding="utf-8"))))
    return "\n".join(parts)


def main() -> None:
    """Write the documents from what was measured; other places may be named as arguments."""
    places = [Path(word) for word in sys.argv[1:3]]
    measured, documents = places or (MEASURED, DOCUMENTS)
    text = measured.read_text(encoding="utf-8")
    result = json.loads(text)
    (documents / f"{NAME}.json").write_text(text, encoding="utf-8")
    (documents / f"{NAME}.md").write_text(document(documents), encoding="utf-8")
    if "scaling" in result["figures"]:
        plot(result, documents / f"{NAME}.svg")
    sys.stdout.write(table(result))


if __name__ == "__main__":
    main()
