"""The backend on a Docker Engine and BuildKit; the only module that imports ``docker``.

How images are kept: a command's filesystem is committed and at once described anew as an image
with the same layers and an empty configuration (``compose``), so that nothing of one command,
least of all its environment, can reach another or an image. Docker's classic image store takes
such a description without its layers when it has them already; the containerd image store does
not, and is refused on connecting.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import anyio
import docker
import docker.errors
import requests.exceptions
from anyio import to_thread

from pipeline.engine.core.errors import BackendError, BackendGone, ExecFailed, NotFound

from . import ImageInfo, Login

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from pipeline.engine.core.tree import Tree

    from . import Attachment, BuildSpec, ContainerSpec

logger = logging.getLogger(__name__)
T = TypeVar("T")

LABEL = "io.slipway.session"
# Repository under which images that the cache needs are tagged, so that they are not dangling.
CACHE = "slipway-cache"
# Seconds without an answer after which a call to the Docker Engine has failed. Answers to the
# calls that are made here take milliseconds; a busy disk has been seen to take seconds.
ANSWER_LIMIT = 60
# Seconds without any progress after which a registry counts as stalled.
STALL_LIMIT = 60
# How often a long wait asks whether the Docker Engine still lives, and how often in a row that
# may fail: an engine that hangs ends the run in about 45 s.
_PULSE_SECONDS, _PULSE_LIMIT, _PULSES = 5, 10, 3
# Bytes kept of a command's output, each of stdout and stderr.
OUTPUT_LIMIT = 64 << 20
_CUT = b"\n[output cut: more than 64 MiB]\n"
_STOP_SECONDS = 5
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
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as e:
        msg = f"{doing}: the Docker Engine does not answer ({_short(e)})"
        raise BackendGone(msg) from e


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


class DockerBackend:
    """One session's use of a Docker Engine; ``connect`` makes one."""

    def __init__(self, api: docker.APIClient, host: str, session: str, folder: Path) -> None:
        self._api = api
        self._host = host
        self._session = session
        self._folder = folder
        self._threads = anyio.CapacityLimiter(100)
        self._network: tuple[str, str] | None = None
        self._network_lock = anyio.Lock()
        self._images: dict[str, ImageInfo] = {}
        self._left = False
        self.platform = ""

    @classmethod
    async def connect(cls, host: str, session: str, folder: Path) -> DockerBackend:
        """Connect to a Docker Engine.

        Args:
            host: Its address, as in DOCKER_HOST.
            session: The label of everything that is made.
            folder: The session's folder, where running programs are noted.

        Raises:
            BackendError: It does not answer, or it cannot serve this engine.
        """

        def open_client() -> docker.APIClient:
            api = docker.APIClient(
                base_url=host, version="auto", timeout=ANSWER_LIMIT, num_pools=4, max_pool_size=64
            )
            # docker-py reads proxies and more from its configuration file; credentials come
            # from the client of the engine alone.
            api._auth_configs = docker.auth.AuthConfig({})  # type: ignore[attr-defined]
            return api

        with _translated(f"cannot connect to {host}"), anyio.fail_after(ANSWER_LIMIT):
            api = await to_thread.run_sync(open_client, abandon_on_cancel=True)
            info = await to_thread.run_sync(api.info, abandon_on_cancel=True)
        status = {row[0]: row[1] for row in info.get("DriverStatus") or []}
        if "containerd" in status.get("driver-type", ""):
            msg = (
                "the Docker Engine uses the containerd image store, which the embedded engine "
                'cannot; set {"features": {"containerd-snapshotter": false}} in daemon.json, '
                "or use Dagger"
            )
            raise BackendError(msg)
        backend = cls(api, host, session, folder)
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

    async def _watched(self, doing: str, work: Awaitable[T]) -> T:
        """Do work that may take long, and fail when the Docker Engine dies meanwhile."""
        result: list[T] = []
        gone: list[bool] = []

        async def pulse(scope: anyio.CancelScope) -> None:
            missed = 0
            while missed < _PULSES:
                await anyio.sleep(_PULSE_SECONDS)
                try:
                    with anyio.fail_after(_PULSE_LIMIT):
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

    def _stream(self, doing: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a progress stream; an error row is an error."""
        try:
            for row in rows:
                if "error" in row:
                    msg = f"{doing}: {row['error'].strip()}"
                    raise BackendError(msg)
                yield row
        except requests.exceptions.RequestException as e:
            if "timed out" in str(e).lower():
                msg = f"{doing}: the registry made no progress for {STALL_LIMIT} s"
                raise BackendError(msg) from e
            raise

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
            try:
                found = await self._call(
                    doing, self._api.inspect_distribution, reference, auth_config=_auth(login)
                )
            except NotFound as e:
                raise BackendError(str(e)) from e
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

            try:
                await self._watched(doing, self._call(doing, pull))
            except NotFound as e:
                raise BackendError(str(e)) from e
            info = await self.inspect(pinned)
        if info is None:
            msg = f"{doing}: the registry answered, but the image did not arrive"
            raise BackendError(msg)
        await self._keep(info.id)
        return info

    async def _keep(self, image: str) -> None:
        """Tag an image, so that nobody takes it for garbage."""
        tag = image.removeprefix("sha256:")[:32]
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
            note = self._folder / f"pid-{process.pid}"
            note.write_text(start_time(process.pid) or "")
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
            finally:
                note.unlink(missing_ok=True)
        return code, b"".join(chunks).decode(errors="replace")

    async def push(self, image: str, reference: str, login: Login | None) -> str:
        """See ``Backend``."""
        doing = f"cannot push {reference}"
        name, tag = _split(reference)
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
            digest = await self._watched(doing, self._call(doing, push))
        finally:
            with anyio.CancelScope(shield=True), contextlib.suppress(BackendError, NotFound):
                await self._call(doing, self._api.remove_image, f"{name}:{tag}", noprune=True)
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
                    for chunk in self._api.get_image(image):
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
                "LogConfig": {"Type": "json-file", "Config": {}},
            },
        }
        name = f"slipway-{self._session}-{os.urandom(4).hex()}"
        try:
            # Named by us and removed by name, so that a call whose answer never came leaves
            # nothing either.
            row = await self._call(
                "cannot make a container", self._api.create_container_from_config, body, name
            )
            yield DockerHandle(self, row["Id"], spec)
        finally:
            with anyio.move_on_after(ANSWER_LIMIT, shield=True):
                await self._discard(name)

    async def _discard(self, name: str) -> None:
        try:
            await self._call("remove", self._api.remove_container, name, force=True, v=True)
        except NotFound:
            pass
        except BackendError as e:
            # Nothing more can be done here; the next session's sweep will find it.
            logger.warning("container %s is left: %s", name, e)
            self._left = True

    @contextlib.asynccontextmanager
    async def volume(self) -> AsyncIterator[str]:
        """See ``Backend``."""
        doing = "cannot make a volume"
        own = f"slipway-{self._session}-{os.urandom(4).hex()}"
        try:
            await self._call(doing, self._api.create_volume, own, labels={LABEL: self._session})
            yield own
        finally:
            with anyio.move_on_after(ANSWER_LIMIT, shield=True):
                try:
                    await self._call("remove", self._api.remove_volume, own, force=True)
                except (BackendError, NotFound) as e:
                    logger.warning("volume %s is left: %s", own, e)
                    self._left = True

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
        if self._left or self._network is not None:
            await self.sweep(self._session)
        self._api.close()

    async def sweep(self, session: str) -> None:
        """See ``Backend``."""
        mine = {"label": f"{LABEL}={session}"}
        doing = f"remove what session {session} left"
        for row in await self._call(doing, self._api.containers, all=True, filters=mine):
            await self._discard(row["Id"])
        volumes = await self._call(doing, self._api.volumes, filters=mine)
        for row in volumes.get("Volumes") or []:
            with contextlib.suppress(NotFound):
                await self._call(doing, self._api.remove_volume, row["Name"], force=True)
        for row in await self._call(doing, self._api.networks, filters=mine):
            with contextlib.suppress(NotFound):
                await self._call(doing, self._api.remove_network, row["Id"])


class DockerHandle:
    """A container on the Docker Engine; see ``Handle``."""

    def __init__(self, backend: DockerBackend, id_: str, spec: ContainerSpec) -> None:
        self.id = id_
        self._backend = backend
        self._api = backend._api
        self._spec = spec

    async def _call(self, doing: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self._backend._call(doing, call, *args, **kwargs)

    async def put(self, path: str, archive: IO[bytes]) -> None:
        """See ``Handle``."""
        await self._call(f"cannot write to {path}", self._api.put_archive, self.id, path, archive)

    async def get(self, path: str, read: Callable[[IO[bytes], str], Tree]) -> Tree:
        """See ``Handle``."""

        def fetch(at: str) -> tuple[str, Tree | None]:
            chunks, info = self._api.get_archive(self.id, at)
            if info.get("linkTarget"):
                return info["linkTarget"], None
            with contextlib.closing(_Reader(chunks)) as reader:
                return "", read(cast("IO[bytes]", reader), info["name"].strip("/"))

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
        sock = None
        if self._spec.stdin is not None:
            sock = await self._call(
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
        if sock is not None:
            raw = getattr(sock, "_sock", sock)

            def send() -> None:
                # A command that ends without reading its input breaks the pipe; that is its
                # right, as in a shell.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    raw.sendall(self._spec.stdin or b"")
                    raw.shutdown(1)
                sock.close()

            await self._call("cannot write to the command", send)

    async def wait(self) -> int:
        """See ``Handle``."""
        doing = "cannot wait for the command"
        # A command may take as long as it wants; the pulse ends the wait when Docker is gone.
        wait = self._call(doing, self._api.wait, self.id, timeout=None)
        answer = await self._backend._watched(doing, wait)
        return int(answer["StatusCode"])

    async def logs(self) -> tuple[bytes, bytes]:
        """See ``Handle``."""

        def read(stream: str) -> bytes:
            out = bytearray()
            chunks = self._api.logs(
                self.id, stdout=stream == "stdout", stderr=stream == "stderr", stream=True,
                follow=False,
            )  # fmt: skip
            for chunk in chunks:
                out += chunk
                if len(out) > OUTPUT_LIMIT:
                    return bytes(out[:OUTPUT_LIMIT]) + _CUT
            return bytes(out)

        stdout = await self._call("cannot read the output", read, "stdout")
        return stdout, await self._call("cannot read the output", read, "stderr")

    async def address(self) -> str:
        """See ``Handle``."""
        row = await self._call("cannot inspect", self._api.inspect_container, self.id)
        if not row["State"]["Running"]:
            return ""
        networks = row["NetworkSettings"]["Networks"].values()
        return next((n["IPAddress"] for n in networks if n.get("IPAddress")), "")

    async def commit(self) -> str:
        """See ``Handle``."""
        backend = self._backend
        # Values of the environment may be secret: none reaches even this passing image.
        conf = {"Env": [f"{name}=" for name, _ in self._spec.env], "Labels": {LABEL: ""}}
        row = await self._call("cannot commit", self._api.commit, self.id, conf=conf)
        passing = row["Id"]
        info = await backend.inspect(passing)
        if info is None:
            msg = "cannot commit: the image is not there"
            raise BackendError(msg)
        image = await backend.compose(info.layers, {}, like=passing, platform=info.platform)
        await self._call("cannot remove", self._api.remove_image, passing, noprune=True)
        return image

    async def stop(self, *, kill: bool = False) -> None:
        """See ``Handle``."""
        with contextlib.suppress(NotFound):
            if kill:
                await self._call("cannot stop", self._api.kill, self.id)
            else:
                await self._call("cannot stop", self._api.stop, self.id, timeout=_STOP_SECONDS)


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


def start_time(pid: int) -> str | None:
    """Return when a process was started, in the kernel's own count; None when it is gone.

    A pid and its start time name a process for good (proc_pid_stat(5), field 22).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def remove_caches(host: str, sessions: Sequence[str]) -> tuple[int, int, int]:
    """Remove images and volumes that the engine keeps, and BuildKit's cache. Blocks.

    Args:
        host: The Docker Engine, as in DOCKER_HOST.
        sessions: Sessions that are dead, whose containers go as well.

    Returns:
        How many images and volumes went, and the bytes that the Docker Engine got back.
    """
    with _translated(f"cannot prune {host}"):
        api = docker.APIClient(base_url=host, version="auto", timeout=10 * ANSWER_LIMIT)
        with contextlib.closing(api):
            before = _disk_usage(api)
            for session in sessions:
                mine = {"label": f"{LABEL}={session}"}
                for row in api.containers(all=True, filters=mine):
                    api.remove_container(row["Id"], force=True, v=True)
                for row in api.volumes(filters=mine).get("Volumes") or []:
                    api.remove_volume(row["Name"], force=True)
                for row in api.networks(filters=mine):
                    api.remove_network(row["Id"])
            tags = [tag for row in api.images(CACHE) for tag in row["RepoTags"] or ()]
            for tag in tags:
                api.remove_image(tag)
            kept = {"label": "io.slipway.cache=volume"}
            volumes = api.volumes(filters=kept).get("Volumes") or []
            for row in volumes:
                api.remove_volume(row["Name"], force=True)
            api.prune_builds(all=True)
            after = _disk_usage(api)
    return len(tags), len(volumes), max(0, before - after)


def _disk_usage(api: docker.APIClient) -> int:
    usage = api.df()
    volumes = sum(
        max(0, row.get("UsageData", {}).get("Size", 0)) for row in usage.get("Volumes") or []
    )
    builds = sum(row["Size"] for row in usage.get("BuildCache") or [] if not row.get("Shared"))
    return int((usage.get("LayersSize") or 0) + volumes + builds)
