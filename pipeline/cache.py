"""What passed before: one record for each step and each content that it depended on.

A record is named by the digest of everything that could change the outcome, so that it is never
wrong, only absent. It holds what the step came to, and the files that it wrote for the reports.
It is written in one move: a reader, another pipeline on this machine included, sees all of it or
nothing. A record that cannot be read counts as absent. A failure is never kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.task import Image

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

_VERSION = 1
_KEEP = 30 * 24 * 3600.0
"""Seconds for which a record that nobody asked for stays."""
_NAME = "record.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What a step came to.

    Attributes:
        key: The digest of what it depended on, as `key` makes it.
        when: Seconds since the epoch, when it ended.
        host: The name of the machine that it ran on.
        seconds: How long it took.
        image: The pushed image, from the push step.
        facts: What else the step wants to know again.
        files: What it wrote for the reports: paths relative to the report folder.
    """

    key: str
    when: float
    host: str
    seconds: float
    image: Image | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def story(self) -> str:
        """When and where it ran, one sentence."""
        at = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(self.when))
        return f"passed on {self.host} at {at}"


def key(step: str, image: str, material: Mapping[str, str]) -> str:
    """Return the name of what a step came to.

    Args:
        step: The step.
        image: The image it is for; empty for the whole project.
        material: Everything that could change the outcome, by name.
    """
    parts = [_VERSION, step, image, sorted(material.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of what is kept between runs; it need not exist."""
    environ = os.environ if environ is None else environ
    # The XDG base directory specification has a relative path ignored.
    home = Path(environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "slipway"


class Records:
    """The records in a folder, which need not exist.

    Args:
        place: The folder.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def find(self, name: str, report_dir: Path) -> Record | None:
        """Return a record, with its files put back; None when there is none.

        Args:
            name: What `key` made.
            report_dir: Where its files are put.
        """
        home = self._home(name)
        try:
            content = json.loads((home / _NAME).read_text(encoding="utf-8"))
            image = content.pop("image")
            record = Record(
                **{
                    **content,
                    "image": Image(**image) if image else None,
                    "files": tuple(content["files"]),
                }
            )
            if record.key != name:
                return None
            for file in record.files:
                target = report_dir / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(home / "files" / file, target)
            # When it was last of use: what nobody asks for is removed in the end.
            os.utime(home)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.info("the record %s counts as absent: %s", home, error)
            return None
        return record

    def keep(self, record: Record, report_dir: Path) -> None:
        """Keep a record and its files, in the place of an older one.

        A disk that takes no more costs the record, and a warning, not the step.

        Args:
            record: What to keep.
            report_dir: Where its files are.
        """
        home = self._home(record.key)
        content = {
            name: getattr(record, name)
            for name in ("key", "when", "host", "seconds", "facts", "files")
        }
        content["facts"] = dict(record.facts)
        content["image"] = (
            {
                name: getattr(record.image, name)
                for name in ("name", "reference", "size_bytes", "base")
            }
            if record.image
            else None
        )
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._place))
        except OSError as error:
            _log.warning("what passed cannot be kept in %s: %s", self._place, error)
            return
        try:
            for file in record.files:
                target = new / "files" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(report_dir / file, target)
            (new / _NAME).write_text(json.dumps(content, indent=2), encoding="utf-8")
            home.parent.mkdir(parents=True, exist_ok=True)
            _replace(new, home)
        except OSError as error:
            _log.warning("what passed cannot be kept in %s: %s", home, error)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._expire()

    def _home(self, name: str) -> Path:
        return self._place / name

    def _expire(self) -> None:
        """Remove what nobody asked for in a long time, and what a kill has left half-written."""
        before = time.time() - _KEEP
        for entry in self._place.iterdir():
            # Another pipeline may be at work on it, or remove it first.
            with contextlib.suppress(OSError):
                if entry.lstat().st_mtime < before:
                    shutil.rmtree(entry)


def host() -> str:
    """Return the name of this machine, as a record says it."""
    return socket.gethostname()


def _replace(new: Path, home: Path) -> None:
    """Put a folder in the place of another, which a second pipeline may do at the same time."""
    for _ in range(3):
        try:
            new.rename(home)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # rename(2) replaces no folder that has something in it: move the old one away first.
            old = new.with_name(f"{new.name}.old")
            try:
                home.rename(old)
            except FileNotFoundError:
                continue
            shutil.rmtree(old, ignore_errors=True)
        else:
            return
    _log.info("another pipeline keeps %s at this moment", home)
