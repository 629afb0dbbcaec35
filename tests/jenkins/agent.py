"""A machine that does what Jenkins would have it do: a checkout, lines for a shell, the reports.

Rules:

- A build has a fresh clone, and the environment that Jenkins gives: what it says of the build, the
  parameters, what the `environment` directives come to, and credentials around the steps that bind
  them. Nothing else of the environment that the tests run in, but what reaches the network.
- A line is run as the step `sh` does: `sh -xe`, nothing on standard input. The first that fails
  ends the stages, and then comes `post`.
- Nothing is masked in the log, which is stricter than Jenkins: there a secret would be asterisks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .jenkinsfile import variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .jenkinsfile import Build, Step

LIMIT = 600.0
"""Seconds that a line may take, on a busy machine and with nothing in its caches."""
PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "TZ", "DOCKER_HOST", "SSL_CERT_FILE", "NO_PROXY", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "PIP_INDEX_URL", "UV_INDEX_URL"),
    *("PIP_CERT", "UV_DEFAULT_INDEX", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
"""What an administrator would set on an agent, because of where it stands."""
IDENTITY = {
    **{f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_DATE": "2024-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


@dataclass(frozen=True, slots=True)
class Credential:
    """What Jenkins keeps under an id.

    Attributes:
        user: Empty for a file.
        secret: The password, or the content of the file.
    """

    secret: str
    user: str = ""


@dataclass(slots=True)
class Ended:
    """A build that has ended.

    Attributes:
        code: The exit code of the line that failed; 0 when none did.
        failed: The line that failed, or what Jenkins says where none did; empty when it is green.
        log: Everything that was printed.
        artifacts: The folder of what was archived.
        pages: The files that the HTML report was published from.
        tests: What `junit` took: each test by its name, with its failure or an empty text.
        asked: What was to be approved.
        left: What was in the workspace when all was done.
    """

    artifacts: Path
    code: int = 0
    failed: str = ""
    log: str = ""
    pages: list[str] = field(default_factory=list)
    tests: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def archived(self) -> dict[str, bytes]:
        """Return each file that was archived, by its path in the workspace."""
        files = [path for path in self.artifacts.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.artifacts)): path.read_bytes() for path in files}


class _Over(Exception):
    """Nothing more of the stages is to be done."""


@dataclass(slots=True)
class Agent:
    """An agent, and the controller that tells it what to do.

    Attributes:
        folder: What it keeps is under this.
        origin: The repository that it clones.
        environ: What its administrator has set, beside what is passed on.
        credentials: What the controller keeps, by its id.
        approves: Whether whoever is asked agrees.
        meanwhile: What somebody else does before a line.
    """

    folder: Path
    origin: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    approves: bool = True
    meanwhile: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    _number: int = 0

    def build(self, build: Build) -> Ended:
        """Do what a build comes to."""
        self._number += 1
        ended = Ended(self.folder / "archive" / f"{build.asked.job}-{self._number}")
        workspace = self.folder / "workspace" / "slipway" / build.asked.job
        revision = self._check_out(workspace)
        given = self._environment(build, workspace, revision)
        with contextlib.suppress(_Over):
            for step in build.steps:
                self._do(step, workspace, given, ended)
        for condition in ("always", "cleanup"):
            for step in build.post.get(condition, ()):
                with contextlib.suppress(_Over):
                    self._do(step, workspace, given, ended)
        ended.left = [str(path) for path in workspace.parent.rglob("*")]
        return ended

    def _check_out(self, workspace: Path) -> str:
        """Make a clone as the git plug-in does, and return its commit."""
        workspace.parent.mkdir(parents=True, exist_ok=True)
        git("clone", "--quiet", "--no-local", "--no-checkout", self.origin, workspace)
        git("checkout", "--quiet", "--force", "--detach", "origin/main", at=workspace)
        return git("rev-parse", "HEAD", at=workspace)

    def _environment(self, build: Build, workspace: Path, revision: str) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        job, number = build.asked.job, str(self._number)
        url = f"https://jenkins.example/job/slipway/job/{job}/"
        return {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            "HOME": str(home),
            **self.environ,
            "CI": "true",
            "BUILD_DISPLAY_NAME": f"#{number}",
            "BUILD_ID": number,
            "BUILD_NUMBER": number,
            "BUILD_TAG": f"jenkins-slipway-{job}-{number}",
            "BUILD_URL": f"{url}{number}/",
            "EXECUTOR_NUMBER": "0",
            "GIT_BRANCH": "origin/main",
            "GIT_COMMIT": revision,
            "GIT_URL": str(self.origin),
            "JENKINS_URL": "https://jenkins.example/",
            "JOB_URL": url,
            "NODE_LABELS": f"{build.agent} machine",
            "NODE_NAME": "machine",
            "STAGE_NAME": "Pipeline",
            "WORKSPACE": str(workspace),
            "WORKSPACE_TMP": f"{workspace}@tmp",
            **variables(build.asked),
        }

    def _do(self, step: Step, workspace: Path, given: Mapping[str, str], ended: Ended) -> None:
        match step.name:
            case "sh":
                self.meanwhile.get(step.line, lambda: None)()
                with self._bound(step, workspace, ended) as secrets:
                    _run(step.line, workspace, {**given, **step.environment, **secrets}, ended)
            case "input":
                ended.asked.append(step.arguments["message"])
                if not self.approves:
                    ended.failed = "Rejected by somebody"
                    raise _Over
            case "archiveArtifacts":
                for path in _found(workspace, step.arguments["artifacts"]):
                    target = ended.artifacts / path.relative_to(workspace)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
            case "publishHTML":
                pattern = f"{step.arguments['reportDir']}/{step.arguments['reportFiles']}"
                ended.pages = [
                    str(path.relative_to(workspace)) for path in _found(workspace, pattern)
                ]
            case "junit":
                for path in _found(workspace, step.arguments["testResults"]):
                    ended.tests |= _tests(path)
            case "deleteDir":
                shutil.rmtree(workspace)
            case _:
                raise AssertionError(f"an agent does not know the step {step.name}")

    @contextlib.contextmanager
    def _bound(self, step: Step, workspace: Path, ended: Ended) -> Iterator[dict[str, str]]:
        """Yield the variables of the credentials around a step; a file lasts as long as it does."""
        bound: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            for binding in step.credentials:
                found = self.credentials.get(binding["credentialsId"])
                if found is None:
                    said = f"Could not find credentials entry with ID '{binding['credentialsId']}'"
                    ended.failed = said
                    ended.log += f"ERROR: {said}\n"
                    raise _Over
                if binding["binding"] == "file":
                    place = Path(f"{workspace}@tmp")
                    place.mkdir(exist_ok=True)
                    stack.callback(shutil.rmtree, place)
                    file = Path(tempfile.mkdtemp(dir=place)) / "secret"
                    file.write_text(found.secret, encoding="utf-8")
                    bound[binding["variable"]] = str(file)
                else:
                    bound[binding["usernameVariable"]] = found.user
                    bound[binding["passwordVariable"]] = found.secret
            yield bound


def _run(line: str, workspace: Path, environ: Mapping[str, str], ended: Ended) -> None:
    done = subprocess.run(
        ["/bin/sh", "-xe", "-c", line],
        cwd=workspace,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    ended.log += done.stdout
    if done.returncode:
        ended.code = done.returncode
        ended.failed = line
        ended.log += f"ERROR: script returned exit code {done.returncode}\n"
        raise _Over


def _found(workspace: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern of Ant's, in which `**` at the end is everything below."""
    known = f"{pattern}/*" if pattern.endswith("**") else pattern
    return sorted(path for path in workspace.glob(known) if path.is_file())


def _tests(path: Path) -> dict[str, str]:
    found = {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - our own
        wrong = case.find("failure")
        wrong = case.find("error") if wrong is None else wrong
        name = f"{case.get('classname')}.{case.get('name')}"
        found[name] = "" if wrong is None else wrong.get("message") or "failed"
    return found


def git(*arguments: str | Path, at: Path | None = None) -> str:
    """Run git, with a configuration that is nobody's, and return what it says."""
    return subprocess.run(
        ["git", *arguments],
        cwd=at,
        env={**os.environ, **IDENTITY},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()
