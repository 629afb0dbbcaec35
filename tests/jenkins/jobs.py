"""The jobs that jenkins/jobs.groovy makes, as a recorder of Job DSL's methods has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .groovy import Groovy

HERE = Path(__file__).parent
JENKINS = HERE.parents[1] / "jenkins"
SCRIPT = JENKINS / "jobs.groovy"
TABLE = HERE / "jobdsl.json"
"""The methods of Job DSL's core 1.95, read from it by reflection."""
RECORDER = HERE / "recorder" / "record.groovy"
FOLDER = "slipway"
PLUGINS = ("cloudbees-folder", "git", "workflow-cps", "workflow-job")
"""The plug-ins whose methods jobs.groovy may call.

Each method in the table is of Job DSL's core. Some are of use only with a plug-in, which the table
names: these four make a folder, a pipeline job, its definition and its source, and without any one
of them there is no job. What only a plug-in brings (Job DSL generates such methods) is not in the
table, and `methodMissing`, through which it would be called, is refused, as is `configure`.
"""
DEFAULTS: Mapping[str, str] = {"REPOSITORY": "https://git.example/slipway.git"}
"""The least that the seed job has to be told."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method of Job DSL.

    Attributes:
        method: Its name.
        arguments: Its arguments, without the closure.
        calls: The calls in its closure.
    """

    method: str
    arguments: tuple[Any, ...]
    calls: tuple[Call, ...]

    @classmethod
    def parse(cls, recorded: Sequence[Any]) -> Call:
        """Return a call as the recorder writes it."""
        method, arguments, calls = recorded
        return cls(method, tuple(arguments), tuple(map(cls.parse, calls)))

    def inner(self, method: str) -> Call:
        """Return the one call of a method in the closure."""
        (found,) = (call for call in self.calls if call.method == method)
        return found

    def lines(self, path: str = "") -> list[str]:
        """Return the call and those in its closure, each as a line with the way to it."""
        here = f"{path}{self.method}"
        own = " ".join([here, *(json.dumps(each, ensure_ascii=False) for each in self.arguments)])
        return [own, *(line for call in self.calls for line in call.lines(f"{here}/"))]


@dataclass(frozen=True, slots=True)
class Job:
    """A job, as it is made."""

    call: Call

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return str(self.call.arguments[0]).removeprefix(f"{FOLDER}/")

    @property
    def parameters(self) -> dict[str, tuple[str, ...]]:
        """Its parameters, each with what may be chosen; the first is the default.

        A text has one: its default, in the place of which anything may be written.
        """
        return {
            call.arguments[0]: tuple(call.arguments[1])
            if call.method == "choiceParam"
            else (call.arguments[1],)
            for call in self.call.inner("parameters").calls
        }

    @property
    def laptop(self) -> str:
        """The line that does on a laptop what the job does."""
        return str(self.call.inner("description").arguments[0]).splitlines()[-1]


@dataclass(frozen=True, slots=True)
class Recording:
    """What became of a script.

    Attributes:
        calls: What it called at its top; nothing when it did not come to its end.
        plugins: The plug-ins that the methods need, each with its least version.
        failed: What it threw, empty when nothing.
        refused: Why it may not do what it did, empty when it may.
    """

    calls: tuple[Call, ...] = ()
    plugins: tuple[str, ...] = ()
    failed: str = ""
    refused: str = ""

    @property
    def jobs(self) -> dict[str, Job]:
        """The jobs by their names in the folder."""
        made = [Job(call) for call in self.calls if call.method == "pipelineJob"]
        return {job.name: job for job in made}

    def lines(self) -> dict[str, list[str]]:
        """Return the lines of all calls, under the name of what they make."""
        found: dict[str, list[str]] = {}
        for call in self.calls:
            name = str(call.arguments[0]).removeprefix(f"{FOLDER}/")
            found.setdefault(name, []).extend(call.lines())
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """A script to run, with the seed job's parameters."""

    script: str
    binding: tuple[tuple[str, str], ...] = ()

    @classmethod
    def seed(cls, **changed: str) -> Request:
        """Return a run of the seed job with the least that it needs and what is changed."""
        return cls(SCRIPT.read_text(), tuple({**DEFAULTS, **changed}.items()))


def record(groovy: Groovy, requests: Sequence[Request]) -> list[Recording]:
    """Run scripts against the table of methods, and return what became of each.

    Args:
        groovy: What runs them, all in one process.
        requests: The scripts.
    """
    lines = [
        json.dumps({"script": request.script, "binding": dict(request.binding)})
        for request in requests
    ]
    said = groovy.run(RECORDER, str(TABLE), *PLUGINS, stdin="".join(f"{line}\n" for line in lines))
    answers = [json.loads(line) for line in said.splitlines()]
    assert len(answers) == len(requests), said
    return [
        Recording(
            tuple(map(Call.parse, answer.get("calls", ()))),
            tuple(answer.get("plugins", ())),
            answer.get("failed") or "",
            answer.get("refused") or "",
        )
        for answer in answers
    ]
