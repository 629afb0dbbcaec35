"""Whole runs of the pipeline that succeed, as a person starts them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from pipeline import images
from pipeline.setup.registry import MANIFESTS

from .engines import TINY
from .projects import Ended, Project

if TYPE_CHECKING:
    from pathlib import Path

    from .engines import Daemon

pytestmark = [pytest.mark.docker, pytest.mark.network]

ALL = {
    "lint",
    "test api",
    "test nginx",
    "build api",
    "build nginx",
    "push api",
    "push nginx",
    "verify",
}


def ask(method: str, reference: str) -> int:
    """Return the status with which the registry answers for a manifest."""
    found = images.parse(reference)
    connection = http.client.HTTPConnection(*found.registry.endpoint, timeout=10)
    path = f"/v2/{found.repository}/manifests/{found.digest}"
    connection.request(method, path, headers={"Accept": ", ".join(MANIFESTS)})
    status = connection.getresponse().status
    connection.close()
    return status


def compare(*references: str) -> subprocess.CompletedProcess[str]:
    """Run the command that compares images."""
    command = [sys.executable, "-m", "pipeline.compare", *references]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def references(run: Ended) -> dict[str, str]:
    """Return the images of a run, by name."""
    return {image["name"]: image["reference"] for image in run.report["images"]}


def test_green_run_ends_with_verified_images_and_reports(green: tuple[Project, Ended]) -> None:
    """Exit 0, every step, both images on the registry by digest, and the tests in junit.xml."""
    _, run = green
    run.check(0)
    assert set(run.states) == ALL
    assert set(run.states.values()) == {"passed"}
    assert run.stderr == ""
    assert set(references(run)) == {"api", "nginx"}
    for reference in references(run).values():
        assert ask("HEAD", reference) == 200
        assert reference in run.stdout
    suites = list(ET.parse(run.reports / "junit.xml").iter("testcase"))  # noqa: S314 - our own
    names = {f"{case.get('classname')}.{case.get('name')}" for case in suites}
    assert len(names) > 150
    assert any("verify" in name for name in names)
    for file in ("api/coverage.xml", "nginx/junit.xml", "verify/junit-recovery.xml"):
        assert (run.reports / file).is_file()


def test_second_run_is_cached_and_needs_no_engine(green: tuple[Project, Ended]) -> None:
    """Nothing changed, so nothing runs; --fresh makes just that step run again."""
    project, first = green
    again = project.run()
    again.check(0)
    assert set(again.states.values()) == {"cached"}
    assert references(again) == references(first)
    # It is made when the engine is connected.
    assert not (again.reports / "engine.log").exists()
    assert "passed on" in again.cause("verify")
    fresh = project.run("--fresh", "verify")
    fresh.check(0)
    assert {step for step, state in fresh.states.items() if state == "passed"} == {"verify"}


def test_push_is_not_cached_when_the_registry_lost_the_image(project: Project) -> None:
    """It is asked each time; what it lost is pushed again under the same digest."""
    before = project.run("push")
    before.check(0)
    lost = references(before)["nginx"]
    assert ask("DELETE", lost) == 202
    assert ask("HEAD", lost) == 404
    after = project.run("push")
    after.check(0)
    assert (after.states["push nginx"], after.states["push api"]) == ("passed", "cached")
    assert references(after) == references(before)
    assert ask("HEAD", lost) == 200


def test_images_of_a_changed_commit_differ_by_the_changed_file(project: Project) -> None:
    """The comparison is a command: 0 equal, 1 with each difference, 2 when it cannot tell."""
    before = references(project.run("--image", "nginx", "push"))["nginx"]
    equal = compare(before, before)
    assert (equal.returncode, equal.stdout[:6]) == (0, "equal:")
    with (project.root / "nginx/conf/problem.conf").open("a") as file:
        file.write("# changed\n")
    project.commit()
    run = project.run("--image", "nginx", "push")
    run.check(0)
    different = compare(before, references(run)["nginx"])
    assert different.returncode == 1
    assert "/etc/slipway-nginx/problem.conf: content" in different.stdout
    absent = compare(before, f"{project.registry}/slipway-nginx:absent")
    assert absent.returncode == 2
    assert "is not on the registry" in absent.stderr
    assert "Traceback" not in absent.stderr


def test_one_image_is_verified_with_the_other_from_the_registry(project: Project) -> None:
    """As a thin job does: under the same tag, and refused when it is not there."""
    project.run("--image", "api").complained(2, "slipway-nginx", "not on the registry")
    assert project.run("--image", "nginx", "push").code == 0
    run = project.run("--image", "api")
    run.check(0)
    assert set(run.states) == {"lint", "test api", "build api", "push api", "verify"}
    assert set(references(run)) == {"api"}


def test_two_runs_at_once_do_not_disturb_each_other(project: Project, tmp_path: Path) -> None:
    """Two checkouts, one machine and one cache."""
    host = project.registry.partition("/")[0]
    other = Project.make(tmp_path / "other", project.home, host)
    fresh = [f"--fresh={step}" for step in ("build", "push", "verify")]
    running = [each.start(*fresh) for each in (project, other)]
    for each in running:
        ended = each.wait()
        ended.check(0)
        assert ended.states["verify"] == "passed"


def test_content_outside_a_checkout_is_tagged_by_its_content(
    green: tuple[Project, Ended], registry: str, tmp_path: Path
) -> None:
    """An unpacked archive has no commit; options choose what more it is called."""
    project = Project.make(tmp_path / "archive", green[0].home, registry, git=False)
    run = project.run("--json", "push")
    assert run.code == 0, run.stderr
    assert json.loads(run.stdout) == run.report
    assert run.report["revision"] == ""
    assert all(":content-" in reference for reference in references(run).values())


def test_prune_gives_the_disk_back_and_says_how_much(daemon: Daemon, tmp_path: Path) -> None:
    """What the engine keeps on Docker, and the records of the steps."""
    project = Project.make(tmp_path / "project", tmp_path, "127.0.0.1:1", git=False)
    record = tmp_path / "cache/slipway/steps/a/record.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(b" " * 2_000_000)
    with contextlib.closing(daemon.client()) as api:
        api.tag(TINY, "slipway-cache", "1")
        api.create_volume("kept", labels={"io.slipway.cache": "volume"})
        ended = project.run("prune", "--docker-host", daemon.host)
        assert (ended.code, ended.stderr) == (0, "")
        told = (
            r"Freed [0-9.]+ MB in Docker \(1 images, 1 volumes, BuildKit's cache\) and 2.0 MB in "
        )
        assert re.fullmatch(f"{told}{tmp_path}/cache/slipway\n", ended.stdout)
        assert [row["RepoTags"] for row in api.images()] == [[TINY]]
        assert not api.volumes()["Volumes"]
    assert not record.exists()
