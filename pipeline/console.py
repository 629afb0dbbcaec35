"""What a person reads: the progress of a run, its result, and errors.

Three ways to tell the progress: a live table on a terminal, plain lines elsewhere, and nothing
(``--quiet``, ``--json``). Results go to standard output and errors to standard error; whatever came
from elsewhere is scrubbed of secrets and of terminal control before it is printed. rich is imported
for the live table only, because that import takes longer than a whole cached run of this module.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from pipeline import report as reports
from pipeline.errors import ExitCode, PipelineError
from pipeline.log import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table

    from pipeline.finding import Finding
    from pipeline.report import Report, Surroundings
    from pipeline.task import Key, Result, State, Task

_EVIDENCE_LINES = 60
"""Lines of output on the screen for a failure: what lint and a failing test have to say, whole."""
_FIRST_WORD_AFTER = 2.0
_WORD_EVERY = 30.0
_NEWS_EVERY = 3.0
_PLAIN_WIDTH = 120
_SIGNALLED = 128
_COLOURS: dict[State, str] = {
    "passed": "\x1b[32m",
    "cached": "\x1b[34m",
    "failed": "\x1b[31m",
    "skipped": "\x1b[90m",
}
_FINDING_COLOURS = {"ok": "\x1b[32m", "missing": "\x1b[31m", "note": "\x1b[33m"}
_GLYPHS: dict[State, str] = {"passed": "✓", "cached": "=", "failed": "✗", "skipped": "-"}


class Row(NamedTuple):
    """One thing that is waited for.

    Attributes:
        name: What it is.
        state: What is thought of it.
        text: How far it is, or what is wrong.
    """

    name: str
    state: Literal["ready", "waiting", "doubtful", "hopeless"]
    text: str


def open_console(
    *,
    quiet: bool,
    json: bool,
    stdout: TextIO,
    stderr: TextIO,
    environ: Mapping[str, str],
) -> Console:
    """Return the console that fits the settings and where its output goes."""
    colour = stdout.isatty() and "NO_COLOR" not in environ and environ.get("TERM") != "dumb"
    if json:
        return Json(stdout, stderr, colour=False)
    if quiet:
        return Quiet(stdout, stderr, colour=colour)
    if stdout.isatty() and environ.get("TERM") != "dumb":
        return Live(stdout, stderr, colour=colour, environ=environ)
    return Console(stdout, stderr, colour=colour)


class Console:
    """Tells of a run in plain lines; the base of the other ways.

    It observes the flow. `close` ends what is live on the screen, and may be called twice.
    """

    def __init__(
        self,
        stdout: TextIO,
        stderr: TextIO,
        *,
        colour: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._colour = colour
        self._clock = clock
        self._width = 0
        # When each running task began, and when it was last spoken of.
        self._running: dict[Key, tuple[float, float | None]] = {}
        # What was last said of each thing that is waited for, and when.
        self._told: dict[str, tuple[Row, float]] = {}

    def begin(self, text: str) -> None:
        """Say what is being done before the first step."""

    def found(self, surroundings: Surroundings) -> None:
        """Say what the run works with."""
        engine, bases = surroundings.engine, surroundings.bases
        revision = surroundings.revision or reports.NO_COMMIT
        self._say(f"revision  {revision}  {surroundings.platform}")
        self._say(f"engine    {engine.name} {engine.version}: {printable(engine.reason)}")
        names = (reference.partition("@")[0] for reference in bases.references.values())
        self._say(f"bases     {bases.kind}: {', '.join(names)}")

    def planned(self, tasks: Sequence[Task]) -> None:
        """Observe the plan."""
        self._width = max((len(str(task.key)) for task in tasks), default=0)

    def started(self, key: Key) -> None:
        """Observe that a task runs."""
        self._running[key] = (self._clock(), None)

    def ended(self, result: Result) -> None:
        """Observe how a task ended."""
        self._running.pop(result.key, None)
        cause = f"  {_first_line(result.cause)}" if result.cause else ""
        self._say_step(result.key, f"{result.state:<8}{result.seconds:6.1f} s{cause}")

    def tick(self) -> None:
        """Speak of what has been running for a while, so that silence is never a hang."""
        now = self._clock()
        for key, (since, spoken) in list(self._running.items()):
            due = since + _FIRST_WORD_AFTER if spoken is None else spoken + _WORD_EVERY
            if now >= due:
                self._running[key] = (since, now)
                self._say_step(key, f"{'running':<8}{now - since:6.1f} s")

    def finish(self, report: Report, files: Sequence[Path], error: PipelineError | None) -> None:
        """Tell the result: the table, the images, the failures, and where the reports are.

        Args:
            report: The run.
            files: The reports that were written; empty when none could be.
            error: What ended the run and belongs to no step.
        """
        self.close()
        if error and not report.results:
            self.error(error)
            return
        self._say("")
        for line in self._table(report.results):
            self._say(line)
        images = [result.image for result in report.results if result.image]
        if images:
            self._say("")
            for image in images:
                self._say(f"{image.name:<6}  {image.reference}")
        self._tell_failures(report, error)
        self._say("")
        if files:
            self._say(f"Reports: {', '.join(_shown(path) for path in reversed(files))}")
        self._say(self._verdict(report))

    def error(self, error: PipelineError) -> None:
        """Print an error that belongs to no step: its sentence and remedy, then its evidence."""
        self.close()
        self._complain("error", error.message, error.remedy, error.evidence, "")

    def stopping(self) -> None:
        """Say that the run was told to stop."""
        self._write(self._stderr, "Stopping; a second Ctrl-C ends it at once.")

    def note(self, text: str) -> None:
        """Print a sentence on standard error."""
        self._write(self._stderr, printable(text))

    def say(self, text: str) -> None:
        """Print a line of a command that is no run, as ``setup`` does."""
        self._write(self._stdout, printable(text))

    def progress(self, text: str) -> None:
        """Print a line of how a command gets on, which ``--quiet`` does without."""
        self.say(text)

    def findings(self, findings: Sequence[Finding]) -> None:
        """Print what is here and what is missing, each with what gets it.

        What is to be copied is never broken: on a terminal a command has a line of its own, and
        elsewhere each finding is one line, however long.
        """
        names = max((len(finding.name) for finding in findings), default=0)
        states = max((len(finding.state) for finding in findings), default=0)
        left = names + states + 4
        terminal = self._stdout.isatty()
        room = max(shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns - left - 1, 30)
        for each in findings:
            detail = printable(each.detail)
            lines = textwrap.wrap(detail, room) if terminal else [detail]
            if each.command:
                lines.append(f"what to do: {printable(each.command)}")
            # The colours come after the padding, which would count them.
            state = f"{each.state:<{states}}"
            if self._colour:
                state = f"{_FINDING_COLOURS[each.state]}{state}\x1b[0m"
            between = f"\n{' ' * left}" if terminal else "  "
            self._say(f"{each.name:<{names}}  {state}  {between.join(lines)}")

    def watch(self, rows: Sequence[Row]) -> None:
        """Tell how far the things are that are waited for; called again and again.

        Args:
            rows: All of them, in an order that stays.
        """
        now = self._clock()
        width = max((len(row.name) for row in rows), default=0)
        for row in rows:
            told, since = self._told.get(row.name, (None, 0.0))
            if told is None or told.state != row.state:
                due = now
            elif row.state == "ready":
                # Its figures go on moving, and it stays ready.
                continue
            else:
                due = since + (_WORD_EVERY if told == row else _NEWS_EVERY)
            if now >= due:
                self._told[row.name] = (row, now)
                self.progress(f"{row.name:<{width}}  {row.state:<8}  {row.text}".rstrip())

    def watched(self) -> None:
        """End the waiting: what is waited for next is told from its beginning."""
        self._told.clear()

    def close(self) -> None:
        """End what is live on the screen."""

    def _tell_failures(self, report: Report, error: PipelineError | None) -> None:
        if error:
            self.error(error)
        alike: dict[tuple[str, str, str], list[Key]] = {}
        for result in report.results:
            # Who stopped the run knows why those ended.
            if result.state == "failed" and result.cause != reports.STOPPED:
                told = (result.cause, result.remedy, result.evidence)
                alike.setdefault(told, []).append(result.key)
        for (cause, remedy, evidence), keys in alike.items():
            self._write(self._stderr, "")
            names = ", ".join(map(str, keys))
            self._complain(f"{names} failed", cause, remedy, evidence, reports.HTML_NAME)

    def _complain(self, what: str, cause: str, remedy: str, evidence: str, rest_in: str) -> None:
        red, plain = (_COLOURS["failed"], "\x1b[0m") if self._colour else ("", "")
        self._write(
            self._stderr,
            f"{red}{what}:{plain} {printable(reports.told(cause, remedy))}",
        )
        lines = printable(evidence).rstrip().splitlines()
        left_out = len(lines) - _EVIDENCE_LINES
        if left_out > 0 and rest_in:
            lines = [f"[{left_out} lines before these are in {rest_in}]", *lines[left_out:]]
        for line in lines:
            self._write(self._stderr, f"    {line}")

    def _table(self, results: Sequence[Result]) -> list[str]:
        head = ("step", "image", "state", "time", "cause")
        rows = [
            (r.key.step, r.key.image, r.state, f"{r.seconds:.1f} s", printable(r.cause))
            for r in results
        ]
        w = [max(len(row[column]) for row in (head, *rows)) for column in range(4)]
        terminal = shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns
        left = sum(w) + 8
        lines = []
        for step, image, state, seconds, cause in (head, *rows):
            # The colours come after the padding, which would count them.
            shown = f"{state:<{w[2]}}"
            if self._colour and state in _COLOURS:
                shown = f"{_COLOURS[state]}{shown}\x1b[0m"
            start = f"{step:<{w[0]}}  {image:<{w[1]}}  {shown}  {seconds:>{w[3]}}  "
            wrapped = textwrap.wrap(cause, max(terminal - left - 1, 30)) or [""]
            lines.append(f"{start}{wrapped[0]}".rstrip())
            lines.extend(" " * left + more for more in wrapped[1:])
        return lines

    def _verdict(self, report: Report) -> str:
        failed = report.exit_code != ExitCode.DONE
        word = "Failed" if failed else "Passed"
        if report.exit_code > _SIGNALLED:
            word = report.cause.rstrip(".")
        if self._colour:
            word = f"{_COLOURS['failed' if failed else 'passed']}{word}\x1b[0m"
        code = f", exit code {report.exit_code}" if failed else ""
        return f"{word} after {report.seconds:.1f} s{code}"

    def _say_step(self, key: Key, text: str) -> None:
        self._say(f"{key!s:<{self._width}}  {text}")

    def _say(self, text: str) -> None:
        self._write(self._stdout, text)

    def _write(self, stream: TextIO, text: str) -> None:
        """Print a line; each stream is flushed, so that the two keep their order."""
        try:
            stream.write(f"{text}\n")
            stream.flush()
        except BrokenPipeError:
            # Nobody reads it any more, as after `| head`; the run and its reports go on. Python's
            # own flush at exit would fail again, so what it has goes nowhere.
            # https://docs.python.org/3/library/signal.html#note-on-sigpipe
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


class Quiet(Console):
    """Prints the last line and errors only."""

    def found(self, surroundings: Surroundings) -> None:
        """Say nothing."""

    def ended(self, result: Result) -> None:
        """Say nothing."""

    def tick(self) -> None:
        """Say nothing."""

    def stopping(self) -> None:
        """Say nothing."""

    def progress(self, text: str) -> None:
        """Say nothing."""

    def finish(self, report: Report, files: Sequence[Path], error: PipelineError | None) -> None:  # noqa: ARG002 - the base's
        """Print the failures and the last line."""
        self._tell_failures(report, error)
        self._say(self._verdict(report))


class Json(Quiet):
    """Prints the report on standard output and errors on standard error."""

    def finish(self, report: Report, files: Sequence[Path], error: PipelineError | None) -> None:  # noqa: ARG002 - the base's
        """Print the failures and the report."""
        self._tell_failures(report, error)
        self._say(reports.to_json(report).rstrip())


class Live(Console):
    """Shows a table that follows the run, and leaves only the result on the screen."""

    def __init__(
        self, stdout: TextIO, stderr: TextIO, *, colour: bool, environ: Mapping[str, str]
    ) -> None:
        super().__init__(stdout, stderr, colour=colour)
        from rich.console import Console as Screen
        from rich.live import Live as Display

        self._tasks: tuple[Task, ...] = ()
        self._rows: tuple[Row, ...] = ()
        self._results: dict[Key, Result] = {}
        self._began = time.monotonic()
        self._doing = ""
        self._glyphs = "utf" in (stdout.encoding or "").lower()
        self._screen = Screen(file=stdout, no_color=not colour, highlight=False, _environ=environ)
        self._display: Any = Display(
            console=self._screen, get_renderable=self._render, refresh_per_second=8, transient=True
        )
        self._open = False

    def begin(self, text: str) -> None:
        """Show what is being done before the first step."""
        self._doing = text
        if not self._open:
            self._display.start(refresh=True)
            self._open = True

    def say(self, text: str) -> None:
        """Print a line, above what is live."""
        if self._open:
            self._screen.print(printable(text), markup=False, soft_wrap=True)
        else:
            super().say(text)

    def watch(self, rows: Sequence[Row]) -> None:
        """Show how far the things are that are waited for."""
        if not self._rows:
            self._began = self._clock()
        self._rows = tuple(rows)
        if not self._open:
            self.begin("")

    def watched(self) -> None:
        """Take the table from the screen, and leave what became of each thing."""
        self.close()
        rows, self._rows = self._rows, ()
        width = max((len(row.name) for row in rows), default=0)
        for row in rows:
            glyph = "✓" if row.state == "ready" else "✗" if row.state == "hopeless" else "-"
            mark = glyph if self._glyphs else row.state[0]
            self.say(f"{mark} {row.name:<{width}}  {row.text}".rstrip())

    def found(self, surroundings: Surroundings) -> None:
        """Say what the run works with, above the table."""
        self.close()
        super().found(surroundings)
        self.begin("")

    def planned(self, tasks: Sequence[Task]) -> None:
        """Show the plan."""
        self._tasks = tuple(tasks)

    def started(self, key: Key) -> None:
        """Show that a task runs."""
        self._running[key] = (self._clock(), None)

    def ended(self, result: Result) -> None:
        """Show how a task ended."""
        self._results[result.key] = result

    def tick(self) -> None:
        """Say nothing: the table moves by itself."""

    def stopping(self) -> None:
        """Show that the run was told to stop."""
        self._doing = "stopping; a second Ctrl-C ends it at once"

    def close(self) -> None:
        """Take the table from the screen."""
        if self._open:
            self._open = False
            self._display.stop()

    def _render_rows(self) -> Table:
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2, 0, 0))
        names = max(len(row.name) for row in self._rows)
        for width in (1, names):
            table.add_column(no_wrap=True, min_width=width, max_width=width)
        room = max(self._screen.width - names - 1 - 4 - 2, 8)
        # Why something waits is at the end of its text, so that is not cut: it goes on below.
        table.add_column(overflow="fold", max_width=room)
        spinner = "dots" if self._glyphs else "line"
        styles = {"ready": "green", "doubtful": "yellow", "hopeless": "red"}
        for row in self._rows:
            text = Text(_first_line(row.text), style=styles.get(row.state, ""))
            if row.state == "ready":
                table.add_row(Text("✓" if self._glyphs else "r", style="green"), row.name, text)
            elif row.state == "hopeless":
                table.add_row(Text("✗" if self._glyphs else "x", style="red"), row.name, text)
            else:
                table.add_row(Spinner(spinner, style="cyan"), row.name, text)
        took = f"{self._clock() - self._began:.1f} s  {self._doing}"
        table.add_row("", Text(took, style="dim"), "")
        return table

    def _render(self) -> Table:
        if self._rows:
            return self._render_rows()
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        now = self._clock()
        table = Table.grid(padding=(0, 2, 0, 0))
        steps = max((len(task.key.step) for task in self._tasks), default=0)
        images = max((len(task.key.image) for task in self._tasks), default=0)
        # Only the last column gives way when the terminal is narrow.
        for width in (1, steps, images, 8):
            table.add_column(no_wrap=True, min_width=width, max_width=width)
        # A full line would wrap at the ^C that the terminal adds to it, and stay on the screen.
        room = max(self._screen.width - steps - images - 9 - 8 - 4, 8)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=room)
        spinner = "dots" if self._glyphs else "line"
        for task in self._tasks:
            name = (Text(task.key.step, style="bold"), Text(task.key.image))
            result = self._results.get(task.key)
            if result:
                style = {"passed": "green", "cached": "blue", "failed": "red"}.get(result.state, "")
                table.add_row(
                    Text(_GLYPHS[result.state] if self._glyphs else result.state[0], style=style),
                    *name,
                    Text(f"{result.seconds:6.1f} s"),
                    Text(f"{result.state}  {_first_line(result.cause)}".rstrip(), style=style),
                )
            elif task.key in self._running:
                since = self._running[task.key][0]
                table.add_row(
                    Spinner(spinner, style="cyan"), *name, Text(f"{now - since:6.1f} s"), "running"
                )
            else:
                waits = [str(need) for need in task.needs if need not in self._results]
                note = f"waits for {', '.join(waits)}" if waits else "waits"
                table.add_row(" ", *name, "", Text(note, style="dim"))
        total = Text(f"{now - self._began:6.1f} s", style="dim")
        table.add_row(Spinner(spinner) if self._doing else " ", "", "", total, Text(self._doing))
        return table


def _first_line(text: str) -> str:
    return printable(text).split("\n", maxsplit=1)[0]


def _shown(path: Path) -> str:
    """Return a path as short as it can be written from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
