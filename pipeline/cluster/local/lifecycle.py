"""How a local cluster begins and ends.

Rules:

- One `up` or `down` at a time; a lock says so, and the kernel lets go of it.
- The keeper's record says what runs. What it names and what is no longer there is cleared away by
  the next `up` or `down`, however it ended.
- `up` keeps the data that it finds, `down` removes it.
- A start that fails or is cancelled leaves nothing running; its logs stay to be read.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

import pipeline
from pipeline.cluster.kubectl import newest
from pipeline.cluster.local import build, cgroups, packages
from pipeline.cluster.local.build import CLUSTER, Builder
from pipeline.cluster.local.bundle import Bundle, Manifests, make
from pipeline.cluster.local.kubeconfig import Before, Kubeconfig
from pipeline.cluster.local.node import (
    ADDRESS,
    API_PORT,
    API_SERVICE,
    HPA_SYNC_PERIOD,
    NAME,
    Node,
    files,
    state_files,
)
from pipeline.cluster.local.record import Record, keeper_of
from pipeline.errors import PrerequisiteError, StepError
from pipeline.setup import apt, daemon, registry, state
from pipeline.setup.command import Output, Run, succeed, tail
from pipeline.setup.command import run as run_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from pipeline.setup.daemon import Machine
    from pipeline.setup.settings import Say

START_LIMIT = 120.0
"""Seconds until the node serves once everything is built; 20 were seen."""
COREDNS_LIMIT = 60.0
ASK_LIMIT = 15.0
STOP_LIMIT = 20.0
AWAY_LIMIT = 60.0
LOCK_LIMIT = build.LIMIT + 600.0
DISK = 4 * 1024**3
"""Bytes for the state of a cluster: its images take 2 GB, and the pods have theirs."""
HPA_VARIABLE = "SLIPWAY_HPA_SYNC_PERIOD"
"""Sets how often the autoscaler looks, which tests want more often; it counts at the start."""

_COREDNS = CLUSTER.folder / "coredns.yaml"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def stackable(folder: Path) -> str:
    """Return how containerd can stack layers on the file system of a folder.

    Overlay mounts cannot stand on every one: not on another overlay, as in a container.
    """
    trial = _existing(folder.parent) / f".slipway-overlay-{os.getpid()}"
    try:
        for name in ("lower", "upper", "work", "merged"):
            (trial / name).mkdir(parents=True)
        options = f"lowerdir={trial}/lower,upperdir={trial}/upper,workdir={trial}/work"
        script = 'mount -t overlay -o "$1" overlay "$2"'
        done = subprocess.run(
            # In a namespace of its own, so that it needs no umount.
            ["unshare", "--mount", "sh", "-c", script, "-", options, f"{trial}/merged"],
            check=False,
            capture_output=True,
            timeout=ASK_LIMIT,
        )
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return "overlayfs" if done.returncode == 0 else "native"


@dataclass(frozen=True, slots=True)
class Tools:
    """What the provider uses of this machine, so that a test can give it something else.

    Attributes:
        run: Runs programs.
        place: The state folder of this user; that of the cluster is in it.
        cache: The folder of what was built.
        environ: The environment.
        platform: What `sys.platform` says.
        root: Whether this user may do everything.
        which: Finds Go.
        find: Finds the programs of the distribution.
        free: Returns the bytes that are free where a folder is.
        machine: Returns what may be done on this machine.
        hierarchies: Returns where the control groups are mounted.
        snapshotter: Returns how containerd can stack layers in a folder.
        keeper: The command that keeps a node, to which its arguments are added.
    """

    run: Run = run_program
    place: Path = field(default_factory=state.folder)
    cache: Path = field(default_factory=build.cache)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    platform: str = sys.platform
    root: bool = field(default_factory=lambda: os.geteuid() == 0)
    which: Callable[[str], str | None] = shutil.which
    find: Callable[[], packages.Found] = packages.find
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    machine: Callable[[Say], Machine] = daemon.this_machine
    hierarchies: Callable[[], tuple[Path, ...]] = cgroups.here
    snapshotter: Callable[[Path], str] = stackable
    keeper: tuple[str, ...] = (sys.executable, "-P", "-m", "pipeline.cluster.local.keeper")


class Cluster:
    """The local cluster of a user.

    Args:
        tools: What it uses of this machine.
        say: Told what is done, line by line.
    """

    def __init__(self, tools: Tools, say: Say) -> None:
        self._tools = tools
        self._say = say
        self._folder = tools.place / "cluster"
        self._files = state_files(self._folder)

    async def up(self, images: str) -> None:
        """Have a cluster that serves; see `pipeline.cluster.local.up`."""
        self._require()
        port = self._registry_port(images)
        async with self._lock():
            record = self.record()
            if record is not None and state.alive(record.keeper):
                await self._up_already(record, port)
                return
            if record is not None:
                await self._end(record)
            await self._clear()
            plugins = await self._install()
            built, hold = await self._held()
            try:
                await self._begin(Bundle(built), port, plugins, hold)
            finally:
                # From here on the keeper has it.
                os.close(hold)

    async def _begin(self, bundle: Bundle, port: int, plugins: Path, hold: int) -> None:
        await self._kubeconfig(bundle.kubectl).check()
        free = self._tools.free(_existing(self._folder))
        if free < DISK:
            raise PrerequisiteError(
                f"A cluster takes {DISK / 1024**3:.0f} GiB of disk, and {self._folder} has "
                f"{free / 1024**3:.1f} GiB left",
                remedy="Make room, or point XDG_STATE_HOME elsewhere",
            )
        began = time.monotonic()
        node = Node(
            folder=str(self._folder),
            built=str(bundle.folder),
            cni=str(plugins),
            registry=port,
            hpa_sync_period=self._tools.environ.get(HPA_VARIABLE) or HPA_SYNC_PERIOD,
            snapshotter=await to_thread.run_sync(self._tools.snapshotter, self._folder),
        )
        kept = await anyio.Path(self._folder / "etcd").is_dir()
        self._say(
            f"Starting {'the' if kept else 'a'} cluster of one node in {self._folder}"
            f"{', with what is in it' if kept else ''}"
        )
        await self._start(node, bundle, hold)
        self._say(
            f"Kubernetes serves after {time.monotonic() - began:.0f} s; context {NAME} is the "
            f"current one of {self._kubeconfig(bundle.kubectl).file}"
        )

    async def down(self) -> None:
        """End the cluster and remove its data; see `pipeline.cluster.local.down`."""
        if not self._folder.exists():
            self._say("There is no local cluster")
            return
        self._require()
        async with self._lock():
            record = self.record()
            if record is not None:
                await self._end(record)
            await self._forget_context()
            await self._clear()
            await to_thread.run_sync(self._remove)
        self._say("The local cluster is gone, with its data")

    async def status(self) -> bool:
        """Tell how the cluster is; see `pipeline.cluster.local.status`."""
        record = self.record()
        if record is None:
            what = "It has ended" if self._folder.exists() else "There is none"
            self._say(f"Local cluster: down. {what}; `python -m pipeline cluster up` starts it")
            return False
        kubectl = self._bundle().kubectl
        ready = await self._kubectl(kubectl, "get", "--raw=/readyz", must=False)
        if ready.code != 0:
            self._say(f"Local cluster: it runs and does not answer; its logs: {self._files['log']}")
            return False
        version = await self._kubectl(
            kubectl, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}"
        )
        pods = await self._kubectl(
            kubectl, "get", "pods", "--all-namespaces", "-o", "jsonpath={.items[*].status.phase}"
        )
        phases = pods.stdout.split()
        running = sum(phase == "Running" for phase in phases)
        self._say(f"Local cluster: up, Kubernetes {version.stdout}, context {NAME}")
        self._say(f"API server: {_server(record.port)}; pods: {running} of {len(phases)} running")
        self._say(f"State and logs: {self._folder}")
        return True

    def manifests(self) -> Manifests:
        """Return the manifests of KEDA and metrics-server; see `pipeline.cluster.local`."""
        return self._bundle().manifests

    def enter(self) -> tuple[str, ...]:
        """Return what puts a command into the node's network; see `pipeline.cluster.local`."""
        return ("nsenter", "--target", str(self._first().pid), "--net", "--")

    @asynccontextmanager
    async def away(self, program: str) -> AsyncIterator[None]:
        """Keep a program of the node from running; see `pipeline.cluster.local`."""
        first = self._first()
        hold = self._files["hold"] / program
        hold.touch()
        os.kill(first.pid, signal.SIGUSR1)
        try:
            yield
        finally:
            hold.unlink(missing_ok=True)
            with suppress(ProcessLookupError):
                os.kill(first.pid, signal.SIGUSR1)
            with anyio.move_on_after(AWAY_LIMIT, shield=True):
                record = self.record()
                if record is not None:
                    await self._until_ready(self._bundle().kubectl, record.port)

    def record(self) -> Record | None:
        """Return what runs; None when nothing does."""
        with suppress(FileNotFoundError, ValueError):
            record = Record.from_json(self._files["keeper"].read_text(encoding="utf-8"))
            if any(map(state.alive, record.processes)):
                return record
        keeper = keeper_of(self._folder, self._files["lock"])
        return None if keeper is None else Record(keeper, self._port())

    def _port(self) -> int:
        """Return the port that the cluster had last; 0 when it never had one."""
        with suppress(FileNotFoundError, ValueError):
            return int((self._folder / "port").read_text(encoding="ascii"))
        return 0

    async def built(self) -> Path:
        """Return the folder of what is built, and build it if need be.

        Raises:
            PrerequisiteError: It cannot be built here.
        """
        builder = self._builder()

        async def finish(folder: Path) -> None:
            sources = {
                "keda": await builder.folder(CLUSTER, "github.com/kedacore/keda/v2"),
                "metrics-server": await builder.folder(CLUSTER, "sigs.k8s.io/metrics-server"),
            }
            await make(folder, sources, self._tools.run, self._say)

        return await builder.ensure(CLUSTER, finish)

    async def _held(self) -> tuple[Path, int]:
        """Return the folder of what is built, and what keeps it from being removed."""
        while True:
            built = await self.built()
            hold = await to_thread.run_sync(build.hold, built)
            if hold is not None:
                return built, hold

    # What it stands on.

    def _require(self) -> None:
        if not self._tools.platform.startswith("linux"):
            raise PrerequisiteError(
                "A local cluster is a Linux node on this very machine, and this is no Linux",
                remedy="Use `--provider minikube`",
            )
        if not self._tools.root:
            raise PrerequisiteError(
                "A local cluster needs root: it makes namespaces and control groups",
                remedy="Run it with sudo, or use `--provider minikube`",
            )

    def _registry_port(self, images: str) -> int:
        local = registry.loopback(images)
        if local is None:
            self._say(
                f"Nothing leads out of a local cluster, so it cannot pull from {images}; name a "
                "registry on the loopback interface with --registry"
            )
            return 0
        return local.port

    def _lock(self) -> AbstractAsyncContextManager[None]:
        # Not in the folder itself, which is removed while the lock is held.
        return state.lock(self._tools.place / "cluster-lock", self._say, limit=LOCK_LIMIT)

    def _builder(self) -> Builder:
        return Builder(
            run=self._tools.run,
            say=self._say,
            cache=self._tools.cache,
            go=self._tools.which("go"),
            free=lambda folder: self._tools.free(_existing(folder)),
        )

    def _bundle(self) -> Bundle:
        try:
            node = Node.from_json(self._files["node"].read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise PrerequisiteError(
                "There is no local cluster",
                remedy="Run `python -m pipeline cluster up --provider local`",
            ) from error
        return Bundle(Path(node.built))

    def _first(self) -> state.Process:
        record = self.record()
        if record is None or record.node is None:
            raise PrerequisiteError(
                "No local cluster runs",
                remedy="Run `python -m pipeline cluster up --provider local`",
            )
        return record.node

    async def _install(self) -> Path:
        """Return the folder of the CNI plug-ins; see to it that what the node needs is here."""
        found = self._tools.find()
        if found.missing:
            machine = self._tools.machine(self._say)
            if not machine.apt:
                raise PrerequisiteError(
                    f"The local cluster needs what Debian has in {' '.join(found.missing)}",
                    remedy="Install it with this machine's package manager; this knows apt only",
                )
            await machine.install(
                found.missing, why=f"The local cluster needs {' '.join(found.missing)}"
            )
            if apt.ETCD in found.missing:
                await self._silence_etcd(machine)
            found = self._tools.find()
        if found.plugins is None or found.missing:
            raise PrerequisiteError(
                f"After installing them, {' '.join(found.missing)} are still missing",
                remedy=f"Check that their programs are in {packages.PATH}",
            )
        return found.plugins

    async def _silence_etcd(self, machine: Machine) -> None:
        """Stop the service that comes with the package; the node has an etcd of its own."""
        commands = (
            [["systemctl", "disable", "--now", "etcd.service"]]
            if machine.systemd
            else [["service", "etcd", "stop"], ["update-rc.d", "etcd", "disable"]]
        )
        for argv in commands:
            with suppress(PrerequisiteError):  # where there are no services, none was started
                await self._tools.run(argv, limit=60.0)

    # Beginning.

    async def _up_already(self, record: Record, port: int) -> None:
        bundle = self._bundle()
        known = Node.from_json(self._files["node"].read_text(encoding="utf-8"))
        if port not in {0, known.registry}:
            raise PrerequisiteError(
                f"The local cluster is up with the registry on port {known.registry}, and cannot "
                f"reach the one on port {port}",
                remedy="Run `python -m pipeline cluster down` first, or name that registry",
            )
        if await anyio.Path(self._files["serves"]).exists():
            await self._until_ready(bundle.kubectl, record.port)
            if not await self._kubeconfig(bundle.kubectl).has(_server(record.port)):
                await self._add_context(bundle, record.port)
        else:
            # Who started it was killed before it served; the node does not mind.
            await self._furnish(bundle, record.port)
        self._say(f"The local cluster is up already; context {NAME}, {_server(record.port)}")

    async def _start(self, node: Node, bundle: Bundle, hold: int) -> None:
        await to_thread.run_sync(self._write, node)
        if not (self._files["pki"] / "admin.key").exists():
            await self._make_keys(bundle)
        await to_thread.run_sync(cgroups.make, node.cgroup, self._tools.hierarchies())
        listening = await to_thread.run_sync(self._listen)
        port: int = listening.getsockname()[1]
        state.write(self._folder / "port", str(port))
        keeper = await to_thread.run_sync(self._spawn, listening, hold)
        listening.close()
        try:
            with anyio.fail_after(START_LIMIT):
                await self._furnish(bundle, port, keeper)
        except TimeoutError as error:
            await self._abandon(keeper)
            raise self._failed(f"it does not serve within {START_LIMIT:.0f} s") from error
        except BaseException:
            # Also when this is cancelled: what nobody waits for must not stay.
            await self._abandon(keeper)
            raise
        _keepers.append(keeper)

    async def _furnish(
        self, bundle: Bundle, port: int, keeper: subprocess.Popen[bytes] | None = None
    ) -> None:
        """Wait for the node, and see to it that it has what every cluster has."""
        own = self._own_kubeconfig(bundle.kubectl)
        await own.merge(_server(port), self._files["pki"])
        await self._until_ready(bundle.kubectl, port, keeper)
        dns = ("--namespace=kube-system", "rollout")
        # What a cluster that was there before says of its pods is of before: only a pod that was
        # never ready tells when there is DNS again.
        await self._kubectl(bundle.kubectl, *dns, "restart", "deployment/coredns", must=False)
        await self._kubectl(
            bundle.kubectl,
            *("apply", "--server-side", "--force-conflicts", "--field-manager=slipway-local"),
            *("-f", str(_COREDNS)),
        )
        wait = ("wait", f"--timeout={START_LIMIT:.0f}s", f"node/{NAME}")
        await self._kubectl(bundle.kubectl, *wait, "--for=create", limit=START_LIMIT)
        await self._kubectl(bundle.kubectl, *wait, "--for=condition=Ready", limit=START_LIMIT)
        await self._until_loaded(keeper)
        await self._kubectl(
            bundle.kubectl,
            *(*dns, "status", "deployment/coredns"),
            f"--timeout={COREDNS_LIMIT:.0f}s",
            limit=COREDNS_LIMIT + ASK_LIMIT,
        )
        await self._add_context(bundle, port)
        state.write(self._files["serves"], "")

    def _write(self, node: Node) -> None:
        self._files["serves"].unlink(missing_ok=True)
        for name in ("run", "log", "hold"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        for name in ("config", "pki", "run", "log", "hold"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        for name, text in files(node).items():
            file = self._folder / "config" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        state.write(self._files["node"], node.to_json())

    async def _make_keys(self, bundle: Bundle) -> None:
        await succeed(
            self._tools.run,
            [
                str(bundle.program("pki")),
                f"-folder={self._files['pki']}",
                f"-node={NAME}",
                f"-address={ADDRESS}",
                f"-service={API_SERVICE}",
                f"-server=https://127.0.0.1:{API_PORT}",
            ],
            failure="The certificates of the cluster cannot be made",
            limit=ASK_LIMIT,
        )

    def _listen(self) -> socket.socket:
        """Return a socket for the API server, on the port that it had, the usual or a free one."""
        for port in dict.fromkeys((self._port() or API_PORT, API_PORT, 0)):
            with suppress(OSError):
                return socket.create_server(("127.0.0.1", port), backlog=128)
        raise PrerequisiteError(
            "No port of the loopback interface is free", remedy="End what has them all"
        )

    def _spawn(self, listening: socket.socket, hold: int) -> subprocess.Popen[bytes]:
        # Little of the environment: it outlives who started it, and a Jenkins job ends everything
        # that has its variables.
        environment = {
            "PATH": packages.PATH,
            "HOME": str(Path.home()),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(Path(pipeline.__file__).parents[1]),
        }
        descriptor = listening.fileno()
        with (self._files["log"] / "keeper.log").open("wb") as log:
            return subprocess.Popen(
                [*self._tools.keeper, str(self._folder), str(descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # What was built stays as long as the keeper lives, which does nothing for it.
                pass_fds=(descriptor, hold),
                cwd="/",
                env=environment,
                start_new_session=True,
            )

    async def _until_ready(
        self, kubectl: Path, port: int, keeper: subprocess.Popen[bytes] | None = None
    ) -> None:
        deadline = anyio.current_time() + START_LIMIT
        output = Output(1, "", "")
        while anyio.current_time() < deadline:
            self._see(keeper)
            # A connection is made in a moment; kubectl takes a processor for a tenth of a second.
            if await to_thread.run_sync(_answers, port):
                output = await self._kubectl(kubectl, "get", "--raw=/readyz", must=False)
                if output.code == 0:
                    return
            await anyio.sleep(0.2)
        raise self._failed(f"its API server is not ready after {START_LIMIT:.0f} s", output.stderr)

    async def _until_loaded(self, keeper: subprocess.Popen[bytes] | None) -> None:
        while not await anyio.Path(self._files["log"] / "images.done").exists():
            self._see(keeper)
            await anyio.sleep(0.1)

    def _see(self, keeper: subprocess.Popen[bytes] | None) -> None:
        if keeper is not None and keeper.poll() is not None:
            raise self._failed(f"its keeper ended with {keeper.returncode}")

    def _failed(self, why: str, evidence: str = "") -> StepError:
        log = self._files["log"]
        with suppress(OSError):
            evidence += (log / "keeper.log").read_text(encoding="utf-8", errors="replace")
        return StepError(
            f"The local cluster does not start: {why}",
            remedy=f"Each program's log is in {log}",
            evidence=tail(evidence),
        )

    async def _abandon(self, keeper: subprocess.Popen[bytes]) -> None:
        with anyio.CancelScope(shield=True):
            record = self.record()
            if record is not None:
                await self._end(record)
            keeper.kill()
            await to_thread.run_sync(keeper.wait)
            await self._clear()

    # Ending.

    async def _end(self, record: Record) -> None:
        """End what runs: with the first process in the namespaces all others end, at once."""
        for process, number in (
            (record.node, signal.SIGKILL),
            (record.keeper, signal.SIGTERM),
            # Who waits for the node takes it along, when it is not known yet.
            (record.parent, signal.SIGKILL),
            (record.keeper, signal.SIGKILL),
        ):
            if process is not None and state.alive(process):
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)
                # The keeper ends by itself when the node does.
                if await _ended(record.processes, STOP_LIMIT):
                    return
        if await _ended(record.processes, 0.1):
            return
        left = ", ".join(str(process.pid) for process in record.processes)
        raise StepError(
            f"The local cluster does not end: processes {left}",
            remedy="End them, and run `python -m pipeline cluster down` again",
        )

    async def _clear(self) -> None:
        """Remove what the node had outside its folder and its namespaces: control groups."""
        name = Node(str(self._folder), "", "", 0).cgroup
        await to_thread.run_sync(cgroups.remove, name, self._tools.hierarchies())

    def _remove(self) -> None:
        mounted = [
            line.split()[1]
            for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
            if Path(line.split()[1]).is_relative_to(self._folder)
        ]
        if mounted:
            # What is mounted there would be removed as well.
            raise StepError(
                f"{mounted[0]} is mounted, in what should be removed",
                remedy=f"Run `umount {mounted[0]}`, and `python -m pipeline cluster down` again",
            )
        try:
            shutil.rmtree(self._folder)
        except OSError as error:
            raise StepError(
                f"{error.filename} cannot be removed: {error.strerror}",
                remedy="Run `python -m pipeline cluster down` again",
            ) from error

    # The kubeconfig.

    def _kubeconfig(self, kubectl: Path) -> Kubeconfig:
        return Kubeconfig(self._tools.run, kubectl, self._tools.environ)

    def _own_kubeconfig(self, kubectl: Path) -> Kubeconfig:
        environ = {**self._tools.environ, "KUBECONFIG": str(self._folder / "kubeconfig")}
        return Kubeconfig(self._tools.run, kubectl, environ)

    async def _add_context(self, bundle: Bundle, port: int) -> None:
        before = await self._kubeconfig(bundle.kubectl).merge(_server(port), self._files["pki"])
        file = self._folder / "before"
        if not file.exists():
            state.write(file, f"{int(before.existed)} {before.context}")

    async def _forget_context(self) -> None:
        try:
            existed, _, context = (
                (self._folder / "before").read_text(encoding="utf-8").strip().partition(" ")
            )
        except FileNotFoundError:
            return
        kubectl = newest()
        if kubectl is None:
            self._say(f"There is no kubectl any more; the context {NAME} stays in the kubeconfig")
            return
        before = Before(context=context, existed=existed == "1")
        await self._kubeconfig(kubectl).remove(_server(self._port()), before)

    async def _kubectl(
        self, kubectl: Path, *arguments: str, limit: float = ASK_LIMIT, must: bool = True
    ) -> Output:
        argv = [str(kubectl), f"--kubeconfig={self._folder / 'kubeconfig'}", *arguments]
        output = await self._tools.run(argv, limit=limit)
        if must and output.code != 0:
            raise self._failed(
                f"`kubectl {' '.join(arguments)}` ended with {output.code}", output.stderr
            )
        return output


_keepers: list[subprocess.Popen[bytes]] = []
"""The keepers that this process started; kept, so that none becomes a zombie of ours unseen."""


def started() -> tuple[subprocess.Popen[bytes], ...]:
    """Return the keepers that this very process started, those that have ended too."""
    return tuple(_keepers)


def _server(port: int) -> str:
    return f"https://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


async def _ended(processes: Iterable[state.Process], limit: float) -> bool:
    with anyio.move_on_after(limit):
        while any(map(state.alive, processes)):  # noqa: ASYNC110  the kernel tells only a parent
            await anyio.sleep(0.02)
        for keeper in _keepers:
            # A zombie of ours counts as dead above, and stays until it is asked for.
            keeper.poll()
        return True
    return False
