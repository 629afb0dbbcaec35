"""What all steps share: ask whether it passed before, run it in a limit, keep that it passed."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from pipeline import cache, connect, source
from pipeline.task import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from pipeline.cache import Record
    from pipeline.context import Context
    from pipeline.source import File
    from pipeline.task import Image, Key

_log = logging.getLogger(__name__)

LIMIT = 1800.0
"""Seconds for one step: above what a cold start takes on a slow network, far below a night."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a step came to that ran now and passed.

    Attributes:
        image: The pushed image, from the push step.
        files: What it wrote for the reports: paths relative to the report folder. Those named
            ``junit….xml`` are the tests that ran within.
        cause: What a person should know although it passed; empty for nothing.
        facts: What it wants to know again, when it is cached.
    """

    image: Image | None = None
    files: tuple[str, ...] = ()
    cause: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


async def recorded(  # noqa: PLR0913 - each is a word of one sentence
    ctx: Context,
    key: Key,
    material: Mapping[str, str],
    run: Callable[[], Awaitable[Ran]],
    *,
    files: tuple[File, ...] = (),
    confirm: Callable[[Record], Awaitable[bool]] | None = None,
) -> Outcome:
    """Return what a step came to: when it passed before with the same material, without running.

    Args:
        ctx: The run.
        key: The step.
        material: Everything that could change the outcome, beside the engine, the platform and
            the pipeline's own code.
        run: Runs the step.
        files: The project's files that it reads: when they change meanwhile, nobody can say what
            passed, and nothing is kept.
        confirm: Says whether what passed before still stands.

    Raises:
        PipelineError: What the step raised, translated.
    """
    name = cache.key(
        key.step,
        key.image,
        {
            **material,
            "files": source.digest(files),
            "engine": ctx.engine.name,
            "platform": ctx.platform,
            "makers": ctx.makers,
        },
    )
    report_dir = ctx.settings.report_dir
    if key.step not in ctx.settings.fresh:
        record = await to_thread.run_sync(ctx.records.find, name, report_dir)
        if record is not None and (confirm is None or await confirm(record)):
            cause = "; ".join(filter(None, (record.story, record.facts.get("cause"))))
            suites = _suites(report_dir, record.files)
            return Outcome("cached", cause=cause, image=record.image, suites=suites)
    began = time.monotonic()
    with connect.translating(str(key)), anyio.fail_after(LIMIT):
        ran = await run()
    if await to_thread.run_sync(_unchanged, ctx.settings.root, files):
        facts = {**ran.facts, **({"cause": ran.cause} if ran.cause else {})}
        passed = cache.Record(
            key=name,
            when=time.time(),
            host=cache.host(),
            seconds=time.monotonic() - began,
            image=ran.image,
            facts=facts,
            files=ran.files,
        )
        await to_thread.run_sync(ctx.records.keep, passed, report_dir)
    else:
        _log.warning("%s: files changed while it ran, so it will run again next time", key)
    return Outcome(cause=ran.cause, image=ran.image, suites=_suites(report_dir, ran.files))


def _suites(report_dir: Path, files: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(
        report_dir / file for file in files if PurePosixPath(file).name.startswith("junit")
    )


def _unchanged(root: Path, files: tuple[File, ...]) -> bool:
    return source.again(root, files) == files
