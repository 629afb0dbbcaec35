"""The face of the clusters: which provider is asked, and how a cluster is reached."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from pipeline import cluster
from pipeline.cluster import preparation
from pipeline.cluster.addons import KEDA, METRICS_SERVER
from pipeline.errors import PrerequisiteError

from .cluster_fakes import FakeSettings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be on a machine without programs, clusters and a kubeconfig."""
    for name in ("PATH", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path


@pytest.mark.usefixtures("bare")
async def test_provider_is_the_one_that_was_named() -> None:
    """Each tells of its own cluster, and neither of the other's."""
    said: list[str] = []
    with pytest.raises(PrerequisiteError, match="Minikube is not on PATH"):
        await cluster.status(FakeSettings(provider="minikube"), said.append)
    with pytest.raises(PrerequisiteError, match="Minikube is not on PATH"):
        await cluster.up(FakeSettings(provider="minikube"), said.append)
    await cluster.down(FakeSettings(provider="minikube"), said.append)
    assert "Minikube's cluster minikube was not started by this" in said[-1]
    assert not await cluster.status(FakeSettings(provider="local"), said.append)
    assert "Minikube" not in said[-1]


async def test_prepare_without_a_kubeconfig_is_a_prerequisite(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no cluster to prepare; the remedy makes one."""
    # What the library took from the environment when it was imported.
    from kubernetes.config import kube_config

    place = str(bare / "kubeconfig")
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", place)
    with pytest.raises(PrerequisiteError, match="no kubeconfig") as caught:
        await cluster.prepare(FakeSettings(), print)
    assert "cluster up" in caught.value.remedy


@pytest.mark.usefixtures("bare")
def test_manifests_of_a_local_cluster_that_is_not_here_are_missing() -> None:
    """A context of that name may be of another machine's."""
    with pytest.raises(PrerequisiteError):
        preparation.built()


@pytest.mark.parametrize(
    ("url", "remedy"), [("https://127.0.0.1:1/keda.yaml", "--keda FILE"), (KEDA.url, "--keda FILE")]
)
async def test_manifest_that_cannot_be_downloaded_is_told(
    url: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do where there is no internet."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(PrerequisiteError, match="cannot be downloaded: ") as caught:
        await preparation.download(url, None)
    assert remedy in caught.value.remedy


async def test_metrics_server_that_cannot_be_downloaded_has_its_own_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not a setting: whoever provides the cluster has a way."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(PrerequisiteError) as caught:
        await preparation.download(METRICS_SERVER.url, None)
    assert "provider of the cluster" in caught.value.remedy


async def test_bundle_that_is_none_is_told(tmp_path: Path) -> None:
    """What is trusted for downloads has to be certificates."""
    ca = tmp_path / "ca.pem"
    ca.write_text("no certificate")
    with pytest.raises(PrerequisiteError, match="cannot be downloaded") as caught:
        await preparation.download(KEDA.url, ca)
    assert isinstance(caught.value.__cause__, ssl.SSLError)
