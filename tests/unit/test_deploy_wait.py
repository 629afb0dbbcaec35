"""Waiting for what was applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.deploy.readiness import PULL_GRACE, Culprit, Snapshot
from pipeline.deploy.release import identity
from pipeline.deploy.wait import NotReady, evidence, observe, until_gone, until_ready
from pipeline.kube import Kind, Refused

from .deploy_fakes import Clock, FakeKube, Screen, manifest, system

if TYPE_CHECKING:
    from pipeline.deploy.release import Object

pytestmark = pytest.mark.anyio


@pytest.fixture
def kube() -> FakeKube:
    """Return a cluster."""
    return FakeKube()


@pytest.fixture
def clock() -> Clock:
    """Return a time of our own."""
    return Clock()


async def applied(kube: FakeKube, *objects: Object) -> tuple[Object, ...]:
    """Apply objects and return them."""
    for obj in objects:
        await kube.apply(obj)
    return objects


async def test_ready_at_once_is_told_and_not_waited_for(kube: FakeKube, clock: Clock) -> None:
    """Nothing sleeps when all is ready, and each object has its row."""
    objects = await applied(kube, *system())
    screen = Screen()
    began = clock.now
    await until_ready(kube, objects, limit=10, watch=screen.watch, tempo=clock.tempo)
    assert clock.now == began
    assert [(row.name, row.state) for row in screen.rows[-1]] == [
        ("Namespace slipway", "ready"),
        ("Service slipway-nginx", "ready"),
        ("Deployment slipway-api", "ready"),
        ("Deployment slipway-nginx", "ready"),
        ("ScaledObject slipway-api", "ready"),
    ]


async def test_it_waits_until_what_is_missing_comes(kube: FakeKube, clock: Clock) -> None:
    """What is not ready yet is looked at again."""
    objects = await applied(kube, *system(VERSION="slow"))
    kube.broken["slow"] = "unready"

    def later() -> None:
        if clock.now > 1005:
            kube.broken.clear()

    clock.at_sleep = later
    await until_ready(kube, objects, limit=60, tempo=clock.tempo)
    assert 1005 < clock.now < 1010


async def test_a_doubt_that_lasts_is_none(kube: FakeKube, clock: Clock) -> None:
    """An image that cannot be pulled is confirmed for its grace, and no longer."""
    objects = await applied(kube, *system(VERSION="bad"))
    kube.broken["bad"] = "pull"
    with pytest.raises(NotReady, match="cannot pull its image"):
        await until_ready(kube, objects, limit=60, tempo=clock.tempo)
    assert 1000 + PULL_GRACE <= clock.now <= 1000 + PULL_GRACE + 2


async def test_a_doubt_that_passes_is_forgotten(kube: FakeKube, clock: Clock) -> None:
    """Grace begins anew with each doubt: two short ones do not make a long one."""
    objects = await applied(kube, *system(VERSION="bad"))
    kube.broken["bad"] = "pull"

    def swing() -> None:
        kube.broken["bad"] = "unready" if int(clock.now) % 5 == 0 else "pull"
        if clock.now > 1030:
            kube.broken.clear()

    clock.at_sleep = swing
    await until_ready(kube, objects, limit=60, tempo=clock.tempo)
    assert clock.now > 1030


async def test_the_limit_names_what_is_late(kube: FakeKube, clock: Clock) -> None:
    """At the limit, each object that is not ready is told with its reason."""
    objects = await applied(kube, *system(VERSION="bad"))
    kube.broken["bad"] = "unready"
    with pytest.raises(NotReady, match="within 30 s: Deployment slipway-api: 0 of 2") as raised:
        await until_ready(kube, objects, limit=30, tempo=clock.tempo)
    assert "slipway-nginx" not in raised.value.message
    assert 1030 <= clock.now <= 1032


async def test_what_is_only_there_is_not_asked_for(kube: FakeKube) -> None:
    """A look asks for lists of the namespace, and for what belongs to workloads."""
    objects = await applied(kube, *system())
    found = await observe(kube, [identity(each) for each in objects])
    assert len(found.pods) == 4
    assert len(found.replica_sets) == 2
    assert set(found.objects) == {identity(each) for each in objects}


async def test_gone_is_when_nothing_is_left(kube: FakeKube, clock: Clock) -> None:
    """What has a finalizer is waited for, up to the limit."""
    (held,) = await applied(kube, manifest("v1", "Namespace", "held"))
    with pytest.raises(NotReady, match="Still there 5 s after it was deleted: Namespace held"):
        await until_gone(kube, [identity(held)], limit=5, tempo=clock.tempo)

    async def finish() -> None:
        await kube.delete(Kind("", "Namespace"), "held")

    await finish()
    await until_gone(kube, [identity(held)], limit=5, tempo=clock.tempo)


async def test_evidence_is_the_log_and_what_is_said_of_the_pod(kube: FakeKube) -> None:
    """The last lines that the container wrote, then what the cluster says of its pod."""
    kube.log = "first\nlast"
    events = (
        {"reason": "BackOff", "message": "again", "involvedObject": {"name": "p"}},
        {"reason": "Other", "message": "else", "involvedObject": {"name": "q"}},
    )
    culprit = Culprit("slipway", "p", "api", crashed=True)
    text = await evidence(kube, culprit, Snapshot(events=events))
    assert text.splitlines() == [
        "The end of the log of p, container api:",
        "  first",
        "  last (slipway/p/api, 15, True)",
        "Said of p:",
        "  BackOff: again",
    ]
    assert await evidence(kube, None, Snapshot()) == ""


async def test_a_log_that_may_not_be_read_is_said(kube: FakeKube) -> None:
    """A failure is not hidden behind another one."""

    async def refuse(*_args: object, **_more: object) -> str:
        raise Refused("The cluster refuses the log", status=403, reason="Forbidden")

    kube.logs = refuse  # type: ignore[method-assign]
    text = await evidence(kube, Culprit("slipway", "p", "api"), Snapshot())
    assert "The cluster refuses the log" in text
