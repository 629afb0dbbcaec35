"""The five steps, against a fake engine."""

from __future__ import annotations

import importlib
import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import pipeline
from pipeline import images, steps
from pipeline.context import Socket
from pipeline.errors import PrerequisiteError, StepError
from pipeline.steps import _recorded, _suite
from pipeline.task import Image, Key, Outcome

from .engine_fakes import (
    BASES,
    DIGEST,
    JUNIT,
    FakeDagger,
    FakeRegistry,
    Node,
    exec_error,
    lay_out,
    make_context,
    query_error,
)

if TYPE_CHECKING:
    from pipeline.context import Context

pytestmark = pytest.mark.anyio

FAILED = JUNIT.format('<failure message="assert 1 == 2">trace</failure>')
ROOT = Path(pipeline.__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project."""
    return lay_out(tmp_path / "project")


def pushed(ctx: Context) -> None:
    """Have both images pushed."""
    for name in BASES:
        reference = ctx.reference(name, ctx.tag).with_digest(DIGEST)
        ctx.pushed[name] = Image(name, str(reference), 1, BASES[name])


def labels(ctx: Context, **other: str) -> Any:  # noqa: ANN401 - an answer of the fake
    """Return the answer for the labels of both images, some of them wrong."""

    def answer(node: Node) -> str | None:
        name = "api" if "slipway-api" in node.calls("from_")[0].args[0] else "nginx"
        label = node.chain[-1].args[0].removeprefix("org.opencontainers.image.")
        right = {
            "title": f"slipway-{name}",
            "version": ctx.tag,
            "revision": ctx.revision,
            "created": ctx.source.created,
            "base.name": BASES[name],
        }
        return other.get(label.replace(".", "_"), right[label])

    return answer


# --- the plan ------------------------------------------------------------------------------------


def graph(ctx: Context) -> dict[str, set[str]]:
    """Return the plan as names."""
    return {str(task.key): {str(need) for need in task.needs} for task in steps.plan(ctx)}


def test_plan_has_all_steps_for_all_images(project: Path) -> None:
    """lint, test and build side by side; push after them; verify after all pushes."""
    assert graph(make_context(project, FakeDagger())) == {
        "lint": set(),
        "test api": set(),
        "test nginx": set(),
        "build api": set(),
        "build nginx": set(),
        "push api": {"lint", "test api", "build api"},
        "push nginx": {"lint", "test nginx", "build nginx"},
        "verify": {"push api", "push nginx"},
    }


def test_naming_a_step_runs_what_it_needs(project: Path) -> None:
    """And nothing else; --image leaves out the other image."""
    assert set(graph(make_context(project, FakeDagger(), steps=("test",)))) == {
        "test api",
        "test nginx",
    }
    other = lay_out(project.parent / "b")
    assert graph(make_context(other, FakeDagger(), steps=("push",), images=("api",))) == {
        "lint": set(),
        "test api": set(),
        "build api": set(),
        "push api": {"lint", "test api", "build api"},
    }


def test_every_step_is_planned() -> None:
    """The settings know the same steps, in the same order."""
    from pipeline.config import STEPS

    assert tuple(steps.NEEDS) == STEPS


def test_no_step_asks_which_engine_it_is_on() -> None:
    """Only the records name it, so that an outcome says what it was had with."""
    for path in (ROOT / "pipeline/steps").glob("*.py"):
        if path.name != "_recorded.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\.engine\b|embedded", text), path


# --- what all share ------------------------------------------------------------------------------


class Runs:
    """A step that counts how often it ran."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.count = 0
        self.error = error

    async def __call__(self) -> _recorded.Ran:
        """Run."""
        self.count += 1
        if self.error is not None:
            raise self.error
        return _recorded.Ran(cause="a note")


async def test_step_that_passed_is_cached_with_when_and_where(project: Path) -> None:
    """With the same material; other material, another run."""
    ctx = make_context(project, FakeDagger())
    run = Runs()
    assert (await steps_recorded(ctx, run)).state == "passed"
    again = await steps_recorded(ctx, run)
    assert again.state == "cached"
    assert re.fullmatch(r"passed on \S+ at \d{4}-.*; a note", again.cause)
    assert run.count == 1
    assert (await steps_recorded(ctx, run, a="2")).state == "passed"
    assert run.count == 2


async def steps_recorded(ctx: Context, run: Runs, **material: str) -> Outcome:
    """Run a step by way of its record."""
    files = ctx.source.select("service")
    return await _recorded.recorded(ctx, Key("build", "api"), material, run, files=files)


async def test_fresh_step_runs_all_the_same(project: Path) -> None:
    """And its outcome is the one that is kept."""
    run = Runs()
    await steps_recorded(make_context(project, FakeDagger()), run)
    fresh = make_context(project, FakeDagger(), fresh=frozenset({"build"}))
    assert (await steps_recorded(fresh, run)).state == "passed"
    other = make_context(project, FakeDagger(), fresh=frozenset({"test"}))
    assert (await steps_recorded(other, run)).state == "cached"
    assert run.count == 2


async def test_failure_is_never_kept(project: Path) -> None:
    """It runs again, and its error is translated."""
    ctx = make_context(project, FakeDagger())
    run = Runs(error=query_error("no Dockerfile at Dockerfile"))
    for _ in range(2):
        with pytest.raises(StepError, match="build api: no Dockerfile"):
            await steps_recorded(ctx, run)
    assert run.count == 2


async def test_what_changed_while_it_ran_is_not_kept(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can say which content passed."""
    ctx = make_context(project, FakeDagger())

    class Editing(Runs):
        async def __call__(self) -> _recorded.Ran:
            (project / "service/app.py").write_text(f"x = {self.count}\n", encoding="utf-8")
            return await super().__call__()

    run = Editing()
    await steps_recorded(ctx, run)
    assert "files changed while it ran" in caplog.text
    assert (await steps_recorded(ctx, run)).state == "passed"


async def test_record_that_is_not_confirmed_does_not_count(project: Path) -> None:
    """Push asks the registry."""
    ctx = make_context(project, FakeDagger())
    run = Runs()

    async def confirm(_record: object) -> bool:
        return False

    for _ in range(2):
        outcome = await _recorded.recorded(ctx, Key("push", "api"), {}, run, confirm=confirm)
        assert outcome.state == "passed"
    assert run.count == 2


# --- test ----------------------------------------------------------------------------------------


async def test_tests_run_and_their_reports_come_out(project: Path) -> None:
    """What runs is the target's own command; coverage is there where it was measured."""
    fake = FakeDagger(reports={"junit": JUNIT.format(""), "coverage": "<coverage/>"})
    ctx = make_context(project, fake)
    outcome = await steps.test(ctx, "api")
    assert outcome.state == "passed"
    assert outcome.suites == (project / "reports/api/junit.xml",)
    assert (project / "reports/api/coverage.xml").read_text(encoding="utf-8") == "<coverage/>"
    (ran,) = fake.asked("exit_code")
    assert ran.built() == ("api", "test")
    assert ran.ran() == []
    assert ran.calls("with_env_variable")[-1].args == ("SLIPWAY_RUN", ctx.nonce)
    # A step that is cached has the reports of when it ran.
    (project / "reports/api/junit.xml").unlink()
    assert (await steps.test(ctx, "api")).state == "cached"
    assert (project / "reports/api/junit.xml").exists()


async def test_failing_test_is_named_and_its_report_is_there(project: Path) -> None:
    """The sentence names the tests; the output is the evidence; the report goes to the others."""
    fake = FakeDagger({"exit_code": 1, "stdout": "E assert 1 == 2\n"}, reports={"junit": FAILED})
    with pytest.raises(StepError, match=r"1 of 2 tests of api failed: a_test::test_two") as caught:
        await steps.test(make_context(project, fake), "api")
    assert caught.value.suites == (project / "reports/api/junit.xml",)
    assert "a_test::test_two: assert 1 == 2" in caught.value.evidence
    assert "E assert 1 == 2" in caught.value.evidence


async def test_failure_that_no_test_is_to_blame_for_is_told(project: Path) -> None:
    """Coverage that is too low, say."""
    fake = FakeDagger({"exit_code": 1, "stdout": "coverage 80 < 90"})
    with pytest.raises(StepError, match="tests of api ended with exit code 1") as caught:
        await steps.test(make_context(project, fake), "api")
    assert "80 < 90" in caught.value.evidence


async def test_failing_test_counts_whatever_the_exit_code(project: Path) -> None:
    """A wrapper may lose the exit code; the report tells."""
    with pytest.raises(StepError, match="1 of 2 tests"):
        await steps.test(make_context(project, FakeDagger(reports={"junit": FAILED})), "api")


async def test_suite_without_tests_has_not_passed(project: Path) -> None:
    """Nothing was tested."""
    fake = FakeDagger(reports={"junit": "<testsuites/>"})
    with pytest.raises(StepError, match="No test of nginx ran"):
        await steps.test(make_context(project, fake), "nginx")


@pytest.mark.parametrize(
    ("reports", "words"),
    [({}, "exit code 0 and without a report"), ({"junit": "<a"}, "no JUnit file")],
)
async def test_suite_without_a_report_has_not_passed(
    project: Path, reports: dict[str, str], words: str
) -> None:
    """Nobody knows what it tested."""
    fake = FakeDagger({"stdout": "hello"}, reports=reports)
    with pytest.raises(StepError, match=words):
        await steps.test(make_context(project, fake), "api")


def test_many_failed_tests_are_counted_not_listed() -> None:
    """The sentence stays one."""
    assert _suite.names(("a: x", "b")) == "a, b"
    assert _suite.names(tuple("abcde")) == "a, b, c and 2 more"


# --- build ---------------------------------------------------------------------------------------


async def test_build_makes_the_runtime_with_its_labels(project: Path) -> None:
    """The base by digest, and what the labels say."""
    fake = FakeDagger()
    ctx = make_context(project, fake)
    assert (await steps.build(ctx, "nginx")).state == "passed"
    (built,) = fake.asked("sync")
    assert built.built() == ("nginx", "runtime")
    arguments = {a.name: a.value for a in built.calls("docker_build")[0].options["build_args"]}
    assert arguments == ctx.build_args("nginx", "runtime")
    assert (await steps.build(ctx, "nginx")).state == "cached"
    assert (await steps.build(ctx, "api")).state == "passed"


async def test_failing_instruction_is_told_with_its_output(project: Path) -> None:
    """BuildKit's words are the evidence."""
    text = 'Dockerfile:7: process "/bin/sh -c false" failed\n#7 0.1 because of this'
    fake = FakeDagger({"sync": query_error(text)})
    with pytest.raises(StepError, match=r"Dockerfile:7: process") as caught:
        await steps.build(make_context(project, fake), "api")
    assert "because of this" in caught.value.evidence


BUILDKIT = """\
#8 [base 2/3] RUN echo why && false
#8 0.123 why
------
 > [base 2/3] RUN echo why && false:
0.123 why
------
Dockerfile:12
--------------------
  12 | >>> RUN echo why && false
--------------------
ERROR: failed to solve: process "/bin/sh -c echo why && false" did not complete: exit code: 1
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BUILDKIT, "nginx/Dockerfile, line 12: `RUN echo why && false` failed"),
        (BUILDKIT.replace("Dockerfile:12", ""), "nginx/Dockerfile: `RUN echo why && false` failed"),
        (
            "the build failed\nERROR: failed to solve: no such stage: x.",
            "nginx/Dockerfile: no such stage: x",
        ),
    ],
)
async def test_buildkit_s_words_become_a_sentence(project: Path, text: str, sentence: str) -> None:
    """The place and the instruction; what BuildKit cannot solve otherwise, in its own words."""
    fake = FakeDagger({"sync": query_error(f"docker buildx build failed\n{text}")})
    with pytest.raises(StepError) as caught:
        await steps.build(make_context(project, fake), "nginx")
    assert caught.value.message == sentence
    assert "failed to solve" in caught.value.evidence


async def test_missing_dockerfile_is_told(project: Path) -> None:
    """Before an engine is asked for anything."""
    (project / "nginx/Dockerfile").unlink()
    fake = FakeDagger()
    with pytest.raises(StepError, match="There is no nginx/Dockerfile"):
        await steps.build(make_context(project, fake), "nginx")
    assert fake.ended == []


# --- push ----------------------------------------------------------------------------------------


async def test_push_publishes_every_tag_and_tells_the_digest(project: Path) -> None:
    """The reference has the tag from git and the digest; the size is the registry's word."""
    fake = FakeDagger()
    registry = FakeRegistry(sizes={"slipway-api": 4321})
    ctx = make_context(project, fake, registry=registry, tags=("v1", "latest"))
    outcome = await steps.push(ctx, "api")
    assert outcome.image == Image(
        "api", f"127.0.0.1:5050/slipway-api:{ctx.tag}@{DIGEST}", 4321, BASES["api"]
    )
    assert ctx.pushed["api"] == outcome.image
    published = [node.chain[-1] for node in fake.asked("publish")]
    assert [call.args[0] for call in published] == [
        f"127.0.0.1:5050/slipway-api:{ctx.tag}",
        "127.0.0.1:5050/slipway-api:v1",
        "127.0.0.1:5050/slipway-api:latest",
    ]
    assert all(isinstance(call.options["registry_service"], Node) for call in published)


async def test_push_is_cached_only_when_the_registry_confirms_every_tag(project: Path) -> None:
    """A registry that was emptied gets it again."""
    registry = FakeRegistry()
    ctx = make_context(project, FakeDagger(), registry=registry, tags=("v1", "latest"))
    assert (await steps.push(ctx, "api")).state == "passed"
    again = await steps.push(ctx, "api")
    assert again.state == "cached"
    assert again.image == ctx.pushed["api"]
    registry.digests["127.0.0.1:5050/slipway-api:latest"] = f"sha256:{'2' * 64}"

    def publish(_node: Node) -> str:
        registry.digests.clear()
        return f"r.example/x:1@{DIGEST}"

    fake = FakeDagger({"publish": publish})
    other = make_context(project, fake, registry=registry, tags=("v1", "latest"))
    assert (await steps.push(other, "api")).state == "passed"
    assert len(fake.asked("publish")) == 3


async def test_registry_that_has_something_else_is_a_failure(project: Path) -> None:
    """What was pushed is what is verified: somebody else pushed under this tag."""
    registry = FakeRegistry(default=f"sha256:{'2' * 64}")
    with pytest.raises(StepError, match="does not have under"):
        await steps.push(make_context(project, FakeDagger(), registry=registry), "api")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("unauthorized: authentication required", "docker login 127.0.0.1:5050"),
        ("denied: requested access to the resource is denied", "may push there"),
        ("dial tcp 127.0.0.1:5050: connection refused", "whether it is up"),
    ],
)
async def test_registry_that_does_not_take_it_is_told_with_the_remedy(
    project: Path, text: str, remedy: str
) -> None:
    """A wrong password, a push that is not allowed, and a registry that went down differ."""
    fake = FakeDagger({"publish": query_error(text)})
    with pytest.raises(StepError, match=r"127\.0\.0\.1:5050 did not take .*slipway-api") as caught:
        await steps.push(make_context(project, fake), "api")
    assert text in caught.value.message
    assert remedy in caught.value.remedy


async def test_registry_that_stalls_is_given_up(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push has a limit."""
    monkeypatch.setattr(importlib.import_module("pipeline.steps.push"), "LIMIT", 0.05)

    async def stall(_node: Node) -> str:
        await anyio.sleep(5)
        return ""

    class Stalling(FakeDagger):
        async def end(self, node: Node) -> Any:  # noqa: ANN401 - as inherited
            return await (stall(node) if node.chain[-1].name == "publish" else super().end(node))

    with pytest.raises(StepError, match="did not take"):
        await steps.push(make_context(project, Stalling()), "api")


# --- lint ----------------------------------------------------------------------------------------


def checks(fake: FakeDagger) -> set[str]:
    """Return the first words of the commands whose exit code was asked."""
    return {" ".join(node.ran()[:2]) for node in fake.asked("exit_code")}


async def test_lint_runs_every_check(project: Path) -> None:
    """ruff, mypy on each package, hadolint on every Dockerfile, and nginx."""
    fake = FakeDagger()
    ctx = make_context(project, fake, bundle="-----")
    assert (await steps.lint(ctx)).state == "passed"
    assert checks(fake) == {
        "ruff check",
        "ruff format",
        "mypy --cache-dir=/var/cache/slipway/nginx",
        "mypy --cache-dir=/var/cache/slipway/project",
        "mypy --cache-dir=/var/cache/slipway/service",
        "hadolint nginx/Dockerfile",
        "slipway-nginx check",
    }
    (hadolint,) = [node for node in fake.asked("exit_code") if node.ran()[0] == "hadolint"]
    assert hadolint.ran()[1:] == ["nginx/Dockerfile", "service/Dockerfile"]
    # The CA bundle is not there any more when the checks run.
    assert hadolint.calls("without_mount")[-1].args == ("/run/secrets/ca",)
    assert (await steps.lint(ctx)).state == "cached"


async def test_all_findings_are_told_not_just_the_first(project: Path) -> None:
    """Each with its output."""

    def code(node: Node) -> int:
        return int(node.ran()[0] in ("ruff", "slipway-nginx"))

    fake = FakeDagger({"exit_code": code, "stdout": lambda node: f"{node.ran()[0]} says"})
    with pytest.raises(StepError, match="nginx, ruff check, ruff format found") as caught:
        await steps.lint(make_context(project, fake))
    assert caught.value.evidence.count("says") == 3
    assert "== ruff check\nruff says" in caught.value.evidence


async def test_check_that_cannot_run_does_not_hide_the_findings(project: Path) -> None:
    """Both are told; without findings it is the error."""

    def fail(node: Node) -> Any:  # noqa: ANN401 - an answer of the fake
        return query_error("no base") if node.built()[0] == "nginx" else code

    code = 1
    fake = FakeDagger({"exit_code": fail, "stdout": "found"})
    with pytest.raises(StepError, match="found something") as caught:
        await steps.lint(make_context(project, fake))
    assert "lint: no base" in caught.value.evidence
    code = 0
    with pytest.raises(StepError, match="lint: no base"):
        await steps.lint(make_context(project, FakeDagger({"exit_code": fail})))


async def test_tools_that_cannot_be_installed_are_told_with_their_output(project: Path) -> None:
    """The lock may not fit, the network may be gone."""
    fake = FakeDagger({"sync": exec_error(["sh", "-c", "uv sync"], 2, "", "No solution")})
    with pytest.raises(StepError, match=r"lint: `sh -c uv sync` ended with exit code 2") as caught:
        await steps.lint(make_context(project, fake))
    assert caught.value.evidence == "No solution"


async def test_fresh_lint_is_not_repeated_from_the_engine_s_cache(project: Path) -> None:
    """--fresh means that it runs."""
    fake = FakeDagger()
    ctx = make_context(project, fake, fresh=frozenset({"lint"}))
    await steps.lint(ctx)
    assert all(
        node.calls("with_env_variable")[-1].args == ("SLIPWAY_RUN", ctx.nonce)
        for node in fake.asked("exit_code")
    )


def test_lint_and_the_service_use_one_uv() -> None:
    """The version is in two places, which agree."""
    text = (ROOT / "service/Dockerfile").read_text(encoding="utf-8")
    version = importlib.import_module("pipeline.steps.lint").UV_VERSION
    assert f"ARG UV_VERSION={version}\n" in text
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    assert wanted["required-version"] == ">=0.8"


# --- verify --------------------------------------------------------------------------------------


def socket_of(path: Path) -> Socket:
    """Return a machine's Docker socket; nobody connects to it here."""
    return Socket(path / "docker.sock")


async def test_verify_runs_the_system_and_all_phases(project: Path) -> None:
    """By digest, with the services bound before the nonce, on a relay of our own."""
    fake = FakeDagger()
    ctx = make_context(project, fake, socket=socket_of(project))
    pushed(ctx)
    fake.answers["label"] = labels(ctx)
    outcome = await steps.verify(ctx)
    assert outcome.state == "passed"
    assert outcome.cause == ""
    phases = fake.asked("exit_code")
    assert [node.ran()[2] for node in phases] == ["serving", "outage", "recovery"]
    for node in phases:
        names = [call.name for call in node.chain]
        nonce = max(i for i, c in enumerate(node.chain) if c.args[:1] == ("SLIPWAY_RUN",))
        assert nonce > max(i for i, name in enumerate(names) if name == "with_service_binding")
        assert {c.args[0] for c in node.calls("with_service_binding")} == {"docker-proxy", "nginx"}
        assert {c.args for c in node.calls("with_env_variable")} >= {
            ("SLIPWAY_URL", "http://nginx:8080"),
            ("SLIPWAY_SOCKET_PROXY", "http://docker-proxy:2375"),
        }
    proxy = phases[0].calls("with_service_binding")[0].args[1]
    (mounted,) = proxy.calls("with_unix_socket")
    assert mounted.args[0] == "/var/run/docker.sock"
    assert mounted.options == {"owner": "10001:10001"}
    relayed = mounted.args[1].calls("unix_socket")[0].args[0]
    assert relayed != str(project / "docker.sock")
    assert proxy.calls("from_")[0].args[0].endswith(DIGEST)
    assert len(fake.asked("start")) == len(fake.asked("stop")) == 1
    assert {path.name for path in outcome.suites} == {
        "junit-images.xml",
        "junit-serving.xml",
        "junit-outage.xml",
        "junit-recovery.xml",
    }
    assert (await steps.verify(ctx)).state == "cached"


async def test_relay_is_closed_for_the_outage_alone(project: Path) -> None:
    """Seen from where the phases run."""
    seen: dict[str, bool] = {}

    def look(node: Node) -> int:
        proxy = node.calls("with_service_binding")[0].args[1]
        path = proxy.calls("with_unix_socket")[0].args[1].calls("unix_socket")[0].args[0]
        seen[node.ran()[2]] = Path(path).exists()
        return 0

    fake = FakeDagger({"exit_code": look})
    ctx = make_context(project, fake, socket=socket_of(project))
    pushed(ctx)
    fake.answers["label"] = labels(ctx)
    await steps.verify(ctx)
    assert seen == {"serving": True, "outage": False, "recovery": True}


async def test_without_docker_the_parts_that_need_it_are_skipped(project: Path) -> None:
    """With the reason; the rest runs; and it does not count as passed where there is Docker."""
    fake = FakeDagger()
    ctx = make_context(project, fake, socket=Socket(None, "no Docker here"))
    pushed(ctx)
    fake.answers["label"] = labels(ctx)
    outcome = await steps.verify(ctx)
    assert outcome.state == "passed"
    assert outcome.cause.endswith("was skipped: no Docker here")
    (phase,) = fake.asked("exit_code")
    assert phase.ran()[2] == "serving and not source"
    cases = ET.parse(project / "reports/verify/junit-images.xml").getroot().iter("testcase")  # noqa: S314 - our own
    skipped = {case.get("name"): s.get("message") for case in cases for s in case.iter("skipped")}
    assert skipped == {"outage": "no Docker here", "recovery": "no Docker here"}
    again = await steps.verify(ctx)
    assert again.state == "cached"
    assert "no Docker here" in again.cause
    with_docker = make_context(project, fake, socket=socket_of(project))
    pushed(with_docker)
    assert (await steps.verify(with_docker)).state == "passed"


async def test_every_broken_rule_of_an_image_is_told(project: Path) -> None:
    """Who it runs as, what it carries, what it says of itself, and its size."""
    fake = FakeDagger(
        {
            "user": "root",
            "stdout": "setuid /bin/su\nleftover /usr/bin/pip\nleftover /x\nchangeable /etc\n",
        }
    )
    registry = FakeRegistry(sizes={"slipway-api": 60_000_000})
    ctx = make_context(project, fake, registry=registry, socket=socket_of(project))
    pushed(ctx)
    fake.answers["label"] = labels(ctx, version="v0", base_name="")
    with pytest.raises(StepError) as caught:
        await steps.verify(ctx)
    message = caught.value.message
    for words in (
        "api: a numeric user other than root: it is 'root'",
        "api: no setuid or setgid bits: 1 found, /bin/su first",
        "nginx: no build tool, pip or package cache: 2 found, /usr/bin/pip first",
        "nginx: nothing that its user could change: 1 found, /etc first",
        "api: OCI labels: org.opencontainers.image.version is 'v0'",
        "api: at most 50 MB over its base: it has 60.0 MB",
    ):
        assert words in message
    assert "nginx: at most" not in message
    assert "base.name is ''" in caught.value.evidence
    root = ET.parse(project / "reports/verify/junit-images.xml").getroot()  # noqa: S314 - our own
    assert int(root.get("failures", "")) == 11
    assert project / "reports/verify/junit-images.xml" in caught.value.suites


@pytest.mark.parametrize("user", ["0", "0:0", "slipway", "10001:staff", ""])
async def test_user_must_be_a_number_that_is_not_root_s(project: Path, user: str) -> None:
    """Kubernetes can only tell that of a number."""
    fake = FakeDagger({"user": user})
    ctx = make_context(project, fake)
    pushed(ctx)
    fake.answers["label"] = labels(ctx)
    with pytest.raises(StepError, match="a numeric user other than root"):
        await steps.verify(ctx)


async def test_size_that_cannot_be_had_is_skipped_with_the_reason(project: Path) -> None:
    """The base may be where only the engine reaches it."""
    base = FakeRegistry(sizes={"library/python": PrerequisiteError("no answer")})
    fake = FakeDagger()
    ctx = make_context(project, fake, elsewhere=base, socket=socket_of(project))
    pushed(ctx)
    fake.answers["label"] = labels(ctx)
    outcome = await steps.verify(ctx)
    assert "no answer" in outcome.cause


async def test_failed_phases_are_told_and_the_next_ones_run(project: Path) -> None:
    """With the names of the tests, and the output of the phase."""
    fake = FakeDagger(
        {"exit_code": 1, "stdout": lambda node: f"output of {node.ran()[2]}" * bool(_phase(node))}
    )
    fake.reports = {"junit-serving": FAILED, "junit-outage": JUNIT.format(""), "junit-rec": FAILED}
    ctx = make_context(project, fake, socket=socket_of(project))
    pushed(ctx)
    fake.answers["label"] = labels(ctx)
    with pytest.raises(StepError) as caught:
        await steps.verify(ctx)
    failed = "2 of 6 tests failed: serving a_test::test_two, recovery a_test::test_two"
    assert failed in caught.value.message
    assert "the phase outage ended with 1" in caught.value.message
    for phase in ("serving", "outage", "recovery"):
        assert f"output of {phase}" in caught.value.evidence
    assert len(caught.value.suites) == 4


def _phase(node: Node) -> bool:
    return node.ran()[0] == "pytest"


async def test_image_of_another_run_is_verified_by_its_digest(project: Path) -> None:
    """``--image api``: nginx comes from the registry, with whatever commit it is of."""
    other = f"sha256:{'3' * 64}"
    fake = FakeDagger()
    ctx = make_context(project, fake, images=("api",), others={"nginx": other})
    reference = ctx.reference("api", ctx.tag).with_digest(DIGEST)
    ctx.pushed["api"] = Image("api", str(reference), 1, BASES["api"])
    fake.answers["label"] = labels(ctx)
    await steps.verify(ctx)
    pulled = {node.calls("from_")[0].args[0] for node in fake.asked("user")}
    assert {images.parse(reference).digest for reference in pulled} == {DIGEST, other}
    asked = [n.chain[-1].args[0] for n in fake.asked("label") if other in str(n.chain[1].args)]
    assert len(asked) <= 2
