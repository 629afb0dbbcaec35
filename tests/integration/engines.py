"""What the robustness tests drive: a client, an engine in its own process, a second daemon."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

LABEL = "io.slipway.session"
MARK = "SLIPWAY_SESSION"
# Seconds in which an engine or a daemon must have started, on a busy machine too.
_START_LIMIT = 30
TINY = "slipway-test/tiny:1"


class Refused(Exception):
    """The engine answered with an error."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors[0]["message"])
        self.extensions: dict[str, Any] = errors[0].get("extensions") or {}
        self.text = json.dumps(errors, ensure_ascii=False)


class Word(Enum):
    """A word of GraphQL that is no string."""

    ANY = "ANY"
    LOCKED = "LOCKED"


def _literal(value: object) -> str:
    match value:
        case Word():
            return value.value
        case dict():
            return "{" + ", ".join(f"{k}: {_literal(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_literal(v) for v in value) + "]"
        case _:
            return json.dumps(value)


def step(field: str, **args: object) -> str:
    """Return one field of a query with its arguments."""
    if not args:
        return field
    return f"{field}({', '.join(f'{name}: {_literal(value)}' for name, value in args.items())})"


def run(*args: str, **more: object) -> str:
    """Return the field that runs a command."""
    return step("withExec", args=list(args), **more)


def sh(script: str, **more: object) -> str:
    """Return the field that runs a script."""
    return run("sh", "-c", script, **more)


class Client:
    """Asks one session of an engine."""

    def __init__(self, port: int, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", auth=(token, ""), timeout=120, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, *steps: str) -> Any:  # noqa: ANN401 - a field's value may be of any type
        """Ask for the value at the end of a chain of fields.

        Raises:
            Refused: The engine answered with an error.
        """
        query = "".join(f"{{{one}" for one in steps) + "}" * len(steps)
        answer = await self._http.post("/query", json={"query": query})
        body = answer.json()
        if body.get("errors"):
            raise Refused(body["errors"])
        value = body["data"]
        for one in steps:
            value = value[one.partition("(")[0]]
        return value


@dataclass
class Program:
    """An engine that runs as ``pipeline-engine session`` does."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    id: str
    log: Path

    @classmethod
    def start(cls, home: Path, docker_host: str = "") -> Program:
        """Start one whose cache lies in a folder; return when it answers."""
        env = {**os.environ, "XDG_CACHE_HOME": str(home)}
        if docker_host:
            env["DOCKER_HOST"] = docker_host
        log = home / f"engine-{time.monotonic_ns()}.log"
        command = "from pipeline.engine.session import main; main()"
        with log.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-c", command, "session"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                env=env,
            )
        if process.stdout is None or not select.select([process.stdout], [], [], _START_LIMIT)[0]:
            process.kill()
            process.wait()
            msg = "the engine did not start"
            raise TimeoutError(msg)
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise RuntimeError(log.read_text())
        row = json.loads(line)
        found = [f.name for f in _sessions(home).iterdir() if _pid_of(f) == process.pid]
        return cls(process, row["port"], row["session_token"], "".join(found), log)

    def client(self) -> Client:
        """Return a client of it."""
        return Client(self.port, self.token)

    def end(self, limit: float = 20) -> None:
        """Close its standard input, as an SDK does, and wait for its end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(limit)
        self.kill()

    def kill(self) -> None:
        """Kill it as a person does who has lost patience."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _sessions(home: Path) -> Path:
    return home / "slipway" / "engine" / "sessions"


def _pid_of(session: Path) -> int:
    """Return the process that holds a session's lock."""
    inode = (session / "lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] != "->" and words[5].rpartition(":")[2] == str(inode):
            return int(words[4])
    return 0


def leftovers(api: docker.APIClient, session: str) -> list[str]:
    """Name everything of a session that is on this machine."""
    mine = {"label": f"{LABEL}={session}"}
    found = [f"container {row['Id'][:12]}" for row in api.containers(all=True, filters=mine)]
    found += [f"volume {row['Name']}" for row in api.volumes(filters=mine)["Volumes"] or []]
    found += [f"network {row['Name']}" for row in api.networks(filters=mine)]
    found += [f"image {row['Id']}" for row in api.images(all=True, filters=mine)]
    found += [str(path) for path in Path("/dev/shm").glob(f"slipway-{session}-*")]  # noqa: S108
    found += [f"process {pid}" for pid in programs(session)]
    return found


def programs(session: str) -> list[int]:
    """Return the programs that a session has started."""
    mark = f"{MARK}={session}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def holds(folder: Path, needles: list[bytes]) -> list[str]:
    """Name the files under a folder that hold one of some byte strings, in contents or name."""
    found = []
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if any(needle in data or needle in os.fsencode(path) for needle in needles):
            found.append(str(path))
    return found


def within(stream: Iterator[bytes], needles: list[bytes]) -> bool:
    """Tell whether a stream holds one of some byte strings."""
    longest, rest = max(map(len, needles)), b""
    for chunk in stream:
        window = rest + chunk
        if any(needle in window for needle in needles):
            return True
        rest = window[-longest:]
    return False


class Daemon:
    """A Docker Engine of the test's own, with its own network, processes and mounts.

    In the network of this machine it would remove the bridge of the one that is there; without
    its own processes and mounts, those of one that was killed would stay.
    """

    def __init__(self, tiny: bytes) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slipway-dockerd-"))
        self.host = f"unix://{self.folder}/sock"
        (self.folder / "daemon.json").write_text("{}")
        self._log: IO[bytes] = (self.folder / "log").open("ab")
        self._outer: subprocess.Popen[bytes] | None = None
        self._tiny = tiny

    @property
    def pid(self) -> int:
        """The daemon's own process."""
        if self._outer is None:
            return 0
        outer = self._outer.pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def start(self) -> None:
        """Start it; return when it answers."""
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += [sys.executable, "-c", _WITH_LOOPBACK]
        command += ["dockerd", f"--host={self.host}", f"--config-file={self.folder}/daemon.json"]
        command += [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec"]
        command += [f"--pidfile={self.folder}/pid"]
        # What one that was killed has noted of its processes; these numbers are others' by now.
        (self.folder / "pid").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)
        self._outer = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        ends = time.monotonic() + _START_LIMIT
        while not self._answers():
            if time.monotonic() > ends or self._outer.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        with contextlib.closing(self.client()) as api:
            if not api.images(TINY):
                api.import_image_from_data(self._tiny, TINY.partition(":")[0], "1")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(self.host.removeprefix("unix://"))
            except OSError:
                return False
        return True

    def client(self) -> docker.APIClient:
        """Return a client of it."""
        import docker

        return docker.APIClient(base_url=self.host, version="auto", timeout=30)

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the daemon, and with it everything that it runs."""
        if self._outer is not None and self._outer.poll() is None:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(self.pid, signal.SIGKILL)
            self._outer.kill()
        if self._outer is not None:
            self._outer.wait()
            self._outer = None

    def close(self) -> None:
        """Kill it, and remove all that it kept."""
        self.kill()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


# Brings up the loopback interface of a new network, where a registry may listen (netdevice(7)).
_WITH_LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket() as probe:
    fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
os.execvp(sys.argv[1], sys.argv[1:])
"""

# Packs a shell, a few programs and what these are linked with.
TINY_SCRIPT = r"""
set -e
for name in sh sleep cat mkdir rm ls dd head touch stat wc ln readlink env; do
    echo /bin/$name /usr/bin/$name | tr " " "\n"
    ldd $(readlink -f $(command -v $name)) | grep -o '/[^ ]*'
done | sort -u > /list
tar -chf - -T /list 2>/dev/null
"""
