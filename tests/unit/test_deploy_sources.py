"""Which images are deployed: those of reports, or those of a tag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline import images as references
from pipeline import report
from pipeline.config import Settings
from pipeline.deploy import sources
from pipeline.deploy.release import Image, Source
from pipeline.errors import PipelineError, PrerequisiteError, UsageError
from pipeline.registry import Client

from .registry_fakes import FakeRegistry, serving

pytestmark = pytest.mark.anyio

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
API = f"127.0.0.1:5050/slipway-api:v1@{A}"
NGINX = f"127.0.0.1:5050/slipway-nginx:v1@{B}"
SCHEMA = json.loads((Path(report.__file__).parent / "report.schema.json").read_text())


def asked(root: Path, **given: Any) -> Settings:  # noqa: ANN401 - the settings' own types
    """Return the settings of a call in a project's folder."""
    return Settings(root=root, report_dir=root / "reports", **given)


def document(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - what JSON holds
    """Return a report of a run that passed, with changes."""
    images = {"api": API, "nginx": NGINX}
    names = changes.pop("names", tuple(images))
    states = changes.pop("states", {})
    steps = [
        {"name": step, "image": name, "state": "passed", "seconds": 1.0, "cause": ""}
        for step in ("build", "push")
        for name in names
    ]
    for step in steps:
        step["state"] = states.get((step["name"], step["image"]), "passed")
    return {
        "schema_version": 1,
        "project": "slipway",
        "revision": "c0ffee",
        "platform": "linux/amd64",
        "started_at": "2026-01-02T03:04:05.678+00:00",
        "exit_code": 0,
        "seconds": 1.0,
        "cause": "",
        "engine": None,
        "bases": None,
        "steps": steps,
        "images": [
            {"name": name, "reference": images[name], "size_bytes": 1, "base": "b"}
            for name in names
        ],
        "inputs": {},
        **changes,
    }


def write(folder: Path, content: object, name: str = "reports/report.json") -> Path:
    """Write a report."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


async def refused(
    folder: Path, content: object, kind: type[PrerequisiteError | UsageError]
) -> PipelineError:
    """Return the error for a report."""
    write(folder, content)
    with pytest.raises(kind) as caught:
        await sources.find(asked(folder))
    assert caught.value.remedy
    return caught.value


def test_reports_of_these_tests_are_reports() -> None:
    """They have the shape that runs write, or the tests below would say nothing."""
    jsonschema.validate(document(), SCHEMA)
    jsonschema.validate(document(exit_code=1, states={("push", "api"): "failed"}), SCHEMA)


async def test_last_runs_images_are_taken(tmp_path: Path) -> None:
    """By digest, in the order of the pipeline, with where they were found."""
    write(tmp_path, document(names=("nginx", "api")))
    assert await sources.find(asked(tmp_path)) == Source(
        (Image("api", API), Image("nginx", NGINX)), "c0ffee", "reports/report.json"
    )


async def test_what_was_compared_has_no_run_to_look_at(tmp_path: Path) -> None:
    """It was taken from a run, or is of a tag; everything else is checked as of a report."""
    report.write_compared({"api": API, "nginx": NGINX}, "c0ffee", "tag v1", tmp_path)
    file = tmp_path / report.COMPARED_NAME
    found = await sources.find(asked(tmp_path, image_files=(file,)))
    assert found == Source(
        (Image("api", API), Image("nginx", NGINX)), "c0ffee", "tag v1 (deploy.json)"
    )
    report.write_compared({"api": API.partition("@")[0], "nginx": NGINX}, "", "tag v1", tmp_path)
    with pytest.raises(UsageError, match="without a digest"):
        await sources.find(asked(tmp_path, image_files=(file,)))


async def test_reports_of_thin_jobs_are_merged(tmp_path: Path) -> None:
    """Each pushed one image; where the revisions differ, both are told."""
    one = write(tmp_path, document(names=("api",)), "a/report.json")
    two = write(tmp_path, document(names=("nginx",), revision="decaf"), "b/report.json")
    found = await sources.find(asked(tmp_path, image_files=(two, one)))
    assert found.images == (Image("api", API), Image("nginx", NGINX))
    assert found.revision == "api: c0ffee, nginx: decaf"
    assert found.origin == "b/report.json and a/report.json"


async def test_reports_that_agree_may_name_an_image_twice(tmp_path: Path) -> None:
    """And those that do not are refused: nobody knows which one is meant."""
    one = write(tmp_path, document(), "a/report.json")
    other = document()
    two = write(tmp_path, other, "b/report.json")
    settings = asked(tmp_path, image_files=(one, two))
    assert len((await sources.find(settings)).images) == 2
    other["images"][0]["reference"] = API.replace(A, B)
    write(tmp_path, other, "b/report.json")
    with pytest.raises(
        UsageError, match=rf"a/report.json and b/report.json name different images for api: {A}"
    ):
        await sources.find(settings)


async def test_image_that_no_run_pushed_is_named(tmp_path: Path) -> None:
    """A run of one image, or one that stopped before the push."""
    error = await refused(tmp_path, document(names=("api",)), PrerequisiteError)
    assert "The image nginx was not pushed by the run in reports/report.json" in str(error)
    error = await refused(tmp_path, document(names=()), PrerequisiteError)
    assert "The images api and nginx were not pushed" in str(error)


async def test_nothing_ran_yet(tmp_path: Path) -> None:
    """The environment lacks a run; a file that somebody named is a mistake in the call."""
    with pytest.raises(PrerequisiteError, match=r"there is no reports/report\.json") as caught:
        await sources.find(asked(tmp_path))
    assert "python -m pipeline" in caught.value.remedy
    with pytest.raises(UsageError, match=r"There is no report x\.json"):
        await sources.find(asked(tmp_path, image_files=(tmp_path / "x.json",)))
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        await sources.find(asked(tmp_path, image_files=(tmp_path,)))


async def test_report_of_another_project_is_refused(tmp_path: Path) -> None:
    """By the name that it has."""
    error = await refused(tmp_path, document(project="harbour"), UsageError)
    assert "is the report of the project 'harbour', not of slipway" in error.message


@pytest.mark.parametrize("version", [0, 2, "1", None])
async def test_report_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    """Its fields may mean something else."""
    error = await refused(tmp_path, document(schema_version=version), UsageError)
    assert f"(schema_version {version!r}, and this one reads 1)" in error.message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ([], "it has no `project`"),
        ("null", "it has no `project`"),
        ({"project": "slipway", "schema_version": 1}, "it lacks 'steps'"),
        (document(images=None), "its fields are of other kinds"),
        (document(images=["api"]), "its fields are of other kinds"),
        (document(steps=[{}]), "it lacks 'state'"),
        (" " * (9 << 20), "it has more than 8 MiB"),
    ],
)
async def test_what_is_no_report_is_refused(tmp_path: Path, content: object, why: str) -> None:
    """Whatever is in the file, it is a sentence."""
    error = await refused(tmp_path, content, UsageError)
    assert error.message.startswith(f"reports/report.json is no report of a run: {why}")


@pytest.mark.parametrize(
    ("name", "reference", "why"),
    [
        ("api", "127.0.0.1:5050/slipway-api:v1", "without a digest"),
        ("api", "NO/image", "is not an image reference"),
        ("web", API, "it has an image 'web'"),
    ],
)
async def test_image_of_a_report_is_checked(
    tmp_path: Path, name: str, reference: str, why: str
) -> None:
    """What is deployed is what was pushed: by digest, and one of ours."""
    content = document()
    content["images"][0].update(name=name, reference=reference)
    content["steps"][2]["image"] = name
    assert why in (await refused(tmp_path, content, UsageError)).message


async def test_run_that_failed_is_not_deployed(tmp_path: Path) -> None:
    """Though both images were pushed: what failed is told."""
    content = document(exit_code=1)
    content["steps"].append(
        {"name": "verify", "image": None, "state": "failed", "seconds": 1.0, "cause": "no"}
    )
    error = await refused(tmp_path, content, PrerequisiteError)
    assert error.message.endswith("so what it pushed is not deployed: verify (failed)")
    error = await refused(
        tmp_path, document(exit_code=143, cause="Stopped by SIGTERM."), PrerequisiteError
    )
    assert error.message.endswith("is not deployed: Stopped by SIGTERM")


@pytest.mark.parametrize("state", ["failed", "skipped"])
async def test_image_whose_push_did_not_pass_is_refused(tmp_path: Path, state: str) -> None:
    """Whatever the exit code says."""
    content = document(states={("push", "nginx"): state})
    error = await refused(tmp_path, content, PrerequisiteError)
    assert f"names the image nginx, and its push was {state}" in error.message


async def test_push_that_was_cached_counts(tmp_path: Path) -> None:
    """The registry was asked when it was."""
    write(tmp_path, document(states={("push", "api"): "cached", ("push", "nginx"): "cached"}))
    assert len((await sources.find(asked(tmp_path))).images) == 2


async def test_tag_and_reports_exclude_each_other(tmp_path: Path) -> None:
    """Both say which images."""
    settings = asked(tmp_path, image_files=(tmp_path / "a",), deploy_tag="v1")
    with pytest.raises(UsageError, match="Both --images and --tag"):
        await sources.find(settings)


# --- the registry --------------------------------------------------------------------------------


async def anonymous(_settings: Settings, registry: references.Registry) -> Client:
    """Return a client without a login."""
    return Client(registry)


async def test_tag_is_resolved_once_in_the_registry(tmp_path: Path) -> None:
    """From here on both images are digests; the revision is what the images say."""
    with serving() as fake:
        label = {"org.opencontainers.image.revision": "c0ffee"}
        api = fake.put("team/slipway-api", "v1", b"a", **label)
        nginx = fake.put("team/slipway-nginx", "v1", b"n", **label)
        registry = f"127.0.0.1:{fake.port}"
        settings = asked(tmp_path, deploy_tag="v1", registry=f"{registry}/team")
        found = await sources.find(settings, open_client=anonymous)
    assert found == Source(
        (
            Image("api", f"{registry}/team/slipway-api:v1@{api}"),
            Image("nginx", f"{registry}/team/slipway-nginx:v1@{nginx}"),
        ),
        "c0ffee",
        "tag v1",
    )


async def test_tag_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the command that pushes it; an image that says no revision has none."""
    with serving() as fake:
        fake.put("slipway-api", "v1", b"a")
        settings = asked(tmp_path, deploy_tag="v1", registry=str(fake.name))
        with pytest.raises(
            PrerequisiteError, match=r"slipway-nginx:v1 is not on the registry"
        ) as caught:
            await sources.find(settings, open_client=anonymous)
    assert "--image nginx --tag v1" in caught.value.remedy


async def test_registry_that_is_away_or_refuses_is_a_prerequisite(tmp_path: Path) -> None:
    """Nothing has changed yet: exit code 3."""
    with serving() as fake:
        fake.password = "pw"
        settings = asked(tmp_path, deploy_tag="v1", registry=str(fake.name))
        with pytest.raises(PrerequisiteError, match="refuses"):
            await sources.find(settings, open_client=anonymous)
    with pytest.raises(PrerequisiteError, match="does not answer"):
        await sources.find(settings, open_client=anonymous)


def source_of(fake: FakeRegistry) -> Source:
    """Return both images, as they are on a registry."""
    return Source((fake.image("api"), fake.image("nginx")), "r", "reports/report.json")


async def test_images_are_confirmed_by_digest(tmp_path: Path) -> None:
    """A report may be older than the registry's data."""
    with serving() as fake:
        fake.put("slipway-api", "1", b"a")
        digest = fake.put("slipway-nginx", "1", b"n")
        source, settings = source_of(fake), asked(tmp_path)
        await sources.confirm(source, settings, open_client=anonymous)
        del fake.manifests["slipway-nginx", digest]
        with pytest.raises(PrerequisiteError, match=f"{digest}.*is not on the registry") as caught:
            await sources.confirm(source, settings, open_client=anonymous)
    assert "--image nginx push" in caught.value.remedy


async def test_registry_that_only_the_nodes_reach_is_not_asked(tmp_path: Path) -> None:
    """Where they pull from another address; elsewhere it has to answer."""
    with serving() as fake:
        fake.put("slipway-api", "1", b"a")
        fake.put("slipway-nginx", "1", b"n")
        source = source_of(fake)
    with pytest.raises(PrerequisiteError, match="does not answer"):
        await sources.confirm(source, asked(tmp_path), open_client=anonymous)
    settings = asked(tmp_path, pull_from="registry.internal:5000")
    await sources.confirm(source, settings, open_client=anonymous)


async def test_login_is_the_settings(tmp_path: Path) -> None:
    """What the pipeline pushes with is what is asked with."""
    with serving() as fake:
        fake.put("slipway-api", "1", b"a")
        fake.put("slipway-nginx", "1", b"n")
        fake.password = "pw"
        settings = asked(tmp_path, registry_user="u", registry_password="pw")
        await sources.confirm(source_of(fake), settings)
