"""The jobs that jenkins/jobs.groovy makes, and that it makes them with Job DSL's core alone.

All scripts run in one process, once; each test reads what became of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pipeline import config, images
from pipeline.errors import UsageError

from .jobs import (
    DEFAULTS,
    HERE,
    JENKINS,
    PLUGINS,
    SCRIPT,
    TABLE,
    Recording,
    Request,
    record,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .groovy import Groovy

pytestmark = pytest.mark.groovy

EXPECTED = HERE / "expected"
NAMES = ("slipway", "api-image", "nginx-image", "runner", "deploy")
"""What is made, in this order: a folder has to be there before what is in it."""
JOBS = NAMES[1:]
_PARAMETER = "pipelineJob/parameters/choiceParam "
_AGENT = f'{_PARAMETER}"AGENT"'
_URL = "pipelineJob/definition/cpsScm/scm/git/remote/url"


@dataclass(frozen=True)
class Change:
    """What comes of another value of a seed parameter.

    Attributes:
        value: The value.
        replaced: A text, and what stands in its place everywhere.
        added: A line that is new, in front of the line that begins with the second text.
        jobs: The jobs that it is new in.
    """

    value: str
    replaced: tuple[str, str] = ("", "")
    added: tuple[str, str] = ("", "")
    jobs: tuple[str, ...] = JOBS


CHANGES: Mapping[str, Change] = {
    "REPOSITORY": Change(
        "git@git.example:team/slipway.git",
        replaced=(DEFAULTS["REPOSITORY"], "git@git.example:team/slipway.git"),
    ),
    "BRANCH": Change("release/1.x", replaced=("refs/heads/main", "refs/heads/release/1.x")),
    "GIT_CREDENTIALS": Change(
        "git-read",
        added=(
            'pipelineJob/definition/cpsScm/scm/git/remote/credentials "git-read"',
            "pipelineJob/definition/cpsScm/scm/git/branch",
        ),
    ),
    "REGISTRY": Change(
        "registry.example:5000/team", replaced=("127.0.0.1:5050", "registry.example:5000/team")
    ),
    "REGISTRY_CREDENTIALS": Change(
        "docker-hub",
        added=(
            (
                f'{_PARAMETER}"REGISTRY_CREDENTIALS" ["docker-hub"] '
                '"The id of the user and password at the registry, as the seed job has it"'
            ),
            _AGENT,
        ),
    ),
    "KUBECONFIG_CREDENTIALS": Change(
        "kubeconfig",
        added=(
            (
                f'{_PARAMETER}"KUBECONFIG_CREDENTIALS" ["kubeconfig"] '
                '"The id of the kubeconfig, as the seed job has it"'
            ),
            _AGENT,
        ),
        jobs=("deploy",),
    ),
    "AGENT": Change("builder", replaced=('"AGENT" ["slipway"]', '"AGENT" ["builder"]')),
}

_ID = "the id of credentials, or empty"
NOUNS: Mapping[str, str] = {
    "REPOSITORY": "the address of a git repository by HTTP(S), SSH or git, with no password in it",
    "BRANCH": "the name of a branch",
    "GIT_CREDENTIALS": _ID,
    "REGISTRY": "HOST[:PORT][/NAMESPACE]",
    "REGISTRY_CREDENTIALS": _ID,
    "KUBECONFIG_CREDENTIALS": _ID,
    "AGENT": "the label of an agent",
}
WRONG: Mapping[str, tuple[str, ...]] = {
    "REPOSITORY": (
        "",
        " ",
        "slipway",
        "https://git.example",
        "https://user:pa55word@git.example/slipway.git",
        "https://git.example/slipway.git --upload-pack=x",
        "file:///srv/slipway.git",
        "/srv/slipway.git",
        "ext::sh -c id",
    ),
    "BRANCH": (
        "my branch",
        "-b",
        "/main",
        "main/",
        "a..b",
        "a//b",
        "a/.b",
        "main.lock",
        "a.lock/b",
        "main.",
        "*",
        "*/main",
        "a~1",
        "a:b",
        "$BRANCH",
        "main\n",
    ),
    "GIT_CREDENTIALS": ("git read", "git/read", "${GIT}", "'"),
    "REGISTRY": (
        "registry example",
        "https://registry.example",
        "registry.example:",
        "registry.example:port",
        "registry.example/",
        "registry.example/Team",
        "-registry.example",
        "user@registry.example",
        "registry.example;id",
        "registry.example/$(id)",
    ),
    "REGISTRY_CREDENTIALS": ("docker hub", "docker/hub", "<b>"),
    "KUBECONFIG_CREDENTIALS": ("kube config", "~/.kube/config"),
    "AGENT": ("a b", "a && b", "!a", "$A"),
}
RIGHT: Mapping[str, tuple[str, ...]] = {
    "REPOSITORY": (
        "http://git.example:8080/slipway",
        "ssh://git@git.example:2222/team/slipway.git",
        "git://git.example/slipway.git",
        "user_1@git.example:slipway",
    ),
    "BRANCH": ("v1.2", "feature/a-b_c+d", "1"),
    "REGISTRY": (
        "localhost:5000",
        "docker.io/team",
        "[::1]:5050",
        "r.example/a/b_c-d",
        "R.example",
    ),
    "AGENT": ("linux-docker_1.2",),
}

_INSIDE = "pipelineJob('x') {{ {} }}"
REFUSED: Mapping[str, tuple[str, str]] = {
    "unknown method": ("folder('x') { bogus('x') }", "the sandbox has no this.bogus(x)"),
    "method of another context": (
        _INSIDE.format("numToKeep(1)"),
        "jobs.WorkflowJob has no method numToKeep",
    ),
    "method of the context around": (
        _INSIDE.format("logRotator { description('x') }"),
        "LogRotatorContext has no method description",
    ),
    "method of the root in a job": (
        _INSIDE.format("folder('y')"),
        "jobs.WorkflowJob has no method folder",
    ),
    "type of an argument": (
        "folder('x') { description(1) }",
        "Folder.description takes [String], not [Integer]",
    ),
    "text in the place of a number": (
        _INSIDE.format("logRotator { numToKeep('1') }"),
        "LogRotatorContext.numToKeep takes [int], not [String]",
    ),
    "text in the place of a list": (
        _INSIDE.format("parameters { choiceParam('A', 'a') }"),
        "choiceParam takes [String, List, String] or [String, List], not [String, String]",
    ),
    "null": ("folder(null)", "DslFactory.folder takes [String, Closure] or [String], not [null]"),
    "number of arguments": ("folder('x', 'y')", "not [String, String]"),
    "closure where there is none": (_INSIDE.format("description { }"), "not [Closure]"),
    "deprecated": (_INSIDE.format("triggers { }"), "jobs.WorkflowJob.triggers is deprecated"),
    "configure": (_INSIDE.format("configure { }"), "jobs.WorkflowJob has no method configure"),
    "generated by a plug-in": (
        _INSIDE.format("properties { methodMissing('x', 'y') }"),
        "helpers.properties.PropertiesContext has no method methodMissing",
    ),
    "method of another plug-in": ("mavenJob('x')", "DslFactory.mavenJob needs the plug-in maven"),
    "unknown context": ("freeStyleJob('x') { }", "nothing is known of the context of its closure"),
    "property of a context": (
        _INSIDE.format("description = 'x'"),
        "the sandbox has no description",
    ),
    "property by name": (
        "folder('x') { this.\"${'description'}\" }",
        "Nothing is named description",
    ),
    "new File": ("new File('x')", "the sandbox has no new java.io.File(x)"),
    "other exception": (
        "throw new IllegalStateException('x')",
        "the sandbox has no new java.lang.IllegalStateException(x)",
    ),
    "System": ("System.exit(1)", "the sandbox has no java.lang.System.exit(1)"),
    "System without a call": ("folder(System.in)", "ClassExpressions are not allowed"),
    "Jenkins.instance": ("Jenkins.instance.jobNames", "the sandbox has no Jenkins"),
    "Jenkins by its package": ("jenkins.model.Jenkins.get()", "the sandbox has no"),
    "static call": ("Math.max(1, 2)", "the sandbox has no java.lang.Math.max(1, 2)"),
    "static call that the list has": ("String.format('x')", "the sandbox has no java.lang.String"),
    "call in a text": (
        "folder(\"${System.getenv('HOME')}\")",
        "the sandbox has no java.lang.System.getenv(HOME)",
    ),
    "call in a list": (
        "def x = [a: [System.exit(1)]]",
        "the sandbox has no java.lang.System.exit(1)",
    ),
    "call in a condition": (
        "if (System.exit(1)) { }",
        "the sandbox has no java.lang.System.exit(1)",
    ),
    "call in a loop": ("for (x in [System.in]) { }", "ClassExpressions are not allowed"),
    "call in a default": ("def x = { y = System.exit(1) -> }", "y = java.lang.System.exit(1)"),
    "annotation": ("@Deprecated def x = 1", "the sandbox has no"),
    "static import": ("import static java.lang.Math.max\nmax(1, 2)", "Importing"),
    "import": ("import java.nio.file.Files\nfolder('x')", "Importing [java.nio.file.Files]"),
    "package": ("package x\nfolder('x')", "unable to resolve class JobScript"),
    "class": ("class A { }\nfolder('x')", "Classes are not allowed"),
    "method": ("void f() { }\nf()", "Method definitions are not allowed"),
    "getClass": ("'x'.getClass()", "the sandbox has no x.getClass()"),
    "class of a value": ("'x'.class", "the sandbox has no x.class"),
    "class by a computed name": ("'x'.\"${'class'}\"", "the sandbox has no"),
    "meta class": ("folder('x') { this.metaClass }", "the sandbox has no this.metaClass"),
    "owner of a closure": ("folder('x') { owner }", "the sandbox has no owner"),
    "cast": ("'x' as File", "CastExpressions are not allowed"),
    "method pointer": ("'x'.&length", "MethodPointerExpressions are not allowed"),
    "attribute": ("'x'.@value", "AttributeExpressions are not allowed"),
    "spread": ("['x']*.foo", "the sandbox has no"),
    "range": ("(1..2).each { }", "RangeExpressions are not allowed"),
    "array": ("new File[1]", "ArrayExpressions are not allowed"),
    "program": ("'id'.execute()", "the sandbox has no id.execute()"),
    "evaluate": ("evaluate('1')", "the sandbox has no this.evaluate(1)"),
    "output": ("println('x')", "the sandbox has no this.println(x)"),
    "all variables": ("binding.variables", "the sandbox has no"),
    "syntax": ("folder('x'", "unexpected token"),
}
"""What the recorder refuses, by what is wrong with it: a script, and a part of the reason."""

_ROW = re.compile(r" {4}\[\n {8}name: 'deploy',.*?\n {4}\],\n", re.DOTALL)


def without_deploy() -> Request:
    """Return a run of the script without the row of one job."""
    seed = Request.seed()
    script, rows = _ROW.subn("", seed.script)
    assert rows == 1
    return Request(script, seed.binding)


def requests() -> list[Request]:
    """Return all that the tests here run."""
    return [
        Request.seed(),
        without_deploy(),
        *(Request.seed(**{name: change.value}) for name, change in CHANGES.items()),
        *(Request.seed(**{name: ""}) for name in CHANGES),
        *(Request.seed(**{name: value}) for name, values in WRONG.items() for value in values),
        *(Request.seed(**{name: value}) for name, values in RIGHT.items() for value in values),
        *(Request(script) for script, _ in REFUSED.values()),
        Request.seed(),
    ]


@pytest.fixture(scope="module")
def ran(groovy: Groovy) -> list[Recording]:
    """Return what became of each request, in the order in which they ran."""
    return record(groovy, requests())


@pytest.fixture(scope="module")
def recordings(ran: list[Recording]) -> dict[Request, Recording]:
    """Return what became of each request."""
    return dict(zip(requests(), ran, strict=True))


@pytest.fixture(scope="module")
def made(recordings: dict[Request, Recording]) -> Recording:
    """Return what the seed job makes with the least that it has to be told."""
    found = recordings[Request.seed()]
    assert (found.failed, found.refused) == ("", "")
    return found


def expected(name: str) -> list[str]:
    """Return the lines that are expected of what has a name, with the least of parameters."""
    return (EXPECTED / f"{name}.txt").read_text().splitlines()


def test_the_jobs_are_made_in_their_folder(made: Recording) -> None:
    """Four jobs in a folder, which is made first; nothing else is."""
    assert tuple(made.lines()) == NAMES
    assert tuple(made.jobs) == JOBS
    assert {path.stem for path in EXPECTED.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_job_is_made_as_expected(made: Recording, name: str) -> None:
    """What makes each job is written down in tests/jenkins/expected, call by call."""
    assert made.lines()[name] == expected(name)


@pytest.mark.parametrize("parameter", CHANGES)
def test_a_changed_seed_parameter_changes_what_it_is_for(
    recordings: dict[Request, Recording], parameter: str
) -> None:
    """Each parameter of the seed job, changed alone, is seen where it belongs and nowhere else."""
    change = CHANGES[parameter]
    lines = recordings[Request.seed(**{parameter: change.value})].lines()
    assert tuple(lines) == NAMES
    for name in NAMES:
        wanted = [line.replace(*change.replaced) for line in expected(name)]
        line, before = change.added
        if line and name in change.jobs:
            (place,) = (at for at, each in enumerate(wanted) if each.startswith(before))
            wanted.insert(place, line)
        assert lines[name] == wanted
    assert lines != {name: expected(name) for name in NAMES}


def test_each_seed_parameter_is_tested() -> None:
    """The tables here have the parameters that the script reads."""
    table = SCRIPT.read_text().partition("settings = [\n")[2].partition("\n]\n")[0]
    read = re.findall(r"^ {4}([A-Z_]+): ", table, re.MULTILINE)
    assert set(read) == set(CHANGES) == set(NOUNS) == set(WRONG)


@pytest.mark.parametrize("parameter", sorted(set(CHANGES) - {"REPOSITORY"}))
def test_an_empty_seed_parameter_is_its_default(
    recordings: dict[Request, Recording], made: Recording, parameter: str
) -> None:
    """What is left empty in the form of the seed job is as if it were not there."""
    assert recordings[Request.seed(**{parameter: ""})] == made


@pytest.mark.parametrize(
    ("parameter", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_seed_parameter_fails_with_a_sentence(
    recordings: dict[Request, Recording], parameter: str, value: str
) -> None:
    """A value of another form ends the seed with a sentence that does not repeat it."""
    found = recordings[Request.seed(**{parameter: value})]
    assert found == Recording(
        failed=f"The seed parameter {parameter} must be {NOUNS[parameter]}: correct it, then run "
        "the seed job again"
    )


@pytest.mark.parametrize(
    ("parameter", "value"), [(name, value) for name, values in RIGHT.items() for value in values]
)
def test_a_right_seed_parameter_is_taken(
    recordings: dict[Request, Recording], parameter: str, value: str
) -> None:
    """Each form that is right is taken."""
    found = recordings[Request.seed(**{parameter: value})]
    assert (found.failed, found.refused) == ("", "")
    assert value in "\n".join(found.lines()["runner"])


@pytest.mark.parametrize(
    ("value", "right"),
    [
        *((value, False) for value in WRONG["REGISTRY"]),
        *((value, True) for value in (*RIGHT["REGISTRY"], config.DEFAULT_REGISTRY)),
    ],
)
def test_the_seed_and_the_pipeline_agree_on_registries(value: str, *, right: bool) -> None:
    """What the seed takes for a registry the pipeline takes, and the same for what it refuses."""
    try:
        images.parse_registry(value)
    except UsageError:
        assert not right
    else:
        assert right


def test_running_the_seed_again_changes_nothing(ran: list[Recording]) -> None:
    """The same parameters make the same jobs, whatever was run in between."""
    assert ran[0] == ran[-1]


def test_a_removed_row_removes_its_job_alone(
    recordings: dict[Request, Recording], made: Recording
) -> None:
    """A job that is not in the table is not made; all the others are as they were."""
    lines = made.lines()
    del lines["deploy"]
    assert recordings[without_deploy()].lines() == lines


def test_a_job_that_is_not_made_any_more_is_disabled() -> None:
    """The seed job disables what it made before and does not any more: its history stays."""
    text = (JENKINS / "seed" / "Jenkinsfile").read_text()
    assert re.findall(r"removedJobAction\W+(\w+)", text) == ["DISABLE"]


def test_the_plugins_of_the_methods_are_pinned(made: Recording) -> None:
    """Each plug-in that a method needs is in plugins.txt, recent enough; no other is needed."""
    pinned = dict(
        line.split(":", 1)
        for line in (JENKINS / "plugins.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    needed = dict(each.split() for each in made.plugins)
    assert sorted(needed) == sorted(PLUGINS)
    for name, least in needed.items():
        assert _numbers(pinned[name]) >= _numbers(least), name


def _numbers(version: str) -> list[int]:
    """Return the numbers that a version begins with."""
    leading = re.match(r"\d+(\.\d+)*", version)
    assert leading, version
    return [int(number) for number in leading[0].split(".")]


def test_choices_are_those_of_the_pipeline(made: Recording) -> None:
    """What a job lets a person choose from is what the pipeline takes, with its default first."""
    for name in JOBS[:-1]:
        parameters = made.jobs[name].parameters
        assert parameters["BASES"] == config.BASES
        assert parameters["ENGINE"] == config.ENGINES
        assert parameters["REGISTRY"] == (config.DEFAULT_REGISTRY,)
    overlays = {each.name for each in (JENKINS.parent / "k8s" / "overlays").iterdir()}
    chosen = made.jobs["deploy"].parameters["OVERLAY"]
    assert set(chosen) == overlays
    assert chosen[0] == config.DEFAULT_OVERLAY


def test_variables_in_the_texts_are_those_of_the_pipeline(made: Recording) -> None:
    """Each variable that a text names is one that the pipeline reads."""
    known = {setting.variable for setting in config.SETTINGS}
    for job in made.jobs.values():
        named = set(re.findall(r"PIPELINE_\w+", "\n".join(job.call.lines())))
        assert named
        assert named <= known


@pytest.mark.parametrize("what", REFUSED)
def test_the_recorder_refuses(recordings: dict[Request, Recording], what: str) -> None:
    """What is not in the table, and what Jenkins' sandbox has not, is refused with its reason."""
    script, reason = REFUSED[what]
    found = recordings[Request(script)]
    assert (found.calls, found.failed) == ((), "")
    assert reason in found.refused


def test_the_table_is_whole() -> None:
    """The table has what it was read with: a context for each closure that names one."""
    table = json.loads(TABLE.read_text())
    contexts = {
        overload["context"]
        for methods in table.values()
        for overloads in methods.values()
        for overload in overloads
        if "context" in overload and not overload.get("deprecated")
    }
    assert contexts <= set(table)
