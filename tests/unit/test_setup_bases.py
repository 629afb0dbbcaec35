"""Base images: official or stand-in, by digest."""

from __future__ import annotations

import json
import re
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup import bases
from pipeline.setup.bases import Probe, Workshop, choose, reference, resolve_bases
from pipeline.setup.command import Output
from pipeline.setup.registry import loopback

from .setup_fakes import (
    FakeRegistry,
    FakeSettings,
    Recorder,
    fake_docker,
    fake_registry,
    offline,
    online,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.setup.bases import Ask

ROOT = Path(__file__).parents[2]


def fill(registry: FakeRegistry) -> None:
    """Put the stand-ins into a registry."""
    for target in bases.TARGETS.values():
        registry.digests[f"slipway-standin/{target}:trixie-{bases.recipe()}"] = f"sha256:{target}"


@pytest.mark.parametrize(("image", "folder"), [("api", "service"), ("nginx", "nginx")])
def test_the_official_base_is_the_default_of_the_dockerfile(image: str, folder: str) -> None:
    """One official base per image: in its Dockerfile, here, and in its stand-in's label."""
    dockerfile = (ROOT / folder / "Dockerfile").read_text()
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    assert found is not None
    assert found[1] == bases.OFFICIAL[image]
    label = f'io.slipway.standin="{bases.OFFICIAL[image].removeprefix("docker.io/library/")}"'
    assert label in (bases.STANDINS / "Dockerfile").read_text()


def test_the_standins_pull_nothing() -> None:
    """Their Dockerfile needs no image but the root filesystem, and no frontend."""
    text = (bases.STANDINS / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${DEBIAN}"}
    assert "syntax=" not in text
    assert "--from=" not in text


def test_a_reference_names_the_recipe() -> None:
    """A changed recipe is another tag, so that it is made anew."""
    assert re.fullmatch(r"[0-9a-f]{12}", bases.recipe())
    assert reference("debian", "api", "127.0.0.1:5051") == (
        f"127.0.0.1:5051/slipway-standin/python:trixie-{bases.recipe()}"
    )
    assert reference("registry", "nginx").startswith("docker.io/library/nginx:")


def test_auto_takes_the_official_ones_where_their_registry_answers(tmp_path: Path) -> None:
    """Digests are used as far as they are known, tags else; why is said."""
    found = anyio.run(
        partial(resolve_bases, FakeSettings(bases="auto"), ask=online, place=tmp_path)
    )
    assert found.kind == "registry"
    assert found.reason == "auto: https://registry-1.docker.io/v2/ answers"
    assert found.references == {"api": "python@sha256:1", "nginx": bases.OFFICIAL["nginx"]}


def test_auto_takes_the_standins_where_it_does_not(tmp_path: Path) -> None:
    """By digest, from the loopback registry that images go to."""
    with fake_registry() as registry:
        fill(registry)
        settings = FakeSettings(registry=f"{registry.address}/team", bases="auto")
        found = anyio.run(partial(resolve_bases, settings, ask=offline, place=tmp_path))
    assert found.kind == "debian"
    assert "does not answer (name not known)" in found.reason
    assert found.references["api"] == (
        f"{reference('debian', 'api', registry.address)}@sha256:python"
    )


def test_the_standins_of_a_registry_elsewhere_are_on_the_default_one() -> None:
    """Images go to the registry that was named; stand-ins stay on this machine."""
    assert str(bases.home(FakeSettings(registry="registry.example.com/a"))) == "127.0.0.1:5050"
    assert str(bases.home(FakeSettings(registry="localhost:5051/a"))) == "localhost:5051"


def test_missing_standins_are_a_prerequisite_with_the_command(tmp_path: Path) -> None:
    """Before the first step, exit code 3, and the remedy is set-up."""
    with fake_registry() as registry:
        fill(registry)
        registry.digests = {k: v for k, v in registry.digests.items() if "nginx" not in k}
        settings = FakeSettings(registry=registry.address)
        with pytest.raises(PrerequisiteError, match="base image of nginx is not on") as raised:
            anyio.run(partial(resolve_bases, settings, place=tmp_path))
    assert raised.value.remedy == f"Run `PIPELINE_REGISTRY={registry.address} make setup`."


def test_an_order_is_never_replaced_by_the_other(tmp_path: Path) -> None:
    """`--bases registry` without the registry is an error, and `--bases debian` asks nobody."""
    with pytest.raises(PrerequisiteError, match="does not answer: name not known"):
        anyio.run(partial(choose, FakeSettings(bases="registry"), ask=offline, place=tmp_path))

    def never(_ca: Path | None) -> Probe:
        raise AssertionError

    kind, reason, _ = anyio.run(
        partial(choose, FakeSettings(bases="debian"), ask=never, place=tmp_path)
    )
    assert (kind, reason) == ("debian", "ordered by --bases debian")
    kind, reason, _ = anyio.run(
        partial(choose, FakeSettings(bases="registry"), ask=online, place=tmp_path / "other")
    )
    assert kind == "registry"
    assert reason.startswith("ordered by --bases registry")


def test_an_untrusted_certificate_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Behind an intercepting proxy the CA is what is missing, not the network."""

    def intercepted(_ca: Path | None) -> Probe:
        return Probe(answered=False, detail="self-signed", references={}, untrusted=True)

    with pytest.raises(PrerequisiteError, match="self-signed") as raised:
        anyio.run(partial(choose, FakeSettings(bases="registry"), ask=intercepted, place=tmp_path))
    assert "--ca" in raised.value.remedy


def test_the_answer_is_remembered_for_a_while(tmp_path: Path) -> None:
    """A dead network costs its 3 s once; another CA bundle or an old answer asks again."""
    asked: list[Path | None] = []

    def ask(ca: Path | None) -> Probe:
        asked.append(ca)
        return offline(ca)

    settings = FakeSettings(bases="auto")
    for _ in range(3):
        anyio.run(partial(choose, settings, ask=ask, place=tmp_path))
    assert asked == [None]
    other = FakeSettings(bases="auto", ca=Path("/ca.pem"))
    anyio.run(partial(choose, other, ask=ask, place=tmp_path))
    assert asked == [None, Path("/ca.pem")]
    record = json.loads((tmp_path / "bases.json").read_text())
    record["at"] = time.time() - bases.REMEMBERED - 1
    (tmp_path / "bases.json").write_text(json.dumps(record))
    anyio.run(partial(choose, other, ask=ask, place=tmp_path))
    assert len(asked) == 3


@pytest.mark.parametrize("text", ["", "{}", '{"at": "x"}', "[]"])
def test_a_broken_memory_is_asked_again(tmp_path: Path, text: str) -> None:
    """It is a memory, not a truth."""
    (tmp_path / "bases.json").write_text(text)
    kind, _, _ = anyio.run(partial(choose, FakeSettings(bases="auto"), ask=online, place=tmp_path))
    assert kind == "registry"


def test_an_order_does_not_believe_an_old_refusal(tmp_path: Path) -> None:
    """The network may have come back since."""

    def kind(bases: str, ask: Ask) -> str:
        return anyio.run(partial(choose, FakeSettings(bases=bases), ask=ask, place=tmp_path))[0]

    assert kind("auto", offline) == "debian"
    assert kind("auto", online) == "debian"
    assert kind("registry", online) == "registry"
    assert kind("registry", offline) == "registry"


def test_a_memory_that_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    """A run with a state folder that is read-only asks each time."""
    (tmp_path / "file").write_text("")
    kind, _, _ = anyio.run(
        partial(choose, FakeSettings(bases="auto"), ask=offline, place=tmp_path / "file")
    )
    assert kind == "debian"


def test_asking_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that swallows everything costs the limit, and says so."""
    monkeypatch.setattr(bases, "PROBE_LIMIT", 0.1)
    release = threading.Event()

    def hang(ca: Path | None) -> Probe:
        release.wait(10)
        return online(ca)

    started = time.monotonic()
    try:
        kind, reason, _ = anyio.run(
            partial(choose, FakeSettings(bases="auto"), ask=hang, place=tmp_path)
        )
    finally:
        release.set()
    assert time.monotonic() - started < 3
    assert kind == "debian"
    assert "not within" in reason


def test_digests_are_asked_for_without_an_account() -> None:
    """A token for reading, then the manifest's digest; what cannot be had is left out."""
    asked: list[tuple[str, str]] = []

    def fetch(url: str, method: str, headers: dict[str, str]) -> tuple[bytes, Mapping[str, str]]:
        asked.append((method, url))
        if "nginx" in url:
            raise OSError(url)
        if method == "GET":
            return b'{"token": "t"}', {}
        assert headers["Authorization"] == "Bearer t"
        return b"", {"Docker-Content-Digest": "sha256:abc"}

    found = bases.digests(fetch)
    assert found == {"api": f"{bases.OFFICIAL['api']}@sha256:abc"}
    assert (
        "HEAD",
        "https://registry-1.docker.io/v2/library/python/manifests/3.13-slim-trixie",
    ) in (asked)


def test_a_bundle_that_is_none_is_an_answer_too(tmp_path: Path) -> None:
    """A CA file that holds no certificate means that nothing can be asked; it is said why."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("nothing")
    probe = bases.ask_hub(bundle)
    assert not probe.answered
    assert probe.detail


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    """The root filesystem once, each stand-in on it; a second time nothing."""
    recorder = Recorder()
    said: list[str] = []
    found = loopback("127.0.0.1:5050")
    assert found is not None
    with fake_docker(tmp_path) as docker:
        workshop = Workshop(docker.client, recorder, said.append, Path("/ca.pem"), "http://m")
        anyio.run(partial(bases.prepare, workshop, found, with_registry=True))
        assert [call.split()[0] for call in recorder.calls[:2]] == ["mmdebstrap", "docker"]
        assert recorder.calls[0].endswith(".tar http://m")
        assert recorder.calls[1].startswith("docker import --change")
        builds = recorder.calls[2:]
        assert len(builds) == 3
        assert all("--secret id=ca,src=/ca.pem" in build for build in builds)
        assert all("--builder default" in build for build in builds)
        assert recorder.environments[-1] is not None
        assert recorder.environments[-1]["DOCKER_HOST"] == docker.host
        names = [build.split("--tag ")[1].split()[0] for build in builds]
        assert sorted(names) == sorted(
            [
                reference("debian", "api"),
                reference("debian", "nginx"),
                workshop.registry_image,
            ]
        )
        docker.images.update(names)
        recorder.calls.clear()
        anyio.run(partial(bases.prepare, workshop, found, with_registry=True))
        assert recorder.calls == []


def test_a_proxy_is_passed_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value may hold a password, and is in no list of processes."""
    monkeypatch.setenv("https_proxy", "http://user:hunter2@proxy.example.com")
    recorder = Recorder()
    with fake_docker(tmp_path) as docker:
        anyio.run(Workshop(docker.client, recorder, print).make, "python", "x")
    assert "--build-arg https_proxy " in recorder.calls[0]
    assert "hunter2" not in recorder.calls[0]


def test_a_failed_build_is_one_error_with_its_output(tmp_path: Path) -> None:
    """Of several that fail at once, one is told; its output is the evidence."""
    recorder = Recorder({"docker buildx": Output(1, "", "E: no mirror")})
    found = loopback("127.0.0.1:5050")
    assert found is not None
    with fake_docker(tmp_path) as docker:
        workshop = Workshop(docker.client, recorder, print)
        with pytest.raises(PrerequisiteError, match="cannot be made") as raised:
            anyio.run(partial(bases.prepare, workshop, found, with_registry=False))
    assert raised.value.evidence == "E: no mirror"


def test_only_what_the_registry_lacks_is_pushed(tmp_path: Path) -> None:
    """What is there by its tag is not pushed again."""
    recorder = Recorder()
    with fake_docker(tmp_path) as docker, fake_registry() as registry:
        fill(registry)
        registry.digests = {k: v for k, v in registry.digests.items() if "nginx" in k}
        found = loopback(registry.address)
        assert found is not None
        anyio.run(bases.publish, Workshop(docker.client, recorder, print), found)
        expected = reference("debian", "api", registry.address)
    assert recorder.calls == [f"docker push --quiet {expected}"]
