"""Installing metrics-server and KEDA, in a cluster in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from pipeline.cluster import addons, preparation
from pipeline.cluster.addons import KEDA, METRICS_SERVER
from pipeline.cluster.preparation import Tools
from pipeline.errors import PrerequisiteError, StepError, UsageError
from pipeline.kube import Refused
from pipeline.setup.command import Output

from . import cluster_fakes as fakes
from .cluster_fakes import FakeKube, FakeSettings
from .setup_fakes import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.kube import Object

pytestmark = pytest.mark.anyio


@dataclass
class Clock:
    """A clock that goes on by itself: each look takes a second."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the next second."""
        self.now += 1.0
        return self.now


@dataclass
class Bench:
    """A cluster, what it is prepared with, and what was said."""

    kube: FakeKube = field(default_factory=FakeKube)
    settings: FakeSettings = field(default_factory=FakeSettings)
    recorder: Recorder = field(default_factory=Recorder)
    manifests: dict[str, str] = field(
        default_factory=lambda: {
            KEDA.url: fakes.text(fakes.keda()),
            METRICS_SERVER.url: fakes.text(fakes.metrics_server()),
        }
    )
    fetched: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    programs: set[str] = field(default_factory=lambda: {"minikube", "helm"})
    built: dict[str, Path] = field(default_factory=dict)

    async def fetch(self, url: str, ca: Path | None) -> str:
        """Return a manifest."""
        assert ca is None
        self.fetched.append(url)
        if url not in self.manifests:
            raise PrerequisiteError(f"{url} cannot be downloaded")
        return self.manifests[url]

    async def prepare(self) -> None:
        """Prepare the cluster."""
        tools = Tools(
            run=self.recorder,
            fetch=self.fetch,
            which=lambda name: name if name in self.programs else None,
            built=lambda: self.built,
            limit=100.0,
            unpullable_after=20.0,
            pause=0.0,
            clock=Clock(),
        )
        await preparation.prepare(self.kube, self.settings, self.said.append, tools=tools)


async def test_an_empty_cluster_gets_both() -> None:
    """From the manifests of the releases, marked as ours."""
    bench = Bench()
    await bench.prepare()
    assert bench.fetched == [METRICS_SERVER.url, KEDA.url]
    assert len(bench.kube.applied) == len(fakes.keda()) + len(fakes.metrics_server())
    assert all(
        addons.is_ours(each, KEDA) or addons.is_ours(each, METRICS_SERVER)
        for each in bench.kube.objects.values()
    )
    assert bench.said[-1] == (
        "The cluster test (Kubernetes 1.36.3) is prepared: metrics-server 0.9.0 and KEDA 2.21.0"
    )


async def test_a_second_time_changes_nothing_and_asks_little() -> None:
    """Nothing is downloaded, nothing is applied, and few questions are asked."""
    bench = Bench()
    await bench.prepare()
    again = Bench(kube=bench.kube)
    bench.kube.applied.clear()
    bench.kube.reads = 0
    await again.prepare()
    assert bench.kube.applied == again.fetched == []
    assert bench.kube.reads < 20
    assert len(again.said) == 1


@pytest.mark.parametrize("interrupted_after", [1, 6, 10, 11])
async def test_what_was_interrupted_is_completed(interrupted_after: int) -> None:
    """Wherever it stopped, the next call ends in the same state."""
    whole, bench = Bench(), Bench()
    await whole.prepare()
    objects = [*addons.marked(KEDA, fakes.keda())]
    bench.kube.put(*objects[:interrupted_after])
    await bench.prepare()
    assert bench.kube.objects.keys() == whole.kube.objects.keys()


@pytest.mark.parametrize("lost", ["CustomResourceDefinition", "APIService"])
async def test_what_was_lost_of_ours_is_installed_again(lost: str) -> None:
    """Somebody deleted a part of it: what works is not waited for in vain."""
    bench = Bench()
    await bench.prepare()
    whole = set(bench.kube.objects)
    del bench.kube.objects[next(key for key in sorted(whole) if key[1] == lost)]
    again = Bench(kube=bench.kube)
    await again.prepare()
    assert set(bench.kube.objects) == whole


async def test_a_version_that_nobody_tried_is_refused_by_name() -> None:
    """Before anything is looked at, downloaded or changed."""
    bench = Bench(kube=FakeKube(version="v1.33.1"))
    with pytest.raises(PrerequisiteError, match=r"The cluster test runs Kubernetes 1\.33\.1"):
        await bench.prepare()
    assert (bench.fetched, bench.kube.applied, bench.kube.reads) == ([], [], 0)


async def test_a_keda_of_somebody_else_stays_as_it_is() -> None:
    """Of the right version, it is waited for and not touched."""
    bench = Bench()
    bench.kube.put(*fakes.keda())
    before = dict(bench.kube.objects)
    await bench.prepare()
    assert {name: bench.kube.objects[name] for name in before} == before
    assert bench.fetched == [METRICS_SERVER.url]
    assert "KEDA 2.21.0 is there; it is not ours, and stays as it is" in bench.said


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("version", "told"), [("2.14.0", "KEDA 2.14.0"), ("main", "A KEDA of unknown version")]
)
async def test_another_version_of_keda_is_refused_by_name(
    version: str, told: str, *, ours: bool
) -> None:
    """Whoever installed it: what scales with it is not ours to move."""
    bench = Bench()
    objects = fakes.keda(version)
    if ours:
        old = replace(KEDA, version=version)
        objects = addons.marked(old, objects)
    bench.kube.put(*objects)
    with pytest.raises(PrerequisiteError, match=f"^{told} is in the namespace keda of test") as it:
        await bench.prepare()
    assert "2.21.0" in it.value.remedy
    assert bench.kube.applied == []


@pytest.mark.parametrize("left", ["CustomResourceDefinition", "ServiceAccount"])
async def test_leftovers_of_somebody_else_are_not_taken_over(left: str) -> None:
    """An object that is there without KEDA is named, and nothing is changed."""
    bench = Bench()
    bench.kube.put(next(each for each in fakes.keda() if each["kind"] == left))
    with pytest.raises(PrerequisiteError, match=f"^{left} .* is in test, KEDA is not"):
        await bench.prepare()
    assert bench.kube.applied == []


async def test_a_namespace_that_is_there_is_used_and_not_marked() -> None:
    """Somebody may have made it with labels of their own."""
    bench = Bench()
    bench.kube.put(fakes.named("v1", "Namespace", "keda"))
    await bench.prepare()
    assert "Namespace keda" not in bench.kube.applied
    assert not addons.is_ours(bench.kube.objects["", "Namespace", "", "keda"], KEDA)


async def test_another_server_of_external_metrics_is_named() -> None:
    """A cluster has one: KEDA would take it from whoever serves it now."""
    bench = Bench()
    api = fakes.named("apiregistration.k8s.io/v1", "APIService", KEDA.api)
    api["spec"] = {"service": {"namespace": "monitoring", "name": "adapter"}}
    bench.kube.put(api)
    with pytest.raises(PrerequisiteError, match="served by monitoring/adapter, which is no KEDA"):
        await bench.prepare()
    assert bench.kube.applied == []


async def test_metrics_of_somebody_else_are_enough() -> None:
    """A managed cluster brings its own; which one does not matter."""
    bench = Bench()
    bench.kube.put(*fakes.metrics_server())
    await bench.prepare()
    assert bench.fetched == [KEDA.url]
    assert bench.said[-1].endswith("is prepared: metrics-server and KEDA 2.21.0")


async def test_minikube_switches_its_own_addon_on() -> None:
    """The node says that it is Minikube's, and which profile, whatever the context's name."""
    bench = Bench()
    node = fakes.named("v1", "Node", "m")
    node["metadata"]["labels"] = {"minikube.k8s.io/name": "team"}
    bench.kube.put(node)

    def enable(line: str) -> None:
        assert line == "minikube addons enable metrics-server --profile=team"
        bench.kube.put(*fakes.metrics_server())

    bench.recorder.on_call = enable
    await bench.prepare()
    assert bench.fetched == [KEDA.url]


async def test_minikube_that_is_not_on_path_is_a_prerequisite() -> None:
    """Found before anything changes; the remedy is the command to run where it is."""
    bench = Bench(programs=set())
    node = fakes.named("v1", "Node", "m")
    node["metadata"]["labels"] = {"minikube.k8s.io/name": "team"}
    bench.kube.put(node)
    with pytest.raises(PrerequisiteError, match="is a Minikube cluster") as caught:
        await bench.prepare()
    assert "--profile=team" in caught.value.remedy


async def test_the_local_cluster_takes_what_was_built_for_it(tmp_path: Path) -> None:
    """And nothing is downloaded, also when the settings have the usual address."""
    bench = Bench(kube=FakeKube(context="slipway-local"), settings=FakeSettings(keda=KEDA.url))
    for addon, objects in ((KEDA, fakes.keda()), (METRICS_SERVER, fakes.metrics_server())):
        bench.built[addon.name] = tmp_path / f"{addon.name}.yaml"
        bench.built[addon.name].write_text(fakes.text(objects))
    await bench.prepare()
    assert bench.fetched == []
    assert f"Installing KEDA 2.21.0 ({tmp_path / 'keda.yaml'})" in bench.said


async def test_keda_comes_from_a_file_where_one_is_named(tmp_path: Path) -> None:
    """For a cluster without the internet."""
    file = tmp_path / "keda.yaml"
    file.write_text(fakes.text(fakes.keda()))
    bench = Bench(settings=FakeSettings(keda=str(file)))
    await bench.prepare()
    assert bench.fetched == [METRICS_SERVER.url]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff", "it is not text"),
        (b"a: 1", "is no manifest"),
        (fakes.text(fakes.keda("2.20.1")).encode(), "has KEDA 2.20.1"),
    ],
)
async def test_a_file_that_is_not_kedas_is_refused(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    """With nothing changed, metrics-server included."""
    file = tmp_path / "keda.yaml"
    if content is not None:
        file.write_bytes(content)
    bench = Bench(settings=FakeSettings(keda=str(file)))
    with pytest.raises(UsageError, match=why):
        await bench.prepare()
    assert bench.kube.applied == []


async def test_a_manifest_is_not_fetched_in_the_clear() -> None:
    """It becomes the administrator of the cluster."""
    bench = Bench(settings=FakeSettings(keda="http://example.com/keda.yaml"))
    with pytest.raises(UsageError, match="not downloaded over https"):
        await bench.prepare()


async def test_a_manifest_that_cannot_be_had_changes_nothing() -> None:
    """Both are looked for before the first is applied."""
    bench = Bench()
    del bench.manifests[KEDA.url]
    with pytest.raises(PrerequisiteError, match="cannot be downloaded"):
        await bench.prepare()
    assert bench.kube.applied == []


async def test_helm_installs_keda_with_our_mark() -> None:
    """The chart's own option puts the label on everything."""
    bench = Bench(settings=FakeSettings(keda="helm"))

    def install(line: str) -> None:
        assert line == (
            "helm upgrade --install keda keda --repo=https://kedacore.github.io/charts "
            "--version=2.21.0 --namespace=keda --create-namespace --kube-context=test "
            "--set=additionalLabels.slipway\\.io/prepared=keda"
        )
        objects = fakes.keda()
        for each in objects:
            each["metadata"].setdefault("labels", {})[addons.PREPARED] = "keda"
        bench.kube.put(*objects)

    bench.recorder.on_call = install
    await bench.prepare()
    assert bench.fetched == [METRICS_SERVER.url]
    again = Bench(kube=bench.kube, settings=bench.settings)
    await again.prepare()
    assert again.recorder.calls == []


async def test_helm_that_is_missing_or_fails_is_told() -> None:
    """Missing is found before anything changes; a failure shows what Helm said."""
    bench = Bench(settings=FakeSettings(keda="helm"), programs=set())
    with pytest.raises(PrerequisiteError, match="Helm is not on PATH"):
        await bench.prepare()
    assert bench.kube.applied == []
    bench = Bench(settings=FakeSettings(keda="helm"))
    bench.recorder.outputs["helm"] = Output(1, "", "Error: no repo")
    with pytest.raises(StepError, match="Helm did not install KEDA") as caught:
        await bench.prepare()
    assert caught.value.evidence == "Error: no repo"


async def test_waiting_ends_at_the_limit_with_what_is_missing() -> None:
    """Every wait has a limit, and its error says what did not come."""
    bench = Bench(kube=FakeKube(metered=False))
    with pytest.raises(StepError, match=r"did not work in test within 100 s") as caught:
        await bench.prepare()
    assert caught.value.evidence == "metrics-server: it has no figures of the nodes yet"
    assert bench.said.count("Waiting for metrics-server: it has no figures of the nodes yet") == 1


async def test_an_image_that_cannot_be_pulled_is_given_up_before_the_limit() -> None:
    """The pod's own words are the evidence."""
    bench = Bench()

    def settle(obj: Object) -> None:
        fakes.ready(obj)
        if obj["metadata"]["name"] == "keda-operator" and obj["kind"] == "Deployment":
            obj["status"]["availableReplicas"] = 0

    pod = fakes.named("v1", "Pod", "keda-operator-1", "keda")
    pod["metadata"]["labels"] = {"app": "keda-operator"}
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "ghcr.io: no such host"}}
    pod["status"] = {"containerStatuses": [{"state": state}]}
    bench.kube.put(pod)
    bench.kube.settle = settle
    with pytest.raises(StepError, match=r"An image of .* cannot be pulled in test") as caught:
        await bench.prepare()
    assert "ImagePullBackOff: ghcr.io: no such host" in caught.value.evidence


async def test_a_webhook_that_lets_everything_pass_is_not_ready() -> None:
    """Until it has its certificate, the API server asks nobody."""
    bench = Bench(kube=FakeKube(refusal=""))
    with pytest.raises(StepError) as caught:
        await bench.prepare()
    assert caught.value.evidence == "KEDA: its webhook does not check anything yet"


async def test_a_refusal_that_is_not_the_webhooks_is_an_error() -> None:
    """That we may not ask is no sign that the webhook works."""
    bench = Bench(kube=FakeKube(refusal="scaledobjects.keda.sh is forbidden"))
    with pytest.raises(Refused):
        await bench.prepare()


@pytest.mark.parametrize("kind", ["APIService", "CustomResourceDefinition"])
async def test_an_api_that_is_not_available_is_waited_for(kind: str) -> None:
    """Its own message says why."""
    bench = Bench()

    def settle(obj: Object) -> None:
        fakes.ready(obj)
        if obj["kind"] == kind:
            for each in obj["status"]["conditions"]:
                each.update(status="False", message="no endpoints")

    bench.kube.settle = settle
    with pytest.raises(StepError) as caught:
        await bench.prepare()
    told = "no endpoints" if kind == "APIService" else "the definition is not established"
    assert told in caught.value.evidence
