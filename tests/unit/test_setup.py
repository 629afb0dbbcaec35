"""Set-up as a whole, on a machine of fakes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline import setup as package
from pipeline.errors import PrerequisiteError
from pipeline.setup import bases, state
from pipeline.setup.command import Output
from pipeline.setup.registry import loopback

from .setup_fakes import (
    FakeDocker,
    FakeRegistry,
    FakeSettings,
    Recorder,
    fake_docker,
    fake_registry,
    machine,
    offline,
    online,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.setup.bases import Bases

TARGETS = ("python", "nginx")


class World:
    """A Docker Engine on which a registry can be started, and programs that do as they are told."""

    def __init__(self, docker: FakeDocker, port: int, stack: ExitStack, folder: Path) -> None:
        self.docker = docker
        self.port = port
        self.stack = stack
        self.folder = folder
        self.registry: FakeRegistry | None = None
        self.recorder = Recorder(on_call=self.act)
        self.said: list[str] = []
        docker.on_start = lambda _container: self.serve()

    def serve(self) -> None:
        """Have a registry answer on the port."""
        self.registry = self.stack.enter_context(fake_registry(self.port))

    def act(self, line: str) -> None:
        """Do what a program would do to the engine and to the registry."""
        words = line.split()
        if words[:2] == ["docker", "import"] or words[:3] == ["docker", "buildx", "build"]:
            named = words[-1] if words[1] == "import" else words[words.index("--tag") + 1]
            self.docker.images.add(named)
        if words[:2] == ["docker", "push"]:
            assert self.registry is not None
            self.registry.digests[words[-1].partition("/")[2]] = "sha256:made"

    def settings(self, **values: Any) -> FakeSettings:  # noqa: ANN401
        """Return settings for this world."""
        known = {"registry": f"127.0.0.1:{self.port}", "docker_host": self.docker.host}
        return FakeSettings(**(known | values))

    def setup(self, settings: FakeSettings, **facts: Any) -> Bases | None:  # noqa: ANN401
        """Run set-up here."""
        able = machine(self.recorder, self.said, **facts)
        ask = online if settings.bases == "registry" else offline
        return anyio.run(
            partial(
                package.setup,
                settings,
                say=self.said.append,
                machine=able,
                place=self.folder,
                ask=ask,
            )
        )


@contextmanager
def make_world(tmp_path: Path, port: int) -> Iterator[World]:
    """Make one, without a registry."""
    with ExitStack() as stack:
        docker = stack.enter_context(fake_docker(tmp_path))
        yield World(docker, port, stack, tmp_path / "state")


@pytest.fixture
def world(tmp_path: Path, free_port: int) -> Iterator[World]:
    """Return a machine with a Docker Engine and nothing else."""
    with make_world(tmp_path, free_port) as made:
        yield made


def test_from_nothing_all_is_made_once(world: World) -> None:
    """Root filesystem, stand-ins, registry, push; the second time nothing, and quickly."""
    made = world.setup(world.settings())
    assert made is not None
    assert made.kind == "debian"
    assert made.references["api"].endswith("@sha256:made")
    programs = [call.split()[0:2] for call in world.recorder.calls]
    assert programs[0][0] == "mmdebstrap"
    assert programs.count(["docker", "buildx"]) == 3
    assert programs.count(["docker", "push"]) == 2
    assert world.said[0] == "Base images: debian (ordered by --bases debian)"
    known = state.load(world.folder)
    assert known.daemon is None
    assert [registry.name for registry in known.registries] == [f"slipway-registry-{world.port}"]
    world.recorder.calls.clear()
    world.docker.requests.clear()
    assert world.setup(world.settings()) == made
    assert world.recorder.calls == []
    assert world.docker.requests == ["GET /_ping"]


def test_a_registry_that_is_up_is_used(world: World) -> None:
    """It is not started, not remembered, and gets what it lacks."""
    world.serve()
    world.setup(world.settings())
    assert world.docker.containers == {}
    assert state.load(world.folder) == state.State()
    assert not any("--target registry" in call for call in world.recorder.calls)
    assert sum(call.startswith("docker push") for call in world.recorder.calls) == 2


def test_official_bases_need_no_standin(world: World) -> None:
    """The registry's own image is pulled, and nothing is made from packages."""
    world.setup(world.settings(bases="registry"))
    assert world.recorder.calls == [
        f"docker --host {world.docker.host} pull --quiet docker.io/library/registry:2"
    ]
    assert state.load(world.folder).registries[0].id == f"id-slipway-registry-{world.port}"
    world.recorder.calls.clear()
    world.setup(world.settings(bases="registry"))
    assert world.recorder.calls == []


def test_a_pull_that_fails_is_said(world: World) -> None:
    """With Docker's own words, and the way around it."""
    world.recorder.outputs["docker --host"] = Output(1, "", "toomanyrequests")
    with pytest.raises(PrerequisiteError, match="registry:2 cannot be pulled") as raised:
        world.setup(world.settings(bases="registry"))
    assert raised.value.evidence == "toomanyrequests"
    assert "--bases debian" in raised.value.remedy


def test_a_registry_elsewhere_is_not_started(world: World) -> None:
    """With official bases nothing local is needed."""
    world.setup(world.settings(bases="registry", registry="registry.example.com/team"))
    assert world.recorder.calls == []
    assert world.docker.containers == {}


def test_dagger_with_a_registry_elsewhere_needs_no_docker(tmp_path: Path) -> None:
    """An engine that brings its own builder needs nothing of this machine."""
    settings = FakeSettings(bases="registry", registry="registry.example.com", engine="dagger")
    said: list[str] = []
    made = anyio.run(partial(package.setup, settings, say=said.append, place=tmp_path, ask=online))
    assert made is None


def test_a_taken_port_is_found_before_anything_is_made(world: World) -> None:
    """Exit code 3, the port, and how to choose another."""
    world.serve()
    assert world.registry is not None
    world.registry.version = ""
    with pytest.raises(PrerequisiteError, match=f"Port {world.port}") as raised:
        world.setup(world.settings())
    assert "--registry" in raised.value.remedy
    assert world.recorder.calls == []


def test_without_root_mmdebstrap_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-ins need it, and nothing is half made without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteError, match="need mmdebstrap") as raised:
        world.setup(world.settings(), root=False)
    assert "sudo make setup" in raised.value.remedy
    assert world.recorder.calls == []


def test_mmdebstrap_is_installed_where_it_is_missing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside Debian with the keys of Debian's archive."""
    monkeypatch.setenv("PATH", str(tmp_path))
    world.recorder.outputs["apt-cache policy"] = Output(0, "  Candidate: 1.0\n", "")
    world.setup(world.settings(), distribution="ubuntu")
    installs = [call for call in world.recorder.calls if " install " in call]
    assert len(installs) == 1
    assert installs[0].endswith("install mmdebstrap debian-archive-keyring")


def test_a_changed_recipe_is_made_anew(world: World) -> None:
    """What the registry has under another tag does not count."""
    world.serve()
    assert world.registry is not None
    for target in TARGETS:
        world.registry.digests[f"slipway-standin/{target}:trixie-000000000000"] = "sha256:old"
    made = world.setup(world.settings())
    assert made is not None
    assert f"trixie-{bases.recipe()}@sha256:made" in made.references["nginx"]


def test_what_was_made_is_what_a_run_finds(world: World) -> None:
    """A run resolves the same references, and fails by name when the registry is down."""
    made = world.setup(world.settings())
    found = anyio.run(partial(bases.resolve_bases, world.settings(), place=world.folder))
    assert found == made
    world.stack.close()
    local = loopback(world.settings().registry)
    assert local is not None
    assert local.answer() == "nothing"
    with pytest.raises(PrerequisiteError, match="does not answer"):
        anyio.run(partial(bases.resolve_bases, world.settings(), place=world.folder))


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for what a program reads."""
    package.tell("hello")
    assert capsys.readouterr() == ("", "hello\n")
