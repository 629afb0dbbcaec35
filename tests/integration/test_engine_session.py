"""A session as a program and on a real Docker Engine: how it begins, listens, and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import dagger
import httpx
import pytest

from pipeline.engine import __version__
from pipeline.engine.backend import Limits
from pipeline.engine.session import DEFAULT_HOST, serve

from .engines import LABEL, Program, leftovers, run, sh, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

    from .engines import Client

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

SCRIPT = Path(sys.executable).parent / "pipeline-engine"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Return an engine that runs as a program."""
    made = Program.start(tmp_path)
    yield made
    made.end()


async def until(condition: Callable[[], object], limit: float = 20) -> None:
    """Wait until something holds."""
    with anyio.fail_after(limit):
        while not condition():
            await anyio.sleep(0.05)


def cli(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the console script to its end."""
    return subprocess.run(
        [SCRIPT, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )


async def test_the_sdk_starts_the_console_script(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named as a command line of Dagger, it serves a program of the SDK."""
    for name in ("DAGGER_SESSION_PORT", "DAGGER_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("_EXPERIMENTAL_DAGGER_CLI_BIN", str(SCRIPT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    async with dagger.Connection() as dag:
        text = await dag.container().from_(image).with_exec(["echo", "hello"]).stdout()
        assert text == "hello\n"
        assert await dag.version() == f"v{__version__}"
    assert list((tmp_path / "slipway" / "engine" / "sessions").iterdir()) == []


def test_session_prints_one_line_and_ends_when_its_input_closes(tmp_path: Path) -> None:
    """The line is what an SDK reads; nothing else is printed, whatever flags it gives."""
    done = cli("session", "--label", "dagger.io/sdk.name:python", XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    row = json.loads(done.stdout)
    assert row.keys() == {"port", "session_token"}
    assert done.stdout.count("\n") == 1
    assert len(row["session_token"]) >= 32
    assert list((tmp_path / "slipway" / "engine" / "sessions").iterdir()) == []


def test_two_sessions_have_other_tokens_and_ports(tmp_path: Path) -> None:
    """Neither can be guessed from the one before."""
    rows = [json.loads(cli("session", XDG_CACHE_HOME=str(tmp_path)).stdout) for _ in "12"]
    assert rows[0]["session_token"] != rows[1]["session_token"]


@pytest.mark.parametrize(
    ("args", "code", "out", "err"),
    [
        (("version",), 0, f"pipeline-engine v{__version__}\n", ""),
        (("--help",), 0, "", "usage: pipeline-engine session | version\n"),
        ((), 0, "", "usage: pipeline-engine session | version\n"),
        (("query",), 2, "", "usage: pipeline-engine session | version\n"),
    ],
)
def test_the_console_script_has_two_commands(
    args: tuple[str, ...], code: int, out: str, err: str
) -> None:
    """Anything else is told what there is."""
    done = cli(*args)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_no_docker_engine_is_one_sentence_and_exit_3(tmp_path: Path) -> None:
    """It names where it was looked for."""
    done = cli("session", XDG_CACHE_HOME=str(tmp_path), DOCKER_HOST=f"unix://{tmp_path}/nothing")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"pipeline-engine: cannot connect to unix://{tmp_path}/nothing")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process listens, as the kernel writes them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)  # noqa: PTH115 - it names no path
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(words[1])
    return found


async def test_it_listens_on_the_loopback_interface_only(program: Program) -> None:
    """One port, on 127.0.0.1."""
    assert listening(program.process.pid) == {f"0100007F:{program.port:04X}"}


async def test_a_session_that_ends_at_work_leaves_nothing(
    program: Program, api: docker.APIClient, image: str
) -> None:
    """SIGTERM ends a command and a service within 10 s, without a traceback or a trace."""
    base = ("container", step("from", address=image))
    mount = step("withMountedTemp", path="/t")
    async with program.client() as client, anyio.create_task_group() as tg:

        async def work() -> None:
            service = (*base, step("asService", args=["sleep", "600"]), "start")
            await client.ask(*service)
            with pytest.raises(httpx.HTTPError):
                await client.ask(*base, mount, sh("sleep 600"), "stdout")

        tg.start_soon(work)
        mine = {"label": f"{LABEL}={program.id}"}
        await until(lambda: len(api.containers(filters=mine)) == 2)
        began = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        code = await anyio.to_thread.run_sync(program.process.wait, 20)
    assert time.monotonic() - began < 10
    assert code == 0
    assert leftovers(api, program.id) == []
    assert program.log.read_text() == ""


async def test_a_client_that_goes_away_takes_its_container_with_it(
    program: Program, api: docker.APIClient, image: str
) -> None:
    """Nothing of its request goes on, and the session does."""
    base = ("container", step("from", address=image))
    mine = {"label": f"{LABEL}={program.id}"}
    async with program.client() as client:
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.ask, *base, sh("sleep 600"), "stdout")
            await until(lambda: api.containers(filters=mine))
            tg.cancel_scope.cancel()
        await until(lambda: not api.containers(all=True, filters=mine))
        assert await client.ask(*base, run("echo", "on"), "stdout") == "on\n"


async def test_an_error_of_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    """Who serves a session in its own process gets its own errors, and nothing is left."""
    with pytest.raises(KeyError, match="own"):
        async with serve(cache_dir=tmp_path, limits=Limits()):
            raise KeyError("own")
    assert list((tmp_path / "sessions").iterdir()) == []


async def test_the_cache_folder_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default it lies where caches lie, readable by nobody else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", os.environ.get("DOCKER_HOST") or DEFAULT_HOST)
    async with serve():
        for name in ("blobs", "results", "sessions"):
            folder = tmp_path / "slipway" / "engine" / name
            assert folder.stat().st_mode & 0o077 == 0


async def test_a_relative_path_starts_where_the_client_runs(engine: Client, tmp_path: Path) -> None:
    """As a person who calls the pipeline would think."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "f").write_text("text")
    folder = step("directory", path="here")
    assert await engine.ask("host", folder, "entries") == ["f"]
    file = step("file", path="here/f")
    assert await engine.ask("host", file, "contents") == "text"
