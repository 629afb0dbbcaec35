"""An image out of programs, as an OCI image layout in one tar file.

The programs need nothing but the kernel, so the image holds them and an empty ``/tmp``. Equal
programs make an equal file: no time, no user and no compression is in it.

Pure, but that it reads the programs and writes the file. The format:
https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from pipeline.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}
"""What Go and OCI call the machines that the kernel calls otherwise."""

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one program.

    Attributes:
        reference: Its name and tag.
        program: The name of the program in the folder of what was built.
        path: Where it is in the image, and what runs when nothing else is said.
        user: The number of the user that it runs as.
        arguments: What it is run with when nothing else is said.
    """

    reference: str
    program: str
    path: str
    user: int = 65532
    arguments: tuple[str, ...] = field(default=())

    @property
    def file(self) -> str:
        """Return the name of its archive."""
        return f"{self.program}.tar"


def architecture(machine: str = "") -> str:
    """Return what Go and OCI call this machine.

    Args:
        machine: What the kernel calls it; asked when empty.

    Raises:
        PrerequisiteError: It is another than those that the cluster is built for.
    """
    machine = machine or platform.machine()
    found = ARCHITECTURES.get(machine)
    if found is None:
        raise PrerequisiteError(
            f"The local cluster is not built for {machine} machines",
            remedy=f"It is for {' and '.join(ARCHITECTURES)}; use --provider minikube here",
        )
    return found


def write(image: Image, programs: Path, target: BinaryIO, *, arch: str) -> None:
    """Write an image.

    Args:
        image: What to write.
        programs: The folder with the program.
        target: Where to write; is written from here to its end.
        arch: What the program was built for.
    """
    program = programs / image.program
    layer = _Layer(program, image.path)
    layer_digest, layer_size = layer.measure()
    config = _encoded(
        {
            "architecture": arch,
            "os": "linux",
            "config": {
                "Entrypoint": [image.path],
                "Cmd": list(image.arguments),
                "User": str(image.user),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }
    )
    manifest = _encoded(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer_digest,
                    "size": layer_size,
                }
            ],
        }
    )
    index = _encoded(
        {
            "schemaVersion": 2,
            "manifests": [
                _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
                | {
                    "platform": {"architecture": arch, "os": "linux"},
                    "annotations": {"io.containerd.image.name": image.reference},
                }
            ],
        }
    )
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, "oci-layout", _encoded({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        for blob in (config, manifest):
            _add(tar, _blob(_digest(blob)), blob)
        layer.add_to(tar, _blob(layer_digest), layer_size)


class _Layer:
    """A layer with a program and an empty ``/tmp``, which is made as it is read."""

    def __init__(self, program: Path, path: str) -> None:
        self._program = program
        self._path = path

    def measure(self) -> tuple[str, int]:
        """Return its digest and its size in bytes."""
        target = _Measure()
        self._write(target)
        return f"sha256:{target.hash.hexdigest()}", target.size

    def add_to(self, tar: tarfile.TarFile, name: str, size: int) -> None:
        """Write it into a tar file, under a name."""
        tar.addfile(_entry(name, size))
        # tarfile copies from what can be read; this can only be written.
        target = tar.fileobj
        if target is None:  # an open file has one
            raise ValueError("the archive is closed")
        self._write(target)
        padding = -size % tarfile.BLOCKSIZE
        target.write(b"\0" * padding)
        tar.offset += size + padding

    def _write(self, target: object) -> None:
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            temporary = _entry("tmp/", 0)
            temporary.type = tarfile.DIRTYPE
            temporary.mode = 0o1777
            tar.addfile(temporary)
            entry = _entry(self._path.lstrip("/"), self._program.stat().st_size)
            entry.mode = 0o755
            with self._program.open("rb") as source:
                tar.addfile(entry, source)


class _Measure:
    """A file that is hashed and counted, and goes nowhere."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return len(data)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    return entry


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_entry(name, len(data)), io.BytesIO(data))


def _encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
