"""What is remembered of a node that was started: the keeper writes it, `up` and `down` read it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.setup import state


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a node that was started.

    Attributes:
        keeper: The process that keeps it.
        port: Where the API server is reached on the machine's loopback interface.
        node: The first process in its namespaces; None before there is one.
        parent: Its parent outside, which is there until every process of the node has ended; None
            before there is one. The first process itself may look dead while its threads end.
    """

    keeper: state.Process
    port: int
    node: state.Process | None = None
    parent: state.Process | None = None

    @property
    def processes(self) -> tuple[state.Process, ...]:
        """Return all of them that there are."""
        return tuple(p for p in (self.node, self.parent, self.keeper) if p is not None)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Return what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            found = json.loads(text)
            keeper = state.Process(**found["keeper"])
            others = {
                name: state.Process(**found[name])
                for name in ("node", "parent")
                if found.get(name) is not None
            }
            return cls(keeper=keeper, port=int(found["port"]), **others)
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from error


def owners(locks: str, inode: int) -> tuple[int, ...]:
    """Return the processes that hold a lock on a file.

    Args:
        locks: The text of ``/proc/locks`` (proc(5)).
        inode: The file, of whichever file system.
    """
    lines = [line.split() for line in locks.splitlines()]
    return tuple(
        int(words[4])
        for words in lines
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode)
    )


def keeper_of(folder: Path, lock: Path) -> state.Process | None:
    """Return the keeper of a folder by the lock that it holds; None when there is none.

    The record says more, but it is written later, and may be that of another version.
    """
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        return None
    for pid in owners(Path("/proc/locks").read_text(encoding="ascii"), inode):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder).encode() in words:
            return state.process(pid)
    return None
