"""From nothing to a system that serves: ``cluster up``, ``cluster prepare``, ``deploy``."""

from __future__ import annotations

import base64
import itertools
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest

from tests.cluster.stage import API, CONTEXT, WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
PARTS = (
    ("", "pods/log", ("get",)),
    ("", "pods/exec", ("get", "create")),
    ("", "pods/attach", ("get", "create")),
    ("", "pods/portforward", ("get", "create")),
    ("", "pods/proxy", ("get", "create")),
    ("", "pods/eviction", ("create",)),
    ("", "pods/ephemeralcontainers", ("update", "patch")),
    ("", "pods/status", ("update", "patch")),
    ("", "serviceaccounts/token", ("create",)),
    ("", "services/proxy", ("get", "create")),
    ("", "nodes/proxy", ("get", "create")),
    ("apps", "deployments/scale", ("get", "update", "patch")),
)
"""Parts of resources that have rights of their own, with the verbs that mean something for them."""
EVERYBODY = {
    (group, resource, "create")
    for group, resource in (
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    )
}
"""What Kubernetes lets everybody do who has a name: ask who one is, and what one may do."""


def test_deploy_makes_a_system_that_lists_its_own_pods(stage: Stage) -> None:
    """The list that a client gets is of the pods that were deployed, as Kubernetes has them."""
    done = stage.deploy("one")
    stage.figures.setdefault("from nothing", {})["deploy_s"] = round(done.seconds, 1)
    listed = stage.ask()
    pods = {pod["metadata"]["name"]: pod for pod in stage.pods()}
    assert listed["source"] == "kubernetes"
    assert {each["pod"] for each in listed["containers"]} == set(pods)
    assert listed["total"] == len(pods) == 4
    for each in listed["containers"]:
        pod = pods[each["pod"]]
        assert each["node"] == pod["spec"]["nodeName"]
        assert each["ready"] is True
        assert each["restarts"] == pod["status"]["containerStatuses"][0]["restartCount"]
        assert each["image"].partition("@")[2] in stage.digests("one").values()
    assert all(stage.images_of(name) == {stage.digests("one")[name]} for name in WORKLOADS)
    assert "deployed" in stage.releases().values()


def test_deploy_again_changes_nothing(deployed: Stage) -> None:
    """What runs already is not rolled: the pods are the same ones afterwards."""
    before = {pod["metadata"]["uid"] for pod in deployed.pods()}
    done = deployed.deploy(deployed.version)
    assert {pod["metadata"]["uid"] for pod in deployed.pods()} == before
    deployed.figures.setdefault("from nothing", {})["deploy_again_s"] = round(done.seconds, 1)


def test_prepare_again_changes_nothing(stage: Stage) -> None:
    """KEDA and metrics-server are left as they are where they work."""
    everything = ("deployments,apiservices,customresourcedefinitions", "--all-namespaces")

    def generations() -> dict[str, Any]:
        found = json.loads(stage.kubectl("get", *everything, "--output=json"))["items"]
        return {
            f"{each['kind']}/{each['metadata']['name']}": each["metadata"].get("generation")
            for each in found
        }

    before = generations()
    stage.run("cluster", "prepare")
    assert generations() == before


@dataclass(frozen=True, slots=True)
class Right:
    """Something that a token may be used for, or not."""

    group: str
    resource: str
    verb: str
    namespace: str

    @property
    def review(self) -> dict[str, Any]:
        """The question to the API server whether it may."""
        name, _, part = self.resource.partition("/")
        asked = {"group": self.group, "resource": name, "subresource": part, "verb": self.verb}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked | {"namespace": self.namespace}},
        }


class Token:
    """The API server, as whoever holds the API's token sees it."""

    def __init__(self, stage: Stage) -> None:
        view = json.loads(
            stage.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json")
        )
        cluster = view["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        token = stage.kubectl("create", "token", API, "--namespace", stage.namespace).strip()
        self._client = httpx.Client(
            base_url=cluster["server"],
            verify=ssl.create_default_context(cadata=authority),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=30,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def may(self, right: Right) -> bool:
        """Return whether the API server says that it may."""
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._client.post(path, json=right.review).raise_for_status()
        return bool(answer.json()["status"]["allowed"])

    def tried(self, method: str, path: str, body: dict[str, Any] | None = None) -> int:
        """Return the status of a real request."""
        return self._client.request(method, path, json=body).status_code


@pytest.fixture
def token(deployed: Stage) -> Token:
    """Return the API server as the API's token sees it."""
    return Token(deployed)


def served(stage: Stage) -> list[tuple[str, str]]:
    """Return the group and name of every resource that the cluster serves."""
    found = []
    for line in stage.kubectl("api-resources", "--no-headers", "--output=name").split():
        resource, _, group = line.partition(".")
        found.append((group, resource))
    return found


def test_token_of_the_api_may_see_pods_and_nothing_else(deployed: Stage, token: Token) -> None:
    """Of every verb on every resource, here and elsewhere: a table, as the API server tells it."""
    resources = served(deployed)
    assert ("", "secrets") in resources
    assert ("keda.sh", "scaledobjects") in resources
    asked = [
        Right(group, resource, verb, namespace)
        for (group, resource), verb in itertools.product(resources, VERBS)
        for namespace in (deployed.namespace, "kube-system", "")
    ] + [
        Right(group, resource, verb, namespace)
        for group, resource, verbs in PARTS
        for verb in verbs
        for namespace in (deployed.namespace, "kube-system")
    ]
    with token:
        allowed = {right for right in asked if token.may(right)}
    wanted = {Right("", "pods", verb, deployed.namespace) for verb in ("get", "list", "watch")} | {
        right for right in asked if (right.group, right.resource, right.verb) in EVERYBODY
    }
    assert allowed == wanted
    deployed.figures.setdefault("from nothing", {})["rights_asked"] = len(asked)


def test_token_of_the_api_is_refused_everything_else(deployed: Stage, token: Token) -> None:
    """The same by real requests: what the reviews say is what happens."""
    here = f"/api/v1/namespaces/{deployed.namespace}"
    pod = deployed.pods(API)[0]["metadata"]["name"]
    new = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mine"}, "spec": {}}
    with token:
        found = {
            (method, path): token.tried(method, path, body)
            for method, path, body in (
                ("GET", f"{here}/pods", None),
                ("GET", f"{here}/pods/{pod}", None),
                ("GET", f"{here}/pods/{pod}/log", None),
                ("POST", f"{here}/pods/{pod}/exec?command=id", None),
                ("POST", f"{here}/pods", new),
                ("DELETE", f"{here}/pods/{pod}", None),
                ("GET", f"{here}/secrets", None),
                ("GET", f"{here}/configmaps", None),
                ("GET", "/api/v1/pods", None),
                ("GET", "/api/v1/namespaces/kube-system/pods", None),
                ("GET", "/api/v1/nodes", None),
                ("GET", "/api/v1/namespaces", None),
                ("POST", f"{here}/serviceaccounts/{API}/token", {}),
            )
        }
    assert {path for (_, path), status in found.items() if status == 200} == {
        f"{here}/pods",
        f"{here}/pods/{pod}",
    }
    assert set(found.values()) == {200, 403}
    assert pod in {each["metadata"]["name"] for each in deployed.pods(API)}


def test_pods_have_no_token_but_the_apis(deployed: Stage) -> None:
    """A token that is not there cannot be stolen from Nginx."""
    mounts = {
        pod["metadata"]["labels"]["app.kubernetes.io/name"]: {
            mount["mountPath"]
            for container in pod["spec"]["containers"]
            for mount in container["volumeMounts"]
        }
        for pod in deployed.pods()
    }
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert {name for name, paths in mounts.items() if place in paths} == {API}


def test_status_tells_what_runs(deployed: Stage) -> None:
    """A person sees release, images, replicas and scaling with one command."""
    said = deployed.run("deploy", "status").out
    for digest in deployed.digests(deployed.version).values():
        assert digest.removeprefix("sha256:")[:12] in said
    assert all(name in said for name in WORKLOADS)
    assert CONTEXT in said or deployed.namespace in said


def test_commands_find_the_context_that_up_made_current(stage: Stage, tmp_path: Path) -> None:
    """``cluster up`` leaves a kubeconfig that kubectl and the pipeline use without more words."""
    said = stage.kubectl("config", "current-context").strip()
    assert said == CONTEXT
    unknown = stage.run("deploy", "status", "--context", f"no-{tmp_path.name}", code=2)
    assert f"no-{tmp_path.name}" in unknown.out
