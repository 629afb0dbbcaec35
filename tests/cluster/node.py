"""A local cluster as the machine sees it: what it has there, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cluster import kubectl
from pipeline.cluster.local.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
UP_LIMIT = 2400.0
"""Seconds for a cluster that has to be built first."""
NAMESPACES = ("mnt", "net", "pid", "ipc", "uts")
SETTINGS = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""Settings of the kernel that a kubelet or a kube-proxy would change."""
_DOCKERS = re.compile(r"DOCKER|docker|\bbr-[0-9a-f]")
"""What comes and goes with other containers of the machine."""
CONNECTED = os.strerror(0)
"""What becomes of a connection that comes about."""
NOT_FOUND, REFUSED = 3, 5
"""The DNS's codes for a name that does not exist, and for no answer at all (RFC 1035, 4.1.1)."""


@dataclass(frozen=True, slots=True)
class OwnCluster:
    """A local cluster with everything of its own.

    Attributes:
        folder: The XDG_STATE_HOME.
        environ: The environment of its commands.
    """

    folder: Path
    environ: Mapping[str, str]

    @property
    def state(self) -> Path:
        """The folder of the cluster."""
        return self.folder / "slipway" / "cluster"

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command of ``python -m pipeline cluster``."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", "cluster", command],
            cwd=ROOT,
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, *, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of ``python -m pipeline cluster`` to its end.

        Args:
            command: ``up``, ``down`` or ``status``.
            code: What it has to exit with; None when anything will do. What exits with 3 instead
                lacks something here, and the test is skipped.
        """
        with self.start(command) as process:
            out, err = process.communicate(timeout=UP_LIMIT)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        sys.stdout.write(f"$ cluster {command}\n{out}{err}[exit {done.returncode}]\n")
        if done.returncode == 3 and code == 0:
            pytest.skip(err)
        assert code is None or done.returncode == code, err
        return done

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Return what kubectl says, of the context that `up` made the current one."""
        done = subprocess.run(
            [str(kubectl.find()), *arguments],
            env=dict(self.environ),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def create(self, manifest: Mapping[str, Any]) -> None:
        """Make an object."""
        self.kubectl("create", "--filename=-", stdin=json.dumps(manifest))

    @property
    def node(self) -> Node:
        """How it was started."""
        return Node.from_json((self.state / "node.json").read_text(encoding="utf-8"))

    def record(self) -> dict[str, Any]:
        """Return what the keeper remembers."""
        found: dict[str, Any] = json.loads((self.state / "keeper.json").read_text(encoding="utf-8"))
        return found

    def kill(self, who: str) -> None:
        """Kill the keeper or the first process of the node, and wait until the keeper is gone.

        The keeper of a node that was killed ends by itself.
        """
        record = self.record()
        keeper = int(record["keeper"]["pid"])
        os.kill(int(record[who]["pid"]), signal.SIGKILL)
        until(lambda: not Path(f"/proc/{keeper}/ns/pid").exists())

    def namespaces(self) -> set[str]:
        """Return the namespaces of the node, as ``/proc`` names them."""
        pid = self.record()["node"]["pid"]
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in NAMESPACES}

    def resolve(self, name: str) -> tuple[int, str]:
        """Return what the cluster's DNS says to a name: a code, and an address when there is one.

        It is asked at the address of its Service, from the network of the node. kube-proxy sees to
        that address once a second: until then it is refused, which is `REFUSED`.
        """
        with self._within("ask", name) as process:
            out, _ = process.communicate(timeout=30)
        assert process.returncode == 0, out
        code, _, address = out.strip().partition(" ")
        return int(code), address

    @contextlib.contextmanager
    def connecting(self, address: str, port: int) -> Iterator[Callable[[], str]]:
        """Have a connection begun from the network of the node, the first packet of it sent.

        What is yielded waits for what becomes of it, and returns that: `CONNECTED`, or a reason.
        """
        with self._within("connect", address, str(port)) as process:
            assert process.stdout is not None
            lines = process.stdout
            assert lines.readline() == "begun\n"
            try:
                yield lambda: lines.readline().strip()
            finally:
                process.kill()

    def _within(self, *arguments: str) -> subprocess.Popen[str]:
        pid = self.record()["node"]["pid"]
        argv = ["nsenter", f"--target={pid}", "--net", "--"]
        argv += [sys.executable, "-m", "tests.cluster.node", *arguments]
        return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node could leave behind on its machine, or change there."""

    interfaces: frozenset[str]
    routes: frozenset[str]
    rules: frozenset[str]
    mounts: frozenset[str]
    groups: frozenset[str]
    places: frozenset[str]
    settings: tuple[str, ...]


def machine() -> Machine:
    """Return what is there now."""
    rules = _said("iptables-save") + _said("ip6tables-save")
    return Machine(
        # What a bridge of Docker's has is Docker's; the node's pairs of interfaces have no bridge.
        interfaces=frozenset(
            line.split(":")[1] for line in _others("ip", "-o", "link") if " master " not in line
        ),
        routes=frozenset(
            line for line in _others("ip", "route", "show", "table", "all") if " veth" not in line
        ),
        # Without the counters, which count, and the times in comments.
        rules=frozenset(
            line.split(" [")[0]
            for line in rules
            if not line.startswith("#") and not _DOCKERS.search(line)
        ),
        mounts=frozenset(
            line.split()[1]
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if not _DOCKERS.search(line)
        ),
        groups=frozenset(str(path) for path in Path("/sys/fs/cgroup").glob("*/slipway-*"))
        | frozenset(str(path) for path in Path("/sys/fs/cgroup").glob("slipway-*")),
        places=frozenset(
            str(path)
            for folder in ("/run", "/var/lib", "/var/log", "/etc/cni", "/opt")
            for path in Path(folder).glob("*")
        ),
        settings=tuple(Path("/proc/sys", name).read_text() for name in SETTINGS),
    )


def processes_in(namespaces: set[str]) -> list[int]:
    """Return the processes that are in one of some namespaces."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/ns"):
        try:
            inside = {str((folder / kind).readlink()) for kind in NAMESPACES}
        except OSError:
            continue
        if inside & namespaces:
            found.append(int(folder.parent.name))
    return found


def until(met: Callable[[], object], limit: float = 15.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + limit
    while not met():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)


def until_none_in(namespaces: set[str]) -> None:
    """Wait until no process is in one of some namespaces."""
    until(lambda: not processes_in(namespaces))


def _others(*argv: str) -> list[str]:
    return [line for line in _said(*argv) if not _DOCKERS.search(line)]


def _said(*argv: str) -> list[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.splitlines()


def _ask(name: str, server: str = "10.96.0.10") -> str:
    """Ask for the address of a name, with a question as RFC 1035 has it."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        try:
            asking.sendto(question, (server, 53))
            answer = asking.recv(512)
        except (PermissionError, ConnectionRefusedError):  # what iptables' REJECT comes to
            return f"{REFUSED} "
    count = struct.unpack(">H", answer[6:8])[0]
    return f"{answer[3] & 15} {socket.inet_ntoa(answer[-4:]) if count else ''}"


def _connect(address: str, port: str) -> str:
    with socket.socket() as client:
        client.settimeout(0)
        client.connect_ex((address, int(port)))
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        if not select.select([], [client], [], 15)[1]:
            return "time-out"
        return os.strerror(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


if __name__ == "__main__":
    print((_connect if sys.argv[1] == "connect" else _ask)(*sys.argv[2:]))  # noqa: T201
