"""A cluster in memory: it keeps what is applied, and says of it what a real one would."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml

from pipeline.cluster import addons
from pipeline.kube import Answer, Kind, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.kube import Object

Key = tuple[str, str, str, str]


@dataclass
class FakeSettings:
    """The settings that the commands about clusters read."""

    provider: Literal["minikube", "local"] = "minikube"
    context: str = ""
    keda: str = ""
    registry: str = "127.0.0.1:5050"
    docker_host: str = "unix:///nowhere/docker.sock"
    ca: Path | None = None


def key(obj: Object) -> Key:
    """Return what tells an object apart."""
    kind, metadata = Kind.of(obj), obj["metadata"]
    return kind.group, kind.name, metadata.get("namespace", ""), metadata["name"]


@dataclass
class FakeKube:
    """A cluster of one node, in which everything that is applied is ready at once.

    Attributes:
        settle: Writes the status of an object that was applied; by default that it is ready.
        refusal: What the webhook says of the probe; empty lets it pass.
        metered: Whether metrics-server has figures of the nodes.
    """

    context: str = "test"
    server: str = "https://127.0.0.1:6443"
    version: str = "v1.36.3"
    objects: dict[Key, Object] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    settle: Callable[[Object], None] = field(default_factory=lambda: ready)
    refusal: str = 'admission webhook "vscaledobject.kb.io" denied the request: no'
    metered: bool = True
    reads: int = 0

    def put(self, *objects: Object) -> None:
        """Have objects in the cluster that somebody else made, and that are ready."""
        for each in objects:
            there = copy.deepcopy(each)
            self.settle(there)
            self.objects[key(there)] = there

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """Return an object."""
        self.reads += 1
        return copy.deepcopy(self.objects.get((kind.group, kind.name, namespace, name)))

    async def list(self, kind: Kind, namespace: str = "", *, labels: str = "") -> list[Object]:
        """Return the objects of a kind that have the labels."""
        self.reads += 1
        wanted = [each.partition("=") for each in labels.split(",") if each]
        found = []
        for (group, name, place, _), each in self.objects.items():
            have = each["metadata"].get("labels") or {}
            if (group, name) != (kind.group, kind.name) or (namespace and place != namespace):
                continue
            if all(have.get(k) == v if sign else k in have for k, sign, v in wanted):
                found.append(copy.deepcopy(each))
        return found

    async def apply(
        self, obj: Object, *, dry_run: bool = False, force: bool = False, manager: str = "slipway"
    ) -> Object:
        """Keep an object, unless it is the probe."""
        assert not force
        if dry_run:
            if self.refusal:
                raise Refused("refused", evidence=self.refusal, status=403, reason="Forbidden")
            return obj
        assert manager == "slipway-prepare"
        self.applied.append(f"{obj['kind']} {obj['metadata']['name']}")
        self.put(obj)
        return obj

    async def raw(self, path: str, *, limit: int = 0) -> Answer:  # noqa: ARG002 - as the real one
        """Answer as the metrics APIs do when they are there."""
        if path == "/apis/metrics.k8s.io/v1beta1/nodes":
            found: Any = {"items": [{"metadata": {"name": "node"}}] if self.metered else []}
        elif ("apiregistration.k8s.io", "APIService", "", addons.KEDA.api) in self.objects:
            found = {"resources": [{"name": "externalmetrics"}]}
        else:
            return Answer(404, b"not found")
        return Answer(200, json.dumps(found).encode())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what preparing does not use
        raise AssertionError(f"preparing a cluster does not need Kube.{name}")


def ready(obj: Object) -> None:
    """Say of an object what a cluster says when it is ready."""
    kind = obj["kind"]
    if kind == "Deployment":
        obj["metadata"]["generation"] = 1
        obj["status"] = {
            "observedGeneration": 1,
            "replicas": 1,
            "updatedReplicas": 1,
            "availableReplicas": 1,
        }
    elif kind in ("APIService", "CustomResourceDefinition"):
        true = "Available" if kind == "APIService" else "Established"
        obj["status"] = {"conditions": [{"type": true, "status": "True", "message": "ok"}]}


def deployment(name: str, namespace: str, image: str, **labels: str) -> Object:
    """Return a Deployment of one container."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {key.replace("_", "/"): value for key, value in labels.items()},
        },
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"spec": {"containers": [{"name": name, "image": image}]}},
        },
    }


def named(api_version: str, kind: str, name: str, namespace: str = "") -> Object:
    """Return an object with nothing but its name."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def keda(version: str = addons.KEDA.version) -> tuple[Object, ...]:
    """Return the manifest of KEDA, as much of it as counts, with Deployments first."""
    labels = {"app.kubernetes.io_part-of": "keda-operator", "app.kubernetes.io_version": version}
    names = {"keda-operator": "keda", "keda-metrics-apiserver": "m", "keda-admission": "w"}
    hook = named("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "keda")
    hook["webhooks"] = [{"rules": [{"resources": ["scaledobjects"]}]}]
    return (
        *(
            deployment(
                name,
                "keda",
                f"ghcr.io/kedacore/{image}:{version}",
                **labels,
                **{"app.kubernetes.io_name": name},
            )
            for name, image in names.items()
        ),
        named("v1", "ServiceAccount", "keda-operator", "keda"),
        *(
            named("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
            for name in addons.KEDA.definitions
        ),
        named("apiregistration.k8s.io/v1", "APIService", addons.KEDA.api),
        hook,
        named("v1", "Namespace", "keda"),
    )


def metrics_server() -> tuple[Object, ...]:
    """Return the manifest of metrics-server, as much of it as counts."""
    image = f"registry.k8s.io/metrics-server/metrics-server:v{addons.METRICS_SERVER.version}"
    return (
        named("v1", "ServiceAccount", "metrics-server", "kube-system"),
        deployment("metrics-server", "kube-system", image),
        named("apiregistration.k8s.io/v1", "APIService", addons.METRICS_SERVER.api),
    )


def text(objects: tuple[Object, ...]) -> str:
    """Return objects as a manifest."""
    return yaml.safe_dump_all(objects)
