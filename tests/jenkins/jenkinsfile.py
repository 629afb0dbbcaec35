"""What Jenkins would do with the Jenkinsfile, as a recorder of declarative pipelines has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .jobs import FOLDER, JENKINS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .groovy import Groovy

FILE = JENKINS / "Jenkinsfile"
RECORDER = Path(__file__).parent / "recorder" / "jenkinsfile.groovy"
AT_NIGHT = "hudson.triggers.TimerTrigger$TimerTriggerCause"
"""The cause of a build that `cron` has started."""


class Refused(Exception):
    """Jenkins would not take the file, or not for this build."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A build that somebody, or something, starts.

    Attributes:
        job: Its name in the folder.
        parameters: The value of each parameter that the job has.
        causes: The classes of what started it.
    """

    job: str
    parameters: Mapping[str, str]
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A step, as it would be run.

    Attributes:
        name: What it is.
        arguments: What it is given.
        credentials: The bindings that are around it, outermost first.
        environment: What the `environment` directives around it come to.
    """

    name: str
    arguments: Mapping[str, Any]
    credentials: tuple[Mapping[str, str], ...]
    environment: Mapping[str, str]

    @property
    def line(self) -> str:
        """What it gives to a shell; empty for what is no `sh`."""
        return str(self.arguments["script"]) if self.name == "sh" else ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage; one in another has the name of that one before its own.

    Attributes:
        name: As it is shown.
        entered: Whether its conditions hold.
        environment: What its own `environment` sets.
        steps: What it does.
    """

    name: str
    entered: bool
    environment: Mapping[str, str]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """What a build comes to.

    Attributes:
        asked: What it was started with.
        agent: The label of the machine that it runs on.
        options: Each with its arguments.
        triggers: Each with its arguments.
        stages: In their order, those that are not entered as well.
        post: What is done in the end, by its condition.
    """

    asked: Asked
    agent: str
    options: Mapping[str, Mapping[str, Any]]
    triggers: Mapping[str, Mapping[str, Any]]
    stages: tuple[Stage, ...]
    post: Mapping[str, tuple[Step, ...]]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all stages that are entered."""
        return tuple(step for stage in self.stages for step in stage.steps)

    @property
    def lines(self) -> list[str]:
        """What is given to a shell."""
        return [step.line for step in self.steps if step.name == "sh"]


@dataclass(frozen=True, slots=True)
class Recording:
    """What became of a file.

    Attributes:
        lines: Everything in it that is given to a shell, whatever a build comes to, by the number
            of its line; None for what is no constant.
        builds: What each build that was asked for comes to.
    """

    lines: Mapping[int, str | None]
    builds: tuple[Build, ...]


def variables(asked: Asked) -> dict[str, str]:
    """Return the variables that Jenkins makes for a build: its parameters, and which job it is of.

    https://www.jenkins.io/doc/book/pipeline/jenkinsfile/#using-environment-variables
    """
    return {
        **asked.parameters,
        "JOB_NAME": f"{FOLDER}/{asked.job}",
        "JOB_BASE_NAME": asked.job,
    }


def record(groovy: Groovy, builds: Sequence[Asked] = ()) -> Recording:
    """Return what builds of the project's Jenkinsfile come to.

    Args:
        groovy: What evaluates it, for all builds in one process.
        builds: What is asked for.

    Raises:
        Refused: Jenkins would not take it.
    """
    (found,) = record_each(groovy, [FILE.read_text(encoding="utf-8")], builds)
    if isinstance(found, Refused):
        raise found
    return found


def record_each(
    groovy: Groovy, files: Sequence[str], builds: Sequence[Asked]
) -> list[Recording | Refused]:
    """Return what builds come to with each of some Jenkinsfiles, or why it would not be taken."""
    asked = [
        {"params": each.parameters, "env": variables(each), "causes": each.causes}
        for each in builds
    ]
    requests = [json.dumps({"script": text, "builds": asked}) for text in files]
    said = groovy.run(RECORDER, stdin="".join(f"{line}\n" for line in requests)).splitlines()
    assert len(said) == len(files), said
    return [_recording(builds, json.loads(line)) for line in said]


def _recording(builds: Sequence[Asked], said: Mapping[str, Any]) -> Recording | Refused:
    if "refused" in said:
        return Refused(said["refused"])
    return Recording(
        {each["line"]: each["text"] for each in said["lines"]},
        tuple(_build(*pair) for pair in zip(builds, said["builds"], strict=True)),
    )


def _build(asked: Asked, found: Mapping[str, Any]) -> Build:
    return Build(
        asked,
        found["agent"],
        found["options"],
        found["triggers"],
        tuple(
            Stage(each["name"], each["entered"], each["environment"], _steps(each["steps"]))
            for each in found["stages"]
        ),
        {condition: _steps(steps) for condition, steps in found["post"].items()},
    )


def _steps(found: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    return tuple(
        Step(each["step"], each["arguments"], tuple(each["credentials"]), each["environment"])
        for each in found
    )
