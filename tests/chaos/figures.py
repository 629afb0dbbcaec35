"""What was done to the system and what was counted: kept as JSON, and told as a table.

python -m tests.chaos.figures      reports/chaos/chaos.json → docs/chaos.json, docs/reliability.md
"""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "reports/chaos/chaos.json"
DOCUMENTS = ROOT / "docs"
NAME = "chaos.json"


def dated(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured, with when and on what machine."""
    return {
        "schema_version": 1,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
        "figures": found,
    }


def save(found: Mapping[str, Any], to: Path = MEASURED) -> None:
    """Write what was measured so far."""
    value = dated(found)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def section(result: Mapping[str, Any]) -> str:
    """Return what was measured, for a person, as a section in Markdown."""
    found = result["figures"]
    rows = [
        row
        for name, (title, told) in _ROWS.items()
        if name in found
        for row in _rows(title, told(found[name]), found[name]["loads"])
    ]
    rate = next((each["loads"]["the list"]["rate"] for each in found.values()), 0)
    introduction = _INTRODUCTION.format(
        date=result["measured_at"][:10], cores=result["machine"]["cores"], rate=rate
    )
    return "\n".join(
        [
            *introduction.split("\n"),
            "| what is done | what comes of it | asked for | requests | 200 | 503 | others | p99 |",
            "|---|---|---|---:|---:|---:|---|---:|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            *_CLOSING.split("\n"),
        ]
    )


_INTRODUCTION = """\
## Parts that fail

Measured by `pytest tests/chaos` on {date}, {cores} cores for everything: socket proxy,
API and Nginx in containers of one machine, asked through Nginx at {rate:g} requests a second each
for the list, of which Nginx has a copy for a second or two, and for lists of which it has none, so
that each is a question to the API. Every request has a connection of its own, and nothing is tried
again by who asks. The figures as JSON are in [chaos.json](chaos.json).
"""

_CLOSING = """\
- **Docker, or the way to it, is gone.** Each 503 is problem details and came within 2 s of its
  request. From 4 s after the loss at the latest nothing but 503 is answered until the source is
  back: Nginx's copy of the list is given up for it, so that an old list is not taken for the truth.
- **The only API is gone.** Whoever asks for the list gets Nginx's copy, until that is 10 s old,
  marked `stale-if-error` in `Cache-Status`. Whoever asks for something of which there is no copy,
  the page among it, gets 502 or 504 as problem details. With two APIs, or with one of which a
  process is replaced, no request fails.
- **A second in the last column** is what Nginx gives an address that is silent before it asks the
  next one.
"""


def _worker(had: Mapping[str, Any]) -> str:
    return f"Nginx asks another one; replaced after {_seconds(had['replaced_s'])}"


def _reloaded(had: Mapping[str, Any]) -> str:
    return f"all workers are new after {_seconds(had['replaced_s'])}"


def _restarted(had: Mapping[str, Any]) -> str:
    return f"each is back after {_seconds(had['took_s'])}; the other one answers"


def _alone(had: Mapping[str, Any]) -> str:
    return f"back after {_seconds(had['took_s'])}; Nginx's copy stands in for the list"


def _outage(had: Mapping[str, Any]) -> str:
    return (
        f"noticed within {_seconds(had['noticed_s'])}, the longest answer took "
        f"{had['longest_s']:.2f} s; over {_seconds(had['recovered_s'])} after its return"
    )


def _nginx(_had: Mapping[str, Any]) -> str:
    return "old processes finish what they have"


def _slow(had: Mapping[str, Any]) -> str:
    longest = max(had["ended_s"].values())
    return f"let go within {_seconds(longest)}; the others notice nothing"


_ROWS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "worker killed": ("the workers of gunicorn are killed, one by one", _worker),
    "API reloaded": ("the API takes new workers (SIGHUP)", _reloaded),
    "APIs restarted in turn": ("two APIs are restarted, one after the other", _restarted),
    "the only API restarted": ("the only API is restarted", _alone),
    "Nginx reloaded": ("Nginx is reloaded three times", _nginx),
    "socket proxy stopped": ("the socket proxy is stopped for 8 s", _outage),
    "Docker paused": ("Docker answers nothing for 8 s", _outage),
    "slow clients": ("220 clients that are slow or stop half-way", _slow),
}


def _rows(title: str, told: str, loads: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, had in loads.items():
        outcomes = dict(had["outcomes"])
        well, gone = outcomes.pop("200", 0), outcomes.pop("503", 0)
        others = ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.items()) or "0"
        p99 = "" if had["p99_ms"] is None else f"{had['p99_ms']:.0f} ms"
        rows.append((title, told, name, str(had["requests"]), str(well), str(gone), others, p99))
        title = told = ""
    return rows


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def main() -> None:
    """Write the documents from what was measured; other places may be named as arguments."""
    from tests.cluster import figures

    places = [Path(word) for word in sys.argv[1:3]]
    measured, documents = places or (MEASURED, DOCUMENTS)
    text = measured.read_text(encoding="utf-8")
    (documents / NAME).write_text(text, encoding="utf-8")
    document = figures.document(documents)
    (documents / f"{figures.NAME}.md").write_text(document, encoding="utf-8")
    sys.stdout.write(section(json.loads(text)))


if __name__ == "__main__":
    main()
