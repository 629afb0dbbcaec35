"""What these tests need of a machine, found or installed: Chromium, axe-core, uv."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from pipeline.errors import PrerequisiteError
from tests.debian import program

HERE = Path(__file__).parent
LIMIT = 300.0


def chromium() -> Path:
    """Return where Chromium is; Debian's is installed where there is none.

    Raises:
        PrerequisiteError: There is none, and it cannot be installed.
    """
    return program("chromium", ["chromium", "fonts-liberation"])


def axe(folder: Path) -> str:
    """Return the text of axe-core, in the version of package-lock.json.

    Args:
        folder: An empty folder to install it into.

    Raises:
        PrerequisiteError: It cannot be had from the npm registry.
    """
    npm = program("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        env={"NODE_EXTRA_CA_CERTS": bundle, **os.environ},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        raise PrerequisiteError(
            "axe-core cannot be installed from the npm registry",
            remedy=f"Run `npm ci` in {HERE} to see why.",
            evidence=done.stderr,
        )
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


def uv() -> Path:
    """Return where uv is: that of PATH, or else the one with which `make` made our environment.

    Raises:
        PrerequisiteError: There is none.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
    on_path = shutil.which("uv")
    found = [Path(on_path)] if on_path else sorted(cache.glob("uv-*/bin/uv"))
    if not found:
        raise PrerequisiteError("uv is nowhere to be found", remedy="Run `make environment`.")
    return found[-1]
