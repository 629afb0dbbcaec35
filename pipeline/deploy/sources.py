"""Which images to deploy: those that the last run pushed, those of several reports, or of a tag.

Rules:

- An image is named by its digest from here on: a tag is resolved once, in the registry.
- What a run says of itself counts. One that failed has nothing to deploy, though an image of it may
  be in the registry: nobody has seen it work.
- What `deploy diff` has compared is a report as well: what somebody has looked at and agreed to is
  deployed, wherever its tag has gone meanwhile.
- A report of another project, or one that this does not understand, is refused; so are reports
  that name one image with two digests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from pipeline import images as references
from pipeline.config import IMAGES
from pipeline.deploy import registries
from pipeline.deploy.release import Image, Source
from pipeline.errors import PrerequisiteError, UsageError
from pipeline.report import JSON_NAME, PROJECT, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.config import Settings
    from pipeline.deploy.registries import Open
    from pipeline.registry import Client

REPORT_LIMIT = 8 * 1024 * 1024
"""Bytes of a report; one has a few kilobytes."""
REVISION_LABEL = "org.opencontainers.image.revision"
_RUN = "Run `python -m pipeline` first, or name a report with --images or a tag with --tag"
_DONE = ("passed", "cached")


@dataclass(frozen=True, slots=True)
class _Report:
    """What counts of a report, checked.

    Attributes:
        name: Where it was found, as a person reads it.
        revision: The commit.
        images: The images that were pushed.
    """

    name: str
    revision: str
    images: tuple[Image, ...]


async def find(settings: Settings, *, open_client: Open = registries.open_client) -> Source:
    """Return the images to deploy.

    Args:
        settings: What was asked for.
        open_client: Makes the client of the registry that a tag is resolved in.

    Raises:
        UsageError: What was named is no report of ours, or contradicts itself.
        PrerequisiteError: No run has pushed what is needed, or the registry cannot be asked.
    """
    if settings.deploy_tag and settings.image_files:
        raise UsageError(
            "Both --images and --tag say which images to deploy", remedy="Leave one of them out"
        )
    if settings.deploy_tag:
        return await _by_tag(settings, open_client)
    files = settings.image_files or (settings.report_dir / JSON_NAME,)
    named = bool(settings.image_files)
    reports = [await _read(file, _shown(file, settings.root), named=named) for file in files]
    return merged(reports)


async def confirm(
    source: Source, settings: Settings, *, open_client: Open = registries.open_client
) -> None:
    """Return when the registry has each image under its digest.

    Args:
        source: The images.
        settings: What was asked for.
        open_client: Makes the clients.

    Raises:
        PrerequisiteError: An image is missing, or the registry cannot be asked. One that this
            machine does not reach is no error when the nodes pull from another address: they are
            then the ones who will see.
    """
    clients: dict[str, Client] = {}
    for image in source.images:
        reference = image.parsed
        client = clients.get(reference.host)
        if client is None:
            client = await open_client(settings, reference.registry)
            try:
                await client.ping()
            except PrerequisiteError:
                if settings.pull_from:
                    return
                raise
            clients[reference.host] = client
        with registries.beforehand():
            digest = await client.digest(reference)
        if digest != reference.digest:
            raise PrerequisiteError(
                f"{image.reference} ({source.origin}) is not on the registry {reference.host}",
                remedy=f"Push it again: `python -m pipeline --image {image.name} push`",
            )


def merged(reports: Sequence[_Report]) -> Source:
    """Return the images that all reports name together.

    Raises:
        UsageError: Two of them name one image with different digests.
        PrerequisiteError: An image is in none of them.
    """
    found: dict[str, tuple[Image, _Report]] = {}
    for report in reports:
        for image in report.images:
            other = found.setdefault(image.name, (image, report))
            if other[0].digest != image.digest:
                raise UsageError(
                    f"{other[1].name} and {report.name} name different images for {image.name}: "
                    f"{other[0].digest} and {image.digest}",
                    remedy="Leave the older one of them out",
                )
    names = " and ".join(report.name for report in reports)
    missing = [name for name in IMAGES if name not in found]
    if missing:
        raise PrerequisiteError(
            f"The {_plural('image', missing)} {' and '.join(missing)} "
            f"{'was' if len(missing) == 1 else 'were'} not pushed by the "
            f"{_plural('run', reports)} in {names}",
            remedy=f"Run `python -m pipeline --image {missing[0]}`, and name the reports of all "
            "runs with --images",
        )
    ordered = [found[name] for name in IMAGES]
    revisions = {image.name: report.revision for image, report in ordered}
    return Source(
        images=tuple(image for image, _ in ordered),
        revision=_revision(revisions),
        origin=names,
    )


def checked(document: object, name: str) -> _Report:
    """Return what counts of a report.

    Args:
        document: What its JSON holds.
        name: Where it was found, as a person reads it.

    Raises:
        UsageError: It is no report of this project that this understands.
        PrerequisiteError: Its run failed, or did not push what it names.
    """
    if not isinstance(document, dict) or "project" not in document:
        raise _no_report(name, "it has no `project`")
    if document["project"] != PROJECT:
        raise UsageError(
            f"{name} is the report of the project {document['project']!r}, not of {PROJECT}",
            remedy="Name a report of this project with --images",
        )
    if document.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{name} was written by another version of the pipeline (schema_version "
            f"{document.get('schema_version')!r}, and this one reads {SCHEMA_VERSION})",
            remedy="Run `python -m pipeline` of this version, or deploy by --tag",
        )
    try:
        _refuse_failed(document, name)
        images = tuple(
            Image(str(each["name"]), str(each["reference"])) for each in document["images"]
        )
        revision = str(document["revision"])
    except KeyError as error:
        raise _no_report(name, f"it lacks {error}") from error
    except (TypeError, AttributeError) as error:
        raise _no_report(name, "its fields are of other kinds") from error
    for image in images:
        if image.name not in IMAGES:
            raise _no_report(name, f"it has an image {image.name!r}")
        try:
            digest = image.digest
        except UsageError as error:
            raise _no_report(name, error.message) from error
        if not digest:
            raise _no_report(name, f"it names {image.reference} without a digest")
    origin = f"{document['compared']} ({name})" if "compared" in document else name
    return _Report(origin, revision, images)


def _refuse_failed(document: Mapping[str, Any], name: str) -> None:
    if "compared" in document:
        # The run that it was taken from was looked at then; a tag has none.
        return
    failed = [
        f"{step['name']} {step['image'] or ''}".rstrip() + f" ({step['state']})"
        for step in document["steps"]
        if step["state"] not in _DONE
    ]
    pushes = {step["image"]: step["state"] for step in document["steps"] if step["name"] == "push"}
    if document["exit_code"] != 0:
        what = (
            ", ".join(failed)
            or str(document["cause"]).rstrip(". ")
            or f"exit code {document['exit_code']}"
        )
        raise PrerequisiteError(
            f"The run in {name} failed, so what it pushed is not deployed: {what}",
            remedy="Run `python -m pipeline` until it passes, or deploy another version by --tag",
        )
    for image in document["images"]:
        state = pushes.get(image["name"], "not run")
        if state not in _DONE:
            raise PrerequisiteError(
                f"The run in {name} names the image {image['name']}, and its push was {state}",
                remedy=f"Push it: `python -m pipeline --image {image['name']} push`",
            )


async def _read(file: Path, name: str, *, named: bool) -> _Report:
    """Return a report from a file.

    Args:
        file: The file.
        name: What a person calls it.
        named: Whether a person named it; if not, that there is none means that nothing ran yet.
    """
    try:
        async with await anyio.open_file(file, "rb") as opened:
            content = await opened.read(REPORT_LIMIT + 1)
    except FileNotFoundError as error:
        if named:
            raise UsageError(f"There is no report {name}", remedy=_RUN) from error
        raise PrerequisiteError(
            f"No images were pushed from here: there is no {name}", remedy=_RUN
        ) from error
    except OSError as error:
        raise UsageError(
            f"The report {name} cannot be read: {error.strerror}", remedy=_RUN
        ) from error
    if len(content) > REPORT_LIMIT:
        raise _no_report(name, f"it has more than {REPORT_LIMIT >> 20} MiB")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _no_report(name, f"it is not JSON ({error})") from error
    return checked(document, name)


async def _by_tag(settings: Settings, open_client: Open) -> Source:
    registry = references.parse_registry(settings.registry)
    client = await open_client(settings, registry)
    await client.ping()
    images: list[Image] = []
    revisions: dict[str, str] = {}
    for name in IMAGES:
        reference = registry.reference(f"slipway-{name}", settings.deploy_tag)
        with registries.beforehand():
            digest = await client.digest(reference)
            if digest is None:
                raise PrerequisiteError(
                    f"{reference} is not on the registry {registry.address}",
                    remedy=f"Push it (`python -m pipeline --image {name} --tag "
                    f"{settings.deploy_tag}`), or name another tag with --tag",
                )
            pinned = reference.with_digest(digest)
            revisions[name] = (await client.labels(pinned)).get(REVISION_LABEL, "")
        images.append(Image(name, str(pinned)))
    return Source(tuple(images), _revision(revisions), f"tag {settings.deploy_tag}")


def _revision(revisions: Mapping[str, str]) -> str:
    """Return the revision of all images, or those of each where they differ."""
    if len(set(revisions.values())) == 1:
        return next(iter(revisions.values()))
    return ", ".join(f"{name}: {revision or 'unknown'}" for name, revision in revisions.items())


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root) if file.is_relative_to(root) else file)


def _plural(word: str, of: Sequence[object]) -> str:
    return word if len(of) == 1 else f"{word}s"


def _no_report(name: str, why: str) -> UsageError:
    return UsageError(f"{name} is no report of a run: {why}".rstrip(), remedy=_RUN)
