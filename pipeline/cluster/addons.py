"""What `cluster prepare` puts into a cluster, as values: metrics-server and KEDA.

Rules:

- What we install carries a label that says so (`PREPARED`). What does not carry it is somebody
  else's, and is only looked at.
- Deployments are applied last: where all of them are there, everything that they need is too. So
  an installation that was interrupted is told from a whole one.
- An object of Kubernetes is the mapping that its JSON is, and is never changed: functions return
  copies.

Pure: this module does no I/O.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.cluster import versions
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Object = dict[str, Any]
"""An object of Kubernetes, as its JSON is."""

PREPARED = "slipway.io/prepared"
"""The label on everything that we install; its value is the name of the addon."""
VERSION = "slipway.io/version"
"""The annotation with the version that we installed."""

_VERSION_LABEL = "app.kubernetes.io/version"
_NAME_LABEL = "app.kubernetes.io/name"
_SEMANTIC = re.compile(r"v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)")
_CORE_FIRST = ("Namespace", "CustomResourceDefinition")
_LAST = "Deployment"


@dataclass(frozen=True, slots=True)
class Addon:
    """Something that a cluster needs before the system can be deployed to it.

    Attributes:
        name: What it is called, in `PREPARED` too.
        title: What a person calls it.
        version: The one that we install.
        namespace: Where its Deployments are when we install it.
        api: The API that it serves, as its APIService is named.
        deployments: How many Deployments it has when we install it.
        definitions: The custom resources that it defines.
        url: Its release manifest.
    """

    name: str
    title: str
    version: str
    namespace: str
    api: str
    deployments: int
    definitions: tuple[str, ...]
    url: str


KEDA = Addon(
    name="keda",
    title="KEDA",
    version=versions.KEDA,
    namespace="keda",
    api="v1beta1.external.metrics.k8s.io",
    deployments=3,
    definitions=(
        "scaledobjects.keda.sh",
        "scaledjobs.keda.sh",
        "triggerauthentications.keda.sh",
        "clustertriggerauthentications.keda.sh",
    ),
    url=f"https://github.com/kedacore/keda/releases/download/v{versions.KEDA}/"
    f"keda-{versions.KEDA}.yaml",
)
METRICS_SERVER = Addon(
    name="metrics-server",
    title="metrics-server",
    version=versions.METRICS_SERVER,
    namespace="kube-system",
    api="v1beta1.metrics.k8s.io",
    deployments=1,
    definitions=(),
    url="https://github.com/kubernetes-sigs/metrics-server/releases/download/"
    f"v{versions.METRICS_SERVER}/components.yaml",
)


def parse(text: str, source: str) -> tuple[Object, ...]:
    """Return the objects in a manifest.

    Args:
        text: YAML documents.
        source: Where they are from, as an error names it.

    Raises:
        UsageError: It is no manifest.
    """
    import yaml  # 20 ms that `--help` does not cost

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        documents = [each for each in yaml.load_all(text, Loader=loader) if each is not None]
    except yaml.YAMLError as error:
        raise _no_manifest(source, str(error).partition("\n")[0]) from error
    objects: list[Object] = []
    for document in documents:
        is_list = isinstance(document, dict) and document.get("kind") == "List"
        for each in document.get("items") or () if is_list else (document,):
            if not _is_object(each):
                raise _no_manifest(source, "a document in it has no apiVersion, kind and name")
            objects.append(each)
    if not objects:
        raise _no_manifest(source, "it is empty")
    return tuple(objects)


def checked(addon: Addon, objects: tuple[Object, ...], source: str) -> tuple[Object, ...]:
    """Return the objects of a manifest when it is the one of an addon, in the right version.

    Args:
        addon: What it has to hold.
        objects: What it holds.
        source: Where it is from, as an error names it.

    Raises:
        UsageError: It holds something else, or another version.
    """
    names = {each["metadata"]["name"] for each in objects}
    deployments = [each for each in objects if each["kind"] == _LAST]
    missing = {addon.api, *addon.definitions} - names
    if missing or len(deployments) < addon.deployments:
        lacking = sorted(missing) or [f"{addon.deployments} Deployments"]
        raise UsageError(
            f"{source} is not the manifest of {addon.title}: it lacks {', '.join(lacking)}",
            remedy=f"Take the one of the release: {addon.url}",
        )
    found = {version_of(each) for each in deployments} - {"", addon.version}
    if found:
        raise UsageError(
            f"{source} has {addon.title} {', '.join(sorted(found))}, and this needs "
            f"{addon.version}",
            remedy=f"Take the one of that release: {addon.url}",
        )
    return objects


def marked(addon: Addon, objects: Iterable[Object]) -> tuple[Object, ...]:
    """Return the objects as we apply them: marked as ours, in an order that can be interrupted."""

    def rank(obj: Object) -> int:
        kind = obj["kind"]
        if kind in _CORE_FIRST:
            return _CORE_FIRST.index(kind)
        return len(_CORE_FIRST) + (1 if kind == _LAST else 0)

    return tuple(_marked(addon, each) for each in sorted(objects, key=rank))


def is_ours(obj: Mapping[str, Any], addon: Addon) -> bool:
    """Return whether we installed an object."""
    labels = obj["metadata"].get("labels") or {}
    return bool(labels.get(PREPARED) == addon.name)


def version_of(deployment: Mapping[str, Any]) -> str:
    """Return the version that a Deployment runs; empty when nothing of it tells.

    Its own annotation counts before the label that the releases and the Helm chart set, and that
    before the tag of its image.
    """
    metadata = deployment["metadata"]
    ours = (metadata.get("annotations") or {}).get(VERSION, "")
    label = (metadata.get("labels") or {}).get(_VERSION_LABEL, "")
    containers = deployment["spec"]["template"]["spec"]["containers"]
    image = str(containers[0].get("image", "")).partition("@")[0] if containers else ""
    tag = image.rpartition("/")[2].partition(":")[2]
    for text in (ours, label, tag):
        found = _SEMANTIC.fullmatch(str(text))
        if found:
            return found[1]
    return ""


def component(deployment: Mapping[str, Any]) -> str:
    """Return what a Deployment is within its addon: ``keda-operator``, say."""
    metadata = deployment["metadata"]
    return str((metadata.get("labels") or {}).get(_NAME_LABEL) or metadata["name"])


def condition(obj: Mapping[str, Any], kind: str) -> tuple[bool, str]:
    """Return whether a condition of an object is true, and its message."""
    for each in (obj.get("status") or {}).get("conditions") or ():
        if each.get("type") == kind:
            text = each.get("message") or each.get("reason") or ""
            return each.get("status") == "True", str(text).strip().rstrip(".")
    return False, ""


def lacks(deployment: Mapping[str, Any]) -> str:
    """Return what a Deployment still waits for; empty when all of it is available."""
    status = deployment.get("status") or {}
    wanted = deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 1):
        return "not looked at yet"
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if min(updated, available) < wanted:
        return f"{min(updated, available)} of {wanted} pods available"
    if status.get("replicas", 0) > updated:
        return "an old pod is still there"
    return ""


def trouble(pod: Mapping[str, Any]) -> str:
    """Return why a pod does not run, in its own words; empty when it does or says nothing."""
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *_statuses(status)):
        state = each.get("state") or {}
        waiting = state.get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    scheduled = [
        each
        for each in status.get("conditions") or ()
        if each.get("type") == "PodScheduled" and each.get("status") == "False"
    ]
    return "; ".join(f"{each.get('reason')}: {each.get('message', '')}" for each in scheduled)


def probe(namespace: str) -> Object:
    """Return a ScaledObject that KEDA's webhook refuses, to see that it is listening.

    The CPU cannot be had from KEDA's cache of metrics. Of KEDA's rules it is one that the webhook
    alone knows (the bounds, say, are checked by the definition too) and keeps in a dry run, which
    this is only ever sent as (those that would look at the workload are left out there).
    """
    trigger = {
        "type": "cpu",
        "metricType": "Utilization",
        "metadata": {"value": "50"},
        "useCachedMetrics": True,
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "slipway-prepare-probe", "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"name": "slipway-prepare-probe"},
            "minReplicaCount": 1,
            "triggers": [trigger],
        },
    }


def _statuses(status: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    return tuple(status.get("containerStatuses") or ())


def _is_object(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value.get("apiVersion"))
        and bool(value.get("kind"))
        and isinstance(value.get("metadata"), dict)
        and bool(value["metadata"].get("name"))
    )


def _marked(addon: Addon, obj: Object) -> Object:
    changed = copy.deepcopy(obj)
    metadata = changed["metadata"]
    metadata["labels"] = {**(metadata.get("labels") or {}), PREPARED: addon.name}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), VERSION: addon.version}
    # What a release writes about the past of an object is not ours to claim.
    metadata.pop("creationTimestamp", None)
    changed.pop("status", None)
    return changed


def _no_manifest(source: str, why: str) -> UsageError:
    return UsageError(
        f"{source} is no manifest of Kubernetes: {why}",
        remedy="Name a file or an https:// address with the release manifest, or `helm`",
    )
