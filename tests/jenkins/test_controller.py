"""The trial controller and its agent, as far as they can be checked without a Jenkins."""

from __future__ import annotations

import ast
import re
import subprocess
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from .jobs import JENKINS, Request, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .groovy import Groovy

CASC = (JENKINS / "casc.yaml").read_text()
CONTROLLER: dict[str, Any] = yaml.safe_load(CASC)
COMPOSE: dict[str, Any] = yaml.safe_load((JENKINS / "compose.yaml").read_text())
DOCKERFILE = (JENKINS / "Dockerfile").read_text()
SEED_JOB = JENKINS / "seed" / "job.groovy"
SEED = JENKINS / "seed" / "Jenkinsfile"
JENKINSFILES = (JENKINS / "Jenkinsfile", SEED)
ADDRESS = "http://127.0.0.1:8081/"

CORE = "Jenkins itself"
DECLARATIVE = "pipeline-model-definition"
BASIC = "workflow-basic-steps"
OWNERS = {
    # Of casc.yaml: its roots, and what names a kind of thing.
    "jenkins": CORE,
    "local": CORE,
    "permanent": CORE,
    "inbound": CORE,
    "unclassified": CORE,
    "location": CORE,
    "security": CORE,
    "securityRealm": CORE,
    "nodes": CORE,
    "globalMatrix": "matrix-auth",
    "user": "matrix-auth",
    "group": "matrix-auth",
    "queueItemAuthenticator": "authorize-project",
    "specificUsersAuthorizationStrategy": "authorize-project",
    "globalJobDslSecurityConfiguration": "job-dsl",
    "providedEnv": "job-dsl",
    "jobs": "job-dsl",
    "credentials": "credentials",
    "system": "credentials",
    "domainCredentials": "credentials",
    # Of the Jenkinsfiles: directives, options, triggers and steps.
    **dict.fromkeys(("pipeline", "agent", "label", "options", "triggers", "stages"), DECLARATIVE),
    **dict.fromkeys(("stage", "when", "not", "equals", "environment", "steps"), DECLARATIVE),
    **dict.fromkeys(("post", "always", "cleanup"), DECLARATIVE),
    "disableConcurrentBuilds": "workflow-job",
    "getBuildCauses": "workflow-cps",
    "pollSCM": CORE,
    "cron": CORE,
    "archiveArtifacts": CORE,
    "sh": "workflow-durable-task-step",
    "timeout": BASIC,
    "deleteDir": BASIC,
    "timestamps": "timestamper",
    "input": "pipeline-input-step",
    "junit": "junit",
    "publishHTML": "htmlpublisher",
    "withCredentials": "credentials-binding",
    "jobDsl": "job-dsl",
    # Of both: a credential, as it is stored and as it is bound.
    "usernamePassword": "credentials-binding",
    "file": "plain-credentials",
}
"""What each symbol belongs to: Jenkins or a plug-in."""


def pinned() -> dict[str, str]:
    """Return the plug-ins with their versions."""
    lines = (JENKINS / "plugins.txt").read_text().splitlines()
    return dict(line.split(":") for line in lines if line and not line.startswith("#"))


def leaves(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield each value of a document with the keys that lead to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, path)
    else:
        yield path, node


def values(*path: str) -> list[object]:
    """Return the values of the controller's configuration at a path."""
    return [value for found, value in leaves(CONTROLLER) if found == path]


def code(file: Path) -> str:
    """Return Groovy without its comments and without what is in its strings."""
    other = r"(?s)/\*.*?\*/|//[^\n]*|('(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\")"
    return re.sub(other, lambda found: "''" if found[1] else "", file.read_text())


def called(file: Path) -> set[str]:
    """Return the names that a Jenkinsfile calls, without the functions of its own."""
    text = code(file)
    own = set(re.findall(r"(?m)^(?:\w+) (\w+)\(", text))
    names = re.findall(r"(?<![\w.$])([a-z]\w*)(?=\(|\s*\{|[ ]+'|[ ]+[a-z]\w*:)", text)
    names += re.findall(r"\.([a-z]\w*)\(", text)
    return set(names) - own


def test_each_key_names_what_defines_it() -> None:
    """Nobody has to guess where a key comes from, or whether it is still right."""
    lines = CASC.splitlines()
    keys = [n for n, line in enumerate(lines) if re.match(r"( {2})?\w+:", line)]
    assert len(keys) > 10
    for number in keys:
        above = []
        for line in reversed(lines[:number]):
            if not line.strip().startswith("#"):
                break
            above.append(line)
        assert re.search(r"https://\S+\.\S+/\S+", "\n".join(above)), lines[number]


def test_no_secret_is_in_the_configuration() -> None:
    """What opens something is read from a file or a variable."""
    secret = {"password", "secret", "secretBytes", "privateKey", "passphrase", "token"}
    found = [value for path, value in leaves(CONTROLLER) if path[-1] in secret]
    assert len(found) >= 5
    assert all(re.fullmatch(r"\$\{[^${}]+\}", str(value)) for value in found)


def test_what_the_configuration_reads_is_given_and_nothing_else() -> None:
    """A variable that is misspelt would be an empty string."""
    read = {
        name.removeprefix("readFileBase64:/run/secrets/")
        for _, value in leaves(CONTROLLER)
        for name in re.findall(r"\$\{([^}]+)\}", str(value))
    }
    controller = COMPOSE["services"]["controller"]
    assert read == {*controller["environment"], *controller["secrets"]}
    assert set(controller["secrets"]) == set(COMPOSE["secrets"])


def test_nothing_is_built_on_the_controller() -> None:
    """A build has no part in the process that holds the credentials."""
    assert values("jenkins", "numExecutors") == [0]
    assert values("jenkins", "slaveAgentPort") == [-1]


def test_who_has_not_logged_in_may_do_nothing() -> None:
    """Nobody makes an account for themselves, and the matrix has no row for the others."""
    entries = CONTROLLER["jenkins"]["authorizationStrategy"]["globalMatrix"]["entries"]
    granted = {row["name"]: set(row["permissions"]) for entry in entries for row in entry.values()}
    assert set(granted) == {"admin", "builder", "authenticated"}
    assert granted["admin"] == {"Overall/Administer"}
    assert granted["authenticated"] == {"Overall/Read", "Job/Read"}
    assert "Overall/Administer" not in granted["builder"]
    assert values("jenkins", "securityRealm", "local", "allowsSignup") == [False]


def test_builds_run_as_a_user_who_is_there() -> None:
    """Job DSL's sandbox refuses SYSTEM, and a user without a password would be anonymous."""
    strategy = ("global", "strategy", "specificUsersAuthorizationStrategy", "userid")
    (user,) = values("security", "queueItemAuthenticator", "authenticators", *strategy)
    users = CONTROLLER["jenkins"]["securityRealm"]["local"]["users"]
    assert {account["id"]: account["password"] for account in users}[user]
    assert values("security", "globalJobDslSecurityConfiguration", "useScriptSecurity") == [True]


def test_plug_ins_are_pinned_once_each() -> None:
    """The same controller comes up tomorrow."""
    lines = (JENKINS / "plugins.txt").read_text().splitlines()
    named = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+:\d[\w.-]*", line) for line in named)
    assert len({line.partition(":")[0] for line in named}) == len(named)


@pytest.mark.parametrize("file", JENKINSFILES, ids=lambda file: str(file.relative_to(JENKINS)))
def test_steps_of_the_jenkinsfiles_have_their_plug_in(file: Path) -> None:
    """A step whose plug-in is missing fails a build in its first second."""
    names = called(file)
    assert {"pipeline", "stage", "cleanup"} <= names
    assert names <= set(OWNERS)
    assert {OWNERS[name] for name in names} - {CORE} <= set(pinned())


def test_kinds_in_the_configuration_have_their_plug_in() -> None:
    """A key whose plug-in is missing keeps the controller from starting."""
    keys = {key for path, _ in leaves(CONTROLLER) for key in path} | set(
        map(str, values("jenkins", "nodes", "permanent", "launcher"))
    )
    kinds = keys & set(OWNERS)
    assert {*CONTROLLER, "globalMatrix", "inbound", "file"} <= kinds
    assert {OWNERS[kind] for kind in kinds} - {CORE} <= set(pinned())


def test_seed_job_has_the_parameters_of_the_script() -> None:
    """What jobs.groovy reads can be set, and what can be set is read."""
    given = next(row["providedEnv"] for row in CONTROLLER["jobs"] if "providedEnv" in row)
    settings = re.search(
        r"settings = \[\n(.*?)\n\]\n", (JENKINS / "jobs.groovy").read_text(), re.DOTALL
    )
    assert settings is not None
    read = re.findall(r"(?m)^ {4}([A-Z_]+): ", settings[1])
    assert list(given) == read
    assert re.findall(r"(?m)^ {4}([A-Z_]+): '", SEED_JOB.read_text()) == read


@pytest.mark.groovy
def test_seed_job_is_made(groovy: Groovy) -> None:
    """It has what it is told as its defaults, and only methods that Job DSL has."""
    told = {
        "REPOSITORY": "https://git.example/slipway.git",
        "BRANCH": "stable",
        "GIT_CREDENTIALS": "git",
        "REGISTRY": "registry.example/team",
        "REGISTRY_CREDENTIALS": "registry",
        "KUBECONFIG_CREDENTIALS": "",
        "AGENT": "slipway",
    }
    (recording,) = record(groovy, [Request(SEED_JOB.read_text(), tuple(told.items()))])
    assert (recording.failed, recording.refused) == ("", "")
    job = recording.jobs["seed"]
    assert job.parameters == {name: (value,) for name, value in told.items()}
    source = job.call.inner("definition").inner("cpsScm")
    assert source.inner("scriptPath").arguments == ("jenkins/seed/Jenkinsfile",)
    git = source.inner("scm").inner("git")
    assert git.inner("branch").arguments == ("refs/heads/stable",)
    assert git.inner("remote").inner("url").arguments == (told["REPOSITORY"],)
    assert git.inner("remote").inner("credentials").arguments == ("git",)


def test_seed_keeps_the_history_of_a_job_that_is_removed() -> None:
    """It runs in the sandbox, disables what is gone, and fails on what it cannot do."""
    step = dict(re.findall(r"(\w+): ('\w[^']*'|\w+)", SEED.read_text().partition("jobDsl")[2]))
    assert {name: step[name].strip("'") for name in step} == {
        "targets": "jenkins/jobs.groovy",
        "sandbox": "true",
        "additionalParameters": "params",
        "lookupStrategy": "JENKINS_ROOT",
        "removedJobAction": "DISABLE",
        "removedViewAction": "IGNORE",
        "failOnMissingPlugin": "true",
        "failOnSeedCollision": "true",
        "unstableOnDeprecation": "true",
    }


def test_compose_file_is_valid() -> None:
    """It is what the Compose specification says."""
    jsonschema.validate(COMPOSE, get_builtin_schema("vendor.compose-spec"))


def test_nothing_listens_beyond_the_loopback_interface() -> None:
    """The one port is published there, and it is the one that all speak of."""
    services = COMPOSE["services"]
    assert services["controller"]["ports"] == ["127.0.0.1:8081:8080"]
    assert "ports" not in services["agent"]
    assert services["agent"]["environment"]["JENKINS_URL"] == ADDRESS
    assert values("unclassified", "location", "url") == [ADDRESS]


def test_agent_is_where_its_docker_engine_is() -> None:
    """What the Docker Engine mounts has one name on both sides, and so has the loopback."""
    agent = COMPOSE["services"]["agent"]
    assert agent["network_mode"] == "host"
    assert "privileged" not in agent
    shared = {volume for volume in agent["volumes"] if volume.startswith("/")}
    assert shared == {"/var/run/docker.sock:/var/run/docker.sock", "/dev/shm:/dev/shm"}  # noqa: S108


def test_agent_s_name_and_secret_are_the_controller_s() -> None:
    """Both sides speak of the same node and of the same file."""
    (name,) = values("jenkins", "nodes", "permanent", "name")
    assert values("jenkins", "nodes", "permanent", "labelString") == [name]
    hook = (JENKINS / "agent-secret.groovy").read_text()
    assert f"getComputer('{name}')" in hook
    (start,) = re.findall(r"(?m)^CMD (\[.*\])$", DOCKERFILE)
    assert f"-name {name} -secret @/agent/secret " in ast.literal_eval(start)[2]
    assert "new File('/agent/secret')" in hook
    assert "agent-secret:/agent" in COMPOSE["services"]["controller"]["volumes"]
    assert "agent-secret:/agent:ro" in COMPOSE["services"]["agent"]["volumes"]


def test_what_the_controller_names_is_in_its_image() -> None:
    """A file that is not copied is missing only when the controller starts."""
    copied: dict[str, str] = {}
    for sources, target in re.findall(r"(?m)^COPY (.+) (\S+)$", DOCKERFILE):
        for source in sources.split():
            name = source.rpartition("/")[2]
            copied[f"{target}{name}" if target.endswith("/") else target] = source
    (script,) = [row["file"] for row in CONTROLLER["jobs"] if "file" in row]
    (configuration,) = re.findall(r"CASC_JENKINS_CONFIG=(\S+)", DOCKERFILE)
    assert copied[script] == "seed/job.groovy"
    assert copied[configuration] == "casc.yaml"
    context = (JENKINS / ".dockerignore").read_text().splitlines()
    assert "*" in context
    assert {line[1:] for line in context if line.startswith("!")} == set(copied.values())


def test_secrets_are_kept_out_of_git() -> None:
    """They lie in one folder beside the compose file, and git ignores it."""
    files = [secret["file"] for secret in COMPOSE["secrets"].values()]
    assert all(file.startswith("secrets/") for file in files)
    for file in (*files, ".env"):
        ignored = subprocess.run(
            ["git", "check-ignore", "--quiet", f"jenkins/{file}"],
            cwd=JENKINS.parent,
            check=False,
            timeout=60,
        )
        assert ignored.returncode == 0, file
