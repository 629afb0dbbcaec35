"""Comparing two images."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import compare
from pipeline.compare import Entry, Image, differences, merge
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {
    "created": "2020-01-01T00:00:00Z",
    "architecture": "amd64",
    "config": {"Env": ["A=1"], "User": "1"},
    "rootfs": {"diff_ids": ["sha256:1"]},
    "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "RUN x"}],
}


def layer(*members: tuple[str, Any], mtime: int = 0, packed: bool = False) -> bytes:
    """Return a layer. A member is text for a file, or what differs from a plain file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, given in members:
            info = tarfile.TarInfo(name)
            info.mtime = mtime
            data = b""
            if isinstance(given, str):
                data = given.encode()
            else:
                for key, value in given.items():
                    setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue()) if packed else out.getvalue()


def tree(*layers: bytes) -> dict[str, Entry]:
    """Return the tree of some layers."""
    return merge(io.BytesIO(one) for one in layers)


def folder(name: str) -> tuple[str, dict[str, Any]]:
    """Return a folder as a member of a layer."""
    return name, {"type": tarfile.DIRTYPE, "mode": 0o755}


def image(*layers: bytes, config: dict[str, Any] | None = None) -> Image:
    """Return an image."""
    return Image(tree(*layers), compare.timeless(config or CONFIG))


def test_times_are_not_compared() -> None:
    """Neither those of files, nor those of the configuration, nor what follows from them."""
    later = {
        **CONFIG,
        "created": "2024-01-01T00:00:00Z",
        "rootfs": {"diff_ids": ["sha256:2"]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "RUN x"}],
    }
    a = image(layer(("a", "text"), mtime=1))
    b = image(layer(("./a", "text"), mtime=2, packed=True), config=later)
    assert differences(a, b) == []


@pytest.mark.parametrize(
    ("member", "word"),
    [
        (("a", "other"), "content"),
        (("a", {"mode": 0o755}), "mode 0644 and 0755"),
        (("a", {"uid": 7}), "uid 0 and 7"),
        (("a", {"gid": 7}), "gid 0 and 7"),
        (("a", {"type": tarfile.SYMTYPE, "linkname": "b"}), "kind file and link"),
        (("a", {"type": tarfile.FIFOTYPE}), "kind file and pipe"),
        (("a", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}), "kind file and device"),
        (("a", {"pax_headers": {"SCHILY.xattr.security.capability": "x"}}), "attributes"),
        (("b", ""), "only in the"),
    ],
)
def test_each_difference_of_a_file_is_named(member: tuple[str, Any], word: str) -> None:
    """Contents, modes, owners, types, targets and attributes count."""
    found = differences(image(layer(("a", ""))), image(layer(member)))
    assert any(word in line and line.startswith("/") for line in found), found


def test_each_difference_of_the_configuration_is_named() -> None:
    """By its place."""
    other = {**CONFIG, "config": {"Env": ["A=2"], "Cmd": ["x"], "User": "1"}, "history": []}
    assert differences(image(), image(config=other)) == [
        'config.config.Cmd: null and ["x"]',
        'config.config.Env[0]: "A=1" and "A=2"',
        "config.history: 1 entries and 0 entries",
    ]


def test_upper_layer_replaces_and_removes() -> None:
    """As the image specification says: whiteouts, opaque folders, files for folders."""
    lower = layer(folder("d"), ("d/x", "1"), ("d/y", "2"), folder("e"), ("e/z", "3"), ("f", "4"))
    assert set(tree(lower, layer(("d/.wh.x", "")))) == {"d", "d/y", "e", "e/z", "f"}
    assert set(tree(lower, layer((".wh.d", "")))) == {"e", "e/z", "f"}
    opaque = layer(folder("d"), ("d/new", ""), ("d/.wh..wh..opq", ""))
    assert set(tree(lower, opaque)) == {"d", "d/new", "e", "e/z", "f"}
    assert set(tree(lower, layer(("d", "file")))) == {"d", "e", "e/z", "f"}
    replaced = tree(lower, layer(("f", "5")))
    assert replaced["f"].content == hashlib.sha256(b"5").hexdigest()


def test_hard_link_is_the_file_that_it_names() -> None:
    """Whether a builder links or copies makes no difference to who reads."""
    linked = layer(("a", "text"), ("b", {"type": tarfile.LNKTYPE, "linkname": "/a"}))
    assert tree(linked) == tree(layer(("a", "text"), ("b", "text")))


def test_layer_that_cannot_be_read_is_told() -> None:
    """Python has no zstd."""
    with pytest.raises(UsageError, match="Layer 1 cannot be read"):
        tree(b"\x28\xb5\x2f\xfd" + b"x" * 600)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """Write an image archive."""
    with tarfile.open(path, "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def docker_save(path: Path, one: bytes) -> Path:
    """Write an archive as ``docker save`` does."""
    manifest = [{"Config": "c.json", "Layers": ["1/layer.tar"], "RepoTags": None}]
    return archive(
        path,
        {
            "1/layer.tar": one,
            "c.json": json.dumps(CONFIG).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        },
    )


def oci(path: Path, one: bytes) -> Path:
    """Write an archive as BuildKit does, with an index in the index and an attestation."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def text(value: object) -> bytes:
        return json.dumps(value).encode()

    manifest = blob(text({"config": blob(text(CONFIG)), "layers": [blob(one)]}))
    attestation = {**blob(b"{}"), "platform": {"os": "unknown", "architecture": "unknown"}}
    index = blob(text({"manifests": [manifest, attestation]}))
    blobs["index.json"] = text({"manifests": [index]})
    return archive(path, blobs)


def test_both_kinds_of_archive_are_read(tmp_path: Path) -> None:
    """The same image is the same in either."""
    one = layer(("a", "text"))
    a = compare.read_archive(docker_save(tmp_path / "a.tar", one))
    b = compare.read_archive(oci(tmp_path / "b.tar", gzip.compress(one)))
    assert set(a.tree) == {"a"}
    assert differences(a, b) == []


def test_command_says_equal_or_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 and 1."""
    a = docker_save(tmp_path / "a.tar", layer(("a", "text"), mtime=1))
    b = oci(tmp_path / "b.tar", layer(("a", "text"), mtime=2))
    c = docker_save(tmp_path / "c.tar", layer(("a", "other")))
    assert compare.main([str(a), str(b)]) == 0
    assert "equal" in capsys.readouterr().out
    assert compare.main([str(a), str(c)]) == 1
    assert "/a: content" in capsys.readouterr().out


@pytest.mark.parametrize("files", [{}, {"manifest.json": b"{"}, {"manifest.json": b"[]"}])
def test_command_refuses_what_is_no_image(
    tmp_path: Path, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one sentence and a remedy."""
    path = archive(tmp_path / "a.tar", files)
    assert compare.main([str(path), str(path)]) == 2
    assert "is not an image archive" in capsys.readouterr().err
    assert compare.main(["NOT A REFERENCE", str(path)]) == 2
    assert "is not an image reference" in capsys.readouterr().err
