"""The order of the steps: a graph of tasks, run in one task group.

Rules:

- A task starts when all that it needs has ended, and ``passed`` or ``cached`` lets it run.
- A task whose need did not pass is ``skipped``, with the need as its cause; nothing else is
  disturbed by a failure.
- At most ``jobs`` tasks run at once. Among those that are ready, the first in the plan is first.
- The observer hears of everything as it happens, so that a report can be written of a run that was
  cancelled half-way.
- No ExceptionGroup leaves this module.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import anyio

from pipeline.errors import ExitCode, InternalError, PipelineError, StepError
from pipeline.task import Key, Outcome, Result, Task

_log = logging.getLogger(__name__)

Translate = Callable[[str, BaseException], PipelineError]
"""Makes our error of one that is not; the first argument says what was going on."""


class Observer(Protocol):
    """Hears what becomes of the tasks, in the order in which it happens; must not block."""

    def planned(self, tasks: Sequence[Task]) -> None:
        """Hear of all tasks, before the first starts."""

    def started(self, key: Key) -> None:
        """Hear that a task runs now."""

    def ended(self, result: Result) -> None:
        """Hear how a task ended."""


def as_internal(where: str, error: BaseException) -> PipelineError:
    """Return an InternalError that has the traceback as its evidence."""
    return InternalError(where, error, evidence="".join(traceback.format_exception(error)))


async def run(
    tasks: Sequence[Task],
    *,
    jobs: int,
    observer: Observer,
    began: float | None = None,
    translate: Translate = as_internal,
) -> tuple[Result, ...]:
    """Run the tasks and return how each ended, in the order of ``tasks``.

    A cancellation cancels what runs and is raised on: the observer then knows what had ended.

    Args:
        tasks: The graph. What a task needs must be among them.
        jobs: How many may run at once.
        observer: Hears of each task.
        began: What `time.monotonic` said when the run began; now, when not given.
        translate: Makes an error that a step did not expect into one of ours.

    Raises:
        ValueError: The graph has a cycle, a task twice, or a need that it does not have.
    """
    _check(tasks)
    observer.planned(tasks)
    graph = _Run(tasks, jobs, observer, time.monotonic() if began is None else began, translate)
    return await graph.run()


def exit_code(results: Iterable[Result]) -> int:
    """Return what a run with these results exits with.

    A step that failed outranks one that could not be asked for as it was, and that one a machine
    that lacks something.
    """
    return min((r.exit_code for r in results if r.exit_code), default=int(ExitCode.DONE))


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors that a group is made of, in order; the error itself when it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


class _Run:
    def __init__(
        self,
        tasks: Sequence[Task],
        jobs: int,
        observer: Observer,
        began: float,
        translate: Translate,
    ) -> None:
        self._tasks = tasks
        self._limiter = anyio.CapacityLimiter(jobs)
        self._observer = observer
        self._began = began
        self._translate = translate
        self._ended = {task.key: anyio.Event() for task in tasks}
        self._results: dict[Key, Result] = {}

    async def run(self) -> tuple[Result, ...]:
        async with anyio.create_task_group() as group:
            for task in self._tasks:
                group.start_soon(self._one, task, name=str(task.key))
        return tuple(self._results[task.key] for task in self._tasks)

    async def _one(self, task: Task) -> None:
        for need in task.needs:
            await self._ended[need].wait()
        for need in task.needs:
            state = self._results[need].state
            if state not in ("passed", "cached"):
                self._end(_skipped(task.key, self._now(), f"needs {need}, which {_WAS[state]}"))
                return
        async with self._limiter:
            started = self._now()
            self._observer.started(task.key)
            # Only Exception: a cancellation passes through.
            try:
                outcome = await task.run()
            except Exception as error:  # noqa: BLE001 - the one boundary around foreign code
                result = self._failed(task.key, started, error)
            else:
                result = _succeeded(task.key, started, self._now() - started, outcome)
            self._end(result)

    def _failed(self, key: Key, started: float, raised: Exception) -> Result:
        errors = [
            self._translate(str(key), error.__cause__ or error)
            if isinstance(error, InternalError) or not isinstance(error, PipelineError)
            else error
            for error in leaves(raised)
        ]
        first = errors[0]
        # Parts of a step that run side by side fail side by side: all of it is told.
        evidence = first.evidence
        if len(errors) > 1:
            evidence = "\n\n".join(
                f"{error.message}\n{error.evidence}".rstrip() for error in errors
            )
        return Result(
            key=key,
            state="failed",
            started=started,
            seconds=self._now() - started,
            # What went wrong below says in which step, which everybody who reads this knows.
            cause="; ".join(dict.fromkeys(e.message.removeprefix(f"{key}: ") for e in errors)),
            remedy=next((error.remedy for error in errors if error.remedy), ""),
            evidence=evidence,
            suites=tuple(p for e in errors if isinstance(e, StepError) for p in e.suites),
            exit_code=int(min(error.exit_code for error in errors)),
        )

    def _end(self, result: Result) -> None:
        _log.debug("%s %s", result.key, result.state)
        self._results[result.key] = result
        self._ended[result.key].set()
        self._observer.ended(result)

    def _now(self) -> float:
        return time.monotonic() - self._began


_WAS = {"failed": "failed", "skipped": "was skipped"}


def _skipped(key: Key, now: float, cause: str) -> Result:
    return Result(key=key, state="skipped", started=now, seconds=0.0, cause=cause)


def _succeeded(key: Key, started: float, seconds: float, outcome: Outcome) -> Result:
    return Result(
        key=key,
        state=outcome.state,
        started=started,
        seconds=seconds,
        cause=outcome.cause,
        image=outcome.image,
        suites=outcome.suites,
    )


def _check(tasks: Sequence[Task]) -> None:
    """Refuse a graph that could not end."""
    needs = {task.key: set(task.needs) for task in tasks}
    if len(needs) != len(tasks):
        raise ValueError("a task is in the plan twice")
    absent = sorted(need for wanted in needs.values() for need in wanted if need not in needs)
    if absent:
        raise ValueError(f"not in the plan, but needed: {', '.join(map(str, absent))}")
    while ready := [key for key, wanted in needs.items() if not wanted]:
        for key in ready:
            del needs[key]
        for wanted in needs.values():
            wanted.difference_update(ready)
    if needs:
        raise ValueError(f"these need each other: {', '.join(map(str, sorted(needs)))}")
