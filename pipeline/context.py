"""What a run works with, found before its first step; and the engine, connected when needed.

``prepare`` finds everything that could be missing, so that a run fails before it does anything or
not for such a reason. The engine is connected on first need, once: a run in which everything is
cached never does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import platform
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
from anyio import to_thread

from pipeline import cache, connect, credentials, images, log, registry, relay, source, trust
from pipeline.config import DEFAULT_REGISTRY
from pipeline.errors import PipelineError, PrerequisiteError, StepError, UsageError
from pipeline.setup import registry as standin_registry
from pipeline.setup.bases import resolve_bases
from pipeline.setup.docker import Docker, DockerUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from types import TracebackType

    import dagger
    from anyio.abc import TaskStatus

    from pipeline.config import Settings
    from pipeline.connect import Engine
    from pipeline.images import Reference, Registry
    from pipeline.registry import Login
    from pipeline.setup.bases import Bases
    from pipeline.source import File, Source
    from pipeline.task import Image

_log = logging.getLogger(__name__)

IMAGES: Mapping[str, str] = {"api": "service", "nginx": "nginx"}
"""The build context of each image."""
VERIFY = "tests/verify"
"""The suite of the verify step."""

# How BuildKit tells which instruction failed, where, and what it cannot even begin.
_BASE = re.compile(r"^ ?> \[internal\] load metadata for (?P<name>.+?):?$", re.MULTILINE)
_INSTRUCTION = re.compile(r"^ ?> \[[^\]\n]+\] (?P<text>.+?):?$", re.MULTILINE)
_LINE = re.compile(r"^[^\s:]*Dockerfile:(?P<number>[0-9]+)$", re.MULTILINE)
_UNSOLVED = re.compile(r"^ERROR: failed to solve: (?P<why>.+?)\.?$", re.MULTILINE)

_HELPER_LIMIT = 30.0
"""Seconds for a program that keeps credentials."""

# What a step does is in these files; a change of theirs makes all earlier outcomes void.
_MAKERS = ("context.py", "relay.py", "images.py", "registry.py")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386"}


class ImageRegistry(Protocol):
    """What the steps ask a registry; `pipeline.registry.Client` in earnest."""

    async def ping(self) -> None:
        """Return when it answers."""

    async def digest(self, reference: Reference) -> str | None:
        """Return the digest of an image on it; None when it is not there."""

    async def size(self, reference: Reference, platform: str) -> int:
        """Return the unpacked size of an image on it, in bytes."""


@dataclass(frozen=True, slots=True)
class Socket:
    """The socket of this machine's Docker Engine, or why there is none."""

    path: Path | None
    why: str = ""


class Context:
    """One run.

    Attributes:
        settings: What was asked for.
        engine: What runs the steps.
        bases: The base images.
        source: The project's files.
        registry: Where images go.
        images: A client of it.
        login: Who we are to it; None when it is not told.
        platform: What is built for.
        tags: What the images are tagged with, at least one.
        socket: This machine's Docker socket.
        others: The digests of images that this run does not build, by name.
        records: What passed before.
        makers: The digest of the pipeline's own code that makes outcomes, and of the SDK.
        inputs: The digests of the content that the steps depend on, by name.
        pushed: What the push step has pushed, or confirmed, by name.
    """

    def __init__(  # noqa: PLR0913 - all that a run has, by name
        self,
        *,
        settings: Settings,
        engine: Engine,
        bases: Bases,
        source: Source,
        registry: Registry,
        images: ImageRegistry,
        elsewhere: Callable[[Registry], ImageRegistry],
        login: Login | None,
        socket: Socket,
        others: Mapping[str, str],
        records: cache.Records,
        makers: str,
        bundle: str,
        connection: Callable[[], Awaitable[dagger.Client]],
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.bases = bases
        self.source = source
        self.registry = registry
        self.images = images
        self._elsewhere = elsewhere
        self.login = login
        self.platform = settings.platform or this_platform()
        self.tags = tuple(dict.fromkeys((source.tag, *settings.tags)))
        self.socket = socket
        self.others = others
        self.records = records
        self.makers = makers
        self.inputs = inputs(source)
        self.pushed: dict[str, Image] = {}
        self._bundle = bundle
        self._ca: dagger.Secret | None = None
        self._connection = connection
        self._nonce = secrets.token_hex(8)

    @property
    def revision(self) -> str:
        """The commit; empty outside a git checkout."""
        return self.source.revision

    @property
    def tag(self) -> str:
        """The tag that names this run's images: the one from git, before those of the settings."""
        return self.tags[0]

    @property
    def nonce(self) -> str:
        """Something that no earlier run had: what has it in its definition is never cached."""
        return self._nonce

    def reference(self, name: str, tag: str) -> Reference:
        """Return where an image is pushed to under a tag."""
        return self.registry.reference(f"slipway-{name}", tag)

    def registry_of(self, reference: Reference) -> ImageRegistry:
        """Return a client of the registry that has an image."""
        if reference.host == self.registry.address:
            return self.images
        return self._elsewhere(reference.registry)

    async def client(self) -> dagger.Client:
        """Return a client of the engine, connected on the first call.

        Raises:
            PrerequisiteError: The engine does not answer; each call says so.
        """
        return await self._connection()

    def directory(
        self, client: dagger.Client, files: Iterable[File], below: str = ""
    ) -> dagger.Directory:
        """Return just these files as a folder of the engine.

        Args:
            client: Of the engine.
            files: What the folder has in it.
            below: A folder of the project that is to be the root; the files must be in it.
        """
        root = self.settings.root / below
        prefix = f"{below}/" if below else ""
        tops: dict[str, list[str]] = {}
        directory = client.directory()
        for file in files:
            path = file.path.removeprefix(prefix)
            top, slash, rest = path.partition("/")
            if slash:
                tops.setdefault(top, []).append(rest)
            else:
                directory = directory.with_file(path, client.host().file(str(root / path)))
        # Folder by folder, so that an engine does not look through .venv and its like.
        for top, paths in tops.items():
            include = [re.sub(r"([\\*?\[\]!])", r"\\\1", path) for path in paths]
            directory = directory.with_directory(
                top, client.host().directory(str(root / top), include=include)
            )
        return directory

    def base(self, client: dagger.Client, name: str) -> dagger.Container:
        """Return the base image of an image."""
        return self.pull(client, images.parse(self.bases.references[name]))

    def pull(self, client: dagger.Client, reference: Reference) -> dagger.Container:
        """Return an image from a registry, as whoever we are to it."""
        container = self._blank(client)
        if reference.host == self.registry.address:
            container = self.with_login(client, container)
        return container.from_(
            str(reference), registry_service=self.registry_service(client, reference.registry)
        )

    def with_login(self, client: dagger.Client, container: dagger.Container) -> dagger.Container:
        """Return the container with the password for the registry, when there is one."""
        if self.login is None:
            return container
        password = client.set_secret("registry-password", self.login.password)
        return container.with_registry_auth(self.registry.address, self.login.username, password)

    def registry_service(self, client: dagger.Client, registry: Registry) -> dagger.Service | None:
        """Return the registry as a service when only this machine reaches it, else None.

        An engine in a container of its own has another loopback interface.
        """
        if not registry.loopback:
            return None
        import dagger  # imported by the client already

        port = registry.effective_port
        return client.host().service([dagger.PortForward(backend=port, frontend=port)])

    def ca(self, client: dagger.Client) -> dagger.Secret | None:
        """Return the CA bundle for downloads, as the secret ``ca``; None when there is none."""
        if not self._bundle:
            return None
        if self._ca is None:
            self._ca = client.set_secret("ca", trust.fitting(self._bundle))
        return self._ca

    def build(self, client: dagger.Client, name: str, target: str) -> dagger.Container:
        """Return a target of an image's Dockerfile, which the engine builds when it is needed."""
        import dagger  # imported by the client already

        folder = IMAGES[name]
        context = self.directory(client, self.source.select(folder), folder)
        arguments = self.build_args(name, target)
        ca = self.ca(client)
        wanted = self.settings.platform
        return context.docker_build(
            target=target,
            build_args=[dagger.BuildArg(key, value) for key, value in arguments.items()],
            secrets=[ca] if ca is not None else [],
            platform=dagger.Platform(wanted) if wanted else None,
        )

    async def built(self, client: dagger.Client, name: str, target: str) -> dagger.Container:
        """Return a target of an image's Dockerfile, built.

        Raises:
            StepError: There is no Dockerfile, or it cannot be built: the instruction that failed,
                and its output.
        """
        import dagger  # imported by the client already

        file = f"{IMAGES[name]}/Dockerfile"
        if not self.source.select(file):
            raise StepError(
                f"There is no {file}",
                remedy="Bring it back (`git status` shows what became of it); if .gitignore has "
                "it, take it out there",
            )
        try:
            return await self.build(client, name, target).sync()
        except dagger.QueryError as error:
            unbuilt = _unbuilt(file, log.printable(str(error)))
            if unbuilt is None:
                raise
            raise unbuilt from error

    def build_args(self, name: str, target: str) -> dict[str, str]:
        """Return the build arguments of a target: what labels say is the runtime's alone."""
        arguments = {"BASE": self.bases.references[name]}
        if target == "runtime":
            arguments |= {
                "REVISION": self.source.revision,
                "VERSION": self.tag,
                "CREATED": self.source.created,
            }
        return arguments

    def _blank(self, client: dagger.Client) -> dagger.Container:
        wanted = self.settings.platform
        if not wanted:
            return client.container()
        import dagger  # imported by the client already

        return client.container(platform=dagger.Platform(wanted))


def inputs(found: Source) -> dict[str, str]:
    """Return the digests of the content that the steps depend on, by name."""
    return {
        **{name: source.digest(found.select(folder)) for name, folder in IMAGES.items()},
        "lint": source.digest(linted(found)),
        "verify": source.digest(found.select(VERIFY)),
    }


def linted(found: Source) -> tuple[File, ...]:
    """Return the files that the lint step looks at, or is configured by."""
    return found.select(
        "pyproject.toml",
        "uv.lock",
        ".hadolint.yaml",
        *IMAGES.values(),
        suffixes=(".py", ".pyi", "py.typed", "Dockerfile"),
    )


def this_platform() -> str:
    """Return this machine's platform, as images name it."""
    machine = platform.machine().lower()
    return f"linux/{_MACHINES.get(machine, machine)}"


@contextlib.asynccontextmanager
async def prepare(settings: Settings) -> AsyncIterator[Context]:
    """Yield the context of a run; the engine's session ends with it.

    Raises:
        UsageError: The settings do not go together with what there is.
        PrerequisiteError: The machine lacks something.
    """
    address = images.parse_registry(settings.registry)
    bundle = "" if settings.ca is None else trust.read(settings.ca)
    login = await _login(settings, address)
    client = registry.Client(address, login, ca=settings.ca)
    engine, found, _, bases, socket, _ = await _each(
        lambda: to_thread.run_sync(choose_engine, settings),
        lambda: to_thread.run_sync(_source, settings.root),
        # Before the bases: when the registry is down, those that it has are not what is missing.
        lambda: _reachable(settings, client),
        lambda: find_bases(settings),
        lambda: to_thread.run_sync(_docker_socket, settings.docker_host),
        lambda: to_thread.run_sync(trust.check, settings.ca),
    )
    others = await _others(settings, address, client, found.tag)
    home = cache.folder()
    async with _Lazy(
        lambda: connect.client(engine, settings, cache_dir=home / "engine")
    ) as connection:
        context = Context(
            settings=settings,
            engine=engine,
            bases=bases,
            source=found,
            registry=address,
            images=client,
            elsewhere=lambda other: registry.Client(other, ca=settings.ca),
            login=login,
            socket=socket,
            others=others,
            records=cache.Records(home / "steps"),
            makers=await to_thread.run_sync(_makers),
            bundle=bundle,
            connection=connection.get,
        )
        connection.connected = lambda version: _told(context, version)
        await to_thread.run_sync(relay.sweep)
        if await to_thread.run_sync(connect.left_behind, engine, home / "engine"):
            # The session removes it, and a run in which everything is cached would begin none.
            await connection.get()
        yield context


def _source(root: Path) -> Source:
    return source.read(root, built=tuple(IMAGES.values()))


def choose_engine(settings: Settings) -> Engine:
    """Return the engine, when it can build for the platform that was asked for. Blocks.

    Raises:
        UsageError: The environment names one only by half.
        PrerequisiteError: There is none, or it cannot.
    """
    engine = connect.choose(settings)
    here = this_platform()
    if engine.name == "embedded" and settings.platform not in ("", here):
        raise PrerequisiteError(
            f"The embedded engine cannot build for {settings.platform}: this machine runs {here}",
            remedy="Leave --platform out, or have a Dagger engine build it (--engine dagger)",
            evidence=f"The engine is {engine.name}, {engine.reason}",
        )
    return engine


async def find_bases(settings: Settings) -> Bases:
    """Return the base images: stand-ins from the default registry, where the other has none.

    Raises:
        PrerequisiteError: They cannot be had.
    """
    return await resolve_bases(settings, elsewhere=standin_registry.loopback(DEFAULT_REGISTRY))


def _told(context: Context, version: str) -> None:
    """Take over the version that the engine has told."""
    if context.engine.name == "dagger":
        context.engine = dataclasses.replace(context.engine, version=version.lstrip("v"))


class _Lazy:
    """A connection that is made on first need, by a task of its own, and ends with the block.

    A session has task groups within, which must be left by the task that entered them; the step
    that happens to be first is not there any more when the run ends.
    """

    def __init__(self, opened: Callable[[], Any]) -> None:
        self._open = opened
        self._lock = anyio.Lock()
        self._close = anyio.Event()
        self._client: dagger.Client | None = None
        self._failed: PipelineError | None = None
        self.connected: Callable[[str], None] = lambda _version: None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._close.set()
        try:
            return await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # The body's own error, which the group has wrapped.
            if error is not None and group.exceptions == (error,):
                return False
            raise

    async def get(self) -> dagger.Client:
        async with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._client is None:
                try:
                    self._client = await self._tasks.start(self._hold)
                except Exception as error:
                    self._failed = connect.translate("Connecting to the engine", error)
                    raise self._failed from error
            return self._client

    async def _hold(self, *, task_status: TaskStatus[dagger.Client]) -> None:
        told = False
        try:
            async with self._open() as client:
                self.connected(await client.version())
                told = True
                task_status.started(client)
                await self._close.wait()
        except Exception as error:
            if not told:
                raise
            # Steps that still need it have found out by themselves; those that do not, need not.
            _log.warning("the engine's session did not end well: %s", log.scrub(str(error)))


async def _each(*asked: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Ask side by side; return the answers in order, or raise the first error in that order.

    Errors of usage go before those of the machine.
    """
    answers: list[Any] = [None] * len(asked)
    errors: list[tuple[int, int, PipelineError]] = []

    async def ask(number: int, question: Callable[[], Awaitable[Any]]) -> None:
        try:
            answers[number] = await question()
        except PipelineError as error:
            errors.append((error.exit_code, number, error))

    async with anyio.create_task_group() as tasks:
        for number, question in enumerate(asked):
            tasks.start_soon(ask, number, question)
    if errors:
        raise min(errors, key=lambda entry: entry[:2])[2]
    return answers


async def _login(
    settings: Settings,
    address: Registry,
    *,
    find: Callable[[Settings, Registry], Login | None] = credentials.find,
    limit: float = _HELPER_LIMIT,
) -> Login | None:
    try:
        with anyio.fail_after(limit):
            return await to_thread.run_sync(find, settings, address, abandon_on_cancel=True)
    except TimeoutError as error:
        raise PrerequisiteError(
            f"Docker's credential store gave no answer within {limit:.0f} s",
            remedy="Unlock it, or set PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD",
        ) from error


def _unbuilt(file: str, text: str) -> StepError | None:
    """Return the error for a Dockerfile that could not be built; None when it is not its fault.

    Args:
        file: The Dockerfile.
        text: What the engine says; BuildKit's own words are in it.
    """
    evidence = text.partition("\n")[2].strip("\n")
    base = _BASE.search(text)
    if base is not None:
        return StepError(
            f"{file}: the base image {base['name']} cannot be had",
            remedy="See whether its registry is up, then run it again",
            evidence=evidence,
        )
    instruction = _INSTRUCTION.search(text)
    if instruction is not None:
        line = _LINE.search(text)
        place = f"{file}, line {line['number']}" if line is not None else file
        return StepError(f"{place}: `{instruction['text']}` failed", evidence=evidence)
    unsolved = _UNSOLVED.search(text)
    if unsolved is not None:
        return StepError(f"{file}: {unsolved['why']}", evidence=evidence)
    return None


async def _reachable(settings: Settings, client: registry.Client) -> None:
    if {"push", "verify"} & set(settings.steps):
        await client.ping()


def _docker_socket(host: str) -> Socket:
    path = host.removeprefix("unix://")
    if path == host:
        return Socket(None, f"the Docker Engine at {host} is not on a socket of this machine")
    try:
        Docker(host).ping(timeout=connect.PROBE_LIMIT)
    except DockerUnreachableError as error:
        return Socket(None, error.message)
    return Socket(Path(path))


async def _others(
    settings: Settings, address: Registry, client: ImageRegistry, tag: str
) -> dict[str, str]:
    """Return the digests of the images that verify needs and this run does not build."""
    found: dict[str, str] = {}
    if "verify" not in settings.steps:
        return found
    for name in IMAGES:
        if name in settings.images:
            continue
        reference = address.reference(f"slipway-{name}", tag)
        try:
            digest = await client.digest(reference)
        except StepError as error:
            raise PrerequisiteError(
                error.message, remedy=error.remedy, evidence=error.evidence
            ) from error
        if digest is None:
            raise UsageError(
                f"verify needs {reference}, which is not on the registry",
                remedy=f"Push it first (`python -m pipeline --image {name} push`), name the tag "
                "that it has with --tag, or leave --image out",
            )
        found[name] = digest
    return found


def _makers() -> str:
    import hashlib
    from importlib.metadata import version

    here = Path(__file__).parent
    whole = hashlib.sha256(version("dagger-io").encode())
    for path in sorted([*(here / name for name in _MAKERS), *(here / "steps").glob("*.py")]):
        whole.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return f"sha256:{whole.hexdigest()}"
