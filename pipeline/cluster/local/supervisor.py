"""The first process of a node: it furnishes the namespaces, starts the node's programs and reaps.

Started by `keeper` in new namespaces, as ``python -m pipeline.cluster.local.supervisor FOLDER API
LINK``: API is a socket that listens on the machine's loopback interface, LINK one end of a pair
whose other end the keeper has. When this process ends, the kernel ends all others in here.

- A program that ends is started again, after a pause that grows.
- A program with a file of its name in the folder ``hold`` is stopped until the file is gone;
  SIGUSR1 says that the folder changed. So a test takes the API server away.
- Every process whose parent is gone is reaped here, as no other can.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from pipeline.cluster.local.bundle import IMAGES
from pipeline.cluster.local.node import (
    ADDRESS,
    API_PORT,
    BUILT,
    NAME,
    RUNTIME_SOCKET,
    SERVICES,
    STATE,
    Node,
    Program,
    programs,
    state_files,
)
from pipeline.cluster.local.relay import relay

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)

STOP_LIMIT = 5.0
"""Seconds for the programs to end by themselves."""
FIRST_PAUSE = 0.3
LONGEST_PAUSE = 5.0
STEADY_AFTER = 30.0
"""Seconds after which a program that ended is started again at once."""
_COMMAND_LIMIT = 30.0

TUNABLES = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""The kernel's settings that the kubelet insists on writing: container_manager_linux.go in
Kubernetes' pkg/kubelet/cm. It gets files in their place, with what the kernel has in them."""


def mounts(node: Node, tunables: Sequence[str] = TUNABLES) -> tuple[tuple[str, ...], ...]:
    """Return the arguments of each call of ``mount`` that furnishes the node, in their order.

    What the programs write at fixed places goes to the state folder: mounts cover ``/run`` and
    ``/var/log``, and ``/var/lib`` gets folders that the machine need not have. The kernel's
    settings can only be read, but for those of the node's own network.

    Args:
        node: The node.
        tunables: Those of `TUNABLES` that this kernel has.
    """
    folder = node.folder
    run = f"{folder}/run"
    return (
        # Inside /run, so that it is where it belongs when /run is covered, wherever it was.
        ("--bind", folder, f"{run}/slipway"),
        ("--bind", node.built, f"{run}/slipway-built"),
        ("--rbind", run, "/run"),
        ("--bind", f"{STATE}/log", "/var/log"),
        ("-t", "overlay", "-o", f"lowerdir={STATE}/places:/var/lib", "slipway", "/var/lib"),
        ("--bind", f"{STATE}/kubelet", "/var/lib/kubelet"),
        ("--bind", f"{STATE}/run/cni", "/var/lib/cni"),
        *(("--bind", f"{STATE}/tunables/{name}", f"/proc/sys/{name}") for name in tunables),
        ("--bind", "/proc/sys/net", "/proc/sys/net"),
        ("--rbind", "/proc/sys", "/proc/sys"),
        ("-o", "remount,bind,ro", "/proc/sys"),
        # A volume that a pod mounts must be seen by those that share it.
        ("--make-rshared", "/"),
    )


def foreign(mountinfo: str, needed: Sequence[str]) -> tuple[str, ...]:
    """Return the mounts that the node got with its namespace and that are not for it.

    They are those of other containers: kept here, what is removed there would keep its disk.

    Args:
        mountinfo: The text of ``/proc/self/mountinfo`` (proc(5)).
        needed: Paths that the node needs.
    """
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        # A blank in a path is written as octal digits.
        where = left.split()[4].encode().decode("unicode_escape")
        inside = where.startswith(("/var/lib/", "/run/"))
        if where == "/" or not (inside or right.split()[0] in {"overlay", "nsfs"}):
            continue
        if not any(Path(path).is_relative_to(where) for path in needed):
            found.append(where)
    return tuple(reversed(found))


class Children:
    """The processes of the node; every child of this process is reaped here, and only here."""

    def __init__(self) -> None:
        self._codes: dict[int, int] = {}
        self._ended: dict[int, anyio.Event] = {}

    def start(self, argv: Sequence[str], log: Path) -> int:
        """Start a program, and return its number."""
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LC_ALL": "C.UTF-8"}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o640),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
        self._ended[pid] = anyio.Event()
        return pid

    async def wait(self, pid: int) -> int:
        """Return how a program ended, negative for a signal."""
        await self._ended[pid].wait()
        del self._ended[pid]
        return self._codes.pop(pid)

    def reap(self) -> None:
        """Take notice of every child that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._ended:
                self._codes[pid] = os.waitstatus_to_exitcode(status)
                self._ended[pid].set()

    async def stop(self, pid: int, limit: float) -> None:
        """End a program; one that does not within the limit is killed."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with anyio.move_on_after(limit):
                await self._ended[pid].wait()
                return

    def running(self) -> tuple[int, ...]:
        """Return the numbers of the programs that run."""
        return tuple(pid for pid, ended in self._ended.items() if not ended.is_set())


class Supervisor:
    """Keeps the programs of a node running.

    Args:
        node: The node.
        files: Where the state folder has the logs and what is held.

    Attributes:
        children: The processes of the node.
    """

    def __init__(self, node: Node, files: dict[str, Path]) -> None:
        self._node = node
        self._logs = files["log"]
        self._hold = files["hold"]
        self.children = Children()
        self._held = anyio.Event()

    async def run(self, api: socket.socket, link: socket.socket) -> None:
        """Run everything until the keeper is gone or this is told to stop."""
        registry = _listen(self._node.registry)
        greeting = [b"ready"]
        if registry is None:
            link.send(greeting[0])
        else:
            socket.send_fds(link, greeting, [registry.fileno()])
            registry.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen_to_signals, tasks.cancel_scope)
            tasks.start_soon(_until_closed, link, tasks.cancel_scope)
            tasks.start_soon(relay, api, "127.0.0.1", API_PORT)
            tasks.start_soon(self._load)
            for program in programs(self._node):
                tasks.start_soon(self.keep, program)
        # Not needed for the programs' sake: the kernel would end them. It is for their data's.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ends:
                ends.start_soon(self._reap_until_none)
                for pid in self.children.running():
                    ends.start_soon(self.children.stop, pid, STOP_LIMIT)

    async def _reap_until_none(self) -> None:
        while self.children.running():
            self.children.reap()
            await anyio.sleep(0.02)

    async def _listen_to_signals(self, scope: anyio.CancelScope) -> None:
        wanted = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        with anyio.open_signal_receiver(*wanted) as signals:
            # One that ended before anybody listened sends no signal any more.
            self.children.reap()
            async for number in signals:
                if number == signal.SIGCHLD:
                    self.children.reap()
                elif number == signal.SIGUSR1:
                    self.look_again()
                else:
                    scope.cancel()
                    return

    async def _load(self) -> None:
        """Load the images that no registry has."""
        await _accepts(f"unix:{RUNTIME_SOCKET}")
        done = self._logs / "images.done"
        for image in IMAGES:
            argv = (
                *("ctr", "--address", RUNTIME_SOCKET, "--namespace", "k8s.io", "images", "import"),
                *("--snapshotter", self._node.snapshotter, f"{BUILT}/images/{image.file}"),
            )
            code = await self.children.wait(self._start("images", argv))
            if code != 0:
                _log.error("%s cannot be loaded: ctr ended with %s", image.reference, code)
                return
        done.touch()

    def look_again(self) -> None:
        """Take notice of what is held now."""
        self._held.set()
        self._held = anyio.Event()

    async def keep(self, program: Program) -> None:
        """Run a program, again and again, until it is cancelled."""
        pause = FIRST_PAUSE
        while True:
            await self._until_free(program.name)
            if program.after:
                await _accepts(program.after)
            began = time.monotonic()
            pid = self._start(program.name, program.argv)
            _log.info("%s is process %s", program.name, pid)
            async with anyio.create_task_group() as watch:
                watch.start_soon(self._stop_when_held, program.name, pid)
                code = await self.children.wait(pid)
                watch.cancel_scope.cancel()
            _log.warning("%s ended with %s", program.name, code)
            if time.monotonic() - began > STEADY_AFTER:
                pause = FIRST_PAUSE
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _start(self, name: str, argv: Sequence[str]) -> int:
        return self.children.start(argv, self._logs / f"{name}.log")

    async def _until_free(self, name: str) -> None:
        while (self._hold / name).exists():
            await self._held.wait()

    async def _stop_when_held(self, name: str, pid: int) -> None:
        while not (self._hold / name).exists():
            await self._held.wait()
        _log.info("%s is held", name)
        with contextlib.suppress(ProcessLookupError):
            # It is to be away at once, as when its machine is.
            os.kill(pid, signal.SIGKILL)


async def _until_closed(link: socket.socket, scope: anyio.CancelScope) -> None:
    """Cancel when the keeper is gone."""
    link.settimeout(0)
    await anyio.wait_readable(link)
    _log.info("the keeper is gone")
    scope.cancel()


async def _accepts(address: str) -> None:
    """Return as soon as something accepts connections; who calls has all the time of the node."""
    kind, _, where = address.partition(":")
    while True:
        try:
            if kind == "unix":
                stream: anyio.abc.ByteStream = await anyio.connect_unix(where)
            else:
                host, _, port = where.rpartition(":")
                stream = await anyio.connect_tcp(host, int(port))
        except OSError:
            await anyio.sleep(0.05)
        else:
            await stream.aclose()
            return


def _listen(port: int) -> socket.socket | None:
    """Return the node's end of the registry, which has the registry's own address."""
    return socket.create_server(("127.0.0.1", port), backlog=64) if port else None


def _call(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_COMMAND_LIMIT)
    if done.returncode != 0:
        raise OSError(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stderr.strip()}")


def _furnish(node: Node) -> None:
    socket.sethostname(NAME)
    folder = Path(node.folder)
    for name in ("run/slipway", "run/slipway-built", "run/cni", "log", "kubelet"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("kubelet", "cni"):
        (folder / "places" / name).mkdir(parents=True, exist_ok=True)
    others = foreign(
        Path("/proc/self/mountinfo").read_text(encoding="utf-8"),
        (node.folder, node.built, node.cni, sys.prefix, sys.base_prefix, __file__),
    )
    if others:
        _call("umount", "--lazy", *others)
    tunables = [name for name in TUNABLES if Path("/proc/sys", name).exists()]
    for name in tunables:
        file = folder / "tunables" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(Path("/proc/sys", name).read_bytes())
    for arguments in mounts(node, tunables):
        _call("mount", *arguments)
    _call("ip", "link", "set", "lo", "up")
    _call("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    # The kernel wants a way to an address before iptables may translate it.
    _call("ip", "route", "add", SERVICES, "dev", "lo", "src", ADDRESS)
    # kube-proxy changes one table after the other: for a moment a Service that comes to have pods
    # is neither refused nor translated. What passed then would be remembered as not to be
    # translated, for that connection and for whichever has its port in the next two minutes. What
    # is dropped here is forgotten, and sent again a second later.
    untranslated = f"--table mangle --append POSTROUTING --destination {SERVICES} --jump DROP"
    _call("iptables", *untranslated.split())
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


def main() -> int:
    """Be the first process of the node that the arguments name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = Path(sys.argv[1])
    api, link = (socket.socket(fileno=int(word)) for word in sys.argv[2:4])
    # Nobody else may inherit them: a connection would stay open after its end.
    for held in (api, link):
        held.set_inheritable(False)
    node = Node.from_json((folder / "node.json").read_text(encoding="utf-8"))
    _furnish(node)
    anyio.run(Supervisor(node, state_files(Path(STATE))).run, api, link)
    return 0


if __name__ == "__main__":
    sys.exit(main())
