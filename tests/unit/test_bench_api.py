"""What the bench of the API makes of what its tools print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import figures as documents
from bench.api import figures
from bench.api.figures import API, CLIENT, CONSTANT, FILE, LIST, BenchError

ROOT = Path(__file__).resolve().parents[2]
WRK = """\
Running 8s test @ http://127.0.0.1:8080/api/v1/containers
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.14ms  352.33us   9.61ms   90.23%
    Req/Sec    14.15k     1.02k   16.02k    75.00%
  112651 requests in 8.00s, 512.30MB read
Requests/sec:  14073.55
Transfer/sec:     64.00MB
"""


def vegeta(**more: Any) -> str:  # noqa: ANN401 - JSON is anything
    """Return what vegeta prints of a run in which everything was answered."""
    told = {
        "latencies": {"mean": 400_000, "99th": 1_250_000},
        "status_codes": {"200": 4000},
        "success": 1,
    }
    return json.dumps({**told, **more})


def result(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON is anything
    """Return what was measured where every aim was met."""
    told = {
        "measured_at": "2030-01-02T03:04:05+00:00",
        "machine": {"cores": 2, "platform": "x"},
        "rounds": 3,
        "seconds": 8.0,
        "connections": 16,
        "rate": 500,
        "containers": 23,
        "bytes": 9123,
        "measured": {
            "requests a second": {
                FILE: [10_000.0, 11_000.0, 9_000.0],
                LIST: [8_000.0, 9_000.0, 7_000.0],
                CONSTANT: [2_000.0, 2_000.0, 2_000.0],
                API: [1_500.0, 1_500.0, 1_500.0],
                CLIENT: [5.0, 5.0, 5.0],
            },
            "99 % within": {FILE: [0.001] * 3, LIST: [0.0015] * 3},
        },
        "memory": {"1000": 100_000_000, "10000": 101_500_000},
    }
    return {**told, **more}


def test_wrk_tells_the_requests_a_second() -> None:
    """The figure is that of the whole run."""
    assert figures.wrk(WRK) == 14073.55


@pytest.mark.parametrize(
    "line",
    [
        "  Non-2xx or 3xx responses: 12\n",
        "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
    ],
)
def test_wrk_that_was_refused_measures_nothing(line: str) -> None:
    """A server that fails is fast."""
    head, last = WRK.split("Requests/sec", 1)
    with pytest.raises(BenchError, match="not answered as it should"):
        figures.wrk(f"{head}{line}Requests/sec{last}")
    with pytest.raises(BenchError):
        figures.wrk("unable to connect to 127.0.0.1:8080 Connection refused\n")


def test_vegeta_tells_the_slowest_hundredth() -> None:
    """In seconds."""
    assert figures.vegeta(vegeta()) == 0.00125


@pytest.mark.parametrize(
    "more", [{"status_codes": {"200": 3999, "429": 1}, "success": 0.99}, {"status_codes": {"0": 9}}]
)
def test_vegeta_that_was_refused_measures_nothing(more: dict[str, Any]) -> None:
    """One answer that is not 200 is one too many."""
    with pytest.raises(BenchError):
        figures.vegeta(vegeta(**more))


def test_aims_that_are_met_are_not_told_of() -> None:
    """Nothing to say is nothing said."""
    assert figures.missed(result()) == []


def test_each_aim_that_is_missed_is_told() -> None:
    """With what was measured, and what it was to be."""
    rows = result()["measured"]
    rows["requests a second"][LIST] = [6_000.0] * 3
    rows["requests a second"][API] = [140.0] * 3
    rows["99 % within"][LIST] = [0.0021] * 3
    missed = figures.missed(result(measured=rows, memory={"1000": 0, "10000": 5_000_001}))
    assert [sentence.rpartition(": ")[2] for sentence in missed] == [
        "0.60, and it is to be at least 0.7",
        "2.10, and it is to be at most 2",
        "0.07, and it is to be at least 0.6",
        "28.00, and it is to be at least 30",
        "the API took 5.0 MB more after 10,000 requests than 1,000",
    ]


def test_section_has_each_aim_and_its_medians() -> None:
    """A figure stands beside what it is measured against."""
    lines = figures.section(result()).splitlines()
    assert f"| {LIST}, requests a second | 8,000 | {FILE} | 10,000 | 0.80 | ≥ 0.70 |" in lines
    assert f"| {LIST}, 99 % within | 1.50 ms | {FILE} | 1.00 ms | 1.50 | ≤ 2.00 |" in lines
    assert f"| {API}, requests a second | 1,500 | {CLIENT} | 5.00 | 300 | ≥ 30 |" in lines
    row = "| memory of the API after 10,000 requests | 101.5 MB | after 1,000 | 100.0 MB | +1.5 MB"
    assert f"{row} | ≤ 5 MB |" in lines


def test_document_has_what_each_bench_measured(tmp_path: Path) -> None:
    """Either may be renewed without the other."""
    (tmp_path / figures.NAME).write_text(json.dumps(result()))
    assert documents.document(tmp_path).startswith("# Speed\n\n## The API and its proxy\n")
    pipeline = {
        "measured_at": "2030-01-02T03:04:05+00:00",
        "machine": {"cores": 2},
        "medians": {
            way: dict.fromkeys(documents.SCENARIOS, 2.0)
            for way in ("imperative", "pipeline, embedded")
        },
        "aims": dict.fromkeys(documents.SCENARIOS, 0.5),
        "seconds": {"imperative": {"cold": [1.0, 2.0]}},
    }
    (tmp_path / documents.NAME).write_text(json.dumps(pipeline))
    text = documents.document(tmp_path)
    assert text.index("| cold start | 2.00 s |") < text.index("## The API and its proxy")


def test_document_is_made_of_its_figures() -> None:
    """docs/speed.md says what the figures beside it do, and nobody wrote it by hand."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    assert (docs / documents.DOCUMENT).read_text() == documents.document(docs)


def test_plot_is_an_image(tmp_path: Path) -> None:
    """Of all ways."""
    # Another process: what pygal does to the import system makes a warning of each later import.
    draw = "figures.plot(json.load(sys.stdin), Path(sys.argv[1]))"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import json, sys; from pathlib import Path; from bench.api import figures; {draw}",
            str(tmp_path / figures.PLOT),
        ],
        cwd=ROOT,
        check=True,
        input=json.dumps(result()),
        text=True,
        timeout=60,
    )
    text = (tmp_path / figures.PLOT).read_text()
    assert text.count("</svg>") == 1
    assert "a Docker client made for each request" in text
