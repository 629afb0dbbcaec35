"""Who the registry takes us for: from the environment, else from Docker's own credential store."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import log
from pipeline.errors import UsageError
from pipeline.registry import Login

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.config import Settings
    from pipeline.images import Registry

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def find(settings: Settings, registry: Registry) -> Login | None:
    """Return the login for a registry, concealed in all logs; None when nobody gave one.

    Blocks: a credential helper is another program.

    Args:
        settings: A user and a password that were given count before Docker's.
        registry: Whom the login is for.

    Raises:
        UsageError: A credential is named but missing, or cannot be read.
    """
    if settings.registry_user and not settings.registry_password:
        raise UsageError(
            f"The registry's user {settings.registry_user} has no password",
            remedy="Set PIPELINE_REGISTRY_PASSWORD",
        )
    if settings.registry_password and not settings.registry_user:
        raise UsageError(
            "PIPELINE_REGISTRY_PASSWORD is set without a user",
            remedy="Set PIPELINE_REGISTRY_USER",
        )
    if settings.registry_user:
        login: Login | None = Login(settings.registry_user, settings.registry_password)
    else:
        login = from_docker(registry)
    if login is not None:
        log.conceal(login.password)
    return login


def from_docker(registry: Registry, environ: Mapping[str, str] | None = None) -> Login | None:
    """Return the login that ``docker login`` left for a registry; None when it left none.

    Raises:
        UsageError: Docker's configuration cannot be read, names a helper that is not there, or
            holds a kind of login that a pipeline cannot use.
    """
    environ = os.environ if environ is None else environ
    folder = environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
    content = _read(path)
    key = _HUB_KEY if registry.host in _HUB_NAMES else registry.address
    # A store for everything is not asked about the loopback interface unless somebody logged in
    # there: its helper may be a program of another system (WSL), and the registry asks nothing.
    if not _mentions(content, key) and (registry.loopback or not content.get("credsStore")):
        return None
    return _resolve(content, key, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"Docker's configuration {path} cannot be read: {error}",
            remedy="Correct the file, or point DOCKER_CONFIG to another folder",
        ) from error
    return content if isinstance(content, dict) else {}


def _mentions(content: dict[str, Any], key: str) -> bool:
    """Return whether Docker's configuration has something for a registry: most have not."""
    known = (*(content.get("auths") or {}), *(content.get("credHelpers") or {}))
    return _hostname(key) in {_hostname(name) for name in known}


def _hostname(name: str) -> str:
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _resolve(content: dict[str, Any], key: str, path: Path) -> Login | None:
    # 0.2 s that only a machine with a credential store costs.
    from docker import auth
    from docker.credentials.errors import StoreError
    from docker.errors import DockerException

    helper = (content.get("credHelpers") or {}).get(key) or content.get("credsStore")
    if helper and shutil.which(f"docker-credential-{helper}") is None:
        raise _untold(key, path, f"docker-credential-{helper} is not on PATH")
    try:
        configured = auth.load_config(
            config_dict={
                # What is wrong with the login for another registry is no concern of ours.
                "auths": {
                    name: entry
                    for name, entry in (content.get("auths") or {}).items()
                    if _hostname(name) == _hostname(key)
                },
                "credsStore": content.get("credsStore"),
                "credHelpers": content.get("credHelpers") or {},
            }
        )
        found = configured.resolve_authconfig(key)
    except (DockerException, StoreError, OSError, ValueError) as error:
        raise _untold(key, path, str(error)) from error
    if not found:
        return None
    username = found.get("username") or found.get("Username") or ""
    password = found.get("password") or found.get("Password") or ""
    if not (username and password):
        raise UsageError(
            f"Docker's login for {key} ({path}) has no user and password",
            remedy="Log in again with a user and an access token, or set PIPELINE_REGISTRY_USER "
            "and PIPELINE_REGISTRY_PASSWORD",
        )
    return Login(username, password)


def _untold(key: str, path: Path, why: str) -> UsageError:
    return UsageError(
        f"Docker's credential store ({path}) cannot tell the login for {key}: {why}",
        remedy="Install the helper that it names, log in again with `docker login`, or set "
        "PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD",
    )
