"""Is it ready? Each kind is judged by its own standard, from what the cluster says of it.

Theory of operation: a snapshot of the cluster goes in, a judgement comes out, and nothing is
remembered. A judgement is one of

    ready       by the standard of its kind
    waiting     not yet, and why
    doubtful    something is wrong that may get better by itself; when it is still wrong after the
                grace of the judgement, it is hopeless
    hopeless    waiting is no use

Rules:

- What a controller has not looked at yet (``observedGeneration``) is not judged by what it said of
  an earlier state.
- A workload is ready when every replica that it wants is of the new template and available, and no
  pod of an older one is left, not even one that is ending.
- Whoever is judged not ready gives the reason in the words of the cluster: of the pod, before those
  of its owner.

Pure: this module does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipeline.deploy.release import Identity, Object

PULL_GRACE = 6.0
"""Seconds for which an image that the registry says it does not have must be missing: it has been
asked twice by then."""
REGISTRY_GRACE = 30.0
"""Seconds for which a registry may be away while a pod is being started."""
CONFIG_GRACE = 10.0
"""Seconds for which a container may lack something that is being applied with it."""
SCHEDULE_GRACE = 20.0
"""Seconds for which no node may have room: pods of the release before are ending."""
QUOTA_GRACE = 20.0
"""Seconds for which a quota may be used up, by pods that are ending."""
PROGRESS_GRACE = 20.0
"""Seconds for which a Deployment may be past its deadline: it counts time in which the API server
was away and nothing could move, and goes on after it."""
SCALER_GRACE = 30.0
"""Seconds for which KEDA may be unhappy with a ScaledObject: it may be starting itself."""
CRASHES = 3
"""Crashes that make a loop. Fewer may be a start before what it needs, which Kubernetes mends."""

_WAITS = frozenset({"ContainerCreating", "PodInitializing", ""})
_PULLING = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
)
_MISNAMED = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_NOT_THERE = (
    "not found",
    "manifest unknown",
    "name unknown",
    "unauthorized",
    "denied",
    "forbidden",
    "no basic auth",
    "x509",
    "insufficient_scope",
    "no match for platform",
)
_ENDED = frozenset({"Succeeded", "Failed"})

State = Literal["ready", "waiting", "doubtful", "hopeless"]


class Culprit(NamedTuple):
    """The container whose own words say what is wrong.

    Attributes:
        namespace: Of its pod.
        pod: Its pod.
        container: Its name; empty when the pod has not come that far.
        crashed: Whether what it wrote before its last end is what counts.
    """

    namespace: str
    pod: str
    container: str = ""
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be thought of an object.

    Attributes:
        state: See the module.
        text: How far it is, or what is wrong, as a person reads it.
        doubt: What the doubt is about; as long as it is the same, its grace runs.
        grace: Seconds until a doubt is none any more.
        culprit: Whose log to show; None when nobody's.
    """

    state: State
    text: str = ""
    doubt: str = ""
    grace: float = 0.0
    culprit: Culprit | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the cluster says at one moment.

    Attributes:
        objects: Those that were applied, as they are; what is not there is missing.
        pods: All pods of the namespaces.
        replica_sets: All ReplicaSets.
        endpoint_slices: All EndpointSlices.
        autoscalers: All HorizontalPodAutoscalers.
        events: All warnings.
    """

    objects: Mapping[Identity, Object] = field(default_factory=dict)
    pods: tuple[Object, ...] = ()
    replica_sets: tuple[Object, ...] = ()
    endpoint_slices: tuple[Object, ...] = ()
    autoscalers: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()


def judge(wanted: Identity, snapshot: Snapshot) -> Judgement:
    """Return what is to be thought of an object that was applied."""
    obj = snapshot.objects.get(wanted)
    if obj is None:
        return Judgement("waiting", "not there")
    if obj["metadata"].get("deletionTimestamp"):
        return Judgement("doubtful", "it is being deleted", "deletion", CONFIG_GRACE)
    if _unobserved(obj):
        return Judgement("waiting", "its controller has not looked at it yet")
    return _JUDGES.get((wanted.group, wanted.kind), _judge_other)(obj, snapshot)


def pods_of(
    deployment: Object, snapshot: Snapshot
) -> tuple[tuple[Object, ...], tuple[Object, ...]]:
    """Return the pods of a Deployment: those of its present template, and older ones."""
    revision = _annotation(deployment, _REVISION)
    owned = [each for each in snapshot.replica_sets if _owned(each, deployment)]
    new = {_uid(each) for each in owned if _annotation(each, _REVISION) == revision}
    old = {_uid(each) for each in owned} - new
    return (
        tuple(pod for pod in snapshot.pods if _owner(pod) in new),
        tuple(pod for pod in snapshot.pods if _owner(pod) in old),
    )


_REVISION = "deployment.kubernetes.io/revision"


def _judge_deployment(obj: Object, snapshot: Snapshot) -> Judgement:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    new, old = pods_of(obj, snapshot)
    wanted = int(spec.get("replicas", 1))
    worst = _worst([_judge_pod(pod, snapshot) for pod in new])
    if worst.state in ("doubtful", "hopeless"):
        return worst
    refused = _condition(obj, "ReplicaFailure")
    if refused.get("status") == "True":
        return _judge_refusal(str(refused.get("message", "")))
    progress = _condition(obj, "Progressing")
    if progress.get("reason") == "ProgressDeadlineExceeded":
        why = worst.text or str(progress.get("message", ""))
        limit = spec.get("progressDeadlineSeconds", 600)
        text = f"no progress for {limit} s: {why}"
        return Judgement("doubtful", text, "progress", PROGRESS_GRACE, worst.culprit)
    updated = int(status.get("updatedReplicas") or 0)
    available = int(status.get("availableReplicas") or 0)
    total = int(status.get("replicas") or 0)
    well = [pod for pod in new if _condition(pod, "Ready").get("status") == "True"]
    left = max(len([pod for pod in old if _phase(pod) not in _ENDED]), total - updated)
    if updated >= wanted and available >= wanted and total == updated == wanted and not left:
        return Judgement("ready", f"{available} of {wanted} available")
    # Available counts old pods as well.
    parts = [f"{min(updated, available, len(well))} of {wanted} available"]
    if left > 0:
        parts.append(f"{left} old still there")
    if worst.text:
        parts.append(worst.text)
    elif updated < wanted:
        parts[0] = f"{updated} of {wanted} updated"
    return Judgement("waiting", ", ".join(parts), culprit=worst.culprit)


def _judge_stateful_set(obj: Object, snapshot: Snapshot) -> Judgement:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    pods = [pod for pod in snapshot.pods if _owned(pod, obj)]
    worst = _worst([_judge_pod(pod, snapshot) for pod in pods])
    if worst.state in ("doubtful", "hopeless"):
        return worst
    updated, available = (
        int(status.get(name) or 0) for name in ("updatedReplicas", "availableReplicas")
    )
    text = f"{min(updated, available)} of {wanted} available"
    same = status.get("currentRevision") == status.get("updateRevision")
    if updated >= wanted and available >= wanted and same:
        return Judgement("ready", text)
    return Judgement("waiting", _and(text, worst.text), culprit=worst.culprit)


def _judge_daemon_set(obj: Object, snapshot: Snapshot) -> Judgement:
    status = obj.get("status") or {}
    pods = [pod for pod in snapshot.pods if _owned(pod, obj)]
    worst = _worst([_judge_pod(pod, snapshot) for pod in pods])
    if worst.state in ("doubtful", "hopeless"):
        return worst
    wanted, updated, available = (
        int(status.get(name) or 0)
        for name in ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
    )
    text = f"{min(updated, available)} of {wanted} available"
    if updated >= wanted and available >= wanted:
        return Judgement("ready", text)
    return Judgement("waiting", _and(text, worst.text), culprit=worst.culprit)


def _judge_job(obj: Object, snapshot: Snapshot) -> Judgement:
    failed = _condition(obj, "Failed")
    if failed.get("status") == "True":
        pods = [pod for pod in snapshot.pods if _owned(pod, obj)]
        culprit = _culprit(pods[-1], _statuses(pods[-1])) if pods else None
        return Judgement("hopeless", f"failed: {failed.get('message', '')}", culprit=culprit)
    if _condition(obj, "Complete").get("status") == "True":
        return Judgement("ready", "complete")
    return Judgement("waiting", "running")


def _judge_service(obj: Object, snapshot: Snapshot) -> Judgement:
    spec, metadata = obj.get("spec") or {}, obj["metadata"]
    if not spec.get("selector"):
        return Judgement("ready")
    ready = sum(
        1
        for each in snapshot.endpoint_slices
        if each["metadata"].get("namespace") == metadata.get("namespace")
        and _label(each, "kubernetes.io/service-name") == metadata["name"]
        for endpoint in each.get("endpoints") or ()
        # An unknown condition means ready.
        # https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions
        if (endpoint.get("conditions") or {}).get("ready") is not False
    )
    if ready:
        return Judgement("ready", f"{ready} endpoint{'s' if ready > 1 else ''}")
    return Judgement("waiting", "no endpoint is ready")


def _judge_disruption_budget(obj: Object, _snapshot: Snapshot) -> Judgement:
    status = obj.get("status") or {}
    healthy, desired = (
        int(status.get("currentHealthy") or 0),
        int(status.get("desiredHealthy") or 0),
    )
    if not status:
        return Judgement("waiting", "its controller has not looked at it yet")
    text = f"{healthy} healthy, {desired} needed"
    return Judgement("ready" if healthy >= desired else "waiting", text)


def _judge_scaled_object(obj: Object, snapshot: Snapshot) -> Judgement:
    paused = _condition(obj, "Paused")
    if paused.get("status") == "True":
        return Judgement("ready", "paused")
    ready = _condition(obj, "Ready")
    if ready.get("status") == "False":
        why = _said(ready)
        return Judgement("doubtful", f"KEDA: {why}", f"keda {why}", SCALER_GRACE)
    if ready.get("status") != "True":
        return Judgement("waiting", "KEDA has not looked at it yet")
    name = (obj.get("status") or {}).get("hpaName") or f"keda-hpa-{obj['metadata']['name']}"
    scaler = next(
        (
            each
            for each in snapshot.autoscalers
            if each["metadata"]["name"] == name
            and each["metadata"].get("namespace") == obj["metadata"].get("namespace")
        ),
        None,
    )
    if scaler is None:
        return Judgement("waiting", f"KEDA has not made its autoscaler {name} yet")
    # KEDA does not say which generation its Ready speaks of: that the autoscaler has the bounds
    # does.
    spec, bounds = obj.get("spec") or {}, scaler.get("spec") or {}
    for ours, theirs in (("minReplicaCount", "minReplicas"), ("maxReplicaCount", "maxReplicas")):
        if spec.get(ours) is not None and bounds.get(theirs) != spec[ours]:
            return Judgement("waiting", f"KEDA has not passed {ours} {spec[ours]} on yet")
    return _judge_autoscaler(scaler, snapshot)


def _judge_autoscaler(obj: Object, _snapshot: Snapshot) -> Judgement:
    able = _condition(obj, "AbleToScale")
    if able.get("status") == "False":
        return Judgement("waiting", f"cannot scale: {_said(able)}")
    active = _condition(obj, "ScalingActive")
    if active.get("status") != "True":
        why = _said(active) if active else "it has not looked at its metrics yet"
        why = why.removeprefix("the HPA was unable to compute the replica count: ")
        return Judgement("waiting", f"does not scale yet: {why}")
    return Judgement("ready", scaling(obj))


def _judge_namespace(obj: Object, _snapshot: Snapshot) -> Judgement:
    phase = (obj.get("status") or {}).get("phase", "")
    return Judgement("ready" if phase in ("", "Active") else "waiting", phase)


def _judge_claim(obj: Object, _snapshot: Snapshot) -> Judgement:
    phase = (obj.get("status") or {}).get("phase", "Pending")
    return Judgement("ready" if phase == "Bound" else "waiting", phase)


def _judge_other(obj: Object, _snapshot: Snapshot) -> Judgement:
    """Judge as kstatus does: by the conditions that a custom resource has, if it has them."""
    stalled = _condition(obj, "Stalled")
    if stalled.get("status") == "True":
        return Judgement("doubtful", _said(stalled), f"stalled {_said(stalled)}", CONFIG_GRACE)
    for name in ("Ready", "Established"):
        found = _condition(obj, name)
        if found and found.get("status") != "True":
            return Judgement("waiting", _said(found))
    return Judgement("ready")


_JUDGES: dict[tuple[str, str], Callable[[Object, Snapshot], Judgement]] = {
    ("apps", "Deployment"): _judge_deployment,
    ("apps", "StatefulSet"): _judge_stateful_set,
    ("apps", "DaemonSet"): _judge_daemon_set,
    ("batch", "Job"): _judge_job,
    ("", "Service"): _judge_service,
    ("", "Namespace"): _judge_namespace,
    ("", "PersistentVolumeClaim"): _judge_claim,
    ("policy", "PodDisruptionBudget"): _judge_disruption_budget,
    ("keda.sh", "ScaledObject"): _judge_scaled_object,
    ("autoscaling", "HorizontalPodAutoscaler"): _judge_autoscaler,
}


def scaling(autoscaler: Object) -> str:
    """Return how an autoscaler scales: replicas, bounds and metrics."""
    spec, status = autoscaler.get("spec") or {}, autoscaler.get("status") or {}
    now = status.get("currentReplicas", "?")
    text = f"{now} replicas of {spec.get('minReplicas', 1)} to {spec.get('maxReplicas', '?')}"
    used = {
        (each.get("resource") or {}).get("name"): (each["resource"].get("current") or {})
        for each in status.get("currentMetrics") or ()
        if each.get("resource")
    }
    for each in spec.get("metrics") or ():
        resource = each.get("resource")
        if not resource:
            continue
        target = (resource.get("target") or {}).get("averageUtilization")
        current = used.get(resource.get("name"), {}).get("averageUtilization")
        shown = "?" if current is None else current
        text += f", {resource.get('name')} {shown} % of {target} %"
    return text


def event_time(event: Object) -> str:
    """Return when an event was last seen, as the cluster writes it; empty when it does not say."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or (event.get("metadata") or {}).get("creationTimestamp")
        or ""
    )


def _judge_pod(pod: Object, snapshot: Snapshot) -> Judgement:
    name = f"pod {pod['metadata']['name']}"
    if pod["metadata"].get("deletionTimestamp") or _phase(pod) in _ENDED:
        # Somebody ends it, and its owner sees to another one.
        return Judgement("waiting")
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _judge_schedule(pod, name, scheduled, snapshot)
    for status in _statuses(pod):
        found = _judge_container(pod, name, status)
        if found is not None:
            return found
    if _condition(pod, "Ready").get("status") == "True":
        return Judgement("ready")
    statuses = _statuses(pod)
    unready = [each for each in statuses if not each.get("ready")]
    culprit = _culprit(pod, unready) if unready else Culprit(*_place(pod))
    event = _latest(pod, snapshot)
    if event:
        return Judgement("waiting", f"{name}: {event}", culprit=culprit)
    return Judgement("waiting", f"{name} {'starts' if not statuses else 'is not ready'}")


def _judge_schedule(
    pod: Object, name: str, condition: Mapping[str, Any], snapshot: Snapshot
) -> Judgement:
    message = _said(condition)
    if condition.get("reason") != "Unschedulable":
        return Judgement("waiting", f"{name}: {message}")
    text = f"{name} fits on no node: {message}"
    growing = any(
        each.get("reason") == "TriggeredScaleUp" and _involves(each, pod)
        for each in snapshot.events
    )
    if growing:
        return Judgement("waiting", f"{text} (a node is being added)")
    return Judgement("doubtful", text, "schedule", SCHEDULE_GRACE, Culprit(*_place(pod)))


def _judge_container(pod: Object, name: str, status: Mapping[str, Any]) -> Judgement | None:
    """Return what is wrong with a container; None when nothing is."""
    before = status.get("lastState") or {}
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    culprit = Culprit(*_place(pod), str(status.get("name", "")), crashed="terminated" in before)
    if not waiting or reason in _WAITS:
        return None
    if reason in _PULLING:
        absent = any(sign in message.lower() for sign in _NOT_THERE)
        image = str(status.get("image", ""))
        # Each layer of the runtime names the image anew; the last one has the reason.
        why = message.rpartition(f'{image}": ')[2] or reason
        return Judgement(
            "doubtful",
            f"{name} cannot pull its image {image}: {why}",
            "image",
            PULL_GRACE if absent else REGISTRY_GRACE,
            culprit,
        )
    if reason in _MISNAMED:
        return Judgement("hopeless", f"{name}: {reason}: {message}", culprit=culprit)
    if reason == "CrashLoopBackOff":
        ended = before.get("terminated") or {}
        crashes = int(status.get("restartCount") or 0) + 1
        text = f"{name} crashes: {_ending(ended)} ({crashes} times)"
        state: State = "hopeless" if crashes >= CRASHES else "waiting"
        return Judgement(state, text, culprit=culprit)
    # CreateContainerConfigError, CreateContainerError, RunContainerError and whatever else is new.
    text = f"{name}: {reason}: {message}".rstrip(": ")
    return Judgement("doubtful", text, reason, CONFIG_GRACE, culprit)


def _judge_refusal(message: str) -> Judgement:
    """Judge that a ReplicaSet may not make a pod."""
    text = f"no pod may be made: {message}"
    if "exceeded quota" in message:
        return Judgement("doubtful", text, "quota", QUOTA_GRACE)
    if "violates PodSecurity" in message or "is invalid" in message:
        return Judgement("hopeless", text)
    return Judgement("doubtful", text, "refusal", QUOTA_GRACE)


_SEVERITY: tuple[State, ...] = ("ready", "waiting", "doubtful", "hopeless")


def _worst(found: Sequence[Judgement]) -> Judgement:
    """Return the worst judgement; among equals, the first that says something."""
    worst = Judgement("ready")
    for each in found:
        level, before = _SEVERITY.index(each.state), _SEVERITY.index(worst.state)
        if level > before or (level == before and each.text and not worst.text):
            worst = each
    return worst


def _unobserved(obj: Object) -> bool:
    status = obj.get("status") or {}
    if not isinstance(status, dict) or "observedGeneration" not in status:
        # Those that always say it have not been looked at when they do not say it.
        return obj["kind"] in ("Deployment", "StatefulSet", "DaemonSet") and not status.get(
            "conditions"
        )
    return int(status["observedGeneration"] or 0) < int(obj["metadata"].get("generation") or 0)


def _statuses(pod: Object) -> tuple[Mapping[str, Any], ...]:
    status = pod.get("status") or {}
    return (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    )


def _culprit(pod: Object, statuses: Sequence[Mapping[str, Any]]) -> Culprit:
    status = statuses[-1] if statuses else {}
    running = bool((status.get("state") or {}).get("running"))
    return Culprit(
        *_place(pod),
        str(status.get("name", "")),
        crashed=not running and bool(statuses) and "terminated" in (status.get("lastState") or {}),
    )


def _place(pod: Object) -> tuple[str, str]:
    return str(pod["metadata"].get("namespace", "")), str(pod["metadata"]["name"])


def _ending(ended: Mapping[str, Any]) -> str:
    """Return how a container ended."""
    reason = str(ended.get("reason") or "")
    code = ended.get("exitCode")
    text = f"exit code {code}" if reason in ("", "Error", "Completed") else f"{reason} ({code})"
    message = str(ended.get("message") or "").strip()
    return f"{text}: {message}" if message else text


def _latest(pod: Object, snapshot: Snapshot) -> str:
    """Return the message of the latest warning about a pod; empty when there is none."""
    about = [each for each in snapshot.events if _involves(each, pod)]
    if not about:
        return ""
    latest = max(about, key=event_time)
    return str(latest.get("message") or latest.get("reason") or "").strip()


def _involves(event: Object, obj: Object) -> bool:
    return bool((event.get("involvedObject") or {}).get("uid") == _uid(obj))


def _condition(obj: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    status = obj.get("status") or {}
    conditions: Iterable[Mapping[str, Any]] = status.get("conditions") or ()
    return next((each for each in conditions if each.get("type") == name), {})


def _said(condition: Mapping[str, Any]) -> str:
    return str(condition.get("message") or condition.get("reason") or "it does not say why").strip()


def _and(text: str, more: str) -> str:
    return f"{text}, {more}" if more else text


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))


def _owner(obj: Object) -> str:
    for each in obj["metadata"].get("ownerReferences") or ():
        if each.get("controller"):
            return str(each.get("uid", ""))
    return ""


def _owned(obj: Object, owner: Object) -> bool:
    return _owner(obj) == _uid(owner)


def _annotation(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def _label(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(name, ""))
