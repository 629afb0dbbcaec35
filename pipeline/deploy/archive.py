"""A release in one file: its manifests and both images, to be restored where nothing is.

Rules:

- The file is a tar whose first member, ``SHA256SUMS``, names every other one with its checksum; so
  everything is known before anything is written, and everything is checked before anything is done.
  ``sha256sum --check SHA256SUMS`` in the unpacked folder says the same.
- The images are an OCI image layout at the root of the tar, bytes as in the registry: tools that
  read ``oci-archive:FILE`` read it. Their digests stay what they are wherever they go.
- The same release gives the same bytes: members in a fixed order, without times and owners.
- Nothing is ever unpacked: what is in the file is read where it is, by the names that it may have.
- A layer passes in pieces, in both directions.

    SHA256SUMS  slipway.json  release.json  manifests.yaml  oci-layout  index.json  blobs/sha256/…
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tarfile
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from anyio import to_thread

from pipeline import images as references
from pipeline.deploy import registries
from pipeline.deploy import release as releases
from pipeline.errors import PipelineError, PrerequisiteError, StepError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.config import Settings
    from pipeline.deploy.registries import Open
    from pipeline.deploy.release import Image, Release
    from pipeline.images import Reference
    from pipeline.registry import Client
    from pipeline.setup.settings import Say

FORMAT = 1
"""Grows when a reader of the version before would go wrong."""
PROJECT = "slipway"
PIECE = 1024 * 1024
DOCUMENT_LIMIT = 64 * 1024 * 1024
"""Bytes of a member that is read as a whole: everything but the parts of the images."""
NEST_LIMIT = 4
"""How deep an index may be within another; one of a build has one level."""

SUMS, ABOUT, RELEASE, MANIFESTS = "SHA256SUMS", "slipway.json", "release.json", "manifests.yaml"
LAYOUT, INDEX = "oci-layout", "index.json"
_DOCUMENTS = (ABOUT, RELEASE, MANIFESTS, LAYOUT, INDEX)
_BLOBS = "blobs/sha256/"
_BLOB = re.compile(rf"{_BLOBS}[0-9a-f]{{64}}")
_SUM = re.compile(r"(?P<sum>[0-9a-f]{64})  (?P<name>\S+)")
_INDEX_KIND = "application/vnd.oci.image.index.v1+json"
_REF_NAME = "org.opencontainers.image.ref.name"
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_SHAPES = (ValueError, KeyError, TypeError, AttributeError)
"""What taking apart a document of another shape raises."""
_REMEDY = "Copy it again from where it was exported, or export it again"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an image: a manifest, a configuration or a layer.

    Attributes:
        digest: ``sha256:…``.
        size: Bytes.
        kind: Its media type.
        body: Its bytes when it is a manifest or an index; None for what those name.
    """

    digest: str
    size: int
    kind: str
    body: bytes | None = None

    @property
    def member(self) -> str:
        """Its name in the file."""
        return _BLOBS + self.digest.removeprefix("sha256:")

    @property
    def described(self) -> dict[str, Any]:
        """How a manifest names it."""
        return {"mediaType": self.kind, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a member's content is in the file."""

    offset: int
    size: int


# --- export --------------------------------------------------------------------------------------


async def write(
    release: Release,
    settings: Settings,
    file: Path,
    say: Say,
    *,
    open_client: Open = registries.open_client,
) -> None:
    """Write a release and its images into a file, whole or not at all.

    Args:
        release: What to export.
        settings: Who asks the registry.
        file: Where to; what is there is replaced when all of it is written.
        say: Told what is done, line by line.
        open_client: Makes the clients of the registries that have the images.

    Raises:
        UsageError: The file cannot be written there.
        PrerequisiteError: There is no room for it, or a registry does not answer.
        StepError: An image is not on its registry.
    """
    trees: list[tuple[Image, Client, Sequence[Part]]] = []
    for image in release.images:
        client = await open_client(settings, image.parsed.registry)
        await client.ping()
        trees.append((image, client, await _fetched(client, image.parsed)))
    documents = _documents(release, {image.name: parts for image, _, parts in trees})
    sources = {
        part.member: (part, client, image.parsed)
        for image, client, parts in trees
        for part in parts
    }
    blobs = sorted(sources)
    sums = {name: hashlib.sha256(body).hexdigest() for name, body in documents.items()}
    sums |= {name: name.removeprefix(_BLOBS) for name in blobs}
    first = "".join(f"{value}  {name}\n" for name, value in sums.items()).encode()
    size = sum(part.size for part, _, _ in sources.values())
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    say(f"Exporting release {release.number} and its images ({size / 1e6:,.1f} MB) to {file}")
    with _told(file):
        await to_thread.run_sync(_refuse_no_room, file, size)
        try:
            with await to_thread.run_sync(_opened, draft) as output:
                await to_thread.run_sync(_write_documents, output, {SUMS: first, **documents})
                for name in blobs:
                    part, client, reference = sources[name]
                    await to_thread.run_sync(output.write, _header(name, part.size))
                    if part.body is not None:
                        await to_thread.run_sync(output.write, part.body)
                    else:
                        await client.download(reference, part.described, output.write)
                    await to_thread.run_sync(output.write, _padding(part.size))
                await to_thread.run_sync(_finish, output)
            await to_thread.run_sync(draft.replace, file)
        finally:
            draft.unlink(missing_ok=True)


async def _fetched(client: Client, reference: Reference) -> list[Part]:
    """Return all parts of an image, each once and what names others after them."""
    found: dict[str, Part] = {}

    async def visit(digest: str, depth: int) -> None:
        if digest in found:
            return
        kind, body = await client.document(reference, digest)
        manifests, blobs = _named(body, f"{reference}", depth)
        for each in manifests:
            await visit(str(each["digest"]), depth + 1)
        for each in blobs:
            part = Part(str(each["digest"]), int(each["size"]), str(each.get("mediaType", "")))
            found.setdefault(part.digest, part)
        found[digest] = Part(digest, len(body), kind, body)

    await visit(reference.digest, 0)
    return list(found.values())


def _documents(release: Release, trees: Mapping[str, Sequence[Part]]) -> dict[str, bytes]:
    import yaml  # what does not export does not pay for it

    roots = [
        {
            # The last part is the one that names all others.
            **trees[image.name][-1].described,
            "annotations": {_REF_NAME: _ref_name(image)},
        }
        for image in release.images
    ]
    about = {
        "project": PROJECT,
        "format": FORMAT,
        "namespace": release.namespace,
        "number": release.number,
        "revision": release.revision,
        "images": {image.name: image.digest for image in release.images},
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX_KIND, "manifests": roots}
    return {
        ABOUT: _json(about),
        RELEASE: releases.to_json(release).encode(),
        MANIFESTS: yaml.safe_dump_all(release.objects, sort_keys=True, allow_unicode=True).encode(),
        LAYOUT: _json({"imageLayoutVersion": "1.0.0"}),
        INDEX: _json(index),
    }


def _ref_name(image: Image) -> str:
    reference = image.parsed
    name = reference.repository.rpartition("/")[2]
    return f"{name}:{reference.tag}" if reference.tag else name


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _refuse_no_room(file: Path, size: int) -> None:
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    free = shutil.disk_usage(file.parent).free
    if free < size + DOCUMENT_LIMIT:
        raise PrerequisiteError(
            f"The export needs {size / 1e6:,.0f} MB, and {file.parent} has {free / 1e6:,.0f} MB",
            remedy="Make room there, or name a file elsewhere",
        )


def _opened(file: Path) -> BinaryIO:
    return file.open("wb")


def _write_documents(output: BinaryIO, documents: Mapping[str, bytes]) -> None:
    for name, body in documents.items():
        output.writelines((_header(name, len(body)), body, _padding(len(body))))


def _finish(output: BinaryIO) -> None:
    output.write(_END)
    output.flush()
    # What the rename makes visible is on the disk: a file for a disaster is whole or not there.
    os.fsync(output.fileno())


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


# --- restore -------------------------------------------------------------------------------------


async def read(file: Path) -> Release:
    """Return the release in a file, all of which has been checked.

    Args:
        file: What `write` wrote.

    Raises:
        UsageError: It cannot be read, is something else, or is damaged: every byte counts.
    """
    return await to_thread.run_sync(partial(_read, file), abandon_on_cancel=True)


async def push(
    file: Path,
    release: Release,
    settings: Settings,
    say: Say,
    *,
    open_client: Open = registries.open_client,
) -> tuple[Image, ...]:
    """Push the images of a release from its file, and return them where they are then.

    Args:
        file: What `read` has checked.
        release: What it returned.
        settings: The registry to push to, and who asks it.
        say: Told what is done, line by line.
        open_client: Makes the client of the registry.

    Raises:
        UsageError: The file has changed since, or cannot be read.
        PrerequisiteError: The registry does not answer.
        StepError: The registry does not take them.
    """
    registry = references.parse_registry(settings.registry)
    client = await open_client(settings, registry)
    await client.ping()
    members = await to_thread.run_sync(_walked, file)
    pushed: list[Image] = []
    for image in release.images:
        moved = image.moved(registry)
        parts = await to_thread.run_sync(_tree, file, members, image)
        sent = 0
        with _told_reading(file):
            for part in parts:
                if part.body is None:
                    chunks = partial(_pieces, file, members[part.member])
                    if await client.upload(moved.parsed, part.described, chunks):
                        sent += part.size
        for part in parts:
            if part.body is not None:
                await client.put(moved.parsed, part.digest, part.kind, part.body)
        tag = moved.parsed.tag
        # A tag that is there and names another image is somebody's: what is deployed is the digest.
        if tag and await client.digest(replace(moved.parsed, digest="")) is None:
            root = parts[-1]
            await client.put(moved.parsed, tag, root.kind, root.body or b"")
        say(f"{image.name}: {moved.reference} ({sent / 1e6:,.1f} MB sent)")
        pushed.append(moved)
    return tuple(pushed)


def _read(file: Path) -> Release:
    members = _walked(file)
    _check(file, members)
    documents = {name: _content(file, members[name]) for name in _DOCUMENTS}
    about = _object(file, documents[ABOUT], ABOUT)
    if about.get("project") != PROJECT:
        raise UsageError(
            f"{file} is an export of the project {about.get('project')!r}, not of {PROJECT}",
            remedy="Name a file that `python -m pipeline deploy export` of this project wrote",
        )
    if about.get("format") != FORMAT:
        raise UsageError(
            f"{file} was exported by another version of the pipeline (format "
            f"{about.get('format')!r}, and this one reads {FORMAT})",
            remedy="Restore it with that version, or export it again with this one",
        )
    try:
        release = releases.from_json(documents[RELEASE])
        found = {image.name: image.digest for image in release.images}
    except (ValueError, PipelineError) as error:
        raise _damaged(file, f"its {RELEASE} cannot be read: {error}") from error
    listed = _roots(file, documents[INDEX]).keys()
    if not release.images or found != about.get("images") or set(found.values()) != listed:
        raise _damaged(file, f"{ABOUT}, {RELEASE} and {INDEX} name different images")
    used = {part.member: part for image in release.images for part in _tree(file, members, image)}
    for name, part in used.items():
        if members[name].size != part.size:
            raise _damaged(file, f"{name} has {members[name].size} bytes, not {part.size}")
    unused = members.keys() - used.keys() - {SUMS, *_DOCUMENTS}
    if unused:
        raise _damaged(file, f"no image in it has {min(unused)}")
    return release


def _tree(file: Path, members: Mapping[str, _Member], image: Image) -> list[Part]:
    """Return all parts of an image, each once and what names others after them."""
    found: dict[str, Part] = {}

    def visit(digest: str, kind: str, depth: int) -> None:
        if digest in found:
            return
        member = members.get(Part(digest, 0, "").member)
        if member is None:
            raise _damaged(file, f"it lacks {digest} of the image {image.name}")
        body = _content(file, member)
        if not kind:
            kind = str(_object(file, body, digest).get("mediaType", ""))
        manifests, blobs = _named(body, f"{file}: {digest}", depth)
        for each in manifests:
            visit(str(each["digest"]), str(each.get("mediaType", "")), depth + 1)
        for each in blobs:
            part = Part(str(each["digest"]), int(each["size"]), str(each.get("mediaType", "")))
            if part.member not in members:
                raise _damaged(file, f"it lacks {part.digest} of the image {image.name}")
            found.setdefault(part.digest, part)
        found[digest] = Part(digest, len(body), kind, body)

    kinds = _roots(file, _content(file, members[INDEX]))
    try:
        visit(image.digest, kinds.get(image.digest, ""), 0)
    except StepError as error:
        raise _damaged(file, error.message) from error
    return list(found.values())


def _roots(file: Path, index: bytes) -> dict[str, str]:
    """Return the media types of the images in an index of an OCI image layout, by digest."""
    listed = _object(file, index, INDEX).get("manifests")
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise _damaged(file, f"{INDEX} names no images")
    return {str(each.get("digest")): str(each.get("mediaType", "")) for each in listed}


def _walked(file: Path) -> dict[str, _Member]:
    """Return where each member is; their contents are not looked at."""
    members: dict[str, _Member] = {}
    with _told_reading(file), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        while (header := opened.read(_BLOCK)) != bytes(_BLOCK):
            name, length = _parsed(file, header, first=not members)
            member = _Member(opened.tell(), length)
            if name in members:
                raise _damaged(file, f"it has {name} twice")
            if member.offset + length > size:
                raise _damaged(file, f"it ends within {name}")
            if not name.startswith(_BLOBS) and length > DOCUMENT_LIMIT:
                raise _damaged(file, f"{name} has {length} bytes")
            members[name] = member
            opened.seek(member.offset + length)
            if opened.read(-length % _BLOCK).strip(b"\0"):
                raise _damaged(file, f"something follows {name}")
        if not members:
            raise _foreign(file)
        # The end is two empty blocks, of which one has been read.
        if opened.read(_BLOCK + 1) != bytes(_BLOCK):
            raise _damaged(file, "something is missing or added at its end")
    return members


def _check(file: Path, members: Mapping[str, _Member]) -> None:
    """Return when just the members are there that have a checksum, with just that."""
    sums = _sums(file, _content(file, members[SUMS]))
    named = {*sums, SUMS}
    for name in (*sums, *_DOCUMENTS):
        if name not in members:
            raise _damaged(file, f"it lacks {name}")
    for name, member in members.items():
        if name not in named:
            raise _damaged(file, f"{SUMS} does not name {name}")
        if name != SUMS and _hashed(file, member) != sums[name]:
            raise _damaged(file, f"the checksum of {name} is wrong")


def _parsed(file: Path, header: bytes, *, first: bool) -> tuple[str, int]:
    """Return the name and the size that a header gives; only plain files with our names pass."""
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        if first:
            raise _foreign(file) from error
        raise _damaged(file, "it ends too early, or a header in it is broken") from error
    if first and info.name != SUMS:
        raise _foreign(file)
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.size < 0:
        raise _damaged(file, f"{info.name!r} in it is no plain file")
    if info.name not in (SUMS, *_DOCUMENTS) and not _BLOB.fullmatch(info.name):
        raise _damaged(file, f"{info.name!r} in it is nothing that an export has")
    return info.name, info.size


def _sums(file: Path, content: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in content.decode("ascii", "replace").splitlines():
        entry = _SUM.fullmatch(line)
        if entry is None or entry["name"] in found:
            raise _damaged(file, f"{SUMS} cannot be read")
        found[entry["name"]] = entry["sum"]
    return found


def _hashed(file: Path, member: _Member) -> str:
    hashed = hashlib.sha256()
    with _told_reading(file):
        for piece in _pieces(file, member):
            hashed.update(piece)
    return hashed.hexdigest()


def _content(file: Path, member: _Member) -> bytes:
    if member.size > DOCUMENT_LIMIT:
        raise _damaged(file, f"a manifest in it has {member.size} bytes")
    with _told_reading(file):
        return b"".join(_pieces(file, member))


def _pieces(file: Path, member: _Member) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(member.offset)
        left = member.size
        while left:
            piece = opened.read(min(PIECE, left))
            if not piece:
                raise OSError(None, "it has become shorter")
            left -= len(piece)
            yield piece


# --- both ----------------------------------------------------------------------------------------


def _named(
    body: bytes, where: str, depth: int
) -> tuple[Iterable[Mapping[str, Any]], Iterable[Mapping[str, Any]]]:
    """Return the manifests and the other parts that a manifest or index names.

    Raises:
        StepError: It is none, or names a part without a digest that can be checked.
    """
    try:
        document = json.loads(body)
        manifests = document.get("manifests") or []
        blobs = [] if "manifests" in document else [document["config"], *document["layers"]]
        for each in (*manifests, *blobs):
            references.validate_digest(str(each["digest"]))
            if not str(each["digest"]).startswith("sha256:") or int(each["size"]) < 0:
                raise ValueError(f"{each['digest']} cannot be checked")
        if depth > NEST_LIMIT:
            raise ValueError("indexes are nested too deep")
    except (*_SHAPES, RecursionError, UsageError) as error:
        raise StepError(f"{where} is no manifest of an image: {error}") from error
    return manifests, blobs


def _object(file: Path, content: bytes, name: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    raise _damaged(file, f"{name} is not JSON")


def _damaged(file: Path, why: str) -> UsageError:
    return UsageError(f"{file} is damaged: {why}", remedy=_REMEDY)


def _foreign(file: Path) -> UsageError:
    return UsageError(
        f"{file} is no exported release",
        remedy="Name a file that `python -m pipeline deploy export FILE` wrote",
    )


@contextlib.contextmanager
def _told_reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"The exported release {file} cannot be read: {error.strerror}", remedy=_REMEDY
        ) from error


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> UsageError:
    return UsageError(
        f"The release cannot be exported to {file}: {error.strerror}",
        remedy="Make room or get the permission there, or name another file",
    )
