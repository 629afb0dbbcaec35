"""What can go wrong, as one tree.

    PipelineError
    ├── UsageError          exit 2: the call or its configuration is wrong
    ├── PrerequisiteError   exit 3: the machine lacks something, found before the first step
    ├── StepError           exit 1: a step failed
    └── InternalError       exit 1: the pipeline itself is wrong

Every error is one sentence that says what failed, the remedy, and, where there is some, the
evidence. It is caught in one place, ``course``, which tells it. This module imports nothing of
ours.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ExitCode(IntEnum):
    """The exit codes of ``python -m pipeline``."""

    DONE = 0
    STEP_FAILED = 1
    USAGE = 2
    PREREQUISITE = 3


class PipelineError(Exception):
    """Base of everything that the pipeline raises on purpose.

    Args:
        message: One sentence without a trailing full stop: what failed, and where.
        remedy: One sentence: what to do about it; empty when the evidence says it.
        evidence: Output of the thing that failed, verbatim; may have many lines.
    """

    exit_code = ExitCode.STEP_FAILED

    def __init__(self, message: str, *, remedy: str = "", evidence: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.evidence = evidence

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}".rstrip() if self.remedy else self.message


class UsageError(PipelineError):
    """The call or its configuration is wrong."""

    exit_code = ExitCode.USAGE


class PrerequisiteError(PipelineError):
    """The machine lacks something that the run needs; nothing has run yet."""

    exit_code = ExitCode.PREREQUISITE


class StepError(PipelineError):
    """A step ran and failed.

    Args:
        message: As for every error.
        remedy: As for every error.
        evidence: As for every error.
        suites: JUnit files of the tests that ran before it failed, for the report.
    """

    def __init__(
        self, message: str, *, remedy: str = "", evidence: str = "", suites: tuple[Path, ...] = ()
    ) -> None:
        super().__init__(message, remedy=remedy, evidence=evidence)
        self.suites = suites


class InternalError(PipelineError):
    """The pipeline met something that it has no sentence for, which is its own mistake.

    Args:
        where: What was going on, to follow "Internal error in".
        error: What was raised.
        traceback: The file that the traceback was written to; None puts it in the evidence.
        evidence: The traceback's text, when there is no file.
    """

    def __init__(
        self, where: str, error: BaseException, *, traceback: Path | None = None, evidence: str = ""
    ) -> None:
        text = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0].rstrip(":. ")
        super().__init__(
            f"Internal error in {where}: {text}",
            remedy=(
                "This is a mistake in the pipeline: please report it"
                + (f", with {traceback}" if traceback else "")
            ),
            evidence=evidence,
        )
