"""What is remembered of a node."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.cluster.local.record import Record, keeper_of, owners
from pipeline.setup.state import Process

if TYPE_CHECKING:
    from pathlib import Path

KEEPER = Process(pid=10, started=100, boot="b")
NODE = Process(pid=11, started=101, boot="b")


@pytest.mark.parametrize("node", [None, NODE])
def test_a_record_survives_being_written(node: Process | None) -> None:
    """Before the node has its first process as well as after."""
    record = Record(KEEPER, 6443, node, node)
    assert Record.from_json(record.to_json()) == record
    assert record.processes == ((node, node, KEEPER) if node else (KEEPER,))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keeper": {}, "port": 1}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    """With the one error that its readers know."""
    with pytest.raises(ValueError, match=r".*"):
        Record.from_json(text)


def test_the_owner_of_a_lock_is_found_by_its_file() -> None:
    """Locks of another kind, and of other files, are not its."""
    locks = (
        "1: FLOCK  ADVISORY  WRITE 4711 fd:00:1234 0 EOF\n"
        "2: POSIX  ADVISORY  WRITE 4712 fd:00:1234 0 EOF\n"
        "3: FLOCK  ADVISORY  WRITE 4713 fd:00:5678 0 EOF\n"
        "3: -> FLOCK  ADVISORY  WRITE 4714 fd:00:1234 0 EOF\n"
    )
    assert owners(locks, 1234) == (4711,)


def test_a_keeper_without_a_record_is_found_by_its_lock(tmp_path: Path) -> None:
    """And one that holds the lock of another folder is not it."""
    lock = tmp_path / "keeper.lock"
    assert keeper_of(tmp_path, lock) is None
    program = (
        "import fcntl, sys, time\n"
        "held = open(sys.argv[1], 'w')\n"
        "fcntl.flock(held, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lock), str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            found = keeper_of(tmp_path, lock)
            assert found is not None
            assert found.pid == holder.pid
            assert keeper_of(tmp_path / "other", lock) is None
        finally:
            holder.kill()
    assert keeper_of(tmp_path, lock) is None
