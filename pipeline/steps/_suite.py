"""Test suites that ran in a container: their reports come out of it, also when they failed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import log
from pipeline.errors import StepError

if TYPE_CHECKING:
    from pathlib import Path

    import dagger

    from pipeline.context import Context


@dataclass(frozen=True, slots=True)
class Suite:
    """How a suite ended.

    Attributes:
        exit_code: Of its program.
        output: What it wrote.
        files: The reports that came out: paths relative to the report folder.
        tests: How many tests ran, those that were skipped included.
        failed: The names of the tests that failed, with the first line of why.
    """

    exit_code: int
    output: str
    files: tuple[str, ...]
    tests: int
    failed: tuple[str, ...]

    def suites(self, report_dir: Path) -> tuple[Path, ...]:
        """Return its JUnit files."""
        return tuple(report_dir / file for file in self.files if "junit" in file)


async def collect(
    ctx: Context, container: dagger.Container, reports: dict[str, str], *, what: str
) -> Suite:
    """Return how a suite ended, its reports exported.

    Args:
        ctx: The run.
        container: A container whose last exec is the suite, with any exit code allowed.
        reports: The reports in the container, by where they are to go in the report folder. The
            JUnit file comes first, and must be there; the others need not.
        what: The suite, to begin a sentence.

    Raises:
        StepError: It left no JUnit file, so that nobody knows what it tested.
    """
    exit_code = await container.exit_code()
    stdout, stderr = await container.stdout(), await container.stderr()
    output = log.printable("\n".join(part.rstrip("\n") for part in (stdout, stderr) if part))
    import dagger  # imported by the client already

    files: list[str] = []
    tests = 0
    failed: tuple[str, ...] = ()
    for target, path in reports.items():
        place = ctx.settings.report_dir / target
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            await container.file(path).export(str(place))
        except dagger.QueryError as error:
            if files:
                continue
            raise StepError(
                f"{what} ended with exit code {exit_code} and without a report at {path}",
                evidence=output or str(error),
            ) from error
        if not files:
            tests, failed = _read(place, what)
        files.append(target)
    return Suite(exit_code, output, tuple(files), tests, failed)


def _read(path: Path, what: str) -> tuple[int, tuple[str, ...]]:
    """Return how many tests a JUnit file has, and which of them failed, with why."""
    try:
        # The container that wrote it runs our own tests: it is no more hostile than they are.
        cases = list(ET.parse(path).iter("testcase"))  # noqa: S314
    except ET.ParseError as error:
        raise StepError(f"{what} wrote a report that is no JUnit file: {error}") from error
    failed = []
    for case in cases:
        wrong = next((e for e in case if e.tag in ("failure", "error")), None)
        if wrong is not None:
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            why = (wrong.get("message") or wrong.text or "").strip().partition("\n")[0]
            failed.append(f"{name}: {why}" if why else name)
    return len(cases), tuple(failed)


def names(failed: tuple[str, ...]) -> str:
    """Return the names of failed tests as a part of a sentence: the first three, and how many."""
    shown = ", ".join(entry.partition(": ")[0] for entry in failed[:3])
    more = len(failed) - 3
    return f"{shown} and {more} more" if more > 0 else shown
