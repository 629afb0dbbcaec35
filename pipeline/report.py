"""The reports of a run: report.json, junit.xml and report.html.

Rules:

- They are written for every run that has a folder to write to, a failed and a stopped one too, and
  each file is there whole or not at all.
- The shape of report.json is report.schema.json, beside this file.
- Text that comes from elsewhere (causes, output, names of tests) is scrubbed of secrets here, so
  that nobody who hands it over needs to think of it.
- report.html asks for nothing outside itself, and needs no script.

Templates are string.Template and `html.escape`: importing jinja2 takes longer than all of this.
"""

from __future__ import annotations

import html
import json
import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Protocol
from xml.etree import ElementTree as ET

from pipeline.config import IMAGES
from pipeline.errors import ExitCode
from pipeline.log import TRACEBACK_NAME, printable
from pipeline.task import Key, Result, State, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCHEMA_VERSION = 1
PROJECT = "slipway"
JSON_NAME = "report.json"
JUNIT_NAME = "junit.xml"
HTML_NAME = "report.html"
STOPPED = "stopped with the run, before it ended"
"""The cause of a task that was running when a signal came."""
NO_COMMIT = "none, this is no git checkout"
"""What a person is told for the revision then."""
NAMES = (JSON_NAME, JUNIT_NAME, HTML_NAME)
DEPLOY_NAME = "deploy.xml"
"""How the last command that is about a release ended, in JUnit's form; the others are of runs."""

COMPARED_NAME = "deploy.json"
"""The images that the last `deploy diff` has compared with what runs, by digest."""

_HERE = Path(__file__).parent
_WITHIN = (
    DEPLOY_NAME,
    COMPARED_NAME,
    "engine.log",
    *(f"{part}/{file}" for part in (*IMAGES, "verify") for file in ("junit*.xml", "coverage.xml")),
)
"""What steps and the engine write into the folder."""
_EVIDENCE_LIMIT = 200_000
_STATES: tuple[State, ...] = ("passed", "cached", "failed", "skipped")


class Engine(Protocol):
    """What runs the steps, as far as the report tells."""

    @property
    def name(self) -> str:
        """``dagger`` or ``embedded``."""

    @property
    def version(self) -> str:
        """Its own version."""

    @property
    def reason(self) -> str:
        """Why it was taken."""


class Bases(Protocol):
    """The base images of the run, as far as the report tells."""

    @property
    def kind(self) -> str:
        """``registry`` or ``debian``."""

    @property
    def references(self) -> dict[str, str]:
        """The reference of each image's base, by the image's name."""


class Surroundings(Protocol):
    """What a run found before its first step, as far as the report tells."""

    @property
    def engine(self) -> Engine:
        """What runs the steps."""

    @property
    def bases(self) -> Bases:
        """The base images."""

    @property
    def revision(self) -> str:
        """The commit; empty outside a git checkout."""

    @property
    def platform(self) -> str:
        """What is built for, ``os/arch``."""

    @property
    def inputs(self) -> dict[str, str]:
        """The digest of each part of the content that the steps depended on."""


@dataclass(frozen=True, slots=True)
class Report:
    """A run, as it is told.

    Attributes:
        started_at: When it began, with a time zone.
        seconds: How long it took.
        exit_code: What it exits with.
        surroundings: What it found; None when it ended before that was known.
        results: How each task ended, in the order of the plan.
        platform: What was asked for; counts when ``surroundings`` is None.
        cause: Why the run as a whole failed: an error that belongs to no step, with its remedy.
        evidence: Output that belongs to ``cause``.
    """

    started_at: datetime
    seconds: float
    exit_code: int
    surroundings: Surroundings | None = None
    results: tuple[Result, ...] = ()
    platform: str = ""
    cause: str = ""
    evidence: str = ""


class Recorder:
    """Observes a run, and makes its report at any moment.

    A task without a result at that moment was stopped with the run, or before it started.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.surroundings: Surroundings | None = None
        self._started_at = datetime.now(UTC)
        self._tasks: tuple[Task, ...] = ()
        self._running: dict[Key, float] = {}
        self._results: dict[Key, Result] = {}

    def planned(self, tasks: Sequence[Task]) -> None:
        """Remember the order."""
        self._tasks = tuple(tasks)

    def started(self, key: Key) -> None:
        """Remember when."""
        self._running[key] = time.monotonic() - self.began

    def ended(self, result: Result) -> None:
        """Remember how."""
        self._results[result.key] = result

    @property
    def results(self) -> tuple[Result, ...]:
        """What has ended, in the order in which it did."""
        return tuple(self._results.values())

    def report(
        self, exit_code: int, *, platform: str = "", cause: str = "", evidence: str = ""
    ) -> Report:
        """Return the report of the run as if it ended now."""
        seconds = time.monotonic() - self.began
        return Report(
            started_at=self._started_at,
            seconds=seconds,
            exit_code=exit_code,
            surroundings=self.surroundings,
            results=tuple(self._result(task.key, seconds) for task in self._tasks),
            platform=platform,
            cause=cause,
            evidence=evidence,
        )

    def _result(self, key: Key, now: float) -> Result:
        if key in self._results:
            return self._results[key]
        if key not in self._running:
            cause = "the run was stopped before it started"
            return Result(key=key, state="skipped", started=now, seconds=0.0, cause=cause)
        started = self._running[key]
        return Result(
            key=key,
            state="failed",
            started=started,
            seconds=now - started,
            cause=STOPPED,
            exit_code=int(ExitCode.STEP_FAILED),
        )


def clear(folder: Path) -> None:
    """Remove the reports of an earlier run, so that what lies there is never taken for this one's.

    Raises:
        OSError: One of them cannot be removed.
    """
    # By name: the folder is of the user's choosing, and may have other things in it.
    for pattern in (*NAMES, TRACEBACK_NAME, *_WITHIN):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


def write(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write the three reports and return their files, report.json first.

    Raises:
        OSError: The folder cannot be written.
    """
    contents = {
        JSON_NAME: to_json(report),
        JUNIT_NAME: to_junit(report),
        HTML_NAME: to_html(report),
    }
    for name, content in contents.items():
        _write(folder / name, content)
    return tuple(folder / name for name in NAMES)


def write_deploy(report: Report, command: str, folder: Path) -> None:
    """Write how a command that is about a release ended, beside the reports of the last run.

    Raises:
        OSError: The folder cannot be written.
    """
    root = ET.Element("testsuites", name=PROJECT)
    suite = ET.SubElement(root, "testsuite", name="deploy")
    suite.set("timestamp", report.started_at.isoformat(timespec="seconds"))
    case = ET.SubElement(suite, "testcase", name=command, classname=f"{PROJECT}.deploy")
    case.set("time", f"{report.seconds:.3f}")
    if report.cause:
        failure = ET.SubElement(case, "failure", message=printable(report.cause))
        failure.text = _clipped(report.evidence)
    _write(folder / DEPLOY_NAME, _document(root, report))


def write_compared(images: Mapping[str, str], revision: str, origin: str, folder: Path) -> None:
    """Write which images `deploy diff` has compared, for `deploy` to take those and no others.

    Args:
        images: The reference of each by its name, with a digest.
        revision: The commit that they are of.
        origin: Where they were found.
        folder: Where the reports are.

    Raises:
        OSError: The folder cannot be written.
    """
    value = {
        "schema_version": SCHEMA_VERSION,
        "project": PROJECT,
        "compared": origin,
        "revision": revision,
        "images": [{"name": name, "reference": images[name]} for name in images],
    }
    _write(folder / COMPARED_NAME, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write(file: Path, content: str) -> None:
    # The name tells two runs at once apart; the rename makes it whole or absent.
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(content, encoding="utf-8", newline="\n")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def told(cause: str, remedy: str) -> str:
    """Return a cause and its remedy as sentences; empty when there is neither."""
    parts = [text.strip() for text in (cause, remedy) if text.strip()]
    return " ".join(text if text.endswith((".", "!", "?", ":")) else f"{text}." for text in parts)


def document(report: Report) -> dict[str, Any]:
    """Return the report as the value that report.schema.json describes."""
    found = report.surroundings
    return {
        "schema_version": SCHEMA_VERSION,
        "project": PROJECT,
        "revision": found.revision if found else "",
        "platform": found.platform if found else report.platform,
        "started_at": report.started_at.isoformat(timespec="milliseconds"),
        "exit_code": report.exit_code,
        "seconds": round(report.seconds, 3),
        "cause": printable(report.cause),
        "engine": {
            "name": found.engine.name,
            "version": found.engine.version,
            "reason": printable(found.engine.reason),
        }
        if found
        else None,
        "bases": {"kind": found.bases.kind, "references": dict(found.bases.references)}
        if found
        else None,
        "steps": [
            {
                "name": result.key.step,
                "image": result.key.image or None,
                "state": result.state,
                "seconds": round(result.seconds, 3),
                "cause": printable(
                    told(result.cause, result.remedy) if result.remedy else result.cause
                ),
            }
            for result in report.results
        ],
        "images": [
            {
                "name": result.image.name,
                "reference": result.image.reference,
                "size_bytes": result.image.size_bytes,
                "base": result.image.base,
            }
            for result in report.results
            if result.image
        ],
        "inputs": dict(found.inputs) if found else {},
    }


def to_json(report: Report) -> str:
    """Return report.json, with a newline at its end."""
    return json.dumps(document(report), indent=2, ensure_ascii=False) + "\n"


def to_junit(report: Report) -> str:
    """Return junit.xml: a suite of the steps, then the suites of the tests within them."""
    root = ET.Element("testsuites", name=PROJECT)
    steps = ET.SubElement(root, "testsuite", name="steps")
    steps.set("timestamp", report.started_at.isoformat(timespec="seconds"))
    for result in report.results:
        _add_step(steps, result)
    if report.cause:
        run = ET.SubElement(steps, "testcase", name="run", classname=PROJECT, time="0.000")
        error = ET.SubElement(run, "error", message=printable(report.cause))
        error.text = _clipped(report.evidence)
    for result in report.results:
        for path in result.suites:
            root.extend(_read_suites(path, result.key))
    return _document(root, report)


def _document(root: ET.Element, report: Report) -> str:
    """Return suites as a file, with their totals."""
    for suite in root:
        _count(suite)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", f"{report.seconds:.3f}")
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _add_step(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        name=str(result.key),
        classname=f"{PROJECT}.{result.key.step}",
        time=f"{result.seconds:.3f}",
    )
    cause = printable(result.cause)
    if result.state == "failed":
        failure = ET.SubElement(case, "failure", message=cause)
        failure.text = "\n\n".join(filter(None, (printable(result.remedy), _evidence(result))))
    elif result.state == "skipped":
        ET.SubElement(case, "skipped", message=cause)
    elif result.state == "cached":
        ET.SubElement(case, "system-out").text = f"cached: {cause}"


def _read_suites(path: Path, key: Key) -> list[ET.Element]:
    """Return the suites of a JUnit file; one with an error in it, when it cannot be read."""
    try:
        # Written by our own test targets; expat bounds the expansion of entities by itself.
        root = ET.parse(path).getroot()  # noqa: S314
    except (OSError, ET.ParseError) as raised:
        suite = ET.Element("testsuite", name=f"{key}: {path.name}")
        case = ET.SubElement(suite, "testcase", name=path.name, classname=f"{PROJECT}.{key.step}")
        ET.SubElement(case, "error", message=printable(f"{path} cannot be read: {raised}"))
        return [suite]
    suites = [root] if root.tag == "testsuite" else root.findall("testsuite")
    for suite in suites:
        suite.set("name", f"{key}: {suite.get('name') or path.stem}")
        for element in suite.iter():
            element.text = element.text and printable(element.text)
            element.tail = None
            for name, value in element.items():
                element.set(name, printable(value))
    return suites


def _count(suite: ET.Element) -> None:
    """Set a suite's totals from its cases: what others wrote there may be wrong or absent."""
    cases = list(suite.iter("testcase"))
    suite.set("tests", str(len(cases)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    if suite.get("time") is None:
        suite.set("time", f"{sum(map(_time, cases)):.3f}")


def _time(case: ET.Element) -> float:
    try:
        return float(case.get("time", "0"))
    except ValueError:
        return 0.0


def to_html(report: Report) -> str:
    """Return report.html: one page, which asks for nothing outside itself."""
    template = Template((_HERE / "report.html").read_text(encoding="utf-8"))
    failed = report.exit_code != ExitCode.DONE
    return template.substitute(
        verdict="Failed" if failed else "Passed",
        verdict_class="failed" if failed else "passed",
        seconds=_seconds(report.seconds),
        facts=_facts(report),
        cause=_run_cause(report),
        timeline=_timeline(report) if report.results else "<p>No step was run.</p>",
        steps=_steps_table(report.results),
        failures=_failures([r for r in report.results if r.state == "failed"]),
        images=_images_table(report.results),
        inputs=_inputs(report),
    )


def _facts(report: Report) -> str:
    found = report.surroundings
    facts = {"Started": report.started_at.isoformat(sep=" ", timespec="seconds")}
    if found:
        engine = found.engine
        facts |= {
            "Revision": found.revision or NO_COMMIT,
            "Platform": found.platform,
            "Engine": f"{engine.name} {engine.version}: {printable(engine.reason)}",
            "Base images": found.bases.kind,
        }
    facts |= {"Machine": f"{platform.node()}, {platform.system()} {platform.machine()}"}
    facts |= {"Exit code": str(report.exit_code)}
    return "".join(f"<dt>{_e(name)}</dt><dd>{_e(text)}</dd>" for name, text in facts.items())


def _run_cause(report: Report) -> str:
    if not report.cause:
        return ""
    return f'<section class="cause"><p>{_e(printable(report.cause))}</p>' + (
        f"{_pre(_clipped(report.evidence))}</section>" if report.evidence else "</section>"
    )


def _steps_table(results: Sequence[Result]) -> str:
    return "".join(
        f'<tr><th scope="row">{_e(r.key.step)}</th><td>{_e(r.key.image)}</td>'
        f'<td><span class="state {r.state}">{r.state}</span></td>'
        f'<td class="number">{_seconds(r.seconds)}</td><td>{_e(printable(r.cause))}</td></tr>'
        for r in results
    )


def _failures(results: Sequence[Result]) -> str:
    return f"<h2>What failed</h2>{''.join(map(_failure, results))}" if results else ""


def _failure(result: Result) -> str:
    remedy = f"<p>{_e(printable(result.remedy))}</p>" if result.remedy else ""
    evidence = _evidence(result)
    return (
        f'<section class="cause"><h3>{_e(str(result.key))}</h3><p>{_e(printable(result.cause))}</p>'
        f"{remedy}{_pre(evidence) if evidence else ''}</section>"
    )


def _images_table(results: Sequence[Result]) -> str:
    images = [result.image for result in results if result.image]
    if not images:
        return "<p>None was pushed.</p>"
    rows = "".join(
        f'<tr><th scope="row">{_e(i.name)}</th><td><code>{_e(i.reference)}</code></td>'
        f'<td class="number">{i.size_bytes / 1e6:.1f} MB</td>'
        f"<td><code>{_e(i.base)}</code></td></tr>"
        for i in images
    )
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Images"><table><thead><tr>'
        '<th scope="col">Image</th><th scope="col">Reference</th>'
        '<th scope="col" class="number">Unpacked</th><th scope="col">Base</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _inputs(report: Report) -> str:
    inputs: Mapping[str, str] = report.surroundings.inputs if report.surroundings else {}
    if not inputs:
        return "<p>Not known.</p>"
    rows = "".join(
        f'<tr><th scope="row">{_e(name)}</th><td><code>{_e(digest)}</code></td></tr>'
        for name, digest in sorted(inputs.items())
    )
    return f"<details><summary>{len(inputs)} digests</summary><table>{rows}</table></details>"


_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 960, 110, 150, 30, 28
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


def _timeline(report: Report) -> str:
    """Return a picture of the run over time, a bar for each task, as SVG."""
    first = min(result.started for result in report.results)
    rows = [("prepare", "prepare", 0.0, first), *map(_bar, report.results)]
    total = max(report.seconds, 0.01)
    scale = (_WIDTH - _LEFT - _RIGHT) / total
    bottom = _TOP + _ROW * len(rows)
    parts = []
    for tick in _ticks(total):
        x = _LEFT + tick * scale
        parts.append(
            f'<line class="tick" x1="{x:.1f}" y1="{_TOP - 4}" x2="{x:.1f}" y2="{bottom}"/>'
            f'<text class="axis" x="{x:.1f}" y="{_TOP - 10}" text-anchor="middle">{tick:g} s</text>'
        )
    for index, (name, state, started, seconds) in enumerate(rows):
        y = _TOP + _ROW * index
        x = _LEFT + started * scale
        width = max(seconds * scale, 3.0)
        told = f"{_seconds(seconds)} {state}" if state != "prepare" else _seconds(seconds)
        label = "skipped" if state == "skipped" else told
        parts.append(
            f'<g><title>{_e(name)}: {label}</title><text x="{_LEFT - 10}" y="{y + 19}" '
            f'text-anchor="end">{_e(name)}</text><rect class="{state}" x="{x:.1f}" y="{y + 5}" '
            f'width="{width:.1f}" height="{_ROW - 10}" rx="3"/>'
            f'<text class="note" x="{x + width + 6:.1f}" y="{y + 19}">{label}</text></g>'
        )
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="The run over time">'
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 6}" role="img" aria-labelledby="picture">'
        f'<title id="picture">The run over time: {_e(_summary(rows))}</title>'
        f"{''.join(parts)}</svg></div>"
    )


def _bar(result: Result) -> tuple[str, str, float, float]:
    return str(result.key), result.state, result.started, result.seconds


def _summary(rows: Sequence[tuple[str, str, float, float]]) -> str:
    """Return the picture as one sentence, for whom it is read to."""
    return ", ".join(
        f"{name} {state} from {_seconds(started)} for {_seconds(seconds)}"
        for name, state, started, seconds in rows
        if state in _STATES
    )


def _ticks(total: float) -> Iterator[float]:
    """Yield at most nine round moments from 0 up to ``total``."""
    step = next((tick for tick in _TICKS if total / tick <= 8), total / 8)  # noqa: PLR2004
    for index in range(int(total / step) + 1):
        yield round(index * step, 2)


def _evidence(result: Result) -> str:
    return _clipped(result.evidence)


def _clipped(text: str) -> str:
    """Return evidence as it is stored: scrubbed, and of what is very long the end."""
    clean = printable(text).rstrip()
    left_out = len(clean) - _EVIDENCE_LIMIT
    if left_out <= 0:
        return clean
    return f"[the first {left_out} characters are left out]\n{clean[left_out:]}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"  # noqa: PLR2004


def _pre(text: str) -> str:
    return f'<pre tabindex="0">{_e(text)}</pre>'


def _e(text: str) -> str:
    return html.escape(text)
