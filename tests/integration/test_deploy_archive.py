"""A release in a file, from a real registry that is then destroyed, into a real empty one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline import images as references
from pipeline.config import Settings
from pipeline.deploy import archive, registries, sources
from pipeline.deploy.release import Image, Release, Source
from pipeline.errors import PrerequisiteError
from pipeline.registry import Client
from pipeline.setup import registry
from pipeline.setup.docker import DEFAULT_HOST, Docker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.docker

HOST = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@contextmanager
def empty_registry(port: int) -> Iterator[str]:
    """Run a registry of the kind that set-up runs, and remove it with its data."""
    docker = Docker(HOST)
    ours = docker.container("slipway-registry")
    if ours is None:
        pytest.skip("there is no slipway-registry here, whose image could be started")
    there = registry.Registry("127.0.0.1", port)
    try:
        anyio.run(registry.start, there, docker, ours["Config"]["Image"], print)
        yield f"127.0.0.1:{port}"
    finally:
        docker.remove(there.name, grace=0)
        docker.request("DELETE", f"/volumes/{there.name}")


def described(kind: str, body: bytes) -> dict[str, object]:
    """Return how a manifest names a part."""
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(body)}


async def push_image(name: str, address: str, content: bytes) -> Image:
    """Push an image of one file, as Docker makes them, and return it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("content")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    layer = gzip.compress(packed.getvalue(), mtime=0)
    plain = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {sources.REVISION_LABEL: "c0ffee"}},
        "rootfs": {"type": "layers", "diff_ids": [plain]},
    }
    parts = {CONFIG: json.dumps(config).encode(), LAYER: layer}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, parts[CONFIG]),
        "layers": [described(LAYER, layer)],
    }
    body = json.dumps(manifest).encode()
    place = references.parse_registry(address)
    client, reference = Client(place), place.reference(f"slipway-{name}", "1")
    for kind, part in parts.items():
        await client.upload(reference, described(kind, part), partial(iter, [part]))
    await client.put(reference, "1", MANIFEST, body)
    return Image(name, str(reference.with_digest(str(described(MANIFEST, body)["digest"]))))


def test_a_release_survives_its_registry(tmp_path: Path, free_port: int) -> None:
    """Exported, the registry and its data destroyed, restored into an empty one, and pulled."""
    file = tmp_path / "release.tar"
    settings = Settings(root=tmp_path, registry=f"127.0.0.1:{free_port}", deploy_tag="1")
    docker, said = Docker(HOST), list[str]()

    async def export() -> Release:
        pushed = (
            await push_image("api", settings.registry, os.urandom(3 << 20)),
            await push_image("nginx", settings.registry, b"nginx" * 1000),
        )
        found = await sources.find(settings)
        assert found == Source(pushed, "c0ffee", "tag 1")
        await sources.confirm(found, settings)
        release = Release(found.images, (), "slipway", revision=found.revision, number=1)
        await archive.write(release, settings, file, said.append)
        return release

    async def restore(release: Release) -> tuple[Image, ...]:
        assert await archive.read(file) == release
        with pytest.raises(PrerequisiteError, match="is not on the registry"):
            await sources.confirm(Source(release.images, "", "file"), settings)
        images = await archive.push(file, release, settings, said.append)
        await sources.confirm(Source(images, "", "file"), settings)
        return images

    with empty_registry(free_port):
        release = anyio.run(export)
    with empty_registry(free_port):
        images = anyio.run(restore, release)
        assert images == release.images
        for image in images:
            reference = f"{image.parsed.host}/{image.parsed.repository}@{image.digest}"
            try:
                name, _, digest = reference.partition("@")
                pulled = docker.request(
                    "POST", f"/images/create?fromImage={name}&tag={digest}", timeout=60.0
                )
                assert pulled.status == 200, pulled.message
                assert b'"error"' not in pulled.body, pulled.body
                found = docker.request("GET", f"/images/{reference}/json").json()
                assert reference in found["RepoDigests"]
            finally:
                docker.request("DELETE", f"/images/{reference}")


def test_a_registry_that_is_gone_is_told(tmp_path: Path, free_port: int) -> None:
    """An export names the registry that does not answer, and writes nothing."""
    settings = Settings(root=tmp_path, registry=f"127.0.0.1:{free_port}")
    with empty_registry(free_port):
        image = anyio.run(push_image, "api", settings.registry, b"x")
    release = Release((image,), (), "slipway", number=1)
    call = partial(archive.write, release, settings, tmp_path / "x.tar", print)
    with pytest.raises(PrerequisiteError, match="does not answer: Connection refused"):
        anyio.run(call)


def test_a_client_is_opened_with_the_login_of_docker(tmp_path: Path) -> None:
    """None for a registry on this machine that nobody logged in to."""
    settings = Settings(root=tmp_path)
    place = references.parse_registry(settings.registry)
    client = anyio.run(registries.open_client, settings, place)
    anyio.run(client.ping)
