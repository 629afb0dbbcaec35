"""Gives the disk back that the engine's cache takes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .core.errors import EngineError
from .store import Store, dead_sessions, remove_session

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed.

    Attributes:
        folder_bytes: In the engine's folder.
        docker_bytes: On the Docker Engine: images, volumes and BuildKit's cache.
        images: How many images.
        volumes: How many volumes.
    """

    folder_bytes: int
    docker_bytes: int
    images: int
    volumes: int


def prune(cache_dir: Path, docker_host: str) -> Freed:
    """Remove everything that the engine keeps; the next run starts cold. Blocks.

    The registry, what was pushed to it, and images that others tagged stay.

    Raises:
        EngineError: A session is running.
        BackendError: The Docker Engine does not answer.
    """
    from .backend.docker import remove_caches

    store = Store(cache_dir)
    dead = dead_sessions(store)
    running = set((cache_dir / "sessions").glob("[!.]*")) - set(dead)
    if running:
        msg = "a pipeline is running and needs its cache; prune when it has ended"
        raise EngineError(msg)
    images, volumes, docker = remove_caches(docker_host, tuple(folder.name for folder in dead))
    for folder in dead:
        remove_session(folder)
    size = 0
    for name in ("results", "blobs", "temporary", "volumes"):
        # Results first: one whose contents are gone would only be looked at in vain.
        folder = cache_dir / name
        size += sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file())
        shutil.rmtree(folder)
    return Freed(size, docker, images, volumes)
