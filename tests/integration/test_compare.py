"""Two builds of the same commit, each from an empty cache, are equal; the command says so."""

from __future__ import annotations

import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from pipeline import compare, context
from pipeline.config import find_root
from pipeline.setup.command import tail
from tests.embedded import resources

from .conftest import DOCKER_HOST

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.docker, pytest.mark.network]

CA = "/etc/ssl/certs/ca-certificates.crt"
LIMIT = 600


def docker(*arguments: str) -> None:
    """Run the Docker client."""
    command = ["docker", "--host", DOCKER_HOST, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, tail(done.stderr)


def build(folder: Path, base: str, out: Path) -> Path:
    """Build a runtime target with nothing to go by, not even what a mounted cache has kept."""
    name = f"slipway-test:{uuid.uuid4().hex}"
    docker(
        *("buildx", "build", "--builder", "default", "--no-cache", "--load", "--tag", name),
        *("--provenance=false", "--target", "runtime"),
        *("--build-arg", f"BASE={base}", "--build-arg", "REVISION=abc", "--build-arg", "VERSION=1"),
        *("--build-arg", "CREATED=2020-01-01T00:00:00Z"),
        *("--build-arg", f"BUILDKIT_CACHE_MOUNT_NS={uuid.uuid4().hex}"),
        *("--secret", f"id=ca,src={CA}", str(folder)),
    )
    try:
        docker("save", "--output", str(out), name)
    finally:
        docker("rmi", name)
    return out


@pytest.mark.parametrize("name", ["api", "nginx"])
def test_two_builds_from_empty_caches_are_equal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """File contents, modes, owners and configuration; times are not compared."""
    root = find_root(tmp_path.cwd())
    assert root is not None
    folder = root / context.IMAGES[name]
    base = resources().bases[name]
    first = build(folder, base, tmp_path / "first.tar")
    second = build(folder, base, tmp_path / "second.tar")
    code = compare.main([str(first), str(second)])
    assert code == 0, capsys.readouterr().out


def test_images_on_a_registry_are_compared(
    image: str, registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their references; one that is not there is told."""
    assert compare.main([image, image]) == 0
    assert capsys.readouterr().out.startswith("equal: ")
    assert compare.main([image, f"{registry}/no/such:image"]) == 2
    assert "is not on the registry" in capsys.readouterr().err
