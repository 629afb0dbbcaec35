"""What the cluster tests measured becomes a table and a plot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster import figures
from tests.cluster.watch import Moment
from tests.load import Answer, Answers

ROOT = Path(__file__).resolve().parents[2]
LOAD = {"requests": 100, "failed": 7}


def result(**found: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON is anything
    """Return a file of figures."""
    machine = {"cores": 2, "platform": "x"}
    return {"measured_at": "2030-01-02T03:04:05+00:00", "machine": machine, "figures": found}


def test_timeline_has_pods_and_answers_of_each_second() -> None:
    """A second has the answers that were due in it, and the pods that were ready at its end."""
    moments = (
        Moment(9.0, {"slipway-api": 2, "slipway-nginx": 2}, {}),
        Moment(11.5, {"slipway-api": 3, "slipway-nginx": 2}, {}),
    )
    items = (Answer(10.5, 10.5, 10.6, "200"), Answer(11.2, 11.2, 11.3, "503"))
    answers = Answers("http://127.0.0.1/", 1, keep_alive=False, items=items)
    assert figures.timeline(moments, answers, 10, 12) == {
        "answered": [1, 0],
        "failed": [0, 1],
        "API": [2, 3],
        "Nginx": [2, 2],
    }


def test_table_tells_failures_as_they_are() -> None:
    """A figure that is bad is in the table as well."""
    text = figures.table(
        result(
            **{
                "rolling update": {
                    "deploy_s": 12.34,
                    "new connections": LOAD,
                    "kept connections": LOAD,
                }
            }
        )
    )
    row = "| rolling update of both, new connections | `deploy` takes 12 s | 100 | **7** |"
    assert row in text.splitlines()


def test_table_leaves_out_what_was_not_measured() -> None:
    """A run of some of the scenarios has a table of these."""
    text = figures.table(result())
    assert [line for line in text.splitlines() if line.startswith("| ")] == [
        "| what happens | what comes of it | requests | failed |"
    ]


def test_documents_are_made_of_what_was_measured(tmp_path: Path) -> None:
    """Table, figures, and a plot of replicas and load over time."""
    rows = {
        "answered": [100] * 20,
        "failed": [0] * 20,
        "API": [2] * 10 + [3] * 10,
        "Nginx": [2] * 20,
    }
    per_workload = {"slipway-api": 4.0, "slipway-nginx": 3.0}
    scaling = {
        "usual_rate": 25.0,
        "burst_rate": 100.0,
        "timeline": rows,
        "up_s": per_workload,
        "down_s": per_workload,
        "most_ready": per_workload,
        "load": LOAD,
        "scale_down": LOAD,
    }
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps(result(scaling=scaling)))
    # Another process: what pygal does to the import system makes a warning of each later import.
    subprocess.run(
        [sys.executable, "-m", "tests.cluster.figures", str(measured), str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    drawn = (tmp_path / "reliability.svg").read_text()
    assert all(name in drawn for name in ("answered", "failed", "ready pods of API"))
    assert "125 requests a second" in (tmp_path / "reliability.md").read_text()
    assert (tmp_path / "reliability.json").read_text() == measured.read_text()


def test_save_keeps_what_was_measured(tmp_path: Path) -> None:
    """The file says when and on what machine."""
    measured = {"remove": {"remove_s": 1.5}, "scaling": {"timeline": {"failed": [0, 1, 2]}}}
    figures.save(measured, tmp_path / "deep/figures.json")
    text = (tmp_path / "deep/figures.json").read_text()
    assert "[ 0, 1, 2 ]" in text
    found = json.loads(text)
    assert found["figures"] == measured
    assert found["machine"]["cores"] >= 1


def test_document_is_made_of_its_figures() -> None:
    """docs/reliability.md says what the figures beside it do, and nobody wrote it by hand."""
    assert (ROOT / "docs/reliability.md").read_text() == figures.document(ROOT / "docs")
