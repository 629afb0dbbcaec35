"""Gives the disk back that the engine's cache takes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .store import Store, alone, dead_sessions, remove_session, session_of

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
    size = 0
    with alone(store):
        with dead_sessions(store) as dead:
            names = tuple(session_of(folder) for folder in dead)
            images, volumes, docker = remove_caches(docker_host, names)
            for folder in dead:
                remove_session(folder)
        for name in ("results", "blobs", "temporary", "volumes"):
            # Results first: one whose contents are gone would only be looked at in vain.
            folder = cache_dir / name
            size += sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file())
            shutil.rmtree(folder)
            folder.mkdir(mode=0o700)
    return Freed(size, docker, images, volumes)
