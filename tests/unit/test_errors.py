"""The tree of errors: what each says, and what the run exits with."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import errors
from pipeline.errors import (
    ExitCode,
    InternalError,
    PipelineError,
    PrerequisiteError,
    StepError,
    UsageError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(StepError, 1), (UsageError, 2), (PrerequisiteError, 3)],
)
def test_class_decides_the_exit_code(kind: type[PipelineError], code: int) -> None:
    """Each class has the exit code that the documentation gives it."""
    assert kind("x").exit_code == code
    assert InternalError("x", KeyError()).exit_code == ExitCode.STEP_FAILED


def test_every_error_is_in_the_tree_that_is_drawn() -> None:
    """The picture at the top of the module has every class, and no other."""
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    defined = {name for name in vars(errors) if name.endswith("Error")}
    assert drawn == defined


def test_text_is_the_sentence_and_the_remedy() -> None:
    """As text an error is its sentence and the remedy, without the evidence."""
    error = UsageError("Unknown step 'x'", remedy="Choose another", evidence="much\noutput")
    assert str(error) == "Unknown step 'x'. Choose another"
    assert str(UsageError("Unknown step 'x'")) == "Unknown step 'x'"


def test_step_error_carries_its_suites() -> None:
    """The JUnit files of a failed test are with the error, so that the report has them."""
    assert StepError("x", suites=(Path("a.xml"),)).suites == (Path("a.xml"),)


def test_internal_error_is_one_sentence() -> None:
    """An error that nobody expected is one line with its kind, and where its traceback is."""
    error = InternalError("push api", ValueError("first\nsecond"), traceback=Path("r/e.txt"))
    assert error.message == "Internal error in push api: ValueError: first"
    assert error.remedy == "This is a mistake in the pipeline: please report it, with r/e.txt"
    assert InternalError("x", KeyError()).message == "Internal error in x: KeyError"
