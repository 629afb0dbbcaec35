"""The graph of the steps: order, limits, failures, cancellation."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from pipeline import flow
from pipeline.errors import InternalError, PipelineError, PrerequisiteError, StepError, UsageError
from pipeline.task import Key, Outcome, Result, Task

from .fakes import IMAGE, Diary, task

pytestmark = pytest.mark.anyio

LINT, TEST, BUILD, PUSH, VERIFY = map(Key, ("lint", "test", "build", "push", "verify"))


async def run(*tasks: Task, jobs: int = 4) -> dict[str, Result]:
    """Run the tasks, and return the results by name."""
    results = await flow.run(tasks, jobs=jobs, observer=Diary())
    return {str(result.key): result for result in results}


async def test_need_comes_first() -> None:
    """A task starts when all that it needs has ended, whatever the order of the plan."""
    diary = Diary()
    plan = (task(PUSH, BUILD, LINT), task(LINT), task(BUILD))
    await flow.run(plan, jobs=4, observer=diary)
    assert diary.lines[0] == "planned 3"
    assert diary.lines[-2:] == ["started push", "passed push"]


async def test_results_are_in_the_order_of_the_plan() -> None:
    """Results come in the order of the plan, not in the order of the endings."""

    async def slow() -> None:
        await anyio.sleep(0.02)

    results = await flow.run((task(LINT, body=slow), task(TEST)), jobs=2, observer=Diary())
    assert [result.key for result in results] == [LINT, TEST]


async def test_independent_tasks_run_side_by_side() -> None:
    """Tasks that need nothing of each other run at once: each waits here for the other."""
    first, second = anyio.Event(), anyio.Event()

    async def left() -> None:
        first.set()
        await second.wait()

    async def right() -> None:
        second.set()
        await first.wait()

    with anyio.fail_after(5):
        results = await run(task(LINT, body=left), task(TEST, body=right))
    assert {result.state for result in results.values()} == {"passed"}


@pytest.mark.parametrize("jobs", [1, 2, 3])
async def test_no_more_than_jobs_run_at_once(jobs: int) -> None:
    """Never do more than ``jobs`` tasks run, and as many do when there is work."""
    running, most = 0, 0

    async def body() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.005)
        running -= 1

    await run(*(task(Key("test", str(n)), body=body) for n in range(9)), jobs=jobs)
    assert most == jobs


async def test_ready_tasks_start_in_the_order_of_the_plan() -> None:
    """With one job the plan is walked from the front."""
    diary = Diary()
    keys = [Key("test", str(n)) for n in range(5)]
    await flow.run([task(key) for key in keys], jobs=1, observer=diary)
    assert [line for line in diary.lines if "started" in line] == [f"started {k}" for k in keys]


async def test_failure_skips_what_needs_it_and_nothing_else() -> None:
    """What needs a failed task is skipped with its cause, also indirectly; the rest finishes."""
    results = await run(
        task(LINT, error=StepError("two findings", remedy="Mend them", evidence="a.py:1")),
        task(TEST),
        task(PUSH, TEST, LINT),
        task(VERIFY, PUSH),
        task(BUILD, TEST),
    )
    assert [(name, r.state, r.cause) for name, r in results.items()] == [
        ("lint", "failed", "two findings"),
        ("test", "passed", ""),
        ("push", "skipped", "needs lint, which failed"),
        ("verify", "skipped", "needs push, which was skipped"),
        ("build", "passed", ""),
    ]
    assert (results["lint"].remedy, results["lint"].evidence) == ("Mend them", "a.py:1")


async def test_cached_need_is_as_good_as_passed() -> None:
    """A need that is cached lets a task run; one that could not run here does not."""
    cached = Outcome("cached", "ran before")
    results = await run(
        task(BUILD, outcome=cached),
        task(PUSH, BUILD),
        task(TEST, outcome=Outcome("skipped", "no socket")),
        task(VERIFY, TEST),
    )
    assert results["build"].cause == "ran before"
    assert results["push"].state == "passed"
    assert results["verify"].cause == "needs test, which was skipped"


async def test_outcome_is_handed_on() -> None:
    """The image and the suites of an outcome are in the result, with its times."""

    async def body() -> None:
        await anyio.sleep(0.02)

    began = time.monotonic() - 10
    outcome = Outcome(image=IMAGE)
    (result,) = await flow.run(
        [task(PUSH, outcome=outcome, body=body)], jobs=1, observer=Diary(), began=began
    )
    assert result.image is IMAGE
    assert 10 <= result.started < 11
    assert 0.015 < result.seconds < 1


async def test_foreign_error_fails_its_task_alone() -> None:
    """An error that is none of ours fails its task, as a mistake of the pipeline."""
    results = await run(task(LINT, error=KeyError("x")), task(TEST))
    assert results["lint"].cause == "Internal error in lint: KeyError: 'x'"
    assert "please report it" in results["lint"].remedy
    assert "Traceback" in results["lint"].evidence
    assert results["test"].state == "passed"


async def test_foreign_error_is_translated_by_whom_the_caller_names() -> None:
    """The caller may say what becomes of an error that is none of ours."""

    def translate(where: str, error: BaseException) -> PipelineError:
        return InternalError(f"the {where}", error)

    (result,) = await flow.run(
        [task(LINT, error=OSError("gone"))], jobs=1, observer=Diary(), translate=translate
    )
    assert result.cause == "Internal error in the lint: OSError: gone"


async def test_mistake_that_was_translated_below_is_translated_here() -> None:
    """A mistake that a layer below already named is told for the step, with its own traceback."""
    below = InternalError("connecting", KeyError("x"), evidence="Traceback")
    below.__cause__ = KeyError("x")
    (result,) = await flow.run([task(LINT, error=below)], jobs=1, observer=Diary())
    assert result.cause == "Internal error in lint: KeyError: 'x'"


async def test_errors_of_parallel_parts_are_all_told() -> None:
    """When parts of a step fail side by side, one result tells of each, and no group leaks."""
    group = ExceptionGroup(
        "parts",
        [
            StepError("ruff found 2", remedy="Mend them", evidence="a.py"),
            ExceptionGroup("more", [StepError("hadolint found 1", evidence="Dockerfile")]),
        ],
    )
    result = (await run(task(LINT, error=group)))["lint"]
    assert result.cause == "ruff found 2; hadolint found 1"
    assert result.remedy == "Mend them"
    assert result.evidence == "ruff found 2\na.py\n\nhadolint found 1\nDockerfile"


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((), 0),
        ((StepError("x"),), 1),
        ((UsageError("x"),), 2),
        ((PrerequisiteError("x"),), 3),
        ((UsageError("x"), StepError("y")), 1),
        ((PrerequisiteError("x"), UsageError("y")), 2),
    ],
)
async def test_exit_code_is_that_of_the_worst(errors: tuple[PipelineError, ...], code: int) -> None:
    """A failed step outranks a wrong call, and that a machine that lacks something."""
    results = await run(
        task(TEST), *(task(Key("lint", str(n)), error=error) for n, error in enumerate(errors))
    )
    assert flow.exit_code(results.values()) == code


async def test_skipping_is_no_failure() -> None:
    """A step that could not run here does not fail the run."""
    results = await run(task(VERIFY, outcome=Outcome("skipped", "no socket")))
    assert flow.exit_code(results.values()) == 0


async def test_cancellation_stops_what_runs() -> None:
    """A cancelled run cancels its tasks, lets them put away, and says what had ended."""
    diary = Diary()
    put_away = False

    async def endless() -> None:
        nonlocal put_away
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                put_away = True

    with anyio.move_on_after(0.05) as scope:
        await flow.run(
            (task(LINT), task(TEST, body=endless), task(PUSH, TEST)), jobs=2, observer=diary
        )
    assert scope.cancelled_caught
    assert put_away
    assert "passed lint" in diary.lines
    assert not any("push" in line for line in diary.lines)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ((task(LINT), task(LINT)), "in the plan twice"),
        ((task(PUSH, BUILD),), "not in the plan, but needed: build"),
        ((task(PUSH, BUILD), task(BUILD, PUSH), task(LINT)), "need each other: build, push"),
        ((task(PUSH, PUSH),), "need each other: push"),
    ],
)
async def test_graph_that_could_not_end_is_refused(plan: tuple[Task, ...], told: str) -> None:
    """A graph with a cycle, a gap or a double is refused before anything runs."""
    with pytest.raises(ValueError, match=told):
        await flow.run(plan, jobs=1, observer=Diary())
