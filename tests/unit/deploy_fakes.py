"""A cluster in memory: objects, the controllers that matter to a deploy, and what goes wrong."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from pipeline.deploy.release import Image, Release, ordered
from pipeline.deploy.wait import Time
from pipeline.kube import Answer, Away, Conflict, Kind, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.console import Row
    from pipeline.deploy.release import Object

API = f"127.0.0.1:5050/slipway-api:v1@sha256:{'a' * 64}"
NGINX = f"127.0.0.1:5050/slipway-nginx:v1@sha256:{'b' * 64}"
IMAGES = (Image("api", API), Image("nginx", NGINX))

DEPLOYMENT = Kind("apps", "Deployment")
POD = Kind("", "Pod")
REPLICA_SET = Kind("apps", "ReplicaSet")
SERVICE = Kind("", "Service")
SLICE = Kind("discovery.k8s.io", "EndpointSlice")
SCALED_OBJECT = Kind("keda.sh", "ScaledObject")
AUTOSCALER = Kind("autoscaling", "HorizontalPodAutoscaler")
NAMESPACE = Kind("", "Namespace")
CONFIG_MAP = Kind("", "ConfigMap")
LEASE = Kind("coordination.k8s.io", "Lease")

CLUSTER_WIDE = frozenset({"Namespace", "CustomResourceDefinition", "Node"})


def manifest(api_version: str, kind: str, name: str, **more: Any) -> Object:  # noqa: ANN401 - JSON
    """Return an object in the namespace slipway."""
    metadata = {"name": name}
    if kind not in CLUSTER_WIDE:
        metadata["namespace"] = "slipway"
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}


def workload(name: str, image: str, **env: str) -> Object:
    """Return a Deployment with one container."""
    variables = [{"name": key, "value": value} for key, value in env.items()]
    container = {"name": name.removeprefix("slipway-"), "image": image, "env": variables}
    return manifest(
        "apps/v1", "Deployment", name, spec={"template": {"spec": {"containers": [container]}}}
    )


def system(*more: Object, image: str = IMAGES[0].pulled(""), **env: str) -> tuple[Object, ...]:
    """Return the objects of a small system, and more."""
    ports = [{"name": "http", "port": 8080}]
    return ordered(
        (
            manifest("v1", "Namespace", "slipway"),
            manifest("v1", "ServiceAccount", "slipway-api"),
            workload("slipway-api", image, **env),
            workload("slipway-nginx", IMAGES[1].pulled("")),
            manifest(
                "v1", "Service", "slipway-nginx", spec={"selector": {"a": "b"}, "ports": ports}
            ),
            manifest(
                "keda.sh/v1alpha1",
                "ScaledObject",
                "slipway-api",
                spec={"minReplicaCount": 2, "maxReplicaCount": 4},
            ),
            *more,
        )
    )


def release(*more: Object, **env: str) -> Release:
    """Return a release of the small system, as it comes to be deployed."""
    return Release(
        images=IMAGES,
        objects=system(*more, **env),
        namespace="slipway",
        overlay="minikube",
        revision="6a0c4e2",
        origin="reports/report.json",
    )


@dataclass
class Screen:
    """What a person would have read."""

    lines: list[str] = field(default_factory=list)
    rows: list[tuple[Row, ...]] = field(default_factory=list)

    def progress(self, text: str) -> None:
        """Write a line down."""
        self.lines.append(text)

    say = progress

    def watch(self, rows: Sequence[Row]) -> None:
        """Write the rows down."""
        self.rows.append(tuple(rows))

    def watched(self) -> None:
        """Say nothing."""

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class Clock:
    """Time that passes only when somebody sleeps, and gives others their turn then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tempo = Time(clock=lambda: self.now, sleep=self.sleep)
        self.at_sleep: Callable[[], None] = lambda: None

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.at_sleep()
        await anyio.lowlevel.checkpoint()


class FakeKube:
    """A cluster in memory.

    Attributes:
        calls: Every change, as ``verb Kind name``, dry runs as ``try Kind name``.
        broken: What becomes of a pod, by its image or by the value of a variable of its container:
            ``crash``, ``pull``, ``unready``, ``forbidden``, ``unschedulable``.
        owners: Who else owns a field: Kind and name → path → manager.
        refuse: Kind and name → (status, reason, message), at an apply.
        forbidden: Verbs and kinds that we may not do.
        missing: Kinds that are not served.
        away_after: Changes after which the API server is gone; None for never.
        smoke: Changes what the smoke test is answered.
    """

    context = "fake"
    server = "https://fake:6443"
    version = "v1.36.3"

    def __init__(self) -> None:
        self.objects: dict[tuple[Kind, str, str], Object] = {}
        self.calls: list[str] = []
        self.broken: dict[str, str] = {}
        self.owners: dict[tuple[str, str], dict[str, str]] = {}
        self.refuse: dict[tuple[str, str], tuple[int, str, str]] = {}
        self.forbidden: set[tuple[str, str]] = set()
        self.missing: set[Kind] = set()
        self.away_after: int | None = None
        self.smoke: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.raws: dict[str, Answer] = {}
        self.log = "Traceback: it does not start"
        self.at_change: Callable[[str], None] = lambda _call: None
        self._version = 0
        self._uid = 0

    # --- Kube -----------------------------------------------------------------------------------

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """See `Kube`."""
        await self._turn()
        found = self._live(kind, namespace).get(name)
        return copy.deepcopy(found)

    async def list(self, kind: Kind, namespace: str = "", *, labels: str = "") -> list[Object]:
        """See `Kube`."""
        await self._turn()
        key, _, value = labels.partition("=")
        return [
            copy.deepcopy(each)
            for each in self._live(kind, namespace).values()
            if not labels or (each["metadata"].get("labels") or {}).get(key) == value
        ]

    async def apply(
        self, obj: Object, *, dry_run: bool = False, force: bool = False, manager: str = "slipway"
    ) -> Object:
        """See `Kube`."""
        del manager
        kind, namespace, name = self._key(obj)
        await self._change(f"{'try' if dry_run else 'apply'} {kind} {name}")
        owned = self.owners.get((kind.name, name))
        if owned and not force:
            raise Conflict("conflict", fields=list(owned.items()), evidence="conflict")
        if (kind.name, name) in self.refuse:
            status, reason, message = self.refuse[kind.name, name]
            raise Refused("refused", status=status, reason=reason, evidence=message)
        if kind in self.missing:
            raise Refused("no such kind", status=404, reason="NotFound")
        if namespace and (NAMESPACE, "", namespace) not in self.objects and not dry_run:
            raise Refused("no namespace", status=404, reason="NotFound", evidence=namespace)
        before = self.objects.get((kind, namespace, name))
        now = copy.deepcopy(obj)
        old = (before or {}).get("metadata", {})
        now["metadata"]["uid"] = old.get("uid") or self._next_uid()
        changed = before is None or before.get("spec") != now.get("spec")
        now["metadata"]["generation"] = old.get("generation", 0) + (1 if changed else 0)
        now["metadata"]["resourceVersion"] = str(self._next_version())
        if kind == DEPLOYMENT:
            kept = old.get("annotations", {}).get("deployment.kubernetes.io/revision", "0")
            revision = int(kept) + (1 if changed else 0)
            annotations = now["metadata"].setdefault("annotations", {})
            annotations["deployment.kubernetes.io/revision"] = str(revision)
        if not dry_run:
            self.objects[kind, namespace, name] = now
        return copy.deepcopy(self._deployment(now) if kind == DEPLOYMENT else now)

    async def create(self, obj: Object) -> Object:
        """See `Kube`."""
        kind, namespace, name = self._key(obj)
        await self._change(f"create {kind} {name}")
        if (kind, namespace, name) in self.objects:
            raise Conflict("exists", fields=(), evidence="AlreadyExists")
        return self._put(obj)

    async def replace(self, obj: Object) -> Object:
        """See `Kube`."""
        kind, namespace, name = self._key(obj)
        await self._change(f"replace {kind} {name}")
        live = self.objects.get((kind, namespace, name))
        if live is None:
            raise Refused("gone", status=404, reason="NotFound")
        if live["metadata"]["resourceVersion"] != obj["metadata"].get("resourceVersion"):
            raise Conflict("changed", fields=(), evidence="the object has been modified")
        return self._put(obj)

    async def delete(
        self, kind: Kind, name: str, namespace: str = "", *, version: str = ""
    ) -> bool:
        """See `Kube`."""
        await self._change(f"delete {kind} {name}")
        found = self.objects.get((kind, namespace, name))
        if found is None:
            return False
        if version and found["metadata"]["resourceVersion"] != version:
            raise Conflict("changed", fields=(), evidence="the object has been modified")
        del self.objects[kind, namespace, name]
        if kind == NAMESPACE:
            for key in [key for key in self.objects if key[1] == name]:
                del self.objects[key]
        return True

    async def serves(self, kind: Kind) -> bool:
        """See `Kube`."""
        await self._turn()
        return kind not in self.missing

    async def namespaced(self, kind: Kind) -> bool | None:
        """See `Kube`."""
        await self._turn()
        return kind.name not in CLUSTER_WIDE

    async def kept(self) -> frozenset[Kind]:
        """See `Kube`."""
        await self._turn()
        return frozenset(kind for kind, namespace, _ in self.objects if namespace)

    async def allowed(
        self, verb: str, kind: Kind, namespace: str = "", *, subresource: str = ""
    ) -> bool:
        """See `Kube`."""
        del namespace
        await self._turn()
        return (verb, f"{kind}/{subresource}" if subresource else str(kind)) not in self.forbidden

    async def raw(self, path: str, *, limit: int = 0) -> Answer:
        """See `Kube`."""
        del limit
        await self._turn()
        for start, answer in self.raws.items():
            if path.startswith(start):
                return answer
        if path.startswith("/apis/metrics.k8s.io"):
            return Answer(200, b"{}")
        pods = [
            {"name": "c", "pod": name}
            for name, pod in self._live(POD, "slipway").items()
            if pod["status"]["phase"] == "Running"
        ]
        listed = self.smoke({"source": "kubernetes", "containers": pods})
        return Answer(200, json.dumps(listed).encode())

    async def logs(
        self, namespace: str, pod: str, container: str, *, lines: int, previous: bool = False
    ) -> str:
        """See `Kube`."""
        await self._turn()
        return f"{self.log} ({namespace}/{pod}/{container}, {lines}, {previous})"

    # --- what a test looks at -------------------------------------------------------------------

    def state(self) -> dict[str, Object]:
        """Return what was applied, without what counts versions, by kind and name."""
        shown = {}
        for (kind, _, name), obj in sorted(self.objects.items()):
            if kind in (LEASE, CONFIG_MAP):
                continue
            spec = {key: obj[key] for key in obj if key not in ("metadata", "status")}
            shown[f"{kind} {name}"] = spec
        return shown

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of all objects of a kind that were applied."""
        return tuple(name for found, _, name in sorted(self.objects) if found == kind)

    # --- controllers ----------------------------------------------------------------------------

    def _live(self, kind: Kind, namespace: str) -> dict[str, Object]:
        if kind in (POD, REPLICA_SET):
            found = [
                each
                for deployment in self._stored(DEPLOYMENT, namespace).values()
                for each in self._pods(deployment, kind)
            ]
            return {each["metadata"]["name"]: each for each in found}
        if kind == SLICE:
            return {name: self._slice(name) for name in self._stored(SERVICE, namespace)}
        if kind == AUTOSCALER:
            scaled = self._stored(SCALED_OBJECT, namespace).values()
            return {each["metadata"]["name"]: each for each in map(self._autoscaler, scaled)}
        found_ = self._stored(kind, namespace)
        if kind == DEPLOYMENT:
            return {name: self._deployment(each) for name, each in found_.items()}
        if kind == SCALED_OBJECT:
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            return {name: {**each, "status": ready} for name, each in found_.items()}
        return found_

    def _stored(self, kind: Kind, namespace: str) -> dict[str, Object]:
        return {
            name: obj
            for (found, place, name), obj in self.objects.items()
            if found == kind and namespace in (place, "")
        }

    def _fate(self, deployment: Object) -> str:
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        words = [container["image"], *(each["value"] for each in container.get("env") or ())]
        return next((self.broken[word] for word in words if word in self.broken), "")

    def _deployment(self, obj: Object) -> Object:
        fate = self._fate(obj)
        generation = obj["metadata"]["generation"]
        conditions = []
        if fate == "forbidden":
            message = 'pods "x" is forbidden: violates PodSecurity "restricted:v1.34": privileged'
            conditions.append({"type": "ReplicaFailure", "status": "True", "message": message})
        done = 0 if fate else 2
        return {
            **obj,
            "spec": {**obj["spec"], "replicas": 2},
            "status": {
                "observedGeneration": generation,
                "replicas": 2,
                "updatedReplicas": 2,
                "availableReplicas": done,
                "conditions": conditions,
            },
        }

    def _pods(self, deployment: Object, kind: Kind) -> Sequence[Object]:
        metadata = deployment["metadata"]
        revision = metadata["annotations"]["deployment.kubernetes.io/revision"]
        uid = f"{metadata['uid']}-{revision}"
        name = f"{metadata['name']}-r{revision}"
        owner = {"controller": True, "kind": "Deployment", "uid": metadata["uid"]}
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": "slipway",
                "uid": uid,
                "ownerReferences": [owner],
                "annotations": {"deployment.kubernetes.io/revision": revision},
            },
        }
        if kind == REPLICA_SET:
            return [replica_set]
        fate = self._fate(deployment)
        if fate == "forbidden":
            return []
        return [pod(f"{name}-{index}", uid, fate) for index in range(2)]

    def _slice(self, service: str) -> Object:
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": service,
                "namespace": "slipway",
                "labels": {"kubernetes.io/service-name": service},
            },
            "endpoints": [{"conditions": {"ready": True}}],
        }

    def _autoscaler(self, scaled: Object) -> Object:
        spec = scaled["spec"]
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": f"keda-hpa-{scaled['metadata']['name']}", "namespace": "slipway"},
            "spec": {
                "minReplicas": spec["minReplicaCount"],
                "maxReplicas": spec["maxReplicaCount"],
            },
            "status": {
                "currentReplicas": 2,
                "conditions": [{"type": "ScalingActive", "status": "True"}],
            },
        }

    # --- the rest -------------------------------------------------------------------------------

    def _key(self, obj: Object) -> tuple[Kind, str, str]:
        metadata = obj["metadata"]
        return Kind.of(obj), metadata.get("namespace", ""), metadata["name"]

    def _put(self, obj: Object) -> Object:
        now = copy.deepcopy(obj)
        now["metadata"]["resourceVersion"] = str(self._next_version())
        self.objects[self._key(obj)] = now
        return copy.deepcopy(now)

    async def _turn(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.away_after is not None and len(self.calls) >= self.away_after:
            raise Away("The API server https://fake:6443 does not answer", evidence="refused")

    async def _change(self, call: str) -> None:
        await self._turn()
        self.calls.append(call)
        self.at_change(call)
        # A caller that was told to stop stops here.
        await anyio.lowlevel.checkpoint()

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _next_uid(self) -> str:
        self._uid += 1
        return f"uid-{self._uid}"


def pod(name: str, owner: str = "rs", fate: str = "", **status: Any) -> Object:  # noqa: ANN401 - JSON
    """Return a pod, as the kubelet would have it.

    Args:
        name: Its name.
        owner: The identity of what controls it.
        fate: What became of it; empty for one that is well.
        status: What its status has beside that.
    """
    container: dict[str, Any] = {"name": "api", "image": "i", "ready": not fate, "restartCount": 0}
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "False" if fate else "True"},
    ]
    phase = "Running"
    if fate == "crash":
        container["restartCount"] = 2
        container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
        container["lastState"] = {"terminated": {"exitCode": 3, "reason": "Error"}}
    elif fate == "pull":
        phase = "Pending"
        message = 'Back-off pulling image "i": ErrImagePull: i: not found'
        container["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
    elif fate == "unschedulable":
        phase = "Pending"
        message = "0/1 nodes are available: 1 Insufficient cpu."
        conditions = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
            }
        ]
    else:
        container["state"] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "slipway",
            "uid": name,
            "ownerReferences": [{"controller": True, "kind": "ReplicaSet", "uid": owner}],
        },
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [] if fate == "unschedulable" else [container],
            **status,
        },
    }
