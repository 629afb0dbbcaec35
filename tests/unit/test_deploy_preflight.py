"""What is known before anything is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.deploy.preflight import METRICS_LIMIT, Right, check, rights
from pipeline.errors import PrerequisiteError
from pipeline.kube import Answer, Kind, Refused

from .deploy_fakes import DEPLOYMENT, SCALED_OBJECT, Clock, FakeKube, system, workload

if TYPE_CHECKING:
    from pipeline.deploy.release import Object

pytestmark = pytest.mark.anyio

DEFINITION = Kind("apiextensions.k8s.io", "CustomResourceDefinition")


@pytest.fixture
def kube() -> FakeKube:
    """Return a cluster."""
    return FakeKube()


def keda(version: str) -> Object:
    """Return KEDA's operator in a version."""
    obj = workload("keda-operator", "keda")
    obj["metadata"] |= {
        "namespace": "keda",
        "labels": {"app.kubernetes.io/version": version},
        "generation": 1,
    }
    return obj


async def test_a_cluster_that_fits_is_not_changed(kube: FakeKube) -> None:
    """Looking changes nothing."""
    kube.objects[DEPLOYMENT, "keda", "keda-operator"] = keda("2.21.0")
    await check(kube, system(), "slipway", secret=True)
    assert kube.calls == []


@pytest.mark.parametrize("version", ["v1.33.9", "v1.37.0", "v2.34.0", "v1.3.0", "fine"])
async def test_an_unsupported_kubernetes_is_refused_by_name(kube: FakeKube, version: str) -> None:
    """1.34 to 1.36 are known to work, and the error says so."""
    kube.version = version
    with pytest.raises(PrerequisiteError, match=version.removeprefix("v")) as raised:
        await check(kube, system(), "slipway", secret=False)
    assert "1.34 to 1.36" in raised.value.message
    assert "fake" in raised.value.message


@pytest.mark.parametrize("version", ["v1.34.0", "v1.35.7-eks-1", "v1.36.3+k3s1"])
async def test_supported_versions_pass(kube: FakeKube, version: str) -> None:
    """What a vendor adds to a version does not matter."""
    kube.version = version
    await check(kube, system(), "slipway", secret=False)


async def test_a_cluster_without_keda_is_told_how_to_get_it(kube: FakeKube) -> None:
    """The one command is named."""
    kube.missing.add(SCALED_OBJECT)
    with pytest.raises(PrerequisiteError, match="has no KEDA") as raised:
        await check(kube, system(), "slipway", secret=False)
    assert "`python -m pipeline cluster prepare`" in raised.value.remedy


async def test_without_scaled_objects_no_keda_is_needed(kube: FakeKube) -> None:
    """An overlay that scales nothing asks for nothing."""
    kube.missing.add(SCALED_OBJECT)
    plain = [each for each in system() if each["kind"] != "ScaledObject"]
    await check(kube, plain, "slipway", secret=False)


@pytest.mark.parametrize("where", ["operator", "definition"])
async def test_another_keda_is_refused_by_name(kube: FakeKube, where: str) -> None:
    """The version is read where it is to be found."""
    if where == "operator":
        kube.objects[DEPLOYMENT, "keda", "keda-operator"] = keda("2.14.0")
    else:
        kube.objects[DEFINITION, "", "scaledobjects.keda.sh"] = keda("v2.14.0")
    with pytest.raises(PrerequisiteError, match=r"has KEDA 2\.14\.0, and this needs 2\.21\.0"):
        await check(kube, system(), "slipway", secret=False)


async def test_a_keda_that_may_not_be_seen_is_not_held_against_us(kube: FakeKube) -> None:
    """Whoever has rights in one namespace alone cannot look into KEDA's."""

    async def refuse(*_args: object) -> None:
        raise Refused("no", status=403, reason="Forbidden")

    kube.get = refuse  # type: ignore[method-assign,assignment]
    await check(kube, system(), "slipway", secret=False)


async def test_metrics_that_are_missing_are_told(kube: FakeKube) -> None:
    """Without figures nothing scales by CPU, however ready KEDA is."""
    clock = Clock()
    kube.raws["/apis/metrics.k8s.io"] = Answer(503, b"service unavailable")
    with pytest.raises(PrerequisiteError, match=r"no metrics API that works.*status 503") as raised:
        await check(kube, system(), "slipway", secret=False, tempo=clock.tempo)
    assert raised.value.evidence == "service unavailable"
    assert clock.now == 1000 + METRICS_LIMIT
    kube.raws["/apis/metrics.k8s.io"] = Answer(404, b"")
    with pytest.raises(PrerequisiteError, match=r"status 404"):
        await check(kube, system(), "slipway", secret=False, tempo=clock.tempo)
    assert clock.now == 1000 + METRICS_LIMIT


async def test_metrics_that_come_back_are_waited_for(kube: FakeKube) -> None:
    """An API server that has just come back has to find the metrics API again."""
    clock = Clock()
    kube.raws["/apis/metrics.k8s.io"] = Answer(503, b"service unavailable")

    def later() -> None:
        if clock.now > 1007:
            kube.raws.clear()

    clock.at_sleep = later
    await check(kube, system(), "slipway", secret=False, tempo=clock.tempo)
    assert clock.now == 1008


async def test_missing_rights_are_all_named(kube: FakeKube) -> None:
    """A person can ask for all of them at once."""
    kube.forbidden = {("patch", "Deployment"), ("get", "Service/proxy"), ("create", "Lease")}
    with pytest.raises(PrerequisiteError) as raised:
        await check(kube, system(), "slipway", secret=False)
    assert raised.value.message == (
        "The cluster of the context fake does not allow us to create Lease in slipway, "
        "get Service/proxy in slipway, patch Deployment in slipway"
    )


async def test_many_missing_rights_are_listed_in_the_evidence(kube: FakeKube) -> None:
    """The sentence stays one; the rest is below it."""
    kube.forbidden = {
        (verb, kind)
        for verb in ("get", "patch", "create", "delete", "list")
        for kind in ("Deployment", "Service")
    }
    with pytest.raises(PrerequisiteError, match="and 4 more") as raised:
        await check(kube, system(), "slipway", secret=False)
    assert len(raised.value.evidence.splitlines()) == 10


def test_rights_are_those_that_a_deploy_uses() -> None:
    """Each once; a Secret only where one is to be made; no right to delete the namespace."""
    found = rights(system(), "slipway", secret=False)
    assert len(set(found)) == len(found)
    assert Right("patch", DEPLOYMENT, "slipway") in found
    assert Right("get", Kind("", "Service"), "slipway", "proxy") in found
    assert Right("patch", Kind("", "Namespace"), "slipway") in found
    assert Right("delete", Kind("", "Namespace"), "slipway") not in found
    assert not [each for each in found if each.kind.name == "Secret"]
    assert Right("patch", Kind("", "Secret"), "slipway") in rights((), "slipway", secret=True)
