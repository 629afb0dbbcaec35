"""How a local cluster begins and ends, with a program that stands for its keeper.

What the node itself does is tested on a real one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline.cluster import local
from pipeline.cluster.local import build, lifecycle
from pipeline.cluster.local.build import CLUSTER
from pipeline.cluster.local.lifecycle import Cluster, Tools
from pipeline.cluster.local.node import Node
from pipeline.cluster.local.packages import Found
from pipeline.errors import PrerequisiteError, StepError
from pipeline.setup import state
from pipeline.setup.command import Output

from .setup_fakes import Recorder, machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.cluster.local.record import Record

REGISTRY = "127.0.0.1:5050"
SETTINGS = SimpleNamespace(registry=REGISTRY)
KEEPER = """
import json, os, pathlib, socket, subprocess, sys
folder, listening = pathlib.Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
if {broken!r}:
    print("unshare: unshare failed: Operation not permitted", flush=True)
    sys.exit(1)
def known(pid):
    started = pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[19]
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {{"pid": pid, "started": int(started), "boot": boot}}
node = subprocess.Popen(["sleep", "60"])
port = listening.getsockname()[1]
record = {{"keeper": known(os.getpid()), "node": known(node.pid), "parent": None, "port": port}}
(folder / "keeper.new").write_text(json.dumps(record))
(folder / "keeper.new").rename(folder / "keeper.json")
(folder / "log" / "images.done").touch()
sys.exit(node.wait() and 0)
"""
"""Listens, remembers itself and a node, and ends when the node does."""


@dataclass
class FakeKubectl:
    """Answers as the kubectl of a cluster that is well, and keeps no kubeconfig."""

    ready: bool = True
    calls: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    async def __call__(
        self, argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None
    ) -> Output:
        """Answer; what is no kubectl does nothing and is content."""
        assert limit > 0
        words = [word for word in argv[1:] if not word.startswith("--kubeconfig=")]
        self.calls.append(" ".join([Path(argv[0]).name, *words]))
        if "GOVERSION" in argv:
            return Output(0, "go1.26.8\n", "")
        if words[:2] == ["config", "view"]:
            own = env is not None and env.get("KUBECONFIG", "").endswith("cluster/kubeconfig")
            return Output(0, json.dumps({} if own else self.config), "")
        if words[:2] == ["config", "set-cluster"]:
            server = words[3].removeprefix("--server=")
            entry = {"name": "slipway-local", "cluster": {"server": server}}
            self.config = {"clusters": [entry], "contexts": [{"name": "slipway-local"}]}
        if "--raw=/readyz" in words and not self.ready:
            return Output(1, "", "connection refused")
        return Output(0, "v1.36.3" if "nodes" in words else "Running Pending", "")


@dataclass
class Bench:
    """A machine for a cluster, and what was said on it."""

    tools: Tools
    kubectl: FakeKubectl
    groups: Path
    said: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the cluster."""
        return self.tools.place / "cluster"

    @property
    def record(self) -> Record:
        """What runs."""
        found = Cluster(self.tools, print).record()
        assert found is not None
        return found

    def with_keeper(self, tmp_path: Path, *, broken: bool = False) -> Bench:
        """Return it with a program that stands for the keeper."""
        program = tmp_path / "keeper.py"
        program.write_text(KEEPER.format(broken=broken))
        self.tools = replace(self.tools, keeper=(sys.executable, "-S", str(program)))
        return self

    def up(self, registry: str = REGISTRY) -> None:
        """Have a cluster."""
        anyio.run(lambda: local.up(SimpleNamespace(registry=registry), self.say, tools=self.tools))

    def down(self) -> None:
        """Have none."""
        anyio.run(lambda: local.down(SETTINGS, self.say, tools=self.tools))

    def status(self) -> bool:
        """Tell how it is."""
        return anyio.run(lambda: local.status(SETTINGS, self.say, tools=self.tools))

    def say(self, line: str) -> None:
        """Remember what is said."""
        self.said.append(line)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Return a machine on which everything is there, and see that nothing of it is left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kubectl = FakeKubectl()
    groups = tmp_path / "cgroup"
    groups.mkdir()
    cache = tmp_path / "cache" / "slipway" / "kubernetes"
    tools = Tools(
        run=kubectl,
        place=tmp_path / "state",
        cache=cache,
        environ={"KUBECONFIG": str(tmp_path / "config")},
        platform="linux",
        root=True,
        which=lambda name: f"/usr/bin/{name}",
        find=lambda: Found((), Path("/usr/lib/cni")),
        free=lambda _: 10**12,
        machine=lambda say: machine(Recorder(), [], say=say),
        hierarchies=lambda: (groups,),
        snapshotter=lambda _: "overlayfs",
    )
    # Built already, by the name that the builder would look for.
    digest = build.digest(CLUSTER, "go1.26.8")
    programs = cache / digest / "bin"
    programs.mkdir(parents=True)
    (programs / "kubectl").touch(mode=0o755)
    made = Bench(tools, kubectl, groups)
    yield made
    record = Cluster(made.tools, print).record()
    for process in (record.node, record.keeper) if record else ():
        if process is not None and state.alive(process):
            os.kill(process.pid, signal.SIGKILL)
    for keeper in lifecycle.started():
        keeper.kill()
        keeper.wait(10)


def test_a_cluster_begins_and_ends(bench: Bench, tmp_path: Path) -> None:
    """It serves when `up` returns, and nothing of it is there when `down` does."""
    bench.with_keeper(tmp_path).up()
    node = Node.from_json((bench.folder / "node.json").read_text())
    assert (node.registry, node.hpa_sync_period) == (5050, "15s")
    assert [group.name for group in bench.groups.iterdir()] == [node.cgroup]
    assert any(
        "apply --server-side" in call and "coredns.yaml" in call for call in bench.kubectl.calls
    )
    assert [call.split()[3] for call in bench.kubectl.calls if " rollout " in call] == [
        "restart",
        "status",
    ]
    assert "context slipway-local is the current one" in bench.said[-1]
    record = bench.record
    bench.down()
    assert not state.alive(record.keeper)
    assert record.node is not None
    assert not state.alive(record.node)
    assert not bench.folder.exists()
    assert list(bench.groups.iterdir()) == []
    assert bench.said[-1] == "The local cluster is gone, with its data"


def test_a_keeper_that_has_ended_is_no_zombie(bench: Bench, tmp_path: Path) -> None:
    """Who started it and ends it has asked how it ended, so that nothing is left of it."""
    bench.with_keeper(tmp_path).up()
    keeper = lifecycle.started()[-1]
    assert keeper.returncode is None
    bench.down()
    assert keeper.returncode is not None


def test_what_a_cluster_runs_on_is_not_pruned(bench: Bench, tmp_path: Path) -> None:
    """As long as it runs: when it is gone, that goes as well."""
    bench.with_keeper(tmp_path).up()
    built = Path(Node.from_json((bench.folder / "node.json").read_text()).built)

    async def prune() -> local.Freed:
        return await local.prune(bench.say, cache=bench.tools.cache)

    assert anyio.run(prune).held == (built,)
    assert (built / "bin" / "kubectl").exists()
    bench.down()
    assert anyio.run(prune).held == ()
    assert not built.exists()


def test_a_cluster_that_is_up_is_said_to_be(bench: Bench, tmp_path: Path) -> None:
    """Nothing is started again."""
    bench.with_keeper(tmp_path).up()
    keeper = bench.record.keeper
    bench.up()
    assert bench.record.keeper == keeper
    assert bench.said[-1].startswith("The local cluster is up already; context slipway-local")
    assert bench.status()
    assert "pods: 1 of 2 running" in bench.said[-2]


def test_what_a_killed_up_left_undone_is_done(bench: Bench, tmp_path: Path) -> None:
    """The node runs, and nobody has told it of the DNS."""
    bench.with_keeper(tmp_path).up()
    keeper = bench.record.keeper
    (bench.folder / "serves").unlink()
    bench.kubectl.calls.clear()
    bench.up()
    assert any("coredns.yaml" in call for call in bench.kubectl.calls)
    assert bench.record.keeper == keeper
    bench.kubectl.calls.clear()
    bench.up()
    assert not any("coredns.yaml" in call for call in bench.kubectl.calls)


def test_a_context_that_was_lost_is_added_again(bench: Bench, tmp_path: Path) -> None:
    """A person may have removed it, or use another file by now."""
    bench.with_keeper(tmp_path).up()
    bench.kubectl.config = {}
    bench.up()
    assert bench.kubectl.config["contexts"] == [{"name": "slipway-local"}]


def test_another_registry_needs_another_start(bench: Bench, tmp_path: Path) -> None:
    """The node's way to it is made when it starts."""
    bench.with_keeper(tmp_path).up()
    with pytest.raises(PrerequisiteError, match=r"port 5050.* port 5051"):
        bench.up("127.0.0.1:5051")


def test_a_registry_elsewhere_cannot_be_reached_and_that_is_said(
    bench: Bench, tmp_path: Path
) -> None:
    """The cluster is there all the same."""
    bench.with_keeper(tmp_path).up("registry.example/team")
    assert "cannot pull from registry.example/team" in bench.said[0]
    assert Node.from_json((bench.folder / "node.json").read_text()).registry == 0


def test_what_a_crash_left_is_cleared_and_its_data_kept(bench: Bench, tmp_path: Path) -> None:
    """The next `up` begins with it; the port stays the same."""
    bench.with_keeper(tmp_path).up()
    record = bench.record
    (bench.folder / "etcd").mkdir()
    assert record.node is not None
    os.kill(record.keeper.pid, signal.SIGKILL)
    _until(lambda: not state.alive(record.keeper))
    bench.up()
    assert not state.alive(record.node)
    assert any("with what is in it" in line for line in bench.said)
    assert (bench.folder / "etcd").is_dir()
    assert bench.record.port == record.port


def test_after_a_crash_down_clears_as_well(bench: Bench, tmp_path: Path) -> None:
    """Whatever is left of it."""
    bench.with_keeper(tmp_path).up()
    record = bench.record
    assert record.node is not None
    for process in (record.keeper, record.node):
        os.kill(process.pid, signal.SIGKILL)
    bench.down()
    assert not bench.folder.exists()
    assert list(bench.groups.iterdir()) == []


def test_a_node_that_cannot_be_made_is_told_with_its_log(bench: Bench, tmp_path: Path) -> None:
    """Nothing is left running, and the logs stay."""
    with pytest.raises(StepError, match="its keeper ended with 1") as raised:
        bench.with_keeper(tmp_path, broken=True).up()
    assert "Operation not permitted" in raised.value.evidence
    assert str(bench.folder / "log") in raised.value.remedy
    assert list(bench.groups.iterdir()) == []
    assert not bench.status()


def test_a_start_that_takes_too_long_is_given_up(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody waits for does not stay."""
    monkeypatch.setattr(lifecycle, "START_LIMIT", 0.8)
    bench.kubectl.ready = False
    with pytest.raises(StepError, match="does not start"):
        bench.with_keeper(tmp_path).up()
    assert Cluster(bench.tools, print).record() is None


def test_a_start_that_is_cancelled_leaves_nothing_running(bench: Bench, tmp_path: Path) -> None:
    """As with Ctrl-C."""
    bench.kubectl.ready = False
    bench.with_keeper(tmp_path)

    async def cancelled() -> None:
        with anyio.move_on_after(0.8):
            await local.up(SETTINGS, bench.say, tools=bench.tools)

    anyio.run(cancelled)
    assert (bench.folder / "keeper.json").exists()
    assert Cluster(bench.tools, print).record() is None
    assert list(bench.groups.iterdir()) == []


def test_a_taken_port_is_not_waited_for(bench: Bench, tmp_path: Path) -> None:
    """Another one is taken, and stays that of this cluster."""
    bench.folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (bench.folder / "port").write_text(str(port))
        bench.with_keeper(tmp_path).up()
        assert bench.record.port != port
    assert (bench.folder / "port").read_text().strip() == str(bench.record.port)


def test_the_autoscaler_can_be_asked_to_look_more_often(bench: Bench, tmp_path: Path) -> None:
    """Tests do."""
    environ = {**bench.tools.environ, "SLIPWAY_HPA_SYNC_PERIOD": "5s"}
    bench.tools = replace(bench.tools, environ=environ)
    bench.with_keeper(tmp_path).up()
    assert Node.from_json((bench.folder / "node.json").read_text()).hpa_sync_period == "5s"


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"platform": "darwin"}, "this is no Linux"), ({"root": False}, "needs root")],
)
def test_where_it_cannot_be_nothing_is_done(
    bench: Bench, facts: dict[str, Any], message: str
) -> None:
    """Exit code 3, with the other provider as the remedy."""
    bench.tools = replace(bench.tools, **facts)
    with pytest.raises(PrerequisiteError, match=message) as raised:
        bench.up()
    assert "--provider minikube" in raised.value.remedy
    assert raised.value.exit_code == 3
    assert bench.kubectl.calls == []
    assert not bench.tools.place.exists()


def test_a_kubeconfig_that_cannot_have_it_is_told_before_anything_starts(bench: Bench) -> None:
    """It has another cluster of our name."""
    entry = {"name": "slipway-local", "cluster": {"server": "https://10.0.0.1:6443"}}
    bench.kubectl.config = {"clusters": [entry]}
    with pytest.raises(PrerequisiteError, match="another cluster slipway-local"):
        bench.up()
    assert not bench.folder.exists()


def test_a_full_disk_is_told_before_anything_starts(bench: Bench) -> None:
    """With what it takes and what is left."""
    bench.tools = replace(bench.tools, free=lambda _: 1024**3)
    with pytest.raises(PrerequisiteError, match=r"takes 4 GiB of disk.* 1\.0 GiB left"):
        bench.up()
    assert not bench.folder.exists()


@pytest.mark.parametrize("systemd", [True, False])
def test_missing_packages_are_installed_and_their_service_is_silenced(
    bench: Bench,
    tmp_path: Path,
    *,
    systemd: bool,
) -> None:
    """The node has an etcd of its own; the machine's would only be open to everybody."""
    recorder = Recorder({"apt-cache policy": Output(0, "  Candidate: 3.5.16\n", "")})
    found = iter([Found(("etcd-server",), None), Found((), Path("/usr/lib/cni"))])
    bench.tools = replace(
        bench.tools,
        find=lambda: next(found),
        machine=lambda _: machine(recorder, [], systemd=systemd, sources=tmp_path / "apt"),
    )
    bench.with_keeper(tmp_path).up()
    assert any(call.startswith("apt-get") and "etcd-server" in call for call in recorder.calls)
    stopped = "systemctl disable --now etcd.service" if systemd else "service etcd stop"
    assert stopped in bench.kubectl.calls


def test_without_apt_the_packages_are_named(bench: Bench) -> None:
    """Another package manager is not driven."""
    recorder = Recorder()
    bench.tools = replace(
        bench.tools,
        find=lambda: Found(("etcd-server", "runc"), None),
        machine=lambda _: machine(recorder, [], apt=False),
    )
    with pytest.raises(PrerequisiteError, match="etcd-server runc") as raised:
        bench.up()
    assert "knows apt only" in raised.value.remedy
    assert recorder.calls == []


def test_packages_that_do_not_bring_their_programs_are_told(bench: Bench, tmp_path: Path) -> None:
    """Rather than to fail later, in a log."""
    recorder = Recorder({"apt-cache policy": Output(0, "  Candidate: 1\n", "")})
    bench.tools = replace(
        bench.tools,
        find=lambda: Found(("runc",), None),
        machine=lambda _: machine(recorder, [], sources=tmp_path / "apt"),
    )
    with pytest.raises(PrerequisiteError, match="runc are still missing"):
        bench.up()


def test_without_a_cluster_there_is_nothing_to_end(bench: Bench) -> None:
    """Nor does it take root to say so."""
    bench.tools = replace(bench.tools, root=False)
    bench.down()
    assert bench.said == ["There is no local cluster"]
    assert not bench.status()
    assert "cluster up" in bench.said[-1]


def test_without_a_cluster_nothing_of_it_can_be_had(bench: Bench) -> None:
    """Each with the command that makes one."""
    for ask in (local.manifests, local.enter):
        with pytest.raises(PrerequisiteError) as raised:
            ask(tools=bench.tools)
        assert "cluster up --provider local" in raised.value.remedy


def test_a_cluster_lends_its_network_and_manifests(bench: Bench, tmp_path: Path) -> None:
    """To the tests, and to what prepares it."""
    bench.with_keeper(tmp_path).up()
    node = bench.record.node
    assert node is not None
    assert local.enter(tools=bench.tools) == ("nsenter", "--target", str(node.pid), "--net", "--")
    found = local.manifests(tools=bench.tools)
    assert found.keda.name == "keda.yaml"
    assert found.metrics_server.parent.parent.parent == bench.tools.cache


def test_a_program_that_is_away_is_held_and_comes_back(bench: Bench, tmp_path: Path) -> None:
    """The node is told both times, and the block ends when the API server is ready."""
    bench.with_keeper(tmp_path).up()
    # The stand-in would end at the signal that the supervisor listens to.
    program = "import signal, time; signal.signal(signal.SIGUSR1, print); time.sleep(60)"
    listening = subprocess.Popen([sys.executable, "-c", program])
    _until(lambda: "0000000200" in _caught(listening.pid))
    record = replace(bench.record, node=state.process(listening.pid))
    state.write(bench.folder / "keeper.json", record.to_json())
    held = bench.folder / "hold" / "kube-apiserver"

    async def away() -> None:
        async with local.away("kube-apiserver", tools=bench.tools):
            assert held.exists()

    try:
        anyio.run(away)
        assert not held.exists()
        assert "--raw=/readyz" in bench.kubectl.calls[-1]
        assert listening.poll() is None
    finally:
        listening.kill()
        listening.wait(5)


def test_two_do_not_begin_at_once(bench: Bench, tmp_path: Path) -> None:
    """The second waits, and finds it up."""
    bench.with_keeper(tmp_path)

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(lambda: local.up(SETTINGS, bench.say, tools=bench.tools))

    anyio.run(both)
    assert sum(line.startswith("Starting a cluster") for line in bench.said) == 1
    assert bench.said[-1].startswith("The local cluster is up already")


def _caught(pid: int) -> str:
    """Return the signals that a process catches, as proc(5) writes them."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if "SigCgt" in line).split()[1], 16)
    return f"{caught & 0x200:010x}"


def _until(met: Any) -> None:  # noqa: ANN401  any condition
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)
