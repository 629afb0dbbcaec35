"""What a run works with, and the connection that it makes on first need."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from pipeline import context, images
from pipeline.config import Settings
from pipeline.context import Socket
from pipeline.errors import PipelineError, PrerequisiteError, StepError, UsageError
from pipeline.registry import Login

from .engine_fakes import DIGEST, FakeDagger, FakeRegistry, Node, lay_out, make_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import dagger

pytestmark = pytest.mark.anyio
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project."""
    return lay_out(tmp_path / "project")


def names(folder: Path) -> set[str]:
    """Return what is in a folder."""
    return {entry.name for entry in folder.iterdir()}


def node(value: object) -> Node:
    """Return what the fake client has made."""
    assert isinstance(value, Node)
    return value


# --- what it tells -------------------------------------------------------------------------------


def test_report_s_attributes_are_there(project: Path) -> None:
    """The report reads these."""
    ctx = make_context(project, FakeDagger())
    assert ctx.tag.startswith("content-")
    assert ctx.revision == ""
    assert ctx.platform == context.this_platform()
    assert set(ctx.inputs) == {"api", "nginx", "lint", "verify"}
    assert all(value.startswith("sha256:") for value in ctx.inputs.values())
    tagged = make_context(lay_out(project.parent / "b"), FakeDagger(), tags=("v1", "latest"))
    assert tagged.tag.startswith("content-")
    assert tagged.tags == (tagged.tag, "v1", "latest")


def test_lint_looks_at_code_and_not_at_prose(project: Path) -> None:
    """A change of the documentation lints nothing again."""
    ctx = make_context(project, FakeDagger())
    linted = {file.path for file in context.linted(ctx.source)}
    assert {"pipeline/a.py", "service/Dockerfile", "nginx/Dockerfile", "uv.lock"} <= linted
    assert "docs/index.md" not in linted


def test_platform_is_this_machine_s_unless_ordered(project: Path) -> None:
    """An engine is told only what was ordered."""
    assert context.this_platform().startswith("linux/")
    fake = FakeDagger()
    ctx = make_context(project, fake, platform="linux/arm64")
    assert ctx.platform == "linux/arm64"
    pulled = node(ctx.pull(fake.client, images.parse("docker.io/x:1")))
    assert pulled.chain[0].options == {"platform": "linux/arm64"}
    built = node(ctx.build(fake.client, "api", "test"))
    assert built.chain[-1].options["platform"] == "linux/arm64"


# --- what it makes of the client -----------------------------------------------------------------


def test_directory_has_just_these_files(project: Path) -> None:
    """Folder by folder, with what is special in a pattern escaped."""
    fake = FakeDagger()
    ctx = make_context(project, fake)
    made = node(ctx.directory(fake.client, ctx.source.select("service"), "service"))
    assert [c.args[0] for c in made.calls("with_file")] == ["Dockerfile", "app.py"]
    (inner,) = made.calls("with_directory")
    assert inner.args[0] == "slipway_api"
    (read,) = inner.args[1].calls("directory")
    assert read.args == (str(project / "service/slipway_api"),)
    assert read.options == {"include": [r"\[odd\].py"]}


def test_only_the_runtime_says_what_commit_it_is_of(project: Path) -> None:
    """The other targets are not built anew for every commit."""
    ctx = make_context(project, FakeDagger())
    assert set(ctx.build_args("api", "test")) == {"BASE"}
    assert ctx.build_args("api", "runtime")["VERSION"] == ctx.tag
    assert ctx.build_args("api", "runtime")["CREATED"] == "1970-01-01T00:00:00Z"


def test_ca_is_a_secret_of_builds_where_there_is_one(project: Path) -> None:
    """It is handed over once; without one there is no secret."""
    fake = FakeDagger()
    ctx = make_context(project, fake, bundle=PEM)
    built = node(ctx.build(fake.client, "api", "test"))
    (secret,) = built.chain[-1].options["secrets"]
    assert secret.chain[-1].args == ("ca", PEM)
    assert ctx.ca(fake.client) is secret
    bare = make_context(lay_out(project.parent / "b"), fake)
    assert node(bare.build(fake.client, "api", "test")).chain[-1].options["secrets"] == []


def test_login_is_for_the_registry_it_was_given_for(project: Path) -> None:
    """The password reaches the engine as a secret, and no other registry."""
    fake = FakeDagger()
    ctx = make_context(project, fake, login=Login("alice", "pw"))
    ours = node(ctx.pull(fake.client, images.parse("127.0.0.1:5050/x:1")))
    (auth,) = ours.calls("with_registry_auth")
    assert auth.args[:2] == ("127.0.0.1:5050", "alice")
    assert auth.args[2].chain[-1].name == "set_secret"
    other = node(ctx.pull(fake.client, images.parse("docker.io/library/x:1")))
    assert other.calls("with_registry_auth") == []


def test_registry_of_this_machine_is_a_service_of_its(project: Path) -> None:
    """An engine in a container has another loopback interface; other registries it reaches."""
    fake = FakeDagger()
    ctx = make_context(project, fake)
    pulled = node(ctx.pull(fake.client, images.parse("127.0.0.1:5050/x:1")))
    service = pulled.calls("from_")[0].options["registry_service"]
    (port,) = service.calls("service")[0].args[0]
    assert (port.backend, port.frontend) == (5050, 5050)
    base = node(ctx.base(fake.client, "api"))
    assert base.calls("from_")[0].options["registry_service"] is None


def test_another_registry_has_another_client(project: Path) -> None:
    """A base image may be elsewhere."""
    registry = FakeRegistry()
    ctx = make_context(project, FakeDagger(), registry=registry)
    assert cast("object", ctx.registry_of(images.parse("127.0.0.1:5050/x"))) is registry
    assert cast("object", ctx.registry_of(images.parse("docker.io/x"))) is not registry


# --- the connection ------------------------------------------------------------------------------


class Opening:
    """Opens connections, and tells how often, and whether they were closed."""

    def __init__(self, error: Exception | None = None, closing: Exception | None = None) -> None:
        self.opened = 0
        self.closed = 0
        self.error = error
        self.closing = closing

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[dagger.Client]:
        """Open one."""
        self.opened += 1
        if self.error is not None:
            raise self.error
        try:
            async with anyio.create_task_group():
                yield FakeDagger({"version": "v0.21.8"}).client
        finally:
            self.closed += 1
        if self.closing is not None:
            raise self.closing


async def test_run_that_needs_no_engine_connects_to_none() -> None:
    """A run in which everything is cached."""
    opening = Opening()
    async with context._Lazy(opening):  # noqa: SLF001 - what prepare makes of it needs a machine
        pass
    assert opening.opened == 0


async def test_all_steps_share_one_connection() -> None:
    """It is made once, also when several ask at the same time, and closed by who opened it."""
    opening = Opening()
    versions: list[str] = []
    clients: list[object] = []
    async with context._Lazy(opening) as connection:  # noqa: SLF001 - as above
        connection.connected = versions.append

        async def step() -> None:
            clients.append(await connection.get())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(step)
    assert (opening.opened, opening.closed) == (1, 1)
    assert len({id(client) for client in clients}) == 1
    assert versions == ["v0.21.8"]


async def test_engine_that_does_not_answer_is_asked_once() -> None:
    """Each step that needs it fails, with the same sentence."""
    opening = Opening(PrerequisiteError("no engine"))
    async with context._Lazy(opening) as connection:  # noqa: SLF001 - as above
        for _ in range(2):
            with pytest.raises(PrerequisiteError, match="no engine"):
                await connection.get()
    assert opening.opened == 1


async def test_error_of_the_run_comes_out_as_it_is() -> None:
    """In no group, and the connection is closed."""
    opening = Opening()

    async def run() -> None:
        async with context._Lazy(opening) as connection:  # noqa: SLF001 - as above
            await connection.get()
            raise StepError("the step")

    with pytest.raises(StepError, match="the step"):
        await run()
    assert opening.closed == 1


async def test_session_that_ends_badly_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The run has its outcome by then."""
    opening = Opening(closing=OSError("broken"))
    async with context._Lazy(opening) as connection:  # noqa: SLF001 - as above
        await connection.get()
    assert "did not end well" in caplog.text


async def test_cancelled_run_closes_the_connection() -> None:
    """Ctrl-C in the middle of a step."""
    opening = Opening()
    with anyio.CancelScope() as scope:
        async with context._Lazy(opening) as connection:  # noqa: SLF001 - as above
            await connection.get()
            scope.cancel()
            await anyio.sleep(1)
    assert opening.closed == 1


# --- before the first step -----------------------------------------------------------------------


async def test_first_error_in_order_is_told_and_usage_goes_first() -> None:
    """Whatever happens to be found out first."""

    async def fail(error: PipelineError, after: float) -> None:
        await anyio.sleep(after)
        raise error

    each = context._each  # noqa: SLF001 - what prepare asks with
    with pytest.raises(PrerequisiteError, match="first"):
        await each(
            lambda: fail(PrerequisiteError("first"), 0.02),
            lambda: fail(PrerequisiteError("second"), 0),
        )
    with pytest.raises(UsageError, match="usage"):
        await each(
            lambda: fail(PrerequisiteError("first"), 0), lambda: fail(UsageError("usage"), 0.02)
        )


async def test_image_that_is_not_built_is_taken_from_the_registry(project: Path) -> None:
    """By digest, under the same tag; and only verify needs it."""
    settings = Settings(root=project, images=("api",))
    address = images.parse_registry(settings.registry)
    others = context._others  # noqa: SLF001 - a part of prepare
    registry = cast("context.ImageRegistry", FakeRegistry())
    assert await others(settings, address, registry, "v1") == {"nginx": DIGEST}
    built = replace(settings, steps=("push",))
    assert await others(built, address, registry, "v1") == {}


async def test_image_that_is_not_there_is_an_error_of_usage(project: Path) -> None:
    """Found before the first step, with how to push it."""
    settings = Settings(root=project, images=("api",))
    address = images.parse_registry(settings.registry)
    registry = cast("context.ImageRegistry", FakeRegistry(default=None))
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:5050/slipway-nginx:v1") as caught:
        await context._others(settings, address, registry, "v1")  # noqa: SLF001 - a part of prepare
    assert "--image nginx push" in caught.value.remedy


async def test_registry_that_refuses_before_the_first_step_is_a_prerequisite(project: Path) -> None:
    """It is no failed step when none has run."""

    class Refusing(FakeRegistry):
        async def digest(self, reference: images.Reference) -> str | None:
            raise StepError(f"refuses {reference}", remedy="log in")

    settings = Settings(root=project, images=("api",))
    registry = cast("context.ImageRegistry", Refusing())
    address = images.parse_registry(settings.registry)
    with pytest.raises(PrerequisiteError, match="refuses") as caught:
        await context._others(settings, address, registry, "v1")  # noqa: SLF001 - a part of prepare
    assert caught.value.remedy == "log in"


def test_docker_socket_is_one_of_this_machine(tmp_path: Path) -> None:
    """A Docker Engine over TCP has no socket to give away; one that is down neither."""
    look = context._docker_socket  # noqa: SLF001 - a part of prepare
    assert look("tcp://10.0.0.1:2375") == Socket(
        None, "the Docker Engine at tcp://10.0.0.1:2375 is not on a socket of this machine"
    )
    found = look(f"unix://{tmp_path}/none.sock")
    assert found.path is None
    assert "there is no socket" in found.why


class _Machine(BaseHTTPRequestHandler):
    """Docker and a registry in one, as far as prepare asks."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Docker-Content-Digest", DIGEST)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"{}")

    do_HEAD = do_GET  # noqa: N815 - as the base class names it

    def address_string(self) -> str:
        return ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        """Say nothing."""


class _UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(cast("str", self.server_address))
        self.server_name, self.server_port = "docker", 0

    def get_request(self) -> tuple[Any, Any]:
        connection, _ = self.socket.accept()
        return connection, ("", 0)


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve a Docker Engine and a registry; yield their addresses."""
    path = folder / "docker.sock"
    servers = [
        _UnixServer(cast("Any", str(path)), _Machine),
        ThreadingHTTPServer(("127.0.0.1", 0), _Machine),
    ]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield f"unix://{path}", f"127.0.0.1:{servers[1].server_port}"
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a home of our own, in which the network was found dead a moment ago."""
    import time

    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "DOCKER_CONFIG", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("DAGGER_SESSION_PORT", "DAGGER_SESSION_TOKEN", "_EXPERIMENTAL_DAGGER_CLI_BIN"):
        monkeypatch.delenv(name, raising=False)
    state = tmp_path / "XDG_STATE_HOME/slipway"
    state.mkdir(parents=True)
    now = time.time()
    memories = {
        "trust.json": {"mark": "", "at": now, "for": 600},
        "dagger.json": {"host": "dl.dagger.io", "at": now, "why": "a test"},
    }
    for name, memory in memories.items():
        (state / name).write_text(json.dumps(memory), encoding="utf-8")


@pytest.mark.usefixtures("quiet")
async def test_prepare_finds_everything(project: Path, tmp_path: Path) -> None:
    """Engine, bases, registry, socket and the other image; and connects to nothing."""
    with machine(tmp_path) as (docker, address):
        settings = Settings(
            root=project,
            registry=address,
            docker_host=docker,
            images=("api",),
            bases="debian",
            engine="embedded",
            report_dir=project / "reports",
        )
        async with context.prepare(settings) as ctx:
            assert ctx.engine.name == "embedded"
            assert ctx.bases.references["api"].startswith(f"{address}/slipway-standin/python")
            assert ctx.socket.path == tmp_path / "docker.sock"
            assert ctx.others == {"nginx": DIGEST}
            assert ctx.makers.startswith("sha256:")
            assert ctx.login is None
    assert names(project / "reports") == set()


@pytest.mark.usefixtures("quiet")
async def test_prepare_refuses_before_anything_runs(project: Path, tmp_path: Path) -> None:
    """A registry that is down; a CA bundle that is none."""
    with machine(tmp_path) as (docker, address):
        settings = Settings(
            root=project, registry=address, docker_host=docker, bases="debian", engine="embedded"
        )
    with pytest.raises(PrerequisiteError) as down:
        async with context.prepare(settings):
            pass
    assert "No engine can be had" in down.value.message
    wrong = tmp_path / "ca.pem"
    wrong.write_text("none", encoding="utf-8")
    with pytest.raises(UsageError, match=r"ca\.pem"):
        async with context.prepare(replace(settings, ca=wrong)):
            pass


async def test_credential_helper_that_hangs_is_given_up(project: Path) -> None:
    """A locked key ring waits for somebody who is not there."""
    find = threading.Event()

    def hang(_settings: Settings, _registry: images.Registry) -> Login | None:
        find.wait(5)
        return None

    with pytest.raises(PrerequisiteError, match="gave no answer"):
        await context._login(  # noqa: SLF001 - a part of prepare
            Settings(root=project), images.parse_registry("r.example"), find=hang, limit=0.05
        )
    find.set()


def test_preparing_imports_neither_the_sdk_nor_the_engine() -> None:
    """1.2 s that a run in which everything is cached does not spend."""
    code = (
        "import sys, pipeline.context, pipeline.steps;"
        "print([m for m in ('dagger', 'httpx', 'docker', 'pipeline.engine.session')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
