"""Test, build and push on the embedded engine, to a registry of their own.

The project is a tiny one, with the targets and the places that the steps rely on. The registry is
a container without a volume: what is pushed is gone with it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import to_thread

from pipeline import cache, connect, images, log, source, steps
from pipeline.config import Settings
from pipeline.connect import Engine
from pipeline.context import Context, Socket
from pipeline.errors import StepError
from pipeline.registry import Client, Login
from pipeline.setup.bases import Bases

from .conftest import DOCKER_HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    import docker

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

USER, PASSWORD = "alice", "made-up-password"
# bcrypt, of the password above.
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuJgtjjEyKgAjLKfyMzQrXVWZG2QMxka."
JUNIT = '<testsuite name="s"><testcase classname="c" name="one">{}</testcase></testsuite>'
DOCKERFILE = """\
ARG BASE
FROM ${BASE} AS base
COPY content /content

FROM base AS test
COPY junit.xml code /
CMD ["sh", "-c", "mkdir /reports && cp /junit.xml /reports && exit $(cat /code)"]

FROM base AS runtime
ARG VERSION=""
LABEL org.opencontainers.image.version="${VERSION}"
"""


@pytest.fixture
def registry_image(api: docker.APIClient) -> str:
    """Return an image that is a registry: that of the registry that set-up started."""
    found = api.containers(all=True, filters={"label": "io.slipway.role=registry"})
    if not found:
        pytest.skip("no registry was set up on this machine (run `make setup`)")
    return str(found[0]["ImageID"])


@dataclass
class Registry:
    """A registry in a container, which a test may stop."""

    api: docker.APIClient
    container: str
    address: str

    def stop(self) -> None:
        """Stop it."""
        self.api.remove_container(self.container, force=True, v=True)


@pytest.fixture
def start(
    api: docker.APIClient, registry_image: str, tmp_path: Path
) -> Iterator[Callable[..., Registry]]:
    """Return what starts a registry on a port, with a password or without."""
    with contextlib.ExitStack() as stack:

        def started(port: int, *, password: bool = False) -> Registry:
            environment: dict[str, str] = {}
            binds: list[str] = []
            if password:
                file = tmp_path / "htpasswd"
                file.write_text(f"{HTPASSWD}\n", encoding="utf-8")
                file.chmod(0o644)
                binds = [f"{file}:/htpasswd:ro"]
                environment = {
                    "REGISTRY_AUTH": "htpasswd",
                    "REGISTRY_AUTH_HTPASSWD_REALM": "a test",
                    "REGISTRY_AUTH_HTPASSWD_PATH": "/htpasswd",
                }
            config: Any = api.create_host_config(
                port_bindings={5000: ("127.0.0.1", port)}, binds=binds
            )
            made = api.create_container(
                registry_image,
                environment=environment,
                host_config=config,
                ports=[5000],
                labels={"io.slipway.test": ""},
            )["Id"]
            registry = Registry(api, made, f"127.0.0.1:{port}")
            stack.callback(_gone, registry)
            api.start(made)
            return registry

        yield started


def _gone(registry: Registry) -> None:
    import docker.errors

    with contextlib.suppress(docker.errors.NotFound):
        registry.stop()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of two images."""
    root = tmp_path / "project"
    for folder in ("service", "nginx"):
        (root / folder).mkdir(parents=True)
        (root / folder / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
        (root / folder / "content").write_text(folder, encoding="utf-8")
        (root / folder / "junit.xml").write_text(JUNIT.format(""), encoding="utf-8")
        (root / folder / "code").write_text("0", encoding="utf-8")
    (root / ".gitignore").write_text("/reports/\n", encoding="utf-8")
    (root / "reports").mkdir()
    return root


@pytest.fixture
async def running(
    project: Path, image: str, tmp_path: Path
) -> AsyncIterator[Callable[..., Context]]:
    """Return what makes a run of the project; all of them share a session of the engine."""
    engine = Engine("embedded", "0", "a test")
    place = tmp_path / "cache/engine"
    settings = Settings(root=project, report_dir=project / "reports", docker_host=DOCKER_HOST)
    async with connect.client(engine, settings, cache_dir=place) as client:

        def run(registry: str, login: Login | None = None, **given: Any) -> Context:  # noqa: ANN401
            if login is not None:
                log.conceal(login.password)
            address = images.parse_registry(registry)

            async def connection() -> Any:  # noqa: ANN401 - a client
                return client

            return Context(
                settings=Settings(
                    root=project, report_dir=project / "reports", registry=registry, **given
                ),
                engine=engine,
                bases=Bases("debian", {"api": image, "nginx": image}, "a test"),
                source=source.read(project, {}),
                registry=address,
                images=Client(address, login),
                elsewhere=Client,
                login=login,
                socket=Socket(None, "a test"),
                others={},
                records=cache.Records(tmp_path / "cache/steps"),
                makers="",
                bundle="",
                connection=connection,
            )

        with log.remembering():
            yield run


async def answering(registry: Registry, login: Login | None = None) -> None:
    """Wait until a registry answers."""
    client = Client(images.parse_registry(registry.address), login)
    with anyio.fail_after(20):
        while True:
            try:
                await client.ping()
            except Exception:  # noqa: BLE001 - whatever it is, it is not up
                await anyio.sleep(0.05)
            else:
                return


async def test_push_is_cached_while_the_registry_has_it(
    start: Callable[..., Registry], running: Callable[..., Context], free_port: int
) -> None:
    """And only then: a registry that was emptied gets the image again, the same one."""
    registry = start(free_port)
    await answering(registry)
    first = await steps.push(running(registry.address, tags=("v1", "latest")), "api")
    assert (first.state, first.image is not None) == ("passed", True)
    again = await steps.push(running(registry.address, tags=("v1", "latest")), "api")
    assert (again.state, again.image) == ("cached", first.image)
    await to_thread.run_sync(registry.stop)
    emptied = start(free_port)
    await answering(emptied)
    ctx = running(emptied.address, tags=("v1", "latest"))
    filled = await steps.push(ctx, "api")
    assert (filled.state, filled.image) == ("passed", first.image)
    assert first.image is not None
    for tag in ctx.tags:
        digest = await ctx.images.digest(ctx.reference("api", tag))
        assert digest == images.parse(first.image.reference).digest
    assert first.image.size_bytes > 10_000_000


async def test_password_opens_the_registry_and_is_nowhere(
    start: Callable[..., Registry],
    running: Callable[..., Context],
    free_port: int,
    tmp_path: Path,
) -> None:
    """The right one pushes, and is in no record, no report and no file of the cache."""
    registry = start(free_port, password=True)
    login = Login(USER, PASSWORD)
    await answering(registry, login)
    ctx = running(registry.address, login)
    outcome = await steps.push(ctx, "nginx")
    assert outcome.state == "passed"
    assert (await steps.push(running(registry.address, login), "nginx")).state == "cached"
    found = await to_thread.run_sync(_holding, tmp_path, PASSWORD.encode())
    assert found == []


def _holding(folder: Path, needle: bytes) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != "htpasswd" and needle in path.read_bytes()
    ]


@pytest.mark.parametrize("login", [None, Login(USER, "wrong-password")])
async def test_password_that_is_wrong_or_missing_is_told(
    start: Callable[..., Registry],
    running: Callable[..., Context],
    free_port: int,
    login: Login | None,
) -> None:
    """One sentence with the registry and the remedy; not the password."""
    registry = start(free_port, password=True)
    await answering(registry)
    with pytest.raises(StepError, match=registry.address) as caught:
        await steps.push(running(registry.address, login), "api")
    assert f"docker login {registry.address}" in caught.value.remedy
    assert "wrong-password" not in f"{caught.value}{caught.value.evidence}"


async def test_registry_that_goes_down_is_a_failed_step(
    start: Callable[..., Registry], running: Callable[..., Context], free_port: int
) -> None:
    """Within a limit, and with its name."""
    registry = start(free_port)
    await answering(registry)
    ctx = running(registry.address)
    await steps.build(ctx, "api")
    await to_thread.run_sync(registry.stop)
    began = time.monotonic()
    with pytest.raises(StepError, match=registry.address) as caught:
        await steps.push(ctx, "api")
    assert time.monotonic() - began < 60
    assert "up" in caught.value.remedy


async def test_reports_come_out_of_failing_tests(
    running: Callable[..., Context], project: Path
) -> None:
    """The JUnit file is there, and the sentence names the test."""
    (project / "service/code").write_text("3", encoding="utf-8")
    broken = JUNIT.format('<failure message="1 is not 2"/>')
    (project / "service/junit.xml").write_text(broken, encoding="utf-8")
    with pytest.raises(StepError, match="1 of 1 tests of api failed: c::one") as caught:
        await steps.test(running("127.0.0.1:1"), "api")
    (suite,) = caught.value.suites
    assert suite.read_text(encoding="utf-8") == broken
    passed = await steps.test(running("127.0.0.1:1"), "nginx")
    assert passed.state == "passed"
    assert (await steps.test(running("127.0.0.1:1"), "nginx")).state == "cached"


async def test_failing_instruction_is_told(running: Callable[..., Context], project: Path) -> None:
    """With what it printed; and a Dockerfile that is missing, by its name."""
    file = project / "service/Dockerfile"
    text = DOCKERFILE + "RUN echo because-of-this && exit 3\n"
    await to_thread.run_sync(lambda: file.write_text(text, encoding="utf-8"))
    sentence = r"service/Dockerfile, line 12: `RUN echo because-of-this && exit 3` failed"
    with pytest.raises(StepError, match=sentence) as caught:
        await steps.build(running("127.0.0.1:1"), "api")
    assert "exit 3" in caught.value.evidence
    assert "because-of-this" in caught.value.evidence
    await to_thread.run_sync(file.unlink)
    with pytest.raises(StepError, match="Dockerfile"):
        await steps.build(running("127.0.0.1:1"), "api")


async def test_engine_log_is_in_the_report_folder(
    running: Callable[..., Context], project: Path
) -> None:
    """What the engine has to say is not for the terminal."""
    await steps.build(running("127.0.0.1:1"), "api")
    assert await to_thread.run_sync((project / "reports/engine.log").exists)
