"""Where kubectl is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.cluster import kubectl
from pipeline.errors import PrerequisiteError


def nowhere(_: str) -> None:
    """Find nothing."""


def test_the_one_on_path_counts_first() -> None:
    """It is the one that its owner keeps up to date."""
    found = kubectl.find(lambda name: f"/usr/bin/{name}", lambda: Path("/built/kubectl"))
    assert found == Path("/usr/bin/kubectl")


def test_else_the_one_that_was_built() -> None:
    """A machine with a local cluster needs no other."""
    assert kubectl.find(nowhere, lambda: Path("/built/kubectl")) == Path("/built/kubectl")


def test_without_any_the_remedy_names_both_ways() -> None:
    """Exit code 3."""
    with pytest.raises(PrerequisiteError, match="kubectl is not on PATH") as raised:
        kubectl.find(nowhere, lambda: None)
    assert "cluster up --provider local" in raised.value.remedy


def test_of_several_builds_the_one_used_last_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build of another checkout, or an older one, may be there too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kubectl.newest() is None
    for age, name in ((30, "local-1"), (10, "local-2"), (20, "local-3")):
        file = tmp_path / "slipway" / "kubernetes" / name / "bin" / "kubectl"
        file.parent.mkdir(parents=True)
        file.touch(mode=0o755)
        os.utime(file.parents[1], (1000 - age, 1000 - age))
    found = kubectl.newest()
    assert found is not None
    assert found.parents[1].name == "local-2"
