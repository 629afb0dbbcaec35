"""Whole runs of the pipeline that fail: a sentence with the remedy, an exit code, the reports."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from pipeline.context import this_platform

from .projects import Project, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.docker, pytest.mark.network]

USER, PASSWORD = "alice", "made-up/password+1"


@pytest.fixture
def temper(registry: str, project: Project) -> Iterator[Registry]:
    """Return a registry that misbehaves when it is told to; the project pushes there."""
    with Registry(registry) as made:
        project.registry = f"{made.address}/{project.registry.partition('/')[2]}"
        yield made


# --- steps


def test_failing_test_and_a_finding_stop_what_depends_on_them(project: Project) -> None:
    """They are named, their reports are there, and the other image is tested and built."""
    with (project.root / "service/tests/app_test.py").open("a") as file:
        file.write('\n\ndef test_made_to_fail() -> None:\n    """Fail."""\n    assert not "this"\n')
    (project.root / "tests/verify/unused.py").write_text('"""Nothing."""\n\nimport os\n')
    run = project.run()
    run.check(1)
    assert {run.states[step] for step in ("lint", "test api")} == {"failed"}
    assert {run.states[s] for s in ("test nginx", "build nginx", "build api")} <= {
        "passed",
        "cached",
    }
    assert {run.states[s] for s in ("push api", "push nginx", "verify")} == {"skipped"}
    assert "1 of " in run.cause("test api")
    assert "test_made_to_fail" in run.cause("test api")
    assert "needs" in run.cause("push api")
    assert "which failed" in run.cause("push api")
    assert "ruff check" in run.cause("lint")
    assert "F401" in run.stderr
    assert (run.reports / "api/coverage.xml").is_file()
    cases = ET.parse(run.reports / "junit.xml").iter("testcase")  # noqa: S314 - our own
    failed = {case.get("name") for case in cases if case.find("failure") is not None}
    assert "test_made_to_fail" in failed


def test_failing_and_missing_dockerfiles_are_told(project: Project) -> None:
    """The instruction that failed, with its output; the file that is not there."""
    project.edit(
        "nginx/Dockerfile",
        "FROM ${BASE} AS base\n",
        "FROM ${BASE} AS base\nRUN echo o-u-t; false\n",
    )
    (project.root / "service/Dockerfile").unlink()
    run = project.run("build")
    run.check(1)
    assert run.cause("build api").startswith("There is no service/Dockerfile. ")
    assert run.cause("build nginx") == ("nginx/Dockerfile, line 8: `RUN echo o-u-t; false` failed")
    assert " o-u-t\n" in run.stderr


# --- usage and the machine


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lnit"], ["Unknown step 'lnit'", "Did you mean 'lint'?"]),
        (["--image", "redis"], ["Unknown image 'redis'", "api, nginx"]),
        (["--engine", "docker"], ["Unknown engine 'docker'", "embedded"]),
        (["--registri", "x"], ["Unknown option '--registri'", "--registry"]),
        (["--tag", "a:b"], ["'a:b' is not a valid tag"]),
        (["--registry", "Upper/Case"], ["'Upper/Case' is not a registry"]),
        (["--ca", "/no/such/file"], ["no CA bundle /no/such/file", "PEM"]),
        (["--jobs", "0"], ["'0' is not a number of jobs"]),
    ],
)
def test_wrong_argument_is_told_with_its_remedy(
    project: Project, arguments: list[str], words: list[str]
) -> None:
    """Exit 2, and reports that say so."""
    run = project.run(*arguments)
    run.complained(2, *words)
    run.check(2)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PIPELINE_REGISTRI": "x"}, ["PIPELINE_REGISTRI", "PIPELINE_REGISTRY"]),
        ({"PIPELINE_REGISTRY_USER": "alice"}, ["alice has no password"]),
        ({"PIPELINE_REGISTRY_PASSWORD": "made-up"}, ["without a user"]),
    ],
)
def test_wrong_environment_is_told_with_its_remedy(
    project: Project, variables: dict[str, str], words: list[str]
) -> None:
    """Exit 2, and reports that say so."""
    run = project.run(env=variables)
    run.complained(2, *words)
    run.check(2)


def test_report_folder_that_cannot_be_written_is_told(project: Project) -> None:
    """Exit 2; only here there are no reports."""
    (project.root / "file").touch()
    run = project.run("--report-dir", "file/reports")
    run.complained(2, "file/reports cannot be written", "--report-dir")


def test_machine_without_docker_is_told_what_was_tried(project: Project) -> None:
    """Exit 3, before the first step, in the order in which it was tried."""
    run = project.run("--docker-host", "unix:///nonexistent")
    run.complained(
        3, "No engine can be had", "make setup", "Tried, in this order", "there is no socket"
    )
    run.check(3)
    assert run.report["steps"] == []


def test_platform_that_this_machine_cannot_run_is_refused(project: Project) -> None:
    """Exit 3: the machine lacks it, and Dagger may have it."""
    other = "linux/arm64" if this_platform() == "linux/amd64" else "linux/amd64"
    run = project.run("--platform", other)
    run.complained(3, f"cannot build for {other}", "--engine dagger")
    run.check(3)


def test_port_without_a_registry_is_told(project: Project, free_port: int) -> None:
    """Exit 3, whether nothing is there or something else."""
    address = f"127.0.0.1:{free_port}"
    run = project.run("--registry", address)
    run.complained(3, f"The registry {address} does not answer: Connection refused", "make setup")
    run.check(3)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            run = project.run("--registry", address)
        finally:
            server.shutdown()
            thread.join()
    run.complained(3, f"{address} is not an image registry", "Free the port")


# --- the registry


@contextlib.contextmanager
def logged_in(folder: Path, address: str) -> Iterator[dict[str, str]]:
    """Yield an environment in which Docker knows the password for a registry."""
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    yield {"DOCKER_CONFIG": str(folder)}


def test_password_opens_the_registry_and_is_in_no_report(
    project: Project, temper: Registry, tmp_path: Path
) -> None:
    """From the environment, or from where docker login left it."""
    temper.login = (USER, PASSWORD)
    named = {"PIPELINE_REGISTRY_USER": USER, "PIPELINE_REGISTRY_PASSWORD": PASSWORD}
    with logged_in(tmp_path / "docker", temper.address) as stored:
        for more, variables in ((["--tag", "a"], named), (["--tag", "b"], stored)):
            run = project.run("--log", "debug", "--image", "nginx", "push", *more, env=variables)
            run.check(0)
            assert run.states["push nginx"] == "passed"
            written = run.stdout + run.stderr
            for path in [*run.reports.rglob("*"), *project.home.rglob("*")]:
                if path.is_file():
                    written += path.read_bytes().decode(errors="replace")
            for form in (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()):
                assert form not in written


def test_registry_that_refuses_is_told(project: Project, registry: str, temper: Registry) -> None:
    """A wrong password, none at all, and a user that may not push: a failed push each."""
    temper.login = (USER, PASSWORD)
    wrong = {"PIPELINE_REGISTRY_USER": USER, "PIPELINE_REGISTRY_PASSWORD": "another one"}
    command = ("--image", "nginx", "push", "--report-dir")
    with Registry(registry) as strict:
        strict.refuses_pushes = True
        # Side by side, because Docker asks again for 50 s before it takes a refusal for an answer.
        started = [
            (temper.address, project.start(*command, "reports/wrong", env=wrong)),
            (temper.address, project.start(*command, "reports/none")),
            (
                strict.address,
                project.start(*command, "reports/strict", "--registry", f"{strict.address}/x"),
            ),
        ]
        for (address, running), name in zip(started, ("wrong", "none", "strict"), strict=True):
            running.reports /= name
            run = running.wait()
            run.check(1)
            cause = run.cause("push nginx")
            assert f"The registry {address} did not take {address}/" in cause
            assert "docker login" in cause
            assert "may push there" in cause
            assert "another one" not in run.stderr


def test_registry_that_goes_down_or_stalls_is_a_failed_push(
    project: Project, temper: Registry
) -> None:
    """Within a limit, never a hang."""
    temper.stalls = True
    run = project.run("--image", "nginx", "push")
    run.check(1)
    assert "does not answer" in run.cause("push nginx")
    assert run.seconds < 60
    temper.stalls = False
    temper.dies = True
    run = project.run("--image", "nginx", "push")
    run.check(1)
    assert temper.address in run.cause("push nginx")
    assert run.seconds < 60
