"""What is made of the built programs: their images, and the manifests that install them.

No image of KEDA and of metrics-server is pulled: the node has them from the start, under names that
no registry answers for. Their manifests are their own, rendered from their Go modules, with these
names in them.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import to_thread

from pipeline.cluster import versions
from pipeline.cluster.local import archive
from pipeline.cluster.local.archive import Image
from pipeline.cluster.local.node import PAUSE
from pipeline.errors import InternalError
from pipeline.setup.command import succeed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.setup.command import Run
    from pipeline.setup.settings import Say

REGISTRY = "slipway.local"
"""Where the images seem to come from: a name that nothing on a network has."""

COREDNS = f"{REGISTRY}/coredns:1"
_KEDA_ARGUMENTS = ("--zap-log-level=info", "--zap-encoder=console")

IMAGES: tuple[Image, ...] = (
    Image(PAUSE, "pause", "/pause"),
    Image(COREDNS, "coredns", "/coredns"),
    Image(
        f"{REGISTRY}/metrics-server:{versions.METRICS_SERVER}", "metrics-server", "/metrics-server"
    ),
    # Entry points and arguments as in KEDA's own Dockerfiles, which its manifests rely on.
    Image(f"{REGISTRY}/keda:{versions.KEDA}", "operator", "/keda", arguments=_KEDA_ARGUMENTS),
    Image(
        f"{REGISTRY}/keda-metrics-apiserver:{versions.KEDA}",
        "adapter",
        "/keda-adapter",
        arguments=("--secure-port=6443", *_KEDA_ARGUMENTS),
    ),
    Image(
        f"{REGISTRY}/keda-admission-webhooks:{versions.KEDA}",
        "webhooks",
        "/keda-admission-webhooks",
        arguments=_KEDA_ARGUMENTS,
    ),
)
"""The images that the node has from the start, in the order in which they are needed."""

_REFERENCES: Mapping[str, str] = {
    image.reference.removeprefix(f"{REGISTRY}/").partition(":")[0]: image.reference
    for image in IMAGES
}
_IMAGE = re.compile(r"^(?P<before>\s*(?:- )?image: )(?P<reference>\S+)$", re.MULTILINE)
_POLICY = re.compile(r"^(\s*(?:- )?imagePullPolicy: )\S+$", re.MULTILINE)
_VERSION = re.compile(r"^(\s*app\.kubernetes\.io/version: )(?:main|latest)$", re.MULTILINE)

RENDER_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Manifests:
    """The manifests that install what scaling needs, each one file.

    Attributes:
        keda: KEDA, with its definitions.
        metrics_server: metrics-server.
    """

    keda: Path
    metrics_server: Path


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was built, where it is.

    Attributes:
        folder: Holds ``bin``, ``images`` and ``manifests``.
    """

    folder: Path

    def program(self, name: str) -> Path:
        """Return where a program is."""
        return self.folder / "bin" / name

    @property
    def kubectl(self) -> Path:
        """Return where kubectl is."""
        return self.program("kubectl")

    @property
    def images(self) -> Path:
        """Return the folder of the images' archives."""
        return self.folder / "images"

    @property
    def manifests(self) -> Manifests:
        """Return where the manifests are."""
        folder = self.folder / "manifests"
        return Manifests(folder / "keda.yaml", folder / "metrics-server.yaml")


def with_images(manifest: str, where: str, *, version: str = "") -> str:
    """Return a manifest with our images in it, which are never pulled.

    Args:
        manifest: YAML, as kustomize writes it.
        where: Whose it is, for the error.
        version: What to write where it names the version as ``main`` or ``latest``.

    Raises:
        InternalError: It names no image, or one that is not among `IMAGES`.
    """

    def replaced(found: re.Match[str]) -> str:
        name = found["reference"].rpartition("/")[2].partition("@")[0].partition(":")[0]
        if name not in _REFERENCES:
            raise InternalError(
                f"the manifest of {where}", LookupError(f"no image is built for {name}")
            )
        return found["before"] + _REFERENCES[name]

    text, count = _IMAGE.subn(replaced, manifest)
    if count == 0:
        raise InternalError(f"the manifest of {where}", LookupError("it names no image"))
    text = _POLICY.sub(r"\g<1>Never", text)
    return _VERSION.sub(rf'\g<1>"{version}"', text) if version else text


async def make(folder: Path, sources: Mapping[str, Path], run: Run, say: Say) -> Bundle:
    """Make the images and the manifests beside the programs.

    Args:
        folder: Holds ``bin`` with the programs.
        sources: The folders of the Go modules ``keda`` and ``metrics-server``.
        run: Runs programs.
        say: Told what is done.

    Raises:
        PrerequisiteError: A manifest cannot be rendered.
    """
    bundle = Bundle(folder)
    say("Making images of what was built")
    await to_thread.run_sync(_archives, bundle)
    for manifest, kustomization, version in (
        (bundle.manifests.keda, sources["keda"] / "config" / "default", versions.KEDA),
        (bundle.manifests.metrics_server, sources["metrics-server"] / "manifests" / "base", ""),
    ):
        output = await succeed(
            run,
            [str(bundle.kubectl), "kustomize", str(kustomization)],
            failure=f"The manifest of {manifest.stem} cannot be rendered",
            limit=RENDER_LIMIT,
        )
        text = with_images(output.stdout, manifest.stem, version=version)
        await to_thread.run_sync(_write, manifest, text)
    return bundle


def _archives(bundle: Bundle) -> None:
    arch = archive.architecture()
    shutil.rmtree(bundle.images, ignore_errors=True)
    bundle.images.mkdir()
    for image in IMAGES:
        with (bundle.images / image.file).open("wb") as target:
            archive.write(image, bundle.program(image.program).parent, target, arch=arch)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
