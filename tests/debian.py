"""Programs that tests need: found on this machine, or brought by packages of Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from pipeline.errors import PrerequisiteError
from pipeline.setup import apt
from pipeline.setup.command import run

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT = 300.0
"""Seconds for packages to come."""


def program(name: str, packages: Sequence[str] = ()) -> Path:
    """Return where a program is, installed if need be; not to be called while an event loop runs.

    Args:
        name: The program.
        packages: What it comes with; the package of the same name when not given.

    Raises:
        PrerequisiteError: It is not there, and cannot be installed.
    """
    packages = packages or [name]
    found = shutil.which(name)
    if found is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise PrerequisiteError(
                f"{name} is not on PATH",
                remedy=f"Install it, for example with `apt-get install {' '.join(packages)}`.",
            )
        manager = apt.Apt(run=run, say=print, distribution=apt.distribution())
        anyio.run(manager.install, packages)
        found = shutil.which(name)
        if found is None:
            raise PrerequisiteError(
                f"{' '.join(packages)} was installed, and {name} is not on PATH",
                remedy="Check PATH.",
            )
    return Path(found)


def unpacked(names: Sequence[str], packages: Sequence[str], folder: Path) -> list[Path]:
    """Return where programs are, in packages that were unpacked into a folder if need be.

    Nothing is installed: a package that brings a service would start it for good. Only for what
    needs no other package. Not to be called while an event loop runs.

    Args:
        names: The programs.
        packages: What they come with; those that this distribution does not have are left out.
        folder: An empty one.

    Raises:
        PrerequisiteError: One is not there, and cannot be had.
    """
    found = [shutil.which(name) for name in names]
    if not all(found) and shutil.which("apt-get") is not None:
        _unpack(packages, folder)
        found = [shutil.which(name, path=str(folder / "usr/bin")) for name in names]
    for name, path in zip(names, found, strict=True):
        if path is None:
            raise PrerequisiteError(
                f"{name} is not on PATH, and none of {', '.join(packages)} brings it",
                remedy="Install it so that it is on PATH.",
            )
    return [Path(path) for path in found if path is not None]


def _unpack(packages: Sequence[str], folder: Path) -> None:
    manager = apt.Apt(run=run, say=print, distribution=apt.distribution())
    if os.geteuid() == 0:
        anyio.run(manager.update)
    there = [name for name in packages if anyio.run(manager.candidate, name)]
    if there:
        _succeed(["apt-get", "-qq", "download", *there], folder)
    for package in sorted(folder.glob("*.deb")):
        _succeed(["dpkg-deb", "--extract", package.name, "."], folder)


def _succeed(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        raise PrerequisiteError(
            f"`{' '.join(command)}` ended with {done.returncode}",
            remedy="Run it by hand to see why.",
            evidence=done.stderr,
        )
