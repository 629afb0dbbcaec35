"""The life of a release in a cluster: applied, waited for, tried, and taken back when it fails.

Theory of operation: a release is recorded as pending before the first object is applied, and as
deployed after the smoke test. So whatever happens in between, a kill too, leaves a record of what
was under way; the next deploy finds it, calls it failed, and knows all objects that it may have
left. Everything that is done here can be done again.

Rules:

- Nothing is applied before all of it passed a rehearsal, a dry run on the server: a conflict with
  another manager of a field, a refusal or a mistake is told while nothing has changed.
- Objects are applied in the order of the release, and deleted in the reverse of it.
- What earlier releases had and this one lacks is deleted when this one is ready, if it still bears
  our label.
- A release that fails is taken back: the one before is applied again and waited for, and whatever
  it lacks is deleted. Where there is none, what was applied is deleted; the namespace stays, with
  the record of what failed.
- A deploy that is told to stop stops where it is. It takes nothing back: whoever stops it has
  another plan.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from pipeline.deploy import records, wait
from pipeline.deploy.release import (
    MANAGED_BY,
    PULL_SECRET,
    Identity,
    identity,
    ordered,
    pruned,
    pull_secret,
)
from pipeline.deploy.smoke import smoke
from pipeline.errors import PipelineError, StepError, UsageError
from pipeline.kube import MANAGER, NAMESPACE, Away, Conflict, Kind, Refused, together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from pipeline.console import Row
    from pipeline.deploy.release import Object, Release
    from pipeline.deploy.wait import Time
    from pipeline.kube import Kube

SECRET = Kind("", "Secret")
MADE = "slipway.io/made"
"""The annotation of a namespace that a deploy of ours made, so that `remove` may remove it."""
MAKER = f"{MANAGER}-namespace"
"""Who owns that annotation, as a field manager."""
LEAST = 60.0
"""Seconds that taking back and deleting have at the least, however short the limit of a release:
pods end in peace, for up to 20 s, and those of the release before may have to start."""
INTERRUPTED = "its deploy was interrupted"

_TRACES = frozenset({Kind("", "Event"), Kind("events.k8s.io", "Event"), Kind("", "Endpoints")})
"""Kinds that are in a namespace because of others: what happened to them, and where they are."""
_EVERYWHERE = frozenset(
    {
        (Kind("", "ConfigMap"), "kube-root-ca.crt"),
        (Kind("", "ConfigMap"), "openshift-service-ca.crt"),
        (Kind("", "ConfigMap"), "istio-ca-root-cert"),
        (Kind("", "ServiceAccount"), "default"),
    }
)
"""What is put into each namespace."""


class Screen(Protocol):
    """What a person reads, as far as a rollout tells."""

    def progress(self, text: str) -> None:
        """Tell how it gets on."""

    def watch(self, rows: Sequence[Row]) -> None:
        """Tell how far the things are that are waited for."""

    def watched(self) -> None:
        """End the waiting."""


class Vet(Protocol):
    """Sees whether a release can be brought back."""

    async def __call__(self, target: Release, /) -> Object | None:
        """Return its pull secret; None when no login is known.

        Raises:
            PipelineError: It cannot be brought back.
        """


class RolloutFailed(StepError):
    """A release failed, and the error says what runs now."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Changes what runs in one namespace of one cluster.

    Attributes:
        kube: The cluster.
        namespace: Where.
        screen: Told how it gets on.
        limit: Seconds that a release may take to be ready.
        secret: The pull secret to make; None when no login is known.
        tempo: Where time comes from.
        today: Says what time it is.
    """

    kube: Kube
    namespace: str
    screen: Screen
    limit: float
    secret: Object | None = field(default=None, repr=False)
    tempo: Time = field(default_factory=wait.Time)
    today: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def deploy(self, release: Release) -> Release:
        """Bring a release to the cluster and return it as it is recorded.

        Args:
            release: What is to run; its number is given to it here.

        Raises:
            RolloutFailed: It failed; the one before runs, or nothing.
            Conflict: Somebody else has fields of its objects; nothing was changed.
            Refused: The cluster refuses objects of it; nothing was changed.
            PrerequisiteError: Another deploy is under way; nothing was changed.
            Away: The cluster has not answered for long; the release is recorded as pending.
        """

        async def pick(_known: Sequence[Release]) -> tuple[Release, Object | None]:
            return release, self.secret

        return await self._deploy(pick)

    async def roll_back(self, number: int | None, vet: Vet | None = None) -> Release:
        """Bring back a release that was deployed once, under a new number.

        Args:
            number: Which one; None means the one before the one that runs when it is our turn.
            vet: Returns the pull secret of the release that was picked, or raises why that cannot
                be brought back; nothing was changed then.

        Raises:
            UsageError: There is none of that number, or it never was deployed.
            Others: As for `deploy`.
        """

        async def pick(known: Sequence[Release]) -> tuple[Release, Object | None]:
            target = chosen(known, number)
            return target, self.secret if vet is None else await vet(target)

        return await self._deploy(pick)

    async def _deploy(
        self, pick: Callable[[Sequence[Release]], Awaitable[tuple[Release, Object | None]]]
    ) -> Release:
        """Bring what is picked under the lock, with its pull secret, to the cluster."""
        fresh, ours = await self._ensure_namespace()
        async with records.lock(self.kube, self.namespace, self.screen.progress, tempo=self.tempo):
            known = await self._settled()
            try:
                wanted, secret = await pick(known)
                release = replace(
                    wanted,
                    number=records.next_number(known),
                    created_at=self.today().isoformat(timespec="seconds"),
                    state="pending",
                    reason="",
                    made_namespace=ours or any(each.made_namespace for each in known),
                )
                ready = replace(self, secret=secret)
                await ready._rehearse(release)  # noqa: SLF001 - it is this one, with the secret
            except PipelineError:
                if fresh and not known:
                    await self.kube.delete(NAMESPACE, self.namespace)
                raise
            return await ready._change(release, known)  # noqa: SLF001 - the same

    async def remove(self) -> None:
        """Delete everything that a release made, and the records; the namespace if we made it.

        Raises:
            StepError: Something does not go.
            PrerequisiteError: A deploy is under way.
        """
        found = await self.kube.get(NAMESPACE, self.namespace)
        if found is None:
            self.screen.progress(f"There is no namespace {self.namespace}: nothing is deployed")
            return
        async with records.lock(self.kube, self.namespace, self.screen.progress, tempo=self.tempo):
            known = await records.load(self.kube, self.namespace)
            made = _is_made(found) or any(each.made_namespace for each in known)
            if not known and not made:
                self.screen.progress(f"Nothing is deployed to {self.namespace}")
                return
            await self._delete(pruned(_everything(known), ()))
            # Who made none may not even be allowed to look for one.
            if await has_pull_secret(self.kube, self.namespace):
                await self._delete([pull_secret(self.namespace, {})])
            await records.forget(self.kube, known)
        if made and not await self._foreign():
            await self.kube.delete(NAMESPACE, self.namespace)
            gone = Identity("", "Namespace", "", self.namespace)
            await wait.until_gone(self.kube, [gone], limit=self.limit, tempo=self.tempo)
            self.screen.progress(f"Deleted the namespace {self.namespace}")

    async def _change(self, release: Release, known: Sequence[Release]) -> Release:
        """Bring a release that was rehearsed, or take it back."""
        current = records.deployed(known)
        await records.save(self.kube, release)
        try:
            return await self._bring(release, current, known)
        except Away as error:
            raise Away(
                f"{error.message} while release {release.number} was being deployed",
                remedy="It is recorded as pending: when the cluster is up, run the same again",
                evidence=error.evidence,
            ) from error
        except StepError as error:
            raise await self._take_back(release, current, known, error) from error

    async def _bring(
        self, release: Release, current: Release | None, known: Sequence[Release]
    ) -> Release:
        await self._apply(release)
        await self._wait(release)
        await self._delete(pruned(_everything(known), release.objects))
        self.screen.progress("Asking for the list of containers through Nginx")
        pods = await smoke(self.kube, release.objects, self.namespace, tempo=self.tempo)
        self.screen.progress(f"Nginx lists the pods that were deployed: {', '.join(pods)}")
        done = release.with_state("deployed")
        # In this order: were it stopped in between, two would be deployed and the later one count.
        await records.save(self.kube, done)
        if current is not None:
            await records.save(self.kube, current.with_state("superseded"))
        after = [
            each.with_state("superseded") if current and each.number == current.number else each
            for each in known
        ]
        await records.forget(self.kube, records.outdated([*after, done]))
        return done

    async def _take_back(
        self,
        release: Release,
        current: Release | None,
        known: Sequence[Release],
        error: StepError,
    ) -> StepError:
        """Put the release before back, and return the error that tells of all of it."""
        failed = release.with_state("failed", error.message)
        name = f"Release {release.number}"
        applied = [*_everything(known), *release.objects]
        try:
            if current is None:
                self.screen.progress(f"{name} failed: deleting what it applied")
                await self._delete(pruned(applied, ()))
                after = "Nothing was deployed before it, so what it applied was deleted"
            elif current.same(release):
                await self._delete(pruned(applied, current.objects))
                after = (
                    f"Release {current.number} is the same, so there is nothing to put back; "
                    "`python -m pipeline deploy rollback` brings back the one before"
                )
            else:
                self.screen.progress(f"{name} failed: putting release {current.number} back")
                await self._apply(current)
                await self._delete(pruned(applied, current.objects))
                await self._wait(current, limit=self._back)
                after = f"Release {current.number} was put back and is ready"
        except StepError as second:
            with contextlib.suppress(StepError):
                await records.save(self.kube, failed)
            before = (
                f"release {current.number} could not be put back"
                if current
                else ("what it applied could not be deleted")
            )
            return RolloutFailed(
                f"{name} failed: {error.message}; and {before}: {second.message}",
                remedy="See `python -m pipeline deploy status`, and deploy again",
                evidence="\n".join(filter(None, (error.evidence, second.evidence))),
            )
        await records.save(self.kube, failed)
        # Not where it could not be taken back: the records are then all that knows what is left.
        await records.forget(self.kube, records.outdated([*known, failed]))
        return RolloutFailed(f"{name} failed: {error.message}", remedy=after, evidence=_told(error))

    async def _ensure_namespace(self) -> tuple[bool, bool]:
        """Make the namespace where it is missing; return whether it was, and whether it is ours."""
        found = await self.kube.get(NAMESPACE, self.namespace)
        if found is not None and found["metadata"].get("deletionTimestamp"):
            self.screen.progress(f"The namespace {self.namespace} is being deleted: waiting for it")
            gone = Identity("", "Namespace", "", self.namespace)
            await wait.until_gone(self.kube, [gone], limit=self.limit, tempo=self.tempo)
        elif found is not None:
            return False, _is_made(found)
        metadata = {"name": self.namespace, "annotations": {MADE: "true"}}
        plain = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        # That it is ours is in the namespace from its first moment: a deploy that is stopped here
        # has no record yet. Under a name of its own, so that no release takes it back.
        await self.kube.apply(plain, manager=MAKER)
        self.screen.progress(f"Made the namespace {self.namespace}")
        return True, True

    async def _settled(self) -> tuple[Release, ...]:
        """Return the records, after what an earlier deploy left unfinished is called failed."""
        known = await records.load(self.kube, self.namespace)
        settled = []
        running = records.deployed(known)
        for each in known:
            now = each
            if each.state == "pending":
                now = each.with_state("failed", INTERRUPTED)
                self.screen.progress(f"The deploy of release {each.number} was interrupted")
            elif each.state == "deployed" and running and each.number != running.number:
                now = each.with_state("superseded")
            if now is not each:
                await records.save(self.kube, now)
            settled.append(now)
        return tuple(settled)

    async def _rehearse(self, release: Release) -> None:
        """Try everything on the server, and change nothing."""
        conflicts: list[str] = []
        for obj in self._marked(release, secret=self.secret is not None):
            try:
                await self.kube.apply(obj, dry_run=True)
            except Conflict as error:
                named = str(identity(obj))
                conflicts += [
                    f"{named}: {path} belongs to {owner}" for path, owner in error.fields
                ] or [f"{named}: {error.evidence}"]
            except Refused as error:
                # What it speaks of may be an object of this release that is not there yet.
                if error.status != 404:  # noqa: PLR2004
                    raise _unchanged(error) from error
        if conflicts:
            count = f"{len(conflicts)} fields belong" if len(conflicts) > 1 else "A field belongs"
            raise RolloutFailed(
                f"{count} to others, so nothing was changed",
                remedy="Take them out of the overlay, or have the other manager give them up: "
                "`kubectl get --show-managed-fields -o yaml` shows who has what",
                evidence="\n".join(conflicts),
            )

    async def _apply(self, release: Release) -> None:
        with_secret = self.secret is not None or await has_pull_secret(self.kube, self.namespace)
        if self.secret is not None:
            await self.kube.apply(self.secret, force=True)
        marked = self._marked(release, secret=with_secret)
        for obj in marked:
            await self.kube.apply(obj)
        self.screen.progress(f"Applied {len(marked)} objects of release {release.number}")

    def _marked(self, release: Release, *, secret: bool) -> tuple[Object, ...]:
        return release.marked(pull_secret=secret)

    @property
    def _back(self) -> float:
        return max(self.limit, LEAST)

    async def _wait(self, release: Release, *, limit: float | None = None) -> None:
        try:
            await wait.until_ready(
                self.kube,
                release.objects,
                limit=limit or self.limit,
                watch=self.screen.watch,
                tempo=self.tempo,
            )
        finally:
            self.screen.watched()

    async def _delete(self, objects: Iterable[Object]) -> None:
        """Delete objects that are still ours, one after the other, and wait until they are gone."""
        gone: list[Identity] = []
        for obj in objects:
            each = identity(obj)
            kind = Kind(each.group, each.kind)
            live = await self.kube.get(kind, each.name, each.namespace)
            if live is None:
                continue
            if (live["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
                self.screen.progress(f"{each} is no longer ours, and stays")
                continue
            if await self.kube.delete(kind, each.name, each.namespace):
                gone.append(each)
                self.screen.progress(f"Deleted {each}")
            if kind.group == "keda.sh":
                # KEDA has to see it go while its workload and its account are still there.
                await wait.until_gone(self.kube, [each], limit=self._back, tempo=self.tempo)
        await wait.until_gone(self.kube, gone, limit=self._back, tempo=self.tempo)

    async def _foreign(self) -> bool:
        """Return whether something that is not ours is in the namespace; say what.

        All kinds that the cluster keeps in namespaces are looked through: with the namespace would
        go whatever it has, of kinds too that nobody here knows.
        """
        kinds = sorted(await self.kube.kept() - _TRACES)
        try:
            lists = await together(
                [functools.partial(self.kube.list, kind, self.namespace) for kind in kinds]
            )
        except Refused as error:
            self.screen.progress(
                f"The namespace {self.namespace} stays: we may not see what else is in it "
                f"({error.message})"
            )
            return True
        for kind, found in zip(kinds, lists, strict=True):
            left = [
                each["metadata"]["name"]
                for each in found
                if (kind, each["metadata"]["name"]) not in _EVERYWHERE
                and not each["metadata"].get("deletionTimestamp")
                and not each["metadata"].get("ownerReferences")
            ]
            if left:
                self.screen.progress(
                    f"The namespace {self.namespace} stays: it has {kind} {', '.join(left)}"
                )
                return True
        return False


async def has_pull_secret(kube: Kube, namespace: str) -> bool:
    """Return whether an earlier deploy left a pull secret, which serves as well."""
    try:
        return await kube.get(SECRET, PULL_SECRET, namespace) is not None
    except Refused:
        # We may not see it, and have none to make.
        return False


def chosen(known: Sequence[Release], number: int | None) -> Release:
    """Return the release to roll back to, as one that is to be deployed.

    Args:
        known: What is recorded.
        number: As for `Rollout.roll_back`.

    Raises:
        UsageError: There is none.
    """
    current = records.deployed(known)
    if number is None:
        found = records.before(known, current.number) if current else None
        if found is None:
            raise UsageError(
                "There is no release to roll back to: none was deployed before the one that runs",
                remedy="See `python -m pipeline deploy releases`",
            )
    else:
        found = next((each for each in known if each.number == number), None)
        if found is None:
            there = ", ".join(str(each.number) for each in known) or "none"
            raise UsageError(
                f"There is no release {number}", remedy=f"Those that are recorded: {there}"
            )
        if found.state not in ("deployed", "superseded"):
            raise UsageError(
                f"Release {number} never ran: it is {found.state}",
                remedy="See `python -m pipeline deploy releases` for those that did",
            )
    return replace(found, origin=f"rollback to release {found.number}")


def _is_made(namespace: Object) -> bool:
    """Return whether a deploy of ours made a namespace."""
    return (namespace["metadata"].get("annotations") or {}).get(MADE) == "true"


def _everything(known: Iterable[Release]) -> list[Object]:
    """Return each object of all releases once, as the last of them had it."""
    found = {identity(obj): obj for each in known for obj in each.objects}
    return list(ordered(found.values()))


def _told(error: StepError) -> str:
    """Return what an error leaves to be told after its sentence."""
    return "\n".join(filter(None, (error.remedy, error.evidence)))


def _unchanged(error: Refused) -> Refused:
    return Refused(
        f"{error.message}, so nothing was changed",
        remedy=error.remedy,
        evidence=error.evidence,
        status=error.status,
        reason=error.reason,
    )
