"""The life of a release in a cluster."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.deploy import records
from pipeline.deploy.release import PULL_SECRET, RELEASE, pull_secret
from pipeline.deploy.rollout import MADE, Rollout, RolloutFailed, chosen
from pipeline.errors import PrerequisiteError, UsageError
from pipeline.kube import Away, Kind, Refused
from pipeline.registry import Login

from .deploy_fakes import (
    CONFIG_MAP,
    DEPLOYMENT,
    LEASE,
    NAMESPACE,
    Clock,
    FakeKube,
    Screen,
    manifest,
    release,
)

if TYPE_CHECKING:
    from pipeline.deploy.release import Object, Release

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
EXTRA = manifest("v1", "ConfigMap", "extra", data={"a": "b"})


class Site:
    """A cluster, and what deploys to it."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.screen = Screen()
        self.clock = Clock()

    def rollout(self, secret: Object | None = None) -> Rollout:
        """Return what deploys."""
        return Rollout(
            kube=self.kube,
            namespace="slipway",
            screen=self.screen,
            limit=60.0,
            secret=secret,
            tempo=self.clock.tempo,
            today=lambda: NOON,
        )

    async def deploy(self, wanted: Release) -> Release:
        """Deploy, and forget what was done for it."""
        done = await self.rollout().deploy(wanted)
        self.kube.calls.clear()
        self.screen.lines.clear()
        return done

    async def states(self) -> list[tuple[int, str]]:
        """Return number and state of each release that is recorded."""
        return [(r.number, r.state) for r in await records.load(self.kube, "slipway")]


@pytest.fixture
def site() -> Site:
    """Return a cluster with nothing in it."""
    return Site()


async def test_first_release_is_applied_in_order_waited_for_tried_and_recorded(site: Site) -> None:
    """A release goes from nothing to deployed, each object after what it needs."""
    done = await site.rollout().deploy(release())
    assert (done.number, done.state, done.created_at) == (1, "deployed", NOON.isoformat())
    applied = [call for call in site.kube.calls if call.startswith("apply ")]
    assert applied == [
        "apply Namespace slipway",
        "apply ConfigMap slipway-release-1",
        "apply Namespace slipway",
        "apply ServiceAccount slipway-api",
        "apply Service slipway-nginx",
        "apply Deployment slipway-api",
        "apply Deployment slipway-nginx",
        "apply ScaledObject slipway-api",
        "apply ConfigMap slipway-release-1",
    ]
    assert await site.states() == [(1, "deployed")]
    assert site.kube.names(LEASE) == ()
    assert "Nginx lists the pods that were deployed: slipway-api-r1-0" in site.screen


async def test_number_of_a_release_is_never_in_the_template_of_a_pod(site: Site) -> None:
    """The same content under a new number rolls nothing."""
    await site.deploy(release())
    before = await site.kube.get(DEPLOYMENT, "slipway-api", "slipway")
    await site.deploy(release())
    after = await site.kube.get(DEPLOYMENT, "slipway-api", "slipway")
    assert before is not None
    assert after is not None
    assert after["metadata"]["annotations"][RELEASE] == "2"
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert await site.states() == [(1, "superseded"), (2, "deployed")]


async def test_everything_is_tried_before_anything_is_applied(site: Site) -> None:
    """All objects pass a dry run on the server before the first one is applied."""
    await site.deploy(release())
    await site.rollout().deploy(release(EXTRA))
    verbs = [call.split()[0] for call in site.kube.calls if "Lease" not in call]
    assert verbs[:7] == ["try"] * 7
    assert "try" not in verbs[7:]


async def test_conflicts_are_shown_and_not_forced(site: Site) -> None:
    """Fields of other managers are all named, and nothing is changed, not even a record."""
    await site.deploy(release())
    before = site.kube.state()
    site.kube.owners["Deployment", "slipway-api"] = {".spec.replicas": "kubectl", ".spec.x": "hpa"}
    with pytest.raises(RolloutFailed, match="2 fields belong to others, so nothing was") as raised:
        await site.rollout().deploy(release(A="b"))
    assert raised.value.evidence.splitlines() == [
        "Deployment slipway-api: .spec.replicas belongs to kubectl",
        "Deployment slipway-api: .spec.x belongs to hpa",
    ]
    assert site.kube.state() == before
    assert await site.states() == [(1, "deployed")]


async def test_a_refusal_at_the_rehearsal_leaves_no_namespace(site: Site) -> None:
    """A namespace that was made for a release that cannot be applied goes again."""
    site.kube.refuse["ScaledObject", "slipway-api"] = (403, "Forbidden", "no CPU request")
    with pytest.raises(Refused, match="so nothing was changed") as raised:
        await site.rollout().deploy(release())
    assert raised.value.evidence == "no CPU request"
    assert site.kube.objects == {}


async def test_what_an_earlier_release_had_and_this_one_lacks_is_deleted_when_it_is_ready(
    site: Site,
) -> None:
    """Pruning comes after the waiting, so that a failed release has deleted nothing."""
    await site.deploy(release(EXTRA))
    site.kube.broken["bad"] = "crash"
    with pytest.raises(RolloutFailed):
        await site.rollout().deploy(release(VERSION="bad"))
    assert "extra" in site.kube.names(CONFIG_MAP)
    await site.deploy(release())
    assert "extra" not in site.kube.names(CONFIG_MAP)


async def test_what_is_no_longer_ours_is_not_pruned(site: Site) -> None:
    """Who takes our label off an object keeps it."""
    await site.deploy(release(EXTRA))
    del site.kube.objects[CONFIG_MAP, "slipway", "extra"]["metadata"]["labels"]
    await site.rollout().deploy(release())
    assert "extra" in site.kube.names(CONFIG_MAP)
    assert "ConfigMap extra is no longer ours, and stays" in site.screen


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("crash", r"pod slipway-api-r2-0 crashes: exit code 3 \(3 times\)"),
        ("pull", "pod slipway-api-r2-0 cannot pull its image i: .*not found"),
        ("forbidden", 'no pod may be made: .* violates PodSecurity "restricted'),
        ("unschedulable", "pod slipway-api-r2-0 fits on no node: .*Insufficient cpu"),
        ("unready", "Not everything was ready within 60 s: Deployment slipway-api: 0 of 2"),
    ],
)
async def test_a_release_that_fails_is_taken_back(site: Site, fate: str, reason: str) -> None:
    """Whatever is wrong with its pods, the release before runs again, and the reason is told."""
    await site.deploy(release(EXTRA))
    before = site.kube.state()
    site.kube.broken["bad"] = fate
    new = manifest("v1", "ConfigMap", "new")
    began = site.clock.now
    with pytest.raises(RolloutFailed, match=f"^Release 2 failed: .*{reason}") as raised:
        await site.rollout().deploy(release(new, VERSION="bad"))
    assert "Release 1 was put back and is ready" in raised.value.remedy
    assert raised.value.exit_code == 1
    assert site.kube.state() == before
    assert await site.states() == [(1, "deployed"), (2, "failed")]
    assert site.kube.names(LEASE) == ()
    assert site.clock.now - began < (70 if fate == "unready" else 25)


async def test_what_is_taken_back_has_time_for_it(site: Site) -> None:
    """A limit that was too short for a release is not too short to put the one before back."""
    await site.deploy(release())
    site.kube.broken["bad"] = "unready"
    began = site.clock.now
    slow = site.kube.list

    async def listed(kind: Kind, namespace: str = "", *, labels: str = "") -> list[Object]:
        found = await slow(kind, namespace, labels=labels)
        if kind == DEPLOYMENT and site.clock.now < began + 20:
            for each in found:
                each["status"]["availableReplicas"] = 0
        return found

    site.kube.list = listed  # type: ignore[method-assign]
    short = dataclasses.replace(site.rollout(), limit=1.0)
    with pytest.raises(RolloutFailed, match="within 1 s") as raised:
        await short.deploy(release(VERSION="bad"))
    assert "Release 1 was put back and is ready" in raised.value.remedy


async def test_the_end_of_the_log_is_the_evidence_of_a_crash(site: Site) -> None:
    """What a container wrote before it crashed is shown, not what it writes now."""
    await site.deploy(release())
    site.kube.broken["bad"] = "crash"
    with pytest.raises(RolloutFailed) as raised:
        await site.rollout().deploy(release(VERSION="bad"))
    assert "it does not start (slipway/slipway-api-r2-0/api, 15, True)" in raised.value.evidence


async def test_a_first_release_that_fails_is_deleted(site: Site) -> None:
    """With nothing to go back to, what was applied goes; the namespace keeps the record."""
    site.kube.broken["bad"] = "crash"
    with pytest.raises(RolloutFailed, match="Release 1 failed") as raised:
        await site.rollout().deploy(release(VERSION="bad"))
    assert "what it applied was deleted" in raised.value.remedy
    assert site.kube.names(DEPLOYMENT) == ()
    assert await site.states() == [(1, "failed")]
    assert (await records.load(site.kube, "slipway"))[0].reason.startswith("Deployment slipway-api")


async def test_a_release_that_answers_wrongly_is_taken_back(site: Site) -> None:
    """Ready is not enough: a list that lacks the deployed pods fails the release."""
    await site.deploy(release())
    site.kube.smoke = lambda answer: {**answer, "containers": answer["containers"][1:]}
    with pytest.raises(RolloutFailed, match=r"GET /api/v1/containers .* lacks slipway-api-r2-0"):
        await site.rollout().deploy(release(A="b"))
    assert await site.states() == [(1, "deployed"), (2, "failed")]


async def test_the_same_release_again_is_not_put_back_to_itself(site: Site) -> None:
    """When what runs is deployed again and no longer gets ready, there is nothing to go back to."""
    await site.deploy(release(VERSION="v"))
    site.kube.broken["v"] = "crash"
    with pytest.raises(RolloutFailed) as raised:
        await site.rollout().deploy(release(VERSION="v"))
    assert "Release 1 is the same, so there is nothing to put back" in raised.value.remedy


async def test_both_failures_are_told_when_the_release_before_fails_too(site: Site) -> None:
    """A node that is full fails the release before as well: both reasons are told."""
    await site.deploy(release(VERSION="old"))
    site.kube.broken = {"new": "crash", "old": "unschedulable"}
    with pytest.raises(RolloutFailed) as raised:
        await site.rollout().deploy(release(VERSION="new"))
    told = raised.value.message
    assert told.startswith("Release 2 failed: Deployment slipway-api does not become ready: ")
    assert "and release 1 could not be put back: Deployment slipway-api" in told
    assert await site.states() == [(1, "deployed"), (2, "failed")]


@pytest.mark.parametrize("call", range(1, 26))
async def test_a_deploy_that_is_stopped_anywhere_can_be_run_again(site: Site, call: int) -> None:
    """Stopped at any change, it gives the lock back; run again, it ends in the same state."""
    undisturbed = Site()
    await undisturbed.deploy(release(EXTRA))
    await undisturbed.deploy(release(A="b"))

    await site.deploy(release(EXTRA))
    with anyio.CancelScope() as scope:

        def stop(_call: str) -> None:
            if len(site.kube.calls) == call:
                scope.cancel()

        site.kube.at_change = stop
        await site.rollout().deploy(release(A="b"))
    site.kube.at_change = lambda _call: None
    assert site.kube.names(LEASE) == ()
    left = await site.states()
    assert len(left) <= 2
    if scope.cancelled_caught:
        assert left[0] == (1, "deployed")
        assert left[1:] in ([], [(2, "pending")], [(2, "deployed")])

    await site.rollout().deploy(release(A="b"))
    assert site.kube.state() == undisturbed.kube.state()
    assert "extra" not in site.kube.names(CONFIG_MAP)
    states = [state for _, state in await site.states()]
    assert states.count("deployed") == 1
    assert states[-1] == "deployed"
    assert "pending" not in states


async def test_an_interrupted_release_is_called_failed_by_the_next_one(site: Site) -> None:
    """What a killed deploy left pending is settled, and its objects are known for pruning."""
    await site.deploy(release())
    pending = dataclasses.replace(release(EXTRA), number=2, state="pending")
    await records.save(site.kube, pending)
    await site.kube.apply(pending.marked()[1])
    for obj in pending.marked():
        await site.kube.apply(obj)
    await site.rollout().deploy(release())
    assert await site.states() == [(1, "superseded"), (2, "failed"), (3, "deployed")]
    assert "extra" not in site.kube.names(CONFIG_MAP)
    assert "The deploy of release 2 was interrupted" in site.screen


async def test_a_cluster_that_goes_away_leaves_a_pending_release(site: Site) -> None:
    """When nobody answers for long, nothing can be taken back: the error says how to go on."""
    await site.deploy(release())
    site.kube.away_after = 12
    with pytest.raises(Away, match="does not answer while release 2 was") as raised:
        await site.rollout().deploy(release(A="b"))
    assert "run the same again" in raised.value.remedy
    site.kube.away_after = None
    assert await site.states() == [(1, "deployed"), (2, "pending")]
    # Its lock could not be given back: the next one sees that nobody renews it.
    await site.rollout().deploy(release(A="b"))
    assert await site.states() == [(1, "superseded"), (2, "failed"), (3, "deployed")]


async def test_ten_releases_are_remembered(site: Site) -> None:
    """The oldest records go, the one that runs never does."""
    for number in range(13):
        await site.deploy(release(N=str(number)))
    assert [number for number, _ in await site.states()] == list(range(4, 14))


async def test_ten_failures_leave_ten_records_and_what_runs(site: Site) -> None:
    """Releases that fail one after the other are forgotten as well; the way back never is."""
    await site.deploy(release(N="1"))
    await site.deploy(release(N="2"))
    before = site.kube.state()
    site.kube.broken["bad"] = "crash"
    for number in range(12):
        with pytest.raises(RolloutFailed):
            await site.rollout().deploy(release(VERSION="bad", N=str(number)))
    assert await site.states() == [
        (1, "superseded"),
        (2, "deployed"),
        *((number, "failed") for number in range(7, 15)),
    ]
    assert site.kube.state() == before


async def test_first_releases_that_fail_are_forgotten_too(site: Site) -> None:
    """Where nothing ever ran, the last ten are remembered."""
    site.kube.broken["bad"] = "crash"
    for _ in range(12):
        with pytest.raises(RolloutFailed):
            await site.rollout().deploy(release(VERSION="bad"))
    assert await site.states() == [(number, "failed") for number in range(3, 13)]


async def test_what_an_interrupted_release_left_goes_with_the_next_that_fails(site: Site) -> None:
    """Before its record may be forgotten, nothing is left that only the record knows."""
    await site.deploy(release())
    pending = dataclasses.replace(release(EXTRA), number=2, state="pending")
    await records.save(site.kube, pending)
    for obj in pending.marked():
        await site.kube.apply(obj)
    site.kube.broken["bad"] = "crash"
    with pytest.raises(RolloutFailed):
        await site.rollout().deploy(release(VERSION="bad"))
    assert "extra" not in site.kube.names(CONFIG_MAP)


async def test_records_stay_where_nothing_could_be_taken_back(site: Site) -> None:
    """They are all that knows what may be left."""
    await site.deploy(release(VERSION="old"))
    site.kube.broken = {"new": "crash", "old": "unschedulable"}
    for _ in range(11):
        with pytest.raises(RolloutFailed, match="could not be put back"):
            await site.rollout().deploy(release(VERSION="new"))
    assert len(await site.states()) == 12


async def test_rollback_picks_its_release_when_it_is_its_turn(site: Site) -> None:
    """What another deploy did while it waited for the lock counts, and is looked at anew."""
    for version in "123":
        await site.deploy(release(V=version))
    seen: list[int] = []

    async def vet(target: Release) -> Object | None:
        assert site.kube.names(LEASE) == ("slipway-deploy",)
        seen.append(target.number)
        return pull_secret("slipway", {"r.example": Login("me", "hunter2")})

    def finished(call: str) -> None:
        """Have another deploy end as the lock is taken: release 3 runs no more, release 2 does."""
        if call == "create Lease slipway-deploy":
            three, two = made
            for record in (two.with_state("deployed"), three.with_state("failed")):
                packed = records.packed(record)
                site.kube.objects[CONFIG_MAP, "slipway", packed["metadata"]["name"]] = packed

    known = await records.load(site.kube, "slipway")
    made = (known[2], known[1])
    assert chosen(known, None).number == 2
    site.kube.at_change = finished
    done = await site.rollout().roll_back(None, vet)
    assert seen == [1]
    assert done.origin == "rollback to release 1"
    assert PULL_SECRET in site.kube.names(Kind("", "Secret"))


async def test_rollback_that_is_refused_under_the_lock_changes_nothing(site: Site) -> None:
    """And gives the lock back."""
    for version in "12":
        await site.deploy(release(V=version))
    before = site.kube.state()

    async def vet(_target: Release) -> Object | None:
        raise PrerequisiteError("its image is gone")

    with pytest.raises(PrerequisiteError, match="its image is gone"):
        await site.rollout().roll_back(None, vet)
    assert site.kube.state() == before
    assert await site.states() == [(1, "superseded"), (2, "deployed")]
    assert site.kube.names(LEASE) == ()


async def test_rollback_brings_back_the_release_before_under_a_new_number(site: Site) -> None:
    """Rolling back is deploying what was, with all its waiting and trying."""
    await site.deploy(release(V="1"))
    before = site.kube.state()
    await site.deploy(release(EXTRA, V="2"))
    done = await site.rollout().roll_back(None)
    assert (done.number, done.origin) == (3, "rollback to release 1")
    assert site.kube.state() == before
    assert await site.states() == [(1, "superseded"), (2, "superseded"), (3, "deployed")]


async def test_rollback_to_a_number(site: Site) -> None:
    """Any release that ran once can be brought back."""
    for version in "123":
        await site.deploy(release(V=version))
    done = await site.rollout().roll_back(1)
    assert done.objects == release(V="1").objects


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (None, "no release to roll back to"),
        (7, "There is no release 7"),
        (2, "Release 2 never ran: it is failed"),
    ],
)
def test_rollback_to_nothing_is_a_mistake(number: int | None, why: str) -> None:
    """A release that is not there or never ran is refused."""
    known = (
        dataclasses.replace(release(), number=1, state="deployed"),
        dataclasses.replace(release(), number=2, state="failed"),
    )
    with pytest.raises(UsageError, match=why):
        chosen(known, number)


async def test_remove_leaves_nothing(site: Site) -> None:
    """Objects, records, pull secret, lock and the namespace that we made are gone."""
    secret = pull_secret("slipway", {"r.example": Login("me", "hunter2")})
    await site.rollout(secret).deploy(release(EXTRA))
    await site.rollout().remove()
    assert site.kube.objects == {}


@pytest.mark.parametrize("call", [2, 3, 8, 9])
async def test_a_namespace_of_a_deploy_that_was_stopped_at_once_is_removed(
    site: Site, call: int
) -> None:
    """That it is ours is known before the first record is written, to `remove` and to a deploy."""
    for again in (False, True):
        with anyio.CancelScope() as scope:

            def stop(_call: str, scope: anyio.CancelScope = scope) -> None:
                if len(site.kube.calls) == call:
                    scope.cancel()

            site.kube.at_change = stop
            await site.rollout().deploy(release())
        assert scope.cancelled_caught
        site.kube.at_change = lambda _call: None
        assert site.kube.names(NAMESPACE) == ("slipway",)
        assert await site.states() == []
        if again:
            await site.deploy(release())
        await site.rollout().remove()
        assert site.kube.objects == {}
        site.kube.calls.clear()


async def test_a_refusal_leaves_a_namespace_that_others_use(site: Site) -> None:
    """One that we made before, and left because of what is in it, is not deleted later."""
    await site.deploy(release())
    await site.kube.apply(manifest("v1", "PersistentVolumeClaim", "theirs"))
    made = site.kube.objects[NAMESPACE, "", "slipway"]
    await site.rollout().remove()
    made["metadata"]["annotations"] = {MADE: "true"}
    site.kube.refuse["ScaledObject", "slipway-api"] = (403, "Forbidden", "no CPU request")
    with pytest.raises(Refused):
        await site.rollout().deploy(release())
    assert site.kube.names(Kind("", "PersistentVolumeClaim")) == ("theirs",)


async def test_remove_keeps_a_namespace_that_was_there_before(site: Site) -> None:
    """A namespace that somebody else made stays."""
    await site.kube.apply(manifest("v1", "Namespace", "slipway"))
    await site.deploy(release(EXTRA))
    await site.rollout().remove()
    assert [kind for kind, _, _ in site.kube.objects] == [NAMESPACE]


async def test_remove_keeps_a_namespace_that_others_use(site: Site) -> None:
    """Somebody else's things in our namespace are not deleted with it."""
    await site.deploy(release())
    await site.kube.apply(manifest("v1", "PersistentVolumeClaim", "theirs"))
    await site.rollout().remove()
    assert (NAMESPACE, "", "slipway") in site.kube.objects
    assert "The namespace slipway stays: it has PersistentVolumeClaim theirs" in site.screen


@pytest.mark.parametrize("used", [True, False])
async def test_remove_looks_for_others_objects_of_any_kind(site: Site, *, used: bool) -> None:
    """A kind that nobody here knows counts; what is in each namespace by itself does not."""
    await site.deploy(release())
    for obj in (
        manifest("v1", "ServiceAccount", "default"),
        manifest("v1", "ConfigMap", "kube-root-ca.crt"),
        manifest("v1", "Event", "slipway-api.17"),
        manifest("v1", "Endpoints", "slipway-nginx"),
    ):
        await site.kube.apply(obj)
    if used:
        await site.kube.apply(manifest("example.org/v1", "Database", "theirs"))
    await site.rollout().remove()
    assert ("The namespace slipway stays: it has Database theirs" in site.screen) is used
    assert ((NAMESPACE, "", "slipway") in site.kube.objects) is used


async def test_remove_leaves_a_secret_that_is_not_ours(site: Site) -> None:
    """Somebody's own Secret of that name bears no label of ours."""
    await site.kube.apply(manifest("v1", "Namespace", "slipway"))
    await site.kube.apply(manifest("v1", "Secret", PULL_SECRET))
    await site.deploy(release())
    await site.rollout().remove()
    assert site.kube.names(Kind("", "Secret")) == (PULL_SECRET,)
    assert f"Secret {PULL_SECRET} is no longer ours, and stays" in site.screen


async def test_remove_needs_no_right_to_secrets(site: Site) -> None:
    """A deploy without a login asks for none, so its end does not either."""
    get = site.kube.get

    async def refuse(kind: Kind, name: str, namespace: str = "") -> Object | None:
        if kind.name == "Secret":
            raise Refused("no", status=403, reason="Forbidden")
        return await get(kind, name, namespace)

    site.kube.get = refuse  # type: ignore[method-assign]
    await site.deploy(release())
    await site.rollout().remove()
    assert "delete Secret slipway-pull" not in site.kube.calls
    assert site.kube.objects == {}


async def test_remove_with_nothing_there_says_so(site: Site) -> None:
    """Removing twice is no error."""
    await site.rollout().remove()
    assert "There is no namespace slipway: nothing is deployed" in site.screen


async def test_pull_secret_is_made_named_by_accounts_and_never_recorded(site: Site) -> None:
    """The login is in the cluster's Secret and nowhere else; pods do not name it themselves."""
    secret = pull_secret("slipway", {"r.example:5000": Login("me", "hunter2")})
    done = await site.rollout(secret).deploy(release())
    account = await site.kube.get(Kind("", "ServiceAccount"), "slipway-api", "slipway")
    assert account is not None
    assert account["imagePullSecrets"] == [{"name": PULL_SECRET}]
    record = await site.kube.get(CONFIG_MAP, "slipway-release-1", "slipway")
    assert record is not None
    assert "hunter2" not in str(done)
    assert "imagePullSecrets" not in str(done.objects)
    assert records.packed(done)["binaryData"] == record["binaryData"]
    # A later deploy from a machine without the login goes on with it.
    await site.deploy(release())
    account = await site.kube.get(Kind("", "ServiceAccount"), "slipway-api", "slipway")
    assert account is not None
    assert account["imagePullSecrets"] == [{"name": PULL_SECRET}]


async def test_two_deploys_at_once_exclude_each_other(site: Site) -> None:
    """Who comes second while the first one lives is refused, and changes nothing."""
    await site.deploy(release())
    async with records.lock(site.kube, "slipway", site.screen.progress, tempo=site.clock.tempo):

        def live() -> None:
            held = site.kube.objects[LEASE, "slipway", "slipway-deploy"]
            held["spec"]["renewTime"] = str(site.clock.now)

        site.clock.at_sleep = live
        with pytest.raises(PrerequisiteError, match="Another deploy to slipway is under way"):
            await site.rollout().deploy(release(A="b"))
    assert await site.states() == [(1, "deployed")]
