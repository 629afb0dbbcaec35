"""One line of what `doctor` tells. Pure: this module imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a run needs, or that is good to know.

    Attributes:
        name: What it is.
        state: ``ok``; ``missing`` when no run can start without it; ``note`` otherwise.
        detail: What was found.
        command: The one command that gets what is missing, or what to do where there is none;
            empty when nothing is.
    """

    name: str
    state: Literal["ok", "missing", "note"]
    detail: str
    command: str = ""
