"""Is it ready? Each kind by its own standard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.deploy.readiness import Judgement, Snapshot, judge, scaling
from pipeline.deploy.release import identity

from .deploy_fakes import manifest, pod

if TYPE_CHECKING:
    from pipeline.deploy.release import Object

HASH = "deployment.kubernetes.io/revision"


def owned(kind: str, uid: str) -> list[dict[str, Any]]:
    """Return the reference to a controller."""
    return [{"controller": True, "kind": kind, "uid": uid}]


def deployment(wanted: int = 2, *, generation: int = 3, **status: Any) -> Object:  # noqa: ANN401 - JSON
    """Return a Deployment that is ready, but for what is said."""
    made = manifest("apps/v1", "Deployment", "d", spec={"replicas": wanted})
    made["metadata"] |= {"uid": "d", "generation": generation, "annotations": {HASH: "2"}}
    made["status"] = {
        "observedGeneration": 3,
        "replicas": wanted,
        "updatedReplicas": wanted,
        "availableReplicas": wanted,
        **status,
    }
    return made


def replica_set(revision: str) -> Object:
    """Return a ReplicaSet of the Deployment."""
    made = manifest("apps/v1", "ReplicaSet", f"d-{revision}")
    made["metadata"] |= {
        "uid": f"rs-{revision}",
        "ownerReferences": owned("Deployment", "d"),
        "annotations": {HASH: revision},
    }
    return made


SETS = (replica_set("1"), replica_set("2"))


def judged(obj: Object, *pods: Object, **more: Any) -> Judgement:  # noqa: ANN401 - a snapshot's
    """Return what is thought of an object, with these pods around."""
    snapshot = Snapshot(objects={identity(obj): obj}, pods=pods, replica_sets=SETS, **more)
    return judge(identity(obj), snapshot)


def condition(name: str, status: str = "True", **more: str) -> dict[str, str]:
    """Return a condition."""
    return {"type": name, "status": status, **more}


def container(
    reason: str, message: str = "", restarts: int = 0, **more: object
) -> list[dict[str, Any]]:
    """Return the status of a container that waits."""
    waiting = {"reason": reason, "message": message}
    return [
        {
            "name": "api",
            "image": "i",
            "ready": False,
            "restartCount": restarts,
            "state": {"waiting": waiting},
            **more,
        }
    ]


NEW = (pod("d-2-a", "rs-2"), pod("d-2-b", "rs-2"))


@pytest.mark.parametrize(
    ("obj", "pods", "state", "text"),
    [
        (deployment(), NEW, "ready", "2 of 2 available"),
        (deployment(0), (), "ready", "0 of 0 available"),
        (deployment(generation=4), NEW, "waiting", "its controller has not looked at it yet"),
        (deployment(updatedReplicas=1), NEW, "waiting", "1 of 2 updated, 1 old still there"),
        (deployment(availableReplicas=1), NEW, "waiting", "1 of 2 available"),
        (deployment(replicas=3), NEW, "waiting", "2 of 2 available, 1 old still there"),
        (
            deployment(),
            (*NEW, pod("d-1-a", "rs-1")),
            "waiting",
            "2 of 2 available, 1 old still there",
        ),
        (
            deployment(availableReplicas=0),
            (pod("d-2-a", "rs-2", "unready"),),
            "waiting",
            "0 of 2 available, pod d-2-a is not ready",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_deployment_is_ready_when_all_of_it_is_new_and_available(
    obj: Object, pods: tuple[Object, ...], state: str, text: str
) -> None:
    """Observed generation, updated = available = wanted, and no old pod left."""
    found = judged(obj, *pods)
    assert (found.state, found.text) == (state, text)


def test_an_old_pod_that_is_ending_still_counts_as_left() -> None:
    """A pod with a deletion timestamp may still answer: it is waited for."""
    ending = pod("d-1-a", "rs-1")
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert judged(deployment(), *NEW, ending).text == "2 of 2 available, 1 old still there"
    ended = pod("d-1-a", "rs-1", phase="Failed")
    assert judged(deployment(), *NEW, ended).state == "ready"


PULL = "failed to pull and unpack image: not found"
AWAY = "dial tcp 10.0.0.1:5000: connect: connection refused"


@pytest.mark.parametrize(
    ("statuses", "state", "doubt", "text"),
    [
        (container("ContainerCreating"), "waiting", "", "pod p is not ready"),
        (container("ErrImagePull", PULL), "doubtful", "image", f"image i: {PULL}"),
        (container("ImagePullBackOff", PULL), "doubtful", "image", f"image i: {PULL}"),
        (container("ImagePullBackOff", AWAY), "doubtful", "image", f"image i: {AWAY}"),
        (container("InvalidImageName", "no"), "hopeless", "", "InvalidImageName: no"),
        (
            container("CreateContainerConfigError", 'secret "x" not found'),
            "doubtful",
            "CreateContainerConfigError",
            'CreateContainerConfigError: secret "x" not found',
        ),
        (
            container("RunContainerError", "e"),
            "doubtful",
            "RunContainerError",
            "RunContainerError: e",
        ),
        (container("CrashLoopBackOff", "", 1), "waiting", "", "crashes: exit code None (2 times)"),
        (
            container("CrashLoopBackOff", "", 2, lastState={"terminated": {"exitCode": 1}}),
            "hopeless",
            "",
            "pod p crashes: exit code 1 (3 times)",
        ),
        (
            container(
                "CrashLoopBackOff",
                "",
                2,
                lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            ),
            "hopeless",
            "",
            "pod p crashes: OOMKilled (137) (3 times)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pod_is_judged_by_its_containers(
    statuses: list[dict[str, Any]], state: str, doubt: str, text: str
) -> None:
    """What a container waits for decides whether waiting is of use, in the cluster's words."""
    bad = pod("p", "rs-2", "unready", containerStatuses=statuses)
    found = judged(deployment(availableReplicas=0), NEW[0], bad)
    assert (found.state, found.doubt) == (state, doubt)
    assert text in found.text


def test_init_containers_count_too() -> None:
    """A pod whose init container cannot start is as hopeless."""
    bad = pod("p", "rs-2", "unready", initContainerStatuses=container("InvalidImageName", "no"))
    assert judged(deployment(availableReplicas=0), bad).state == "hopeless"


def test_a_registry_that_is_away_is_given_longer_than_an_image_that_is_not_there() -> None:
    """A missing image will not come; a registry may."""
    missing, away = (
        judged(
            deployment(availableReplicas=0),
            pod("p", "rs-2", "u", containerStatuses=container("ErrImagePull", message)),
        )
        for message in (PULL, AWAY)
    )
    assert 0 < missing.grace < away.grace


@pytest.mark.parametrize("revision", ["1", "3"])
def test_pods_of_another_template_do_not_speak_for_this_one(revision: str) -> None:
    """A crash of an old pod, or of somebody else's, does not fail the release."""
    found = judged(deployment(), *NEW, pod("x", f"rs-{revision}", "crash"))
    assert found.state in ("ready", "waiting")


def test_pod_that_no_node_has_room_for() -> None:
    """The scheduler's own words are shown; a node that is being added is waited for."""
    full = pod("p", "rs-2", "unschedulable")
    found = judged(deployment(availableReplicas=0), full)
    assert (found.state, found.doubt) == ("doubtful", "schedule")
    assert "pod p fits on no node: 0/1 nodes are available: 1 Insufficient cpu." in found.text
    event = {"reason": "TriggeredScaleUp", "involvedObject": {"uid": "p"}, "type": "Normal"}
    assert judged(deployment(availableReplicas=0), full, events=(event,)).state == "waiting"


def test_why_a_pod_is_not_ready_is_what_the_latest_warning_says() -> None:
    """A failing probe says how it fails."""
    events = tuple(
        {
            "type": "Warning",
            "reason": "Unhealthy",
            "message": message,
            "involvedObject": {"uid": "p"},
            "lastTimestamp": when,
        }
        for message, when in (("Readiness probe failed: 503", "2"), ("Startup probe failed", "1"))
    )
    found = judged(deployment(availableReplicas=0), pod("p", "rs-2", "unready"), events=events)
    assert found.text == "0 of 2 available, pod p: Readiness probe failed: 503"
    assert found.culprit is not None
    assert (found.culprit.pod, found.culprit.container) == ("p", "api")


@pytest.mark.parametrize(
    ("message", "state", "doubt"),
    [
        ('violates PodSecurity "restricted:v1.34": privileged', "hopeless", ""),
        ("exceeded quota: slipway, requested: pods=1", "doubtful", "quota"),
        ("admission webhook denied the request", "doubtful", "refusal"),
    ],
)
def test_pods_that_may_not_be_made(message: str, state: str, doubt: str) -> None:
    """A refusal by policy is final; a quota may be freed by pods that are ending."""
    refused = deployment(
        updatedReplicas=0, conditions=[condition("ReplicaFailure", message=message)]
    )
    found = judged(refused)
    assert (found.state, found.doubt, found.text) == (
        state,
        doubt,
        f"no pod may be made: {message}",
    )


def test_deployment_past_its_deadline_is_given_a_little_more() -> None:
    """Its deadline runs on while the API server is away; its pod's reason is shown."""
    late = deployment(
        availableReplicas=0,
        conditions=[condition("Progressing", "False", reason="ProgressDeadlineExceeded")],
    )
    found = judged(late, pod("p", "rs-2", "unready"))
    assert (found.state, found.doubt) == ("doubtful", "progress")
    assert found.text == "no progress for 600 s: pod p is not ready"


def service(**spec: Any) -> Object:  # noqa: ANN401 - JSON
    """Return a Service."""
    return manifest("v1", "Service", "s", spec={"selector": {"a": "b"}, **spec})


def slice_of(name: str, *ready: str, namespace: str = "slipway") -> Object:
    """Return an EndpointSlice with these endpoints."""
    made = manifest("discovery.k8s.io/v1", "EndpointSlice", f"{name}-x")
    made["metadata"] |= {"namespace": namespace, "labels": {"kubernetes.io/service-name": name}}
    said = {"yes": {"ready": True}, "no": {"ready": False}, "unknown": {}}
    made["endpoints"] = [{"conditions": said[each]} for each in ready]
    return made


@pytest.mark.parametrize(
    ("slices", "state", "text"),
    [
        ((), "waiting", "no endpoint is ready"),
        ((slice_of("s", "no"),), "waiting", "no endpoint is ready"),
        ((slice_of("other", "yes"),), "waiting", "no endpoint is ready"),
        ((slice_of("s", "yes", namespace="elsewhere"),), "waiting", "no endpoint is ready"),
        ((slice_of("s", "yes", "no"),), "ready", "1 endpoint"),
        ((slice_of("s", "yes"), slice_of("s", "unknown")), "ready", "2 endpoints"),
    ],
)
def test_service_is_ready_with_an_endpoint(
    slices: tuple[Object, ...], state: str, text: str
) -> None:
    """A Service that nobody is behind does not serve."""
    found = judged(service(), endpoint_slices=slices)
    assert (found.state, found.text) == (state, text)


def test_service_without_a_selector_is_somebody_elses_to_fill() -> None:
    """Its endpoints are not made by the cluster."""
    assert judged(service(selector=None)).state == "ready"


def scaled(*conditions: dict[str, str]) -> Object:
    """Return a ScaledObject."""
    made = manifest(
        "keda.sh/v1alpha1", "ScaledObject", "a", spec={"minReplicaCount": 2, "maxReplicaCount": 6}
    )
    made["status"] = {"conditions": list(conditions), "hpaName": "keda-hpa-a"}
    return made


def autoscaler(*conditions: dict[str, str], least: int = 2) -> Object:
    """Return an HPA."""
    made = manifest(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "keda-hpa-a",
        spec={
            "minReplicas": least,
            "maxReplicas": 6,
            "metrics": [
                {"resource": {"name": "cpu", "target": {"averageUtilization": 60}}},
            ],
        },
    )
    current = {"resource": {"name": "cpu", "current": {"averageUtilization": 12}}}
    made["status"] = {
        "currentReplicas": 2,
        "conditions": list(conditions),
        "currentMetrics": [current],
    }
    return made


READY = condition("Ready")
ACTIVE = condition("ScalingActive")


@pytest.mark.parametrize(
    ("obj", "scalers", "state", "text"),
    [
        (scaled(), (), "waiting", "KEDA has not looked at it yet"),
        (scaled(condition("Ready", "Unknown")), (), "waiting", "KEDA has not looked at it yet"),
        (scaled(READY), (), "waiting", "KEDA has not made its autoscaler keda-hpa-a yet"),
        (scaled(READY), (autoscaler(),), "waiting", "does not scale yet: it has not looked at its"),
        (
            scaled(READY),
            (autoscaler(condition("ScalingActive", "False", message="no metrics")),),
            "waiting",
            "does not scale yet: no metrics",
        ),
        (
            scaled(READY),
            (autoscaler(ACTIVE, least=1),),
            "waiting",
            "KEDA has not passed minReplicaCount 2 on yet",
        ),
        (
            scaled(READY),
            (autoscaler(condition("AbleToScale", "False", message="no scale"), ACTIVE),),
            "waiting",
            "cannot scale: no scale",
        ),
        (scaled(READY), (autoscaler(ACTIVE),), "ready", "2 replicas of 2 to 6, cpu 12 % of 60 %"),
        (scaled(condition("Ready", "False", message="bad trigger")), (), "doubtful", "bad trigger"),
        (scaled(condition("Paused"), READY), (), "ready", "paused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scaled_object_is_ready_when_its_autoscaler_scales(
    obj: Object, scalers: tuple[Object, ...], state: str, text: str
) -> None:
    """KEDA's Ready alone is not enough: the HPA must have metrics, and our bounds."""
    found = judged(obj, autoscalers=scalers)
    assert found.state == state
    assert text in found.text


def test_scaling_without_figures_yet() -> None:
    """An autoscaler that knows nothing yet is told with a question mark."""
    bare = autoscaler()
    bare["status"] = {}
    assert scaling(bare) == "? replicas of 2 to 6, cpu ? % of 60 %"


@pytest.mark.parametrize(
    ("api_version", "kind", "spec", "status", "state"),
    [
        ("policy/v1", "PodDisruptionBudget", {}, {}, "waiting"),
        (
            "policy/v1",
            "PodDisruptionBudget",
            {},
            {"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 1},
            "ready",
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            {},
            {"observedGeneration": 1, "currentHealthy": 0, "desiredHealthy": 1},
            "waiting",
        ),
        ("v1", "PersistentVolumeClaim", {}, {"phase": "Pending"}, "waiting"),
        ("v1", "PersistentVolumeClaim", {}, {"phase": "Bound"}, "ready"),
        ("v1", "Namespace", {}, {"phase": "Active"}, "ready"),
        ("v1", "Namespace", {}, {"phase": "Terminating"}, "waiting"),
        ("batch/v1", "Job", {}, {}, "waiting"),
        ("batch/v1", "Job", {}, {"conditions": [condition("Complete")]}, "ready"),
        ("batch/v1", "Job", {}, {"conditions": [condition("Failed")]}, "hopeless"),
        ("apps/v1", "StatefulSet", {}, {}, "waiting"),
        (
            "apps/v1",
            "StatefulSet",
            {"replicas": 1},
            {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1},
            "ready",
        ),
        (
            "apps/v1",
            "DaemonSet",
            {},
            {
                "observedGeneration": 1,
                "desiredNumberScheduled": 2,
                "updatedNumberScheduled": 2,
                "numberAvailable": 1,
            },
            "waiting",
        ),
        ("example.org/v1", "Thing", {}, {}, "ready"),
        ("example.org/v1", "Thing", {}, {"conditions": [condition("Ready", "False")]}, "waiting"),
        ("example.org/v1", "Thing", {}, {"conditions": [condition("Stalled")]}, "doubtful"),
        ("example.org/v1", "Thing", {}, {"observedGeneration": 0}, "waiting"),
    ],
)
def test_other_kinds(
    api_version: str, kind: str, spec: dict[str, Any], status: dict[str, Any], state: str
) -> None:
    """Every kind has its standard; one that nobody knows is judged by its conditions."""
    obj = manifest(api_version, kind, "x", spec=spec, status=status)
    obj["metadata"]["generation"] = 1
    assert judged(obj).state == state


def test_what_is_not_there_is_waited_for() -> None:
    """An object that was applied and cannot be seen yet is not ready."""
    assert judge(identity(service()), Snapshot()) == Judgement("waiting", "not there")


def test_what_is_being_deleted_is_not_ready() -> None:
    """An object that somebody else deletes may come back, or not."""
    going = service()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert judged(going, endpoint_slices=(slice_of("s", "yes"),)).state == "doubtful"
