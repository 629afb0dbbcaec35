"""Records of releases in the cluster, and the lock."""

from __future__ import annotations

import base64
import dataclasses
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.deploy import records
from pipeline.errors import PrerequisiteError, StepError
from pipeline.kube import Refused

from .deploy_fakes import CONFIG_MAP, LEASE, Clock, FakeKube, Screen, manifest, release

if TYPE_CHECKING:
    from pipeline.deploy.release import Release, State

pytestmark = pytest.mark.anyio

HELD = (LEASE, "slipway", "slipway-deploy")


@pytest.fixture
async def kube() -> FakeKube:
    """Return a cluster with the namespace."""
    made = FakeKube()
    await made.apply(manifest("v1", "Namespace", "slipway"))
    return made


def numbered(number: int, state: State = "superseded") -> Release:
    """Return a release with a number."""
    return dataclasses.replace(release(), number=number, state=state)


async def test_releases_are_read_back_in_their_order(kube: FakeKube) -> None:
    """Ten comes after nine, whatever the names sort to."""
    for number in (10, 9, 2):
        await records.save(kube, numbered(number))
    await kube.apply(manifest("v1", "ConfigMap", "another"))
    assert await records.load(kube, "slipway") == tuple(numbered(n) for n in (2, 9, 10))


async def test_state_is_a_label(kube: FakeKube) -> None:
    """`kubectl get configmap -L slipway.io/state` tells the releases without unpacking one."""
    await records.save(kube, numbered(1, "deployed"))
    labels = kube.objects[CONFIG_MAP, "slipway", "slipway-release-1"]["metadata"]["labels"]
    assert labels[records.STATE] == "deployed"


def test_the_same_release_is_packed_the_same() -> None:
    """No time is in it: applying a record again changes nothing."""
    assert records.packed(numbered(1)) == records.packed(numbered(1))


@pytest.mark.parametrize("content", ["", "no base64!", base64.b64encode(b"no gzip").decode()])
async def test_a_record_that_cannot_be_read_is_named(kube: FakeKube, content: str) -> None:
    """A damaged record is an error with the one command that removes it."""
    await records.save(kube, numbered(3))
    kube.objects[CONFIG_MAP, "slipway", "slipway-release-3"]["binaryData"] = {
        "release.json.gz": content
    }
    with pytest.raises(StepError, match="slipway-release-3 in slipway cannot be read") as raised:
        await records.load(kube, "slipway")
    assert "delete configmap slipway-release-3" in raised.value.remedy


def test_the_one_that_runs_and_the_one_before() -> None:
    """Failed and pending releases are neither."""
    known = (numbered(1), numbered(2), numbered(3, "failed"), numbered(4, "deployed"))
    assert records.deployed(known) == known[3]
    assert records.before(known, 4) == known[1]
    assert records.deployed(known[:3]) is None
    assert records.before(known[2:], 4) is None
    assert records.next_number(known) == 5
    assert records.next_number(()) == 1


def test_the_one_that_runs_is_never_forgotten() -> None:
    """After many failures, the release that runs may be the oldest."""
    known = (numbered(1, "deployed"), *(numbered(n, "failed") for n in range(2, 13)))
    assert [each.number for each in records.outdated(known)] == [2, 3]
    assert records.outdated(known[:10]) == ()


def test_the_way_back_is_never_forgotten() -> None:
    """Many failures between two releases do not leave the later one without the earlier."""
    known = (
        numbered(1),
        numbered(2),
        *(numbered(n, "failed") for n in range(3, 13)),
        numbered(13, "deployed"),
    )
    assert [each.number for each in records.outdated(known)] == [1, 3, 4]


def test_the_last_that_ran_is_never_forgotten() -> None:
    """Nor where nothing is said to run now."""
    known = (numbered(1), *(numbered(n, "failed") for n in range(2, 13)))
    assert [each.number for each in records.outdated(known)] == [2, 3]


async def test_lock_is_taken_and_given_back(kube: FakeKube) -> None:
    """Within it the Lease has a holder, and after it there is none."""
    async with records.lock(kube, "slipway", Screen().say):
        assert kube.objects[HELD]["spec"]["leaseDurationSeconds"] == 15
        assert kube.objects[HELD]["spec"]["holderIdentity"]
    assert HELD not in kube.objects


async def test_an_error_within_the_lock_comes_out_as_it_is(kube: FakeKube) -> None:
    """No group of errors is made of one."""
    with pytest.raises(StepError, match=r"^within$"):
        async with records.lock(kube, "slipway", Screen().say):
            raise StepError("within")
    assert HELD not in kube.objects


async def test_lock_is_given_back_when_the_deploy_is_stopped(kube: FakeKube) -> None:
    """A cancelled deploy does not keep the next one waiting."""
    with anyio.move_on_after(0.05):
        async with records.lock(kube, "slipway", Screen().say):
            await anyio.sleep(5)
    assert HELD not in kube.objects


async def test_lock_of_a_dead_deploy_is_taken_over(kube: FakeKube) -> None:
    """Nobody renews it for its term: whoever held it is gone."""
    dead = manifest("coordination.k8s.io/v1", "Lease", "slipway-deploy")
    dead["spec"] = {"holderIdentity": "dead", "renewTime": "2126-01-01T00:00:00Z"}
    await kube.apply(dead)
    clock, screen = Clock(), Screen()
    async with records.lock(kube, "slipway", screen.say, tempo=clock.tempo):
        assert kube.objects[HELD]["spec"]["holderIdentity"] != "dead"
    assert clock.now == 1000 + records.TERM
    assert "Another deploy (dead) was here: seeing for 15 s whether it lives" in screen


async def test_lock_of_a_living_deploy_is_not(kube: FakeKube) -> None:
    """One renewal that is seen is enough to know."""
    live = manifest("coordination.k8s.io/v1", "Lease", "slipway-deploy")
    live["spec"] = {"holderIdentity": "live", "renewTime": "0"}
    await kube.apply(live)
    clock = Clock()

    def renew() -> None:
        if clock.now == 1004:
            kube.objects[HELD]["spec"]["renewTime"] = "1"

    clock.at_sleep = renew
    with pytest.raises(PrerequisiteError, match=r"Another deploy to slipway is under way \(live\)"):
        async with records.lock(kube, "slipway", Screen().say, tempo=clock.tempo):
            pytest.fail("two within the lock")
    assert clock.now == 1004
    assert kube.objects[HELD]["spec"]["holderIdentity"] == "live"


async def test_a_lock_that_was_lost_ends_what_was_done_under_it(kube: FakeKube) -> None:
    """Who was frozen for longer than the term finds another one at work, and stops."""

    async def frozen() -> None:
        async with records.lock(kube, "slipway", Screen().say, renewal=0.01):
            kube.objects[HELD]["spec"]["holderIdentity"] = "other"
            await anyio.sleep(5)
            pytest.fail("it was not stopped")

    with pytest.raises(StepError, match=r"Another deploy \(other\) has taken over"):
        await frozen()
    assert kube.objects[HELD]["spec"]["holderIdentity"] == "other"


async def test_lock_is_renewed(kube: FakeKube) -> None:
    """A long deploy keeps its lock."""
    async with records.lock(kube, "slipway", Screen().say, renewal=0.01):
        first = kube.objects[HELD]["spec"]["renewTime"]
        await anyio.sleep(0.2)
        assert kube.objects[HELD]["spec"]["renewTime"] > first


async def test_a_renewal_that_is_refused_once_is_tried_again(kube: FakeKube) -> None:
    """An API server that answers 500 for a moment ends no deploy that is under way."""
    replace, refused = kube.replace, 0

    async def refuse_once(obj: dict[str, object]) -> dict[str, object]:
        nonlocal refused
        refused += 1
        if refused == 1:
            raise Refused("The cluster refuses", status=500, reason="InternalError")
        return await replace(obj)

    kube.replace = refuse_once  # type: ignore[method-assign]
    async with records.lock(kube, "slipway", Screen().say, renewal=0.01):
        first = kube.objects[HELD]["spec"]["renewTime"]
        await anyio.sleep(0.2)
        assert kube.objects[HELD]["spec"]["renewTime"] > first
    assert refused > 1


async def test_lock_in_a_namespace_that_is_not_there(kube: FakeKube) -> None:
    """A refusal is told, and not tried again for ever."""

    async def refuse(_obj: object) -> dict[str, object]:
        raise Refused("The cluster refuses", status=404, reason="NotFound")

    kube.create = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(Refused):
        async with records.lock(kube, "slipway", Screen().say):
            pytest.fail("it was not taken")
