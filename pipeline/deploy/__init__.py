"""Bring pushed images to Kubernetes, wait until they serve and scale, take back what does not.

    release.py    a release as a value; its order     readiness.py  is an object ready, and why not
    sources.py    which images                        wait.py       until all are
    render.py     an overlay → objects                smoke.py      do they answer
    preflight.py  does the cluster take them          records.py    the releases, and the lock
    rollout.py    apply, wait, take back              archive.py    a release as a file
    tables.py     what is printed

This face has one coroutine for each command. They return the exit code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anyio import to_thread

from pipeline.cluster import kubectl
from pipeline.config import prepare_report_dir, unwritable
from pipeline.deploy import archive, preflight, records, registries, sources, tables
from pipeline.deploy.release import Release, Source, identity, pruned, pull_secret
from pipeline.deploy.render import dump, find_overlay, is_production, render
from pipeline.deploy.rollout import Rollout, Screen, chosen, has_pull_secret
from pipeline.deploy.wait import Time, observe
from pipeline.errors import ExitCode, PrerequisiteError, UsageError
from pipeline.images import parse_registry
from pipeline.kube import NAMESPACE, Conflict, Kind, Refused, connect
from pipeline.report import write_compared
from pipeline.setup import command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.config import Settings
    from pipeline.deploy.release import Object
    from pipeline.kube import Kube
    from pipeline.registry import Login
    from pipeline.setup.command import Run


class Console(Screen, Protocol):
    """What a person reads."""

    def say(self, text: str) -> None:
        """Print a line of the result."""


class Connect(Protocol):
    """Reaches a cluster."""

    async def __call__(self, context: str, *, say: Callable[[str], None]) -> Kube:
        """Return the cluster of a context, which has answered."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the commands reach for outside, so that a test can give them something else.

    Attributes:
        connect: Reaches clusters.
        kubectl: Finds the program.
        run: Runs it.
        open_registry: Opens registries.
        tempo: Where time comes from.
    """

    connect: Connect = connect
    kubectl: Callable[[], Path] = kubectl.find
    run: Run = command.run
    open_registry: registries.Open = registries.open_client
    tempo: Time = field(default_factory=Time)


REAL = Tools()


async def apply(settings: Settings, console: Console, *, tools: Tools = REAL) -> int:
    """Deploy: apply, wait, try, and take back when it fails.

    Args:
        settings: What was asked for.
        console: Told how it gets on, and the result.
        tools: What it reaches for outside.

    Raises:
        UsageError: The call is wrong; nothing was changed.
        PrerequisiteError: Something is missing; nothing was changed.
        StepError: It failed, and the error says what runs now.
    """
    release = await _wanted(settings, tools)
    _agreed(settings, release.overlay)
    kube = await tools.connect(settings.context, say=console.progress)
    console.progress(
        f"cluster    {kube.context} ({kube.server}), Kubernetes {kube.version.removeprefix('v')}"
    )
    of = f", revision {release.revision}" if release.revision else ""
    console.progress(f"images     {release.origin}{of}")
    if not await preflight.may_change_namespace(kube, release.namespace):
        console.progress(f"The namespace {release.namespace} is not ours to change: it stays as is")
        release = release.without_namespace()
    logins = await _logins(settings, release)
    await preflight.check(
        kube, release.objects, release.namespace, secret=bool(logins), tempo=tools.tempo
    )
    if settings.archive is not None:
        images = await archive.push(
            settings.archive,
            release,
            settings,
            console.progress,
            open_client=tools.open_registry,
        )
        release = release.with_images(images, settings.pull_from)
    else:
        await _pushed(settings, release, tools)
    rollout = _rollout(settings, tools, kube, console, release.namespace)
    done = await replace(rollout, secret=_secret(release, logins)).deploy(release)
    console.say(f"Release {done.number} is deployed to {done.namespace} ({kube.context})")
    return ExitCode.DONE


async def show(settings: Settings, console: Console, *, tools: Tools = REAL) -> int:
    """Print what would be applied; asks no cluster."""
    release = _placed(await _wanted(settings, tools), settings)
    console.say(dump(release.marked()).rstrip())
    return ExitCode.DONE


async def diff(settings: Settings, console: Console, *, tools: Tools = REAL) -> int:
    """Print what a deploy would change, by a dry run on the server; write which images those are.

    Raises:
        UsageError: The folder of the reports cannot be written.
    """
    release = _placed(await _wanted(settings, tools), settings)
    if settings.archive is None:
        _remember(release, settings.report_dir)
    kube = await tools.connect(settings.context, say=console.progress)
    await preflight.check_version(kube)
    known = await _known(kube, release.namespace)
    if not await preflight.may_change_namespace(kube, release.namespace):
        release = release.without_namespace()
    changed = False
    there = await kube.get(NAMESPACE, release.namespace) is not None
    logins = await _logins(settings, release)
    secret = bool(logins) or await has_pull_secret(kube, release.namespace)
    await preflight.check_rights(kube, preflight.trials(release.objects, there=there))
    for obj in release.marked(pull_secret=secret):
        each = identity(obj)
        live = await kube.get(Kind.of(obj), each.name, each.namespace)
        try:
            # In a namespace that is not there yet, nothing can be tried.
            after = await kube.apply(obj, dry_run=True) if there else obj
        except Conflict as error:
            changed = True
            for path, owner in error.fields:
                console.say(f"! {each}: {path} belongs to {owner}, who would not give it up")
            continue
        for line in tables.difference(live, after):
            changed = True
            console.say(line)
    everything = [obj for record in known for obj in record.objects]
    for obj in pruned(everything, release.objects):
        each = identity(obj)
        live = await kube.get(Kind.of(obj), each.name, each.namespace)
        for line in tables.difference(live, None):
            changed = True
            console.say(line)
    if not changed:
        console.say("Nothing would change")
    return ExitCode.DONE


async def status(settings: Settings, console: Console, *, tools: Tools = REAL) -> int:
    """Print what runs; the exit code is 1 when not all of it is ready."""
    kube = await tools.connect(settings.context, say=console.progress)
    known = await _known(kube, settings.namespace)
    current = records.deployed(known)
    for each in known:
        if each.state == "pending":
            console.say(f"Release {each.number} is being deployed, or its deploy was interrupted")
    if current is None:
        console.say(f"Nothing is deployed to {settings.namespace} ({kube.context})")
        return ExitCode.STEP_FAILED
    await preflight.check_rights(kube, preflight.looks(current.objects, settings.namespace))
    snapshot = await observe(kube, [identity(obj) for obj in current.objects])
    rows = tables.judged(current, snapshot)
    for line in tables.status(current, snapshot, rows):
        console.say(line)
    ready = all(state == "ready" for _, state, _ in rows)
    return ExitCode.DONE if ready else ExitCode.STEP_FAILED


async def releases(settings: Settings, console: Console, *, tools: Tools = REAL) -> int:
    """Print the releases that are recorded."""
    kube = await tools.connect(settings.context, say=console.progress)
    known = await _known(kube, settings.namespace)
    if not known:
        console.say(f"Nothing was ever deployed to {settings.namespace} ({kube.context})")
    else:
        for line in tables.releases(known):
            console.say(line)
    return ExitCode.DONE


async def roll_back(
    settings: Settings, console: Console, number: int | None, *, tools: Tools = REAL
) -> int:
    """Bring back a release that ran before.

    Args:
        settings: What was asked for.
        console: Told how it gets on, and the result.
        number: Which; None means the one before the one that runs.
        tools: What it reaches for outside.
    """
    kube = await tools.connect(settings.context, say=console.progress)
    vetted: list[tuple[Release, Object | None]] = []

    async def vet(target: Release) -> Object | None:
        """Return the pull secret of a release that may be brought back, having asked just once."""
        if not vetted or vetted[-1][0] != target:
            _agreed(settings, target.overlay)
            logins = await _logins(settings, target)
            await preflight.check(
                kube, target.objects, settings.namespace, secret=bool(logins), tempo=tools.tempo
            )
            await _pushed(replace(settings, pull_from=target.pull_from), target, tools)
            vetted.append((target, _secret(target, logins)))
        return vetted[-1][1]

    # Without the lock, so that a mistake changes nothing; what counts is what it is under the lock.
    await vet(chosen(await _known(kube, settings.namespace), number))
    done = await _rollout(settings, tools, kube, console).roll_back(number, vet)
    console.say(
        f"Release {vetted[-1][0].number} is deployed again, as release {done.number} "
        f"({kube.context})"
    )
    return ExitCode.DONE


async def remove(settings: Settings, console: Console, *, tools: Tools = REAL) -> int:
    """Delete everything that was deployed, and the records of it."""
    kube = await tools.connect(settings.context, say=console.progress)
    known = await _known(kube, settings.namespace)
    for each in known:
        _agreed(settings, each.overlay)
    if known:
        everything = [obj for each in known for obj in each.objects]
        await preflight.check_rights(kube, preflight.removals(everything, settings.namespace))
    await _rollout(settings, tools, kube, console).remove()
    console.say(f"Nothing is left of it in {settings.namespace} ({kube.context})")
    return ExitCode.DONE


async def export(settings: Settings, console: Console, file: Path, *, tools: Tools = REAL) -> int:
    """Write the release that runs, its manifests and its images into one file."""
    kube = await tools.connect(settings.context, say=console.progress)
    current = records.deployed(await _known(kube, settings.namespace))
    if current is None:
        raise PrerequisiteError(
            f"Nothing is deployed to {settings.namespace} ({kube.context}), so there is nothing to "
            "export",
            remedy="Deploy first: `python -m pipeline deploy`",
        )
    await archive.write(current, settings, file, console.progress, open_client=tools.open_registry)
    console.say(f"Release {current.number} is in {file}")
    return ExitCode.DONE


async def _wanted(settings: Settings, tools: Tools) -> Release:
    """Return the release that the settings ask for, without a number."""
    if settings.archive is not None:
        return await _from_archive(settings, settings.archive)
    overlay = find_overlay(settings.root, settings.overlay)
    source = await sources.find(settings, open_client=tools.open_registry)
    objects = await render(
        overlay,
        settings.namespace,
        source.images,
        pull_from=settings.pull_from,
        kubectl=await to_thread.run_sync(tools.kubectl),
        run=tools.run,
    )
    return Release(
        images=source.images,
        objects=objects,
        namespace=settings.namespace,
        overlay=_shown(settings),
        revision=source.revision,
        origin=source.origin,
        pull_from=settings.pull_from,
    )


async def _known(kube: Kube, namespace: str) -> tuple[Release, ...]:
    """Return what is recorded.

    Raises:
        PrerequisiteError: We may not see it.
    """
    try:
        return await records.load(kube, namespace)
    except Refused as error:
        raise PrerequisiteError(
            f"The cluster of the context {kube.context} does not let us see the releases in "
            f"{namespace} ({error.status} {error.reason})",
            remedy="Ask for the right to list its config maps, or use a context that has it "
            "(--context)",
            evidence=error.evidence,
        ) from error


async def _from_archive(settings: Settings, file: Path) -> Release:
    if settings.image_files or settings.deploy_tag:
        raise UsageError(
            f"--from {file} has images of its own, and others were named as well",
            remedy="Leave --images and --tag out",
        )
    release = replace(await archive.read(file), origin=f"restored from {file.name}")
    return release.in_namespace(settings.namespace) if "namespace" in settings.given else release


def _placed(release: Release, settings: Settings) -> Release:
    """Return a release with its images where a restoration would push them; any other as it is."""
    if settings.archive is None:
        return release
    registry = parse_registry(settings.registry)
    return release.with_images(
        [each.moved(registry) for each in release.images], settings.pull_from
    )


def _remember(release: Release, folder: Path) -> None:
    """Write which images are compared, before the tag that named them may be moved."""
    prepare_report_dir(folder)
    images = {each.name: each.reference for each in release.images}
    try:
        write_compared(images, release.revision, release.origin, folder)
    except OSError as error:
        raise unwritable(folder, error) from error


def _agreed(settings: Settings, overlay: str) -> None:
    if is_production(overlay) and not settings.yes:
        raise UsageError(
            "This changes what runs in production (the overlay is named so)",
            remedy="Add --yes if that is meant; `deploy diff` shows what would change",
        )


async def _pushed(settings: Settings, release: Release, tools: Tools) -> None:
    """Return when the registries have the images of a release; see `sources.confirm`."""
    found = Source(release.images, release.revision, release.origin)
    await sources.confirm(found, settings, open_client=tools.open_registry)


async def _logins(settings: Settings, release: Release) -> dict[str, Login]:
    """Return what logins are known at the registries that have the images, or are to have them."""
    wanted = [image.parsed.registry for image in release.images]
    if settings.archive is not None:
        wanted = [parse_registry(settings.registry)]
    found = {
        address: await registries.login(settings, registry)
        for address, registry in {each.address: each for each in wanted}.items()
    }
    return {address: login for address, login in found.items() if login is not None}


def _secret(release: Release, logins: Mapping[str, Login]) -> Object | None:
    """Return the pull secret of a release; None when no login is known."""
    if not logins:
        return None
    if release.pull_from:
        # The logins are for where images are pushed to, and the nodes have one name for all of it.
        logins = {release.pull_from: next(iter(logins.values()))}
    return pull_secret(release.namespace, logins)


def _rollout(
    settings: Settings, tools: Tools, kube: Kube, console: Console, namespace: str = ""
) -> Rollout:
    return Rollout(
        kube=kube,
        namespace=namespace or settings.namespace,
        screen=console,
        limit=settings.timeout,
        tempo=tools.tempo,
    )


def _shown(settings: Settings) -> str:
    """Return how an overlay is recorded: by its name, or its path within the project."""
    path = Path(settings.overlay)
    inside = path.is_absolute() and path.is_relative_to(settings.root)
    return str(path.relative_to(settings.root)) if inside else settings.overlay
