"""Programs that set-up runs: one call, with a limit, and an error that carries their output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

from pipeline.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVIDENCE_LINES = 20


@dataclass(frozen=True, slots=True)
class Output:
    """How a program ended, with what it wrote to stdout and stderr."""

    code: int
    stdout: str
    stderr: str


class Run(Protocol):
    """Runs a program to its end; the seam that tests replace by a recorder."""

    async def __call__(
        self, argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None
    ) -> Output:
        """Return how it ended.

        Args:
            argv: The program and its arguments.
            limit: Seconds after which it is killed.
            env: Its whole environment; this process's when None.

        Raises:
            PrerequisiteError: It cannot be started, or it did not end within the limit.
        """


async def run(argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None) -> Output:
    """Run a program to its end, without standing input; see `Run`."""
    try:
        with anyio.fail_after(limit):
            done = await anyio.run_process(list(argv), check=False, env=env)
    except TimeoutError as error:
        raise PrerequisiteError(
            f"`{' '.join(argv)}` did not end within {limit:.0f} s",
            remedy="Run it by hand to see what it waits for.",
        ) from error
    except OSError as error:
        raise PrerequisiteError(
            f"`{argv[0]}` cannot be run: {error.strerror}",
            remedy=f"Check that `{argv[0]}` is installed and may be executed.",
        ) from error
    return Output(
        code=done.returncode,
        stdout=done.stdout.decode(errors="replace"),
        stderr=done.stderr.decode(errors="replace"),
    )


async def succeed(  # noqa: PLR0913  each is a word of one sentence; grouping them would hide it
    run: Run,
    argv: Sequence[str],
    *,
    failure: str,
    remedy: str = "",
    limit: float,
    env: Mapping[str, str] | None = None,
) -> Output:
    """Run a program that has to succeed.

    Args:
        run: Runs it.
        argv: The program and its arguments.
        failure: What it means that it fails, one sentence without a full stop.
        remedy: What to do then.
        limit: Seconds after which it is killed.
        env: Its whole environment; this process's when None.

    Raises:
        PrerequisiteError: It failed; the end of its output is the evidence.
    """
    output = await run(argv, limit=limit, env=env)
    if output.code != 0:
        raise PrerequisiteError(
            f"{failure}: `{' '.join(argv)}` ended with {output.code}",
            remedy=remedy,
            evidence=tail(output.stderr + output.stdout),
        )
    return output


def tail(text: str) -> str:
    """Return the last lines of an output, as many as a person reads."""
    return "\n".join(text.strip().splitlines()[-EVIDENCE_LINES:])
