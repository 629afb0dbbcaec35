"""An image out of a program."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cluster.local import archive
from pipeline.cluster.local.archive import Image
from pipeline.errors import PrerequisiteError

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = Image("slipway.local/thing:1", "thing", "/bin/thing", user=1000, arguments=("--loud",))
CONTENT = b"\x7fELF" + bytes(range(256)) * 7


def written(folder: Path, image: Image = IMAGE) -> bytes:
    """Return the archive of an image of a program with that content."""
    (folder / image.program).write_bytes(CONTENT)
    target = io.BytesIO()
    archive.write(image, folder, target, arch="amd64")
    return target.getvalue()


def blobs(data: bytes) -> dict[str, bytes]:
    """Return what is in an archive, by name."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            entry.name: content.read()
            for entry in tar
            if (content := tar.extractfile(entry)) is not None
        }


def loaded(found: dict[str, bytes], descriptor: dict[str, Any]) -> Any:  # noqa: ANN401  JSON
    """Return the JSON that a descriptor leads to, which has the size and digest that it says."""
    return json.loads(checked(found, descriptor))


def checked(found: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """Return what a descriptor leads to, which has the size and digest that it says."""
    algorithm, _, digest = descriptor["digest"].partition(":")
    data = found[f"blobs/{algorithm}/{digest}"]
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(data) == descriptor["size"]
    return data


def test_an_archive_is_an_image_layout(tmp_path: Path) -> None:
    """Index, manifest, configuration and layer lead to each other by digest and size."""
    found = blobs(written(tmp_path))
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(found["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": "slipway.local/thing:1"}
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    manifest = loaded(found, entry)
    config = loaded(found, manifest["config"])
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"] == {
        "Entrypoint": ["/bin/thing"],
        "Cmd": ["--loud"],
        "User": "1000",
        "WorkingDir": "/",
    }
    assert len(found) == 5


def test_the_layer_holds_the_program_and_a_place_for_temporary_files(tmp_path: Path) -> None:
    """The program may be run by everybody, and everybody may write to /tmp."""
    found = blobs(written(tmp_path))
    manifest = loaded(found, json.loads(found["index.json"])["manifests"][0])
    with tarfile.open(fileobj=io.BytesIO(checked(found, manifest["layers"][0]))) as tar:
        entries = {entry.name: entry for entry in tar}
        program = tar.extractfile("bin/thing")
        assert program is not None
        assert program.read() == CONTENT
    assert entries["bin/thing"].mode == 0o755
    assert (entries["tmp"].mode, entries["tmp"].isdir()) == (0o1777, True)
    assert {entry.mtime for entry in entries.values()} == {0}


def test_equal_programs_make_equal_archives(tmp_path: Path) -> None:
    """Whenever and by whomever they are made."""
    first = written(tmp_path)
    (tmp_path / "thing").touch()
    assert written(tmp_path) == first


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_a_machine_has_the_name_that_go_gives_it(machine: str, arch: str) -> None:
    """The kernel's names are others."""
    assert archive.architecture(machine) == arch


def test_another_machine_is_refused() -> None:
    """By name, and with what can be done there."""
    with pytest.raises(PrerequisiteError, match="s390x") as raised:
        archive.architecture("s390x")
    assert "--provider minikube" in raised.value.remedy
