"""Control groups, in folders that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cluster.local import cgroups
from pipeline.errors import PrerequisiteError, StepError

MOUNTS = """\
proc /proc proc rw 0 0
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""


def second_version(root: Path, offered: str, passed_on: str) -> Path:
    """Return a hierarchy of version 2."""
    root.mkdir()
    (root / "cgroup.controllers").write_text(offered)
    (root / "cgroup.subtree_control").write_text(passed_on)
    return root


def test_hierarchies_are_those_that_are_mounted() -> None:
    """Of both versions, and nothing else that is mounted there."""
    assert cgroups.hierarchies(MOUNTS) == (
        Path("/sys/fs/cgroup/cpu"),
        Path("/sys/fs/cgroup/systemd"),
        Path("/sys/fs/cgroup/unified"),
    )


def test_a_group_is_made_in_every_hierarchy_and_removed_from_it(tmp_path: Path) -> None:
    """With those that others made below it; what is beside it stays."""
    roots = [tmp_path / "cpu", tmp_path / "memory"]
    for root in roots:
        (root / "docker").mkdir(parents=True)
    cgroups.make("slipway-1", roots)
    cgroups.make("slipway-1", roots)
    for root in roots:
        (root / "slipway-1" / "kubepods" / "pod1").mkdir(parents=True)
    cgroups.remove("slipway-1", roots)
    assert [sorted(path.name for path in root.iterdir()) for root in roots] == [["docker"]] * 2
    cgroups.remove("slipway-1", roots)


def test_a_group_of_version_1_gets_its_processors(tmp_path: Path) -> None:
    """Without any, no process may be put into it."""
    (tmp_path / "cpuset.cpus").write_text("0-1\n")
    (tmp_path / "cpuset.mems").write_text("0\n")
    cgroups.make("slipway-1", [tmp_path])
    assert (tmp_path / "slipway-1" / "cpuset.cpus").read_text() == "0-1\n"
    assert (tmp_path / "slipway-1" / "cpuset.mems").read_text() == "0\n"


def test_controllers_of_version_2_are_passed_on(tmp_path: Path) -> None:
    """Those that are offered and are not passed on yet; no other is touched."""
    root = second_version(tmp_path / "root", "cpuset cpu io memory pids", "cpu memory")
    second_version(root / "slipway-1", "cpu memory", "")
    cgroups.make("slipway-1", [root])
    assert (root / "cgroup.subtree_control").read_text() == "+cpuset +pids"
    assert (root / "slipway-1" / "cgroup.subtree_control").read_text() == "+cpu +memory"


def test_a_group_that_may_not_be_made_is_a_prerequisite(tmp_path: Path) -> None:
    """The sentence names the group and where this does work."""
    (tmp_path / "slipway-1").write_text("in the way")
    with pytest.raises(PrerequisiteError, match="slipway-1 cannot be made") as raised:
        cgroups.make("slipway-1", [tmp_path])
    assert "root" in raised.value.remedy


def test_a_group_in_use_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """The error shows what runs in it."""
    group = tmp_path / "slipway-1"
    group.mkdir()
    (group / "cgroup.procs").write_text("4711\n")
    with pytest.raises(StepError, match="cannot be removed") as raised:
        cgroups.remove("slipway-1", [tmp_path], limit=0.1)
    assert "4711" in raised.value.evidence
