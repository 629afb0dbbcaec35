"""Images and manifests of what was built."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.cluster import versions
from pipeline.cluster.local import bundle
from pipeline.errors import InternalError, PrerequisiteError
from pipeline.setup.command import Output

from .setup_fakes import Recorder

if TYPE_CHECKING:
    from pathlib import Path

KEDA = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  labels:
    app.kubernetes.io/version: main
spec:
  template:
    spec:
      containers:
      - command: [/keda]
        image: ghcr.io/kedacore/keda:main
        imagePullPolicy: Always
---
kind: CustomResourceDefinition
properties:
  image:
    type: string
"""
METRICS_SERVER = "      - image: gcr.io/k8s-staging-metrics-server/metrics-server:master\n"


def test_images_are_those_that_the_node_has() -> None:
    """Under their own names, and never pulled; what only is called an image stays."""
    text = bundle.with_images(KEDA, "keda", version="2.21.0")
    assert "        image: slipway.local/keda:2.21.0\n" in text
    assert "imagePullPolicy: Never\n" in text
    assert 'app.kubernetes.io/version: "2.21.0"\n' in text
    assert "  image:\n    type: string\n" in text
    assert text.count("\n") == KEDA.count("\n")


def test_an_image_in_a_list_is_found_as_well() -> None:
    """Kustomize writes the keys in the order of the alphabet, and image may come first."""
    text = bundle.with_images(METRICS_SERVER, "metrics-server")
    assert text == f"      - image: slipway.local/metrics-server:{versions.METRICS_SERVER}\n"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [("image: ghcr.io/kedacore/keda-tool:main\n", "keda-tool"), ("kind: Namespace\n", "no image")],
)
def test_a_manifest_with_another_image_is_refused(manifest: str, message: str) -> None:
    """It would be pulled, from where nobody answers; a later version of KEDA may have one."""
    with pytest.raises(InternalError, match=message):
        bundle.with_images(manifest, "keda")


def test_every_image_has_a_program_and_a_name_of_its_own() -> None:
    """Two of one name would be one on the node."""
    assert len({image.reference for image in bundle.IMAGES}) == len(bundle.IMAGES)
    assert len({image.file for image in bundle.IMAGES}) == len(bundle.IMAGES)
    assert {image.reference.partition("/")[0] for image in bundle.IMAGES} == {"slipway.local"}


def test_images_and_manifests_are_made_beside_the_programs(tmp_path: Path) -> None:
    """With nothing left to do when the node starts."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for image in bundle.IMAGES:
        (programs / image.program).write_bytes(image.program.encode())
    kubectl = f"{programs}/kubectl kustomize"
    recorder = Recorder(
        {
            f"{kubectl} /keda/config/default": Output(0, KEDA, ""),
            f"{kubectl} /metrics/manifests/base": Output(0, METRICS_SERVER, ""),
        }
    )
    sources = {"keda": type(tmp_path)("/keda"), "metrics-server": type(tmp_path)("/metrics")}
    made = anyio.run(bundle.make, tmp_path, sources, recorder, print)
    assert "slipway.local/keda:" in made.manifests.keda.read_text()
    assert "slipway.local/metrics-server:" in made.manifests.metrics_server.read_text()
    assert {file.name for file in made.images.iterdir()} == {i.file for i in bundle.IMAGES}
    for file in made.images.iterdir():
        with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as tar:
            assert "oci-layout" in tar.getnames()


def test_a_manifest_that_cannot_be_rendered_is_said(tmp_path: Path) -> None:
    """With what kubectl says."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for image in bundle.IMAGES:
        (programs / image.program).write_bytes(b"")
    recorder = Recorder({f"{programs}/kubectl": Output(1, "", "no such folder")})
    with pytest.raises(PrerequisiteError, match="keda cannot be rendered") as raised:
        anyio.run(
            bundle.make,
            tmp_path,
            {"keda": tmp_path, "metrics-server": tmp_path},
            recorder,
            print,
        )
    assert raised.value.evidence == "no such folder"
