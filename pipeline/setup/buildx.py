"""Docker's client and its plug-in buildx: whether they are here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

SYSTEM = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
    "/Applications/Docker.app/Contents/Resources/cli-plugins",
)
"""Where Docker's client looks for plug-ins after the user's own folder."""


def context() -> str:
    """Return the context that Docker's client uses by its configuration; empty for the default."""
    named = _config().get("currentContext", "")
    return "" if named == "default" else str(named)


def client() -> Path | None:
    """Return Docker's client, the first on PATH; None when there is none."""
    found = shutil.which("docker")
    return None if found is None else Path(found)


def plugin(system: tuple[str, ...] = SYSTEM) -> Path | None:
    """Return the plug-in where Docker's client finds it; None when it is nowhere.

    Starting the client to ask costs 60 ms; looking where it looks costs none.
    """
    extra = _config().get("cliPluginsExtraDirs", [])
    extra = [Path(str(folder)) for folder in extra] if isinstance(extra, list) else []
    for folder in (*extra, _home() / "cli-plugins", *map(Path, system)):
        file = folder / "docker-buildx"
        if os.access(file, os.X_OK):
            return file
    return None


def _home() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _config() -> dict[str, object]:
    try:
        found = json.loads((_home() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Docker's client itself goes on without it, and says so where it matters.
        return {}
    return found if isinstance(found, dict) else {}
