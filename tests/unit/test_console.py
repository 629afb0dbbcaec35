"""What a person reads, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline import log
from pipeline.console import Console, Json, Live, Quiet, Row, open_console
from pipeline.errors import PrerequisiteError
from pipeline.finding import Finding
from pipeline.report import Recorder
from pipeline.task import Key, Result

from .fakes import IMAGE, Found, task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINT, TEST, PUSH = Key("lint"), Key("test", "api"), Key("push", "api")
FAILED = Result(
    TEST,
    "failed",
    0.0,
    2.04,
    cause="1 of 3 tests failed",
    remedy="Mend it",
    evidence="\n".join(f"line {n}" for n in range(80)),
    exit_code=1,
)


class Terminal(io.StringIO):
    """Output that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Keep secrets within a test."""
    with log.remembering():
        yield


FINDINGS = (
    Finding("engine", "ok", "embedded"),
    Finding("docker", "missing", "No Docker Engine answers " * 8, "make setup " * 12),
)


def opened(
    out: io.StringIO, err: io.StringIO, *, quiet: bool = False, json: bool = False, **environ: str
) -> Console:
    """Return the console for these streams."""
    return open_console(quiet=quiet, json=json, stdout=out, stderr=err, environ=environ)


def play(console: Console, *results: Result, code: int = 0, files: tuple[Path, ...] = ()) -> None:
    """Let a console see a whole run."""
    recorder = Recorder()
    tasks = [task(result.key) for result in results]
    console.begin("looking for an engine")
    recorder.surroundings = Found()
    console.found(Found())
    for observer in (recorder, console):
        observer.planned(tasks)
        for result in results:
            observer.started(result.key)
            observer.ended(result)
    console.finish(recorder.report(code), files, None)


@pytest.mark.parametrize(
    ("terminal", "quiet", "as_json", "environ", "kind"),
    [
        (True, False, False, {}, Live),
        (True, False, False, {"TERM": "dumb"}, Console),
        (False, False, False, {}, Console),
        (True, True, False, {}, Quiet),
        (True, True, True, {}, Json),
    ],
)
def test_console_fits_where_it_goes(
    *, terminal: bool, quiet: bool, as_json: bool, environ: dict[str, str], kind: type[Console]
) -> None:
    """Progress is live on a terminal, plain elsewhere, and off with --quiet and --json."""
    out = Terminal() if terminal else io.StringIO()
    console = opened(out, io.StringIO(), quiet=quiet, json=as_json, **environ)
    assert type(console) is kind


def test_plain_lines_tell_each_step(tmp_path: Path) -> None:
    """Elsewhere than on a terminal each step is a line as it ends, then a table, without colour."""
    out, err = io.StringIO(), io.StringIO()
    play(
        opened(out, err),
        Result(LINT, "cached", 0, 0.12, cause="ran at 10:02 on builder"),
        Result(PUSH, "passed", 0, 1.0, image=IMAGE),
        files=(tmp_path / "report.json", tmp_path / "report.html"),
    )
    lines = out.getvalue().splitlines()
    assert lines[:3] == [
        "revision  6a0c4e2  linux/amd64",
        "engine    embedded 0.1.0: no Dagger is here",
        "bases     debian: 127.0.0.1:5050/slipway-standin/python:1",
    ]
    assert lines[3:5] == [
        "lint      cached     0.1 s  ran at 10:02 on builder",
        "push api  passed     1.0 s",
    ]
    assert lines[6:9] == [
        "step  image  state    time  cause",
        "lint         cached  0.1 s  ran at 10:02 on builder",
        "push  api    passed  1.0 s",
    ]
    assert lines[10] == f"api     {IMAGE.reference}"
    assert lines[12] == f"Reports: {tmp_path}/report.html, {tmp_path}/report.json"
    assert re.fullmatch(r"Passed after 0\.\d s", lines[13])
    assert "\x1b" not in out.getvalue()
    assert not err.getvalue()


def test_content_of_no_commit_is_said_to_be_none() -> None:
    """Nothing at all would look as if something had gone wrong."""
    out = io.StringIO()
    opened(out, io.StringIO()).found(Found(revision=""))
    assert out.getvalue().startswith("revision  none, this is no git checkout  linux/amd64\n")


def test_failure_is_told_at_the_end() -> None:
    """A failing step's sentence and the end of its output come after the table, on stderr."""
    out, err = io.StringIO(), io.StringIO()
    play(opened(out, err), FAILED, code=1)
    lines = err.getvalue().splitlines()
    assert lines[1] == "test api failed: 1 of 3 tests failed. Mend it."
    assert lines[2] == "    [20 lines before these are in report.html]"
    assert (lines[3], lines[-1]) == ("    line 20", "    line 79")
    assert out.getvalue().rstrip().endswith("s, exit code 1")


def test_same_failure_is_told_once() -> None:
    """When several steps fail for one reason, as when the engine goes away, it is told once."""
    out, err = io.StringIO(), io.StringIO()
    gone = Result(LINT, "failed", 0, 1, cause="Docker is gone", remedy="See doctor", exit_code=1)
    play(opened(out, err), gone, replace(gone, key=TEST), code=1)
    assert err.getvalue() == "\nlint, test api failed: Docker is gone. See doctor.\n"


def test_quiet_prints_the_end_only() -> None:
    """With --quiet there is the last line, and what failed."""
    out, err = io.StringIO(), io.StringIO()
    play(opened(out, err, quiet=True), replace(FAILED, evidence=""), code=1)
    assert re.fullmatch(r"Failed after 0\.\d s, exit code 1\n", out.getvalue())
    assert err.getvalue() == "\ntest api failed: 1 of 3 tests failed. Mend it.\n"


def test_json_prints_the_report_and_nothing_else() -> None:
    """With --json standard output is the report, whole, and errors go to standard error."""
    out, err = io.StringIO(), io.StringIO()
    play(opened(out, err, json=True), FAILED, code=1)
    assert json.loads(out.getvalue())["exit_code"] == 1
    assert "test api failed" in err.getvalue()


def test_error_is_a_sentence_a_remedy_and_evidence() -> None:
    """An error that belongs to no step is one sentence, its remedy, and its output indented."""
    out, err = io.StringIO(), io.StringIO()
    error = PrerequisiteError("No engine", remedy="Run `make setup`", evidence="tried a\ntried b\n")
    opened(out, err).error(error)
    assert err.getvalue() == "error: No engine. Run `make setup`.\n    tried a\n    tried b\n"
    assert not out.getvalue()


def test_silence_is_broken_while_a_step_runs() -> None:
    """A step that takes long is spoken of, so that silence is never a hang; others are not."""
    out = io.StringIO()
    moments = iter((0.0, 0.5, 1.5, 2.0, 2.5, 31.0, 32.0, 33.0))
    console = Console(out, io.StringIO(), colour=False, clock=lambda: next(moments))
    console.started(LINT)
    for _ in range(7):
        console.tick()
    assert out.getvalue().splitlines() == ["lint  running    2.0 s", "lint  running   32.0 s"]


def test_secrets_and_control_characters_are_not_printed() -> None:
    """What comes from elsewhere is scrubbed, and cannot drive the terminal."""
    log.conceal("hunter2")
    out, err = io.StringIO(), io.StringIO()
    bad = replace(FAILED, cause="hunter2 \x1b]0;title\x07", evidence="\x1b[2Jhunter2", remedy="")
    play(opened(out, err), bad, code=1)
    both = out.getvalue() + err.getvalue()
    assert "hunter2" not in both
    assert "\x1b" not in both
    assert log.MASK in out.getvalue()
    assert log.MASK in err.getvalue()


def test_live_table_leaves_only_the_result() -> None:
    """On a terminal the plan is shown while it runs, and only the result stays, in colour."""
    out, err = Terminal(), io.StringIO()
    play(opened(out, err, TERM="xterm-256color"), replace(FAILED, evidence=""), code=1)
    text = out.getvalue()
    assert "looking for an engine" in text
    assert "\x1b[31mfailed" in text
    assert "\x1b[31mtest api failed:\x1b[0m 1 of 3" in err.getvalue()
    # The last thing that moves the cursor up is before the first line of the result.
    assert text.rindex("\x1b[1A") < text.index("step  image")


def test_live_table_shows_what_waits_and_what_runs() -> None:
    """The live table says what runs, what has ended, and what waits for what."""
    out = Terminal()
    console = opened(out, io.StringIO(), TERM="xterm")
    console.begin("")
    console.planned([task(LINT), task(TEST), task(PUSH, LINT, TEST)])
    console.started(LINT)
    console.started(TEST)
    console.ended(Result(LINT, "cached", 0, 0.1, cause="ran before"))
    console.stopping()
    console.close()
    console.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "cached  ran before" in text
    assert re.search(r"test +api +0\.\d s +running", text)
    assert "waits for test api" in text
    assert "stopping; a second Ctrl-C" in text


def test_no_color_is_honoured() -> None:
    """With NO_COLOR in the environment nothing is coloured, on a terminal too."""
    out, err = Terminal(), io.StringIO()
    play(opened(out, err, NO_COLOR="1", TERM="xterm-256color"), FAILED, code=1)
    assert not re.search(r"\x1b\[(?:3|4|9)\d", out.getvalue() + err.getvalue())


def test_reader_that_goes_away_does_not_stop_the_run() -> None:
    """When nobody reads the output any more, as after ``| head``, the run goes on."""

    class Gone(io.StringIO):
        def write(self, _text: str, /) -> int:
            raise BrokenPipeError

    err = io.StringIO()
    play(opened(Gone(), err), FAILED, code=1)
    assert "test api failed" in err.getvalue()


def rows(*texts: tuple[str, str]) -> list[Row]:
    """Return rows with these states and texts."""
    return [
        Row(f"thing {number}", state, text)  # type: ignore[arg-type]
        for number, (state, text) in enumerate(texts)
    ]


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Say what time it is."""
        return self.now


def test_what_is_waited_for_is_told_when_it_changes() -> None:
    """In plain lines each thing is told once, and again when its state or its text changes."""
    out, clock = io.StringIO(), Watch()
    console = Console(out, io.StringIO(), colour=False, clock=clock)
    for moment, texts in (
        (0.0, (("ready", "all"), ("waiting", "0 of 2"))),
        (1.0, (("ready", "all of it"), ("waiting", "0 of 2"))),
        (2.0, (("ready", "all"), ("waiting", "1 of 2"))),
        (4.0, (("ready", "all"), ("waiting", "1 of 2"))),
        (5.0, (("ready", "all"), ("ready", "2 of 2"))),
    ):
        clock.now = moment
        console.watch(rows(*texts))
    assert out.getvalue().splitlines() == [
        "thing 0  ready     all",
        "thing 1  waiting   0 of 2",
        "thing 1  waiting   1 of 2",
        "thing 1  ready     2 of 2",
    ]


def test_silence_is_never_a_hang() -> None:
    """What waits for long is told again, and what is ready is not."""
    out, clock = io.StringIO(), Watch()
    console = Console(out, io.StringIO(), colour=False, clock=clock)
    for moment in range(70):
        clock.now = float(moment)
        console.watch(rows(("ready", ""), ("waiting", "still")))
    assert out.getvalue().splitlines().count("thing 1  waiting   still") == 3
    assert out.getvalue().splitlines().count("thing 0  ready") == 1


def test_waiting_for_the_next_thing_begins_anew() -> None:
    """After one waiting has ended, the same rows are told again."""
    out = io.StringIO()
    console = Console(out, io.StringIO(), colour=False)
    for _ in range(2):
        console.watch(rows(("ready", "all")))
        console.watched()
    assert out.getvalue().splitlines() == ["thing 0  ready     all"] * 2


def test_quiet_does_without_progress() -> None:
    """With --quiet only the result is printed."""
    out = io.StringIO()
    console = opened(out, io.StringIO(), quiet=True)
    console.progress("getting on")
    console.watch(rows(("waiting", "0 of 2")))
    console.watched()
    console.say("done")
    assert out.getvalue() == "done\n"


def test_live_rows_leave_what_became_of_each_thing() -> None:
    """On a terminal a table follows, lines are printed above it, and the last state stays."""
    out = Terminal()
    console = opened(out, io.StringIO(), TERM="xterm")
    console.watch(rows(("waiting", "0 of 2"), ("doubtful", "no room [yet]")))
    console.say("something [happened]")
    console.watch(rows(("ready", "2 of 2"), ("hopeless", "no room [at all]")))
    console.watched()
    text = out.getvalue()
    assert "something [happened]" in text
    assert text.endswith("✓ thing 0  2 of 2\n✗ thing 1  no room [at all]\n")
    assert "\x1b[?25h" in text  # the cursor is back


def test_live_row_says_all_of_why_something_waits() -> None:
    """What does not fit in a line goes on in the next one; the reason is at its end."""
    out = Terminal()
    console = opened(out, io.StringIO(), TERM="xterm", COLUMNS="60")
    why = "1 of 2 available, pod api-6c9f7-x2k: 0/3 nodes are available: Insufficient memory"
    console.watch(rows(("ready", "2 of 2 available"), ("doubtful", why)))
    console.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert why in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 60


def test_secrets_in_rows_are_scrubbed() -> None:
    """What the cluster says passes the same filter as everything else."""
    log.conceal("hunter2")
    for out in (io.StringIO(), Terminal()):
        console = opened(out, io.StringIO(), TERM="xterm")
        console.watch(rows(("waiting", "hunter2")))
        console.watched()
        assert "hunter2" not in out.getvalue()


def test_finding_is_one_line_where_nobody_watches() -> None:
    """However long: what is looked for in a log has its command beside it."""
    out = io.StringIO()
    opened(out, io.StringIO()).findings(FINDINGS)
    first, second = out.getvalue().splitlines()
    assert first == "engine  ok       embedded"
    assert second.startswith("docker  missing  No Docker Engine answers No Docker")
    assert second.endswith(f"  what to do: {'make setup ' * 12}")


def test_finding_has_its_command_on_a_line_of_its_own_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The detail is folded, and what is to be copied is not."""
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    opened(out, io.StringIO(), TERM="xterm").findings(FINDINGS)
    lines = out.getvalue().splitlines()
    assert lines[0] == "engine  \x1b[32mok     \x1b[0m  embedded"
    assert lines[1].startswith("docker  \x1b[31mmissing\x1b[0m  No Docker Engine answers")
    assert lines[-1] == f"{' ' * 17}what to do: {'make setup ' * 12}"
    assert all(len(line) < 60 for line in lines[2:-1])
    assert len(lines) > 4
