"""The jobs, run without Jenkins: as an agent would, and as a person does who pastes one line."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import compare
from tests.embedded import resources

from . import jobs
from .jenkinsfile import Asked, record
from .machines import Site, machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .agent import Ended
    from .groovy import Groovy
    from .jobs import Job
    from .machines import Done

pytestmark = [pytest.mark.groovy, pytest.mark.docker, pytest.mark.network]

IMAGES = {"api-image": {"api"}, "nginx-image": {"nginx"}, "runner": {"api", "nginx"}}
STEPS = {
    "api-image": {"lint", "test", "build", "push"},
    "nginx-image": {"lint", "test", "build", "push"},
    "runner": {"lint", "test", "build", "push", "verify"},
}
TEXTS = {"TAG": "extra", "FRESH": "push"}
"""What is written into the parameters that take any text."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a repository with this project, and machines that have run nothing yet."""
    return Site.make(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def registry() -> str:
    """Return a place in the registry that has nothing."""
    return f"{resources().registry}/test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def seeds(groovy: Groovy, registry: str) -> Sequence[Mapping[str, Job]]:
    """Return the jobs of two seeds, the second of which has another registry."""
    asked = [jobs.Request.seed(REGISTRY=place) for place in (registry, f"{registry}/other")]
    return [recording.jobs for recording in jobs.record(groovy, asked)]


def asked(job: Job, **changed: str) -> Asked:
    """Return a build of a job with the defaults and what is changed."""
    return Asked(job.name, {name: known[0] for name, known in job.parameters.items()} | changed)


def changes(job: Job) -> list[dict[str, str]]:
    """Return nothing changed, and then each parameter alone to each other value that it may have.

    Those with one value are the seed's.
    """
    found: list[dict[str, str]] = [{}]
    for name, known in job.parameters.items():
        others = known[1:] if len(known) > 1 else (TEXTS[name],) if known == ("",) else ()
        found += [{name: value} for value in others]
    return found


def reported(ended: Ended) -> dict[str, Any]:
    """Return the report.json that a build has archived."""
    found: dict[str, Any] = json.loads(ended.archived()["reports/report.json"])
    return found


def empty_buildkit() -> None:
    """Remove what BuildKit has kept, where nobody but these tests has anything there."""
    if os.environ.get("CI") == "true":
        prune = ["docker", "buildx", "prune", "--builder", "default", "--all", "--force"]
        subprocess.run(prune, check=True, capture_output=True, timeout=120)


def references(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the images of a report, by their names."""
    return {image["name"]: image["reference"] for image in report["images"]}


@pytest.mark.parametrize("name", IMAGES)
def test_job_does_what_its_laptop_line_does(
    name: str,
    groovy: Groovy,
    seeds: Sequence[Mapping[str, Job]],
    site: Site,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the defaults, and with each parameter changed alone: exit code, steps and images."""
    usual, elsewhere = (seed[name] for seed in seeds)
    cases = [(usual, change) for change in changes(usual)] + [(elsewhere, {})]
    assert len(cases) > 6
    recording = record(groovy, [asked(job, **change) for job, change in cases])
    paste = Lock()

    def both(number: int) -> tuple[Ended, Done]:
        job, change = cases[number]
        ended = site.agent(f"{name}-{number}").build(recording.builds[number])
        # A person has one checkout.
        with paste:
            variables = {f"PIPELINE_{key}": value for key, value in change.items()}
            return ended, site.paste(job.laptop, site.folder / "laptop", **variables)

    # The first makes what the others find in the cache.
    found = [both(0)]
    with ThreadPoolExecutor(2) as pool:
        found += pool.map(both, range(1, len(cases)))
    assert found[0][0].code == 0, found[0][0].log
    for (_, change), (ended, done) in zip(cases, found, strict=True):
        # What a machine may lack, and with it the other side.
        lacking = change in ({"BASES": "registry"}, {"ENGINE": "dagger"})
        assert ended.code == 0 or (lacking and ended.code == 3), f"{change}: {ended.log}"
        # `make` has an exit code of its own for what fails in it.
        assert done.code in ({0} if ended.code == 0 else {2, 3}), f"{change}: {done.out}"
        ours, theirs = reported(ended), done.report
        assert (ours["exit_code"], ours["cause"]) == (theirs["exit_code"], theirs["cause"]), change
        assert ended.left == []
        if ended.code == 0:
            assert {step["name"] for step in ours["steps"]} == STEPS[name]
            assert set(references(ours)) == set(references(theirs)) == IMAGES[name]
        for image, reference in references(ours).items():
            assert compare.main([reference, references(theirs)[image]]) == 0, capsys.readouterr()


def test_images_from_empty_caches_are_equal(
    groovy: Groovy,
    seeds: Sequence[Mapping[str, Job]],
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each side has its own caches, which have nothing, and a place of its own in the registry.

    BuildKit's is one for all of a Docker Engine. It is emptied where the engine is nobody's but the
    continuous integration's; elsewhere it is somebody's, and stays.
    """
    here, there = (seed["api-image"] for seed in seeds)
    (build,) = record(groovy, [asked(here, TAG="alone", FRESH="all")]).builds
    sides = [site.fork(tmp_path / side) for side in ("jenkins", "laptop")]
    for side in sides:
        side.environ = machine(side.folder)
    empty_buildkit()
    ended = sides[0].agent("agent").build(build)
    empty_buildkit()
    laptop = sides[1].folder / "laptop"
    done = sides[1].paste(there.laptop, laptop, PIPELINE_TAG="alone", PIPELINE_FRESH="all")
    assert (ended.code, done.code) == (0, 0), f"{ended.log}\n{done.out}"
    for report in (reported(ended), done.report):
        assert {step["state"] for step in report["steps"]} == {"passed"}
    ours, theirs = references(reported(ended))["api"], references(done.report)["api"]
    assert ours.partition("@")[0] != theirs.partition("@")[0]
    assert compare.main([ours, theirs]) == 0, capsys.readouterr().out
