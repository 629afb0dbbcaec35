"""Whether the server is about to stop: told by its parent process, known to every worker."""

from __future__ import annotations

import mmap


class Flag:
    """False until it is raised, in this process or in any that was forked from the same one."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def __bool__(self) -> bool:
        return self._memory[0] != 0

    def up(self) -> None:
        """Raise it; safe in the handler of a signal."""
        self._memory[0] = 1


draining = Flag()
"""While it is up, readiness fails and connections end with their answers."""
