"""Secrets stay secret, the cache survives kills, and two engines do not disturb each other."""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import secrets
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio
import docker.errors
import httpx
import pytest
from anyio import to_thread

from pipeline.engine.backend import ContainerSpec
from pipeline.engine.backend.docker import DockerBackend
from pipeline.engine.session import serve
from pipeline.engine.store import Session, Store

from .conftest import DOCKER_HOST
from .engines import Client, Program, Refused, Word, holds, leftovers, run, sh, step, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.usefixtures("tidy")]

KILLS = 20
SEED = int(os.environ.get("ROBUSTNESS_SEED") or secrets.randbits(32))
# Seconds, for a machine that is busy; otherwise it takes about 65.
KILLS_LIMIT = 300


def _from(image: str) -> tuple[str, str]:
    return "container", step("from", address=image)


# --- secrets --------------------------------------------------------------------------------


class _Refusing(BaseHTTPRequestHandler):
    """A registry that refuses a password, and repeats it."""

    def do_GET(self) -> None:
        """Ask for a password, then say that it is wrong."""
        given = self.headers.get("Authorization", "").partition(" ")[2]
        text = base64.b64decode(given).decode()
        body = json.dumps({"errors": [{"code": "DENIED", "message": f"not {text}"}]}).encode()
        self.send_response(403 if given else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="here"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_POST = do_GET  # noqa: N815 - http.server's own names

    def log_message(self, *_: object) -> None:
        """Keep what it is asked out of the test's output."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """Return the address of a registry that repeats the password it refuses."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_secret_is_in_nothing_that_stays(
    api: docker.APIClient,
    image: str,
    refusing: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No image, layer, history, cache entry, log, exported file or error text has its value."""
    value = f"{secrets.token_hex(12)}-{secrets.token_urlsafe(12)}"
    needles = [value.encode(), base64.b64encode(value.encode())[:-4]]
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):  # the client's own, which does send the value
        caplog.set_level(logging.WARNING, name)
    before = {row["Id"] for row in api.images(all=True)}
    cache, out = tmp_path / "cache", tmp_path / "out"
    refused: list[str] = []
    answered: list[str] = []
    builds = step("withNewFile", path="Dockerfile", contents=_DOCKERFILE.format(image=image))
    async with (
        serve(cache_dir=cache, docker_host=DOCKER_HOST, cwd=tmp_path) as endpoint,
        Client(endpoint.port, endpoint.token) as client,
    ):
        secret = await client.ask(step("setSecret", name="token", plaintext=value), "id")
        mounted = step("withMountedSecret", path="/run/token", source=secret)
        secure = (
            *_from(image),
            step("withSecretVariable", name="TOKEN", secret=secret),
            mounted,
        )
        tell = f"echo {secrets.token_hex(4)} $TOKEN; cat /run/token /run/token >&2; env"

        async def refuse(*steps: str) -> None:
            with pytest.raises(Refused) as caught:
                await client.ask(*steps)
            refused.append(caught.value.text)

        answered.append(await client.ask(*secure, sh(tell), "stdout"))
        answered.append(await client.ask(*secure, sh(tell), "stderr"))
        await refuse(*secure, sh(f"{tell}; exit 3"), "stdout")
        await refuse(*secure, run("no-such-program"), "stdout")
        anyway = sh(f"{tell}; exit 3", expect=Word.ANY, redirectStdout="/said")
        said = (*secure, anyway, step("file", path="/said"))
        await client.ask(*said, step("export", path=str(out / "said")))
        answered.append(await client.ask(*said, "contents"))
        await client.ask(*secure, sh("true"), step("export", path=str(out / "image.tar")))
        service = (*secure, step("withExposedPort", port=9), step("asService", args=["env"]))
        await refuse(*service, "start", "id")
        for target in ("good", "bad"):
            build = step("dockerBuild", target=target, secrets=[secret])
            ask = ("directory", builds, build, "sync", "id")
            if target == "bad":
                await refuse("directory", builds, build, "sync")
            else:
                await client.ask(*ask[:-1])
        login = step("withRegistryAuth", address=refusing, username="me", secret=secret)
        await refuse("container", login, step("from", address=f"{refusing}/some/where"), "sync")
        await refuse(*_from(image), login, step("publish", address=f"{refusing}/some/where:1"))
        session = next((cache / "sessions").glob("[!.]*")).name
        assert all(len(text) > 4 for text in answered), answered
    told = "".join((*refused, *answered, caplog.text))
    assert "***" in told
    assert not any(needle.decode() in told for needle in needles), told
    assert not holds(cache, needles)
    assert not holds(out, needles)
    assert leftovers(api, session) == []
    made = {row["Id"] for row in api.images(all=True)} - before
    assert len(made) >= 4, "commands and builds were kept"
    for one in made:
        history = json.dumps([api.history(one), api.inspect_image(one)])
        assert not any(needle.decode() in history for needle in needles)
    assert not within(_saved(api, sorted(made)), needles)


_DOCKERFILE = """\
FROM {image} AS good
RUN --mount=type=secret,id=token cat /run/secrets/token; wc -c /run/secrets/token > /size
FROM {image} AS bad
RUN --mount=type=secret,id=token cat /run/secrets/token; cat /run/secrets/token >&2; exit 3
"""


def _saved(api: docker.APIClient, images: list[str]) -> Iterator[bytes]:
    """Return what ``docker image save`` writes of images: each layer once."""
    anything: Any = api
    answer = anything._get(
        anything._url("/images/get"), params={"names": images}, stream=True, timeout=120
    )
    answer.raise_for_status()
    with closing(answer):
        yield from answer.iter_content(1 << 20)


# --- kill -9 -----------------------------------------------------------------------------------


async def _pipeline(client: Client, image: str, nonce: str, secret: str) -> dict[str, str]:
    """Run commands, a build and a service side by side; return what they came to."""
    result: dict[str, str] = {}
    source = await client.ask("directory", step("withNewFile", path="in", contents=nonce), "id")

    async def commands() -> None:
        write = sh(f"echo {nonce} > /kept; cp /src/in /src/out")
        mounted = step("withMountedDirectory", path="/src", source=source)
        steps = (*_from(image), mounted, write, sh("cat /kept /src/out"))
        result["commands"] = await client.ask(*steps, "stdout")

    async def build() -> None:
        file = f"FROM {image}\nRUN echo {nonce} > /built\n"
        folder = ("directory", step("withNewFile", path="Dockerfile", contents=file))
        built = (*folder, "dockerBuild", step("file", path="/built"))
        result["build"] = await client.ask(*built, "contents")

    async def service() -> None:
        steps = (*_from(image), step("withEnvVariable", name="N", value=nonce))
        served = await client.ask(*steps, step("asService", args=["sleep", "60"]), "id")
        token = await client.ask(step("setSecret", name="token", plaintext=secret), "id")
        bound = step("withServiceBinding", alias="it", service=served)
        hidden = step("withSecretVariable", name="TOKEN", secret=token)
        # No exit code but the right one: the name resolves, and the secret is there.
        script = f'grep -q it /etc/hosts && test "$TOKEN" = {secret} && echo {nonce} $TOKEN'
        result["service"] = await client.ask(*_from(image), bound, hidden, sh(script), "stdout")

    async with anyio.create_task_group() as tg:
        for part in (commands, build, service):
            tg.start_soon(part)
    return result


def _expected(nonce: str) -> dict[str, str]:
    return {
        "commands": f"{nonce}\n{nonce}",
        "build": f"{nonce}\n",
        "service": f"{nonce} ***\n",
    }


async def _killed_after(
    program: Program, seconds: float, image: str, nonce: str, secret: str
) -> None:
    async def work(client: Client) -> None:
        # What a client is told whose engine is killed is of no interest here.
        with _unheard():
            await _pipeline(client, image, nonce, secret)

    async with program.client() as client, anyio.create_task_group() as tg:
        tg.start_soon(work, client)
        await anyio.sleep(seconds)
        program.kill()


@contextmanager
def _unheard() -> Iterator[None]:
    try:
        yield
    except* (httpx.HTTPError, Refused):
        pass


@pytest.fixture
async def programs() -> AsyncIterator[list[Program]]:
    """Return a list of engines that are ended after the test."""
    made: list[Program] = []
    try:
        yield made
    finally:
        for program in made:
            program.end()


async def test_the_cache_is_sound_after_kills_at_random_points(
    api: docker.APIClient, image: str, tmp_path: Path, programs: list[Program]
) -> None:
    """After each kill the same run has the right results, and what was left is gone."""
    print(f"ROBUSTNESS_SEED={SEED}")  # noqa: T201 - to run the same again
    points = random.Random(SEED)  # noqa: S311 - no secret
    secret = secrets.token_hex(16)
    began = time.monotonic()
    program = Program.start(tmp_path)
    programs.append(program)
    async with program.client() as client:
        nonce = secrets.token_hex(6)
        assert await _pipeline(client, image, nonce, secret) == _expected(nonce)
        before = time.monotonic()
        nonce = secrets.token_hex(6)
        await _pipeline(client, image, nonce, secret)
        usual = time.monotonic() - before
    for number in range(KILLS):
        nonce, after = secrets.token_hex(6), points.uniform(0, usual)
        where = f"ROBUSTNESS_SEED={SEED}, kill {number} after {after:.3f} s"
        await _killed_after(program, after, image, nonce, secret)
        dead = program.id
        program = Program.start(tmp_path)
        programs[:] = [program]
        assert leftovers(api, dead) == [], where
        kept = {f.name for f in (tmp_path / "slipway/engine/sessions").iterdir()}
        assert kept == {program.id}, where
        async with program.client() as client:
            assert await _pipeline(client, image, nonce, secret) == _expected(nonce), where
        assert time.monotonic() - began < KILLS_LIMIT, where
    last = program.id
    program.end()
    assert leftovers(api, last) == []
    assert not holds(tmp_path / "slipway", [secret.encode()])


async def test_what_a_kill_in_the_middle_of_a_commit_leaves_is_gone_after_the_next_start(
    api: docker.APIClient, image: str, tmp_path: Path
) -> None:
    """Docker writes a command's environment into what it commits: the next session removes it."""
    secret = secrets.token_hex(16)
    session = Session(Store(tmp_path))
    backend = await DockerBackend.connect(DOCKER_HOST, session.id, session.folder)
    base = (await backend.pull(image, None)).id
    async with backend.container(ContainerSpec(base, ("true",), (("TOKEN", secret),))) as handle:
        await handle.start()
        await handle.wait()
        passing = await to_thread.run_sync(handle._keep)
    # What the end of a process does, and no more.
    for file in (session._lock, session._using):
        file.close()
    await backend.close()
    assert within(_saved(api, [passing]), [secret.encode()]), "else there is nothing to remove"
    assert leftovers(api, session.id) == [f"image {passing}", str(session.private)]
    async with serve(cache_dir=tmp_path, docker_host=DOCKER_HOST):
        assert leftovers(api, session.id) == []
    with pytest.raises(docker.errors.ImageNotFound):
        api.inspect_image(passing)


# --- two at once ------------------------------------------------------------------------------


async def test_two_engines_at_once_do_not_disturb_each_other(
    api: docker.APIClient, image: str, tmp_path: Path, programs: list[Program]
) -> None:
    """The same work and different work, at the same time, from an empty cache."""
    programs += [Program.start(tmp_path), Program.start(tmp_path)]
    same, secret = secrets.token_hex(6), secrets.token_hex(16)
    results: list[tuple[str, dict[str, str]]] = []

    async def work(program: Program, nonce: str) -> None:
        async with program.client() as client:
            results.append((nonce, await _pipeline(client, image, nonce, secret)))

    async with anyio.create_task_group() as tg:
        for program in programs:
            for nonce in (same, secrets.token_hex(6)):
                tg.start_soon(work, program, nonce)
    assert len(results) == 4
    for nonce, result in results:
        assert result == _expected(nonce)
    first, second = programs
    first.end()
    async with second.client() as client:
        nonce = secrets.token_hex(6)
        assert await _pipeline(client, image, nonce, secret) == _expected(nonce)
    second.end()
    assert leftovers(api, first.id) + leftovers(api, second.id) == []


async def test_a_locked_cache_volume_excludes_other_processes(
    image: str, tmp_path: Path, programs: list[Program]
) -> None:
    """Commands of two engines that lock one volume never overlap; each sees the one before."""
    programs += [Program.start(tmp_path), Program.start(tmp_path)]
    key = f"robustness-{secrets.token_hex(6)}"
    script = "mkdir /c/busy && echo x >> /c/count && sleep 0.3 && rmdir /c/busy && wc -l < /c/count"
    counts: list[int] = []

    async def work(program: Program, number: int) -> None:
        async with program.client() as client:
            cache = await client.ask(step("cacheVolume", key=key), "id")
            mount = step("withMountedCache", path="/c", cache=cache, sharing=Word.LOCKED)
            own = sh(f"true {number}; {script}")
            counts.append(int(await client.ask(*_from(image), mount, own, "stdout")))

    async with anyio.create_task_group() as tg:
        for number in range(4):
            tg.start_soon(work, programs[number % 2], number)
    assert sorted(counts) == [1, 2, 3, 4]


@pytest.fixture
def address(api: docker.APIClient, registry: str) -> Iterator[str]:
    """Return a name in the registry; what is under it on the Docker Engine goes afterwards."""
    name = f"{registry}/robustness/{secrets.token_hex(6)}"
    yield f"{name}:latest"
    for row in api.images(name):
        for reference in (*(row["RepoTags"] or ()), *(row["RepoDigests"] or ())):
            if reference.startswith(name):
                api.remove_image(reference, force=True)


async def test_two_engines_push_to_one_name_without_mixing_it_up(
    image: str, address: str, tmp_path: Path, programs: list[Program]
) -> None:
    """What an engine says it has pushed is what it has pushed, whoever else uses the name."""
    programs += [Program.start(tmp_path), Program.start(tmp_path)]

    async def work(program: Program, name: str) -> None:
        async with program.client() as client:
            for number in range(3):
                text = f"{name} {number}"
                new = step("withNewFile", path="/who", contents=text)
                pushed = await client.ask(*_from(image), new, step("publish", address=address))
                found = await client.ask(*_from(pushed), step("file", path="/who"), "contents")
                assert found == text

    async with anyio.create_task_group() as tg:
        tg.start_soon(work, programs[0], "first")
        tg.start_soon(work, programs[1], "second")


async def test_a_push_gives_a_name_back_to_whom_it_belongs(
    api: docker.APIClient, engine: Client, image: str, address: str
) -> None:
    """A tag that is on the Docker Engine already is the same after a push to that name."""
    mine = api.inspect_image(image)["Id"]
    name, _, tag = address.rpartition(":")
    api.tag(image, name, tag)
    new = step("withNewFile", path="/other", contents="other")
    await engine.ask(*_from(image), new, step("publish", address=address))
    assert api.inspect_image(address)["Id"] == mine
