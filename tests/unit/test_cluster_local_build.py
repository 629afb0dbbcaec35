"""Building the tools of a Go module, with programs that stand for Go."""

from __future__ import annotations

import fcntl
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.cluster import versions
from pipeline.cluster.local import build
from pipeline.cluster.local.build import CLUSTER, Builder, Module, Pipe, Progress
from pipeline.errors import PrerequisiteError
from pipeline.setup import state
from pipeline.setup.command import Output

from .setup_fakes import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GO_MOD = """\
module example.com/tools

go 1.26.4 // the version

require example.com/one v1.0.0
require (
	example.com/two v1.0.0 // indirect
	example.com/three v1.0.0
)

tool (
	example.com/one/cmd/saw
	example.com/two/cmd/hammer
)

replace (
	example.com/two => example.com/fork v1.0.1
)
"""


@dataclass
class FakeGo:
    """Does what ``go list`` and ``go build`` do, without compiling anything."""

    code: int = 0
    lines: tuple[str, ...] = ("go: downloading example.com/one v1.0.0", "example.com/one", "fmt")
    calls: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> tuple[int, str]:
        """Write the programs where they are wanted, and tell of it."""
        assert (cwd / "go.mod").is_file()
        self.calls.append(" ".join(argv))
        self.environment = env
        for line in self.lines:
            on_line(line)
        if argv[1] == "build" and self.code == 0:
            target = Path(argv[argv.index("-o") + 1])
            for name in ("saw", "hammer"):
                (target / name).write_text(name)
        return self.code, "fmt\nexample.com/one\n"


@pytest.fixture
def module(tmp_path: Path) -> Module:
    """Return a module with two tools."""
    folder = tmp_path / "tools"
    (folder / "own").mkdir(parents=True)
    (folder / "go.mod").write_text(GO_MOD)
    (folder / "go.sum").write_text("")
    (folder / "own" / "main.go").write_text("package main\n")
    return Module("the tools", folder, {"example.com/v.Version": "1.2.3"}, disk=1000)


def builder(tmp_path: Path, fake: FakeGo, said: list[str], **facts: object) -> Builder:
    """Return a builder with Go 1.26.8, but for the facts given."""
    known: dict[str, object] = {
        "run": Recorder({"/go -C": Output(0, "go1.26.8\n", "")}),
        "say": said.append,
        "cache": tmp_path / "cache",
        "go": "/go",
        "pipe": fake,
        "free": lambda _: 10**12,
    }
    return Builder(**(known | facts))  # type: ignore[arg-type]


def test_the_versions_are_those_of_the_module() -> None:
    """What the code says is what is built."""
    text = (CLUSTER.folder / "go.mod").read_text(encoding="utf-8")
    assert f"k8s.io/kubernetes v{versions.KUBERNETES}" in text
    assert f"github.com/kedacore/keda/v2 v{versions.KEDA}" in text
    assert f"sigs.k8s.io/metrics-server v{versions.METRICS_SERVER}" in text
    staging = f"v0.{versions.KUBERNETES.partition('.')[2]}"
    replaced = [line for line in text.splitlines() if "=> k8s.io/" in line]
    assert len(replaced) > 30
    assert all(line.endswith(f" {staging}") for line in replaced)


def test_the_programs_know_their_version() -> None:
    """An API server that was not told calls itself v0.0.0."""
    flags = CLUSTER.flags[-1]
    assert f"-X k8s.io/component-base/version.gitVersion=v{versions.KUBERNETES}" in flags
    assert f"-X github.com/kedacore/keda/v2/version.Version={versions.KEDA}" in flags


def test_a_go_mod_is_read(module: Module) -> None:
    """One line or many; comments and other directives do not count."""
    text = (module.folder / "go.mod").read_text()
    assert build.required(text) == "1.26.4"
    wanted = ("example.com/one", "example.com/two", "example.com/three")
    assert build.named(text, "require") == wanted
    assert len(build.named(text, "tool")) == 2


def test_what_was_built_is_built_once(tmp_path: Path, module: Module) -> None:
    """Without cgo, so that the programs need nothing; the second call finds them."""
    go, said = FakeGo(), list[str]()
    first = anyio.run(builder(tmp_path, go, said).ensure, module)
    assert {file.name for file in (first / "bin").iterdir()} == {"saw", "hammer"}
    assert go.environment["CGO_ENABLED"] == "0"
    assert len(go.calls) == 2
    assert "-trimpath -buildvcs=false -ldflags -s -w -X example.com/v.Version=1.2.3" in go.calls[1]
    assert anyio.run(builder(tmp_path, go, said).ensure, module) == first
    assert len(go.calls) == 2
    assert said[0].startswith("Building the tools with go1.26.8")
    assert said[-1].startswith("Built the tools in ")


def test_a_change_of_what_it_is_made_of_is_another_build(module: Module) -> None:
    """Its files, its flags and the version of Go."""
    first = build.digest(module, "go1.26.8")
    other = Module(module.name, module.folder, {"example.com/v.Version": "2"}, disk=0)
    assert len({first, build.digest(module, "go1.26.9"), build.digest(other, "go1.26.8")}) == 3
    (module.folder / "own" / "main.go").write_text("package main // changed\n")
    assert build.digest(module, "go1.26.8") != first
    assert first.startswith("tools-")


def test_more_is_put_beside_the_programs(tmp_path: Path, module: Module) -> None:
    """And when that fails, nothing is there: a folder is whole or absent."""

    async def finish(folder: Path) -> None:
        (folder / "more").write_text("x")

    async def fail(folder: Path) -> None:
        (folder / "more").write_text("x")
        raise PrerequisiteError("no")

    with pytest.raises(PrerequisiteError, match="no"):
        anyio.run(builder(tmp_path, FakeGo(), []).ensure, module, fail)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["lock"]
    made = anyio.run(builder(tmp_path, FakeGo(), []).ensure, module, finish)
    assert (made / "more").read_text() == "x"


def test_a_build_that_fails_is_told_with_its_last_lines(tmp_path: Path, module: Module) -> None:
    """What is progress is left out of them."""
    go = FakeGo(code=1, lines=("example.com/one", "# example.com/two", "two.go:3: undefined: x"))
    with pytest.raises(PrerequisiteError, match="Building the tools failed") as raised:
        anyio.run(builder(tmp_path, go, []).ensure, module)
    assert raised.value.evidence == "# example.com/two\ntwo.go:3: undefined: x"
    assert "GOPROXY" in raised.value.remedy


def test_without_go_the_version_to_install_is_named(tmp_path: Path, module: Module) -> None:
    """Exit code 3, and nothing was run."""
    with pytest.raises(PrerequisiteError, match="`go` is not on PATH") as raised:
        anyio.run(builder(tmp_path, FakeGo(), [], go=None).ensure, module)
    assert "Go 1.26.4 or later" in raised.value.remedy


def test_a_go_that_is_too_old_is_told(tmp_path: Path, module: Module) -> None:
    """With what it says itself."""
    said = "go: go.mod requires go >= 1.26.4 (running go 1.19; GOTOOLCHAIN=local)"
    run = Recorder({"/go -C": Output(1, "", said)})
    with pytest.raises(PrerequisiteError, match=r"with Go 1\.26\.4 or later") as raised:
        anyio.run(builder(tmp_path, FakeGo(), [], run=run).ensure, module)
    assert raised.value.evidence == said


def test_too_little_disk_is_told_before_anything_is_built(tmp_path: Path, module: Module) -> None:
    """With what it takes and what there is."""
    go = FakeGo()
    poor = Module(module.name, module.folder, {}, disk=12 * 1024**3)
    with pytest.raises(PrerequisiteError, match=r"takes 12 GiB of disk.* 2\.0 GiB left"):
        anyio.run(builder(tmp_path, go, [], free=lambda _: 2 * 1024**3).ensure, poor)
    assert go.calls == []


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """Return a build of another version, which a process holds that inherited what holds it."""
    folder = tmp_path / "cache" / "tools-held"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "saw").write_bytes(b"x" * 1000)
    descriptor = build.hold(folder)
    assert descriptor is not None
    with subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,)) as holder:
        os.close(descriptor)
        yield folder
        holder.kill()


def test_builds_of_other_versions_go_when_there_is_a_new_one(
    tmp_path: Path, module: Module, held: Path
) -> None:
    """One that a cluster runs on stays, and so do builds of other modules."""
    cache = tmp_path / "cache"
    for name in ("tools-old", "other-old"):
        (cache / name / "bin").mkdir(parents=True)
    made = anyio.run(builder(tmp_path, FakeGo(), []).ensure, module)
    assert {folder.name for folder in cache.iterdir() if folder.is_dir()} == {
        held.name,
        "other-old",
        made.name,
    }


def test_prune_removes_what_nobody_holds(tmp_path: Path, held: Path) -> None:
    """And says how much, and what stays: what a killed build left goes as well."""
    cache = tmp_path / "cache"
    for name in ("tools-old", ".tools-killed"):
        (cache / name / "bin").mkdir(parents=True)
        (cache / name / "bin" / "saw").write_bytes(b"x" * 500)
    freed = anyio.run(build.prune, cache, print)
    assert (freed.size, freed.held) == (1000, (held,))
    assert {path.name for path in cache.iterdir()} == {held.name, "lock"}
    assert (held / "bin" / "saw").exists()


def test_prune_of_nothing_makes_nothing(tmp_path: Path) -> None:
    """Where no cluster was ever built, there is no folder afterwards either."""
    assert anyio.run(build.prune, tmp_path / "cache", print).size == 0
    assert list(tmp_path.iterdir()) == []


def test_prune_does_not_wait_for_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes minutes, and its folder is not to be removed under it."""
    monkeypatch.setattr(build, "PRUNE_LIMIT", 0.1)
    (tmp_path / ".tools-new").mkdir()

    async def both() -> None:
        async with state.lock(tmp_path, print):
            await build.prune(tmp_path, print)

    with pytest.raises(PrerequisiteError, match="Another set-up has held"):
        anyio.run(both)
    assert (tmp_path / ".tools-new").is_dir()


def test_what_is_being_removed_cannot_be_held(tmp_path: Path) -> None:
    """Nor what was removed between being found and being held."""
    folder = tmp_path / "tools-old"
    assert build.hold(folder) is None
    folder.mkdir()
    removing = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(removing, fcntl.LOCK_EX)
        assert build.hold(folder) is None
    finally:
        os.close(removing)
    descriptor = build.hold(folder)
    assert descriptor is not None
    os.close(descriptor)


def test_progress_counts_modules_and_packages() -> None:
    """What is neither is kept for the error, the last lines of it."""
    progress = Progress()
    for line in (
        "go: downloading example.com/one v1.0.0",
        "example.com/one",
        "example.com/one/two",
        "# example.com/three",
        *(f"three.go:{n}: wrong" for n in range(30)),
    ):
        progress = progress.with_line(line)
    assert (progress.modules, progress.packages) == (1, 2)
    assert len(progress.last) == 20
    assert progress.last[-1] == "three.go:29: wrong"


def test_it_is_told_how_far_it_is(
    tmp_path: Path, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence for minutes would look like a hang."""
    monkeypatch.setattr(build, "TELL_EVERY", 0.01)
    said: list[str] = []

    @dataclass
    class Slow(FakeGo):
        async def __call__(
            self,
            argv: Sequence[str],
            *,
            cwd: Path,
            env: Mapping[str, str],
            on_line: Callable[[str], None],
        ) -> tuple[int, str]:
            done = await FakeGo.__call__(self, argv, cwd=cwd, env=env, on_line=on_line)
            await anyio.sleep(0.1)
            return done

    anyio.run(builder(tmp_path, Slow(), said).ensure, module)
    assert "  1 of at most 3 modules downloaded, 0 s" in said
    assert "  2 of at most 2 packages compiled, 2 of 2 programs linked, 0 s" in said


def test_the_lines_of_a_program_are_handed_on(tmp_path: Path) -> None:
    """As they come, and what it writes to standard output is the answer."""
    lines: list[str] = []
    script = "echo one >&2; printf tw >&2; sleep 0.05; echo o >&2; echo out; exit 3"

    async def call() -> tuple[int, str]:
        return await Pipe()(
            ["sh", "-c", script], cwd=tmp_path, env=os.environ, on_line=lines.append
        )

    assert anyio.run(call) == (3, "out\n")
    assert lines == ["one", "two"]


def test_a_go_that_cannot_be_run_is_a_prerequisite(tmp_path: Path) -> None:
    """Not a traceback."""

    async def call() -> tuple[int, str]:
        return await Pipe()(["/no/go"], cwd=tmp_path, env={}, on_line=print)

    with pytest.raises(PrerequisiteError, match="`/no/go` cannot be run"):
        anyio.run(call)


def test_the_folder_of_a_required_module_is_asked_for(tmp_path: Path, module: Module) -> None:
    """KEDA's manifests are in its module."""
    run = Recorder({"/go -C": Output(0, "/modules/keda\n", "")})
    found = anyio.run(builder(tmp_path, FakeGo(), [], run=run).folder, module, "example.com/keda")
    assert found == Path("/modules/keda")
    none = Recorder({"/go -C": Output(1, "", "not a known dependency")})
    with pytest.raises(PrerequisiteError, match="keda is not here"):
        anyio.run(builder(tmp_path, FakeGo(), [], run=none).folder, module, "example.com/keda")
