"""The job ``deploy`` of Jenkins: its lines, as an agent runs them, deploy what a tag names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster import images
from tests.cluster.scenarios.conftest import at_rest
from tests.cluster.stage import CONTEXT, TIMEOUT
from tests.jenkins import groovy as programs
from tests.jenkins import jobs
from tests.jenkins.agent import Agent, Credential
from tests.jenkins.jenkinsfile import Asked, record
from tests.jenkins.machines import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.stage import Stage
    from tests.jenkins.groovy import Groovy
    from tests.jenkins.jenkinsfile import Build

pytestmark = [pytest.mark.cluster, pytest.mark.groovy]

ID = "the-cluster"
TAG = "from-jenkins"
DEPLOY = ".venv/bin/python -m pipeline deploy"


@pytest.fixture(scope="module")
def groovy() -> Groovy:
    """Return the Groovy that Jenkins runs."""
    return programs.found_or_skipped()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a repository with this project."""
    return Site.make(tmp_path_factory.mktemp("site"))


@pytest.fixture
def agent(stage: Stage, site: Site, tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that reaches the cluster only by the kubeconfig that the controller keeps."""
    at_rest(stage)
    kubeconfig = Path(stage.kubeconfig).read_text(encoding="utf-8")
    made = Agent(tmp_path, site.origin, dict(site.environ), {ID: Credential(kubeconfig)})
    made.environ = {
        **site.environ,
        # The programs that the cluster was made of, kubectl among them, are this user's.
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "PIPELINE_NAMESPACE": stage.namespace,
        "PIPELINE_TIMEOUT": str(2 * TIMEOUT),
    }
    try:
        yield made
    finally:
        # With the windows of the tests again, for what comes after.
        stage.deploy(stage.version or "one")


def deploying(groovy: Groovy, stage: Stage, **changed: str) -> Build:
    """Return a build of the job, as a seed has it that knows the registry and the cluster."""
    seed = jobs.Request.seed(REGISTRY=stage.address, KUBECONFIG_CREDENTIALS=ID)
    (recording,) = jobs.record(groovy, [seed])
    defaults = {name: known[0] for name, known in recording.jobs["deploy"].parameters.items()}
    return record(groovy, [Asked("deploy", {**defaults, **changed})]).builds[0]


def tag(stage: Stage, version: str) -> None:
    """Have the tag name the images of a version."""
    for image in json.loads(stage.report(version).read_text(encoding="utf-8"))["images"]:
        images.tagged(image["reference"], TAG)


def test_job_deploys_what_a_tag_names(groovy: Groovy, stage: Stage, agent: Agent) -> None:
    """It shows the difference, deploys that, and keeps nothing; the kubeconfig is in no log.

    Though the tag is moved to what runs already as soon as the difference was shown.
    """
    version, running = stage.other, stage.version or "one"
    tag(stage, version)
    agent.meanwhile = {DEPLOY: lambda: tag(stage, running)}
    ended = agent.build(deploying(groovy, stage, TAG=TAG, CONTEXT=CONTEXT))
    assert (ended.code, ended.failed) == (0, ""), ended.log
    assert stage.runs(version), ended.log
    assert ended.asked == []
    difference, _, deployed = ended.log.partition(f"+ {DEPLOY}\n")
    for digest in stage.digests(version).values():
        assert digest in difference
    assert "is deployed to" in deployed
    assert ended.tests == {"slipway.deploy.deploy apply": ""}
    secrets = [
        line.partition(":")[2].strip()
        for line in agent.credentials[ID].secret.splitlines()
        if "-data:" in line or "token:" in line
    ]
    assert secrets
    assert not any(secret in ended.log for secret in secrets)
    assert ended.left == []


def test_production_that_nobody_approves_is_left_alone(
    groovy: Groovy, stage: Stage, agent: Agent
) -> None:
    """It asks after the difference was shown, and a refusal changes nothing."""
    agent.approves = False
    before = stage.releases()
    ended = agent.build(deploying(groovy, stage, TAG=TAG, CONTEXT=CONTEXT, OVERLAY="production"))
    assert ended.failed == "Rejected by somebody", ended.log
    assert ended.asked == [f"Deploy {TAG} to production?"]
    assert stage.releases() == before
    assert ended.left == []


def test_wrong_parameter_of_a_deployment_is_told(
    groovy: Groovy, stage: Stage, agent: Agent
) -> None:
    """A tag that nothing has, and a context that is in no kubeconfig: before anything changes."""
    before = stage.releases()
    for change in ({"TAG": "no-such-tag"}, {"TAG": TAG, "CONTEXT": "no-such-context"}):
        ended = agent.build(deploying(groovy, stage, **change))
        (line,) = (line for line in ended.log.splitlines() if line.startswith("error: "))
        assert ended.code in {2, 3}, ended.log
        assert "no-such" in line
        assert "reports/deploy.xml" in ended.archived()
        assert "no-such" in ended.tests["slipway.deploy.deploy diff"]
        assert ended.failed == ".venv/bin/python -m pipeline deploy diff"
        assert ended.left == []
    assert stage.releases() == before
