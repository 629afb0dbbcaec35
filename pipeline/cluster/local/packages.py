"""The programs that the node takes from the distribution: which, and in which packages."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "mount": "mount",
    "unshare": "util-linux",
}
"""The Debian package of each program."""
PLUGINS = ("ptp", "host-local", "loopback")
PLUGINS_PACKAGE = "containernetworking-plugins"
PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
"""Where Debian, the project itself and Fedora have them."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the node looks for programs: what a user put before it is not for root's daemons."""


@dataclass(frozen=True, slots=True)
class Found:
    """What of it is here.

    Attributes:
        missing: The packages that are not, in a fixed order.
        plugins: The folder of the CNI plug-ins; None when they are missing.
    """

    missing: tuple[str, ...]
    plugins: Path | None


def find(
    which: Callable[[str], str | None] = lambda name: shutil.which(name, path=PATH),
    folders: tuple[Path, ...] = PLUGIN_FOLDERS,
) -> Found:
    """Return what is here and what is missing."""
    missing = [package for name, package in PROGRAMS.items() if which(name) is None]
    plugins = next(
        (f for f in folders if all(os.access(f / name, os.X_OK) for name in PLUGINS)), None
    )
    if plugins is None:
        missing.append(PLUGINS_PACKAGE)
    return Found(tuple(dict.fromkeys(missing)), plugins)
