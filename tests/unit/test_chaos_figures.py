"""What the chaos tests counted becomes a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.chaos import figures

ROOT = Path(__file__).resolve().parents[2]


def load(**outcomes: int) -> dict[str, Any]:
    """Return the figures of a load, by outcomes with an underscore in front."""
    return {
        "requests": sum(outcomes.values()),
        "rate": 40.0,
        "outcomes": {name.removeprefix("_"): count for name, count in outcomes.items()},
        "p99_ms": 12.3 if outcomes.get("_200") else None,
    }


def result(**found: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON is anything
    """Return a file of figures."""
    machine = {"cores": 2, "platform": "x"}
    return {"measured_at": "2030-01-02T03:04:05+00:00", "machine": machine, "figures": found}


def test_every_answer_is_in_the_table() -> None:
    """What is neither 200 nor 503 is told by its name, and the title stands once."""
    had = {
        "gone_s": 8.0,
        "noticed_s": 1.24,
        "longest_s": 1.512,
        "recovered_s": 0.61,
        "loads": {"the list": load(_200=300, _503=7), "fresh": load(_503=20, reset=2)},
    }
    lines = figures.section(result(**{"Docker paused": had})).splitlines()
    assert (
        "| Docker answers nothing for 8 s | noticed within 1.2 s, the longest answer took 1.51 s; "
        "over 0.6 s after its return | the list | 307 | 300 | 7 | 0 | 12 ms |"
    ) in lines
    assert "|  |  | fresh | 22 | 0 | 20 | 2 x reset |  |" in lines
    assert "asked through Nginx at 40 requests a second" in " ".join(lines)


def test_table_leaves_out_what_was_not_measured() -> None:
    """A run of some of the tests has a table of these."""
    lines = figures.section(result()).splitlines()
    assert [line[:16] for line in lines if line.startswith("| ")] == ["| what is done |"]


def test_section_is_added_to_the_document(tmp_path: Path) -> None:
    """docs/reliability.md is made of what the cluster tests measured, and of this."""
    documents = tmp_path / "docs"
    documents.mkdir()
    (documents / "reliability.json").write_text(json.dumps(result()))
    measured = tmp_path / "chaos.json"
    figures.save({"Nginx reloaded": {"times": 3, "loads": {"the list": load(_200=9)}}}, measured)
    subprocess.run(
        [sys.executable, "-m", "tests.chaos.figures", str(measured), str(documents)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    text = (documents / "reliability.md").read_text()
    assert text.startswith("# Reliability\n")
    assert "## Parts that fail" in text
    assert "Nginx is reloaded three times" in text
    assert (documents / "chaos.json").read_text() == measured.read_text()
