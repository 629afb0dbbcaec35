"""The steps: one verb, one coroutine each; and the graph that they make.

    lint ───────────┐
    test[image]  ───┼── push[image] ── verify
    build[image] ───┘

A step sees a `pipeline.context.Context` and, by way of it, a ``dagger.Client``. None of them asks
which engine it is on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pipeline.steps.build import build
from pipeline.steps.lint import lint
from pipeline.steps.push import push
from pipeline.steps.test import test
from pipeline.steps.verify import verify
from pipeline.task import Key, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pipeline.context import Context
    from pipeline.task import Outcome

__all__ = ["NEEDS", "build", "lint", "plan", "push", "test", "verify"]

NEEDS = {
    "lint": (),
    "test": (),
    "build": (),
    "push": ("lint", "test", "build"),
    "verify": ("push",),
}
"""What must have passed before each step."""

_FOR_ALL: dict[str, Callable[[Context], Coroutine[None, None, Outcome]]] = {
    "lint": lint,
    "verify": verify,
}
_FOR_EACH: dict[str, Callable[[Context, str], Coroutine[None, None, Outcome]]] = {
    "test": test,
    "build": build,
    "push": push,
}


def plan(ctx: Context) -> tuple[Task, ...]:
    """Return the tasks of a run: the steps that were asked for, and what they need."""
    wanted: set[str] = set()
    pending = list(ctx.settings.steps)
    while pending:
        step = pending.pop()
        if step not in wanted:
            wanted.add(step)
            pending.extend(NEEDS[step])
    return tuple(
        task for step in NEEDS if step in wanted for task in _tasks(ctx, step, ctx.settings.images)
    )


def _tasks(ctx: Context, step: str, images: tuple[str, ...]) -> list[Task]:
    if step in _FOR_ALL:
        needs = tuple(key for need in NEEDS[step] for key in _keys(need, images))
        return [Task(Key(step), functools.partial(_FOR_ALL[step], ctx), needs)]
    return [
        Task(
            Key(step, image),
            functools.partial(_FOR_EACH[step], ctx, image),
            tuple(key for need in NEEDS[step] for key in _keys(need, (image,))),
        )
        for image in images
    ]


def _keys(step: str, images: tuple[str, ...]) -> list[Key]:
    return [Key(step)] if step in _FOR_ALL else [Key(step, image) for image in images]
