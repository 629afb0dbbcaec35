"""The programs of the distribution that the node needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.cluster.local import packages

if TYPE_CHECKING:
    from pathlib import Path


def plugins(folder: Path) -> Path:
    """Return a folder with the plug-ins."""
    folder.mkdir()
    for name in packages.PLUGINS:
        (folder / name).touch(mode=0o755)
    return folder


def test_nothing_is_missing_where_all_is_there(tmp_path: Path) -> None:
    """The plug-ins are where the first of the folders has all of them."""
    there = plugins(tmp_path / "there")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "ptp").touch(mode=0o755)
    found = packages.find(lambda name: f"/bin/{name}", (tmp_path / "half", there))
    assert found == packages.Found((), there)


def test_what_is_missing_is_named_by_its_package(tmp_path: Path) -> None:
    """Each package once, even when two programs of it are missing."""
    found = packages.find(
        lambda name: None if name in {"etcd", "ctr", "containerd"} else name, (tmp_path,)
    )
    assert found.plugins is None
    assert found.missing == ("etcd-server", "containerd", "containernetworking-plugins")


def test_the_folders_of_the_system_are_searched() -> None:
    """A user's PATH may leave out the folders that hold iptables."""
    assert "/usr/sbin" in packages.PATH.split(":")
