"""Fakes for the seams of the pipeline's shell: what is found, the plan, and the process."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.__main__ import main
from pipeline.course import Parts, Process
from pipeline.task import Image, Key, Outcome, Result, Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.config import Settings

IMAGE = Image(
    name="api",
    reference=f"127.0.0.1:5050/slipway-api:v1@sha256:{'e' * 64}",
    size_bytes=183_000_000,
    base=f"127.0.0.1:5050/slipway-standin/python:1@sha256:{'a' * 64}",
)


@dataclass(frozen=True)
class Engine:
    """An engine, as the context tells it."""

    name: str = "embedded"
    version: str = "0.1.0"
    reason: str = "no Dagger is here"


@dataclass(frozen=True)
class Bases:
    """Base images, as the context tells them."""

    kind: str = "debian"
    references: dict[str, str] = field(default_factory=lambda: {"api": IMAGE.base})


@dataclass(frozen=True)
class Found:
    """What a run found."""

    engine: Engine = field(default_factory=Engine)
    bases: Bases = field(default_factory=Bases)
    revision: str = "6a0c4e2"
    platform: str = "linux/amd64"
    inputs: dict[str, str] = field(default_factory=lambda: {"service": f"sha256:{'c' * 64}"})


def task(
    key: Key,
    *needs: Key,
    outcome: Outcome | None = None,
    error: BaseException | None = None,
    body: Callable[[], Awaitable[None]] | None = None,
) -> Task:
    """Return a task that runs ``body``, then raises ``error`` or ends with ``outcome``."""

    async def run() -> Outcome:
        if body:
            await body()
        if error:
            raise error
        return outcome or Outcome()

    return Task(key, run, needs)


class Diary:
    """An observer that writes down what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def planned(self, tasks: Sequence[Task]) -> None:
        """Write it down."""
        self.lines.append(f"planned {len(tasks)}")

    def started(self, key: Key) -> None:
        """Write it down."""
        self.lines.append(f"started {key}")

    def ended(self, result: Result) -> None:
        """Write it down."""
        self.lines.append(f"{result.state} {result.key}")


def planned(
    *tasks: Task, raises: BaseException | None = None, seen: list[Settings] | None = None
) -> Parts:
    """Return parts whose plan is the tasks.

    Args:
        tasks: The plan.
        raises: Raised when the run is prepared.
        seen: Gets the settings of each run.
    """

    @contextlib.asynccontextmanager
    async def prepare(settings: Settings) -> AsyncIterator[Found]:
        if seen is not None:
            seen.append(settings)
        if raises:
            raise raises
        yield Found()

    return Parts(prepare=prepare, plan=lambda _found: tasks)


@dataclass
class Desk:
    """A project in a folder, and a process in it whose output can be read."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    out: io.StringIO = field(default_factory=io.StringIO)
    err: io.StringIO = field(default_factory=io.StringIO)

    @classmethod
    def lay_out(cls, root: Path) -> Desk:
        """Make the project's folder."""
        root.mkdir()
        (root / "pyproject.toml").write_text('[project]\nname = "slipway"\n', encoding="utf-8")
        return cls(root)

    def configure(self, text: str) -> None:
        """Write ``[tool.pipeline]``."""
        (self.root / "pyproject.toml").write_text(f"[tool.pipeline]\n{text}\n", encoding="utf-8")

    @property
    def process(self) -> Process:
        """The process, for what takes one."""
        return Process(self.out, self.err, self.environ, self.root)

    def run(self, *arguments: str, parts: Parts | None = None) -> int:
        """Run a command line, and return its exit code."""
        return main(arguments, process=self.process, parts=parts or planned())

    def report(self) -> Mapping[str, Any]:
        """Return report.json."""
        text = (self.root / "reports" / "report.json").read_text(encoding="utf-8")
        document: Mapping[str, Any] = json.loads(text)
        return document
