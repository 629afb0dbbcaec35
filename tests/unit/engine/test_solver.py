"""Tests of the solver on a runtime in memory: equal work is done once, and only when asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.errors import EngineError, ExecFailed, NotFound, NotServed
from pipeline.engine.core.secret import Secret
from pipeline.engine.core.tree import Entry, Tree
from pipeline.engine.solver import SingleFlight

from .bench import run, session, tree_of
from .fake_backend import PLATFORM

if TYPE_CHECKING:
    from pathlib import Path

    from .bench import Bench
    from .fake_backend import FakeHandle

pytestmark = pytest.mark.anyio


async def contents(bench: Bench, container: c.Container, path: str) -> str:
    """Return the text of a file in a container."""
    entry = await bench.solver.file(d.FileIn(d.InContainer(container, "/"), path))
    return bench.store.read(entry.content).decode()


async def output(bench: Bench, container: c.Container) -> c.Output:
    """Return what the last command of a container came to."""
    found = (await bench.solver.state(container)).output
    assert found is not None
    return found


# --- single flight -------------------------------------------------------------------------------


async def test_equal_work_is_done_once_also_concurrently() -> None:
    """Everybody who asks for a key gets the one result."""
    flights, done = SingleFlight(), []

    async def work() -> object:
        await anyio.sleep(0.01)
        done.append(1)
        return object()

    results = []

    async def ask() -> None:
        results.append(await flights.do("key", work))

    async with anyio.create_task_group() as tg:
        for _ in range(5):
            tg.start_soon(ask)
    results.append(await flights.do("key", work))
    assert len(done) == 1
    assert len(set(map(id, results))) == 1


async def test_a_cancelled_leader_is_replaced() -> None:
    """When whoever does the work is cancelled, one of those who wait does it."""
    flights, began = SingleFlight(), []
    leading = anyio.Event()

    async def work() -> str:
        began.append(1)
        leading.set()
        await anyio.sleep(0.02)
        return "done"

    results = []

    async def follow() -> None:
        results.append(await flights.do("key", work))

    scope = anyio.CancelScope()

    async def lead() -> None:
        with scope:
            await flights.do("key", work)

    async with anyio.create_task_group() as tg:
        tg.start_soon(lead)
        await leading.wait()
        tg.start_soon(follow)
        await anyio.sleep(0.005)
        scope.cancel()
    assert results == ["done"]
    assert len(began) == 2


async def test_a_failure_is_shared_with_those_who_wait_and_not_kept() -> None:
    """Who asks again after a failure has the work done again."""
    flights, count = SingleFlight(), []

    async def work() -> str:
        count.append(1)
        await anyio.sleep(0.01)
        if len(count) == 1:
            msg = "first"
            raise EngineError(msg)
        return "second"

    failures = []

    async def ask() -> None:
        try:
            await flights.do("key", work)
        except EngineError as e:
            failures.append(str(e))

    async with anyio.create_task_group() as tg:
        tg.start_soon(ask)
        tg.start_soon(ask)
    assert failures == ["first", "first"]
    assert await flights.do("key", work) == "second"


# --- commands ------------------------------------------------------------------------------------


async def test_a_chain_that_nobody_asks_for_is_never_run(bench: Bench) -> None:
    """Building a definition up runs nothing."""
    bench.image().then(run("fail", "1")).then(run("write", "/x", "y"))
    await anyio.lowlevel.checkpoint()
    assert bench.backend.runs == []


async def test_a_command_changes_the_filesystem_for_what_follows(bench: Bench) -> None:
    """Each command starts from what the one before it left."""
    made = bench.image().then(run("write", "/a", "1")).then(run("append", "/a", "2"))
    assert await contents(bench, made, "/a") == "12"


async def test_equal_commands_run_once_however_they_are_reached(bench: Bench) -> None:
    """Two definitions that are equal are one, also when both are asked for at once."""
    results = []

    async def ask() -> None:
        made = bench.image().then(run("sleep", "0.01")).then(run("write", "/a", "1"))
        results.append(await contents(bench, made, "/a"))

    async with anyio.create_task_group() as tg:
        for _ in range(4):
            tg.start_soon(ask)
    assert results == ["1"] * 4
    assert bench.backend.runs == [("sleep", "0.01"), ("write", "/a", "1")]


async def test_a_common_start_of_two_chains_runs_once(bench: Bench) -> None:
    """What two containers share is one piece of work."""
    common = bench.image().then(run("write", "/a", "1"))
    for text in ("x", "y"):
        assert await contents(bench, common.then(run("write", "/b", text)), "/b") == text
    assert bench.backend.runs.count(("write", "/a", "1")) == 1


async def test_a_failed_command_is_told_with_its_output_and_runs_again(bench: Bench) -> None:
    """A failure is never remembered."""
    made = bench.image().then(run("fail", "3"))
    for _ in range(2):
        with pytest.raises(ExecFailed) as caught:
            await bench.solver.state(made)
    assert (caught.value.exit_code, caught.value.stdout, caught.value.stderr) == (3, "half", "why")
    assert len(bench.backend.runs) == 2


async def test_an_expected_failure_is_a_result(bench: Bench) -> None:
    """``FAILURE`` wants a failure, ``ANY`` takes both, and either is known within the session."""
    for expect in (c.Expect.FAILURE, c.Expect.ANY):
        made = bench.image().then(run("fail", "3", expect=expect))
        assert (await output(bench, made)).exit_code == 3
        assert (await output(bench, made)).exit_code == 3
    assert len(bench.backend.runs) == 2
    with pytest.raises(ExecFailed):
        await bench.solver.state(bench.image().then(run("write", "/a", expect=c.Expect.FAILURE)))


async def test_results_survive_the_session(tmp_path: Path) -> None:
    """A later session on the same folder runs nothing that is known."""
    async with session(tmp_path) as first:
        backend = first.backend
        made = first.image().then(run("print", "hello")).then(run("write", "/a", "1"))
        assert await contents(first, made, "/a") == "1"
    backend.runs.clear()
    async with session(tmp_path, backend) as second:
        assert await contents(second, made, "/a") == "1"
        assert (await output(second, made.parent or made)).stdout == "hello"
    assert backend.runs == []


async def test_a_tolerated_failure_is_not_kept_for_the_next_session(tmp_path: Path) -> None:
    """With ``ANY`` a failure is a result now, and tried again the next time."""
    async with session(tmp_path) as first:
        backend = first.backend
        made = first.image().then(run("fail", "1", expect=c.Expect.ANY))
        await first.solver.state(made)
    async with session(tmp_path, backend) as second:
        await second.solver.state(made)
    assert len(backend.runs) == 2


async def test_a_result_whose_image_was_pruned_is_made_again(tmp_path: Path) -> None:
    """What the runtime no longer has is no result."""
    async with session(tmp_path) as first:
        backend = first.backend
        made = first.image().then(run("write", "/a", "1"))
        image = (await first.solver.state(made)).image
    del backend.images[image]
    async with session(tmp_path, backend) as second:
        assert await contents(second, made, "/a") == "1"
    assert backend.runs == [("write", "/a", "1")] * 2


async def test_a_result_whose_contents_were_pruned_is_made_again(tmp_path: Path) -> None:
    """A mount that a command wrote to is part of its result, and its contents may be gone."""
    mount = c.WithMount(c.Mount("/m", directory=d.Literal(Tree())))
    async with session(tmp_path) as first:
        backend = first.backend
        made = first.image().then(mount).then(run("write", "/m/a", "unique"))
        content = (await first.solver.state(made)).mounts[0].tree
        assert content is not None
    first.store.blob(content.entries[0].content).unlink()
    async with session(tmp_path, backend) as second:
        assert await contents(second, made, "/m/a") == "unique"
    assert len(backend.runs) == 2


async def test_a_changed_input_runs_again(bench: Bench) -> None:
    """The environment, the user, the workdir, a mount: each is part of what a command is."""
    base = bench.image()
    variants = [
        base,
        base.then(c.WithEnv("A", "1")),
        base.then(c.WithUser("me")),
        base.then(c.WithWorkdir("/w")),
        base.then(c.WithMount(c.Mount("/m", temporary=True))),
        base.then(c.WithWrite(c.Write("/w", directory=bench.folder({"a": "1"})))),
    ]
    for variant in variants:
        await bench.solver.state(variant.then(run("print", "x")))
    assert len(bench.backend.runs) == len(variants)


async def test_credentials_are_no_part_of_what_a_command_is(bench: Bench) -> None:
    """Who may pull changes nothing of what runs."""
    base = bench.image()
    bench.vault.put("password", "sesame")
    auth = c.WithAuth(c.Auth("docker.io", "me", Secret("password")))
    await bench.solver.state(base.then(run("print", "x")))
    await bench.solver.state(base.then(auth).then(run("print", "x")))
    assert len(bench.backend.runs) == 1


async def test_a_long_chain_of_commands_is_no_deep_recursion(bench: Bench) -> None:
    """A hundred and more commands in a row are run one after the other."""
    made = bench.image()
    for number in range(300):
        made = made.then(c.WithEnv("N", str(number))).then(run("append", "/a", "."))
    assert await contents(bench, made, "/a") == "." * 300


async def test_a_command_without_arguments_needs_default_ones(bench: Bench) -> None:
    """There must be something to run."""
    with pytest.raises(EngineError, match="no command"):
        await bench.solver.state(c.Container(PLATFORM).then(run()))


async def test_input_and_outputs_can_be_files_of_the_container(bench: Bench) -> None:
    """Redirections read and write the container's own filesystem, from the working directory."""
    change = replace(run("cat"), redirect_stdin="in", redirect_stdout="out", redirect_stderr="/err")
    base = bench.image().then(c.WithWorkdir("/etc")).then(run("write", "/etc/in", "text"))
    made = base.then(change)
    assert (await output(bench, made)).stdout == "text"
    assert await contents(bench, made, "/etc/out") == "text"
    assert await contents(bench, made, "/err") == ""


async def test_no_container_or_volume_is_left(bench: Bench) -> None:
    """What was made for a command goes with it, also when that fails or is cancelled."""
    mount = c.WithMount(c.Mount("/m", directory=bench.folder({"a": "1"})))
    base = bench.image().then(mount)
    await bench.solver.state(base.then(run("print", "x")))
    with pytest.raises(ExecFailed):
        await bench.solver.state(base.then(run("fail", "1")))
    with anyio.move_on_after(0.05):
        await bench.solver.state(base.then(run("sleep", "60")))
    assert bench.backend.live == {"container": 0, "volume": 0}
    assert list(bench.private.iterdir()) == []


# --- secrets -------------------------------------------------------------------------------------


async def test_a_secret_reaches_the_command_and_not_its_output(bench: Bench) -> None:
    """The value is in the command's environment and is masked in what it prints."""
    seen = []

    async def look(handle: FakeHandle, _args: tuple[str, ...]) -> int:
        seen.append(handle.env["TOKEN"])
        handle.out += b"leaked: " + handle.env["TOKEN"].encode()
        return 0

    bench.backend.programs["look"] = look
    secret = bench.vault.put("s", "hunter2")
    made = bench.image().then(c.WithSecretEnv("TOKEN", secret)).then(run("look"))
    assert (await output(bench, made)).stdout == "leaked: ***"
    assert seen == ["hunter2"]


async def test_a_secret_in_a_mounted_folder_is_not_kept(bench: Bench) -> None:
    """A mount that a command may write to is read back without what is mounted within it."""
    value = "hunter2-in-a-file"
    secret = bench.vault.put("s", value)
    made = (
        bench.image()
        .then(c.WithMount(c.Mount("/m", directory=bench.folder({"a": "1"}))))
        .then(c.WithMount(c.Mount("/m/token", secret=secret)))
    )

    async def expose(handle: FakeHandle, _args: tuple[str, ...]) -> int:
        # A runtime shows what is mounted within a volume when that is read.
        handle.write("/m/token", value)
        handle.write("/m/b", "2")
        return 0

    bench.backend.programs["expose"] = expose
    state = await bench.solver.state(made.then(run("expose")))
    tree = state.mounts[0].tree
    assert tree is not None
    assert [e.path for e in tree.entries] == ["a", "b"]
    kept = [p.read_bytes() for p in bench.store.root.rglob("*") if p.is_file()]
    assert not any(value.encode() in data for data in kept)


async def test_the_value_of_a_secret_is_in_no_key(tmp_path: Path) -> None:
    """A command with another value of the same secret is the same command."""
    backend = None
    for value in ("one", "two"):
        async with session(tmp_path, backend) as bench:
            backend = bench.backend
            secret = bench.vault.put("s", value)
            made = bench.image().then(c.WithSecretEnv("T", secret)).then(run("print", "x"))
            await bench.solver.state(made)
    assert backend is not None
    assert len(backend.runs) == 1


async def test_mounted_files_and_secrets_are_private_and_go_with_the_command(bench: Bench) -> None:
    """Each is a file of its own in the session's private folder, with the mode asked for."""
    secret = bench.vault.put("s", "sesame")
    content, size = bench.store.add_bytes(b"text")
    file = d.LiteralFile(Entry("f", "file", 0o640, content=content, size=size))
    found = {}

    async def look(handle: FakeHandle, _args: tuple[str, ...]) -> int:
        for attachment in handle.spec.attachments:
            path = anyio.Path(attachment.source)
            mode = (await path.stat()).st_mode & 0o777
            found[attachment.target] = (await path.read_text(), mode)
            assert attachment.read_only
        return 0

    bench.backend.programs["look"] = look
    made = (
        bench.image()
        .then(c.WithMount(c.Mount("/s", secret=secret, mode=0o400)))
        .then(c.WithMount(c.Mount("/f", file=file)))
    )
    await bench.solver.state(made.then(run("look")))
    assert found == {"/s": ("sesame", 0o400), "/f": ("text", 0o640)}
    assert list(bench.private.iterdir()) == []


# --- mounts --------------------------------------------------------------------------------------


async def test_a_mount_keeps_what_a_command_writes_and_is_no_part_of_the_image(
    bench: Bench,
) -> None:
    """The next command sees it; the root filesystem does not."""
    mount = c.WithMount(c.Mount("/m", directory=bench.folder({"a": "1"})))
    made = bench.image().then(mount).then(run("append", "/m/a", "2"))
    made = made.then(run("append", "/m/a", "3"))
    assert await contents(bench, made, "/m/a") == "123"
    rootfs = d.InContainer(made, "/", mounts=False)
    with pytest.raises(NotFound):
        await bench.solver.file(d.FileIn(rootfs, "/m/a"))


async def test_a_read_only_mount_is_filled_before_and_not_read_back(bench: Bench) -> None:
    """Its volume is filled through a container of its own."""
    mount = c.Mount("/m", directory=bench.folder({"a": "1"}), read_only=True)
    made = bench.image().then(c.WithMount(mount)).then(run("cat", "/m/a"))
    assert (await output(bench, made)).stdout == "1"


async def test_a_cache_volume_outlives_its_containers(bench: Bench) -> None:
    """It is named by its key, wherever it is mounted."""

    def cached(path: str, **changes: str) -> c.WithMount:
        return c.WithMount(c.Mount(path, cache=c.CacheVolume("k", **changes)))  # type: ignore[arg-type]

    await bench.solver.state(bench.image().then(cached("/a")).then(run("write", "/a/x", "warm")))
    made = bench.image().then(cached("/b")).then(run("cat", "/b/x"))
    assert (await output(bench, made)).stdout == "warm"


async def test_a_cache_volume_starts_with_its_source(bench: Bench) -> None:
    """The source counts only when the volume is made."""
    for text in ("first", "second"):
        volume = c.CacheVolume("k", source=bench.folder({"x": text}))
        mounted = bench.image().then(c.WithMount(c.Mount("/a", cache=volume)))
        made = mounted.then(c.WithEnv("N", text)).then(run("cat", "/a/x"))
        assert (await output(bench, made)).stdout == "first"


async def test_private_cache_volumes_are_one_for_each_command_at_a_time(bench: Bench) -> None:
    """Two commands that run at once have two volumes; one after the other they have one."""
    volume = c.CacheVolume("k", sharing=c.Sharing.PRIVATE)
    names = []

    async def use(handle: FakeHandle, _args: tuple[str, ...]) -> int:
        names.append(handle.spec.attachments[0].source)
        await anyio.sleep(0.02)
        return 0

    bench.backend.programs["use"] = use
    base = bench.image().then(c.WithMount(c.Mount("/a", cache=volume)))
    async with anyio.create_task_group() as tg:
        for number in "12":
            tg.start_soon(bench.solver.state, base.then(run("use", number)))
    await bench.solver.state(base.then(run("use", "3")))
    assert len(set(names[:2])) == 2
    assert names[2] == min(names[:2])


async def test_a_locked_cache_volume_has_one_command_at_a_time(bench: Bench) -> None:
    """The second waits for the first."""
    volume = c.CacheVolume("k", sharing=c.Sharing.LOCKED)
    at_once: list[int] = []
    inside = 0

    async def use(_handle: FakeHandle, _args: tuple[str, ...]) -> int:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        await anyio.sleep(0.02)
        inside -= 1
        return 0

    bench.backend.programs["use"] = use
    base = bench.image().then(c.WithMount(c.Mount("/a", cache=volume)))
    async with anyio.create_task_group() as tg:
        for number in "123":
            tg.start_soon(bench.solver.state, base.then(run("use", number)))
    assert at_once == [1, 1, 1]


async def test_what_is_no_folder_cannot_be_read_through_its_mount(bench: Bench) -> None:
    """A cache is no part of any state, so nothing can depend on what is in it."""
    made = bench.image().then(c.WithMount(c.Mount("/a", cache=c.CacheVolume("k"))))
    with pytest.raises(EngineError, match="cannot be read"):
        await contents(bench, made, "/a/x")


# --- writes and owners ---------------------------------------------------------------------------


async def test_writes_are_settled_once(tmp_path: Path) -> None:
    """An image with the same writes is made once, and known to the next session."""
    async with session(tmp_path) as first:
        backend = first.backend
        write = c.Write("/w", directory=first.folder({"a": "1"}))
        made = first.image().then(c.WithWrite(write))
        assert await contents(first, made, "/w/a") == "1"
        image = await first.solver.settled(await first.solver.state(made))
    async with session(tmp_path, backend) as second:
        assert await second.solver.settled(await second.solver.state(made)) == image


async def test_an_owner_by_name_is_looked_up_in_the_container(bench: Bench) -> None:
    """Names are those of its own account files; numbers need none."""
    passwd = "app:x:1001:1002::/:\n"
    base = bench.image(passwd=passwd, group="staff:x:50:\n")
    state = await bench.solver.state(base)
    assert await bench.solver.owner(state, "app") == (1001, 1002)
    assert await bench.solver.owner(state, "app:staff") == (1001, 50)
    assert await bench.solver.owner(state, "5:6") == (5, 6)
    assert await bench.solver.owner(state, "") is None
    with pytest.raises(NotFound, match="nobody"):
        await bench.solver.owner(state, "nobody")
    empty = await bench.solver.state(c.Container(PLATFORM))
    with pytest.raises(NotFound, match="app"):
        await bench.solver.owner(empty, "app")


async def test_an_empty_folder_is_written_as_a_folder(bench: Bench) -> None:
    """A folder with nothing in it appears all the same."""
    made = bench.image().then(c.WithWrite(c.Write("/empty", directory=d.Literal(Tree()))))
    assert (await bench.solver.tree(d.InContainer(made, "/"))).find("empty").kind == "dir"


# --- folders and files ---------------------------------------------------------------------------


async def test_directory_definitions_lead_to_trees(bench: Bench) -> None:
    """Each of them is what its name says."""
    base = bench.folder({"a": "1", "sub/b": "2", "sub/c.txt": "3"})

    async def paths(definition: d.Directory) -> list[str]:
        tree = await bench.solver.tree(definition)
        return [e.path for e in tree.entries if e.kind != "dir"]

    assert await paths(d.Sub(base, "sub")) == ["b", "c.txt"]
    assert await paths(d.Removed(base, "sub/*.txt")) == ["a", "sub/b"]
    assert await paths(d.Removed(base, "sub")) == ["a"]
    placed = d.Placed(base, "x/y", d.FileIn(base, "a"), "1:2", 0o600)
    entry = (await bench.solver.tree(placed)).find("x/y")
    assert (entry.uid, entry.gid, entry.mode) == (1, 2, 0o600)
    over = d.Overlay(base, "o", base, d.Filter(include=("sub/**",), exclude=("**/*.txt",)))
    assert await paths(d.Sub(over, "o")) == ["sub/b"]


async def test_a_name_that_looks_like_a_pattern_is_removed_by_its_name(bench: Bench) -> None:
    """Only what is not there by that name is taken for a pattern."""
    base = bench.folder({"a[1]": "", "a1": ""})
    tree = await bench.solver.tree(d.Removed(base, "a[1]"))
    assert [e.path for e in tree.entries] == ["a1"]


async def test_gitignore_filters_by_the_file_in_the_folder(bench: Bench) -> None:
    """The folder's own .gitignore is read, and .git is left out."""
    base = bench.folder({".gitignore": "*.log\n", "a.log": "", "b": "", ".git/x": ""})
    tree = await bench.solver.filtered(base, d.Filter(gitignore=True))
    assert [e.path for e in tree.entries] == [".gitignore", "b"]


async def test_a_folder_is_no_file_and_the_other_way_round(bench: Bench) -> None:
    """Asking for the wrong kind is an error that names the path."""
    base = bench.folder({"sub/a": ""})
    with pytest.raises(NotFound, match="sub: is a directory"):
        await bench.solver.file(d.FileIn(base, "sub"))
    with pytest.raises(NotFound, match="sub/a: not a directory"):
        await bench.solver.tree(d.Sub(base, "sub/a"))
    made = bench.image(hosts="x")
    with pytest.raises(NotFound, match="is a directory"):
        await contents(bench, made, "/etc")


async def test_a_glob_in_a_container_reads_no_more_than_it_needs(bench: Bench) -> None:
    """The fixed folders at its start are read, and not the whole filesystem."""
    made = bench.image(one="1", two="2")
    assert await bench.solver.glob(d.InContainer(made, "/"), "etc/*") == ["etc/one", "etc/two"]
    assert await bench.solver.glob(d.InContainer(made, "/"), "none/*") == []


async def test_what_docker_puts_into_containers_is_left_out(bench: Bench) -> None:
    """Empty hosts and hostname files and the like are in no image."""
    tree = tree_of(
        bench.backend.store, {".dockerenv": "", "etc/hosts": "", "etc/hostname": "real", "a": ""}
    )
    bench.backend.remote["x"] = bench.backend.add_image(tree)
    made = c.Container(PLATFORM).then(c.From("x"))
    found = await bench.solver.tree(d.InContainer(made, "/"))
    assert [e.path for e in found.entries if e.kind == "file"] == ["a", "etc/hostname"]


async def test_a_folder_of_a_container_is_read_once(tmp_path: Path) -> None:
    """What was read is known by the image, to the next session as well."""
    async with session(tmp_path) as first:
        backend = first.backend
        folder = d.InContainer(first.image(one="1"), "/etc")
        tree = await first.solver.tree(folder)
    async with session(tmp_path, backend) as second:
        before = backend.live.copy()
        assert await second.solver.tree(folder) == tree
        assert backend.live == before


# --- images --------------------------------------------------------------------------------------


async def test_an_image_carries_its_configuration_there_and_back(bench: Bench) -> None:
    """What the engine does not know is carried along as it is."""
    config = {
        "Env": ["A=1=2", "B"],
        "WorkingDir": "/w",
        "User": "me",
        "Entrypoint": ["e"],
        "Cmd": ["c"],
        "Labels": {"z": "1", "a": "2"},
        "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "true"]},
        "StopSignal": "SIGQUIT",
    }
    image = bench.backend.add_image(tree_of(bench.backend.store, {"a": ""}), config)
    bench.backend.remote["x"] = image
    made = c.Container(PLATFORM).then(c.From("x"))
    state = await bench.solver.state(made)
    assert state.config.ports[0].protocol == "UDP"
    # Unchanged it is the very image; changed and changed back it is one that equals it.
    assert await bench.solver.image(state) == image
    again = await bench.solver.image(state.configured(user="me"))
    info = bench.backend.images[again]
    assert info.config == {**config, "Env": ["A=1=2", "B="]}


async def test_from_replaces_all_but_the_credentials(bench: Bench) -> None:
    """As on Dagger, an image starts anew."""
    bench.image("other")
    bench.vault.put("p", "x")
    before = (
        bench.image()
        .then(c.WithEnv("A", "1"))
        .then(c.WithMount(c.Mount("/m", temporary=True)))
        .then(c.WithAuth(c.Auth("docker.io", "me", Secret("p"))))
    )
    state = await bench.solver.state(before.then(c.From("other")))
    assert state.config.variable("A") is None
    assert state.mounts == ()
    assert bench.backend.logins[-1][1] is not None


async def test_publish_names_the_digest_and_uses_the_credentials_of_that_registry(
    bench: Bench,
) -> None:
    """Credentials go to the registry that they are for and to no other."""
    bench.vault.put("p", "sesame")
    auth = c.WithAuth(c.Auth("one.example", "me", Secret("p")))
    made = bench.image().then(auth)
    address = await bench.solver.publish(made, "one.example/a/b:c", None)
    name, _, pushed = address.partition("@")
    assert name == "one.example/a/b:c"
    assert pushed.startswith("sha256:")
    login = bench.backend.logins[-1][1]
    assert login is not None
    assert (login.username, login.password) == ("me", "sesame")
    await bench.solver.publish(made, "two.example/a/b:c", None)
    assert bench.backend.logins[-1][1] is None


async def test_an_unknown_image_is_an_error_that_names_it(bench: Bench) -> None:
    """The reference is in the message."""
    with pytest.raises(EngineError, match="no/such"):
        await bench.solver.state(c.Container(PLATFORM).then(c.From("no/such")))


async def test_another_platform_is_refused(bench: Bench) -> None:
    """This machine's own is taken, no other."""
    assert bench.solver.check_platform(None) == PLATFORM
    with pytest.raises(NotServed, match="linux/s390x"):
        bench.solver.check_platform("linux/s390x")


# --- builds --------------------------------------------------------------------------------------


def build(context: d.Directory, **changes: object) -> c.Container:
    """Return a container that is built."""
    fields = c.Build(context, "Dockerfile", PLATFORM, (), "", ())
    return c.Container(PLATFORM).then(replace(fields, **changes))  # type: ignore[arg-type]


PINNED = f"FROM x@sha256:{'0' * 64}\n"


async def test_a_build_of_pinned_bases_is_remembered(tmp_path: Path) -> None:
    """Where all is named by digest, a later session does not build again."""
    async with session(tmp_path) as first:
        backend = first.backend
        pinned = first.folder({"Dockerfile": PINNED})
        tagged = first.folder({"Dockerfile": "FROM x:latest\n"})
        for context in (pinned, tagged):
            await first.solver.state(build(context))
    assert len(backend.builds) == 2
    async with session(tmp_path, backend) as second:
        await second.solver.state(build(pinned))
        assert len(backend.builds) == 2
        await second.solver.state(build(tagged))
    assert len(backend.builds) == 3


async def test_each_part_of_a_build_makes_it_another(bench: Bench) -> None:
    """Arguments, target, secrets, context: none of them is ignored."""
    context = bench.folder({"Dockerfile": PINNED, "other": PINNED})
    secret = bench.vault.put("token", "sesame")
    variants: list[dict[str, object]] = [
        {},
        {"args": (("A", "1"),)},
        {"target": "test"},
        {"dockerfile": "other"},
        {"secrets": (secret,)},
    ]
    for variant in variants:
        await bench.solver.state(build(context, **variant))
    assert len(bench.backend.builds) == len(variants)
    assert bench.backend.secrets_seen == [b"sesame"]


async def test_a_build_with_an_agent_is_never_remembered(tmp_path: Path) -> None:
    """What an agent lets in is not in any key."""
    backend = None
    for _ in range(2):
        async with session(tmp_path, backend) as bench:
            backend = bench.backend
            context = bench.folder({"Dockerfile": PINNED})
            await bench.solver.state(build(context, ssh=c.Socket("/agent")))
    assert backend is not None
    assert [spec.ssh for spec in backend.builds] == ["/agent", "/agent"]


async def test_a_failed_build_tells_no_secret_and_leaves_no_file(bench: Bench) -> None:
    """What an instruction printed is in the message, secrets masked."""
    secret = bench.vault.put("token", "sesame")
    context = bench.folder({"Dockerfile": "FROM x\nFAIL\n"})
    with pytest.raises(EngineError, match=r"cannot build: \*\*\*"):
        await bench.solver.state(build(context, secrets=(secret,)))
    assert list(bench.private.iterdir()) == []
    assert list((bench.store.root / "temporary").iterdir()) == []


async def test_a_missing_dockerfile_is_named(bench: Bench) -> None:
    """The message says which file was looked for."""
    with pytest.raises(NotFound, match=r"no Dockerfile at Dockerfile"):
        await bench.solver.state(build(bench.folder({"x": ""})))


async def test_equal_builds_at_once_are_one(bench: Bench) -> None:
    """Two steps that need the same image wait for one build."""
    context = bench.folder({"Dockerfile": "FROM x\n"})
    async with anyio.create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(bench.solver.state, build(context))
    assert len(bench.backend.builds) == 1
