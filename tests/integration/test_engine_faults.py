"""What goes wrong around the engine: a full disk, a daemon that stops, a registry that stalls.

Each ends in an error within a limit, nothing is left, and it works again once that is repaired.
"""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from anyio import to_thread

from pipeline.engine.backend import Limits
from pipeline.engine.core.errors import EngineError
from pipeline.engine.prune import prune
from pipeline.engine.session import serve
from pipeline.engine.store import Store, dead_sessions

from .conftest import DOCKER_HOST
from .engines import (
    LABEL,
    TINY,
    Client,
    Program,
    Refused,
    leftovers,
    programs,
    run,
    sh,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import docker

    from .engines import Daemon

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.usefixtures("tidy")]

# The real ones are minutes; what is tested is that they hold.
SHORT = Limits(answer=2, pulse=0.3, pulse_answer=0.7, pulses=2, close=5)
CLOSE_LIMIT = 10


async def _until(condition: Callable[[], object], limit: float = 30) -> None:
    with anyio.fail_after(limit):
        while not await to_thread.run_sync(condition):
            await anyio.sleep(0.05)


def _tiny(extra: str = "") -> tuple[str, ...]:
    """Return a container of the second daemon's own image, which no registry has."""
    file = f"FROM {TINY}\n{extra}"
    return "directory", step("withNewFile", path="Dockerfile", contents=file), "dockerBuild"


def _running(api: docker.APIClient) -> list[Any]:
    return list(api.containers(filters={"label": LABEL}))


# --- a full disk ------------------------------------------------------------------------------


@contextmanager
def _disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    if os.geteuid():
        pytest.skip("to mount a small disk needs root")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "slipway-test", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_is_named_and_leaves_nothing(
    api: docker.APIClient, image: str, tmp_path: Path
) -> None:
    """Every way to write to the cache says which disk is full; with room it works again."""
    disk, big = tmp_path / "disk", 12 << 20
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "big").write_bytes(os.urandom(big))
    with _disk(disk, "6m"):
        cache = disk / "cache"
        async with (
            serve(cache_dir=cache, docker_host=DOCKER_HOST, cwd=tmp_path, limits=SHORT) as at,
            Client(at.port, at.token) as client,
        ):
            session = next((cache / "sessions").glob("[!.]*")).name
            base = ("container", step("from", address=image))
            wrote = (*base, sh(f"head -c {big} /dev/urandom > /big"))
            from_host = ("host", step("directory", path="host"), "digest")
            read = (*wrote, step("file", path="/big"), "size")
            text = step("withNewFile", path="/big", contents=secrets.token_hex(big // 2))
            for steps in (from_host, read, (*base, text, "sync")):
                with pytest.raises(Refused, match="No space left on device") as caught:
                    with anyio.fail_after(20):
                        await client.ask(*steps)
                assert str(cache) in str(caught.value)
                assert "does not answer" not in str(caught.value)
                written = [
                    f for f in cache.rglob("*") if f.is_file() and f.stat().st_size > 1 << 20
                ]
                assert written == []
            assert leftovers_of_commands(api, session) == []
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            assert await client.ask(*read) == big
            assert (await client.ask(*from_host)).startswith("sha256:")
        assert leftovers(api, session) == []


def leftovers_of_commands(api: docker.APIClient, session: str) -> list[str]:
    """Name what commands have left of a session that still runs."""
    return [f for f in leftovers(api, session) if f.startswith(("container", "volume", "image"))]


async def test_a_cache_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A session that cannot begin says why, in one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"cannot use the cache folder .*file.* Not a directory"):
        async with serve(cache_dir=tmp_path / "file" / "cache", docker_host=DOCKER_HOST):
            pass


# --- a daemon that stops ----------------------------------------------------------------------


_SCRIPT = """
import json, sys, time
import anyio
from pathlib import Path
from pipeline.engine.backend import Limits
from pipeline.engine.session import serve
from tests.integration.engines import Client, Refused

async def main():
    cache, host, limits, *queries = json.loads(sys.stdin.read())
    def say(*row):
        print(json.dumps([time.monotonic(), *row]), flush=True)
    async with serve(cache_dir=Path(cache), docker_host=host, limits=Limits(**limits)) as at:
        async with Client(at.port, at.token) as client, anyio.create_task_group() as tg:
            async def ask(steps):
                try:
                    say("answer", await client.ask(*steps))
                except Refused as error:
                    say("refused", str(error))
            for steps in queries:
                tg.start_soon(ask, steps)
    say("closed")

anyio.run(main)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
async def test_a_daemon_that_stops_ends_the_run_in_an_error(
    daemon: Daemon, tmp_path: Path, how: signal.Signals
) -> None:
    """Commands and builds are told soon, session and process end, the next one cleans up."""
    cache = tmp_path / "cache"
    limits = {"answer": 5, "pulse": 0.5, "pulse_answer": 1, "pulses": 2, "close": 4}
    queries = [
        (*_tiny(), run("sleep", "300"), "sync"),
        (*_tiny(), run("sleep", "301", stdin="x" * 1_000_000), "sync"),
        (*_tiny("RUN sleep 302\n"), "sync"),
    ]
    told = json.dumps([str(cache), daemon.host, limits, *queries])
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if process.stdin is not None:
        process.stdin.write(told)
        process.stdin.close()
        process.stdin = None
    with closing(daemon.client()) as api:

        def busy() -> bool:
            session = next((cache / "sessions").glob("[!.]*"), None)
            return len(_running(api)) == 2 and session is not None and bool(programs(session.name))

        await _until(busy)
    session = next((cache / "sessions").glob("[!.]*")).name
    await anyio.sleep(1)
    stopped = time.monotonic()
    if how == signal.SIGKILL:
        daemon.kill()
    else:
        daemon.signal(how)
    try:
        out, err = await to_thread.run_sync(lambda: process.communicate(timeout=40))
        ended = time.monotonic()
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row[1] for row in rows] == ["refused"] * 3 + ["closed"], (rows, err)
        for at, _, text in rows[:3]:
            assert at - stopped < (4 if how == signal.SIGKILL else 10), rows
            assert "Docker Engine" in text or "cannot build" in text, text
        closed = rows[3][0]
        assert closed - rows[2][0] < CLOSE_LIMIT, rows
        assert ended - closed < 3, "the process ends with the session"
        assert process.returncode == 0, err
        assert programs(session) == []
        with dead_sessions(Store(cache)) as dead:
            assert [f.name for f in dead] == [session], "the next session knows of this one"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        daemon.kill() if how == signal.SIGKILL else daemon.signal(signal.SIGCONT)
    if how == signal.SIGKILL:
        await to_thread.run_sync(daemon.start)
    async with (
        serve(cache_dir=cache, docker_host=daemon.host) as endpoint,
        Client(endpoint.port, endpoint.token) as client,
    ):
        with closing(daemon.client()) as api:
            assert leftovers(api, session) == []
        assert await client.ask(*_tiny(), sh("echo again"), "stdout") == "again\n"


# --- a registry that stalls ---------------------------------------------------------------------


class _Stalling:
    """A registry that goes silent: from the first byte on, or in the middle of an upload."""

    def __init__(self, *, polite: bool) -> None:
        self._polite = polite
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.uploads = 0
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self._held.append(connection)
            if self._polite:
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        received = b""
        while True:
            try:
                chunk = connection.recv(1 << 16)
            except OSError:
                return
            if not chunk or received.startswith(b"\x16\x03"):
                # The end, or an attempt to speak TLS, which ends when nobody does.
                connection.close()
                return
            received += chunk
            if received.startswith(b"\x16"):
                connection.close()
                return
            if b"\r\n\r\n" not in received:
                continue
            method = received.split(b" ")[0]
            received = b""
            if method == b"GET":
                answer = b"200 OK\r\nContent-Length: 2\r\n\r\n{}"
            elif method == b"HEAD":
                answer = b"404 Not Found\r\nContent-Length: 0\r\n\r\n"
            elif method == b"POST":
                where = f"http://{self.address}/v2/some/blobs/uploads/1".encode()
                answer = b"202 Accepted\r\nLocation: " + where + b"\r\nContent-Length: 0\r\n\r\n"
            else:
                # The blob itself: it is never taken.
                self.uploads += 1
                return
            connection.sendall(b"HTTP/1.1 " + answer)

    def close(self) -> None:
        """Let everybody go."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._held:
            connection.close()


@contextmanager
def _stalling(*, polite: bool) -> Iterator[_Stalling]:
    made = _Stalling(polite=polite)
    try:
        yield made
    finally:
        made.close()


async def test_a_registry_that_stalls_ends_pull_and_push_in_an_error(
    image: str, tmp_path: Path
) -> None:
    """Within the limit, and the error names the registry; the session goes on."""
    with _stalling(polite=False) as silent, _stalling(polite=True) as half:
        async with (
            serve(cache_dir=tmp_path / "cache", docker_host=DOCKER_HOST, limits=SHORT) as at,
            Client(at.port, at.token) as client,
        ):
            base = ("container", step("from", address=image))
            new = step("withNewFile", path="/new", contents=secrets.token_hex(8))
            await client.ask(*base, new, "sync")
            name = f"some/{secrets.token_hex(4)}:1"
            pull = ("container", step("from", address=f"{silent.address}/{name}"), "sync")
            push = (*base, new, step("publish", address=f"{silent.address}/{name}"))
            upload = (*base, new, step("publish", address=f"{half.address}/{name}"))
            for steps, address in (
                (pull, silent.address),
                (push, silent.address),
                (upload, half.address),
            ):
                began = time.monotonic()
                with pytest.raises(Refused) as caught:
                    await client.ask(*steps)
                assert time.monotonic() - began < 3 * SHORT.answer
                wanted = rf"the registry {re.escape(address)} made no progress for 2 s"
                assert re.search(wanted, str(caught.value)), caught.value
            assert half.uploads, "it stalled in the upload"
            assert await client.ask(*base, sh("echo on"), "stdout") == "on\n"


# --- Ctrl-C and SIGTERM -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_everything_within_ten_seconds(
    api: docker.APIClient, image: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Containers, services, builds, networks and folders are gone, and the process as well."""
    program = Program.start(tmp_path)
    nonce = secrets.token_hex(6)
    try:
        async with program.client() as client, anyio.create_task_group() as tg:
            base = (
                "container",
                step("from", address=image),
                step("withLabel", name="n", value=nonce),
            )

            async def ask(*steps: str) -> None:
                # It ends with the engine.
                with pytest.raises((Refused, httpx.TransportError)):
                    await client.ask(*steps)

            serving = step("asService", args=["sh", "-c", f"trap '' TERM; sleep 300 # {nonce}"])
            service = await client.ask(*base, serving, "id")
            bound = step("withServiceBinding", alias="it", service=service)
            file = f"FROM {image}\nRUN sleep 301 # {nonce}\n"
            folder = ("directory", step("withNewFile", path="Dockerfile", contents=file))
            source = await client.ask(*folder, "id")
            mounted = step("withMountedDirectory", path="/src", source=source)
            tg.start_soon(ask, *base, bound, mounted, run("sleep", f"300.{int(nonce, 16)}"), "sync")
            tg.start_soon(ask, *folder, "dockerBuild", "sync")

            def busy() -> bool:
                running = api.containers(filters={"label": f"{LABEL}={program.id}"})
                return len(running) == 2 and bool(programs(program.id))

            await _until(busy)
            program.process.send_signal(number)
            began = time.monotonic()
            await to_thread.run_sync(lambda: program.process.wait(CLOSE_LIMIT))
        assert time.monotonic() - began < CLOSE_LIMIT
        assert program.process.returncode == 0
        assert leftovers(api, program.id) == []
        assert list((tmp_path / "slipway/engine/sessions").iterdir()) == []
    finally:
        program.kill()


# --- prune --------------------------------------------------------------------------------------


class _Pulled:
    """A registry with one image of one layer, in the network of a second daemon."""

    def __init__(self, pid: int) -> None:
        layer = _layer()
        plain = hashlib.sha256(layer).hexdigest()
        config = {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
        }
        packed, described = gzip.compress(layer, 1), json.dumps(config).encode()
        docker = "application/vnd.docker"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{docker}.distribution.manifest.v2+json",
            "config": _blob(f"{docker}.container.image.v1+json", described),
            "layers": [_blob(f"{docker}.image.rootfs.diff.tar.gzip", packed)],
        }
        raw = json.dumps(manifest).encode()
        self._type = str(manifest["mediaType"])
        self._contents = {_name(part): part for part in (packed, described, raw)}
        self._manifest = raw
        self._listener = _listen_in(pid)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with ExitStack() as stack:
            while True:
                try:
                    connection = stack.enter_context(self._listener.accept()[0])
                except OSError:
                    return
                connection.settimeout(5)
                try:
                    self._answer(connection)
                except OSError:
                    continue
                finally:
                    connection.close()

    def _answer(self, connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = connection.recv(1 << 16)
            received += chunk
            if not chunk or received.startswith(b"\x16"):
                return
        method, target, _ = received.decode().split(" ", 2)
        last = target.rpartition("/")[2]
        body, kind = b"{}", "application/json"
        if "/manifests/" in target:
            body, kind = self._manifest, self._type
        elif "/blobs/" in target:
            body, kind = self._contents[last], "application/octet-stream"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        head += f"Docker-Content-Digest: {_name(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + (b"" if method == "HEAD" else body))

    def close(self) -> None:
        """Stop serving."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _name(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(data), "digest": _name(data)}


def _layer() -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("big")
        info.size = 3 << 20
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    return out.getvalue()


def _listen_in(pid: int) -> socket.socket:
    """Listen on the loopback interface of another process's network."""
    made: list[socket.socket] = []

    def listen() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{pid}/ns/net") as there:  # noqa: PTH123 - a descriptor is wanted
            if libc.setns(there.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.create_server(("127.0.0.1", 0)))

    # Its own thread, which alone is in that network; the socket stays there.
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    return made[0]


async def test_prune_gives_the_disk_back_and_leaves_what_is_not_the_engines(
    daemon: Daemon, tmp_path: Path
) -> None:
    """It says how much, refuses while a session runs, and spares what others have made."""
    cache = tmp_path / "cache"
    registry = _Pulled(daemon.pid)
    with closing(daemon.client()) as api:
        api.tag(TINY, "foreign/image", "1")
        for name in ("foreign", "slipway-registry"):
            api.create_volume(name)
        api.create_container(TINY, ["sleep", "300"], name="slipway-registry")
        try:
            async with (
                serve(cache_dir=cache, docker_host=daemon.host) as endpoint,
                Client(endpoint.port, endpoint.token) as client,
            ):
                volume = await client.ask(step("cacheVolume", key="big"), "id")
                mount = step("withMountedCache", path="/c", cache=volume)
                fill = sh("head -c 3000000 /dev/urandom > /big; cat /big > /c/big")
                assert await client.ask(*_tiny("RUN echo x > /x\n"), mount, fill, "sync")
                big = step("file", path="/big")
                assert await client.ask(*_tiny(), mount, fill, big, "size") == 3_000_000
                address = f"{registry.address}/some/where:1"
                pulled = ("container", step("from", address=address), step("file", path="/big"))
                assert await client.ask(*pulled, "size") == 3 << 20
                with pytest.raises(EngineError, match="a pipeline is running"):
                    await to_thread.run_sync(prune, cache, daemon.host)
            freed = await to_thread.run_sync(prune, cache, daemon.host)
        finally:
            registry.close()
        assert freed.folder_bytes > 6_000_000
        assert freed.docker_bytes > 9_000_000
        assert freed.images >= 3
        assert freed.volumes == 1
        tags = {tag for row in api.images() for tag in row["RepoTags"] or ["untagged"]}
        assert tags == {TINY, "foreign/image:1"}
        assert len(api.images(all=True)) == 1, "what was pulled is gone as well"
        volumes = {row["Name"] for row in api.volumes()["Volumes"]}
        assert volumes == {"foreign", "slipway-registry"}
        assert [row["Names"] for row in api.containers(all=True)] == [["/slipway-registry"]]
        assert not any(f.is_file() and f.stat().st_size for f in cache.rglob("*"))
        again = await to_thread.run_sync(prune, cache, daemon.host)
        assert (again.folder_bytes, again.images, again.volumes) == (0, 0, 0)
    async with (
        serve(cache_dir=cache, docker_host=daemon.host) as endpoint,
        Client(endpoint.port, endpoint.token) as client,
    ):
        assert await client.ask(*_tiny(), sh("echo cold"), "stdout") == "cold\n"
