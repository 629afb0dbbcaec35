"""Jobs that fail: one sentence, the right exit code, the reports, and nothing left or told."""

from __future__ import annotations

import base64
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.embedded import resources
from tests.integration.projects import Registry

from . import jobs
from .agent import Credential
from .jenkinsfile import Asked, record
from .machines import Site

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    from .agent import Ended
    from .groovy import Groovy
    from .jobs import Job

pytestmark = [pytest.mark.groovy, pytest.mark.docker, pytest.mark.network]

ID = "the-registry"
PUSHES = Credential("made-up/password+1", "alice")
LOOKS = Credential("another/password+2", "bob")
MISTAKEN = Credential("made-up/password+0", "alice")
REPORTS = {"reports/report.json", "reports/report.html", "reports/junit.xml"}
SETUP = ".venv/bin/python -m pipeline setup"
PIPELINE = ".venv/bin/python -m pipeline"
TOOLS = (
    *("sh", "make", "awk", "cat", "cksum", "cmp", "cut", "dirname", "env", "flock", "grep", "head"),
    *("id", "mkdir", "mktemp", "mv", "rm", "sed", "sort", "tail"),
)
"""What an agent has that has no Python."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a repository with this project, and machines that have run nothing yet."""
    return Site.make(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def place() -> str:
    """Return the name of a place in a registry that has nothing."""
    return f"test-{uuid.uuid4().hex[:12]}"


class Guarded(Registry):
    """Lets one user push and another look, and gives the base images to everybody."""

    def __init__(self, behind: str) -> None:
        super().__init__(behind)
        self.login = (PUSHES.user, PUSHES.secret)

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        """Answer a request, as who asks may."""
        looking = asked.command in ("GET", "HEAD")
        if looking and "/slipway-standin/" in asked.path:
            self._forward(asked, b"")
        elif asked.headers.get("Authorization") != f"Basic {pair(LOOKS)}":
            super().answer(asked)
        elif looking:
            self._forward(asked, b"")
        else:
            asked.close_connection = True
            self._refuse(asked, 403, "DENIED", "requested access to the resource is denied")


def pair(credential: Credential) -> str:
    """Return a user and a password as they are sent."""
    return base64.b64encode(f"{credential.user}:{credential.secret}".encode()).decode()


class Desk:
    """Starts builds of jobs, on an agent of their own each."""

    def __init__(self, groovy: Groovy, site: Site) -> None:
        self.site = site
        self._groovy = groovy
        self._seeds: dict[tuple[str, str], Mapping[str, Job]] = {}

    def build(  # noqa: PLR0913 - each is a part of where it runs
        self,
        name: str,
        registry: str,
        *,
        changed: Mapping[str, str] | None = None,
        asks: str = "",
        credentials: Mapping[str, Credential] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Ended:
        """Build a job.

        Args:
            name: The job.
            registry: Where the seed has it push to.
            changed: Parameters that have not their defaults.
            asks: The id of the credentials that the seed names for the registry.
            credentials: What the controller keeps.
            environ: What else is set on the agent.
        """
        if (registry, asks) not in self._seeds:
            seed = jobs.Request.seed(REGISTRY=registry, REGISTRY_CREDENTIALS=asks)
            (recording,) = jobs.record(self._groovy, [seed])
            self._seeds[registry, asks] = recording.jobs
        known = self._seeds[registry, asks][name].parameters
        given = {each: values[0] for each, values in known.items()} | dict(changed or {})
        (build,) = record(self._groovy, [Asked(name, given)]).builds
        agent = self.site.agent(uuid.uuid4().hex, credentials)
        agent.environ = {**agent.environ, **(environ or {})}
        return agent.build(build)


@pytest.fixture(scope="module")
def desk(groovy: Groovy, site: Site) -> Desk:
    """Return what starts builds."""
    return Desk(groovy, site)


def check(ended: Ended, code: int, line: str, *words: str, reports: set[str] = REPORTS) -> None:
    """Fail unless a build failed so, has its reports, and left nothing of itself.

    Args:
        ended: The build.
        code: The exit code.
        line: What it failed at.
        words: What its log and its test results say.
        reports: What is archived, at least.
    """
    assert (ended.code, ended.failed) == (code, line), ended.log
    assert "Traceback" not in ended.log
    assert reports <= set(ended.archived())
    assert ended.pages == (["reports/report.html"] if reports >= REPORTS else [])
    causes = " ".join(filter(None, ended.tests.values()))
    for word in words:
        assert word in ended.log
        assert word in causes
    assert ended.left == []


def sessions(site: Site) -> list[str]:
    """Return the sessions of the engine that have not put everything away."""
    folder = site.folder / "cache/slipway/engine/sessions"
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def told(ended: Ended) -> str:
    """Return the one sentence of a failure that came before the first step."""
    (line,) = (line for line in ended.log.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("FRESH", "lnit", ("Unknown step 'lnit' (PIPELINE_FRESH)", "Did you mean 'lint'?")),
        ("TAG", "a:b", ("'a:b' is not a valid tag", "(PIPELINE_TAG)")),
        ("TAG", "$(id)", ("'$(id)' is not a valid tag", "(PIPELINE_TAG)")),
        ("ENGINE", "docker", ("Unknown engine 'docker' (PIPELINE_ENGINE)", "embedded")),
        ("BASES", "alpine", ("Unknown kind of base images 'alpine' (PIPELINE_BASES)", "debian")),
    ],
)
def test_unknown_value_of_a_parameter_is_told(
    desk: Desk, place: str, parameter: str, value: str, words: tuple[str, ...]
) -> None:
    """Exit 2, before anything is set up; what is in a value is never run."""
    registry = f"{resources().registry}/{place}"
    ended = desk.build("api-image", registry, changed={parameter: value})
    check(ended, 2, SETUP, *words)
    assert re.fullmatch(r"error: .*[.?]", told(ended))


def test_agent_without_docker_is_told(desk: Desk, place: str) -> None:
    """Exit 3: set-up cannot start the Docker Engine that the agent was told to use."""
    nowhere = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    ended = desk.build("runner", f"{resources().registry}/{place}", environ=nowhere)
    check(ended, 3, SETUP, "/nonexistent/docker.sock")
    assert told(ended).endswith(".")


def test_agent_without_python_is_told(desk: Desk, place: str, tmp_path: Path) -> None:
    """As a failed test; `make` has an exit code of its own, and says which one it got."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, tool
        (tmp_path / tool).symlink_to(found)
    # Nor is there what the agent's own caches have of it.
    empty = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ended = desk.build("api-image", f"{resources().registry}/{place}", environ=empty)
    missing = "Python 3.11 or later is not on PATH"
    check(ended, 2, "make environment", missing, reports={"reports/junit.xml"})
    made = r"^make: \*\*\* \[Makefile:\d+: environment\] Error 3$"
    assert re.search(made, ended.log, re.MULTILINE)


def test_missing_credential_is_told(desk: Desk, place: str) -> None:
    """By Jenkins, where the id is of nothing; by the pipeline, where the password is empty."""
    registry = f"{resources().registry}/{place}"
    ended = desk.build("api-image", registry, asks=ID)
    assert ended.failed == f"Could not find credentials entry with ID '{ID}'"
    assert ended.left == []
    ended = desk.build("api-image", registry, asks=ID, credentials={ID: Credential("", "alice")})
    check(ended, 2, PIPELINE, "The registry's user alice has no password")
    assert told(ended).endswith(".")


def test_failing_test_is_shown(groovy: Groovy, desk: Desk, place: str, tmp_path: Path) -> None:
    """Exit 1: the test by its name among the results, beside those that passed."""
    site = desk.site.fork(tmp_path)
    file = "nginx/tests/test_made_to_fail.py"
    (site.origin / file).write_text(
        '"""Fails."""\n\n\ndef test_made_to_fail() -> None:\n    """Fail."""\n    assert not "x"\n'
    )
    site.commit(file, "Fails.", "Fails, and is committed.")
    ended = Desk(groovy, site).build("nginx-image", f"{resources().registry}/{place}")
    check(ended, 1, PIPELINE, "test_made_to_fail")
    failed = {name.rpartition(".")[2] for name, cause in ended.tests.items() if cause}
    assert failed == {"test nginx", "test_made_to_fail"}
    assert len(ended.tests) > 10
    assert "reports/nginx/junit.xml" in ended.archived()
    assert sessions(desk.site) == []


def test_registry_that_refuses_is_shown_and_no_secret_is_told(desk: Desk, place: str) -> None:
    """Exit 1 for who may not push, 0 for who may; the password is in no log, report or cache."""
    with Guarded(resources().registry) as guarded, ThreadPoolExecutor(2) as pool:

        def push(number: int, who: Credential) -> Ended:
            # What is there already, nobody has to push.
            registry = f"{guarded.address}/{place}-{number}"
            return desk.build("nginx-image", registry, asks=ID, credentials={ID: who})

        taken = push(0, PUSHES)
        # Side by side, because Docker asks again for 50 s before it takes a refusal for an answer.
        refused, mistaken = pool.map(push, (1, 2), (LOOKS, MISTAKEN))
    assert (taken.code, taken.failed) == (0, ""), taken.log
    for ended in (refused, mistaken):
        check(ended, 1, PIPELINE, "did not take")
        assert "may push there" in ended.log
        assert "push nginx" in {
            name.rpartition(".")[2] for name, cause in ended.tests.items() if cause
        }
    assert sessions(desk.site) == []
    secrets = [form for who in (PUSHES, LOOKS, MISTAKEN) for form in (who.secret, pair(who))]
    # What the agents keep, the archives of the controller, and every cache.
    kept = [path for path in desk.site.folder.rglob("*") if path.is_file()]
    assert any(path.name == "report.json" for path in kept)
    for form in secrets:
        assert not any(form in ended.log for ended in (taken, refused, mistaken))
        assert not [path for path in kept if form.encode() in path.read_bytes()]
