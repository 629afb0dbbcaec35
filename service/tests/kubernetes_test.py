"""The Kubernetes source against an API server that is a fake: what it asks, and how it fails."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2
import lightkube.core.exceptions
import msgspec
import pytest
import trustme
from lightkube.resources.core_v1 import Pod
from slipway_api.sources import Port, SourceError
from slipway_api.sources import kubernetes as module
from slipway_api.sources.kubernetes import KubernetesSource, containers

from tests.conftest import container_status, pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_api.sources import PodContainer

    from tests.conftest import FakeKubernetes

LIST = "GET /api/v1/namespaces/slipway/pods"
PREFIXES = ("app.kubernetes.io/",)


def source_of(fake: FakeKubernetes, timeout: float = 1.0) -> KubernetesSource:
    """Make a source that asks the fake."""
    return KubernetesSource(str(fake.account), timeout, PREFIXES)


def read(item: dict[str, Any]) -> list[PodContainer]:
    """Read the containers of a pod that is given as Kubernetes sends it."""
    return list(containers(msgspec.convert(item, Pod), PREFIXES))


def read_one(*states: str, **kwargs: Any) -> PodContainer:  # noqa: ANN401 - as `pod` takes them
    """Read the one container of a pod that is made with these arguments."""
    (found,) = read(pod("web", *states, **kwargs))
    return found


def test_list_is_one_request(fake_kubernetes: FakeKubernetes) -> None:
    """A list is one call, whatever it holds, for the pods of its own namespace alone."""
    source = source_of(fake_kubernetes)
    for _ in range(3):
        assert [item.state for item in source.containers()] == ["running", "exited"]
    assert fake_kubernetes.asked == [LIST] * 3
    assert fake_kubernetes.limits == [("500", None)] * 3
    assert fake_kubernetes.connections == 1


def test_many_pods_are_asked_for_in_pages(
    fake_kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that does not fit into one answer is put together from several, in order."""
    monkeypatch.setattr(module, "PAGE", 2)
    fake_kubernetes.pods = [pod(f"web-{number}") for number in range(5)]
    found = source_of(fake_kubernetes).containers()
    assert [item.pod for item in found] == [f"web-{number}" for number in range(5)]
    assert fake_kubernetes.limits == [("2", None), ("2", "2"), ("2", "4")]


def test_too_many_pods_are_refused(
    fake_kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a limit to the pages, and beyond it no list rather than part of one."""
    monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr(module, "MOST_PODS", 4)
    fake_kubernetes.pods = [pod(f"web-{number}") for number in range(40)]
    with pytest.raises(SourceError, match=r"^The namespace has more than 4 pods$"):
        source_of(fake_kubernetes).containers()
    assert len(fake_kubernetes.limits) == 3
    fake_kubernetes.pods = fake_kubernetes.pods[:4]
    assert len(source_of(fake_kubernetes).containers()) == 4


def test_container_is_read_from_its_pod() -> None:
    """Every member comes from the pod: the image as it was named, the id without its scheme."""
    found = read_one()
    assert found.id == "4f" * 32
    assert found.name == "web"
    assert found.image == "nginx:1.29"
    assert found.created == datetime(2025, 1, 1, tzinfo=UTC)
    assert found.ports == (
        Port(53, 5353, "udp", "0.0.0.0"),  # noqa: S104 - what the fake says
        Port(8080, None, "tcp", None),
    )
    assert (found.pod, found.node, found.restarts, found.ready) == ("web", "node-1", 0, True)


PROBE = {"httpGet": {"path": "/", "port": 8080}}


@pytest.mark.parametrize(
    ("probe", "said", "health"),
    [
        ("readinessProbe", {"ready": True, "started": True}, "healthy"),
        ("livenessProbe", {"ready": True, "started": True}, "healthy"),
        ("readinessProbe", {"ready": False, "started": True}, "unhealthy"),
        ("startupProbe", {"ready": False, "started": False}, "starting"),
        (None, {"ready": True, "started": True}, None),
        ("readinessProbe", {"ready": False, "state": {"waiting": {}}}, None),
    ],
)
def test_health_is_what_probes_found(
    probe: str | None, said: dict[str, Any], health: str | None
) -> None:
    """It is told of a container that runs and has a probe: others are ready by definition."""
    spec = {"containers": [{"name": "web", **({probe: PROBE} if probe else {})}]}
    found = read_one(spec=spec, status={"containerStatuses": [container_status() | said]})
    assert found.health == health


def test_labels_are_those_of_the_pod_by_prefix_alone() -> None:
    """A label that begins with none of the prefixes is not even in the value, no annotation is."""
    assert read_one().labels == {"app.kubernetes.io/name": "web"}
    assert read_one(metadata={"labels": None}).labels == {}


CRASHED = {"terminated": {"exitCode": 1, "reason": "Error"}}


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, "created", "ContainerCreating"),
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, "created", "ImagePullBackOff"),
        ({"state": {"waiting": {}}}, "created", "Waiting"),
        ({"state": {}}, "created", "Waiting"),
        ({"state": None}, "created", "Waiting"),
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": CRASHED},
            "restarting",
            "CrashLoopBackOff",
        ),
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 2},
            "restarting",
            "CrashLoopBackOff",
        ),
        ({"state": {"running": {}}}, "running", "Running"),
        (
            {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
            "exited",
            "OOMKilled",
        ),
        ({"state": {"terminated": {"exitCode": 3}}}, "exited", "Exited (3)"),
    ],
)
def test_state_is_told_in_the_words_of_docker(
    said: dict[str, Any], state: str, reason: str
) -> None:
    """Each state has its word, and the reason that Kubernetes gives is the status."""
    found = read_one(status={"containerStatuses": [container_status() | said]})
    assert (found.state, found.status) == (state, reason)


def test_time_of_creation_without_a_start() -> None:
    """What has not started was made with its pod."""
    made = datetime(2024, 12, 31, 23, 59, 58, tzinfo=UTC)
    assert read_one("created").created == made
    assert read_one("running").created == datetime(2025, 1, 1, tzinfo=UTC)


def test_pod_that_no_node_has() -> None:
    """The containers of a pod without a place are listed, with the reason and ids of their own."""
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available",
    }
    two = [{"name": "web", "image": "a"}, {"name": "log", "image": "b"}]
    found = read(
        pod(
            spec={"nodeName": None, "containers": two},
            status={
                "phase": "Pending",
                "containerStatuses": None,
                "conditions": [{"type": "Ready", "status": "False"}, unschedulable],
            },
        )
    )
    uid = "0a3c1d6e-7b1f-4a52-9f33-5d8f1c6f4f10"
    assert [item.id for item in found] == [f"{uid}/web", f"{uid}/log"]
    assert {(item.state, item.status, item.node) for item in found} == {
        ("created", "Unschedulable", None)
    }
    assert {(item.restarts, item.ready) for item in found} == {(0, False)}


def test_pod_that_was_evicted() -> None:
    """What has ended without a word on its containers is not taken for one that begins."""
    evicted = {"phase": "Failed", "reason": "Evicted", "containerStatuses": None}
    found = read_one(status=evicted)
    assert (found.state, found.status) == ("exited", "Evicted")
    failed = read_one(status={"phase": "Failed", "containerStatuses": None})
    assert (failed.state, failed.status) == ("exited", "Failed")


def test_pod_that_is_being_deleted() -> None:
    """Its containers run until they end, and it says that they are about to."""
    leaving = {"deletionTimestamp": "2025-01-01T00:00:05Z"}
    found = read_one(metadata=leaving)
    assert (found.state, found.status) == ("running", "Terminating")
    ended = read_one("exited", metadata=leaving)
    assert (ended.state, ended.status) == ("exited", "Completed")


def test_pod_whose_node_is_lost() -> None:
    """The pod's own reason is told of containers that were running when last seen."""
    found = read_one(status={"reason": "NodeLost"})
    assert (found.state, found.status) == ("running", "NodeLost")


def test_every_kind_of_container_is_listed() -> None:
    """Init containers, sidecars, the pod's own and ephemeral ones, each with its own status."""
    found = read(
        pod(
            spec={
                "initContainers": [
                    {"name": "migrate", "image": "migrate:1"},
                    {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"},
                ],
                "ephemeralContainers": [{"name": "debug", "image": "debug:1"}],
            },
            status={
                "initContainerStatuses": [
                    container_status("exited", name="migrate", ready=True),
                    container_status("running", name="proxy", restartCount=1),
                ],
                "containerStatuses": [container_status("restarting")],
                "ephemeralContainerStatuses": [
                    container_status("running", name="debug", ready=False)
                ],
            },
        )
    )
    assert [(item.name, item.state, item.restarts, item.ready) for item in found] == [
        ("migrate", "exited", 0, True),
        ("proxy", "running", 1, True),
        ("web", "restarting", 3, False),
        ("debug", "running", 0, False),
    ]


def test_token_that_was_replaced_is_read_again(fake_kubernetes: FakeKubernetes) -> None:
    """A new token is used from the next list on, without waiting for the old one to be refused."""
    source = source_of(fake_kubernetes)
    source.containers()
    fake_kubernetes.mount("token", "second")
    fake_kubernetes.token = "second"
    source.containers()
    assert fake_kubernetes.asked == [LIST, LIST]


def test_ca_that_was_replaced_is_read_again(
    fake_kubernetes: FakeKubernetes, authority: trustme.CA
) -> None:
    """A new CA is trusted from the next list on, and the old one no longer."""
    source = source_of(fake_kubernetes)
    source.containers()
    fake_kubernetes.mount("ca.crt", trustme.CA().cert_pem.bytes().decode())
    with pytest.raises(SourceError, match=r"^Kubernetes cannot be reached$"):
        source.containers()
    fake_kubernetes.mount("ca.crt", authority.cert_pem.bytes().decode())
    assert len(source.containers()) == 2


def test_server_that_the_ca_did_not_sign(fake_kubernetes: FakeKubernetes) -> None:
    """The token is not shown to a server that the cluster's CA does not vouch for."""
    fake_kubernetes.mount("ca.crt", trustme.CA().cert_pem.bytes().decode())
    with pytest.raises(SourceError, match=r"^Kubernetes cannot be reached$") as caught:
        source_of(fake_kubernetes).containers()
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)
    assert fake_kubernetes.asked == []


def test_token_that_is_refused(fake_kubernetes: FakeKubernetes) -> None:
    """A token that Kubernetes does not know is said to be the reason, after one further look."""
    fake_kubernetes.token = "another"
    with pytest.raises(SourceError, match=r"^Kubernetes does not accept the token .* \(401\)$"):
        source_of(fake_kubernetes).containers()
    assert fake_kubernetes.asked == [LIST, LIST]


def test_missing_right_is_named(fake_kubernetes: FakeKubernetes) -> None:
    """When the role is missing it says which right it lacks; with it, all is well at once."""
    source = source_of(fake_kubernetes)
    fake_kubernetes.allowed = False
    with pytest.raises(SourceError) as caught:
        source.containers()
    assert str(caught.value) == (
        "Kubernetes refused (403): the pod's service account lacks the right to list pods in its"
        " namespace"
    )
    assert "system:serviceaccount:slipway:api" in str(caught.value.__cause__)
    fake_kubernetes.allowed = True
    assert len(source.containers()) == 2


@pytest.mark.parametrize("body", [None, b"", b"<html>busy</html>", b"[]"])
@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (429, r"^Kubernetes refused to list pods \(429\)$"),
        (500, r"^Kubernetes refused to list pods \(500\)$"),
        (502, r"^Kubernetes cannot be reached$"),
        (503, r"^Kubernetes cannot be reached$"),
        (504, r"^Kubernetes cannot be reached$"),
    ],
)
def test_refusals(
    fake_kubernetes: FakeKubernetes, status: int, sentence: str, body: bytes | None
) -> None:
    """Other errors are told by their status, whoever answers them and with whatever body."""
    fake_kubernetes.status = status
    fake_kubernetes.body = body
    with pytest.raises(SourceError, match=sentence):
        source_of(fake_kubernetes).containers()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>no such page</html>",
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"items": null}',
        b'{"items": [7]}',
        b'{"items": [{}]}',
        b'{"items": [{"metadata": {"name": "a"}}]}',
        json.dumps({"items": [pod(metadata={"creationTimestamp": "yesterday"})]}).encode(),
        json.dumps({"items": [pod(spec={"containers": [{}]})]}).encode(),
        json.dumps({"items": [pod(status={"containerStatuses": [{"name": "web"}]})]}).encode(),
        b"\xff\xfe",
    ],
)
def test_answer_that_is_no_list(fake_kubernetes: FakeKubernetes, body: bytes) -> None:
    """An answer that is not a list of pods is a failure of the source, not a defect."""
    fake_kubernetes.body = body
    with pytest.raises(SourceError, match=r"^Kubernetes' answer is not a list of pods$"):
        source_of(fake_kubernetes).containers()


def test_closed_connection_is_not_a_failure(fake_kubernetes: FakeKubernetes) -> None:
    """When the other side closed a connection that was kept, the list is asked for again."""
    source = source_of(fake_kubernetes)
    source.containers()
    fake_kubernetes.drop = 1
    assert len(source.containers()) == 2
    assert fake_kubernetes.asked == [LIST] * 3


def test_connection_that_is_always_closed_is_a_failure(fake_kubernetes: FakeKubernetes) -> None:
    """It is asked for again once, not for ever."""
    source = source_of(fake_kubernetes)
    source.containers()
    fake_kubernetes.drop = 5
    with pytest.raises(SourceError, match=r"^Kubernetes cannot be reached$"):
        source.containers()
    assert fake_kubernetes.drop == 3


def test_refused_connection(
    fake_kubernetes: FakeKubernetes, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing listens, it fails at once."""
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(free_port()))
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"^Kubernetes cannot be reached$"):
        source_of(fake_kubernetes, 5.0).containers()
    assert time.monotonic() - start < 5.0


def test_server_that_hangs(fake_kubernetes: FakeKubernetes) -> None:
    """A server that takes the request and says nothing is given up after the timeout."""
    source = source_of(fake_kubernetes, 1.0)
    fake_kubernetes.answer.clear()
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"^Kubernetes did not answer within 1 s$"):
        source.containers()
    assert time.monotonic() - start < 5.0
    fake_kubernetes.answer.set()
    assert len(source.containers()) == 2


def test_late_failure_disturbs_nobody(fake_kubernetes: FakeKubernetes) -> None:
    """A call that fails after another one succeeded does not undo that one's connection."""
    source = source_of(fake_kubernetes, 2.0)
    source.containers()
    fake_kubernetes.answer.clear()
    errors: list[SourceError] = []

    def late() -> None:
        try:
            source.containers()
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    while len(fake_kubernetes.asked) < 2:
        time.sleep(0.005)
    time.sleep(0.8)
    again = threading.Thread(target=source.containers)
    again.start()
    thread.join(5)
    fake_kubernetes.answer.set()
    again.join(5)
    assert [str(error) for error in errors] == ["Kubernetes did not answer within 2 s"]
    assert len(source.containers()) == 2
    assert fake_kubernetes.asked == [LIST] * 4


def test_calls_at_once(fake_kubernetes: FakeKubernetes) -> None:
    """Each has a connection of its own, and one of them is kept."""
    source = source_of(fake_kubernetes, 5.0)
    fake_kubernetes.answer.clear()
    found: list[int] = []
    calls = [
        threading.Thread(target=lambda: found.append(len(source.containers()))) for _ in range(3)
    ]
    for call in calls:
        call.start()
    while len(fake_kubernetes.asked) < 3:
        time.sleep(0.005)
    fake_kubernetes.answer.set()
    for call in calls:
        call.join(5)
    assert found == [2, 2, 2]
    source.containers()
    assert fake_kubernetes.connections == 3


@pytest.mark.parametrize("name", ["token", "namespace", "ca.crt"])
def test_service_account_that_is_not_complete(fake_kubernetes: FakeKubernetes, name: str) -> None:
    """A file that is missing is a failure with a sentence, and once it is there all is well."""
    content = (fake_kubernetes.account / name).read_text()
    (fake_kubernetes.account / name).unlink()
    source = source_of(fake_kubernetes)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"service account is not complete$"):
            source.containers()
    fake_kubernetes.mount(name, content)
    assert len(source.containers()) == 2


def test_ca_that_is_none(fake_kubernetes: FakeKubernetes) -> None:
    """A CA file that holds no certificate is a failure with a sentence too."""
    fake_kubernetes.mount("ca.crt", "no certificate")
    with pytest.raises(SourceError, match=r"service account is not complete$"):
        source_of(fake_kubernetes).containers()


@pytest.mark.parametrize("variable", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
def test_variable_that_is_missing(
    fake_kubernetes: FakeKubernetes, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variables that Kubernetes puts into a pod it says which one is missing."""
    monkeypatch.delenv(variable)
    with pytest.raises(SourceError, match=rf" because {variable} is not set$"):
        source_of(fake_kubernetes).containers()


def test_internet_proxy_is_not_used(
    fake_kubernetes: FakeKubernetes, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is for the internet; the way to Kubernetes does not go through it."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert len(source_of(fake_kubernetes).containers()) == 2


def test_every_error_below_is_translated() -> None:
    """No error that lightkube, httpx2 or msgspec declares lies outside of what is translated."""
    roots = (
        httpx2.HTTPError,
        httpx2.InvalidURL,
        msgspec.MsgspecError,
        lightkube.core.exceptions.ConfigError,
    )
    declared = {
        item
        for namespace in (httpx2, msgspec, lightkube.core.exceptions)
        for item in vars(namespace).values()
        if isinstance(item, type)
        and issubclass(item, Exception)
        and item.__module__.startswith(("httpx2", "msgspec", "lightkube"))
    }
    assert len(declared) > 20
    outside = {item.__name__ for item in declared if not issubclass(item, roots)}
    assert outside == {
        # Of what is not asked here: watching, waiting, and resources that are made at run time;
        "ConditionError",
        "LoadResourceError",
        "NotReadyError",
        "ObjectDeleted",
        # of streamed bodies and cookies, neither of which there are.
        "CookieConflict",
        "RequestNotRead",
        "ResponseNotRead",
        "StreamClosed",
        "StreamConsumed",
        "StreamError",
    }
