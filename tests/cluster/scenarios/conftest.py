"""The stage of the scenarios, which one cluster serves from the first file to the last."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.cluster import figures
from tests.cluster import stage as stages
from tests.cluster.stage import LEAST, VERSIONS, WORKLOADS, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

UP_LIMIT = 2400.0
"""Seconds for a cluster that has to be built first; once built it is up in less than a minute."""
PREPARE_LIMIT = 600.0
REST_LIMIT = 180.0
"""Seconds for the autoscalers to take back what a test had them add."""


@pytest.fixture(scope="package")
def stage() -> Iterator[Stage]:
    """Return a cluster that runs and is prepared, with nothing deployed to it by this run."""
    home = stages.lent()
    # Not pytest's folder, which stays: what a node leaves is measured in gigabytes.
    folder = Path(tempfile.mkdtemp(prefix="slipway-cluster-"))
    try:
        if home is None:
            yield from _own(folder)
        else:
            yield _lent(folder, home)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _own(folder: Path) -> Iterator[Stage]:
    address = f"127.0.0.1:{stages.free_port()}"
    stage = Stage(folder, folder / "state", address, "slipway", own=True)
    try:
        anyio.run(stages.start_registry, address)
        up = stage.run("cluster", "up", code=None, limit=UP_LIMIT)
        if up.code == 3:
            pytest.skip(up.out)
        assert up.code == 0, up
        prepare = stage.run("cluster", "prepare", limit=PREPARE_LIMIT)
        stage.figures["from nothing"] = {
            "cluster_up_s": round(up.seconds, 1),
            "cluster_prepare_s": round(prepare.seconds, 1),
        }
        yield stage
    finally:
        figures.save(stage.figures)
        down = stage.run("cluster", "down", code=None)
        stages.destroy_registry(address)
        assert down.code == 0, down


def _lent(folder: Path, home: Path) -> Stage:
    address = os.environ.get("PIPELINE_REGISTRY", "127.0.0.1:5050")
    if not stages.is_up(home):
        pytest.skip(f"no local cluster is up in {home}")
    return Stage(folder, home, address, "cluster-tests", own=False)


@pytest.fixture
def deployed(stage: Stage) -> Stage:
    """Return the stage with one of the two versions deployed and at rest."""
    at_rest(stage)
    return stage


def at_rest(stage: Stage) -> None:
    """Have a version that works, with as many pods as the autoscalers leave at rest."""
    if "deployed" not in stage.releases().values() or not stage.version:
        stage.deploy(VERSIONS[0])
    with stage.watch() as watch:
        watch.until(
            lambda now: all(
                now.ready.get(name) == now.present.get(name) == LEAST for name in WORKLOADS
            ),
            REST_LIMIT,
        )


@pytest.fixture(autouse=True)
def _kept(stage: Stage, request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep what was measured so far after each test, and say how long the test took."""
    began = time.monotonic()
    yield
    figures.save(stage.figures)
    sys.stdout.write(f"{request.node.name}: {time.monotonic() - began:.0f} s\n")
