"""The reports: their shape, their content, and that they are whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from pipeline import log, report
from pipeline.report import Recorder, Report
from pipeline.task import Key, Result

from .fakes import IMAGE, Engine, Found, task

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = json.loads((Path(report.__file__).parent / "report.schema.json").read_text("utf-8"))
LINT, TEST, PUSH, VERIFY = Key("lint"), Key("test", "api"), Key("push", "api"), Key("verify")

RESULTS = (
    Result(LINT, "cached", 0.5, 0.1, cause="ran at 10:02 on builder"),
    Result(
        TEST,
        "failed",
        0.5,
        2.0,
        cause="1 of 3 tests failed <&>",
        remedy="Mend it",
        evidence="\x1b[31mE assert 1 == 2\x1b[0m\x00",
        exit_code=1,
    ),
    Result(PUSH, "passed", 2.5, 0.25, image=IMAGE),
    Result(VERIFY, "skipped", 2.5, 0.0, cause="needs test api, which failed"),
)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Keep secrets within a test."""
    with log.remembering():
        yield


def a_report(*results: Result, **changes: Any) -> Report:  # noqa: ANN401 - fields of any type
    """Return a report of a run that found everything."""
    whole = Report(
        started_at=datetime(2026, 11, 23, 10, 0, tzinfo=UTC),
        seconds=3.25,
        exit_code=1,
        surroundings=Found(),
        results=results or RESULTS,
    )
    return replace(whole, **changes)


def check(document: Any) -> None:  # noqa: ANN401 - any JSON
    """Check a document against the schema."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(
        document, SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def parse(text: str) -> ET.Element:
    """Return the root of an XML text of our own making."""
    return ET.fromstring(text)  # noqa: S314


def suites(text: str) -> dict[str, ET.Element]:
    """Return the suites of a JUnit file by name."""
    root = parse(text)
    return {suite.get("name", ""): suite for suite in root}


def test_json_is_what_the_issue_names() -> None:
    """report.json has the fields that its readers rely on, and nothing else."""
    document = report.document(a_report())
    check(document)
    assert document == {
        "schema_version": 1,
        "project": "slipway",
        "revision": "6a0c4e2",
        "platform": "linux/amd64",
        "started_at": "2026-11-23T10:00:00.000+00:00",
        "exit_code": 1,
        "seconds": 3.25,
        "cause": "",
        "engine": {"name": "embedded", "version": "0.1.0", "reason": "no Dagger is here"},
        "bases": {"kind": "debian", "references": {"api": IMAGE.base}},
        "steps": [
            {
                "name": "lint",
                "image": None,
                "state": "cached",
                "seconds": 0.1,
                "cause": "ran at 10:02 on builder",
            },
            {
                "name": "test",
                "image": "api",
                "state": "failed",
                "seconds": 2.0,
                "cause": "1 of 3 tests failed <&>. Mend it.",
            },
            {"name": "push", "image": "api", "state": "passed", "seconds": 0.25, "cause": ""},
            {
                "name": "verify",
                "image": None,
                "state": "skipped",
                "seconds": 0.0,
                "cause": "needs test api, which failed",
            },
        ],
        "images": [
            {
                "name": "api",
                "reference": IMAGE.reference,
                "size_bytes": 183_000_000,
                "base": IMAGE.base,
            }
        ],
        "inputs": {"service": f"sha256:{'c' * 64}"},
    }


def test_json_of_a_run_that_did_not_begin() -> None:
    """A run that was refused is reported in the same shape, with its cause."""
    document = report.document(
        Report(
            started_at=datetime.now(UTC),
            seconds=0.0,
            exit_code=3,
            platform="linux/arm64",
            cause="No Docker. Run `make setup`.",
        )
    )
    check(document)
    assert (document["engine"], document["bases"], document["steps"]) == (None, None, [])
    assert document["cause"] == "No Docker. Run `make setup`."
    assert document["platform"] == "linux/arm64"


def test_schema_refuses_what_it_does_not_know() -> None:
    """The schema is closed: a field more, a field less or another value is an error."""
    document = report.document(a_report())
    wrong: list[dict[str, Any]] = [
        document | {"more": 1},
        {name: value for name, value in document.items() if name != "inputs"},
        document | {"exit_code": 7},
        document | {"steps": [document["steps"][0] | {"state": "running"}]},
        document | {"images": [document["images"][0] | {"reference": "api:latest"}]},
        document | {"engine": document["engine"] | {"name": "other"}},
        document | {"started_at": "yesterday"},
    ]
    for each in wrong:
        with pytest.raises(jsonschema.ValidationError):
            check(each)


def test_schema_closes_every_object() -> None:
    """Every object of the schema says that it has no other fields, or what they hold."""

    def objects(node: object) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for value in node.values():
                yield from objects(value)
        elif isinstance(node, list):
            for value in node:
                yield from objects(value)

    found = list(objects(SCHEMA))
    assert len(found) == 7
    assert all("additionalProperties" in each for each in found)


def test_junit_has_a_case_for_each_step() -> None:
    """junit.xml tells each step as a test: failed with its output, skipped with its cause."""
    text = report.to_junit(a_report())
    root = parse(text)
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    steps = {case.get("name"): case for case in suites(text)["steps"]}
    failure = steps["test api"].find("failure")
    assert failure is not None
    assert failure.get("message") == "1 of 3 tests failed <&>"
    assert failure.text == "Mend it\n\nE assert 1 == 2"
    assert steps["test api"].get("time") == "2.000"
    assert steps["lint"].findtext("system-out") == "cached: ran at 10:02 on builder"
    assert steps["verify"].find("skipped") is not None


def test_junit_has_the_tests_within(tmp_path: Path) -> None:
    """The suites of a step's own JUnit files are in junit.xml, named by the step, and counted."""
    inner = tmp_path / "inner.xml"
    inner.write_text(
        '<testsuites><testsuite name="pytest" tests="99" failures="0">'
        '<testcase name="a" time="0.5"/><testcase name="b" time="x"><failure message="m">hunter2 '
        "</failure></testcase></testsuite></testsuites>",
        encoding="utf-8",
    )
    lone = tmp_path / "lone.xml"
    lone.write_text('<testsuite><testcase name="c"><error/></testcase></testsuite>', "utf-8")
    log.conceal("hunter2")
    result = replace(RESULTS[1], suites=(inner, lone))
    text = report.to_junit(a_report(result))
    found = suites(text)
    assert list(found) == ["steps", "test api: pytest", "test api: lone"]
    suite = found["test api: pytest"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("time")) == ("2", "1", "0.500")
    assert found["test api: lone"].get("errors") == "1"
    assert parse(text).get("tests") == "4"
    assert "hunter2" not in text


@pytest.mark.parametrize("content", [None, "", "<testsuite>", "no XML at all"])
def test_broken_junit_file_does_not_lose_the_report(tmp_path: Path, content: str | None) -> None:
    """A JUnit file that cannot be read is an error in the report, not the end of it."""
    broken = tmp_path / "broken.xml"
    if content is not None:
        broken.write_text(content, encoding="utf-8")
    text = report.to_junit(a_report(replace(RESULTS[1], suites=(broken,))))
    error = suites(text)["test api: broken.xml"].find("testcase/error")
    assert error is not None
    assert "broken.xml cannot be read" in error.get("message", "")
    assert parse(text).get("errors") == "1"


def test_junit_tells_the_cause_of_the_run() -> None:
    """An error that belongs to no step is a case of its own."""
    text = report.to_junit(a_report(cause="No Docker.", evidence="tried\x07 this"))
    error = suites(text)["steps"].find("testcase[@name='run']/error")
    assert error is not None
    assert (error.get("message"), error.text) == ("No Docker.", "tried this")


def test_html_asks_for_nothing_outside() -> None:
    """report.html needs no other file, no network and no script."""
    text = report.to_html(a_report())
    assert not re.search(r"<script|<iframe|@import|url\(|<img|\son\w+=", text)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,"}
    assert "default-src 'none'" in text


def test_html_tells_everything() -> None:
    """report.html has the verdict, a bar and a row for each task, the images and the failure."""
    text = report.to_html(a_report())
    assert ">Failed</span> in 3.2 s" in text
    assert text.count("<rect ") == len(RESULTS) + 1
    for state in ("cached", "failed", "passed", "skipped"):
        assert f'<span class="state {state}">{state}</span>' in text
    assert IMAGE.reference in text
    assert "183.0 MB" in text
    assert "E assert 1 == 2" in text
    assert "Mend it" in text
    assert 'aria-labelledby="picture"' in text


def test_html_escapes_what_it_is_given() -> None:
    """Nothing that is told becomes markup."""
    nasty = "</pre><script>alert('x')</script>$seconds"
    result = replace(RESULTS[1], key=Key("test", nasty), cause=nasty, remedy=nasty, evidence=nasty)
    engine = Engine(reason=nasty)
    text = report.to_html(a_report(result, surroundings=Found(engine=engine), cause=nasty))
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;$seconds") >= 6


def test_html_of_a_run_that_did_not_begin() -> None:
    """A run that was refused has a page that says why."""
    text = report.to_html(
        Report(started_at=datetime.now(UTC), seconds=0.1, exit_code=2, cause="Unknown step 'x'.")
    )
    assert "Unknown step &#x27;x&#x27;." in text
    assert "No step was run." in text


@pytest.mark.parametrize(
    ("seconds", "last"),
    [(0.004, "0 s"), (3.2, "3 s"), (59, "50 s"), (360, "360 s"), (9e5, "900000")],
)
def test_picture_has_a_readable_axis(seconds: float, last: str) -> None:
    """The axis has a few round marks, however short or long the run was."""
    marks = re.findall(r'class="axis".*?>([^<]+)</text>', report.to_html(a_report(seconds=seconds)))
    assert 1 <= len(marks) <= 9
    assert marks[-1].startswith(last)


def test_secrets_are_in_no_report() -> None:
    """A secret that turns up in output, causes or reasons is masked in all three reports."""
    log.conceal("hunter2")
    result = replace(RESULTS[1], cause="c hunter2", remedy="r hunter2", evidence="e hunter2")
    whole = a_report(
        result,
        surroundings=Found(engine=Engine(reason="x hunter2")),
        cause="run hunter2",
        evidence="hunter2",
    )
    for text in (report.to_json(whole), report.to_junit(whole), report.to_html(whole)):
        assert "hunter2" not in text
        assert log.MASK in text


def test_very_long_evidence_keeps_its_end() -> None:
    """Of output that is very long the end is kept, and how much is left out is said."""
    evidence = "x" * 300_000 + "the end"
    text = report.to_html(a_report(replace(RESULTS[1], evidence=evidence)))
    assert "the first 100007 characters are left out" in text
    assert "the end" in text
    assert len(text) < 300_000


def test_write_leaves_three_whole_files(tmp_path: Path) -> None:
    """Writing leaves the three reports and nothing beside them, in the place of older ones."""
    for name in report.NAMES:
        (tmp_path / name).write_text("old", encoding="utf-8")
    assert report.write(a_report(), tmp_path) == tuple(tmp_path / name for name in report.NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.NAMES)
    check(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))


def test_clear_removes_an_earlier_run(tmp_path: Path) -> None:
    """The reports of an earlier run are removed, and other files are not touched."""
    report.write(a_report(), tmp_path)
    (tmp_path / "coverage.xml").write_text("", encoding="utf-8")
    report.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["coverage.xml"]


def test_recorder_knows_what_was_stopped() -> None:
    """Of a run that was stopped, what ran is failed and what did not start is skipped."""
    recorder = Recorder()
    recorder.planned([task(LINT), task(TEST), task(VERIFY)])
    recorder.started(TEST)
    recorder.ended(RESULTS[0])
    made = recorder.report(130, cause="Stopped by SIGINT.")
    assert [(r.state, r.cause) for r in made.results] == [
        ("cached", "ran at 10:02 on builder"),
        ("failed", "stopped with the run, before it ended"),
        ("skipped", "the run was stopped before it started"),
    ]
    check(report.document(made))


@pytest.mark.parametrize(
    ("cause", "remedy", "told"),
    [
        ("It failed", "Mend it", "It failed. Mend it."),
        ("It failed.", "Mend it!", "It failed. Mend it!"),
        ("It failed", "", "It failed."),
        ("", "", ""),
    ],
)
def test_told_makes_sentences(cause: str, remedy: str, told: str) -> None:
    """A cause and a remedy are told as sentences, each with one full stop."""
    assert report.told(cause, remedy) == told
