"""What the scenarios act on: a cluster, a registry, and the command line that a person would use.

A stage of its own has everything of its own: a state folder, a kubeconfig, a registry on a free
port of the loopback interface. Whoever writes a scenario may lend it the state folder of a cluster
that runs (`LENT`), which saves two minutes for each try; what would destroy it is then left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.cluster import kubectl
from pipeline.setup import registry, state
from pipeline.setup.docker import Docker
from tests import load as loads

from . import images
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = ROOT / "tests/cluster/overlay"
CONTEXT = "slipway-local"
API = "slipway-api"
NGINX = "slipway-nginx"
WORKLOADS = (API, NGINX)
LEAST = 2
"""Pods of each workload when there is nothing to do."""
VERSIONS = ("one", "two")
"""The versions that work; what else there is, see `Stage.report`."""
PATH = "/api/v1/containers"
RATE = 25.0
"""Requests in a second that the system has no trouble with, nor need to scale for."""
TIMEOUT = 90
"""Seconds that a deploy is given to be ready, and again to be taken back."""
LENT = "CLUSTER_TESTS_STATE"
"""Names the XDG_STATE_HOME of a local cluster that runs, with KUBECONFIG, the namespace
`cluster-tests`, and the registry of PIPELINE_REGISTRY, which its nodes reach."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended.

    Attributes:
        line: The command, as a person would type it.
        code: Its exit code.
        out: What it wrote, both ways.
        seconds: How long it took.
        began: When it was started, of the monotonic clock.
    """

    line: str
    code: int
    out: str
    seconds: float
    began: float

    def __str__(self) -> str:
        return f"$ {self.line}\n{self.out}\n[exit {self.code} after {self.seconds:.1f} s]"


@dataclass(slots=True)
class Running:
    """A command that runs."""

    line: str
    process: subprocess.Popen[str]
    began: float

    def kill(self) -> None:
        """End it as a crash of its machine would, with all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def wait(self, limit: float) -> Done:
        """Return how it ended; fails when it does not within a limit in seconds."""
        try:
            out, _ = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"`{self.line}` did not end within {limit:.0f} s") from None
        seconds = time.monotonic() - self.began
        done = Done(self.line, self.process.returncode, out, seconds, self.began)
        sys.stdout.write(f"{done}\n")
        return done


@dataclass(slots=True)
class Stage:
    """A cluster and what belongs to it.

    Attributes:
        folder: A scratch folder.
        home: The XDG_STATE_HOME of the cluster.
        address: The registry, ``HOST:PORT``.
        namespace: Where the system is deployed.
        own: Whether all of it was made for this run, and may be destroyed.
        figures: What was measured, by scenario.
        history: The versions that were deployed, one after the other.
    """

    folder: Path
    home: Path
    address: str
    namespace: str
    own: bool
    figures: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    _reports: dict[str, Path] = field(default_factory=dict)
    _kubectl: list[str] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of every command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PIPELINE_")}
        return kept | {
            "XDG_STATE_HOME": str(self.home),
            "KUBECONFIG": self.kubeconfig,
            "PIPELINE_PROVIDER": "local",
            "PIPELINE_REGISTRY": self.address,
            "PIPELINE_CONTEXT": CONTEXT,
            "PIPELINE_NAMESPACE": self.namespace,
            "PIPELINE_OVERLAY": str(OVERLAY),
            "PIPELINE_TIMEOUT": str(TIMEOUT),
            "SLIPWAY_HPA_SYNC_PERIOD": "5s",
        }

    @property
    def kubeconfig(self) -> str:
        """The file that names the cluster."""
        return str(self.folder / "kubeconfig") if self.own else os.environ.get("KUBECONFIG", "")

    # Commands

    def start(self, *arguments: str) -> Running:
        """Start the pipeline with arguments."""
        argv = [sys.executable, "-m", "pipeline", *arguments]
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        line = " ".join(("python -m pipeline", *arguments))
        return Running(line, process, time.monotonic())

    def run(self, *arguments: str, code: int | None = 0, limit: float = 300.0) -> Done:
        """Run the pipeline with arguments, to its end.

        Args:
            arguments: As a person types them.
            code: What it has to exit with; None when anything will do.
            limit: Seconds within which it has to end.
        """
        done = self.start(*arguments).wait(limit)
        assert code is None or done.code == code, done
        return done

    def deploy(self, version: str, *more: str, code: int | None = 0) -> Done:
        """Deploy a version of the images; see `report`."""
        done = self.run("deploy", "--images", str(self.report(version)), *more, code=code)
        if done.code == 0:
            self.history.append(version)
        return done

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Return what kubectl says."""
        done = subprocess.run(
            [*self._with_kubectl(), *arguments],
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def get(self, *arguments: str, namespace: str | None = None) -> dict[str, Any]:
        """Return what ``kubectl get`` says, as JSON."""
        place = self.namespace if namespace is None else namespace
        found: dict[str, Any] = json.loads(
            self.kubectl("get", "--namespace", place, *arguments, "--output=json")
        )
        return found

    def pods(self, workload: str = "") -> list[dict[str, Any]]:
        """Return the pods that are not on their way out, of one workload or of both."""
        names = workload or ",".join(WORKLOADS)
        found = self.get("pods", "--selector", f"app.kubernetes.io/name in ({names})")["items"]
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def watch(self) -> Watch:
        """Return a record of the pods, to be entered."""
        return Watch(self._with_kubectl(), self.environ, self.namespace)

    def _with_kubectl(self) -> list[str]:
        if not self._kubectl:
            self._kubectl = [str(kubectl.find()), f"--context={CONTEXT}"]
        return self._kubectl

    # Images and overlays

    def report(self, version: str) -> Path:
        """Return a report that names images.

        Args:
            version: ``one`` and ``two`` serve; the API of ``broken`` ends as soon as it starts;
                that of ``absent`` is on no registry.
        """
        if version not in self._reports:
            self._reports[version] = self._report(version)
        return self._reports[version]

    def digests(self, version: str) -> dict[str, str]:
        """Return the digest of each image of a version, by workload."""
        found = json.loads(self.report(version).read_text(encoding="utf-8"))["images"]
        return {f"slipway-{each['name']}": each["reference"].partition("@")[2] for each in found}

    def _report(self, version: str) -> Path:
        reports = ROOT / os.environ.get("PIPELINE_REPORT_DIR", "reports")
        document = json.loads((reports / "report.json").read_text(encoding="utf-8"))
        for each in document["images"]:
            reference = each["reference"]
            if reference.partition("/")[0] != self.address:
                reference = images.copied(reference, self.address)
            if version == "two":
                reference = images.variant(reference, labels={"io.slipway.test": version})
            elif version == "broken" and each["name"] == "api":
                said = "print('api: the setting X is missing'); raise SystemExit(3)"
                reference = images.variant(
                    reference,
                    labels={"io.slipway.test": version},
                    entrypoint=("python3", "-c", said),
                )
            elif version == "absent" and each["name"] == "api":
                reference = images.absent(reference)
            each["reference"] = reference
        file = self.folder / f"report-{version}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        return file

    def overlay(self, name: str, *patches: dict[str, Any], **more: Any) -> str:  # noqa: ANN401
        """Return the folder of an overlay that changes that of the tests.

        Args:
            name: What it is called.
            patches: Strategic merge patches.
            more: Other fields of its kustomization.
        """
        folder = self.folder / "overlays" / name
        folder.mkdir(parents=True, exist_ok=True)
        resources = [os.path.relpath(OVERLAY, folder), *more.pop("resources", ())]
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": resources,
            "patches": [{"patch": yaml.safe_dump(each)} for each in patches],
            **more,
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return str(folder)

    def write(self, folder: str, name: str, content: dict[str, Any]) -> None:
        """Write a manifest beside an overlay."""
        (Path(folder) / name).write_text(yaml.safe_dump(content), encoding="utf-8")

    # The node

    @property
    def node(self) -> int:
        """The first process of the node, as this machine numbers it."""
        file = self.home / "slipway/cluster/keeper.json"
        return int(json.loads(file.read_text(encoding="utf-8"))["node"]["pid"])

    def within(self, *argv: str) -> list[str]:
        """Return a command that runs another on the network of the node."""
        return ["nsenter", f"--target={self.node}", "--net", "--", *argv]

    def first_process(self, workload: str, program: str) -> int:
        """Return the first process of the container of one pod, as this machine numbers it."""
        uids = [pod["metadata"]["uid"] for pod in self.pods(workload)]
        for each in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            with contextlib.suppress(OSError, KeyError, ValueError):
                if not any(uid in (each / "cgroup").read_text() for uid in uids):
                    continue
                lines = (each / "status").read_text().splitlines()
                numbers = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
                if numbers[-1] == "1" and program in (each / "cmdline").read_text():
                    return int(each.name)
        raise AssertionError(f"no process {program} is in a pod of {workload}")

    @contextlib.contextmanager
    def without_api_server(self) -> Iterator[None]:
        """Have the API server killed, and kept from being started, as long as this is entered."""
        held = self.home / "slipway/cluster/hold/kube-apiserver"
        held.parent.mkdir(exist_ok=True)
        held.touch()
        os.kill(self.node, signal.SIGUSR1)
        try:
            yield
        finally:
            held.unlink()
            os.kill(self.node, signal.SIGUSR1)

    def address_of(self, service: str = NGINX) -> str:
        """Return where a Service answers within the node, ``ADDRESS:PORT``."""
        spec = self.get("service", service)["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def ask(self, path: str = PATH) -> dict[str, Any]:
        """Return what the system answers through Nginx's Service."""
        url = f"http://{self.address_of()}{path}"
        done = subprocess.run(
            self.within("curl", "-sS", "--fail-with-body", "--noproxy", "*", "-m", "10", url),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, f"{url}: {done.stdout} {done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextlib.contextmanager
    def load(
        self, rate: float = RATE, *, keep_alive: bool = False, seconds: float = 600.0
    ) -> Iterator[loads.Load]:
        """Ask the system at a constant rate as long as this is entered.

        Each request is one that Nginx has no copy of an answer to: so the API is under the load as
        well, and no copy stands in for an API that fails.
        """
        handle, name = tempfile.mkstemp(dir=self.folder, prefix="load-", suffix=".json")
        os.close(handle)
        with loads.running(
            f"http://{self.address_of()}{PATH}?load={Path(name).stem}-{{n}}",
            Path(name),
            rate=rate,
            keep_alive=keep_alive,
            seconds=seconds,
            within=self.within(),
        ) as load:
            yield load

    # What is there

    def images_of(self, workload: str) -> set[str]:
        """Return the digests that the pods of a workload were made with."""
        return {
            container["image"].partition("@")[2]
            for pod in self.pods(workload)
            for container in pod["spec"]["containers"]
        }

    def runs(self, version: str) -> bool:
        """Return whether all pods, and there are some, are of a version."""
        return all(
            self.images_of(workload) == {digest}
            for workload, digest in self.digests(version).items()
        )

    @property
    def version(self) -> str:
        """The version that runs, ``one`` or ``two``; empty when it is neither, or a mixture."""
        return next((version for version in VERSIONS if self.runs(version)), "")

    @property
    def other(self) -> str:
        """The version of the two that does not run."""
        return VERSIONS[self.version == VERSIONS[0]]

    def releases(self) -> dict[int, str]:
        """Return the state of each recorded release; none where there is no namespace."""
        found = self.get("configmaps", "--selector", "slipway.io/record=release")["items"]
        return {
            int(each["metadata"]["annotations"]["slipway.io/release"]): each["metadata"]["labels"][
                "slipway.io/state"
            ]
            for each in found
        }

    def told(self) -> str:
        """Return what somebody would look at first who has to find out what went wrong."""
        place = f"--namespace={self.namespace}"
        parts = [
            self.kubectl("get", place, "pods,hpa,scaledobjects", "--output=wide", check=False),
            self.kubectl("get", place, "events", "--sort-by=.lastTimestamp", check=False)[-6000:],
        ]
        for workload in WORKLOADS:
            selector = f"--selector=app.kubernetes.io/name={workload}"
            logs = self.kubectl("logs", place, selector, "--prefix", "--tail=400", check=False)
            lines = [line for line in logs.splitlines() if " 200 " not in line]
            parts.append("\n".join(lines[-60:]))
        return "\n".join(parts)


# The registry


def free_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def docker() -> Docker:
    """Return a client of this machine's Docker Engine."""
    return Docker(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")


async def start_registry(address: str) -> None:
    """Start an empty registry of the kind that set-up starts."""
    wanted = registry.loopback(address)
    usual = docker().container(registry.Registry("127.0.0.1", 5050).name)
    assert wanted is not None
    assert usual is not None, "set-up has started no registry: run `make setup`"
    await registry.start(wanted, docker(), usual["Config"]["Image"], lambda _line: None)


def destroy_registry(address: str) -> None:
    """Remove a registry with its data."""
    wanted = registry.loopback(address)
    assert wanted is not None
    assert str(wanted) != registry.DEFAULT, "that one belongs to the user"
    docker().remove(wanted.name, grace=1)
    docker().request("DELETE", f"/volumes/{wanted.name}?force=true")


def lent() -> Path | None:
    """Return the state folder of a cluster that was lent to the tests; None when none was."""
    found = os.environ.get(LENT)
    return Path(found) if found else None


def is_up(home: Path) -> bool:
    """Return whether the node of a state folder lives."""
    try:
        found = json.loads((home / "slipway/cluster/keeper.json").read_text(encoding="utf-8"))
        return state.alive(state.Process(**found["keeper"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def describe(answers: loads.Answers, stage: Stage) -> str:
    """Return what a test says when a load that must not fail did."""
    return f"{answers.told()}\n{stage.told()}"


def seconds(values: Sequence[float]) -> str:
    """Return times as a person reads them."""
    return ", ".join(f"{each:.1f} s" for each in values)
