"""The releases of a namespace, recorded in the cluster, and the lock that one deploy holds.

Rules:

- A release is a ConfigMap ``slipway-release-N`` in the namespace that it is deployed to: its
  manifests, packed, and its state as a label. It holds no secret: the pull secret is made anew by
  each deploy, and manifests with one in them are refused.
- The last `KEPT` are kept, and whatever is deployed, and what a rollback goes back to. The others
  go when a release has ended and no object of theirs is left: after it was deployed, or taken back.
- One deploy at a time: it holds the Lease ``slipway-deploy`` and renews it. A deploy that was
  killed renews it no more; the next one takes the Lease over when it has watched it for `TERM`
  without seeing it renewed. Nobody's clock is compared with another's.
"""

from __future__ import annotations

import base64
import gzip
import os
import secrets
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio

from pipeline.deploy.release import (
    MANAGED_BY,
    PART_OF,
    RELEASE,
    Object,
    Release,
    from_json,
    to_json,
)
from pipeline.deploy.wait import Time
from pipeline.errors import PrerequisiteError, StepError
from pipeline.kube import MANAGER, Away, Conflict, Kind, Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pipeline.kube import Kube

KEPT = 10
"""Releases that are remembered."""
TERM = 15.0
"""Seconds without a renewal after which a deploy is taken for dead."""
RENEWAL = 3.0
GIVE_BACK_LIMIT = 5.0

STATE = "slipway.io/state"
CONFIG_MAP = Kind("", "ConfigMap")
LEASE = Kind("coordination.k8s.io", "Lease")
LEASE_NAME = "slipway-deploy"

_PREFIX = "slipway-release-"
_KEY = "release.json.gz"
_RECORD = "slipway.io/record"
_SELECTOR = f"{_RECORD}=release"


async def load(kube: Kube, namespace: str) -> tuple[Release, ...]:
    """Return what is recorded, the oldest release first.

    Raises:
        StepError: A record cannot be read.
        Refused: Records may not be read.
    """
    found = [_unpacked(each) for each in await kube.list(CONFIG_MAP, namespace, labels=_SELECTOR)]
    return tuple(sorted(found, key=lambda release: release.number))


async def save(kube: Kube, release: Release) -> None:
    """Record a release, in the place of an earlier state of the same one.

    Raises:
        Refused: It may not be written.
    """
    await kube.apply(packed(release), force=True)


async def forget(kube: Kube, releases: Sequence[Release]) -> None:
    """Remove the records of releases."""
    for each in releases:
        await kube.delete(CONFIG_MAP, f"{_PREFIX}{each.number}", each.namespace)


def packed(release: Release) -> Object:
    """Return the object that records a release."""
    # Without the time that gzip would write: the same release is the same object.
    content = gzip.compress(to_json(release).encode(), mtime=0)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{_PREFIX}{release.number}",
            "namespace": release.namespace,
            "labels": {
                MANAGED_BY: MANAGER,
                PART_OF: "slipway",
                _RECORD: "release",
                STATE: release.state,
            },
            "annotations": {RELEASE: str(release.number)},
        },
        "binaryData": {_KEY: base64.b64encode(content).decode()},
    }


def deployed(releases: Sequence[Release]) -> Release | None:
    """Return the release that runs; None when none was ever deployed."""
    return next((each for each in reversed(releases) if each.state == "deployed"), None)


def before(releases: Sequence[Release], number: int) -> Release | None:
    """Return the last release before another one that was deployed once; None when none was."""
    earlier = [each for each in releases if each.number < number and each.state == "superseded"]
    return earlier[-1] if earlier else None


def outdated(releases: Sequence[Release]) -> tuple[Release, ...]:
    """Return the releases to forget: the oldest beyond `KEPT`.

    Never the one that runs, nor the one before it: after many failures there would be no way back.
    """
    running = deployed(releases)
    back = before(releases, running.number if running else next_number(releases))
    spare = [each for each in releases if each.state != "deployed" and each != back]
    return tuple(spare[: max(len(releases) - KEPT, 0)])


def next_number(releases: Sequence[Release]) -> int:
    """Return the number of the release to come."""
    return max((each.number for each in releases), default=0) + 1


@asynccontextmanager
async def lock(
    kube: Kube,
    namespace: str,
    say: Callable[[str], None],
    *,
    tempo: Time | None = None,
    renewal: float = RENEWAL,
) -> AsyncIterator[None]:
    """Hold the only deploy to a namespace; on leaving, in whatever way, it is given back.

    Args:
        kube: The cluster.
        namespace: What is deployed to; it exists.
        say: Told when another deploy seems to be under way.
        tempo: Where time comes from while another one is watched.
        renewal: Seconds, of real time, between two renewals.

    Raises:
        PrerequisiteError: Another deploy is under way.
        StepError: Another one has taken over within.
    """
    tempo = tempo or Time()
    holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
    await _take(kube, namespace, holder, say, tempo)
    lost: list[str] = []
    failed: list[Exception] = []
    try:
        async with anyio.create_task_group() as group:

            async def renew() -> None:
                while not lost:
                    await anyio.sleep(renewal)
                    other = await _renewed(kube, namespace, holder)
                    if other is not None:
                        lost.append(other)
                        group.cancel_scope.cancel()

            group.start_soon(renew)
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group
                failed.append(error)
            group.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(GIVE_BACK_LIMIT, shield=True):
            await _give_back(kube, namespace, holder)
    if failed:
        raise failed[0]
    if lost:
        raise StepError(
            f"Another deploy ({lost[0]}) has taken over",
            remedy="See what it does: `python -m pipeline deploy status`",
        )


async def _take(
    kube: Kube, namespace: str, holder: str, say: Callable[[str], None], tempo: Time
) -> None:
    seen: tuple[str, str] | None = None
    still = 0.0
    while True:
        held = await kube.get(LEASE, LEASE_NAME, namespace)
        spec = (held or {}).get("spec") or {}
        other = str(spec.get("holderIdentity") or "")
        if held is not None and other and other != holder and still < TERM:
            now = (other, str(spec.get("renewTime")))
            if seen is not None and now != seen:
                raise PrerequisiteError(
                    f"Another deploy to {namespace} is under way ({other})",
                    remedy="Wait for its end, then run it again",
                )
            if seen is None:
                say(f"Another deploy ({other}) was here: seeing for {TERM:.0f} s whether it lives")
            seen = now
            await tempo.sleep(1.0)
            # Looks that were answered count, and not the time: the other one could not renew
            # either while the API server was away.
            still += 1.0
            continue
        wanted = _lease(namespace, holder)
        try:
            if held is None:
                await kube.create(wanted)
            else:
                wanted["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"]
                await kube.replace(wanted)
        except Conflict:
            # Somebody was faster, or it was us and the answer got lost.
            seen, still = None, 0.0
            continue
        except Refused as error:
            if held is None or error.status != HTTPStatus.NOT_FOUND:
                raise
            # It was given back meanwhile.
            continue
        return


async def _renewed(kube: Kube, namespace: str, holder: str) -> str | None:
    """Renew the Lease; return who has it, when that is somebody else."""
    try:
        held = await kube.get(LEASE, LEASE_NAME, namespace)
        other = str(((held or {}).get("spec") or {}).get("holderIdentity") or "nobody")
        if held is None or other != holder:
            return other
        wanted = _lease(namespace, holder)
        wanted["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"]
        await kube.replace(wanted)
    except (Refused, Away):
        # The next round tells: what was to be done fails by itself when nobody answers, or refuses.
        return None
    return None


async def _give_back(kube: Kube, namespace: str, holder: str) -> None:
    try:
        held = await kube.get(LEASE, LEASE_NAME, namespace)
        if held is not None and (held.get("spec") or {}).get("holderIdentity") == holder:
            version = str(held["metadata"]["resourceVersion"])
            await kube.delete(LEASE, LEASE_NAME, namespace, version=version)
    except StepError:
        # It runs out by itself.
        return


def _lease(namespace: str, holder: str) -> Object:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": LEASE_NAME,
            "namespace": namespace,
            "labels": {MANAGED_BY: MANAGER, PART_OF: "slipway"},
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(TERM),
            "renewTime": now,
        },
    }


def _unpacked(obj: Object) -> Release:
    name = obj["metadata"]["name"]
    try:
        content = gzip.decompress(base64.b64decode(obj["binaryData"][_KEY]))
        release = from_json(content)
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise StepError(
            f"The record {name} in {obj['metadata'].get('namespace')} cannot be read: {error}",
            remedy=f"Remove it: `kubectl -n {obj['metadata'].get('namespace')} delete configmap "
            f"{name}`",
        ) from error
    return replace(release, namespace=obj["metadata"].get("namespace", release.namespace))
