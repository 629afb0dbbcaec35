"""A release in one file: written, checked, and restored, with registries in memory."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipeline import config, deploy
from pipeline.config import Settings
from pipeline.deploy import archive
from pipeline.deploy.release import Image, Release, to_json
from pipeline.errors import PipelineError, PrerequisiteError, StepError, UsageError
from pipeline.registry import CHUNK, Client

from .deploy_fakes import Screen
from .registry_fakes import INDEX, FakeRegistry, digest_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.images import Registry

pytestmark = pytest.mark.anyio

SHARED = b"shared" * 100
LARGE = bytes(range(256)) * (CHUNK // 240)


@pytest.fixture
def origin() -> Iterator[FakeRegistry]:
    """Return a registry that has both images; they share a layer."""
    with serving() as fake:
        fake.put("slipway-api", "1", SHARED, LARGE)
        fake.put("slipway-nginx", "1", SHARED, b"nginx")
        yield fake


@pytest.fixture
def empty() -> Iterator[FakeRegistry]:
    """Return a registry that has nothing."""
    with serving() as fake:
        yield fake


def release_of(fake: FakeRegistry) -> Release:
    """Return a release of the images on a registry."""
    images = (fake.image("api"), fake.image("nginx"))
    containers = [{"name": image.name, "image": image.pulled("")} for image in images]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", "namespace": "slipway"},
        "spec": {"template": {"spec": {"containers": containers}}},
    }
    return Release(images, (deployment,), "slipway", revision="c0ffee", number=3)


def settings_of(tmp_path: Path, registry: str = "127.0.0.1:5050") -> Settings:
    """Return the settings of a call."""
    return Settings(root=tmp_path, registry=registry)


async def export(tmp_path: Path, fake: FakeRegistry) -> tuple[Path, Release]:
    """Return a file with the release on a registry."""
    file, release = tmp_path / "release.tar", release_of(fake)
    await archive.write(release, settings_of(tmp_path), file, quiet, open_client=anonymous)
    return file, release


def files(folder: Path) -> list[Path]:
    """Return what is in a folder."""
    return list(folder.iterdir())


def quiet(_line: str) -> None:
    """Tell nobody."""


async def anonymous(_settings: Settings, registry: Registry) -> Client:
    """Return a client without a login."""
    return Client(registry)


# --- export --------------------------------------------------------------------------------------


async def test_export_says_what_it_does(tmp_path: Path, origin: FakeRegistry) -> None:
    """A layer that both images have counts once."""
    said: list[str] = []
    file = tmp_path / "x.tar"
    await archive.write(
        release_of(origin), settings_of(tmp_path), file, said.append, open_client=anonymous
    )
    assert len(said) == 1
    assert said[0].startswith("Exporting release 3 and its images (")
    assert files(tmp_path) == [file]


async def test_export_is_a_tar_with_checksums(tmp_path: Path, origin: FakeRegistry) -> None:
    """Any tar reads it, and sha256sum --check agrees."""
    file, release = await export(tmp_path, origin)
    with tarfile.open(file) as tar:
        names = tar.getnames()
        content = {name: opened.read() for name in names if (opened := tar.extractfile(name))}
    assert names[:6] == [
        "SHA256SUMS",
        "slipway.json",
        "release.json",
        "manifests.yaml",
        "oci-layout",
        "index.json",
    ]
    assert len(set(names)) == len(names)
    sums = dict(line.split("  ")[::-1] for line in content["SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256(body).hexdigest()
        for name, body in content.items()
        if name != "SHA256SUMS"
    }
    assert content["release.json"].decode() == to_json(release)
    assert list(yaml.safe_load_all(content["manifests.yaml"])) == list(release.objects)


async def test_export_has_an_oci_image_layout(tmp_path: Path, origin: FakeRegistry) -> None:
    """Its blobs are named by their digests; its index names both images."""
    file, release = await export(tmp_path, origin)
    with tarfile.open(file) as tar:
        blobs = {name for name in tar.getnames() if name.startswith("blobs/")}
        opened = tar.extractfile("index.json")
        assert opened is not None
        index = json.load(opened)
        layout = tar.extractfile("oci-layout")
        assert layout is not None
        assert json.load(layout) == {"imageLayoutVersion": "1.0.0"}
    assert [each["digest"] for each in index["manifests"]] == [i.digest for i in release.images]
    names = [
        each["annotations"]["org.opencontainers.image.ref.name"] for each in index["manifests"]
    ]
    assert names == ["slipway-api:1", "slipway-nginx:1"]
    # Two manifests, one configuration that both have, and three layers.
    assert len(blobs) == 2 + 1 + 3
    assert f"blobs/sha256/{digest_of(SHARED).removeprefix('sha256:')}" in blobs


async def test_export_is_the_same_for_the_same_release(
    tmp_path: Path, origin: FakeRegistry
) -> None:
    """Byte for byte: it has no times and no owners."""
    file, _ = await export(tmp_path, origin)
    first = file.read_bytes()
    file.unlink()
    assert (await export(tmp_path, origin))[0].read_bytes() == first


async def test_export_that_fails_leaves_what_was_there(
    tmp_path: Path, origin: FakeRegistry
) -> None:
    """The file is replaced when all of the new one is written."""
    file, release = await export(tmp_path, origin)
    before = file.read_bytes()
    origin.broken[digest_of(LARGE)] = b"?" * len(LARGE)
    with pytest.raises(StepError, match=f"does not have {digest_of(LARGE)}"):
        await export(tmp_path, origin)
    assert file.read_bytes() == before
    assert files(tmp_path) == [file]
    assert (await archive.read(file)) == release


async def test_export_to_where_nothing_can_be_written_is_refused(
    tmp_path: Path, origin: FakeRegistry
) -> None:
    """A folder that is not there, and a folder in the place of a file."""
    release, settings = release_of(origin), settings_of(tmp_path)
    for file, why in (
        (tmp_path / "no" / "x.tar", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(UsageError, match=f"cannot be exported to .*: {why}"):
            await archive.write(release, settings, file, quiet, open_client=anonymous)


async def test_export_without_room_is_refused(
    tmp_path: Path, origin: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written."""
    monkeypatch.setattr(archive, "DOCUMENT_LIMIT", 1 << 60)
    with pytest.raises(PrerequisiteError, match=r"The export needs .* MB, and .* has"):
        await export(tmp_path, origin)
    assert files(tmp_path) == []


async def test_export_of_what_is_not_there_is_refused(tmp_path: Path, origin: FakeRegistry) -> None:
    """An image that was deleted from the registry, and a registry that is away."""
    release = release_of(origin)
    del origin.manifests["slipway-nginx", release.images[1].digest]
    file = tmp_path / "x.tar"
    with pytest.raises(StepError, match=f"does not have {release.images[1].digest}"):
        await archive.write(release, settings_of(tmp_path), file, quiet, open_client=anonymous)
    away = Image("api", release.images[0].reference.replace(str(origin.port), "1"))
    with pytest.raises(PrerequisiteError, match="does not answer"):
        await archive.write(
            Release((away,), (), "x"), settings_of(tmp_path), file, quiet, open_client=anonymous
        )
    assert not file.exists()


# --- restore -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "environ", "key", "place"),
    [
        ({"namespace": "slipway"}, {}, "", "slipway"),
        ({}, {"PIPELINE_NAMESPACE": "slipway"}, "", "slipway"),
        ({}, {}, 'namespace = "slipway"', "slipway"),
        ({"namespace": "third"}, {}, "", "third"),
        ({}, {}, "", "other"),
    ],
)
async def test_release_is_restored_to_the_namespace_that_was_named(  # noqa: PLR0913, PLR0917 - cases
    tmp_path: Path,
    origin: FakeRegistry,
    flags: dict[str, str],
    environ: dict[str, str],
    key: str,
    place: str,
) -> None:
    """Wherever it was named, and though it be the default; otherwise to where it was exported."""
    file, release = tmp_path / "release.tar", release_of(origin).in_namespace("other")
    await archive.write(release, settings_of(tmp_path), file, quiet, open_client=anonymous)
    (tmp_path / "pyproject.toml").write_text(f"[tool.pipeline]\n{key}\n")
    settings = config.load({"archive": str(file), **flags}, environ, cwd=tmp_path)
    screen = Screen()
    assert await deploy.show(settings, screen) == 0
    (shown,) = yaml.safe_load_all(screen.lines[0])
    assert shown["metadata"]["namespace"] == place


async def test_release_comes_back_as_it_was(tmp_path: Path, origin: FakeRegistry) -> None:
    """Reading needs no registry and no cluster."""
    file, release = await export(tmp_path, origin)
    assert await archive.read(file) == release


async def test_images_go_into_an_empty_registry_with_their_digests(
    tmp_path: Path, origin: FakeRegistry, empty: FakeRegistry
) -> None:
    """Under the namespace that the registry is named with, and under their tag."""
    file, release = await export(tmp_path, origin)
    settings = settings_of(tmp_path, f"127.0.0.1:{empty.port}/team")
    images = await archive.push(file, release, settings, quiet, open_client=anonymous)
    assert [image.digest for image in images] == [image.digest for image in release.images]
    assert images[0].reference == (
        f"127.0.0.1:{empty.port}/team/slipway-api:1@{release.images[0].digest}"
    )
    for name in ("api", "nginx"):
        kept = empty.manifests[f"team/slipway-{name}", "1"]
        assert kept == origin.manifests[f"slipway-{name}", "1"]
    assert empty.blobs["team/slipway-api", digest_of(LARGE)] == LARGE


async def test_a_second_restore_sends_nothing(
    tmp_path: Path, origin: FakeRegistry, empty: FakeRegistry
) -> None:
    """One that was interrupted goes on where it stopped."""
    file, release = await export(tmp_path, origin)
    settings, said = settings_of(tmp_path, str(empty.name)), list[str]()
    await archive.push(file, release, settings, quiet, open_client=anonymous)
    del empty.blobs["slipway-nginx", digest_of(b"nginx")]
    empty.requests.clear()
    await archive.push(file, release, settings, said.append, open_client=anonymous)
    assert [line for line in empty.requests if line.startswith("POST")] == [
        "POST /v2/slipway-nginx/blobs/uploads/"
    ]
    assert said[0].endswith("(0.0 MB sent)")


async def test_a_tag_of_another_image_is_left_alone(
    tmp_path: Path, origin: FakeRegistry, empty: FakeRegistry
) -> None:
    """What is restored is deployed by digest; a tag that somebody has moved is theirs."""
    file, release = await export(tmp_path, origin)
    other = empty.put("slipway-api", "1", b"other")
    settings = settings_of(tmp_path, str(empty.name))
    await archive.push(file, release, settings, quiet, open_client=anonymous)
    assert digest_of(empty.manifests["slipway-api", "1"][1]) == other
    assert ("slipway-api", release.images[0].digest) in empty.manifests


async def test_image_for_several_platforms_is_whole(
    tmp_path: Path, origin: FakeRegistry, empty: FakeRegistry
) -> None:
    """Its index and all that it names, or its digest would be another."""
    child = origin.put("slipway-api", "child", b"one platform")
    _, body = origin.manifests["slipway-api", child]
    index = {"manifests": [{"digest": child, "size": len(body), "mediaType": "m"}]}
    origin.put_manifest("slipway-api", "1", INDEX, json.dumps(index).encode())
    file, release = await export(tmp_path, origin)
    assert await archive.read(file) == release
    settings = settings_of(tmp_path, str(empty.name))
    await archive.push(file, release, settings, quiet, open_client=anonymous)
    assert empty.manifests["slipway-api", "1"] == origin.manifests["slipway-api", "1"]
    assert ("slipway-api", child) in empty.manifests


async def test_registry_that_takes_nothing_is_told(
    tmp_path: Path, origin: FakeRegistry, empty: FakeRegistry
) -> None:
    """No room there, or nobody there."""
    file, release = await export(tmp_path, origin)
    settings = settings_of(tmp_path, str(empty.name))
    empty.refuse = 507
    with pytest.raises(StepError, match="answers 507"):
        await archive.push(file, release, settings, quiet, open_client=anonymous)
    with pytest.raises(PrerequisiteError, match="does not answer"):
        await archive.push(
            file, release, settings_of(tmp_path, "127.0.0.1:1"), quiet, open_client=anonymous
        )


async def test_file_that_goes_away_meanwhile_is_told(
    tmp_path: Path, origin: FakeRegistry, empty: FakeRegistry
) -> None:
    """Between the check and the push."""
    file, release = await export(tmp_path, origin)
    file.unlink()
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        await archive.push(
            file, release, settings_of(tmp_path, str(empty.name)), quiet, open_client=anonymous
        )


# --- damage --------------------------------------------------------------------------------------


async def refused(file: Path) -> str:
    """Return why a file is refused."""
    with pytest.raises(UsageError) as caught:
        await archive.read(file)
    assert caught.value.remedy
    assert caught.value.exit_code == 2
    return caught.value.message


async def test_every_byte_counts(tmp_path: Path, origin: FakeRegistry) -> None:
    """A bit that is flipped anywhere is found: in headers, contents and between them."""
    file, _ = await export(tmp_path, origin)
    whole = file.read_bytes()
    step = len(whole) // 150
    places = {*range(0, 8192, 97), *range(0, len(whole), step), len(whole) - 1}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        assert "damaged" in (why := await refused(file)) or "no exported release" in why, place


async def test_every_length_counts(tmp_path: Path, origin: FakeRegistry) -> None:
    """A copy that stopped, or one that got something added."""
    file, _ = await export(tmp_path, origin)
    whole = file.read_bytes()
    for length in (*range(0, len(whole), len(whole) // 60), len(whole) - 1, len(whole) - 512):
        file.write_bytes(whole[:length])
        assert "damaged" in (why := await refused(file)) or "no exported release" in why, length
    for added in (b"\0", b"x", bytes(512), whole):
        file.write_bytes(whole + added)
        assert "missing or added at its end" in await refused(file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\0" * 10240, b"x" * 2000])
async def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is named for what it is not."""
    file = tmp_path / "x.tar"
    file.write_bytes(content)
    assert "is no exported release" in await refused(file)


async def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """That there is none, and that it is a folder."""
    assert "cannot be read: No such file" in await refused(tmp_path / "x.tar")
    assert "cannot be read: Is a directory" in await refused(tmp_path)


async def test_tar_of_another_tool_is_refused(tmp_path: Path) -> None:
    """As `docker save` writes one."""
    file = tmp_path / "x.tar"
    pack(file, {"manifest.json": b"[]", "repositories": b"{}"})
    assert "is no exported release" in await refused(file)


def pack(
    file: Path,
    members: dict[str, bytes],
    change: Callable[[tarfile.TarInfo], object] = lambda _info: None,
) -> None:
    """Write a tar of members."""
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            change(info)
            tar.addfile(info, io.BytesIO(body) if info.isreg() else None)
    # As ours: the end is two blocks, and not what fills a tape.
    content = file.read_bytes().rstrip(b"\0")
    file.write_bytes(content + bytes(-len(content) % 512) + bytes(1024))


def unpack(file: Path) -> dict[str, bytes]:
    """Return the members of a tar."""
    with tarfile.open(file) as tar:
        return {name: opened.read() for name in tar.getnames() if (opened := tar.extractfile(name))}


def repack(
    file: Path, members: dict[str, bytes], change: Callable[[tarfile.TarInfo], object] | None = None
) -> None:
    """Write an export whose checksums are right, whatever is in it."""
    sums = "".join(
        f"{hashlib.sha256(body).hexdigest()}  {name}\n"
        for name, body in members.items()
        if name != "SHA256SUMS"
    )
    pack(file, {**members, "SHA256SUMS": sums.encode()}, change or (lambda _info: None))


async def test_repacked_export_is_read(tmp_path: Path, origin: FakeRegistry) -> None:
    """So that what the tests below refuse is refused for what they changed."""
    file, release = await export(tmp_path, origin)
    repack(file, unpack(file))
    assert await archive.read(file) == release


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "blobs/sha256/../x", "a b"])
async def test_names_that_lead_elsewhere_are_refused(
    tmp_path: Path, origin: FakeRegistry, name: str
) -> None:
    """Though nothing is ever unpacked."""
    file, _ = await export(tmp_path, origin)
    repack(file, {**unpack(file), name: b"x"})
    assert f"{name!r} in it is nothing that an export has" in await refused(file)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE]
)
async def test_what_is_no_plain_file_is_refused(
    tmp_path: Path, origin: FakeRegistry, kind: bytes
) -> None:
    """Links, folders and devices."""
    file, _ = await export(tmp_path, origin)

    def change(info: tarfile.TarInfo) -> None:
        if info.name == "index.json":
            info.type, info.size, info.linkname = kind, 0, "/etc/passwd"

    repack(file, unpack(file), change)
    assert "is no plain file" in await refused(file)


async def test_member_that_is_there_twice_is_refused(tmp_path: Path, origin: FakeRegistry) -> None:
    """Or two readers would take two different ones."""
    file, _ = await export(tmp_path, origin)
    content = file.read_bytes()[:-1024]
    extra = tmp_path / "extra.tar"
    pack(extra, {"index.json": b"{}"})
    file.write_bytes(content + extra.read_bytes())
    assert "it has index.json twice" in await refused(file)


def blob(body: bytes) -> str:
    """Return the name of a blob in the file."""
    return f"blobs/sha256/{digest_of(body).removeprefix('sha256:')}"


async def test_parts_of_the_images_have_to_be_there(tmp_path: Path, origin: FakeRegistry) -> None:
    """All of them, and nothing else, though the checksums are right."""
    file, _ = await export(tmp_path, origin)
    members = unpack(file)
    for body in (SHARED, origin.manifests["slipway-api", "1"][1]):
        repack(file, {name: each for name, each in members.items() if name != blob(body)})
        assert f"it lacks {digest_of(body)} of the image" in await refused(file)
    repack(file, {**members, blob(b"more"): b"more"})
    assert f"no image in it has {blob(b'more')}" in await refused(file)
    for name in ("release.json", "index.json", "oci-layout", "slipway.json", "manifests.yaml"):
        repack(file, {key: each for key, each in members.items() if key != name})
        assert f"it lacks {name}" in await refused(file)


async def test_checksums_have_to_name_everything(tmp_path: Path, origin: FakeRegistry) -> None:
    """A member without a checksum is as good as a damaged one; so is a list that is none."""
    file, _ = await export(tmp_path, origin)
    members = unpack(file)
    lines = members["SHA256SUMS"].decode().splitlines(keepends=True)
    for sums, why in (
        ("".join(lines[:-1]), "SHA256SUMS does not name blobs/sha256/"),
        ("".join([*lines, lines[0]]), "SHA256SUMS cannot be read"),
        ("\xff", "SHA256SUMS cannot be read"),
    ):
        pack(file, {**members, "SHA256SUMS": sums.encode("latin-1")})
        assert why in await refused(file)


def changed(body: bytes, **changes: Any) -> bytes:  # noqa: ANN401 - what JSON holds
    """Return a JSON document with changes."""
    return json.dumps({**json.loads(body), **changes}).encode()


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("slipway.json", {"project": "harbour"}, "export of the project 'harbour', not of slipway"),
        ("slipway.json", {"format": 2}, "by another version of the pipeline (format 2"),
        ("slipway.json", {"images": {}}, "name different images"),
        ("release.json", {"images": []}, "name different images"),
        ("release.json", {"images": [{"name": "api"}]}, "its release.json cannot be read"),
        ("release.json", {"images": [{"name": "api", "reference": "A"}]}, "cannot be read"),
        ("index.json", {"manifests": []}, "name different images"),
        ("index.json", {"manifests": None}, "index.json names no images"),
        ("index.json", {"manifests": ["x"]}, "index.json names no images"),
    ],
)
async def test_documents_have_to_agree(
    tmp_path: Path, origin: FakeRegistry, name: str, changes: dict[str, object], why: str
) -> None:
    """Another project's file, another version's, and one that contradicts itself."""
    file, _ = await export(tmp_path, origin)
    members = unpack(file)
    members[name] = changed(members[name], **changes)
    repack(file, members)
    assert why in await refused(file)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"config": {}, "layers": []}',
        b'{"config": {"digest": "sha256:../../x", "size": 1}, "layers": []}',
        b'{"config": {"digest": "sha512:' + b"a" * 128 + b'", "size": 1}, "layers": []}',
        b'{"manifests": [{"digest": 1}]}',
    ],
)
async def test_manifest_that_is_none_is_refused(
    tmp_path: Path, origin: FakeRegistry, body: bytes
) -> None:
    """Its digest is right, and it is still no image."""
    origin.put_manifest("slipway-api", "1", INDEX, body)
    with pytest.raises(PipelineError, match="is no manifest of an image"):
        await export(tmp_path, origin)
    kept = origin.put("slipway-api", "1", LARGE)
    file, release = await export(tmp_path, origin)
    members = {
        name: each.replace(kept.encode(), digest_of(body).encode())
        for name, each in unpack(file).items()
    }
    del members[f"blobs/sha256/{kept.removeprefix('sha256:')}"]
    members[blob(body)] = body
    repack(file, members)
    assert release.images[0].digest == kept
    assert "is no manifest of an image" in await refused(file)
