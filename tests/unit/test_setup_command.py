"""Programs that set-up runs."""

from __future__ import annotations

import sys

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup.command import EVIDENCE_LINES, Output, run, succeed, tail

from .setup_fakes import Recorder


def test_output_and_code_are_returned() -> None:
    """A program that fails is an outcome, not an error, and both streams are kept apart."""
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"
    output = anyio.run(lambda: run([sys.executable, "-c", code], limit=20))
    assert output == Output(4, "out\n", "err\n")


def test_a_program_never_waits_for_a_person() -> None:
    """Standard input is empty, so a question ends at once."""
    code = "import sys; print(repr(sys.stdin.read()))"
    output = anyio.run(lambda: run([sys.executable, "-c", code], limit=20))
    assert output.stdout == "''\n"


def test_a_program_that_hangs_is_killed_at_the_limit() -> None:
    """Every wait has a limit, and what was waited for is named."""
    with pytest.raises(PrerequisiteError, match="did not end within 0 s"):
        anyio.run(lambda: run(["sleep", "30"], limit=0.2))


def test_a_program_that_is_not_there_is_named() -> None:
    """A missing program is a prerequisite, with exit code 3."""
    with pytest.raises(PrerequisiteError, match="`no-such-program` cannot be run") as raised:
        anyio.run(lambda: run(["no-such-program"], limit=5))
    assert raised.value.exit_code == 3


def test_a_failure_carries_the_end_of_the_output() -> None:
    """What a program said last is the evidence, at most as much as a person reads."""
    lines = "\n".join(f"line {number}" for number in range(100))
    recorder = Recorder({"make it": Output(1, "", lines)})
    with pytest.raises(PrerequisiteError, match="It broke: `make it` ended with 1") as raised:
        anyio.run(
            lambda: succeed(recorder, ["make", "it"], failure="It broke", remedy="Mend.", limit=1)
        )
    assert raised.value.evidence == tail(lines)
    assert raised.value.evidence.splitlines()[-1] == "line 99"
    assert len(raised.value.evidence.splitlines()) == EVIDENCE_LINES
