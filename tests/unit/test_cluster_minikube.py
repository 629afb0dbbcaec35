"""The Minikube provider, with a recorder in place of the program."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pipeline.cluster import minikube, versions
from pipeline.cluster.minikube import Tools
from pipeline.errors import PrerequisiteError, StepError
from pipeline.setup.command import Output
from pipeline.setup.docker import Docker, DockerUnreachableError, Reply

from .cluster_fakes import FakeSettings
from .setup_fakes import Recorder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

RUNNING = {"Name": "minikube", "Host": "Running", "Kubelet": "Running", "APIServer": "Running"}
STOPPED = {**RUNNING, "Host": "Stopped", "Kubelet": "Stopped", "APIServer": "Stopped"}
ABSENT = Output(85, '* Profile "minikube" not found.\n', "")


def answer(status: object) -> Output:
    """Return what `minikube status` prints; its exit code is no success unless all of it runs."""
    return Output(0 if status == RUNNING else 7, json.dumps(status), "")


class FakeDocker(Docker):
    """A Docker Engine with networks, and the registry's container."""

    def __init__(self) -> None:
        super().__init__()
        self.networks: dict[str, dict[str, object]] = {}
        self.containers = {"slipway-registry"}
        self.joined: list[str] = []
        self.away = False
        self.status = 200

    def request(
        self, method: str, path: str, body: object = None, *, timeout: float = 1.0
    ) -> Reply:
        """Answer as Docker does."""
        assert timeout > 0
        if self.away:
            raise DockerUnreachableError(self.host, "absent", "there is no socket")
        _, kind, name, *verb = path.split("/")
        if kind == "containers":
            found = name in self.containers
            return Reply(200 if found else 404, json.dumps({"Name": name}).encode())
        if name not in self.networks:
            return Reply(404, b'{"message": "no such network"}')
        if method == "GET":
            return Reply(200, json.dumps({"Labels": self.networks[name]}).encode())
        assert isinstance(body, dict)
        self.joined.append(f"{verb[0]} {name} {body['Container']}")
        return Reply(self.status, b'{"message": "already exists"}')


@dataclass
class Bench:
    """A machine with Minikube, whose state is what the test says."""

    place: Path
    before: Output = ABSENT
    after: Output = field(default_factory=lambda: answer(RUNNING))
    settings: FakeSettings = field(default_factory=FakeSettings)
    recorder: Recorder = field(default_factory=Recorder)
    docker: FakeDocker = field(default_factory=FakeDocker)
    said: list[str] = field(default_factory=list)
    programs: set[str] = field(default_factory=lambda: {"minikube"})
    processors: int = 8

    def __post_init__(self) -> None:
        self.recorder.outputs["minikube status"] = self.before
        self.recorder.on_call = self.follow

    def follow(self, line: str) -> None:
        """Have the state that a command leaves."""
        state = {"start": self.after, "delete": ABSENT, "stop": answer(STOPPED)}
        verb = line.split()[1]
        if verb in state:
            self.recorder.outputs["minikube status"] = state[verb]
            if verb == "start":
                profile = line.partition("--profile=")[2].partition(" ")[0]
                self.docker.networks[profile] = {"created_by.minikube.sigs.k8s.io": "true"}

    @property
    def tools(self) -> Tools:
        """Return what the provider uses."""
        return Tools(
            run=self.recorder,
            which=lambda name: name if name in self.programs else None,
            docker=lambda _host: self.docker,
            place=self.place,
            processors=self.processors,
        )

    async def up(self) -> None:
        """Have the cluster."""
        await minikube.up(self.settings, self.said.append, tools=self.tools)

    async def down(self) -> None:
        """Take it back."""
        await minikube.down(self.settings, self.said.append, tools=self.tools)

    @property
    def changes(self) -> list[str]:
        """Return what was run beside questions."""
        return [line for line in self.recorder.calls if not line.startswith("minikube status")]


async def test_a_cluster_is_made_with_what_the_system_needs(tmp_path: Path) -> None:
    """A supported version, CPU and memory, a network with policies, and the registry's names."""
    bench = Bench(tmp_path)
    await bench.up()
    (line,) = bench.changes
    assert line == (
        f"minikube start --profile=minikube --kubernetes-version=v{versions.KUBERNETES} --cpus=4 "
        "--memory=4g --cni=calico --addons=metrics-server "
        "--insecure-registry=slipway-registry:5000 "
        "--insecure-registry=host.minikube.internal:5050"
    )


@pytest.mark.parametrize(("processors", "cpus"), [(1, 2), (2, 2), (3, 3), (64, 4)])
async def test_cpus_are_those_of_the_machine_within_bounds(
    tmp_path: Path, processors: int, cpus: int
) -> None:
    """Minikube refuses more than there are, and the system does not run on one."""
    bench = Bench(tmp_path, processors=processors)
    await bench.up()
    assert f" --cpus={cpus} " in bench.changes[0]


async def test_a_registry_elsewhere_needs_nothing_of_the_nodes(tmp_path: Path) -> None:
    """It speaks TLS, under a name that the nodes know as well."""
    bench = Bench(tmp_path, settings=FakeSettings(registry="registry.example.com/team"))
    await bench.up()
    assert "insecure" not in bench.changes[0]
    assert bench.docker.joined == []
    assert "pull-from" not in " ".join(bench.said)


async def test_the_registry_joins_the_network_of_the_nodes(tmp_path: Path) -> None:
    """With Minikube's Docker driver; what to deploy with is said."""
    bench = Bench(tmp_path, settings=FakeSettings(context="team", registry="127.0.0.1:5051"))
    bench.docker.containers = {"slipway-registry-5051"}
    await bench.up()
    assert bench.docker.joined == ["connect team slipway-registry-5051"]
    assert "--insecure-registry=slipway-registry-5051:5000" in bench.changes[0]
    assert bench.said[-1].endswith("--context team --pull-from slipway-registry-5051:5000")


@pytest.mark.parametrize("why", ["no network", "another's network", "no container", "no Docker"])
async def test_a_registry_out_of_reach_is_told(tmp_path: Path, why: str) -> None:
    """With another driver the nodes see no loopback interface of ours: no cluster fails for it."""
    bench = Bench(tmp_path, before=answer(RUNNING))
    if why != "no network":
        bench.docker.networks["minikube"] = {"created_by.minikube.sigs.k8s.io": "true"}
    if why == "another's network":
        bench.docker.networks["minikube"] = {}
    if why == "no container":
        bench.docker.containers = set()
    bench.docker.away = why == "no Docker"
    await bench.up()
    assert bench.docker.joined == []
    assert "cannot reach the registry 127.0.0.1:5050" in bench.said[-1]
    assert "--pull-from host.minikube.internal:5050" in bench.said[-1]


async def test_a_registry_that_cannot_join_is_a_failure(tmp_path: Path) -> None:
    """Docker's own words, and the command to try by hand; in the network already is no failure."""
    bench = Bench(tmp_path)
    bench.docker.status = 500
    with pytest.raises(StepError, match=r"slipway-registry cannot join .*: already exists"):
        await bench.up()
    bench.docker.status = 403
    await bench.up()


async def test_a_cluster_that_runs_is_left_alone(tmp_path: Path) -> None:
    """Up is what it is already: nothing is started, and down will not take it."""
    bench = Bench(tmp_path, before=answer([RUNNING, STOPPED]))
    await bench.up()
    await bench.down()
    assert bench.changes == []
    assert "was not started by this, and stays as it is" in bench.said[-1]


async def test_a_cluster_that_was_stopped_is_started_and_stopped_again(tmp_path: Path) -> None:
    """With the settings that somebody made it with; it is not ours to delete."""
    bench = Bench(tmp_path, before=answer(STOPPED))
    await bench.up()
    await bench.down()
    assert bench.changes == [
        "minikube start --profile=minikube",
        "minikube stop --profile=minikube",
    ]


async def test_a_cluster_that_was_made_is_deleted(tmp_path: Path) -> None:
    """After the registry has left its network, which Docker would not remove before."""
    bench = Bench(tmp_path)
    await bench.up()
    await bench.down()
    assert bench.changes[-1] == "minikube delete --profile=minikube"
    assert bench.docker.joined == [
        "connect minikube slipway-registry",
        "disconnect minikube slipway-registry",
    ]
    calls = list(bench.recorder.calls)
    await bench.down()
    assert bench.recorder.calls == calls


async def test_a_start_that_failed_is_cleaned_up_by_down(tmp_path: Path) -> None:
    """What was begun is remembered before it begins."""
    bench = Bench(tmp_path, after=answer(STOPPED))
    bench.recorder.outputs["minikube start"] = Output(80, "", "X Exiting due to GUEST_START")
    with pytest.raises(StepError, match="`minikube start` ended with 80") as caught:
        await bench.up()
    assert caught.value.evidence == "X Exiting due to GUEST_START"
    await bench.down()
    assert bench.changes[-1] == "minikube delete --profile=minikube"


async def test_a_cluster_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """Somebody deleted it by hand: there is nothing left to do."""
    bench = Bench(tmp_path)
    await bench.up()
    bench.recorder.outputs["minikube status"] = ABSENT
    changes = list(bench.changes)
    await bench.down()
    assert bench.changes == changes


async def test_two_profiles_are_two_clusters(tmp_path: Path) -> None:
    """What is remembered of one says nothing of the other."""
    first = Bench(tmp_path, settings=FakeSettings(context="one"))
    second = Bench(tmp_path, before=answer(RUNNING), settings=FakeSettings(context="two"))
    await first.up()
    await second.up()
    await second.down()
    assert second.changes == []
    await first.down()
    assert first.changes[-1] == "minikube delete --profile=one"


@pytest.mark.parametrize(
    ("found", "up", "told"),
    [
        (answer(RUNNING), True, "host running, kubelet running, apiserver running"),
        (answer(STOPPED), False, "host stopped"),
        (answer({**RUNNING, "APIServer": "Stopped"}), False, "apiserver stopped"),
        (ABSENT, False, "Minikube has no cluster minikube"),
        (answer({"Name": "minikube", "Host": "Nonexistent"}), False, "has no cluster"),
    ],
)
async def test_status_tells_parts(tmp_path: Path, found: Output, *, up: bool, told: str) -> None:
    """Up means that all of it runs."""
    bench = Bench(tmp_path, before=found)
    assert await minikube.status(bench.settings, bench.said.append, tools=bench.tools) is up
    assert told in bench.said[-1]


async def test_status_that_is_no_answer_is_a_failure(tmp_path: Path) -> None:
    """What it printed is the evidence."""
    bench = Bench(tmp_path, before=Output(14, "", "driver broken"))
    with pytest.raises(StepError, match="does not tell the state") as caught:
        await bench.up()
    assert caught.value.evidence == "driver broken"


async def test_minikube_that_is_not_there_is_a_prerequisite(tmp_path: Path) -> None:
    """Exit code 3, and what there is in its place."""
    bench = Bench(tmp_path, programs=set())
    for call in (minikube.up, minikube.status):
        with pytest.raises(PrerequisiteError, match="Minikube is not on PATH") as caught:
            await call(bench.settings, bench.said.append, tools=bench.tools)
        assert "--provider local" in caught.value.remedy


@pytest.mark.parametrize("content", ["[]", "{", '"x"'])
async def test_a_memory_that_cannot_be_read_is_told(tmp_path: Path, content: str) -> None:
    """Rather than deleting what may be somebody else's."""
    (tmp_path / "minikube.json").write_text(content)
    bench = Bench(tmp_path)
    with pytest.raises(PrerequisiteError, match=r"minikube\.json cannot be read"):
        await bench.down()
