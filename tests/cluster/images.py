"""Images for the tests: copied from one registry to another, and varied without building anything.

A variant has the same layers under another configuration, so it is a new image by its digest, and
costs two small uploads. Registries are those of the loopback interface, spoken to in plain HTTP by
the distribution protocol (https://distribution.github.io/distribution/spec/api/).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx

from pipeline import images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.images import Reference

LIMIT = 120.0
"""Seconds for one blob; the largest has some 30 MB."""
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


def copied(reference: str, to: str) -> str:
    """Copy an image to another registry, byte for byte, and return its reference there.

    Args:
        reference: The image, by digest.
        to: The other registry, ``HOST:PORT``.
    """
    source = images.parse(reference)
    target = replace(source, host=to)
    with _client() as client:
        kind, content = _manifest(client, source)
        manifest = json.loads(content)
        for blob in (manifest["config"], *manifest["layers"]):
            if not _has(client, target, blob["digest"]):
                answer = client.get(_url(source, "blobs", blob["digest"]))
                _upload(client, target, answer.raise_for_status().content)
        _put(client, target, source.digest, kind, content)
    return str(target)


def variant(
    reference: str, *, labels: Mapping[str, str], entrypoint: Sequence[str] | None = None
) -> str:
    """Make an image that differs in its configuration alone, beside the first, by digest.

    Args:
        reference: The image that it is made of, by digest.
        labels: What makes it another one.
        entrypoint: What it runs in the place of what the first runs.
    """
    source = images.parse(reference)
    with _client() as client:
        kind, content = _manifest(client, source)
        manifest: dict[str, Any] = json.loads(content)
        found = client.get(_url(source, "blobs", manifest["config"]["digest"]))
        configuration: dict[str, Any] = found.raise_for_status().json()
        inner = configuration.setdefault("config", {})
        inner["Labels"] = {**(inner.get("Labels") or {}), **labels}
        if entrypoint is not None:
            inner["Entrypoint"], inner["Cmd"] = list(entrypoint), []
        changed = json.dumps(configuration).encode()
        manifest["config"] |= {"digest": _upload(client, source, changed), "size": len(changed)}
        content = json.dumps(manifest).encode()
        target = replace(source, tag="", digest=_digest(content))
        _put(client, target, target.digest, kind, content)
    return str(target)


def tagged(reference: str, tag: str) -> str:
    """Have the registry know an image by a tag as well, and return its reference by that."""
    source = images.parse(reference)
    with _client() as client:
        kind, content = _manifest(client, source)
        _put(client, source, tag, kind, content)
    return str(replace(source, tag=tag))


def absent(reference: str) -> str:
    """Return the reference of an image that nobody has pushed."""
    return str(replace(images.parse(reference), tag="", digest=f"sha256:{'0' * 63}1"))


def _client() -> httpx.Client:
    # A proxy of the environment has no business on the loopback interface.
    return httpx.Client(timeout=LIMIT, trust_env=False, follow_redirects=True)


def _url(reference: Reference, kind: str, name: str) -> str:
    return f"http://{reference.host}/v2/{reference.repository}/{kind}/{name}"


def _manifest(client: httpx.Client, reference: Reference) -> tuple[str, bytes]:
    url = _url(reference, "manifests", reference.digest)
    answer = client.get(url, headers={"Accept": ", ".join(_MANIFESTS)}).raise_for_status()
    return answer.headers["Content-Type"], answer.content


def _has(client: httpx.Client, reference: Reference, digest: str) -> bool:
    return client.head(_url(reference, "blobs", digest)).status_code == httpx.codes.OK


def _upload(client: httpx.Client, reference: Reference, content: bytes) -> str:
    digest = _digest(content)
    began = client.post(_url(reference, "blobs", "uploads/")).raise_for_status()
    place = httpx.URL(began.headers["Location"])
    place = (httpx.URL(f"http://{reference.host}").join(place)).copy_add_param("digest", digest)
    client.put(
        place, content=content, headers={"Content-Type": "application/octet-stream"}
    ).raise_for_status()
    return digest


def _put(
    client: httpx.Client, reference: Reference, digest: str, kind: str, content: bytes
) -> None:
    url = _url(reference, "manifests", digest)
    client.put(url, content=content, headers={"Content-Type": kind}).raise_for_status()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
