"""The command line: what it takes, what it prints, what it exits with, and how it stops."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pipeline import config, course
from pipeline.__main__ import COMMANDS, SUBCOMMANDS, main
from pipeline.errors import PrerequisiteError, StepError, UsageError
from pipeline.task import Key, Outcome

from .fakes import IMAGE, Desk, planned, task

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import Settings

ROOT = config.__file__.rpartition("/pipeline/")[0]
RUN_AS_MODULE = "runpy.run_module('pipeline', run_name='__main__')"
LINT, PUSH = Key("lint"), Key("push", "api")
EVERY = [
    *(name for name in COMMANDS if name not in SUBCOMMANDS),
    *(f"{family} {name}" for family, own in SUBCOMMANDS.items() for name in own),
]


def test_run_is_implied(desk: Desk) -> None:
    """Without a command, and with a step as the first word, it is a run."""
    for words in ((), ("run",), ("lint",), ("run", "lint"), ("--quiet",), ("lint", "--quiet")):
        seen: list[Settings] = []
        assert desk.run(*words, parts=planned(task(LINT), seen=seen)) == 0
        assert seen[0].steps == (("lint",) if "lint" in words else config.STEPS)


def test_flags_reach_the_run(desk: Desk) -> None:
    """Each flag of the command line is in the settings of the run."""
    seen: list[Settings] = []
    words = (
        "--image=api --registry r.example/ns --tag one --tag two,three --engine embedded "
        "--bases debian --fresh lint,test --fresh build --report-dir out --platform linux/arm64 "
        "--jobs 3 --quiet --docker-host tcp://h:1 --registry-user me --log info push"
    )
    desk.environ["PIPELINE_REGISTRY_PASSWORD"] = "hunter2"
    assert desk.run(*words.split(), parts=planned(task(LINT), seen=seen)) == 0
    assert seen[0] == config.Settings(
        root=desk.root,
        steps=("push",),
        images=("api",),
        registry="r.example/ns",
        tags=("one", "two", "three"),
        engine="embedded",
        bases="debian",
        fresh=frozenset({"lint", "test", "build"}),
        report_dir=desk.root / "out",
        platform="linux/arm64",
        jobs=3,
        quiet=True,
        docker_host="tcp://h:1",
        ca=seen[0].ca,
        registry_user="me",
        registry_password="hunter2",
        log_level="info",
        given=frozenset(
            {
                *("images", "registry", "tags", "engine", "bases", "fresh", "report_dir", "jobs"),
                *("platform", "quiet", "docker_host", "registry_user", "registry_password"),
                *("log_level", "steps"),
            }
        ),
    )


def test_run_that_passes_exits_0_and_is_reported(desk: Desk) -> None:
    """A run that passes exits with 0, prints the references, and leaves its reports."""
    assert desk.run(parts=planned(task(LINT), task(PUSH, LINT, outcome=Outcome(image=IMAGE)))) == 0
    document = desk.report()
    assert (document["exit_code"], document["cause"]) == (0, "")
    assert [step["state"] for step in document["steps"]] == ["passed", "passed"]
    assert IMAGE.reference in desk.out.getvalue()
    assert not desk.err.getvalue()
    assert {path.name for path in (desk.root / "reports").iterdir()} == {
        "report.json",
        "report.html",
        "junit.xml",
    }


def test_step_that_fails_exits_1_and_is_reported(desk: Desk) -> None:
    """A step that fails exits with 1; its sentence is printed, and the reports are written."""
    error = StepError("ruff found 2 mistakes", remedy="Mend them", evidence="a.py:1 F401")
    assert desk.run(parts=planned(task(LINT, error=error), task(PUSH, LINT))) == 1
    assert desk.err.getvalue() == (
        "\nlint failed: ruff found 2 mistakes. Mend them.\n    a.py:1 F401\n"
    )
    document = desk.report()
    assert document["exit_code"] == 1
    assert document["steps"][0]["cause"] == "ruff found 2 mistakes. Mend them."
    assert document["steps"][1]["state"] == "skipped"


def test_step_that_was_wrongly_asked_for_exits_2(desk: Desk) -> None:
    """A step may find that the call was wrong: then that is what the run exits with."""
    assert desk.run(parts=planned(task(LINT, error=UsageError("nginx is not there")))) == 2
    assert desk.report()["exit_code"] == 2


def test_machine_that_lacks_something_exits_3_and_is_reported(desk: Desk) -> None:
    """What is missing before the first step exits with 3, in one sentence, with the reports."""
    error = PrerequisiteError("No engine", remedy="Run `make setup`", evidence="tried a\ntried b")
    assert desk.run(parts=planned(raises=error)) == 3
    assert desk.err.getvalue() == "error: No engine. Run `make setup`.\n    tried a\n    tried b\n"
    assert not desk.out.getvalue()
    document = desk.report()
    assert (document["exit_code"], document["steps"]) == (3, [])
    assert document["cause"] == "No engine. Run `make setup`."


WRONG = [
    (("lnit",), "Unknown step 'lnit' (STEP). Did you mean 'lint'?"),
    (("docter",), "Unknown step or command 'docter'. Did you mean 'doctor'?"),
    (("lint", "doctor"), "doctor is a command, not a step. Write it first: "),
    (("--engine", "dager"), "Unknown engine 'dager' (--engine). Did you mean 'dagger'?"),
    (("--image", "apo"), "Unknown image 'apo' (--image). Did you mean 'api'?"),
    (("--enigne", "dagger"), "Unknown option '--enigne'. Did you mean --engine?"),
    (("--jobs",), "Option '--jobs' requires an argument. "),
    (("--jobs", "0"), "'0' is not a number of jobs (--jobs). "),
    (("--tag", "a/b"), "(--tag). "),
    (("--registry", "UPPER/"), "(--registry). "),
]


@pytest.mark.parametrize(("words", "told"), WRONG)
def test_wrong_call_exits_2_in_one_sentence_and_is_reported(
    desk: Desk, words: tuple[str, ...], told: str
) -> None:
    """A wrong call exits with 2: a sentence with its remedy, no traceback, and the reports."""
    assert desk.run(*words) == 2
    printed = desk.err.getvalue()
    assert printed.startswith("error: ")
    assert told in printed
    assert len(printed.splitlines()) == 1
    assert not desk.out.getvalue()
    document = desk.report()
    assert (document["exit_code"], document["steps"]) == (2, [])
    assert f"error: {document['cause']}\n" == printed


def test_wrong_call_is_reported_where_it_says(desk: Desk) -> None:
    """The report folder of the command line counts, also when the rest of it is wrong."""
    assert desk.run("--report-dir", "out", "--nonsense") == 2
    assert desk.run("--report-dir=out2", "--engine=x") == 2
    assert (desk.root / "out" / "report.json").exists()
    assert (desk.root / "out2" / "report.html").exists()
    assert not (desk.root / "reports").exists()


def test_wrong_call_removes_what_an_earlier_run_reported(desk: Desk) -> None:
    """Tests that ran before are not taken for those of a run that did not begin."""
    earlier = desk.root / "reports" / "api" / "junit.xml"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("<testsuites/>", encoding="utf-8")
    assert desk.run("--tag", "a/b") == 2
    assert not earlier.exists()
    assert desk.report()["exit_code"] == 2


def test_report_folder_that_cannot_be_written_exits_2(desk: Desk) -> None:
    """A report folder that cannot be written is found before anything runs."""
    (desk.root / "file").write_text("", encoding="utf-8")
    seen: list[Settings] = []
    assert desk.run("--report-dir", "file/x", parts=planned(task(LINT), seen=seen)) == 2
    assert not seen
    assert "The report folder" in desk.err.getvalue()
    assert "Not a directory" in desk.err.getvalue()


def test_report_folder_that_fills_up_fails_the_run(desk: Desk) -> None:
    """When the reports cannot be written at the end, the run does not count as passed."""

    async def spoil() -> None:
        folder = desk.root / "reports"
        folder.rmdir()
        folder.write_text("", encoding="utf-8")

    assert desk.run(parts=planned(task(LINT, body=spoil))) == 2
    assert "The report folder" in desk.err.getvalue()


def test_old_reports_do_not_survive(desk: Desk) -> None:
    """While a run has not ended there is no report, so that none is taken for another run's."""
    assert desk.run(parts=planned(task(LINT))) == 0

    async def look() -> None:
        assert not list((desk.root / "reports").iterdir())

    assert desk.run(parts=planned(task(LINT, body=look))) == 0


def test_json_is_alone_on_standard_output(desk: Desk) -> None:
    """With --json standard output is the report, of a run and of a wrong call."""
    assert desk.run("--json", parts=planned(task(LINT, error=StepError("x")))) == 1
    assert json.loads(desk.out.getvalue()) == desk.report()
    desk.out.seek(0)
    desk.out.truncate()
    assert desk.run("--json", "--nonsense") == 2
    assert json.loads(desk.out.getvalue())["exit_code"] == 2
    assert "Unknown option" in desk.err.getvalue()


@pytest.mark.parametrize("where", ["step", "prepare"])
def test_error_that_nobody_expected_is_a_sentence(desk: Desk, where: str) -> None:
    """An error that nobody expected is one sentence, and its traceback is in a file."""
    error = ZeroDivisionError("oops")
    plan = planned(task(LINT, error=error)) if where == "step" else planned(raises=error)
    assert desk.run(parts=plan) == 1
    printed = desk.err.getvalue()
    assert "ZeroDivisionError: oops" in printed
    assert "please report it" in printed
    assert "Traceback" not in printed + desk.out.getvalue()
    saved = (desk.root / "reports" / "internal-error.txt").read_text(encoding="utf-8")
    assert "Traceback" in saved
    assert desk.report()["exit_code"] == 1


def test_mistake_in_the_plan_is_a_sentence_too(desk: Desk) -> None:
    """A plan that cannot be run is a mistake of the pipeline, and no group of errors leaks."""
    assert desk.run(parts=planned(task(PUSH, LINT))) == 1
    assert "Internal error in the run: ValueError: not in the plan" in desk.err.getvalue()


def test_password_is_printed_and_reported_nowhere(desk: Desk) -> None:
    """The registry's password is masked in all output and all reports, as is its base64 pair."""
    desk.environ |= {"PIPELINE_REGISTRY_USER": "me", "PIPELINE_REGISTRY_PASSWORD": "hunter2"}
    leak = "me:hunter2 bWU6aHVudGVyMg=="
    error = StepError(f"a {leak}", remedy=f"b {leak}", evidence=f"c {leak}")
    assert desk.run(parts=planned(task(LINT, error=error))) == 1
    texts = [path.read_text("utf-8") for path in (desk.root / "reports").iterdir()]
    for text in (*texts, desk.out.getvalue(), desk.err.getvalue()):
        assert "hunter2" not in text
        assert "bWU6aHVudGVyMg" not in text


def test_wrong_option_of_another_command_is_not_reported(desk: Desk) -> None:
    """Only a run has reports: another command with a wrong option just says so."""
    assert desk.run("doctor", "--nonsense") == 2
    assert "python -m pipeline doctor --help" in desk.err.getvalue()
    assert not (desk.root / "reports").exists()


def test_error_of_another_command_is_told(desk: Desk) -> None:
    """A command that is no run tells what it lacks in the same way, and exits with its code."""
    assert desk.run("prune", "--docker-host", f"unix://{desk.root}/none.sock") == 3
    assert desk.err.getvalue().startswith("error: No Docker Engine answers at ")
    assert not (desk.root / "reports").exists()


def test_setup_that_fails_is_reported(desk: Desk) -> None:
    """It is a run that could not begin: what lies there is not taken for the result of one."""
    (desk.root / "reports").mkdir()
    for name in ("report.json", "internal-error.txt"):
        (desk.root / "reports" / name).write_text("of an earlier run")
    assert desk.run("setup", "--docker-host", "nonsense", "--report-dir", "reports") == 2
    assert desk.err.getvalue().startswith("error: 'nonsense' is not the address of ")
    document = desk.report()
    assert (document["exit_code"], document["steps"]) == (2, [])
    assert document["cause"].startswith("'nonsense' is not the address of a Docker Engine")
    assert {path.name for path in (desk.root / "reports").iterdir()} == {
        "report.json",
        "report.html",
        "junit.xml",
    }


def test_outside_a_project_nothing_is_written(desk: Desk, tmp_path: Path) -> None:
    """Outside a project it says so, and leaves nothing there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    process = course.Process(desk.out, desk.err, {}, elsewhere)
    assert main([], process=process, parts=planned()) == 2
    assert "No project found" in desk.err.getvalue()
    assert not list(elsewhere.iterdir())


def test_help_shows_every_flag_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The help has every setting of a run and every command, and the exit codes."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for setting in config.SETTINGS:
        if "run" not in setting.commands:
            continue
        assert (setting.flag or setting.variable) in text
    for command in COMMANDS:
        assert f"  {command}  " in text
    assert "Exit codes: 0 done" in text


@pytest.mark.parametrize("command", EVERY)
def test_each_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command has a help with the settings that it takes."""
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    taken = {s.flag for s in config.SETTINGS if command in s.commands}
    for setting in config.SETTINGS:
        if setting.flag.startswith("--"):
            shown = re.search(rf"^  {setting.flag}\b", text, re.MULTILINE) is not None
            assert shown == (setting.flag in taken)


def test_deployment_is_reported_beside_the_run(desk: Desk) -> None:
    """As a test that failed; what reports the images that are deployed stays."""
    folder = desk.root / "reports"
    folder.mkdir()
    (folder / "report.json").write_text("of the run")
    desk.environ["PIPELINE_REGISTRY_USER"] = "me"
    desk.environ["PIPELINE_REGISTRY_PASSWORD"] = "hunter2"
    assert desk.run("deploy", "--overlay", "hunter2") == 2
    assert {file.name for file in folder.iterdir()} == {"report.json", "deploy.xml"}
    assert (folder / "report.json").read_text() == "of the run"
    text = (folder / "deploy.xml").read_text()
    (case,) = ET.fromstring(text).iter("testcase")  # noqa: S314 - our own
    assert (case.get("classname"), case.get("name")) == ("slipway.deploy", "deploy apply")
    failure = case.find("failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("Unknown overlay '***' (--overlay). ")
    assert "hunter2" not in text


def test_deployment_that_cannot_be_reported_ends_as_it_does(desk: Desk) -> None:
    """The exit code and the error are those of the deployment."""
    (desk.root / "reports").touch()
    assert desk.run("deploy", "--overlay", "nowhere") == 2
    told = desk.err.getvalue()
    assert "reports/deploy.xml was not written: " in told
    assert "error: Unknown overlay 'nowhere' (--overlay). " in told


def test_what_only_looks_is_not_reported(desk: Desk) -> None:
    """Who asks for the manifests is there to read them."""
    assert desk.run("deploy", "render", "--overlay", "nowhere") == 2
    assert not (desk.root / "reports").exists()


@pytest.mark.parametrize("family", SUBCOMMANDS)
def test_a_command_with_commands_shows_them(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of a command with commands of its own has each of them."""
    assert main([family, "--help"]) == 0
    text = capsys.readouterr().out
    for command in SUBCOMMANDS[family]:
        assert f"  {command}  " in text


def test_unknown_subcommand_names_the_one_that_was_meant(desk: Desk) -> None:
    """A slip in a subcommand is answered with the nearest one, and never taken for another."""
    assert desk.run("deploy", "rolback") == 2
    assert "Unknown command 'rolback' of deploy. Did you mean 'rollback'?" in desk.err.getvalue()
    assert not (desk.root / "reports").exists()


def test_deploy_means_apply(desk: Desk) -> None:
    """`deploy` without a subcommand takes the options of `deploy apply`, and does it."""
    assert desk.run("deploy", "--overlay", "nowhere") == 2
    assert "Unknown overlay 'nowhere'" in desk.err.getvalue()
    assert desk.run("deploy", "apply", "--overlay", "nowhere") == 2


def test_each_report_that_is_named_counts(desk: Desk) -> None:
    """Thin jobs push one image each: --images may be given for each of their reports."""
    overlay = desk.root / "k8s" / "overlays" / "minikube" / "kustomization.yaml"
    overlay.parent.mkdir(parents=True)
    overlay.write_text("{}")
    assert desk.run("deploy", "render", "--images", "one.json", "--images", "two.json") == 2
    assert "There is no report one.json" in desk.err.getvalue()


@pytest.mark.parametrize("text", ["0", "-1", "last", "1.5"])
def test_a_release_to_roll_back_to_is_a_number(desk: Desk, text: str) -> None:
    """What is no number of a release is refused before a cluster is asked."""
    assert desk.run("deploy", "rollback", "--", text) == 2


def test_a_command_that_is_told_to_stop_says_which_signal(tmp_path: Path) -> None:
    """A signal ends a command in an orderly way, and the exit code tells which it was."""
    child = Child.start(tmp_path, "command")
    child.wait_for("running")
    child.process.send_signal(signal.SIGTERM)
    done = child.finish()
    assert done.code == 143
    assert "Traceback" not in done.err
    assert "put away" in done.out


def test_help_imports_nothing_heavy() -> None:
    """The help answers at once: nothing that takes long is imported for it."""
    code = (
        "import sys; from pipeline.__main__ import main; main(['--help']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"dagger", "docker", "rich", "httpx", "jinja2", "anyio", "asyncio", "graphql"}
    heavy |= {"kubernetes", "yaml"}
    assert heavy & set(done.stderr.split()) == set()


def test_python_without_our_environment_is_told_how_to_get_it() -> None:
    """The system's Python has no click: a sentence, and exit 3."""
    code = f"import runpy, sys; sys.path.insert(0, {ROOT!r}); {RUN_AS_MODULE}"
    call = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 3
    assert "does not have what the pipeline needs (click). Run `make environment`" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_run_imports_no_rich(tmp_path: Path) -> None:
    """The shell of a run that is not on a terminal imports neither rich nor a template engine."""
    done = Child.start(tmp_path, "quick", modules=True).finish()
    assert done.code == 0
    assert {"rich", "jinja2", "dagger", "docker", "httpx", "kubernetes", "yaml"} & set(
        done.err.split()
    ) == set()


PROGRAM = """
import contextlib, os, signal, sys, anyio
from pathlib import Path
from pipeline import course
from pipeline.__main__ import main
from pipeline.course import Parts, Process
from pipeline.task import Key, Outcome, Task
kind, folder, modules = sys.argv[1:4]
# Not as whoever runs the tests has it.
signal.signal(signal.SIGHUP, signal.SIG_IGN if kind == "nohup" else signal.SIG_DFL)

class Found:
    engine = type("E", (), dict(name="embedded", version="1", reason="r"))
    bases = type("B", (), dict(kind="debian", references={}))
    revision, platform, inputs = "r", "linux/amd64", {}

@contextlib.asynccontextmanager
async def prepare(settings):
    try:
        yield Found
    finally:
        with anyio.CancelScope(shield=True):
            print("putting away", flush=True)
            await anyio.sleep(60 if kind == "stuck" else 0.2)
            print("put away", flush=True)

async def step():
    if kind != "quick":
        print("running", flush=True)
        await anyio.sleep(60)
    return Outcome()

async def command(settings, say):
    async with prepare(settings):
        return (await step()) and 0

course.COMMANDS["doctor"] = command
code = main(
    ["doctor"] if kind == "command" else ["--report-dir", folder],
    process=Process(sys.stdout, sys.stderr, os.environ, Path.cwd(), cleanup_limit=1.5),
    parts=Parts(prepare, lambda _: (Task(Key("lint"), step),)),
)
if modules == "True":
    print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


class Done(NamedTuple):
    """How a child ended."""

    code: int
    out: str
    err: str


class Child(NamedTuple):
    """A run in a process of its own, to be stopped by signals."""

    process: subprocess.Popen[str]
    reports: Path

    @classmethod
    def start(cls, folder: Path, kind: str, *, modules: bool = False) -> Child:
        """Start a run of this kind: quick, slow, under nohup, or stuck in its clean-up."""
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kind, str(folder), str(modules)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return cls(process, folder)

    def wait_for(self, line: str) -> None:
        """Read standard output up to a line."""
        assert self.process.stdout is not None
        for read in self.process.stdout:
            if read.strip() == line:
                return
        raise AssertionError(f"{line!r} did not come")

    def finish(self) -> Done:
        """Wait for the end, at most 20 s."""
        try:
            out, err = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        return Done(self.process.returncode, out, err)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_stops_the_run_and_it_is_reported(
    tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    """A signal cancels the run: it puts away, writes its reports, and exits with 128 + n."""
    child = Child.start(tmp_path, "slow")
    child.wait_for("running")
    child.process.send_signal(signum)
    done = child.finish()
    assert done.code == code
    assert "put away" in done.out
    assert f"Stopped by {signum.name} after" in done.out
    assert "Traceback" not in done.err
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (document["exit_code"], document["cause"]) == (code, f"Stopped by {signum.name}.")
    assert document["steps"][0]["cause"] == "stopped with the run, before it ended"


def test_hangup_is_ignored_under_nohup(tmp_path: Path) -> None:
    """Who starts a run with nohup wants it to go on when the terminal is gone."""
    child = Child.start(tmp_path, "nohup")
    child.wait_for("running")
    child.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    child.process.send_signal(signal.SIGTERM)
    assert child.finish().code == 143


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    """A second Ctrl-C does not wait for what is being put away."""
    child = Child.start(tmp_path, "stuck")
    child.wait_for("running")
    child.process.send_signal(signal.SIGINT)
    child.wait_for("putting away")
    began = time.monotonic()
    child.process.send_signal(signal.SIGINT)
    assert child.finish().code == 130
    assert time.monotonic() - began < 3


def test_stuck_clean_up_is_given_up(tmp_path: Path) -> None:
    """What cannot be put away within a limit is left to the next run, and reported."""
    assert course.CLEANUP_LIMIT < 10
    child = Child.start(tmp_path, "stuck")
    child.wait_for("running")
    began = time.monotonic()
    child.process.send_signal(signal.SIGTERM)
    done = child.finish()
    assert 1.4 < time.monotonic() - began < 5
    assert done.code == 143
    assert "the next run removes what is left" in done.err
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["exit_code"] == 143


def test_real_parts_are_there() -> None:
    """What a run is made of in earnest can be imported, and every command has its body."""
    parts = course.load_parts()
    assert callable(parts.prepare)
    assert callable(parts.plan)
    assert {*course.COMMANDS, *course.DEPLOY} == set(EVERY) - {"run"}
