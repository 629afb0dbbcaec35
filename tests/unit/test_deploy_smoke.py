"""The smoke test."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.deploy.readiness import Snapshot
from pipeline.deploy.release import identity
from pipeline.deploy.smoke import LIMIT, SmokeFailed, compare, smoke
from pipeline.deploy.wait import observe
from pipeline.kube import Answer

from .deploy_fakes import DEPLOYMENT, Clock, FakeKube, manifest, pod, system, workload

pytestmark = pytest.mark.anyio


async def cluster() -> FakeKube:
    """Return a cluster with the system in it."""
    kube = FakeKube()
    for obj in system():
        await kube.apply(obj)
    return kube


async def test_it_returns_the_pods_that_are_listed() -> None:
    """All pods of both workloads are listed, and asked for through the Nginx Service."""
    kube, clock = await cluster(), Clock()
    pods = await smoke(kube, system(), "slipway", tempo=clock.tempo)
    assert pods == tuple(f"slipway-{name}-r1-{n}" for name in ("api", "nginx") for n in (0, 1))
    assert clock.now == 1000


async def test_it_asks_through_the_service_by_the_name_of_its_port() -> None:
    """The way goes through the API server's proxy of the Service."""
    kube, clock = await cluster(), Clock()
    way = "/api/v1/namespaces/slipway/services/http:slipway-nginx:http/proxy/api/v1/containers"
    kube.raws[way] = Answer(418, b"short and stout")
    with pytest.raises(SmokeFailed, match=r"answers 418$"):
        await smoke(kube, system(), "slipway", tempo=clock.tempo)


async def test_a_list_that_is_late_is_waited_for() -> None:
    """The API may hand out a list of a second ago."""
    kube, clock = await cluster(), Clock()
    kube.smoke = lambda answer: answer if clock.now > 1003 else {**answer, "containers": []}
    assert await smoke(kube, system(), "slipway", tempo=clock.tempo)
    assert clock.now == 1004


async def test_it_gives_up_at_its_limit() -> None:
    """What does not answer does not for ever."""
    kube, clock = await cluster(), Clock()
    kube.smoke = lambda answer: {**answer, "source": "docker"}
    with pytest.raises(SmokeFailed, match="lists what docker says, and not Kubernetes"):
        await smoke(kube, system(), "slipway", tempo=clock.tempo)
    assert 1000 + LIMIT <= clock.now <= 1002 + LIMIT


async def test_without_the_service_there_is_nothing_to_ask() -> None:
    """An overlay that takes the Service away is told so."""
    with pytest.raises(SmokeFailed, match="no Service slipway-nginx"):
        await smoke(await cluster(), (workload("x", "i"),), "slipway")


def listing(*pods: str, **more: Any) -> Answer:  # noqa: ANN401 - JSON
    """Return an answer that lists containers of these pods."""
    items = [{"name": "c", "pod": name} for name in pods]
    return Answer(200, json.dumps({"source": "kubernetes", "containers": items, **more}).encode())


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (listing("slipway-api-r1-0", "slipway-api-r1-1"), ""),
        (listing("slipway-api-r1-0", "slipway-api-r1-1", "somebody-elses"), ""),
        (listing("slipway-api-r1-0"), "lacks slipway-api-r1-1"),
        (listing(), "lacks slipway-api-r1-0, slipway-api-r1-1"),
        (listing("slipway-api-r1-0", "slipway-api-r1-1", source=""), "an unnamed source"),
        (Answer(200, b"<html>"), "no list of containers"),
        (Answer(200, b"[]"), "no list of containers"),
        (Answer(502, b"bad gateway"), "answers 502"),
        (
            Answer(503, b'{"kind":"Status","apiVersion":"v1","message":"no endpoints"}'),
            "answers 503 (the API server: no endpoints)",
        ),
    ],
)
async def test_what_is_answered_is_held_against_the_cluster(answer: Answer, wrong: str) -> None:
    """Every pod of the present template, whatever else there is, from Kubernetes."""
    kube = FakeKube()
    await kube.apply(manifest("v1", "Namespace", "slipway"))
    await kube.apply(workload("slipway-api", "i"))
    found = compare(answer, await observe(kube, [identity(workload("slipway-api", "i"))]))
    if wrong:
        assert wrong in found.wrong
    else:
        assert found.pods == ("slipway-api-r1-0", "slipway-api-r1-1")


async def test_a_pod_of_the_release_before_must_not_be_listed() -> None:
    """A list that still has an old pod is of another release."""
    kube = FakeKube()
    await kube.apply(manifest("v1", "Namespace", "slipway"))
    await kube.apply(workload("slipway-api", "i"))
    snapshot = await observe(kube, [identity(workload("slipway-api", "i"))])
    uid = kube.objects[DEPLOYMENT, "slipway", "slipway-api"]["metadata"]["uid"]
    old_set = {
        **snapshot.replica_sets[0],
        "metadata": {
            "name": "old",
            "uid": "old",
            "ownerReferences": [{"controller": True, "uid": uid}],
            "annotations": {"deployment.kubernetes.io/revision": "0"},
        },
    }
    before = replace(
        snapshot,
        pods=(*snapshot.pods, pod("old-0", "old")),
        replica_sets=(*snapshot.replica_sets, old_set),
    )
    answer = listing("slipway-api-r1-0", "slipway-api-r1-1", "old-0")
    assert compare(answer, before).wrong == "still has old-0"


def test_nothing_that_runs_is_no_success() -> None:
    """With no pod to hold the list against, nothing was shown."""
    assert "no pod runs" in compare(listing(), Snapshot()).wrong
