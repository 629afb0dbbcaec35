"""From an overlay to objects: Kustomize does it, and this names the images and the namespace.

A folder is generated that has the overlay as its resource and sets what only a deploy knows. The
overlay itself is not touched. Whatever Kustomize makes is then held against two rules:

- Each of our images is named by digest, and both are used.
- Each object has a kind and a name, and none is there twice.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from pipeline import config
from pipeline.deploy.release import containers, identity, ordered
from pipeline.errors import UsageError
from pipeline.setup import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.deploy.release import Image, Object
    from pipeline.setup.command import Run

LIMIT = 60.0
"""Seconds for Kustomize; an overlay may name resources on the network."""
OVERLAYS = Path("k8s") / "overlays"
PRODUCTION = "production"
"""The name of an overlay that is changed only with ``--yes``."""


def find_overlay(root: Path, named: str) -> Path:
    """Return the folder of an overlay.

    Args:
        root: The project.
        named: A name under ``k8s/overlays``, or an absolute path.

    Raises:
        UsageError: There is none.
    """
    folder = root / OVERLAYS / named
    if any((folder / name).is_file() for name in ("kustomization.yaml", "kustomization.yml")):
        return folder
    if Path(named).is_absolute():
        raise UsageError(
            f"{named} is not an overlay: it has no kustomization.yaml",
            remedy="Name a folder that has one, or one of those under k8s/overlays",
        )
    known = sorted(path.parent.name for path in (root / OVERLAYS).glob("*/kustomization.yaml"))
    raise config.unknown(
        "overlay",
        named,
        known,
        source="--overlay",
        remedy="" if known else f"There is none in {root / OVERLAYS}",
    )


def is_production(overlay: str) -> bool:
    """Return whether an overlay, by name or path, is changed only with ``--yes``."""
    return Path(overlay).name == PRODUCTION


async def render(  # noqa: PLR0913 - each is a part of what is rendered
    overlay: Path,
    namespace: str,
    images: Sequence[Image],
    *,
    pull_from: str,
    kubectl: Path,
    run: Run = command.run,
) -> tuple[Object, ...]:
    """Return the objects of an overlay, in the order in which they are applied.

    Args:
        overlay: Its folder.
        namespace: Where all of it goes.
        images: What the names ``slipway-…`` in the manifests stand for.
        pull_from: As in `release.Release`.
        kubectl: The program.
        run: Runs it.

    Raises:
        UsageError: The overlay is wrong.
        PrerequisiteError: kubectl cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-overlay-") as folder:
        place = anyio.Path(folder)
        # Kustomize takes no absolute path, and compares paths without following links.
        way = os.path.relpath(  # noqa: ASYNC240 - it asks no disk: both are absolute
            await anyio.Path(overlay).resolve(), await place.resolve()
        )
        text = json.dumps(_kustomization(way, namespace, images, pull_from))
        await (place / "kustomization.yaml").write_text(text, encoding="utf-8")
        output = await run([str(kubectl), "kustomize", folder], limit=LIMIT)
    if output.code != 0:
        raise UsageError(
            f"The overlay {overlay} cannot be rendered",
            remedy=f"See `kubectl kustomize {overlay}`",
            evidence=command.tail(output.stderr),
        )
    return _checked(await to_thread.run_sync(parse, output.stdout), overlay, images, pull_from)


def parse(text: str) -> tuple[Object, ...]:
    """Return the objects in a text of YAML documents.

    Raises:
        UsageError: It is no YAML, or holds something else.
    """
    import yaml  # 20 ms that `--help` does not cost

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = [each for each in yaml.load_all(text, Loader=loader) if each is not None]
    except yaml.YAMLError as error:
        raise UsageError(
            "What Kustomize made is no YAML", remedy="Correct the overlay", evidence=str(error)
        ) from error
    for each in found:
        try:
            identity(each)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                "What Kustomize made has a document without apiVersion, kind or name",
                remedy="Correct the overlay",
                evidence=json.dumps(each)[:500],
            ) from error
    return tuple(found)


def dump(objects: Sequence[Object]) -> str:
    """Return objects as YAML documents."""
    import yaml

    text: str = yaml.safe_dump_all(
        objects, sort_keys=False, explicit_start=True, default_flow_style=False, width=100
    )
    return text


def _kustomization(
    way: str, namespace: str, images: Sequence[Image], pull_from: str
) -> dict[str, object]:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [way],
        "images": [
            {
                "name": f"slipway-{image.name}",
                "newName": image.pulled(pull_from).partition("@")[0],
                "digest": image.digest,
            }
            for image in images
        ],
    }


def _checked(
    objects: tuple[Object, ...], overlay: Path, images: Sequence[Image], pull_from: str
) -> tuple[Object, ...]:
    named = [identity(each) for each in objects]
    twice = sorted({str(each) for each in named if named.count(each) > 1})
    if twice:
        raise UsageError(
            f"The overlay {overlay} has more than one {twice[0]}", remedy="Leave one of them out"
        )
    secret = [str(each) for each in named if (each.group, each.kind) == ("", "Secret")]
    if secret:
        raise UsageError(
            f"The overlay {overlay} has a {secret[0]}, and all of a release is recorded",
            remedy="Make it in the cluster by other means, and name it in the overlay",
        )
    used = {container.get("image", "") for each in objects for container in containers(each)}
    for image in images:
        if image.pulled(pull_from) not in used:
            raise UsageError(
                f"The overlay {overlay} does not use the image slipway-{image.name}",
                remedy=f"Write `image: slipway-{image.name}` in the container that runs it",
            )
    return ordered(objects)
