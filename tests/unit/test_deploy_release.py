"""A release, its order, and what is pruned."""

from __future__ import annotations

import ast
import base64
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

import pipeline
from pipeline import images
from pipeline.deploy import release as releases
from pipeline.deploy.release import (
    MANAGED_BY,
    PULL_SECRET,
    RELEASE,
    Image,
    from_json,
    identity,
    ordered,
    pruned,
    pull_secret,
    to_json,
)
from pipeline.errors import UsageError
from pipeline.kube import MANAGER
from pipeline.registry import Login

from .deploy_fakes import API, IMAGES, manifest, release, system, workload

DIGEST = f"sha256:{'a' * 64}"


def test_order_puts_each_object_after_what_it_needs() -> None:
    """Whatever order Kustomize gives, the namespace is first and custom resources are last."""
    kinds = [
        ("v1", "Namespace"),
        ("v1", "ResourceQuota"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("v1", "ServiceAccount"),
        ("v1", "ConfigMap"),
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        ("v1", "Service"),
        ("policy/v1", "PodDisruptionBudget"),
        ("apps/v1", "Deployment"),
        ("networking.k8s.io/v1", "Ingress"),
        ("keda.sh/v1alpha1", "ScaledObject"),
    ]
    objects = [manifest(version, kind, "x") for version, kind in kinds]
    shuffled = list(objects)
    random.Random(1).shuffle(shuffled)  # noqa: S311 - an order, no secret
    assert list(ordered(shuffled)) == objects


def test_pruned_is_what_is_lacking_in_reverse_order() -> None:
    """What scales goes before what it scales, and a namespace never."""
    extra = manifest("apps/v1", "Deployment", "old")
    scaler = manifest("keda.sh/v1alpha1", "ScaledObject", "old")
    found = pruned([*system(), extra, scaler], system())
    assert [str(identity(each)) for each in found] == ["ScaledObject old", "Deployment old"]
    assert [each["kind"] for each in pruned(system(), ())][-1] == "ServiceAccount"


def test_an_object_is_the_same_in_another_version_of_its_api() -> None:
    """A manifest that moves from v1beta1 to v1 is not deleted for it."""
    before = manifest("policy/v1beta1", "PodDisruptionBudget", "x")
    after = manifest("policy/v1", "PodDisruptionBudget", "x")
    assert pruned([before], [after]) == ()


def test_marks_are_not_in_templates_and_leave_the_release_as_it_is() -> None:
    """Who manages an object and its release are in its metadata alone."""
    made = release()
    text = to_json(made)
    marked = replace(made, number=7).marked()
    for each in marked:
        assert each["metadata"]["labels"][MANAGED_BY] == "slipway"
        assert each["metadata"]["annotations"][RELEASE] == "7"
        assert RELEASE not in json.dumps(each.get("spec", {}))
    assert to_json(made) == text


def test_a_release_without_a_number_is_not_annotated() -> None:
    """What `render` prints has no number that would be wrong."""
    assert all("annotations" not in each["metadata"] for each in release().marked())


def test_json_and_back() -> None:
    """A release is the same after it was recorded, and recorded the same each time."""
    made = release().with_state("failed", "why")
    assert from_json(to_json(made)) == made
    assert to_json(from_json(to_json(made))) == to_json(made)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 1}', "null"])
def test_json_of_something_else(text: str) -> None:
    """What is no release is a ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        from_json(text)


@pytest.mark.parametrize(
    ("pull_from", "pulled"),
    [
        ("", f"127.0.0.1:5050/slipway-api@{DIGEST}"),
        ("host.minikube.internal:5050", f"host.minikube.internal:5050/slipway-api@{DIGEST}"),
    ],
)
def test_an_image_is_pulled_by_digest_alone(pull_from: str, pulled: str) -> None:
    """The tag is left out: one that moves rolls nothing."""
    assert Image("api", API).pulled(pull_from) == pulled


def test_an_image_moves_to_another_registry_with_its_digest() -> None:
    """Restored elsewhere, an image has the name that a push there would give it."""
    moved = Image("api", f"r.example/team/slipway-api:v1@{DIGEST}").moved(
        images.parse_registry("127.0.0.1:5050/ns")
    )
    assert moved.reference == f"127.0.0.1:5050/ns/slipway-api:v1@{DIGEST}"


def test_a_release_with_its_images_elsewhere() -> None:
    """All containers follow, and nothing else changes."""
    moved = [each.moved(images.parse_registry("r.example:5000")) for each in IMAGES]
    made = release().with_images(moved, "nodes.example")
    used = {c["image"] for obj in made.objects for c in releases.containers(obj)}
    assert used == {each.pulled("nodes.example") for each in moved}
    assert made.pull_from == "nodes.example"
    assert made.with_images(IMAGES, "").objects == release().objects


def test_a_release_in_another_namespace() -> None:
    """Its objects, its namespace and who its bindings speak of move; what is elsewhere stays."""
    subjects = [
        {"kind": "ServiceAccount", "name": "slipway-api", "namespace": "slipway"},
        {"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"},
    ]
    version = "rbac.authorization.k8s.io/v1"
    made = release(manifest(version, "RoleBinding", "b", subjects=subjects))
    before = to_json(made)
    moved = made.in_namespace("staging")
    found = {str(identity(each)): each for each in moved.objects}
    assert moved.namespace == "staging"
    assert "Namespace staging" in found
    places = {each["metadata"].get("namespace", "staging") for each in moved.objects}
    assert places == {"staging"}
    bound = [each["namespace"] for each in found["RoleBinding b"]["subjects"]]
    assert bound == ["staging", "monitoring"]
    assert to_json(made) == before
    assert moved.in_namespace("slipway") == made


def test_our_name_is_written_once() -> None:
    """As a field manager and as the value of the label that marks what is ours."""
    root = Path(pipeline.__file__).parent
    written = [
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and node.value.value == MANAGER
        and any(isinstance(name, ast.Name) and name.id == "MANAGER" for name in node.targets)
    ]
    assert written == ["kube.py"]


@pytest.mark.parametrize("others", [IMAGES[:1], (IMAGES[0], Image("nginx", API))])
def test_other_images_are_not_taken_for_those_of_a_release(others: tuple[Image, ...]) -> None:
    """An image that is missing or has another digest is refused."""
    with pytest.raises(UsageError, match="The image nginx of the release is sha256:b"):
        release().with_images(others, "")


def test_init_containers_are_containers() -> None:
    """Whatever runs in a pod has its image moved."""
    obj = workload("x", "a")
    obj["spec"]["template"]["spec"]["initContainers"] = [{"image": "b"}]
    assert [each["image"] for each in releases.containers(obj)] == ["b", "a"]
    assert list(releases.containers(manifest("v1", "ConfigMap", "x"))) == []


def test_pull_secret_is_what_a_node_reads() -> None:
    """The Secret has Docker's form, under the name that the nodes know the registry by."""
    made = pull_secret(
        "ns", {"r.example:5000": Login("me", "hunter2"), "q.example": Login("you", "hunter3")}
    )
    content = json.loads(base64.b64decode(made["data"][".dockerconfigjson"]))
    assert content["auths"]["r.example:5000"]["password"] == "hunter2"
    assert base64.b64decode(content["auths"]["r.example:5000"]["auth"]) == b"me:hunter2"
    assert base64.b64decode(content["auths"]["q.example"]["auth"]) == b"you:hunter3"
    assert (made["type"], made["metadata"]["name"]) == (
        "kubernetes.io/dockerconfigjson",
        PULL_SECRET,
    )
