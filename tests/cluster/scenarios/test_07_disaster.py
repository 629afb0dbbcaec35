"""Cluster and registry are gone with all their data; one file brings the system back."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.cluster import stage as stages
from tests.cluster.stage import NGINX

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.stage import Stage

pytestmark = pytest.mark.cluster

UP_LIMIT = 60.0
"""Seconds until a cluster whose programs were built serves."""


@pytest.fixture(scope="module")
def exported(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the release that runs."""
    from tests.cluster.scenarios.conftest import at_rest

    at_rest(stage)
    file = tmp_path_factory.mktemp("export") / "release.slipway"
    done = stage.run("deploy", "export", str(file))
    stage.figures.setdefault("disaster", {}).update(
        export_s=round(done.seconds, 1), export_mb=round(file.stat().st_size / 1e6, 1)
    )
    return file


def test_damaged_file_is_refused_before_anything_changes(
    stage: Stage, exported: Path, tmp_path: Path
) -> None:
    """One byte that is another one is enough, wherever it is."""
    before = stage.releases()
    size = exported.stat().st_size
    for number, place in enumerate((size // 3, 2 * size // 3, size - 2000)):
        damaged = tmp_path / f"{number}.slipway"
        shutil.copy(exported, damaged)
        with damaged.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 0x40]))
        done = stage.run("deploy", "--from", str(damaged), code=2)
        assert damaged.name in done.out
    assert stage.releases() == before


def test_everything_is_brought_back_from_one_file(stage: Stage, exported: Path) -> None:
    """Into an empty registry and an empty cluster, without sources: the same images serve."""
    if not stage.own:
        pytest.skip("the cluster was lent, and is not to be destroyed")
    wanted = stage.digests(stage.version)
    stage.run("cluster", "down")
    stages.destroy_registry(stage.address)
    assert not stages.is_up(stage.home)
    assert not (stage.home / "slipway/cluster/etcd").exists()
    began = time.monotonic()
    anyio.run(stages.start_registry, stage.address)
    up = stage.run("cluster", "up")
    prepare = stage.run("cluster", "prepare", limit=600)
    deploy = stage.run("deploy", "--from", str(exported))
    back = time.monotonic() - began
    listed = stage.ask()
    stage.figures.setdefault("disaster", {}).update(
        cluster_up_s=round(up.seconds, 1),
        cluster_prepare_s=round(prepare.seconds, 1),
        deploy_from_file_s=round(deploy.seconds, 1),
        back_after_s=round(back, 1),
    )
    assert {each["pod"] for each in listed["containers"]} == {
        pod["metadata"]["name"] for pod in stage.pods()
    }
    assert {name: stage.images_of(name) for name in wanted} == {
        name: {digest} for name, digest in wanted.items()
    }
    assert stage.pods(NGINX)
    assert "deployed" in stage.releases().values()
    assert up.seconds <= UP_LIMIT, up
