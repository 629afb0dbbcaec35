"""Compare two images: the contents, modes and owners of their files, and their configuration.

    python -m pipeline.compare REF_A REF_B

Each is an image reference, read from its registry, or a file that ``docker save`` or ``docker
buildx build --output type=oci`` wrote. Times are not compared: they say when something was built,
not what. Exit code 0: equal; 1: different, with each difference on a line; 2: they cannot be read.

The tree of an image is its layers merged, as the OCI image specification has it
(https://github.com/opencontainers/image-spec/blob/main/layer.md): a file replaces the one below,
``.wh.NAME`` removes it, ``.wh..wh..opq`` empties its folder of what is below.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from anyio import to_thread

from pipeline import images
from pipeline.context import this_platform
from pipeline.errors import PipelineError, UsageError
from pipeline.registry import Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_KINDS = {
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
}
# What Docker's configuration says of how it was built, and what follows from the times of files.
_TIMES = (
    "created",
    "container",
    "container_config",
    "docker_version",
    "rootfs",
    "moby.buildkit.trace",
)
_SHOWN = 80
"""Characters of a value that a person is shown."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an image, without its times.

    Attributes:
        kind: ``file``, ``directory``, ``link``, ``device`` or ``pipe``.
        mode: Permissions, with the setuid, setgid and sticky bits.
        uid: The owner.
        gid: The group.
        content: The digest of a file, the target of a link, the numbers of a device.
        attributes: Extended attributes, such as capabilities.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    content: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as far as it is compared.

    Attributes:
        tree: Its files by path, without a leading ``/``.
        config: Its configuration, without times.
    """

    tree: Mapping[str, Entry]
    config: Mapping[str, Any]


def merge(layers: Iterable[IO[bytes]]) -> dict[str, Entry]:
    """Return the tree of an image.

    Args:
        layers: Its layers as tar files, compressed or not, the lowest first.

    Raises:
        UsageError: A layer is no tar file, or compressed in a way that Python cannot read.
    """
    tree: dict[str, Entry] = {}
    for number, layer in enumerate(layers, 1):
        try:
            with tarfile.open(fileobj=layer, mode="r:*") as archive:
                _apply(tree, archive)
        except tarfile.TarError as error:
            raise UsageError(
                f"Layer {number} cannot be read: {error}",
                remedy="Build it again with gzip, or no compression",
            ) from error
    return tree


def _apply(tree: dict[str, Entry], archive: tarfile.TarFile) -> None:
    members = [(str(PurePosixPath("/", m.name)).lstrip("/"), m) for m in archive]
    # Removals are about what is below: they come before what the layer brings itself.
    for path, _ in members:
        folder, _, name = path.rpartition("/")
        if name == _OPAQUE:
            _remove(tree, folder, itself=False)
        elif name.startswith(_WHITEOUT):
            _remove(tree, f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/"), itself=True)
    for path, member in members:
        if not path or path.rpartition("/")[2].startswith(_WHITEOUT):
            continue
        below = tree.get(path)
        if below is not None and below.kind == "directory" and not member.isdir():
            # A file in the place of a folder takes away what was in it.
            _remove(tree, path, itself=False)
        if member.islnk():
            target = str(PurePosixPath("/", member.linkname)).lstrip("/")
            tree[path] = tree[target]
        else:
            tree[path] = _entry(archive, member)


def _remove(tree: dict[str, Entry], path: str, *, itself: bool) -> None:
    if itself:
        tree.pop(path, None)
    for inner in [name for name in tree if name.startswith(f"{path}/" if path else "")]:
        del tree[inner]


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = _KINDS.get(member.type, "file")
    content = ""
    if kind == "link":
        content = member.linkname
    elif kind == "device":
        content = f"{member.type.decode()} {member.devmajor}:{member.devminor}"
    elif kind == "file":
        data = archive.extractfile(member)
        content = _digest(data) if data else ""
    attributes = {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")}
    # The mode of a link means nothing, and differs from one builder to the next.
    mode = 0o777 if kind == "link" else member.mode & 0o7777
    return Entry(kind, mode, member.uid, member.gid, content, tuple(sorted(attributes.items())))


def _digest(data: IO[bytes]) -> str:
    whole = hashlib.sha256()
    while chunk := data.read(1 << 20):
        whole.update(chunk)
    return whole.hexdigest()


def timeless(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an image without what says when it was built."""
    plain = {name: value for name, value in config.items() if name not in _TIMES}
    plain["history"] = [
        {name: value for name, value in step.items() if name != "created"}
        for step in config.get("history") or ()
    ]
    return plain


def differences(a: Image, b: Image) -> list[str]:
    """Return what is different, a line for each; empty when the images are equal."""
    found = []
    for path in sorted({*a.tree, *b.tree}):
        one, other = a.tree.get(path), b.tree.get(path)
        if one is None or other is None:
            found.append(f"/{path}: only in the {'second' if one is None else 'first'}")
        elif one != other:
            found += [
                f"/{path}: {field.name} {_text(field.name, left)} and {_text(field.name, right)}"
                for field in fields(Entry)
                if (left := getattr(one, field.name)) != (right := getattr(other, field.name))
            ]
    return found + _unlike("config", a.config, b.config)


def _text(field: str, value: object) -> str:
    return f"{value:04o}" if field == "mode" else str(value)[:_SHOWN]


def _unlike(where: str, a: object, b: object) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            line
            for name in sorted({*a, *b})
            for line in _unlike(f"{where}.{name}", a.get(name), b.get(name))
        ]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            line
            for number, (left, right) in enumerate(zip(a, b, strict=True))
            for line in _unlike(f"{where}[{number}]", left, right)
        ]
    if isinstance(a, list) and isinstance(b, list):
        return [f"{where}: {len(a)} entries and {len(b)} entries"]
    return [] if a == b else [f"{where}: {json.dumps(a)[:_SHOWN]} and {json.dumps(b)[:_SHOWN]}"]


async def load(name: str, *, platform: str, ca: Path | None = None) -> Image:
    """Return an image.

    Args:
        name: A file, or an image reference.
        platform: Which one of an image for several, ``os/arch[/variant]``.
        ca: A CA bundle for the registry.

    Raises:
        PipelineError: There is no such image, or it cannot be read.
    """
    path = Path(name)
    if await to_thread.run_sync(path.is_file):
        return await to_thread.run_sync(read_archive, path)
    reference = images.parse(name)
    client = Client(reference.registry, ca=ca)
    manifest = await client.manifest(reference, platform)
    config = json.loads(await client.blob(reference, manifest["config"]))
    layers = [io.BytesIO(await client.blob(reference, layer)) for layer in manifest["layers"]]
    return Image(merge(layers), timeless(config))


def read_archive(path: Path) -> Image:
    """Return the only image in a file that ``docker save`` or BuildKit wrote.

    Raises:
        UsageError: It is no such file, or has several images in it.
    """
    try:
        with tarfile.open(path) as archive:
            config, layers = _parts(archive)
            opened = (_member(archive, layer) for layer in layers)
            return Image(merge(opened), timeless(json.load(_member(archive, config))))
    except (tarfile.TarError, OSError, KeyError, ValueError) as error:
        why = str(error).partition("\n")[0].rstrip(":")
        raise UsageError(
            f"{path} is not an image archive: {why}",
            remedy="Name a file that `docker save` wrote, or an image reference",
        ) from error


def _parts(archive: tarfile.TarFile) -> tuple[str, Sequence[str]]:
    """Return the paths of the configuration and of the layers."""
    names = set(archive.getnames())
    if "manifest.json" in names:
        (image,) = json.load(_member(archive, "manifest.json"))
        return image["Config"], image["Layers"]
    described = json.load(_member(archive, "index.json"))
    while "manifests" in described:
        # Attestations are described as images for no platform at all.
        (inner,) = [
            manifest
            for manifest in described["manifests"]
            if manifest.get("platform", {}).get("os") != "unknown"
        ]
        described = json.load(_member(archive, _blob(inner)))
    return _blob(described["config"]), [_blob(layer) for layer in described["layers"]]


def _blob(described: Mapping[str, Any]) -> str:
    return "blobs/" + str(described["digest"]).replace(":", "/")


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    data = archive.extractfile(name)
    if data is None:
        raise KeyError(name)
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    import argparse

    import anyio

    parser = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        description="Compare two images: their files without times, and their configuration.",
    )
    parser.add_argument("a", metavar="REF_A", help="an image reference, or an image archive")
    parser.add_argument("b", metavar="REF_B", help="the same")
    parser.add_argument("--platform", default=this_platform(), metavar="OS/ARCH[/VARIANT]")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="a CA bundle for the registry")
    options = parser.parse_args(arguments)

    async def both() -> tuple[Image, Image]:
        # One after the other: an image and its layers may be large.
        first = await load(options.a, platform=options.platform, ca=options.ca)
        return first, await load(options.b, platform=options.platform, ca=options.ca)

    try:
        a, b = anyio.run(both)
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    found = differences(a, b)
    for line in found:
        sys.stdout.write(f"{line}\n")
    count = f"{len(a.tree)} files and the configuration"
    sys.stdout.write(f"{len(found)} differences\n" if found else f"equal: {count}\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
