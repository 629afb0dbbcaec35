"""The versions that this works with."""

from __future__ import annotations

import pytest

from pipeline.cluster import versions
from pipeline.errors import PrerequisiteError


@pytest.mark.parametrize(
    "version", ["v1.34.0", "1.35.2", "v1.36.3", "v1.36.3-gke.100", "v1.36.1+k3s1", "v1.36"]
)
def test_supported_versions_are_taken(version: str) -> None:
    """With what a vendor adds as well."""
    assert versions.supported(version)
    versions.require(version, "The cluster x")


@pytest.mark.parametrize("version", ["v1.33.9", "v1.37.0-rc.0", "v2.34.0", "1.3.6", "", "latest"])
def test_other_versions_are_refused_by_name(version: str) -> None:
    """An older one lacks what the manifests use, and a newer one nobody has tried."""
    assert not versions.supported(version)
    name = version.removeprefix("v")
    with pytest.raises(PrerequisiteError, match=rf"x runs Kubernetes {name}, .* 1\.34 to 1\.36"):
        versions.require(version, "The cluster x")


def test_what_clusters_are_started_with_is_supported() -> None:
    """The default is one of those that are taken."""
    assert versions.supported(versions.KUBERNETES)
