"""Everything that can be known before anything is changed: whether a cluster takes a deploy.

Rules:

- Nothing here changes the cluster.
- What is missing is told in one error, with the one command that gets it.
- What may not be looked at is not held against the cluster: a person with rights in one namespace
  cannot see KEDA's own, and may deploy all the same.
"""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from pipeline.cluster import versions
from pipeline.deploy.wait import Time
from pipeline.errors import PrerequisiteError
from pipeline.kube import NAMESPACE, Kind, Refused, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.deploy.release import Object
    from pipeline.kube import Kube

SCALED_OBJECT = Kind("keda.sh", "ScaledObject")
_DEFINITION = Kind("apiextensions.k8s.io", "CustomResourceDefinition")
_DEPLOYMENT = Kind("apps", "Deployment")
_VERSION = "app.kubernetes.io/version"
_METRICS = "/apis/metrics.k8s.io/v1beta1"
_SHOWN = 6
METRICS_LIMIT = 30.0
"""Seconds for which a metrics API that is there may not answer: so it does after the API server was
away, until that has found it again."""

PREPARE = "python -m pipeline cluster prepare"


class Right(NamedTuple):
    """Something that a deploy does.

    Attributes:
        verb: As Kubernetes names it.
        kind: What it is done to.
        namespace: Where; empty for an object of the cluster.
        subresource: A part of it; empty for all of it.
    """

    verb: str
    kind: Kind
    namespace: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        part = f"/{self.subresource}" if self.subresource else ""
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.kind}{part}{where}"


_LOOKS = (
    Right("list", Kind("", "Pod")),
    Right("get", Kind("", "Pod"), subresource="log"),
    Right("list", Kind("", "Event")),
    Right("list", Kind("apps", "ReplicaSet")),
    Right("list", Kind("discovery.k8s.io", "EndpointSlice")),
    Right("list", Kind("autoscaling", "HorizontalPodAutoscaler")),
    Right("get", Kind("", "Service"), subresource="proxy"),
)
_RECORDS = tuple(
    Right(verb, kind)
    for kind, verbs in (
        (Kind("", "ConfigMap"), ("list", "create", "patch", "delete")),
        (Kind("coordination.k8s.io", "Lease"), ("get", "create", "update", "delete")),
    )
    for verb in verbs
)


async def check_version(kube: Kube) -> None:
    """Return when the cluster runs a supported Kubernetes.

    Raises:
        PrerequisiteError: It does not.
    """
    versions.require(kube.version, f"The cluster of the context {kube.context}")


async def check(
    kube: Kube,
    objects: Sequence[Object],
    namespace: str,
    *,
    secret: bool,
    tempo: Time | None = None,
) -> None:
    """Return when a cluster takes what is to be applied.

    Args:
        kube: The cluster.
        objects: What is to be applied.
        namespace: Where the releases are recorded.
        secret: Whether a pull secret is to be made as well.
        tempo: Where time comes from.

    Raises:
        PrerequisiteError: It lacks something, or we may not do something.
    """
    await check_version(kube)
    if any(Kind.of(each) == SCALED_OBJECT for each in objects):
        await check_scaling(kube, tempo or Time())
    await check_rights(kube, rights(objects, namespace, secret=secret))


async def check_scaling(kube: Kube, tempo: Time) -> None:
    """Return when the cluster has KEDA of the right version, and figures to scale by.

    Args:
        kube: The cluster.
        tempo: Where time comes from.

    Raises:
        PrerequisiteError: It has not.
    """
    if not await kube.serves(SCALED_OBJECT):
        raise PrerequisiteError(
            f"The cluster of the context {kube.context} has no KEDA, which scales the workloads",
            remedy=f"Install it: `{PREPARE}`",
        )
    found = await _keda_version(kube)
    if found and found != versions.KEDA:
        raise PrerequisiteError(
            f"The cluster of the context {kube.context} has KEDA {found}, and this needs "
            f"{versions.KEDA}",
            remedy="Have it upgraded by whoever installed it, or name another context",
        )
    began = tempo.clock()
    answer = await kube.raw(_METRICS)
    while answer.status == HTTPStatus.SERVICE_UNAVAILABLE and tempo.clock() - began < METRICS_LIMIT:
        await tempo.sleep(1.0)
        answer = await kube.raw(_METRICS)
    if not answer.ok:
        raise PrerequisiteError(
            f"The cluster of the context {kube.context} has no metrics API that works, so nothing "
            f"can be scaled by its CPU (status {answer.status} for {_METRICS})",
            remedy=f"Install metrics-server: `{PREPARE}`",
            evidence=answer.body.decode(errors="replace")[:500].strip(),
        )


async def may_change_namespace(kube: Kube, namespace: str) -> bool:
    """Return False when a namespace is there and somebody else's to change: then it stays as it is.

    Where it is not there yet, whether we may make it is among `rights`.
    """
    if await kube.allowed("patch", NAMESPACE, namespace):
        return True
    try:
        return await kube.get(NAMESPACE, namespace) is None
    except Refused:
        # That is told among the rights that are missing.
        return True


async def check_rights(kube: Kube, wanted: Iterable[Right]) -> None:
    """Return when we may do all of it.

    Raises:
        PrerequisiteError: We may not; what is missing is named.
    """
    asked = tuple(wanted)
    answers = await together(
        functools.partial(
            kube.allowed, each.verb, each.kind, each.namespace, subresource=each.subresource
        )
        for each in asked
    )
    missing = [each for each, allowed in zip(asked, answers, strict=True) if not allowed]
    if missing:
        named = sorted(map(str, missing))
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        raise PrerequisiteError(
            f"The cluster of the context {kube.context} does not allow us to "
            f"{', '.join(named[:_SHOWN])}{more}",
            remedy="Ask for these rights, or use a context that has them (--context)",
            evidence="\n".join(named) if more else "",
        )


def rights(objects: Iterable[Object], namespace: str, *, secret: bool) -> tuple[Right, ...]:
    """Return what a deploy of these objects does, each thing once.

    Args:
        objects: What is to be applied.
        namespace: Where the releases are recorded.
        secret: Whether a pull secret is to be made as well.
    """
    wanted: dict[Right, None] = {}
    for each in (*_LOOKS, *_RECORDS):
        wanted[each._replace(namespace=namespace)] = None
    if secret:
        for verb in ("get", "create", "patch"):
            wanted[Right(verb, Kind("", "Secret"), namespace)] = None
    wanted[Right("get", NAMESPACE, namespace)] = None
    for obj in objects:
        # A server-side apply is a patch, and a creation where there is nothing to patch.
        # A namespace is read by its name, and removed only where we may.
        more = () if Kind.of(obj) == NAMESPACE else ("delete", "list")
        wanted |= dict.fromkeys(_to((obj,), "get", "patch", "create", *more))
    return tuple(wanted)


def trials(objects: Iterable[Object], *, there: bool) -> tuple[Right, ...]:
    """Return what a dry run of these objects does; their namespace is there, or is not."""
    return _to(objects, "get", *(("patch", "create") if there else ()))


def looks(objects: Iterable[Object], namespace: str) -> tuple[Right, ...]:
    """Return what a look at these objects, and at what belongs to them, does."""
    lists = [each._replace(namespace=namespace) for each in _LOOKS if each.verb == "list"]
    wanted = dict.fromkeys(lists)
    for obj in objects:
        # Nobody lists all namespaces to see one.
        verb = "list" if obj["metadata"].get("namespace") else "get"
        wanted |= dict.fromkeys(_to((obj,), verb))
    return tuple(wanted)


def removals(objects: Iterable[Object], namespace: str) -> tuple[Right, ...]:
    """Return what deleting these objects, and the records of them, does."""
    deleted = [each for each in objects if Kind.of(each) != NAMESPACE]
    records = [each._replace(namespace=namespace) for each in _RECORDS if each.verb != "patch"]
    return (*records, *_to(deleted, "get", "delete"))


def _to(objects: Iterable[Object], *verbs: str) -> tuple[Right, ...]:
    """Return the rights to do something to each of these objects, each thing once."""
    wanted: dict[Right, None] = {}
    for obj in objects:
        kind, place = Kind.of(obj), str(obj["metadata"].get("namespace", ""))
        if kind == NAMESPACE:
            place = str(obj["metadata"]["name"])
        wanted |= {Right(verb, kind, place): None for verb in verbs}
    return tuple(wanted)


async def _keda_version(kube: Kube) -> str:
    """Return the version of KEDA in the cluster; empty when it cannot be told from here."""
    try:
        # Where its release manifest and its chart put it, unless told otherwise.
        for found in (
            await kube.get(_DEPLOYMENT, "keda-operator", "keda"),
            await kube.get(_DEFINITION, "scaledobjects.keda.sh"),
        ):
            labels = ((found or {}).get("metadata") or {}).get("labels") or {}
            if labels.get(_VERSION):
                return str(labels[_VERSION]).removeprefix("v")
    except Refused:
        return ""
    return ""
