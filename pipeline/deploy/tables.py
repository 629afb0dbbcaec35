"""What `status`, `releases` and `diff` print, as lines.

Pure: this module does no I/O.
"""

from __future__ import annotations

import copy
import difflib
from typing import TYPE_CHECKING

from pipeline.deploy.readiness import event_time, judge
from pipeline.deploy.release import RELEASE, identity
from pipeline.deploy.render import dump

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.deploy.readiness import Snapshot
    from pipeline.deploy.release import Object, Release

EVENTS = 10
"""Warnings that a status shows."""
_OURS = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


def releases(known: Sequence[Release]) -> Iterator[str]:
    """Yield a table of releases, the newest first."""
    head = ("release", "state", "deployed at", "revision", "overlay", "images from")
    rows = [
        (
            str(each.number),
            each.state,
            each.created_at,
            each.revision[:12],
            each.overlay,
            each.origin,
        )
        for each in reversed(known)
    ]
    yield from _table((head, *rows))
    for each in reversed(known):
        if each.reason:
            yield f"release {each.number} failed: {each.reason}"


def status(
    release: Release, snapshot: Snapshot, judged: Sequence[tuple[str, str, str]]
) -> Iterator[str]:
    """Yield what runs, how it is, and what the cluster warns of.

    Args:
        release: The one that is deployed.
        snapshot: What the cluster says of it.
        judged: Name, state and text of each of its objects.
    """
    yield f"release    {release.number} ({release.state}), {release.created_at}"
    yield f"revision   {release.revision or 'not known'}"
    yield f"from       {release.origin}, overlay {release.overlay}"
    for image in release.images:
        yield f"image      {image.name}: {image.pulled(release.pull_from)}"
    yield ""
    yield from _table((("object", "state", ""), *judged))
    warnings = sorted(
        (each for each in snapshot.events if each.get("type") == "Warning"), key=event_time
    )[-EVENTS:]
    if warnings:
        yield ""
        yield "warnings of the last hour:"
        for each in warnings:
            about = each.get("involvedObject") or {}
            yield (
                f"  {event_time(each)}  {about.get('kind')} {about.get('name')}: "
                f"{each.get('reason')}: {str(each.get('message', '')).strip()}"
            )


def judged(release: Release, snapshot: Snapshot) -> tuple[tuple[str, str, str], ...]:
    """Return name, state and text of each object of a release that the snapshot has looked for."""
    rows = []
    for each in map(identity, release.objects):
        found = judge(each, snapshot)
        rows.append((str(each), found.state, found.text))
    return tuple(rows)


def difference(before: Object | None, after: Object | None) -> tuple[str, ...]:
    """Return a unified diff of an object; nothing when applying it changes nothing.

    Args:
        before: As it is; None when it is not there.
        after: As it would be; None when it would be deleted.
    """
    known = after or before
    if known is None:
        return ()
    name = str(identity(known))
    old = _shown(before).splitlines() if before else []
    new = _shown(after).splitlines() if after else []
    return tuple(
        difflib.unified_diff(
            old,
            new,
            fromfile=f"{name} (in the cluster)" if before else "(not in the cluster)",
            tofile=f"{name} (to be)" if after else "(to be deleted)",
            lineterm="",
        )
    )


def _shown(obj: Object) -> str:
    """Return an object without what the cluster adds by itself, and what each release changes."""
    shown = copy.deepcopy(obj)
    shown.pop("status", None)
    metadata = shown["metadata"]
    for key in _OURS:
        metadata.pop(key, None)
    annotations = metadata.get("annotations")
    if annotations:
        annotations.pop(RELEASE, None)
        annotations.pop("deployment.kubernetes.io/revision", None)
        if not annotations:
            metadata.pop("annotations")
    for field in ("data", "stringData"):
        if shown["kind"] == "Secret" and field in shown:
            shown[field] = dict.fromkeys(shown[field], "***")
    return dump([shown])


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    found = [tuple(map(str, row)) for row in rows]
    widths = [max(len(row[column]) for row in found) for column in range(len(found[0]))]
    for row in found:
        yield "  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip()
