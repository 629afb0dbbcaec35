"""The Jenkinsfile: thin, declarative, and for each job the lines that are expected of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pipeline import config
from pipeline.report import COMPARED_NAME

from . import jobs
from .jenkinsfile import (
    AT_NIGHT,
    FILE,
    Asked,
    Build,
    Recording,
    Refused,
    record,
    record_each,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .groovy import Groovy
    from .jobs import Job

pytestmark = pytest.mark.groovy

LINE = re.compile(r"make [a-z-]+|\.venv/bin/python -m pipeline( [a-z-]+)*")
IDS = {"REGISTRY_CREDENTIALS": "the-registry", "KUBECONFIG_CREDENTIALS": "the-cluster"}
REGISTRY = {
    "binding": "usernamePassword",
    "credentialsId": "the-registry",
    "usernameVariable": "PIPELINE_REGISTRY_USER",
    "passwordVariable": "PIPELINE_REGISTRY_PASSWORD",
}
CLUSTER = {"binding": "file", "credentialsId": "the-cluster", "variable": "KUBECONFIG"}
BUILDING = {
    "PIPELINE_REGISTRY": "127.0.0.1:5050",
    "PIPELINE_IMAGE": "",
    "PIPELINE_STEPS": "",
    "PIPELINE_TAG": "",
    "PIPELINE_BASES": "auto",
    "PIPELINE_ENGINE": "auto",
    "PIPELINE_FRESH": "",
}
DEPLOYING = {
    "PIPELINE_REGISTRY": "127.0.0.1:5050",
    "PIPELINE_DEPLOY_TAG": "",
    "PIPELINE_OVERLAY": "minikube",
    "PIPELINE_CONTEXT": "",
}
RUN = ["make environment", ".venv/bin/python -m pipeline setup", ".venv/bin/python -m pipeline"]
DEPLOY = [
    "make environment",
    ".venv/bin/python -m pipeline deploy diff",
    ".venv/bin/python -m pipeline deploy",
]
LINES = {"api-image": RUN, "nginx-image": RUN, "runner": RUN, "deploy": DEPLOY}


@pytest.fixture(scope="module")
def made(groovy: Groovy) -> Mapping[str, Job]:
    """Return the jobs of a seed that names credentials."""
    (recording,) = jobs.record(groovy, [jobs.Request.seed(**IDS)])
    return recording.jobs


def asked(job: Job, *causes: str, **changed: str) -> Asked:
    """Return a build of a job with the defaults and what is changed."""
    defaults = {name: choices[0] for name, choices in job.parameters.items()}
    assert set(changed) <= set(defaults)
    return Asked(job.name, {**defaults, **changed}, causes)


@pytest.fixture(scope="module")
def defaults(groovy: Groovy, made: Mapping[str, Job]) -> Mapping[str, Build]:
    """Return a build of each job with the defaults."""
    recording = record(groovy, [asked(job) for job in made.values()])
    return {build.asked.job: build for build in recording.builds}


def pipeline_variables(build: Build, step: int = -1) -> dict[str, str]:
    """Return what a line of a build, the last one, tells the pipeline by variables."""
    given = build.steps[step].environment
    return {name: value for name, value in given.items() if name.startswith(config.PREFIX)}


# --- what it may hold


def test_every_line_calls_make_or_the_pipeline(groovy: Groovy) -> None:
    """Whatever the build: a constant, with nothing of a build in it and no second command."""
    lines = record(groovy).lines
    assert len(lines) == FILE.read_text(encoding="utf-8").count("sh '")
    assert lines
    for number, line in lines.items():
        assert line is not None, f"line {number} is made up of parts"
        assert LINE.fullmatch(line), f"line {number}: {line}"


def test_each_job_has_the_lines_that_are_expected(defaults: Mapping[str, Build]) -> None:
    """In their order; one line a stage."""
    assert {job: build.lines for job, build in defaults.items()} == LINES
    for build in defaults.values():
        assert all(len(stage.steps) <= 1 for stage in build.stages)
        assert len({stage.name for stage in build.stages}) == len(build.stages)


GOOD = """
pipeline {
    agent { label 'x' }
    environment {
        A = 'a'
    }
    stages {
        stage('One') {
            when { equals expected: 'a', actual: env.A }
            steps { sh 'make one' }
        }
    }
}
"""


WRONG = [
    ("stages {", "stages { echo 'x'", "line 7: `echo` is not known in `stages`"),
    ("sh 'make one'", "script { }", "line 10: `script` is not known in `steps`"),
    ("sh 'make one'", "if (x) { sh 'x' }", "line 10: `steps` holds directives and steps alone"),
    ("sh 'make one'", "new File('x').text", "line 10: `steps` holds directives and steps"),
    ("sh 'make one'", "", "line 10: nothing is in `steps`"),
    ("sh 'make one'", "sh script: 'x', returnStatus: true", "No signature of method: Steps.sh()"),
    ("sh 'make one'", "junit tests: 'x'", "`junit` needs `testResults`"),
    ("sh 'make one'", "junit testResults: 'x', more: 1", "`junit` takes no `more`"),
    ("sh 'make one'", "junit testResults: 1", "`testResults` of `junit` is no String"),
    ("sh 'make one'", "withCredentials([]) ", "line 10: `withCredentials` needs a block"),
    ("sh 'make one'", "sh(load('x'))", "code from elsewhere is not run"),
    ("agent { label 'x' }", "", "line 2: `pipeline` has no `agent`"),
    ("agent { label 'x' }", "agent any", "line 3: `agent` needs a block"),
    ("agent { label 'x' }", "agent { label 'x' }\nparameters { }", "`parameters` is not known"),
    ("agent { label 'x' }", "agent { label 'x'; label 'y' }", "something is in `agent` twice"),
    ("when {", "steps { deleteDir() }\nwhen {", "`when` is decided first"),
    ("steps {", "stages { stage('x') { steps { sh 'x' } } }\nsteps {", "either `steps` or"),
    ("equals ", "branch ", "line 9: `branch` is not known in `when`"),
    ("expected: 'a', ", "", "`equals` takes `expected` and `actual`"),
    ("A = 'a'", "A = 1", "line 5: a value in `environment` is a text in quotes"),
    ("A = 'a'", "echo 'a'", "line 5: `environment` holds NAME = VALUE alone"),
    ("pipeline {", "def x = 1\npipeline {", "one `pipeline` and functions, and nothing else"),
    ("pipeline {", "class A { }\npipeline {", "a class is no part of a Jenkinsfile"),
]
"""What to replace in the good one, with what, and what is said of it then."""


@pytest.fixture(scope="module")
def refusals(groovy: Groovy) -> Mapping[str, Recording | Refused]:
    """Return what becomes of the good one, and of what is made of it."""
    files = [GOOD, *(GOOD.replace(old, new, 1) for old, new, _ in WRONG)]
    assert len(set(files)) == len(files)
    return dict(zip(files, record_each(groovy, files, [Asked("any", {})]), strict=True))


@pytest.mark.parametrize(("old", "new", "why"), WRONG)
def test_what_is_not_declarative_is_refused(
    refusals: Mapping[str, Recording | Refused], old: str, new: str, why: str
) -> None:
    """The recorder knows what it is told of and nothing else: or a green test says nothing."""
    good, wrong = refusals[GOOD], refusals[GOOD.replace(old, new, 1)]
    assert isinstance(good, Recording)
    assert good.builds[0].lines == ["make one"]
    assert why in str(wrong)
    assert isinstance(wrong, Refused)


# --- what each job tells the pipeline


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("api-image", BUILDING | {"PIPELINE_IMAGE": "api", "PIPELINE_STEPS": "push"}),
        ("nginx-image", BUILDING | {"PIPELINE_IMAGE": "nginx", "PIPELINE_STEPS": "push"}),
        ("runner", BUILDING),
        (
            "deploy",
            DEPLOYING | {"PIPELINE_YES": "true", "PIPELINE_IMAGES": f"reports/{COMPARED_NAME}"},
        ),
    ],
)
def test_each_job_tells_the_pipeline_what_it_is_for(
    defaults: Mapping[str, Build], job: str, expected: Mapping[str, str]
) -> None:
    """By variables that the pipeline reads; what is empty is the default."""
    assert pipeline_variables(defaults[job]) == expected
    assert set(expected) <= {setting.variable for setting in config.SETTINGS}


def test_each_parameter_reaches_the_pipeline_as_its_variable(
    groovy: Groovy, made: Mapping[str, Job], defaults: Mapping[str, Build]
) -> None:
    """One that is changed alone changes one variable alone, and neither the lines nor the order."""
    text = "$(touch x); 'x' \"${HOME}\""
    changes = [
        (job, name, text if known == ("",) else known[1])
        for job in made.values()
        for name, known in job.parameters.items()
        if known == ("",) or len(known) > 1
    ]
    assert {job.name for job, *_ in changes} == set(LINES)
    recording = record(groovy, [asked(job, **{name: to}) for job, name, to in changes])
    for (job, name, to), build in zip(changes, recording.builds, strict=True):
        variable, step = f"PIPELINE_{name}", -1
        if (job, name) == (made["deploy"], "TAG"):
            # Of the difference alone: what that was of is what is deployed.
            assert pipeline_variables(build) == pipeline_variables(defaults[job.name])
            variable, step = "PIPELINE_DEPLOY_TAG", -2
        before = pipeline_variables(defaults[job.name], step)
        assert pipeline_variables(build, step) == before | {variable: to}
        assert build.lines == LINES[job.name]


def test_credentials_are_bound_for_the_one_line_that_needs_them(
    defaults: Mapping[str, Build],
) -> None:
    """By their ids; neither the environment nor set-up gets to see one."""
    bound = {
        (job, step.line): step.credentials
        for job, build in defaults.items()
        for step in (*build.steps, *(step for steps in build.post.values() for step in steps))
        if step.credentials
    }
    assert bound == {
        **{
            (job, ".venv/bin/python -m pipeline"): (REGISTRY,)
            for job in ("api-image", "nginx-image", "runner")
        },
        ("deploy", ".venv/bin/python -m pipeline deploy diff"): (REGISTRY, CLUSTER),
        ("deploy", ".venv/bin/python -m pipeline deploy"): (REGISTRY, CLUSTER),
    }


def test_nothing_is_bound_where_the_seed_names_no_credential(groovy: Groovy) -> None:
    """A registry on the loopback interface asks for none, and an agent may have a kubeconfig."""
    (recording,) = jobs.record(groovy, [jobs.Request.seed()])
    for build in record(groovy, [asked(job) for job in recording.jobs.values()]).builds:
        assert not any(step.credentials for step in build.steps)


# --- when and where


def test_jobs_are_started_by_changes_and_the_runner_by_the_night(
    defaults: Mapping[str, Build],
) -> None:
    """A deployment is not: by nothing on its own, not even a hook of the repository."""
    polled = {"scmpoll_spec": "H/5 * * * *", "ignorePostCommitHooks": False}
    images = {"pollSCM": polled, "cron": {"spec": ""}}
    assert {job: build.triggers for job, build in defaults.items()} == {
        "api-image": images,
        "nginx-image": images,
        "runner": {"pollSCM": polled, "cron": {"spec": "H 2 * * *"}},
        "deploy": {
            "pollSCM": {"scmpoll_spec": "", "ignorePostCommitHooks": True},
            "cron": {"spec": ""},
        },
    }


def test_the_night_verifies_afresh(groovy: Groovy, made: Mapping[str, Job]) -> None:
    """Unless the build says which steps; and a change does not, though nobody started it."""
    runner = made["runner"]
    changed = "hudson.triggers.SCMTrigger$SCMTriggerCause"
    builds = [asked(runner, AT_NIGHT), asked(runner, AT_NIGHT, FRESH="all"), asked(runner, changed)]
    recording = record(groovy, builds)
    found = [pipeline_variables(build)["PIPELINE_FRESH"] for build in recording.builds]
    assert found == ["verify", "all", ""]


@pytest.mark.parametrize("job", LINES)
def test_builds_are_bounded_and_leave_a_clean_workspace(
    defaults: Mapping[str, Build], job: str
) -> None:
    """One at a time, for an hour at most, with times in the log; the reports however it ends."""
    build = defaults[job]
    assert build.agent == "slipway"
    assert build.options == {
        "disableConcurrentBuilds": {},
        "timeout": {"time": 1, "unit": "HOURS"},
        "timestamps": {},
    }
    assert [step.name for step in build.post["always"]] == [
        "archiveArtifacts",
        "publishHTML",
        "junit",
    ]
    assert [step.name for step in build.post["cleanup"]] == ["deleteDir"]


def test_only_production_is_asked_about(groovy: Groovy, made: Mapping[str, Job]) -> None:
    """After the difference was shown, before anything is changed; and agreed to only then."""
    builds = [asked(made["deploy"], OVERLAY=name) for name in ("minikube", "production")]
    minikube, production = record(groovy, builds).builds
    assert [step.name for step in minikube.steps] == ["sh", "sh", "sh"]
    assert [step.name for step in production.steps] == ["sh", "sh", "input", "sh"]
    for build in (minikube, production):
        agreed = [step.line for step in build.steps if "PIPELINE_YES" in step.environment]
        assert agreed == [".venv/bin/python -m pipeline deploy"]
    assert production.steps[2].arguments["message"] == "Deploy  to production?"
