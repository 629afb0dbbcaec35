"""What holds for the objects of every overlay, as functions from the objects to complaints.

Rules:

- A rule returns one sentence for each thing that is wrong, and names it; none when all is well.
- Each rule has mutations in `test_rules.py` that it complains of: a rule that cannot fail is none.

Pure: this module does no I/O.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from .objects import labels_of, name_of, of, pod_of, selects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .objects import Object

    Rule = Callable[[Sequence[Object]], list[str]]

READER = "slipway-api"
"""The one workload that may ask the Kubernetes API."""
_QUANTITY = re.compile(r"(\d+)(m|Ki|Mi|Gi)?")
_FACTORS = {"": 1.0, "m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_SPARE = 5


def quantity(text: object) -> float:
    """Return a quantity of Kubernetes as a number of processors or bytes.

    Raises:
        ValueError: It is not of a form that the manifests use.
    """
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is no quantity that is known here")
    return int(found[1]) * _FACTORS[found[2] or ""]


def keda(objects: Sequence[Object]) -> list[str]:
    """KEDA's admission rules for what scales on CPU, and one of ours: no `replicas` beside it."""
    deployments = {name_of(each): each for each in of(objects, "Deployment")}
    scaled = of(objects, "ScaledObject")
    targets = [each["spec"]["scaleTargetRef"]["name"] for each in scaled]
    found = [complaint for each in scaled for complaint in _scaled(each)]
    found += [f"{each} is scaled twice" for each in set(targets) if targets.count(each) > 1]
    found += [f"{each} is scaled, and is not there" for each in set(targets) - deployments.keys()]
    for name, deployment in deployments.items():
        if name not in targets:
            found.append(f"{name} is scaled by nothing")
        if "replicas" in deployment["spec"]:
            found.append(f"{name} has replicas, which the autoscaler owns")
        found += [
            f"{name}: container {each['name']} requests no CPU"
            for each in pod_of(deployment)["containers"]
            if "cpu" not in each.get("resources", {}).get("requests", {})
        ]
    return found


def _scaled(scaled: Object) -> Iterator[str]:
    name, spec = name_of(scaled), scaled["spec"]
    low, high = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    if low < 1:
        yield f"{name} has minReplicaCount {low}, and CPU cannot be measured on no pod"
    if high < low:
        yield f"{name} has maxReplicaCount {high}, below its minReplicaCount {low}"
    for trigger in spec["triggers"]:
        yield from _trigger(name, trigger)


def _trigger(name: str, trigger: Object) -> Iterator[str]:
    metadata = trigger.get("metadata", {})
    if trigger["type"] != "cpu" or trigger.get("metricType") != "Utilization":
        yield f"{name} has a trigger that is not of CPU with metricType Utilization"
    if "type" in metadata:
        yield f"{name} has metadata.type, which KEDA has removed"
    if not (isinstance(metadata.get("value"), str) and metadata["value"].isdigit()):
        yield f"{name} has a value that is not a number in a string"


def rollout(objects: Sequence[Object]) -> list[str]:
    """A rollout loses no request: surge first, probes, a pause before the end, time to finish."""
    return [
        f"{name_of(each)}: {complaint}"
        for each in of(objects, "Deployment")
        for complaint in _rollout(each["spec"])
    ]


def _rollout(spec: Object) -> Iterator[str]:
    rolling = spec.get("strategy", {}).get("rollingUpdate", {})
    if rolling.get("maxUnavailable") != 0:
        yield "maxUnavailable is not 0"
    if not spec.get("minReadySeconds"):
        yield "minReadySeconds is not set"
    if spec.get("progressDeadlineSeconds", math.inf) > 300:
        yield "progressDeadlineSeconds is not set, or above 300"
    pod = spec["template"]["spec"]
    keys = {each["topologyKey"] for each in pod.get("topologySpreadConstraints", ())}
    if missing := {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} - keys:
        yield f"is not spread over {', '.join(sorted(missing))}"
    grace = pod.get("terminationGracePeriodSeconds", 0)
    for container in pod["containers"]:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in container:
                yield f"{container['name']} has no {probe}"
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not pause:
            yield f"{container['name']} has no preStop sleep"
        # Both give what is in flight 8 s: SLIPWAY_GRACEFUL_TIMEOUT and worker_shutdown_timeout.
        if grace < pause + 8 + _SPARE:
            yield f"terminationGracePeriodSeconds {grace} is too short for {pause} s and 8 s"


def hardening(objects: Sequence[Object]) -> list[str]:
    """Pod Security's `restricted`, and more: a read-only root, a numeric user, bounded /tmp."""
    found = [
        f"{name_of(each)}: {complaint}"
        for each in of(objects, "Deployment")
        for complaint in _hardening(pod_of(each))
    ]
    for namespace in of(objects, "Namespace"):
        labels = namespace["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            found.append(f"{name_of(namespace)} does not enforce Pod Security restricted")
    if len(of(objects, "Namespace")) != 1:
        found.append("there is not one Namespace")
    return found


def _hardening(pod: Object) -> Iterator[str]:
    context = pod.get("securityContext", {})
    wanted = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001}
    if context | wanted != context:
        yield "does not run as 10001:10001 and never as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccomp is not RuntimeDefault"
    if pod.get("enableServiceLinks") is not False:
        yield "has variables of Services"
    if {"hostNetwork", "hostPID", "hostIPC"} & pod.keys():
        yield "shares something of its host"
    for volume in pod.get("volumes", ()):
        if not volume.get("emptyDir", {}).get("sizeLimit"):
            yield f"volume {volume['name']} is no emptyDir with a limit"
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        for complaint in [*_context(container), *_room(container)]:
            yield f"{container['name']} {complaint}"


def _context(container: Object) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if {"privileged", "runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile"} & own.keys():
        yield "overrides its pod"


def _room(container: Object) -> Iterator[str]:
    if "/tmp" not in {each["mountPath"] for each in container.get("volumeMounts", ())}:  # noqa: S108 - the path that a pod mounts
        yield "has no /tmp"
    for side in ("requests", "limits"):
        there = container.get("resources", {}).get(side, {})
        for resource in ("cpu", "memory", "ephemeral-storage"):
            if resource not in there:
                yield f"has no {side} of {resource}"


def tokens(objects: Sequence[Object]) -> list[str]:
    """Only the API's pods mount a token, and no ServiceAccount gives one to a pod by itself."""
    accounts = {name_of(each) for each in of(objects, "ServiceAccount")}
    found = [
        f"ServiceAccount {name_of(each)} mounts its token everywhere"
        for each in of(objects, "ServiceAccount")
        if each.get("automountServiceAccountToken") is not False
    ]
    for deployment in of(objects, "Deployment"):
        name, pod = name_of(deployment), pod_of(deployment)
        if pod.get("serviceAccountName") != name or name not in accounts:
            found.append(f"{name} has no ServiceAccount of its own")
        if pod.get("automountServiceAccountToken") is not (name == READER):
            found.append(f"{name} mounts a token it has no use for, or lacks the one it needs")
    return found


def rights(objects: Sequence[Object]) -> list[str]:
    """The API may get, list and watch the pods of its namespace; nobody else may do anything."""
    found = []
    allowed = [each["rules"] for each in of(objects, "Role")]
    if allowed != [[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]]:
        found.append("the roles allow something other than get, list and watch of pods")
    bound = [
        (binding["roleRef"]["kind"], binding["roleRef"]["name"], subject["kind"], subject["name"])
        for binding in of(objects, "RoleBinding")
        for subject in binding["subjects"]
    ]
    if bound != [("Role", READER, "ServiceAccount", READER)]:
        found.append("a role is bound to something other than the API's ServiceAccount")
    if {"ClusterRole", "ClusterRoleBinding"} & {each["kind"] for each in objects}:
        found.append("something has rights in the whole cluster")
    return found


def references(objects: Sequence[Object]) -> list[str]:
    """Whatever selects or names another object finds it."""
    deployments = of(objects, "Deployment")
    found = [
        f"Service {name_of(each)} {complaint}"
        for each in of(objects, "Service")
        for complaint in _service(each, deployments)
    ]
    for deployment in deployments:
        found += _selection(deployment, of(objects, "PodDisruptionBudget"))
    services = {name_of(each) for each in of(objects, "Service")}
    found += [
        f"Ingress {name_of(each)} leads nowhere"
        for each in of(objects, "Ingress")
        for rule in each["spec"]["rules"]
        for path in rule["http"]["paths"]
        if path["backend"]["service"]["name"] not in services
    ]
    return found


def _service(service: Object, deployments: Sequence[Object]) -> Iterator[str]:
    spec = service["spec"]
    if spec.get("type") != "ClusterIP":
        yield "is of another type than ClusterIP"
    chosen = [each for each in deployments if _covers(each, {"matchLabels": spec["selector"]})]
    if [name_of(each) for each in chosen] != [name_of(service)]:
        yield "does not select the Deployment of its name alone"
        return
    named = {
        port["name"]: port["containerPort"]
        for container in pod_of(chosen[0])["containers"]
        for port in container["ports"]
    }
    for port in spec["ports"]:
        if named.get(port["targetPort"]) != port["port"]:
            yield f"has a port {port['name']} that leads nowhere"


def _selection(deployment: Object, budgets: Sequence[Object]) -> Iterator[str]:
    name = name_of(deployment)
    own = [name_of(each) for each in budgets if _covers(deployment, each["spec"]["selector"])]
    if own != [name]:
        yield f"{name} has no PodDisruptionBudget of its name, or several"
    if not _covers(deployment, deployment["spec"]["selector"]):
        yield f"{name} does not select its own pods"
    spread = pod_of(deployment).get("topologySpreadConstraints", ())
    if not all(_covers(deployment, each["labelSelector"]) for each in spread):
        yield f"{name} spreads the pods of something else"


def _covers(deployment: Object, selector: Object) -> bool:
    return selects(selector, labels_of(deployment))


def budgets(objects: Sequence[Object]) -> list[str]:
    """A drain can always go on: the budget leaves at least one pod of the minimum to evict."""
    scaled = {name_of(each): each["spec"] for each in of(objects, "ScaledObject")}
    found = []
    for budget in of(objects, "PodDisruptionBudget"):
        name, spec = name_of(budget), budget["spec"]
        low = scaled[name]["minReplicaCount"]
        if spec.get("maxUnavailable", 1) < 1 or spec.get("minAvailable", 0) >= low:
            found.append(f"{name}: with {low} pods, none may ever be evicted")
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            found.append(f"{name}: a pod that is not ready keeps its node from being drained")
    return found


def quota(objects: Sequence[Object]) -> list[str]:
    """The quota holds twice the maximum of all workloads: those of a rollout at full scale."""
    found = []
    (hard,) = (each["spec"]["hard"] for each in of(objects, "ResourceQuota"))
    high = {name_of(each): each["spec"]["maxReplicaCount"] for each in of(objects, "ScaledObject")}
    needs: dict[str, float] = {"pods": 2.0 * sum(high.values())}
    for deployment in of(objects, "Deployment"):
        for container in pod_of(deployment)["containers"]:
            for side in ("requests", "limits"):
                for resource in ("cpu", "memory"):
                    need = (
                        2
                        * high[name_of(deployment)]
                        * quantity(container["resources"][side][resource])
                    )
                    key = f"{side}.{resource}"
                    needs[key] = needs.get(key, 0.0) + need
    for key, need in needs.items():
        if quantity(hard[key]) < need:
            found.append(f"the quota has {hard[key]} of {key}, and a rollout may need {need:g}")
    return found


def limits(objects: Sequence[Object]) -> list[str]:
    """No container has a limit above that of the LimitRange, or below what it requests."""
    (limit,) = (each["spec"]["limits"][0] for each in of(objects, "LimitRange"))
    sides: list[tuple[str, dict[str, Any]]] = [
        (f"{name_of(each)}: {container['name']}", container["resources"])
        for each in of(objects, "Deployment")
        for container in pod_of(each)["containers"]
    ]
    sides.append(
        ("the LimitRange", {"requests": limit["defaultRequest"], "limits": limit["default"]})
    )
    found = []
    for where, resources in sides:
        for resource, most in limit["max"].items():
            request = quantity(resources["requests"][resource])
            cap = quantity(resources["limits"][resource])
            if not request <= cap <= quantity(most):
                found.append(f"{where}: {resource} is out of order: {request:g}, {cap:g}, {most}")
    return found


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        keda,
        rollout,
        hardening,
        tokens,
        rights,
        references,
        budgets,
        quota,
        limits,
    )
}
"""All of them, by name."""
