"""The values that steps, flow and report share; pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

State = Literal["passed", "cached", "failed", "skipped"]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names a task: a step, and the image it is for (empty when it is for the whole project)."""

    step: str
    image: str = ""

    def __str__(self) -> str:
        return f"{self.step} {self.image}".rstrip()


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was pushed.

    Attributes:
        name: The short name, ``api`` or ``nginx``.
        reference: The full reference with its digest, ``host:port/name:tag@sha256:…``.
        size_bytes: Unpacked size of all layers.
        base: The reference of the base image it was built on.
    """

    name: str
    reference: str
    size_bytes: int
    base: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task that did not fail came to.

    Attributes:
        state: ``passed`` ran now; ``cached`` did not need to run again; ``skipped`` could not
            run here, which is not a failure.
        cause: Why it was cached (when and where it ran) or skipped; empty for passed.
        image: The pushed image, from the push step.
        suites: JUnit files of the tests that ran within.
    """

    state: Literal["passed", "cached", "skipped"] = "passed"
    cause: str = ""
    image: Image | None = None
    suites: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """One node of the graph: what to run, and what must have passed before it."""

    key: Key
    run: Callable[[], Awaitable[Outcome]]
    needs: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """How a task ended.

    Attributes:
        key: The task.
        state: How it ended.
        started: Seconds after the run began; for one that never ran, when that was known.
        seconds: How long it took.
        cause: One sentence for everything but passed.
        remedy: What to do, for a failure.
        evidence: Output of what failed, verbatim.
        image: The pushed image, from the push step.
        suites: JUnit files of the tests that ran within, also after a failure.
        exit_code: What the run is to exit with because of it; 0 unless it failed.
    """

    key: Key
    state: State
    started: float
    seconds: float
    cause: str = ""
    remedy: str = ""
    evidence: str = ""
    image: Image | None = None
    suites: tuple[Path, ...] = field(default=())
    exit_code: int = 0
