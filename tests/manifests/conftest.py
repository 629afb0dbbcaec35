"""What the tests of the rendered manifests share: the programs, and what they render.

These need kubectl and Go, but no cluster; a test that does has the marker `cluster`, because it is
where a cluster is tested that both are there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.cluster import kubectl as pipeline_kubectl
from pipeline.errors import PrerequisiteError

from . import tools
from .objects import OVERLAYS, changed

if TYPE_CHECKING:
    from .objects import Object


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """Return the kubectl that the pipeline takes."""
    try:
        return pipeline_kubectl.find()
    except PrerequisiteError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def go() -> Path:
    """Return the Go command."""
    found = shutil.which("go")
    if found is None:
        pytest.skip("go is not on PATH")
    return Path(found)


@pytest.fixture(scope="session")
def checks(go: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the programs of k8s/checks, built."""
    folder = tmp_path_factory.mktemp("checks")
    tools.build(go, folder)
    return folder


@pytest.fixture(scope="session")
def rendered(kubectl: Path) -> dict[str, list[Object]]:
    """Return the objects of each overlay, as they are deployed."""
    return {name: tools.rendered(kubectl, folder) for name, folder in OVERLAYS.items()}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, rendered: dict[str, list[Object]]) -> list[Object]:
    """Return copies of the objects of one overlay; the test runs once for each."""
    return changed(rendered[request.param])
