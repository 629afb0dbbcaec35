"""The backend on a Docker Engine and BuildKit; the only module that imports ``docker``.

How images are kept: a command's filesystem is committed and at once described anew as an image
with the same layers and an empty configuration (``compose``), so that nothing of one command,
least of all its environment, can reach another or an image. Docker's classic image store takes
such a description without its layers when it has them already; the containerd image store does
not, and is refused on connecting.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.client
import io
import json
import logging
import math
import os
import posixpath
import shutil
import signal
import socket
import tarfile
import tempfile
import weakref
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import anyio
import docker
import docker.constants
import docker.errors
import docker.transport
import requests.exceptions
import urllib3.exceptions
from anyio import to_thread
from docker.utils import decode_json_header

from pipeline.engine.core.errors import BackendError, BackendGone, ExecFailed, NotFound

from . import ImageInfo, Limits, Login

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterator,
        Mapping,
        Sequence,
    )

    from pipeline.engine.core.tree import Tree

    from . import Attachment, BuildSpec, ContainerSpec

logger = logging.getLogger(__name__)
T = TypeVar("T")

LABEL = "io.slipway.session"
# Repository under which images that the cache needs are tagged, so that they are not dangling.
CACHE = "slipway-cache"
# What the tag of an image begins with that was not on the Docker Engine before this one pulled it.
_PULLED = "pulled-"
# Bytes kept of a command's output, each of stdout and stderr.
OUTPUT_LIMIT = 64 << 20
_CUT = b"\n[output cut: more than 64 MiB]\n"
# The driver that keeps bytes as they are: json-file puts U+FFFD for what is not UTF-8. It must not
# throw the beginning away when there is much.
_LOGS = {"Type": "local", "Config": {"max-size": "64g", "max-file": "1", "compress": "false"}}
_STOP_SECONDS = 5
_CHUNK = 1 << 21
_STDOUT, _STDERR = 1, 2
# Archives up to this size stay in memory.
_SPOOL = 8 << 20
# Seconds that pruning may wait for one answer: it removes many gigabytes at once.
_PRUNE_LIMIT = 600
# What a full disk says; it is this host's, and no sign that the Docker Engine is gone.
_FULL = {errno.ENOSPC, errno.EDQUOT}
# The environment variable by which a program that a killed session left is known.
_MARK = "SLIPWAY_SESSION"
_PLUGIN_FOLDERS = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def find_buildx() -> str | None:
    """Return the path of the buildx program, which also runs without the docker client."""
    for folder in _PLUGIN_FOLDERS:
        path = Path(folder).expanduser() / "docker-buildx"
        if os.access(path, os.X_OK):
            return str(path)
    return shutil.which("docker-buildx")


# How a connection to the Docker Engine breaks, at each of the layers that read from it.
_BROKEN = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    tarfile.TarError,
    OSError,
)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Translate what docker and requests raise, once, here."""
    try:
        yield
    except docker.errors.NotFound as e:
        msg = f"{doing}: {e.explanation or e}"
        raise NotFound(msg) from e
    except docker.errors.APIError as e:
        msg = f"{doing}: {e.explanation or e}"
        raise BackendError(msg) from e
    except _BROKEN as e:
        if isinstance(e, OSError) and e.errno in _FULL:
            msg = f"{doing}: {e.strerror} ({e.filename or 'on this host'}); make room and run again"
            raise BackendError(msg) from e
        msg = f"{doing}: the Docker Engine does not answer ({_short(e)})"
        raise BackendGone(msg) from e


def _timed_out(error: BaseException | None) -> bool:
    """Tell whether a call was given up because nothing came for too long."""
    return isinstance(error, TimeoutError | requests.exceptions.Timeout) or (
        isinstance(error, _BROKEN) and "timed out" in str(error).lower()
    )


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def _split(reference: str) -> tuple[str, str]:
    """Split a reference into repository and tag or digest, as docker-py wants them."""
    if "@" in reference:
        name, _, digest = reference.partition("@")
        head, colon, tag = name.rpartition(":")
        return (head if colon and "/" not in tag else name), digest
    head, colon, tag = reference.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return reference, "latest"


def _auth(login: Login | None) -> dict[str, str] | None:
    return {"username": login.username, "password": login.password} if login else None


class _Connection(docker.transport.unixconn.UnixHTTPConnection):
    """A connection that leaves no descriptor behind when nobody listens."""

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _Pool(docker.transport.unixconn.UnixHTTPConnectionPool):
    """Connections to one socket, all of which are known."""

    live: weakref.WeakSet[Any]

    def _new_conn(self) -> Any:
        limit: Any = self.timeout
        connection = _Connection(self.base_url, self.socket_path, limit)
        self.live.add(connection)
        return connection


class _Adapter(docker.transport.UnixHTTPAdapter):
    """The transport of docker-py, with an end for calls that the Docker Engine never answers.

    A thread that waits for an answer cannot be cancelled, and a process does not exit before its
    threads have. Shutting their sockets down wakes them.
    """

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002 - docker-py's own
        with self.pools.lock:
            pool = self.pools.get("")
            if pool is None:
                pool = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
                pool.live = weakref.WeakSet()
                self.pools[""] = pool
        return pool

    def abort(self) -> None:
        """Break every connection that is in use."""
        with self.pools.lock:
            pool = self.pools.get("")
        for connection in list(pool.live) if pool is not None else ():
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)


def _open(host: str, answer: float) -> docker.APIClient:
    limit: Any = answer  # docker-py's types want whole seconds; it does not
    # The version is settled below: asking for it is the first use of the transport.
    oldest = docker.constants.MINIMUM_DOCKER_API_VERSION
    api = docker.APIClient(base_url=host, version=oldest, timeout=limit, max_pool_size=64)
    # docker-py reads proxies and more from its configuration file; credentials come
    # from the client of the engine alone.
    api._auth_configs = docker.auth.AuthConfig({})  # type: ignore[attr-defined]
    if host.startswith("unix://"):
        api.mount("http+docker://", _Adapter(host.removeprefix("unix:"), limit, max_pool_size=64))
    try:
        api._version = api.version(api_version=False)["ApiVersion"]  # type: ignore[attr-defined]
    except BaseException:
        api.close()
        raise
    return api


class DockerBackend:
    """One session's use of a Docker Engine; ``connect`` makes one."""

    def __init__(
        self, api: docker.APIClient, host: str, session: str, folder: Path, limits: Limits
    ) -> None:
        self._api = api
        self._host = host
        self._session = session
        self._folder = folder
        self._limits = limits
        self._ends = math.inf
        self._scopes: set[anyio.CancelScope] = set()
        self._threads = anyio.CapacityLimiter(100)
        self._network: tuple[str, str] | None = None
        self._network_lock = anyio.Lock()
        self._images: dict[str, ImageInfo] = {}
        self._left = False
        self.platform = ""

    @classmethod
    async def connect(
        cls, host: str, session: str, folder: Path, limits: Limits | None = None
    ) -> DockerBackend:
        """Connect to a Docker Engine.

        Args:
            host: Its address, as in DOCKER_HOST.
            session: The label of everything that is made.
            folder: The session's folder, for what programs answer in files.
            limits: How long to wait; by default as ``Limits`` says.

        Raises:
            BackendError: It does not answer, or it cannot serve this engine.
        """
        limits = limits or Limits()
        with _translated(f"cannot connect to {host}"), anyio.fail_after(limits.answer):
            api = await to_thread.run_sync(_open, host, limits.answer, abandon_on_cancel=True)
            info = await to_thread.run_sync(api.info, abandon_on_cancel=True)
        status = {row[0]: row[1] for row in info.get("DriverStatus") or []}
        if "containerd" in status.get("driver-type", ""):
            msg = (
                "the Docker Engine uses the containerd image store, which the embedded engine "
                'cannot; set {"features": {"containerd-snapshotter": false}} in daemon.json, '
                "or use Dagger"
            )
            raise BackendError(msg)
        backend = cls(api, host, session, folder, limits)
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(
            info["Architecture"], info["Architecture"]
        )
        backend.platform = f"{info['OSType']}/{machine}"
        return backend

    # --- calling ----------------------------------------------------------------------------

    async def _call(self, doing: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Make one call that answers soon."""
        with _translated(doing):
            return await to_thread.run_sync(
                partial(call, *args, **kwargs), abandon_on_cancel=True, limiter=self._threads
            )

    async def _watched(
        self,
        doing: str,
        work: Awaitable[T],
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> T:
        """Do work that may take long, and fail when the Docker Engine dies meanwhile.

        What is done ``beside`` it ends with it.
        """
        result: list[T] = []
        gone: list[bool] = []

        async def pulse(scope: anyio.CancelScope) -> None:
            missed = 0
            while missed < self._limits.pulses:
                await anyio.sleep(self._limits.pulse)
                try:
                    with anyio.fail_after(self._limits.pulse_answer):
                        await self._call("ping", self._api.ping)
                    missed = 0
                except (TimeoutError, BackendError):
                    missed += 1
            gone.append(True)
            scope.cancel()

        with anyio.CancelScope() as scope:
            try:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(pulse, scope)
                    if beside is not None:
                        tg.start_soon(beside)
                    result.append(await work)
                    tg.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                only = group.exceptions
                if len(only) == 1:
                    raise only[0] from only[0].__cause__
                raise
        if gone:
            msg = f"{doing}: the Docker Engine stopped answering"
            raise BackendGone(msg)
        return result[0]

    @contextlib.contextmanager
    def _closing(self, limit: float = math.inf) -> Iterator[anyio.CancelScope]:
        """Do something that must be done, on cancellation too, until the session's end is due."""
        deadline = min(anyio.current_time() + limit, self._ends)
        with anyio.CancelScope(shield=True, deadline=deadline) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def hurry(self) -> float:
        """Begin the end of the session; return when it is due, whatever is still to be done."""
        self._ends = min(self._ends, anyio.current_time() + self._limits.close)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._ends)
        return self._ends

    async def _registry(self, doing: str, reference: str, call: Callable[[], T]) -> T:
        """Make a call in which the Docker Engine waits for a registry."""
        try:
            return await self._watched(doing, self._call(doing, call))
        except NotFound as e:
            raise BackendError(str(e)) from e
        except BackendGone as e:
            if _timed_out(e.__cause__):
                host = reference.partition("/")[0]
                msg = f"{doing}: the registry {host} made no progress for {self._limits.answer:g} s"
                raise BackendError(msg) from e
            raise

    @staticmethod
    def _stream(doing: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a progress stream; an error row is an error."""
        for row in rows:
            if "error" in row:
                msg = f"{doing}: {row['error'].strip()}"
                # The answer ends here. Read to its end, its connection can be used again; left
                # unread, nobody would close it.
                for _ in rows:
                    pass
                raise BackendError(msg)
            yield row

    # --- images -------------------------------------------------------------------------------

    async def inspect(self, image: str) -> ImageInfo | None:
        """See ``Backend``."""
        if image in self._images:
            return self._images[image]
        try:
            row = await self._call(f"image {image}", self._api.inspect_image, image)
        except NotFound:
            return None
        info = ImageInfo(
            id=row["Id"],
            layers=tuple(row["RootFS"].get("Layers") or ()),
            config=row.get("Config") or {},
            platform="/".join(
                part for part in (row["Os"], row["Architecture"], row.get("Variant")) if part
            ),
            created=row.get("Created") or "",
            size=row.get("Size") or 0,
        )
        if image == info.id:
            self._images[image] = info
        return info

    async def pull(self, reference: str, login: Login | None) -> ImageInfo:
        """See ``Backend``."""
        doing = f"cannot pull {reference}"
        name, version = _split(reference)
        if not version.startswith("sha256:"):
            look = partial(self._api.inspect_distribution, reference, auth_config=_auth(login))
            found = await self._registry(doing, reference, look)
            version = found["Descriptor"]["digest"]
        pinned = f"{name}@{version}"
        info = await self.inspect(pinned)
        if info is None:

            def pull() -> None:
                rows = self._api.pull(
                    name, tag=version, stream=True, decode=True, auth_config=_auth(login)
                )
                for _ in self._stream(doing, rows):
                    pass

            await self._registry(doing, reference, pull)
            info = await self.inspect(pinned)
            if info is not None:
                await self._keep(info.id, _PULLED)
        if info is None:
            msg = f"{doing}: the registry answered, but the image did not arrive"
            raise BackendError(msg)
        await self._keep(info.id)
        return info

    async def _keep(self, image: str, mark: str = "") -> None:
        """Tag an image, so that nobody takes it for garbage."""
        tag = mark + image.removeprefix("sha256:")[:32]
        await self._call(f"tag {image}", self._api.tag, image, CACHE, tag)

    async def compose(
        self,
        layers: Sequence[str],
        config: Mapping[str, Any],
        *,
        like: str,
        platform: str,
        created: str | None = None,
    ) -> str:
        """See ``Backend``."""
        system, architecture, *variant = platform.split("/")
        document: dict[str, Any] = {
            "architecture": architecture,
            "os": system,
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": list(layers)},
        }
        if variant:
            document["variant"] = variant[0]
        if created:
            document["created"] = created
        raw = json.dumps(document, sort_keys=True).encode()
        name = hashlib.sha256(raw).hexdigest()
        image = f"sha256:{name}"
        if await self.inspect(image) is not None:
            return image
        manifest = [
            {
                "Config": f"{name}.json",
                "RepoTags": [f"{CACHE}:{name[:32]}"],
                "Layers": [f"{n}/layer.tar" for n in range(len(layers))],
            }
        ]
        archive = _archive({f"{name}.json": raw, "manifest.json": json.dumps(manifest).encode()})
        doing = f"describe the layers of {like}"

        def load() -> None:
            rows = self._api.load_image(archive)  # type: ignore[no-untyped-call]
            for _ in self._stream(doing, rows):
                pass

        await self._call(doing, load)
        if await self.inspect(image) is None:
            msg = f"{doing}: the Docker Engine stored it under another name than {image}"
            raise BackendError(msg)
        return image

    async def scratch(self) -> str:
        """See ``Backend``."""
        return await self.compose((), {}, like="nothing", platform=self.platform)

    async def build(self, spec: BuildSpec) -> str:
        """See ``Backend``."""
        program = find_buildx()
        if program is None:
            msg = "cannot build: buildx is not installed; run `make setup`"
            raise BackendError(msg)
        iidfile = self._folder / f"iid-{os.urandom(6).hex()}"
        command = [program, "build", "--builder=default", "--progress=plain", "--provenance=false"]
        command += [f"--iidfile={iidfile}", f"--file={spec.context / spec.dockerfile}"]
        command += [f"--platform={spec.platform}"]
        command += [f"--target={spec.target}"] if spec.target else []
        for name, value in spec.args:
            command.append(f"--build-arg={name}={value}")
        for name, path in spec.secrets.items():
            command.append(f"--secret=id={name},src={path}")
        command += [f"--ssh=default={spec.ssh}"] if spec.ssh else []
        command.append(str(spec.context))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("BUILDX_", "DOCKER_"))}
        if "DOCKER_CONFIG" in os.environ:
            env["DOCKER_CONFIG"] = os.environ["DOCKER_CONFIG"]
        env["DOCKER_HOST"] = self._host
        env[_MARK] = self._session
        target = f"target {spec.target}" if spec.target else "the last stage"
        doing = f"cannot build {target} of {spec.dockerfile}"
        code, output = await self._watched(doing, self._program(command, env))
        if code:
            msg = f"{doing}\n{_build_failure(output)}"
            raise BackendError(msg)
        image = iidfile.read_text().strip()
        iidfile.unlink()
        await self._keep(image)
        return image

    async def _program(self, command: list[str], env: Mapping[str, str]) -> tuple[int, str]:
        """Run a program of this host; return its exit code and output. Ends with the scope."""
        chunks: list[bytes] = []
        async with await anyio.open_process(
            command, env=env, stdin=-3, stdout=-3, stderr=-1, start_new_session=True
        ) as process:
            try:
                stream = process.stderr
                if stream is not None:
                    chunks = [chunk async for chunk in stream]
                code = await process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                with anyio.move_on_after(_STOP_SECONDS, shield=True) as scope:
                    await process.wait()
                if scope.cancelled_caught:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                raise
        return code, b"".join(chunks).decode(errors="replace")

    async def push(self, image: str, reference: str, login: Login | None) -> str:
        """See ``Backend``."""
        doing = f"cannot push {reference}"
        name, tag = _split(reference)
        # Docker pushes what has the name here. Whoever had it before gets it back.
        before = await self.inspect(reference)
        await self._call(doing, self._api.tag, image, name, tag, force=True)

        def push() -> str:
            rows = self._api.push(
                name, tag=tag, stream=True, decode=True, auth_config=_auth(login) or {}
            )
            digest = ""
            for row in self._stream(doing, rows):
                digest = (row.get("aux") or {}).get("Digest") or digest
            return digest

        try:
            digest = await self._registry(doing, reference, push)
        finally:
            with self._closing(self._limits.answer), contextlib.suppress(BackendError, NotFound):
                if before is None:
                    own = f"{name}:{tag}"
                    await self._call(doing, self._api.remove_image, own, noprune=True)
                else:
                    await self._call(doing, self._api.tag, before.id, name, tag, force=True)
        if not digest:
            msg = f"{doing}: the registry did not name a digest"
            raise BackendError(msg)
        return digest

    async def save(self, image: str, path: Path) -> None:
        """See ``Backend``."""
        doing = f"cannot write {path}"

        def save() -> None:
            temporary = path.with_name(f".{path.name}.part")
            try:
                with temporary.open("wb") as out:
                    # Docker is silent until it has everything together.
                    api: Any = self._api
                    url = api._url("/images/{0}/get", image)
                    answer = api._get(url, stream=True, timeout=None)
                    for chunk in api._stream_raw_result(answer, _CHUNK, decode=False):
                        out.write(chunk)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

        await self._watched(doing, self._call(doing, save))

    # --- containers ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def container(self, spec: ContainerSpec) -> AsyncIterator[DockerHandle]:
        """See ``Backend``."""
        body: dict[str, Any] = {
            "Image": spec.image,
            "Cmd": list(spec.command) or ["-"],
            "Env": [f"{name}={value}" for name, value in spec.env],
            "WorkingDir": spec.workdir,
            "User": spec.user,
            "Labels": {LABEL: self._session},
            "OpenStdin": spec.stdin is not None,
            "StdinOnce": spec.stdin is not None,
            "HostConfig": {
                "Mounts": [_mount(a) for a in spec.attachments],
                "ExtraHosts": [f"{name}:{address}" for name, address in spec.hosts],
                "NetworkMode": spec.network or "default",
                "Privileged": spec.privileged,
                "Init": spec.init,
                "LogConfig": _LOGS,
            },
        }
        name = f"slipway-{self._session}-{os.urandom(4).hex()}"
        try:
            # Named by us and removed by name, so that a call whose answer never came leaves
            # nothing either.
            row = await self._call(
                "cannot make a container", self._api.create_container_from_config, body, name
            )
            handle = DockerHandle(self, row["Id"], spec)
            try:
                yield handle
            finally:
                handle.hang_up()
        finally:
            await self._discard(
                f"container {name}", self._api.remove_container, name, force=True, v=True
            )

    async def _discard(
        self, what: str, remove: Callable[..., object], *args: Any, **kwargs: Any
    ) -> bool:
        """Remove something; what cannot be removed now is noted, for a sweep to find it.

        Returns:
            Whether it is gone.
        """
        why = "the Docker Engine does not answer in time"
        with self._closing(self._limits.answer):
            while True:
                try:
                    await self._call(f"cannot remove {what}", remove, *args, **kwargs)
                except NotFound:
                    return True
                except BackendError as e:
                    why = str(e)
                else:
                    return True
                if _UNDER_WAY not in why:
                    break
                # Somebody else's removal, or an earlier one of ours whose answer never came.
                await anyio.sleep(_REMOVAL_POLL)
        logger.warning("%s is left: %s", what, why)
        self._left = True
        return False

    @contextlib.asynccontextmanager
    async def volume(self) -> AsyncIterator[str]:
        """See ``Backend``."""
        doing = "cannot make a volume"
        own = f"slipway-{self._session}-{os.urandom(4).hex()}"
        try:
            await self._call(doing, self._api.create_volume, own, labels={LABEL: self._session})
            yield own
        finally:
            await self._discard(f"volume {own}", self._api.remove_volume, own, force=True)

    async def cache_volume(self, name: str) -> bool:
        """See ``Backend``."""
        doing = f"cannot make the volume {name}"
        try:
            await self._call(doing, self._api.inspect_volume, name)
        except NotFound:
            labels = {"io.slipway.cache": "volume"}
            await self._call(doing, self._api.create_volume, name, labels=labels)
            return True
        return False

    async def network(self) -> tuple[str, str]:
        """See ``Backend``."""
        async with self._network_lock:
            if self._network is None:
                name = f"slipway-{self._session}"
                doing = "cannot make a network"
                labels = {LABEL: self._session}
                await self._call(
                    doing, self._api.create_network, name, driver="bridge", labels=labels
                )
                row = await self._call(doing, self._api.inspect_network, name)
                self._network = name, row["IPAM"]["Config"][0]["Gateway"]
        return self._network

    async def close(self) -> None:
        """See ``Backend``."""
        try:
            if self._left or self._network is not None:
                self._left = True
                if await self.sweep(self._session):
                    self._left = False
        except BackendError as e:
            logger.warning("what this session made is left: %s", e)
        finally:
            adapter = self._api.adapters.get("http+docker://")
            if isinstance(adapter, _Adapter):
                adapter.abort()
            self._api.close()

    @property
    def left(self) -> bool:
        """Tell whether something of this session may still be there."""
        return self._left

    async def sweep(self, session: str) -> bool:
        """See ``Backend``."""
        api, mine = self._api, {"label": f"{LABEL}={session}"}
        doing = f"remove what session {session} left"
        await to_thread.run_sync(_end_programs, session)
        gone = []
        for row in await self._call(doing, api.containers, all=True, filters=mine):
            what = f"container {row['Names'][0] if row['Names'] else row['Id']}"
            remove = partial(api.remove_container, row["Id"], force=True, v=True)
            gone.append(await self._discard(what, remove))
        volumes = await self._call(doing, api.volumes, filters=mine)
        for row in volumes.get("Volumes") or []:
            remove = partial(api.remove_volume, row["Name"], force=True)
            gone.append(await self._discard(f"volume {row['Name']}", remove))
        for row in await self._call(doing, api.networks, filters=mine):
            remove = partial(api.remove_network, row["Id"])
            gone.append(await self._discard(f"network {row['Name']}", remove))
        # A command's filesystem that was kept, but not yet described anew (see ``commit``).
        for row in await self._call(doing, api.images, all=True, filters=mine):
            remove = partial(api.remove_image, row["Id"], force=True)
            gone.append(await self._discard(f"image {row['Id']}", remove))
        return all(gone)


# What Docker says when a folder would take the place of something else, or the other way round.
_COVERED = "cannot overwrite"
# What it says of a container that somebody is removing, and how often to look whether it is gone.
_UNDER_WAY, _REMOVAL_POLL = "already in progress", 0.1
# What it says when an image cannot have one more layer; overlayfs has a limit for them.
_TOO_DEEP = "max depth exceeded"


class DockerHandle:
    """A container on the Docker Engine; see ``Handle``."""

    def __init__(self, backend: DockerBackend, id_: str, spec: ContainerSpec) -> None:
        self.id = id_
        self._backend = backend
        self._api = backend._api
        self._spec = spec
        self._stdin: Any = None

    async def _call(self, doing: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self._backend._call(doing, call, *args, **kwargs)

    async def put(self, path: str, archive: IO[bytes]) -> None:
        """See ``Handle``."""
        doing = f"cannot write to {path}"
        try:
            await self._call(doing, self._unpack, path, archive)
        except BackendError as e:
            if path != "/" or _COVERED not in str(e):
                raise
            with await self._call(doing, self._past_links, archive) as moved:
                await self._call(doing, self._unpack, path, moved)

    def _unpack(self, path: str, archive: IO[bytes]) -> None:
        archive.seek(0)
        api: Any = self._api
        # Docker would put a folder in the place of a link to one, as of /bin on most systems.
        params = {"path": path, "noOverwriteDirNonDir": "1"}
        url = api._url("/containers/{0}/archive", self.id)
        api._raise_for_status(api._put(url, params=params, data=archive))

    def _past_links(self, archive: IO[bytes]) -> IO[bytes]:
        """Return an archive that has what the container's links lead to in their place."""
        archive.seek(0)
        out = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115 - the caller closes it
        real: dict[str, str] = {}
        absent: set[str] = set()
        with (
            tarfile.open(fileobj=archive, mode="r:") as source,
            tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target,
        ):
            for member in source:
                parent, _, name = member.name.rpartition("/")
                at = posixpath.join(real.get(parent, parent), name)
                if member.isdir():
                    link = None if parent in absent else self._link(f"/{at}")
                    if link is None:
                        absent.add(member.name)
                    real[member.name] = link or at
                    if link:
                        continue
                data = source.extractfile(member) if member.isreg() else None
                member.name = at
                member.pax_headers = {k: v for k, v in member.pax_headers.items() if k != "path"}
                target.addfile(member, data)
        return cast("IO[bytes]", out)

    def _link(self, path: str) -> str | None:
        """Return what a link leads to, without the root; nothing for a folder, None for neither."""
        api: Any = self._api
        url = api._url("/containers/{0}/archive", self.id)
        answer = api.head(url, params={"path": path}, timeout=self._backend._limits.answer)
        if answer.status_code == http.HTTPStatus.NOT_FOUND:
            return None
        api._raise_for_status(answer)
        stat = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
        return str(stat["linkTarget"]).strip("/")

    async def get(self, path: str, read: Callable[[IO[bytes], str], Tree]) -> Tree:
        """See ``Handle``."""

        def fetch(at: str) -> tuple[str, Tree | None]:
            api: Any = self._api
            url = api._url("/containers/{0}/archive", self.id)
            # Closed here: docker-py would leave the connection to the garbage collector.
            with contextlib.closing(api._get(url, params={"path": at}, stream=True)) as answer:
                api._raise_for_status(answer)
                info = decode_json_header(answer.headers["X-Docker-Container-Path-Stat"])
                if info.get("linkTarget"):
                    return info["linkTarget"], None
                with contextlib.closing(_Reader(answer.iter_content(_CHUNK))) as reader:
                    tree = read(cast("IO[bytes]", reader), info["name"].strip("/"))
                    # What pads the archive; with it the connection can serve again.
                    reader.read()
                    return "", tree

        at = path
        for _hop in range(40):
            try:
                target, tree = await self._call(f"cannot read {path}", fetch, at)
            except NotFound as e:
                msg = f"{path}: no such file or directory"
                raise NotFound(msg) from e
            if tree is not None:
                return tree
            at = target
        msg = f"{path}: too many levels of symbolic links"
        raise NotFound(msg)

    async def start(self) -> None:
        """See ``Handle``."""
        if self._spec.stdin is not None:
            self._stdin = await self._call(
                "cannot attach", self._api.attach_socket, self.id, {"stdin": 1, "stream": 1}
            )
        try:
            await self._call("cannot start the command", self._api.start, self.id)
        except (BackendError, NotFound) as e:
            text = str(e)
            if isinstance(e, BackendGone):
                raise
            if "executable file not found" in text or "no such file or directory" in text:
                raise ExecFailed(self._spec.command, 127, "", text) from e
            if "permission denied" in text:
                raise ExecFailed(self._spec.command, 126, "", text) from e
            raise BackendError(text) from e

    def hang_up(self) -> None:
        """Close the connection to the command's input, which docker-py leaves open."""
        response = getattr(self._stdin, "_response", None)
        if response is not None:
            response.close()

    async def _feed(self) -> None:
        """Write the command's input, which it may read as late as it wants."""
        sock = self._stdin
        if sock is None:
            return
        raw = getattr(sock, "_sock", sock)

        def send() -> None:
            # A command that ends without reading its input breaks the pipe; that is its
            # right, as in a shell. Whether Docker is gone, the wait for the command tells.
            with contextlib.suppress(OSError):
                raw.settimeout(None)
                raw.sendall(self._spec.stdin or b"")
                raw.shutdown(socket.SHUT_WR)

        try:
            await self._call("cannot write to the command", send)
        finally:
            # Wakes the thread, which nothing else does when the command never reads.
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    async def wait(self) -> int:
        """See ``Handle``."""
        doing = "cannot wait for the command"
        # It may take as long as it wants; the pulse ends the wait when Docker is gone.
        wait = self._call(doing, self._api.wait, self.id, timeout=None)

        async def ended() -> int:
            answer = await wait
            return int(answer["StatusCode"])

        return await self._backend._watched(doing, ended(), self._feed)

    async def logs(self) -> tuple[bytes, bytes]:
        """See ``Handle``."""
        return await self._call("cannot read the output", self._output)

    def _output(self) -> tuple[bytes, bytes]:
        api: Any = self._api
        url = api._url("/containers/{0}/logs", self.id)
        answer = api._get(url, params={"stdout": 1, "stderr": 1}, stream=True)
        api._raise_for_status(answer)
        # Frames of a stream's number, three zeros, a length, and so many bytes; see "Stream
        # format" of the Docker Engine's API.
        parts, rest = {_STDOUT: bytearray(), _STDERR: bytearray()}, b""
        with contextlib.closing(answer):
            while chunk := answer.raw.read(_CHUNK):
                data, at = rest + chunk, 0
                while at + 8 <= len(data):
                    end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
                    if end > len(data):
                        break
                    part = parts[data[at]]
                    if len(part) <= OUTPUT_LIMIT:
                        part += data[at + 8 : end]
                    at = end
                rest = data[at:]
        return _limited(parts[_STDOUT]), _limited(parts[_STDERR])

    async def address(self) -> str:
        """See ``Handle``."""
        row = await self._call("cannot inspect", self._api.inspect_container, self.id)
        if not row["State"]["Running"]:
            return ""
        networks = row["NetworkSettings"]["Networks"].values()
        return next((n["IPAddress"] for n in networks if n.get("IPAddress")), "")

    async def commit(self) -> str:
        """See ``Handle``."""
        # Docker keeps the command's environment in what it makes, where a value may be secret, so
        # this passing image must go, whatever happens: once begun, it is carried through. It has
        # the session's label, for the next session to find when this process is killed here.
        backend, image = self._backend, ""
        doing = "cannot keep what the command wrote"
        try:
            with backend._closing():
                passing = await backend._watched(doing, self._call(doing, self._keep))
                info = await backend.inspect(passing)
                if info is None:
                    msg = f"{doing}: the image is not there"
                    raise BackendError(msg)
                image = await backend.compose(info.layers, {}, like=passing, platform=info.platform)
                await self._call(doing, self._api.remove_image, passing, noprune=True)
        finally:
            backend._left = backend._left or not image
        if not image:
            msg = f"{doing}: the session has ended"
            raise BackendGone(msg)
        return image

    def _keep(self) -> str:
        conf = {
            "Env": [f"{name}=" for name, _ in self._spec.env],
            "Labels": {LABEL: self._backend._session},
        }
        api: Any = self._api
        params = {"container": self.id}
        # Docker is silent until it has read everything that the command wrote.
        answer = api._post_json(api._url("/commit"), data=conf, params=params, timeout=None)
        try:
            return str(api._result(answer, json=True)["Id"])
        except docker.errors.APIError as e:
            if _TOO_DEEP not in str(e.explanation):
                raise
        # After some 120 commands in a chain: all layers become one.
        label = [f"LABEL {LABEL}={self._backend._session}"]
        row = json.loads(api.import_image_from_data(api.export(self.id), changes=label))
        return str(row["status"])

    async def stop(self, *, kill: bool = False) -> None:
        """See ``Handle``."""
        with contextlib.suppress(NotFound):
            if kill:
                await self._call("cannot stop", self._api.kill, self.id)
            else:
                await self._call("cannot stop", self._api.stop, self.id, timeout=_STOP_SECONDS)


def _limited(output: bytearray) -> bytes:
    if len(output) <= OUTPUT_LIMIT:
        return bytes(output)
    return bytes(output[:OUTPUT_LIMIT]) + _CUT


class _Reader(io.RawIOBase):
    """The chunks of an HTTP answer as a file that tarfile can read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, wanted = [self._rest], size - len(self._rest)
        while size < 0 or wanted > 0:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            wanted -= len(chunk)
        data = b"".join(parts)
        if size < 0:
            self._rest = b""
            return data
        self._rest = data[size:]
        return data[:size]

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self._chunks.close()  # type: ignore[attr-defined]
        super().close()


def _mount(attachment: Attachment) -> dict[str, Any]:
    row: dict[str, Any] = {
        "Type": attachment.kind,
        "Target": attachment.target,
        "ReadOnly": attachment.read_only,
    }
    if attachment.kind == "tmpfs":
        if attachment.size:
            row["TmpfsOptions"] = {"SizeBytes": attachment.size}
    else:
        row["Source"] = attachment.source
    if attachment.kind == "volume":
        row["VolumeOptions"] = {"NoCopy": True}
    return row


def _archive(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _build_failure(output: str) -> str:
    """Return what a person needs of BuildKit's plain progress: the instruction and its output."""
    lines = output.splitlines()
    rules = [n for n, line in enumerate(lines) if line.startswith("------")]
    if rules:
        return "\n".join(lines[rules[0] :])
    errors = [line for line in lines if "ERROR" in line or line.startswith("error")]
    return "\n".join(errors or lines[-20:])


def _end_programs(session: str) -> None:
    """Kill the programs of a session that is dead; its mark is in their environment."""
    mark = f"{_MARK}={session}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            # It is gone, or somebody else's.
            continue
        if marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(folder.name), signal.SIGKILL)


def remove_caches(host: str, sessions: Sequence[str]) -> tuple[int, int, int]:
    """Remove images and volumes that the engine keeps, and BuildKit's cache. Blocks.

    Args:
        host: The Docker Engine, as in DOCKER_HOST.
        sessions: Sessions that are dead, whose containers go as well.

    Returns:
        How many images and volumes went, and the bytes that the Docker Engine got back.
    """
    with _translated(f"cannot prune {host}"):
        api = docker.APIClient(base_url=host, version="auto", timeout=_PRUNE_LIMIT)
        with contextlib.closing(api):
            before = _disk_usage(api)
            for session in sessions:
                mine = {"label": f"{LABEL}={session}"}
                _end_programs(session)
                for row in api.containers(all=True, filters=mine):
                    _removed(api.remove_container, row["Id"], force=True, v=True)
                for row in api.volumes(filters=mine).get("Volumes") or []:
                    _removed(api.remove_volume, row["Name"], force=True)
                for row in api.networks(filters=mine):
                    _removed(api.remove_network, row["Id"])
                for row in api.images(all=True, filters=mine):
                    _removed(api.remove_image, row["Id"], force=True)
            images = sum(_forget(api, row["Id"]) for row in api.images(CACHE))
            volumes = 0
            for row in api.volumes(filters={"label": "io.slipway.cache=volume"})["Volumes"] or []:
                volumes += _removed(api.remove_volume, row["Name"], force=True)
            api.prune_builds(all=True)
            after = _disk_usage(api)
    return images, volumes, max(0, before - after)


def _forget(api: docker.APIClient, image: str) -> bool:
    """Remove the names that the engine gave an image, and itself where it has no other."""
    inspect: Callable[[str], dict[str, Any]] = api.inspect_image
    try:
        row = inspect(image)
    except docker.errors.NotFound:
        return False
    names = row.get("RepoTags") or []
    ours = [name for name in names if name.startswith(f"{CACHE}:")]
    if any(name.startswith(f"{CACHE}:{_PULLED}") for name in ours) and len(ours) == len(names):
        # By the digest that it was pulled by; nobody has given it a name since.
        ours += row.get("RepoDigests") or []
    removed = [_removed(api.remove_image, name) for name in ours]
    return all(removed)


def _removed(remove: Callable[..., object], name: str, **how: bool) -> bool:
    """Remove something, unless it is gone already or somebody else's container uses it."""
    try:
        remove(name, **how)
    except docker.errors.APIError as e:
        if e.status_code not in {404, 409}:
            raise
        return False
    return True


def _disk_usage(api: docker.APIClient) -> int:
    usage = api.df()
    volumes = sum(
        max(0, row.get("UsageData", {}).get("Size", 0)) for row in usage.get("Volumes") or []
    )
    builds = sum(row["Size"] for row in usage.get("BuildCache") or [] if not row.get("Shared"))
    return int((usage.get("LayersSize") or 0) + volumes + builds)
