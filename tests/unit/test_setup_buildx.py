"""Docker's client and its plug-in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline.setup import buildx

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "config").mkdir()


def program(file: Path) -> Path:
    """Make a file that may be executed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    """No client and no plug-in are two findings."""
    assert buildx.client() is None
    assert buildx.plugin((str(tmp_path / "none"),)) is None


def test_the_plugin_is_found_where_docker_looks(tmp_path: Path) -> None:
    """The folders named in config.json come first, then the user's own, then the system's."""
    system = program(tmp_path / "system" / "docker-buildx")
    folders = (str(system.parent),)
    assert buildx.plugin(folders) == system
    own = program(tmp_path / "config" / "cli-plugins" / "docker-buildx")
    assert buildx.plugin(folders) == own
    extra = program(tmp_path / "extra" / "docker-buildx")
    config = {"cliPluginsExtraDirs": [str(extra.parent)]}
    (tmp_path / "config" / "config.json").write_text(json.dumps(config))
    assert buildx.plugin(folders) == extra


def test_a_plugin_that_may_not_be_executed_does_not_count(tmp_path: Path) -> None:
    """Docker's client passes it over, too."""
    program(tmp_path / "system" / "docker-buildx").chmod(0o644)
    assert buildx.plugin((str(tmp_path / "system"),)) is None


@pytest.mark.parametrize("text", ["", "[]", '{"cliPluginsExtraDirs": 3}', '{"auths": {}}'])
def test_a_configuration_that_names_no_folder_is_passed_over(tmp_path: Path, text: str) -> None:
    """What Docker's client can live with, set-up can."""
    (tmp_path / "config" / "config.json").write_text(text)
    assert buildx.plugin((str(tmp_path / "none"),)) is None
    assert buildx.context() == ""


def test_the_client_is_the_first_on_path(tmp_path: Path) -> None:
    """It is the one that a person would run."""
    docker = program(tmp_path / "bin" / "docker")
    assert buildx.client() == docker


def test_a_context_of_the_client_is_told(tmp_path: Path) -> None:
    """Docker Desktop's engine is behind a context, not behind the default socket."""
    config = tmp_path / "config" / "config.json"
    config.write_text('{"currentContext": "desktop-linux"}')
    assert buildx.context() == "desktop-linux"
    config.write_text('{"currentContext": "default"}')
    assert buildx.context() == ""
