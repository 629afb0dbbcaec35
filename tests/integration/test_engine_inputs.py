"""What a patient user throws at the engine: much of everything, strange names, odd commands."""

from __future__ import annotations

import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.engine.backend import Limits
from pipeline.engine.session import serve

from .conftest import DOCKER_HOST
from .engines import LABEL, Client, Refused, run, sh, step

if TYPE_CHECKING:
    import docker

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.usefixtures("tidy")]

MIB = 1 << 20


@pytest.fixture
def base(image: str) -> tuple[str, str]:
    """Return the beginning of a chain: a container with a shell and python3."""
    return "container", step("from", address=image)


# --- much ---------------------------------------------------------------------------------------


async def test_a_long_chain_works_in_parts_and_says_so_in_one(
    engine: Client, base: tuple[str, str]
) -> None:
    """What nests too deeply is refused with the remedy, and the remedy helps."""
    chain = [step("withEnvVariable", name=f"V{n}", value=str(n)) for n in range(500)]
    with pytest.raises(Refused, match=r"nested too deeply.* sync\(\) it half-way"):
        await engine.ask(*base, *chain, sh("env"), "stdout")
    at: tuple[str, ...] = base
    for first in range(0, 500, 100):
        id_ = await engine.ask(*at, *chain[first : first + 100], "sync")
        at = (step("loadContainerFromID", id=id_),)
    told = await engine.ask(*at, sh("echo $V0 $V499; env | grep -c ^V"), "stdout")
    assert told == "0 499\n500\n"


async def test_more_commands_in_a_chain_than_an_image_has_layers(
    engine: Client, api: docker.APIClient, base: tuple[str, str], image: str
) -> None:
    """Where Docker can add no layer, all become one, and nothing is lost."""
    await engine.ask(*base, "sync")
    most = 125 - len(api.inspect_image(image)["RootFS"]["Layers"])
    copies = "".join(f"COPY f /l{n}\n" for n in range(most - 1))
    nonce = secrets.token_hex(4)
    files = {"Dockerfile": f"FROM {image}\n{copies}", "f": "copied "}
    folder = [step("withNewFile", path=name, contents=text) for name, text in files.items()]
    commands = [sh(f"echo {nonce} {n} > /m{n}") for n in range(3)]
    last = sh("cat /l0 /m0 /m2; stat -c %a /tmp; command -v sh")
    told = await engine.ask("directory", *folder, "dockerBuild", *commands, last, "stdout")
    assert told.split() == ["copied", nonce, "0", nonce, "2", "1777", "/usr/bin/sh"]


async def test_ten_thousand_small_files_go_in_and_come_out(
    engine: Client, base: tuple[str, str], tmp_path: Path
) -> None:
    """All of them, within a minute on a busy machine."""
    source = tmp_path / "many"
    for number in range(10_000):
        folder = source / str(number % 100)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_text(str(number))
    with anyio.fail_after(60):
        host = ("host", step("directory", path=str(source)))
        placed = step("withDirectory", path="/m", source=await engine.ask(*host, "id"))
        copied = (*base, placed, sh("find /m -type f | wc -l"))
        assert await engine.ask(*copied, "stdout") == "10000\n"
        again = await engine.ask(*copied, step("directory", path="/m"), "digest")
        assert again == await engine.ask(*host, "digest")


async def test_output_beyond_the_limit_is_cut_and_says_so(
    engine: Client, base: tuple[str, str]
) -> None:
    """100 MB of output neither hang the engine nor fill its memory."""
    with anyio.fail_after(60):
        told = await engine.ask(*base, sh("head -c 100000000 /dev/zero | tr '\\0' x"), "stdout")
    assert len(told) < 65 * MIB
    assert told.startswith("xxx")
    assert told.endswith("[output cut: more than 64 MiB]\n")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_many_commands_leave_no_thread_descriptor_or_network(
    engine: Client, api: docker.APIClient, base: tuple[str, str], tmp_path: Path
) -> None:
    """What a session needs does not grow with what it has done."""

    async def burst() -> tuple[int, int]:
        async with anyio.create_task_group() as tg:
            for _ in range(12):
                tg.start_soon(engine.ask, *base, sh(f"echo {secrets.token_hex(8)}"), "stdout")
        return _descriptors(), threading.active_count()

    first, _, last = [await burst() for _ in range(3)]
    assert last[0] <= first[0] + 8, (first, last)
    assert last[1] <= first[1] + 8, (first, last)
    session = next((tmp_path / "cache" / "sessions").glob("[!.]*")).name
    assert api.containers(all=True, filters={"label": f"{LABEL}={session}"}) == []
    assert list((tmp_path / "cache" / "sessions" / session / "temporary").iterdir()) == []
    assert api.networks(filters={"label": f"{LABEL}={session}"}) == []


# --- strange ------------------------------------------------------------------------------------

NAMES = (
    "two words",
    "new\nline",
    os.fsdecode(b"\xff\xfe"),
    "tab\t",
    "quote\"'",
    "-dash",
    "star*",
    "caf\u00e9",
    "back\\slash",
    "trailing ",
    "[bracket]",
    "x" * 255,
)
LINK = os.fsdecode(b"li\xffnk")


async def test_any_file_name_survives(
    engine: Client, base: tuple[str, str], image: str, tmp_path: Path
) -> None:
    """Spaces, newlines, and what is not UTF-8: through a container, a mount, a build, an export."""
    source = tmp_path / "names"
    source.mkdir()
    for name in NAMES:
        (source / name).write_bytes(os.fsencode(name))
    (source / LINK).symlink_to(NAMES[2])
    host = ("host", step("directory", path="names"))
    names = await engine.ask(*host, "id")
    placed = (*base, step("withDirectory", path="/n", source=names), sh("cp -a /n /out"))
    mounted = (*base, step("withMountedDirectory", path="/out", source=names), sh("ls /out"))
    dockerfile = step("withNewFile", path="Dockerfile", contents=f"FROM {image}\nCOPY . /out\n")
    built = (*host, dockerfile, "dockerBuild")
    out = step("directory", path="/out")
    for number, steps in enumerate((placed, mounted, built)):
        to = tmp_path / f"out{number}"
        await engine.ask(*steps, out, step("export", path=str(to)))
        assert {path.name for path in to.iterdir()} - {"Dockerfile"} == {*NAMES, LINK}
        for name in NAMES:
            assert (to / name).read_bytes() == os.fsencode(name)
        assert str((to / LINK).readlink()) == NAMES[2]


async def test_links_that_lead_in_circles_or_out_are_errors_and_no_hang(
    engine: Client, base: tuple[str, str], tmp_path: Path
) -> None:
    """They are kept as they are; reading through one that ends nowhere names it."""
    source = tmp_path / "loops"
    source.mkdir()
    (source / "a").symlink_to("b")
    (source / "b").symlink_to("a")
    (source / "self").symlink_to(".")
    (source / "up").symlink_to("../../etc/hostname")
    (source / "f").write_text("found")
    host = ("host", step("directory", path=str(source)))
    id_ = await engine.ask(*host, "id")
    inside = (*base, step("withDirectory", path="/l", source=id_))
    for steps, prefix in ((host, ""), (inside, "/l/")):
        with anyio.fail_after(20):
            found = step("file", path=f"{prefix}self/self/f")
            assert await engine.ask(*steps, found, "contents") == "found"
            with pytest.raises(Refused, match=f"{prefix}a"):
                await engine.ask(*steps, step("file", path=f"{prefix}a"), "contents")
    await engine.ask(*host, step("export", path=str(tmp_path / "out")))
    assert {p.name: str(p.readlink()) for p in (tmp_path / "out").iterdir() if p.is_symlink()} == {
        "a": "b",
        "b": "a",
        "self": ".",
        "up": "../../etc/hostname",
    }


async def test_a_folder_laid_over_a_link_to_one_goes_where_it_leads(
    engine: Client, base: tuple[str, str]
) -> None:
    """/bin is a link on most systems: a bin/ in a source must not take its place."""
    files = (
        step(
            "withNewFile", path="bin/hello", contents="#!/bin/sh\necho hello\n", permissions=0o755
        ),
        step("withNewFile", path="lib/deep/er/f", contents="deep"),
        step("withNewFile", path="opt/new/f", contents="new"),
        step("withNewFile", path=f"lib/{'long' * 40}/f", contents="long"),
    )
    source = await engine.ask("directory", *files, "id")
    placed = (*base, step("withDirectory", path="/", source=source))
    script = "readlink /bin /lib; hello; cat /usr/lib/deep/er/f /opt/new/f /usr/lib/longlong*/f"
    told = await engine.ask(*placed, sh(script), "stdout")
    assert told == "usr/bin\nusr/lib\nhello\ndeepnewlong"
    again = await engine.ask(*placed, step("file", path="/usr/bin/hello"), "contents")
    assert again.endswith("echo hello\n")
    clash = await engine.ask(
        "directory", step("withNewFile", path="etc/passwd/f", contents=""), "id"
    )
    with pytest.raises(Refused, match=r"cannot overwrite non-directory .*etc/passwd"):
        await engine.ask(*base, step("withDirectory", path="/", source=clash), "sync")


# --- odd commands -------------------------------------------------------------------------------


async def test_output_that_is_no_text_is_kept_byte_by_byte(
    engine: Client, base: tuple[str, str]
) -> None:
    """Redirected to a file it is what the command wrote; as text it is marked where it is none."""
    write = sh("head -c 3000000 /dev/urandom | tee /wrote", redirectStdout="/got")
    assert await engine.ask(*base, write, sh("cmp /wrote /got && echo same"), "stdout") == "same\n"
    odd = await engine.ask(*base, sh(r"printf '\377\376\000x'"), "stdout")
    assert odd == "\ufffd\ufffd\0x"


async def test_a_command_that_leaves_a_daemon_behind_ends_all_the_same(
    engine: Client, base: tuple[str, str]
) -> None:
    """It ends when its first process does, and takes the others with it."""
    began = time.monotonic()
    script = "sleep 300 & (setsid sleep 300 > /dev/null 2>&1 &) ; echo started"
    assert await engine.ask(*base, sh(script), "stdout") == "started\n"
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("script", ["wc -c", "sleep 3; wc -c", "echo 5000000"])
async def test_a_command_may_read_much_input_early_late_or_not_at_all(
    base: tuple[str, str], tmp_path: Path, script: str
) -> None:
    """Five megabytes, also when it begins to read after any answer should have come."""
    async with (
        serve(
            cache_dir=tmp_path / "cache", docker_host=DOCKER_HOST, limits=Limits(answer=1.5)
        ) as at,
        Client(at.port, at.token) as client,
    ):
        told = await client.ask(*base, run("sh", "-c", script, stdin="y" * 5_000_000), "stdout")
    assert told == "5000000\n"


async def test_a_service_that_crashed_is_started_anew_for_who_needs_it_next(
    engine: Client, base: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its end is told in the log, with its exit code and its last words."""
    serving = "timeout 4 python3 -m http.server 8000; echo its last words; exit 4"
    exposed = step("withExposedPort", port=8000)
    args = step("asService", args=["sh", "-c", serving])
    bound = step(
        "withServiceBinding", alias="web", service=await engine.ask(*base, exposed, args, "id")
    )
    fetch = "import urllib.request as u; print(u.urlopen('http://web:8000', timeout=5).status)"
    for number in range(2):
        one = run("python3", "-c", f"{fetch}  # {number}")
        assert await engine.ask(*base, bound, one, "stdout") == "200\n"
        with anyio.fail_after(30):
            while caplog.text.count("its last words") <= number:
                await anyio.sleep(0.1)
    assert caplog.text.count("ended with exit code 4") == 2
