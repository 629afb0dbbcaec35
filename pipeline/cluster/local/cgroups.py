"""The control groups of a node: a root of its own in every hierarchy.

It is made before the node and removed after it; the kubelet and runc make what is below. Both
versions of the kernel's interface are served: with version 1 each controller has a hierarchy, with
version 2 there is one (cgroups(7)).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PrerequisiteError, StepError

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path("/sys/fs/cgroup")
REMOVE_LIMIT = 10.0
"""Seconds: the kernel lets go of a group some moments after the last process in it has ended."""
_CONTROLLERS = ("cpuset", "cpu", "memory", "pids")


def hierarchies(mounts: str) -> tuple[Path, ...]:
    """Return where the hierarchies are mounted.

    Args:
        mounts: The text of ``/proc/self/mounts``.
    """
    lines = [line.split() for line in mounts.splitlines()]
    return tuple(Path(line[1]) for line in lines if line[2] in {"cgroup", "cgroup2"})


def here() -> tuple[Path, ...]:
    """Return where the hierarchies of this machine are mounted.

    Raises:
        PrerequisiteError: There are none.
    """
    found = hierarchies(Path("/proc/self/mounts").read_text(encoding="utf-8"))
    if not found:
        raise PrerequisiteError(
            "No control groups are mounted on this machine",
            remedy="Mount them on /sys/fs/cgroup; the kubelet cannot do without",
        )
    return found


def make(name: str, roots: Iterable[Path]) -> None:
    """Make a control group in every hierarchy; one that is there stays.

    Raises:
        PrerequisiteError: The kernel does not let this user.
    """
    for root in roots:
        group = root / name
        try:
            if (root / "cgroup.subtree_control").exists():
                _enable(root)
            group.mkdir(exist_ok=True)
            if (group / "cgroup.subtree_control").exists():
                _enable(group)
            # In version 1 a new group has no processor and no memory node, and may hold nothing.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (root / setting).exists() and not (root / "cgroup.controllers").exists():
                    (group / setting).write_text((root / setting).read_text())
        except OSError as error:
            raise PrerequisiteError(
                f"The control group {group} cannot be made: {error.strerror}",
                remedy="Run it as root, on the machine itself and not in an unprivileged container",
            ) from error


def _enable(group: Path) -> None:
    """Pass the controllers on to the groups below (version 2)."""
    offered = (group / "cgroup.controllers").read_text().split()
    passed_on = (group / "cgroup.subtree_control").read_text().split()
    missing = [c for c in _CONTROLLERS if c in offered and c not in passed_on]
    if missing:
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in missing))


def remove(name: str, roots: Iterable[Path], *, limit: float = REMOVE_LIMIT) -> None:
    """Remove a control group with those below it, in which nothing runs any more.

    Args:
        name: Its name in each hierarchy; that it is not there is fine.
        roots: Where the hierarchies are mounted.
        limit: Seconds to wait for the kernel to let go of it.

    Raises:
        StepError: Something still runs in it.
    """
    deadline = time.monotonic() + limit
    for root in roots:
        top = root / name
        groups = [top, *(path for path in top.rglob("*") if path.is_dir())] if top.is_dir() else []
        for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
            _remove(group, deadline)


def _remove(group: Path, deadline: float) -> None:
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise StepError(
                    f"The control group {group} cannot be removed: {error.strerror}",
                    remedy="See which processes are in it, and end them",
                    evidence=(group / "cgroup.procs").read_text(),
                ) from error
            time.sleep(0.05)
        else:
            return
