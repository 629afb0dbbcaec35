"""The kubeconfig of a person, with a program that stands for kubectl."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline.cluster.local.kubeconfig import Before, Kubeconfig
from pipeline.errors import PrerequisiteError
from pipeline.setup.command import Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SERVER = "https://127.0.0.1:6443"
NAME = "slipway-local"


def _options(words: Sequence[str]) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)


@dataclass
class FakeKubectl:
    """Keeps a kubeconfig in JSON, by the rules of ``kubectl config``."""

    file: Path
    broken: bool = False
    calls: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """What is in the file."""
        empty: dict[str, Any] = {"clusters": [], "contexts": [], "users": [], "current-context": ""}
        if not self.file.exists():
            return empty
        found: dict[str, Any] = json.loads(self.file.read_text())
        return empty | found

    async def __call__(
        self, argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None
    ) -> Output:
        """Do what kubectl would."""
        assert limit > 0
        assert env is not None
        assert argv[:2] == ["/built/kubectl", "config"]
        self.calls.append(" ".join(argv[2:]))
        if self.broken:
            return Output(1, "", "error loading config file: yaml: line 1")
        config = self.config
        match argv[2:]:
            case ["view", "--output=json"]:
                return Output(0, json.dumps(config), "")
            case ["set-cluster", name, *words]:
                _put(config, "clusters", {"name": name, "cluster": _options(words)})
            case ["set-credentials", name, *words]:
                _put(config, "users", {"name": name, "user": _options(words)})
            case ["set-context", name, *words]:
                _put(config, "contexts", {"name": name, "context": _options(words)})
            case ["use-context", name]:
                config["current-context"] = name
            case ["unset", "current-context"]:
                config["current-context"] = ""
            case [("delete-context" | "delete-cluster" | "delete-user") as verb, name]:
                kind = f"{verb.removeprefix('delete-')}s"
                config[kind] = [entry for entry in config[kind] if entry["name"] != name]
            case other:
                return Output(1, "", f"unknown command {other}")
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(config))
        return Output(0, "", "")


def _put(config: dict[str, Any], kind: str, entry: dict[str, Any]) -> None:
    config[kind] = [known for known in config[kind] if known["name"] != entry["name"]] + [entry]


@pytest.fixture
def kubectl(tmp_path: Path) -> FakeKubectl:
    """Return a kubectl whose file is not there."""
    return FakeKubectl(tmp_path / "home" / "config")


def kubeconfig(kubectl: FakeKubectl) -> Kubeconfig:
    """Return the kubeconfig that a kubectl keeps."""
    program = type(kubectl.file)("/built/kubectl")
    return Kubeconfig(kubectl, program, {"KUBECONFIG": str(kubectl.file)})


def other_cluster(name: str, server: str) -> dict[str, Any]:
    """Return a kubeconfig with a cluster of somebody else's."""
    return {
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "users": [{"name": name, "user": {}}],
        "current-context": name,
    }


def test_the_cluster_is_added_and_made_current(kubectl: FakeKubectl, tmp_path: Path) -> None:
    """With its certificates in the file itself: the folder of the cluster may go."""
    before = anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    assert before == Before(context="", existed=False)
    found = kubectl.config
    assert found["current-context"] == NAME
    assert found["contexts"][0]["context"] == {"cluster": NAME, "user": NAME}
    cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
    assert cluster["server"] == SERVER
    assert cluster["embed-certs"] == user["embed-certs"] == "true"
    assert anyio.run(kubeconfig(kubectl).has, SERVER)
    assert not anyio.run(kubeconfig(kubectl).has, "https://127.0.0.1:7443")


def test_afterwards_the_file_is_gone_when_it_was_made_for_this(
    kubectl: FakeKubectl, tmp_path: Path
) -> None:
    """Nothing stays behind."""
    before = anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    anyio.run(kubeconfig(kubectl).remove, SERVER, before)
    assert not kubectl.file.exists()


def test_what_else_is_there_stays_and_is_current_again(
    kubectl: FakeKubectl, tmp_path: Path
) -> None:
    """The file is as it was."""
    kubectl.file.parent.mkdir()
    kubectl.file.write_text(json.dumps(other_cluster("work", "https://10.0.0.1:6443")))
    was = kubectl.config
    before = anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    assert before == Before(context="work", existed=True)
    assert kubectl.config["current-context"] == NAME
    anyio.run(kubeconfig(kubectl).remove, SERVER, before)
    assert kubectl.config == was


def test_a_context_that_a_person_chose_since_stays_chosen(
    kubectl: FakeKubectl, tmp_path: Path
) -> None:
    """Only ours is given up."""
    kubectl.file.parent.mkdir()
    kubectl.file.write_text(json.dumps(other_cluster("work", "https://10.0.0.1:6443")))
    anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    kubectl.file.write_text(json.dumps(kubectl.config | {"current-context": "work"}))
    anyio.run(kubeconfig(kubectl).remove, SERVER, Before(context="gone", existed=True))
    assert kubectl.config["current-context"] == "work"


def test_without_the_context_of_before_none_is_current(
    kubectl: FakeKubectl, tmp_path: Path
) -> None:
    """It may have been deleted in between."""
    anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    anyio.run(kubeconfig(kubectl).remove, SERVER, Before(context="gone", existed=True))
    assert kubectl.config["current-context"] == ""
    assert kubectl.file.exists()


def test_merged_again_it_does_not_become_its_own_predecessor(
    kubectl: FakeKubectl, tmp_path: Path
) -> None:
    """Else it would be made current after its end."""
    anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    again = anyio.run(kubeconfig(kubectl).merge, "https://127.0.0.1:7443", tmp_path)
    assert again == Before(context="", existed=True)


def test_a_cluster_of_our_name_elsewhere_is_refused(kubectl: FakeKubectl, tmp_path: Path) -> None:
    """It is somebody's way to a cluster; the file is not touched."""
    kubectl.file.parent.mkdir()
    kubectl.file.write_text(json.dumps(other_cluster(NAME, "https://10.0.0.1:6443")))
    was = kubectl.config
    with pytest.raises(PrerequisiteError, match="another cluster slipway-local, at https://10"):
        anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    assert kubectl.config == was


def test_one_that_is_not_ours_any_more_is_left(kubectl: FakeKubectl) -> None:
    """Another local cluster may have taken the name since."""
    kubectl.file.parent.mkdir()
    kubectl.file.write_text(json.dumps(other_cluster(NAME, "https://127.0.0.1:7443")))
    was = kubectl.config
    anyio.run(kubeconfig(kubectl).remove, SERVER, Before(context="", existed=False))
    assert kubectl.config == was


def test_a_broken_file_is_said_with_kubectls_words(kubectl: FakeKubectl, tmp_path: Path) -> None:
    """It is for its owner to repair."""
    kubectl.broken = True
    with pytest.raises(PrerequisiteError, match="cannot be read or written") as raised:
        anyio.run(kubeconfig(kubectl).merge, SERVER, tmp_path)
    assert "yaml: line 1" in raised.value.evidence


def test_the_file_is_the_one_that_kubectl_would_write(tmp_path: Path) -> None:
    """The first of KUBECONFIG that is there, else its last, else the usual one."""

    def file(**environ: str) -> Path:
        return Kubeconfig(FakeKubectl(tmp_path), tmp_path, environ).file

    (tmp_path / "b").touch()
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert file(KUBECONFIG=f"{a}:{b}:{c}") == tmp_path / "b"
    assert file(KUBECONFIG=f"{a}:{c}") == tmp_path / "c"
    assert file(HOME=str(tmp_path)) == tmp_path / ".kube" / "config"
