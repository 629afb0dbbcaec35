"""A release: two images, the manifests that name them, and the order in which they are applied.

Rules:

- An object of Kubernetes is the mapping that its JSON is. Nothing here changes one that it was
  given: every function returns copies.
- A container names its image by digest alone: a tag that moves must not roll a workload whose
  image is the same.
- What tells a release apart (its number) is in the metadata of the objects and never in the
  template of a pod, for the same reason.
- A namespace is never pruned: with it would go whatever else is in there.

Pure: this module does no I/O.
"""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from pipeline import images as references
from pipeline.errors import UsageError
from pipeline.kube import MANAGER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pipeline.registry import Login

PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"
"""The label that marks what we made; its value is our name as a field manager."""
PULL_SECRET = "slipway-pull"  # noqa: S105 - the name of it
"""The Secret with the login at the registry; made by each deploy that has one, never recorded."""
RELEASE = "slipway.io/release"
"""The annotation with the number of the release that an object was last applied by."""

Object = dict[str, Any]
"""An object of Kubernetes, as its JSON is."""

State = Literal["pending", "deployed", "failed", "superseded"]
"""Where a release is in its life.

pending      being applied, or its deploy was killed
deployed     it passed its smoke test and is what runs; at most one is
failed       it was taken back
superseded   it was deployed, and another one is now
"""

_ORDER = (
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "PodDisruptionBudget",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "HorizontalPodAutoscaler",
    "Ingress",
)
"""Kinds, so that each comes after what it needs: a pod's quota, rules and account before the pod,
its Service before it (who asks for its name finds it), what scales a workload after it."""


class Identity(NamedTuple):
    """What tells an object apart in a cluster, whatever version of its API it is written in.

    Attributes:
        group: The API group; empty for the core group.
        kind: Its kind.
        namespace: Empty for an object of the cluster.
        name: Its name.
    """

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a release.

    Attributes:
        name: ``api`` or ``nginx``.
        reference: Where it was pushed to, as this machine sees the registry, with its digest:
            ``host[:port]/repository[:tag]@sha256:…``.
    """

    name: str
    reference: str

    @property
    def parsed(self) -> references.Reference:
        """The reference, taken apart."""
        return references.parse(self.reference)

    @property
    def digest(self) -> str:
        """``sha256:…``."""
        return self.parsed.digest

    def moved(self, registry: references.Registry) -> Image:
        """Return the same image on another registry, under its namespace and our usual name."""
        parsed = self.parsed
        name = parsed.repository.rpartition("/")[2]
        place = replace(parsed, host=registry.address, repository=registry.repository(name))
        return replace(self, reference=str(place))

    def pulled(self, pull_from: str) -> str:
        """Return the reference that the nodes pull, without a tag.

        Args:
            pull_from: ``HOST[:PORT]`` of the registry as the nodes see it; empty when they see it
                as this machine does.
        """
        parsed = self.parsed
        return f"{pull_from or parsed.host}/{parsed.repository}@{parsed.digest}"


@dataclass(frozen=True, slots=True)
class Source:
    """The images to deploy, and where they were found.

    Attributes:
        images: One for each of `pipeline.config.IMAGES`, in that order, each with a digest.
        revision: The commit that they were built from; of a mixture, those of all images, told
            apart by name (``api: 1a2b…, nginx: 3c4d…``).
        origin: Where they were found, as a person reads it: ``reports/report.json``, ``tag 1.2``.
    """

    images: tuple[Image, ...]
    revision: str
    origin: str


@dataclass(frozen=True, slots=True)
class Release:
    """Everything that a cluster needs to run one version of the system.

    Attributes:
        images: As in `Source`.
        objects: What is applied, in the order in which it is; images by digest, every namespace
            filled in, without the marks of a release and without any secret.
        namespace: The namespace of the objects.
        overlay: The overlay that they were rendered from, as it was named.
        revision: As in `Source`.
        origin: As in `Source`.
        pull_from: ``HOST[:PORT]`` of the registry as the nodes see it; empty when they see it as
            the machine that deployed it.
        number: Counts the releases of a namespace from 1; 0 as long as it is not recorded.
        state: Where it is in its life.
        created_at: When its deploy began, ISO 8601 with a time zone; empty until it is recorded.
        reason: Why it failed; empty when it did not.
        made_namespace: Whether a deploy of ours made the namespace, so that `remove` may remove it.
    """

    images: tuple[Image, ...]
    objects: tuple[Object, ...]
    namespace: str
    overlay: str = ""
    revision: str = ""
    origin: str = ""
    pull_from: str = ""
    number: int = 0
    state: State = "pending"
    created_at: str = ""
    reason: str = ""
    made_namespace: bool = False

    def with_state(self, state: State, reason: str = "") -> Release:
        """Return it at another point of its life."""
        return replace(self, state=state, reason=reason)

    def with_images(self, images: Sequence[Image], pull_from: str) -> Release:
        """Return it with the same images elsewhere: what is restored from a file is pushed anew.

        Args:
            images: The images where they are now, with the digests that this release has.
            pull_from: As the attribute.

        Raises:
            UsageError: An image is missing or has another digest.
        """
        known = {image.name: image for image in images}
        moves: dict[str, str] = {}
        for image in self.images:
            other = known.get(image.name)
            if other is None or other.digest != image.digest:
                raise UsageError(
                    f"The image {image.name} of the release is {image.digest}, and what is to take "
                    f"its place is {other.digest if other else 'missing'}",
                    remedy="Restore the file that the release was exported to",
                )
            moves[image.pulled(self.pull_from)] = other.pulled(pull_from)
        return replace(
            self,
            images=tuple(known[image.name] for image in self.images),
            objects=tuple(_with_references(each, moves) for each in self.objects),
            pull_from=pull_from,
        )

    def marked(self, *, pull_secret: bool = False) -> tuple[Object, ...]:
        """Return the objects as they are applied: with who manages them, and the number.

        Args:
            pull_secret: Whether service accounts name `PULL_SECRET`. It is they who name it and
                not the pods, so that a login that comes or goes rolls no workload.
        """
        marked = tuple(_marked(each, self.number) for each in self.objects)
        return tuple(map(_pulling, marked)) if pull_secret else marked

    def without_namespace(self) -> Release:
        """Return it for a namespace that is there, and not ours to change."""
        kept = tuple(each for each in self.objects if each["kind"] != "Namespace")
        return replace(self, objects=kept)

    def in_namespace(self, namespace: str) -> Release:
        """Return it for another namespace, as Kustomize would have put it there."""
        moved = tuple(_in_namespace(each, self.namespace, namespace) for each in self.objects)
        return replace(self, objects=moved, namespace=namespace)

    def same(self, other: Release) -> bool:
        """Return whether another release is this one again, under another number."""
        return self.objects == other.objects


def identity(obj: Mapping[str, Any]) -> Identity:
    """Return what tells an object apart."""
    group = obj["apiVersion"].rpartition("/")[0]
    metadata = obj["metadata"]
    return Identity(group, obj["kind"], metadata.get("namespace", ""), metadata["name"])


def ordered(objects: Iterable[Object]) -> tuple[Object, ...]:
    """Return the objects so that each comes after what it needs.

    A kind that nobody knows comes last, as custom resources do: they speak of what is there.
    """

    def rank(obj: Object) -> tuple[int, Identity]:
        kind = obj["kind"]
        return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER)), identity(obj)

    return tuple(sorted(objects, key=rank))


def pruned(earlier: Iterable[Object], now: Iterable[Object]) -> tuple[Object, ...]:
    """Return what an earlier release had and this one lacks, in the order to delete it."""
    kept = {identity(each) for each in now}
    lacking = {
        identity(each): each
        for each in earlier
        if identity(each) not in kept and each["kind"] != "Namespace"
    }
    return tuple(reversed(ordered(lacking.values())))


def containers(obj: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the containers in the template of a workload; none for anything else."""
    spec = obj.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    inner = template.get("spec") if isinstance(template, dict) else None
    if isinstance(inner, dict):
        for field in ("initContainers", "containers"):
            yield from inner.get(field) or ()


def to_json(release: Release) -> str:
    """Return a release as text, the same for the same release."""
    value = {
        "images": [{"name": i.name, "reference": i.reference} for i in release.images],
        "objects": list(release.objects),
        **{field: getattr(release, field) for field in _PLAIN},
    }
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str | bytes) -> Release:
    """Return the release that `to_json` wrote.

    Raises:
        ValueError: It is not what `to_json` writes.
    """
    try:
        value = json.loads(text)
        return Release(
            images=tuple(Image(i["name"], i["reference"]) for i in value["images"]),
            objects=tuple(cast("list[Object]", value["objects"])),
            **{field: value[field] for field in _PLAIN},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no release: {error}") from error


_PLAIN = (
    "namespace",
    "overlay",
    "revision",
    "origin",
    "pull_from",
    "number",
    "state",
    "created_at",
    "reason",
    "made_namespace",
)


def _with_references(obj: Object, moves: Mapping[str, str]) -> Object:
    changed = copy.deepcopy(obj)
    for container in containers(changed):
        container["image"] = moves.get(container["image"], container["image"])
    return changed


def pull_secret(namespace: str, logins: Mapping[str, Login]) -> Object:
    """Return the Secret that lets nodes pull from registries.

    Args:
        namespace: Where it goes.
        logins: By ``HOST[:PORT]`` of the registry as the nodes see it.
    """
    content = json.dumps({"auths": {host: _auth(login) for host, login in logins.items()}})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {
            "name": PULL_SECRET,
            "namespace": namespace,
            "labels": {MANAGED_BY: MANAGER, PART_OF: "slipway"},
        },
        "data": {".dockerconfigjson": base64.b64encode(content.encode()).decode()},
    }


def _auth(login: Login) -> dict[str, str]:
    pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return {"username": login.username, "password": login.password, "auth": pair}


def _in_namespace(obj: Object, before: str, after: str) -> Object:
    changed = copy.deepcopy(obj)
    metadata = changed["metadata"]
    if (changed["kind"], metadata["name"]) == ("Namespace", before):
        metadata["name"] = after
    # The subjects of a RoleBinding are the only other place where a manifest names a namespace
    # that is its own.
    for place in (metadata, *(changed.get("subjects") or ())):
        if place.get("namespace") == before:
            place["namespace"] = after
    return changed


def _pulling(obj: Object) -> Object:
    if obj["kind"] != "ServiceAccount":
        return obj
    named = [*(obj.get("imagePullSecrets") or ()), {"name": PULL_SECRET}]
    return {**obj, "imagePullSecrets": named}


def _marked(obj: Object, number: int) -> Object:
    changed = copy.deepcopy(obj)
    metadata = changed["metadata"]
    metadata["labels"] = {**(metadata.get("labels") or {}), MANAGED_BY: MANAGER}
    if number:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), RELEASE: str(number)}
    return changed
