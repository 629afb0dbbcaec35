"""metrics-server and KEDA as values."""

from __future__ import annotations

import pytest

from pipeline.cluster import addons
from pipeline.cluster.addons import KEDA, METRICS_SERVER
from pipeline.errors import UsageError

from . import cluster_fakes as fakes


def test_objects_of_a_manifest_are_found_in_documents_and_lists() -> None:
    """Empty documents are none, and a List is what is in it."""
    text = (
        "---\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n---\n"
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n"
    )
    assert [each["metadata"]["name"] for each in addons.parse(text, "x")] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("a: [", "is no manifest"),
        ("<html></html>", "no apiVersion"),
        ("kind: Secret\nmetadata: {name: a}", "no apiVersion"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, why: str) -> None:
    """A page of a proxy's, say, and it is named by where it is from."""
    with pytest.raises(UsageError, match=f"x.yaml.*{why}"):
        addons.parse(text, "x.yaml")


def test_manifest_of_something_else_is_refused() -> None:
    """What an addon has to define tells whether it is one."""
    with pytest.raises(UsageError, match=r"not the manifest of KEDA: it lacks cluster.*keda.sh"):
        addons.checked(KEDA, fakes.metrics_server(), "x.yaml")
    lacking = tuple(each for each in fakes.keda() if each["metadata"]["name"] != "keda-admission")
    with pytest.raises(UsageError, match="it lacks 3 Deployments"):
        addons.checked(KEDA, lacking, "x.yaml")


def test_manifest_of_another_version_is_refused_by_name() -> None:
    """The version is in what it would run."""
    with pytest.raises(UsageError, match=r"has KEDA 2\.14\.0, and this needs 2\.21\.0") as caught:
        addons.checked(KEDA, fakes.keda("2.14.0"), "x.yaml")
    assert KEDA.url in caught.value.remedy
    assert addons.checked(KEDA, fakes.keda(), "x") == fakes.keda()
    assert addons.checked(METRICS_SERVER, fakes.metrics_server(), "x") == fakes.metrics_server()


def test_deployments_come_last_and_namespaces_first() -> None:
    """So an installation that was interrupted lacks a Deployment."""
    kinds = [each["kind"] for each in addons.marked(KEDA, fakes.keda())]
    assert kinds[:2] == ["Namespace", "CustomResourceDefinition"]
    assert kinds[-3:] == ["Deployment"] * 3
    assert len(kinds) == len(fakes.keda())


def test_what_is_applied_is_marked_and_the_manifest_stays() -> None:
    """The mark tells ours from others'; what a server wrote is left out."""
    obj = fakes.named("v1", "ServiceAccount", "a", "keda")
    obj["metadata"]["creationTimestamp"] = None
    obj["status"] = {}
    (changed,) = addons.marked(KEDA, [obj])
    assert addons.is_ours(changed, KEDA)
    assert not addons.is_ours(changed, METRICS_SERVER)
    assert changed["metadata"]["annotations"] == {addons.VERSION: KEDA.version}
    assert "creationTimestamp" not in changed["metadata"]
    assert "status" not in changed
    assert not addons.is_ours(obj, KEDA)


@pytest.mark.parametrize(
    ("annotation", "label", "image", "version"),
    [
        ("2.21.0", "2.20.0", "r/keda:2.19.0", "2.21.0"),
        ("", "v2.20.0", "r/keda:2.19.0", "2.20.0"),
        ("", "latest", "r:5000/keda:2.19.0@sha256:00", "2.19.0"),
        ("", "", "r:5000/keda:v2.19.0-rc.1", "2.19.0-rc.1"),
        ("", "main", "r:5000/keda", ""),
    ],
)
def test_version_is_told_by_mark_label_or_image(
    annotation: str, label: str, image: str, version: str
) -> None:
    """In this order; nothing is guessed from what is no version."""
    found = fakes.deployment("keda-operator", "keda", image)
    found["metadata"]["labels"] = {"app.kubernetes.io/version": label}
    found["metadata"]["annotations"] = {addons.VERSION: annotation}
    assert addons.version_of(found) == version


@pytest.mark.parametrize(
    ("status", "lack"),
    [
        ({}, "not looked at yet"),
        ({"observedGeneration": 1}, "not looked at yet"),
        ({"observedGeneration": 2, "updatedReplicas": 1}, "0 of 2 pods available"),
        (
            {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2},
            "1 of 2 pods available",
        ),
        (
            {
                "observedGeneration": 2,
                "updatedReplicas": 2,
                "availableReplicas": 2,
                "replicas": 3,
            },
            "an old pod is still there",
        ),
        (
            {
                "observedGeneration": 2,
                "updatedReplicas": 2,
                "availableReplicas": 2,
                "replicas": 2,
            },
            "",
        ),
    ],
)
def test_deployment_is_ready_when_all_of_it_is_new_and_available(
    status: dict[str, int], lack: str
) -> None:
    """And its controller has seen what was applied."""
    found = fakes.deployment("a", "b", "c")
    found["metadata"]["generation"] = 2
    found["spec"]["replicas"] = 2
    found["status"] = status
    assert addons.lacks(found) == lack


def test_pod_tells_what_is_wrong_with_it() -> None:
    """A container that is only being made is not in trouble."""

    def waiting(reason: str, message: str = "") -> dict[str, object]:
        state = {"waiting": {"reason": reason, "message": message}}
        return {"status": {"containerStatuses": [{"state": state}]}}

    assert addons.trouble(waiting("ContainerCreating")) == ""
    assert addons.trouble(waiting("ErrImagePull", "not found")) == "ErrImagePull: not found"
    assert addons.trouble(waiting("CrashLoopBackOff")) == "CrashLoopBackOff"
    assert addons.trouble({"status": {"containerStatuses": [{"state": {"running": {}}}]}}) == ""
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes",
    }
    assert addons.trouble({"status": {"conditions": [unscheduled]}}) == "Unschedulable: 0/1 nodes"
    assert addons.trouble({}) == ""
