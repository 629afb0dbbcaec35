"""Wait until what was applied is ready, tell how far it is, and stop when that is no use.

The judgements are `readiness`'s; here they meet time: a doubt that has lasted for its grace is
none any more, and nothing is waited for beyond the limit. The cluster is looked at once a second
rather than watched: a look is a handful of lists of one namespace, and one that fails is simply
done again.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio

from pipeline.console import Row
from pipeline.deploy.readiness import Snapshot, judge
from pipeline.deploy.release import identity
from pipeline.errors import StepError
from pipeline.kube import Kind, Refused, together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from pipeline.deploy.readiness import Culprit, Judgement
    from pipeline.deploy.release import Identity, Object
    from pipeline.kube import Kube

INTERVAL = 1.0
LOG_LINES = 15
"""Lines of a container's log that a failure shows."""
EVENTS = 3

_POD = Kind("", "Pod")
_EVENT = Kind("", "Event")
_REPLICA_SET = Kind("apps", "ReplicaSet")
_SLICE = Kind("discovery.k8s.io", "EndpointSlice")
_AUTOSCALER = Kind("autoscaling", "HorizontalPodAutoscaler")

_THERE_IS_READY = frozenset(
    {
        "ResourceQuota",
        "LimitRange",
        "NetworkPolicy",
        "ServiceAccount",
        "Secret",
        "ConfigMap",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "PriorityClass",
        "Ingress",
        "CronJob",
    }
)
"""Kinds of Kubernetes' own that are ready when they are there, which applying them has shown."""


class NotReady(StepError):
    """What was applied does not become ready."""


@dataclass(frozen=True, slots=True)
class Time:
    """Where time comes from, so that a test can do without.

    Attributes:
        clock: Seconds that only go forward.
        sleep: Waits.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


async def until_ready(
    kube: Kube,
    objects: Iterable[Object],
    *,
    limit: float,
    watch: Callable[[Sequence[Row]], None] = lambda _rows: None,
    tempo: Time | None = None,
) -> Snapshot:
    """Return what the cluster says when everything is ready.

    Args:
        kube: The cluster.
        objects: What was applied.
        limit: Seconds until all of it has to be.
        watch: Told the state of each object after each look.
        tempo: Where time comes from.

    Raises:
        NotReady: Something cannot become ready, or is not within the limit; the evidence is the
            end of the log of the container that is to blame, and what is said of its pod.
        Away: The cluster has not answered for long.
    """
    tempo = tempo or Time()
    wanted = [each for each in map(identity, objects) if each.kind not in _THERE_IS_READY]
    began = tempo.clock()
    doubts = _Doubts()
    while True:
        snapshot = await observe(kube, wanted)
        now = tempo.clock()
        found = {each: doubts.weighed(each, judge(each, snapshot), now) for each in wanted}
        watch([_row(each, judgement) for each, judgement in found.items()])
        if all(judgement.state == "ready" for judgement in found.values()):
            return snapshot
        for each, judgement in found.items():
            if judgement.state == "hopeless":
                raise NotReady(
                    f"{each} does not become ready: {judgement.text}",
                    evidence=await evidence(kube, judgement.culprit, snapshot),
                )
        if now - began >= limit:
            late = [(each, j) for each, j in found.items() if j.state != "ready"]
            culprit = next((j.culprit for _, j in late if j.culprit), None)
            raise NotReady(
                f"Not everything was ready within {limit:.0f} s: "
                + "; ".join(f"{each}: {judgement.text}" for each, judgement in late),
                evidence=await evidence(kube, culprit, snapshot),
            )
        await tempo.sleep(INTERVAL)


async def until_gone(
    kube: Kube, gone: Iterable[Identity], *, limit: float, tempo: Time | None = None
) -> None:
    """Return when objects are there no more.

    Raises:
        NotReady: Some still are after the limit.
    """
    tempo = tempo or Time()
    left = list(gone)
    began = tempo.clock()
    while True:
        left = [
            each
            for each in left
            if await kube.get(Kind(each.group, each.kind), each.name, each.namespace) is not None
        ]
        if not left:
            return
        if tempo.clock() - began >= limit:
            raise NotReady(
                f"Still there {limit:.0f} s after it was deleted: {', '.join(map(str, left))}",
                remedy="See what its finalizers wait for: `kubectl get -o yaml` shows them",
            )
        await tempo.sleep(INTERVAL)


async def observe(kube: Kube, wanted: Sequence[Identity]) -> Snapshot:
    """Return what the cluster says of objects, and of what belongs to them.

    Raises:
        Refused: Something may not be read.
        Away: The cluster has not answered for long.
    """
    namespaces = sorted({each.namespace for each in wanted if each.namespace})
    kinds = {Kind(each.group, each.kind) for each in wanted if each.namespace}
    kinds |= {_POD, _EVENT, _REPLICA_SET, _SLICE, _AUTOSCALER}
    # Nobody lists all namespaces to see one.
    single = [each for each in wanted if not each.namespace]
    asked = [(kind, namespace) for kind in sorted(kinds) for namespace in namespaces]
    answers = await together(
        [functools.partial(kube.list, *each) for each in asked]
        + [functools.partial(_one, kube, each) for each in single]
    )
    lists: dict[Kind, list[Object]] = {}
    for (kind, _), answer in zip(asked, answers, strict=False):
        lists.setdefault(kind, []).extend(answer)
    found = {identity(obj): obj for answer in answers for obj in answer}
    return Snapshot(
        objects={each: found[each] for each in wanted if each in found},
        pods=tuple(lists.get(_POD, ())),
        replica_sets=tuple(lists.get(_REPLICA_SET, ())),
        endpoint_slices=tuple(lists.get(_SLICE, ())),
        autoscalers=tuple(lists.get(_AUTOSCALER, ())),
        events=tuple(each for each in lists.get(_EVENT, ()) if _tells(each)),
    )


async def _one(kube: Kube, wanted: Identity) -> list[Object]:
    obj = await kube.get(Kind(wanted.group, wanted.kind), wanted.name, wanted.namespace)
    return [] if obj is None else [obj]


async def evidence(kube: Kube, culprit: Culprit | None, snapshot: Snapshot) -> str:
    """Return what a container wrote last, and what was said of its pod; empty for nobody."""
    if culprit is None:
        return ""
    parts: list[str] = []
    if culprit.container:
        log = ""
        try:
            for previous in (True, False) if culprit.crashed else (False,):
                log = log or await kube.logs(
                    culprit.namespace,
                    culprit.pod,
                    culprit.container,
                    lines=LOG_LINES,
                    previous=previous,
                )
        except Refused as error:
            log = str(error)
        if log:
            parts.append(f"The end of the log of {culprit.pod}, container {culprit.container}:")
            parts.extend(f"  {line}" for line in log.splitlines()[-LOG_LINES:])
    about = [
        each
        for each in snapshot.events
        if (each.get("involvedObject") or {}).get("name") == culprit.pod
    ]
    if about:
        parts.append(f"Said of {culprit.pod}:")
        lines = [f"  {each.get('reason')}: {each.get('message')}" for each in about]
        parts.extend(dict.fromkeys(lines[-EVENTS:]))
    return "\n".join(parts)


@dataclass(slots=True)
class _Doubts:
    """Since when each doubt has lasted."""

    since: dict[tuple[Identity, str], float] = field(default_factory=dict)

    def weighed(self, about: Identity, judgement: Judgement, now: float) -> Judgement:
        """Return the judgement, hopeless when it has been in the same doubt for too long."""
        # An image that cannot be pulled is one doubt, though its pod swings between two words.
        for key in [key for key in self.since if key[0] == about]:
            if judgement.state != "doubtful" or key[1] != judgement.doubt:
                del self.since[key]
        if judgement.state != "doubtful":
            return judgement
        since = self.since.setdefault((about, judgement.doubt), now)
        if now - since < judgement.grace:
            return judgement
        return replace(judgement, state="hopeless")


def _row(about: Identity, judgement: Judgement) -> Row:
    return Row(str(about), judgement.state, judgement.text)


def _tells(event: Object) -> bool:
    """Return whether an event counts here: a warning, or the one that says that a node comes."""
    return event.get("type") == "Warning" or event.get("reason") == "TriggeredScaleUp"
