"""Who the registry takes us for."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import credentials, images, log
from pipeline.config import Settings
from pipeline.errors import UsageError
from pipeline.registry import Login

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REMOTE = images.parse_registry("registry.example.com:5000/team")
AUTH = {"auth": base64.b64encode(b"alice:from-docker").decode()}


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    """Forget what a test has concealed."""
    with log.remembering():
        yield


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that Docker's client would have its configuration in."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


def write(docker: Path, content: object) -> None:
    """Write Docker's configuration."""
    (docker / "config.json").write_text(json.dumps(content), encoding="utf-8")


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a credential helper named ``test`` on PATH."""
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def found(tmp_path: Path, registry: images.Registry = REMOTE, **given: Any) -> Login | None:  # noqa: ANN401
    """Return the login for a registry."""
    return credentials.find(Settings(root=tmp_path, **given), registry)


def test_given_user_goes_before_docker_s(docker: Path, tmp_path: Path) -> None:
    """What the environment says counts, and the password is concealed from then on."""
    write(docker, {"auths": {"registry.example.com:5000": AUTH}})
    login = found(tmp_path, registry_user="bob", registry_password="hunter2-hunter2")
    assert login == Login("bob", "hunter2-hunter2")
    assert "hunter2" not in log.scrub("a hunter2-hunter2 b")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"registry_user": "bob"}, "PIPELINE_REGISTRY_PASSWORD"),
        ({"registry_password": "pw"}, "PIPELINE_REGISTRY_USER"),
    ],
)
def test_half_a_login_is_refused(tmp_path: Path, given: dict[str, Any], missing: str) -> None:
    """A credential that is named but missing is an error of usage, with its name."""
    with pytest.raises(UsageError) as caught:
        credentials.find(Settings(root=tmp_path, **given), REMOTE)
    assert missing in caught.value.remedy


@pytest.mark.parametrize("name", ["registry.example.com:5000", "https://registry.example.com:5000"])
def test_login_of_docker_is_found_by_the_registry_s_address(
    docker: Path, tmp_path: Path, name: str
) -> None:
    """``docker login`` writes it, older versions with a scheme; others' logins do not matter."""
    write(docker, {"auths": {name: AUTH, "other.example": {"auth": "not base64"}}})
    assert found(tmp_path) == Login("alice", "from-docker")
    assert "from-docker" not in log.scrub("from-docker")


def test_login_of_docker_hub_has_its_own_name(docker: Path, tmp_path: Path) -> None:
    """Docker writes it by the address of an API that is long gone."""
    write(docker, {"auths": {"https://index.docker.io/v1/": AUTH}})
    assert found(tmp_path, images.parse_registry("docker.io/acme")) == Login("alice", "from-docker")
    assert found(tmp_path) is None


def test_without_a_login_there_is_none(docker: Path, tmp_path: Path) -> None:
    """Most registries on a machine's own interface want none."""
    assert found(tmp_path) is None
    write(docker, {"auths": {"other.example": AUTH}})
    assert found(tmp_path) is None
    write(docker, [])
    assert found(tmp_path) is None


def test_helper_is_asked(docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper for one registry, or a store for all, is a program that is asked."""
    helper(docker, monkeypatch, """echo '{"Username": "carol", "Secret": "from-helper"}'""")
    write(docker, {"credHelpers": {"registry.example.com:5000": "test"}})
    assert found(tmp_path) == Login("carol", "from-helper")
    write(docker, {"credsStore": "test"})
    assert found(tmp_path) == Login("carol", "from-helper")


def test_store_is_not_asked_about_the_loopback_interface(
    docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless somebody logged in there: a store that does not work must not stop a local run."""
    helper(docker, monkeypatch, "exit 1")
    write(docker, {"credsStore": "test"})
    local = images.parse_registry("127.0.0.1:5050")
    assert found(tmp_path, local) is None
    write(docker, {"credsStore": "test", "auths": {"127.0.0.1:5050": {}}})
    with pytest.raises(UsageError):
        found(tmp_path, local)


def test_store_that_knows_nothing_is_no_error(
    docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so in these words."""
    helper(docker, monkeypatch, "echo 'credentials not found in native keychain'; exit 1")
    write(docker, {"credsStore": "test"})
    assert found(tmp_path) is None


def test_helper_that_is_not_there_is_named(
    docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential that is named but missing is an error of usage."""
    monkeypatch.setenv("PATH", "/nonexistent")
    write(docker, {"credHelpers": {"registry.example.com:5000": "surely-not"}})
    with pytest.raises(UsageError, match="surely-not") as caught:
        found(tmp_path)
    assert "PIPELINE_REGISTRY_USER" in caught.value.remedy


@pytest.mark.parametrize("entry", [{"auth": "not base64"}, {"identitytoken": "x"}])
def test_login_that_cannot_be_used_is_told(
    docker: Path, tmp_path: Path, entry: dict[str, str]
) -> None:
    """A broken entry, or a token that only Docker itself can use."""
    write(docker, {"auths": {"registry.example.com:5000": entry}})
    with pytest.raises(UsageError, match=r"registry\.example\.com:5000"):
        found(tmp_path)


def test_configuration_that_is_no_json_is_named(docker: Path, tmp_path: Path) -> None:
    """The file is in the message."""
    (docker / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        found(tmp_path)
