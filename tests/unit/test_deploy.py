"""The commands of a deployment, from settings to exit code."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline import config, deploy, kube, log
from pipeline.deploy import Tools, records
from pipeline.deploy.release import PULL_SECRET
from pipeline.deploy.render import dump, parse
from pipeline.errors import PrerequisiteError, UsageError
from pipeline.kube import Kind, Refused
from pipeline.registry import Answer, Client
from pipeline.setup.command import Output

from .deploy_fakes import (
    IMAGES,
    NAMESPACE,
    SCALED_OBJECT,
    Clock,
    FakeKube,
    Screen,
    manifest,
    release,
    system,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from pipeline.config import Settings
    from pipeline.deploy.release import Image, Release
    from pipeline.images import Registry

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Keep secrets within a test."""
    with log.remembering():
        yield


class Site:
    """A project, a cluster, and what a person reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kube = FakeKube()
        self.screen = Screen()
        self.asked: list[str] = []
        self.requests: list[str] = []
        self.pushed = {image.digest for image in IMAGES}
        self.objects = system()
        for name in ("minikube", "production"):
            folder = root / "k8s" / "overlays" / name
            folder.mkdir(parents=True)
            (folder / "kustomization.yaml").write_text("{}")

    def settings(self, **more: object) -> Settings:
        """Return settings of this project."""
        found = config.Settings(root=self.root, report_dir=self.root / "reports")
        return dataclasses.replace(found, **more)  # type: ignore[arg-type]

    @property
    def tools(self) -> Tools:
        """What the commands reach for."""

        async def reach(context: str, *, say: Callable[[str], None]) -> FakeKube:
            del say
            self.asked.append(context)
            return self.kube

        async def opened(_settings: Settings, registry: Registry) -> Client:
            return Client(registry, exchange=self._registry)

        return Tools(
            connect=reach,
            kubectl=lambda: Path("/bin/kubectl"),
            run=self._kubectl,
            open_registry=opened,
            tempo=Clock().tempo,
        )

    def reported(self, *images: Image) -> None:
        """Have the report of a run that pushed these."""
        report = {
            "schema_version": 1,
            "project": "slipway",
            "revision": "6a0c4e2",
            "platform": "linux/amd64",
            "started_at": "2026-01-01T00:00:00.000+00:00",
            "exit_code": 0,
            "seconds": 1.0,
            "cause": "",
            "engine": None,
            "bases": None,
            "steps": [
                {"name": "push", "image": i.name, "state": "passed", "seconds": 1.0, "cause": ""}
                for i in images
            ],
            "images": [
                {"name": i.name, "reference": i.reference, "size_bytes": 1, "base": "b"}
                for i in images
            ],
            "inputs": {},
        }
        folder = self.root / "reports"
        folder.mkdir(exist_ok=True)
        (folder / "report.json").write_text(json.dumps(report))

    async def _registry(
        self, method: str, url: str, headers: Mapping[str, str], *, limit: int
    ) -> Answer:
        del headers, limit
        digest = url.rpartition("/")[2]
        self.requests.append(f"{method} {url}")
        if url.endswith("/v2/"):
            return Answer(200, {})
        if digest in self.pushed:
            return Answer(200, {"docker-content-digest": digest})
        return Answer(404, {})

    async def _kubectl(
        self, argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None
    ) -> Output:
        del argv, limit, env
        return Output(0, dump(self.objects), "")

    async def deployed(self, *wanted: Release) -> None:
        """Have releases in the cluster."""
        await self.kube.apply(manifest("v1", "Namespace", "slipway"))
        for number, each in enumerate(wanted, 1):
            state = "deployed" if each is wanted[-1] else "superseded"
            made = dataclasses.replace(each, number=number).with_state(state)  # type: ignore[arg-type]
            await records.save(self.kube, made)
            if each is wanted[-1]:
                for obj in made.marked():
                    await self.kube.apply(obj)
        self.kube.calls.clear()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a project and a cluster."""
    return Site(tmp_path)


async def test_deploy_from_the_last_run_to_exit_code_zero(site: Site) -> None:
    """The images of the report, the overlay's manifests, the cluster of the context."""
    site.reported(*IMAGES)
    code = await deploy.apply(site.settings(context="here"), site.screen, tools=site.tools)
    assert code == 0
    assert site.asked == ["here"]
    assert site.screen.lines[:2] == [
        "cluster    fake (https://fake:6443), Kubernetes 1.36.3",
        "images     reports/report.json, revision 6a0c4e2",
    ]
    assert site.screen.lines[-1] == "Release 1 is deployed to slipway (fake)"
    (made,) = await records.load(site.kube, "slipway")
    assert (made.state, made.overlay, made.images) == ("deployed", "minikube", IMAGES)


@pytest.mark.parametrize(
    ("wrong", "error", "why"),
    [
        ("overlay", UsageError, "Unknown overlay 'nowhere'"),
        ("report", PrerequisiteError, r"report\.json"),
        ("image", PrerequisiteError, "image nginx was not pushed"),
        ("pushed", PrerequisiteError, "is not on the registry"),
        ("production", UsageError, "production"),
        ("version", PrerequisiteError, "1.33"),
        ("keda", PrerequisiteError, "KEDA"),
        ("metrics", PrerequisiteError, "metrics API"),
        ("rights", PrerequisiteError, "does not allow us to patch Deployment"),
    ],
)
async def test_bad_input_changes_nothing(
    site: Site, wrong: str, error: type[Exception], why: str
) -> None:
    """One sentence, exit code 2 or 3, and neither a change nor a record in the cluster."""
    site.reported(*IMAGES)
    overlay = {"overlay": "nowhere", "production": "production"}.get(wrong, "minikube")
    if wrong == "report":
        (site.root / "reports" / "report.json").unlink()
    elif wrong == "image":
        site.reported(IMAGES[0])
    elif wrong == "pushed":
        site.pushed.clear()
    elif wrong == "version":
        site.kube.version = "v1.33.1"
    elif wrong == "keda":
        site.kube.missing.add(SCALED_OBJECT)
    elif wrong == "metrics":
        site.kube.raws["/apis/metrics"] = kube.Answer(404, b"")
    elif wrong == "rights":
        site.kube.forbidden.add(("patch", "Deployment"))
    with pytest.raises(error, match=why):
        await deploy.apply(site.settings(overlay=overlay), site.screen, tools=site.tools)
    assert site.kube.calls == []
    assert site.kube.objects == {}


async def test_a_namespace_that_is_not_ours_to_change_stays_as_it_is(site: Site) -> None:
    """Who has rights within a namespace only can deploy to it."""
    site.reported(*IMAGES)
    await site.kube.apply(manifest("v1", "Namespace", "slipway"))
    site.kube.forbidden = {("patch", "Namespace"), ("create", "Namespace")}
    assert await deploy.apply(site.settings(), site.screen, tools=site.tools) == 0
    assert site.kube.calls.count("apply Namespace slipway") == 1
    assert "The namespace slipway is not ours to change: it stays as is" in site.screen


async def test_a_namespace_that_we_may_not_make_is_told(site: Site) -> None:
    """Where it is not there, the right to make it is missing."""
    site.reported(*IMAGES)
    site.kube.forbidden = {("patch", "Namespace"), ("create", "Namespace")}
    with pytest.raises(PrerequisiteError, match="create Namespace in slipway, patch Namespace"):
        await deploy.apply(site.settings(), site.screen, tools=site.tools)


async def test_render_asks_no_cluster(site: Site) -> None:
    """What is printed is what would be applied, and no cluster is needed to see it."""
    site.reported(*IMAGES)
    assert await deploy.show(site.settings(), site.screen, tools=site.tools) == 0
    assert parse(site.screen.lines[0]) == release().marked()
    assert site.asked == []


async def test_diff_shows_what_would_change(site: Site) -> None:
    """New, changed and pruned objects, and conflicts; and nothing is changed."""
    site.reported(*IMAGES)
    await site.deployed(release(manifest("v1", "ConfigMap", "old")))
    site.objects = system(manifest("v1", "ConfigMap", "new"), A="b")
    site.kube.owners["Service", "slipway-nginx"] = {".spec.x": "kubectl"}
    assert await deploy.diff(site.settings(), site.screen, tools=site.tools) == 0
    lines = site.screen.lines
    assert "+++ ConfigMap new (to be)" in lines
    assert "--- ConfigMap old (in the cluster)" in lines
    assert "+++ (to be deleted)" in lines
    assert "+        - name: A" in lines
    assert "! Service slipway-nginx: .spec.x belongs to kubectl, who would not give it up" in lines
    assert [call for call in site.kube.calls if not call.startswith("try ")] == []


async def test_diff_of_the_same(site: Site) -> None:
    """When nothing would change, it says so."""
    site.reported(*IMAGES)
    await site.deployed(release())
    await deploy.diff(site.settings(), site.screen, tools=site.tools)
    assert site.screen.lines == ["Nothing would change"]


async def test_what_was_compared_is_deployed_wherever_the_tag_has_gone(site: Site) -> None:
    """`deploy diff` writes its images by digest, and `--images` takes them with their origin."""
    site.reported(*IMAGES)
    await deploy.diff(site.settings(), site.screen, tools=site.tools)
    compared = site.settings().report_dir / "deploy.json"
    (site.settings().report_dir / "report.json").unlink()
    settings = site.settings(image_files=(compared,))
    assert await deploy.apply(settings, site.screen, tools=site.tools) == 0
    (deployed,) = await records.load(site.kube, "slipway")
    assert deployed.images == release().images
    assert deployed.revision == release().revision
    assert deployed.origin.endswith("/report.json (reports/deploy.json)")


async def test_diff_that_cannot_write_what_it_compares_says_so(site: Site) -> None:
    """Before the cluster is asked, since nobody could deploy just that."""
    site.reported(*IMAGES)
    (site.settings().report_dir / "deploy.json").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        await deploy.diff(site.settings(), site.screen, tools=site.tools)
    assert site.asked == []


async def test_diff_knows_the_pull_secret(site: Site) -> None:
    """Service accounts name it as they will after the deploy, with and without the login."""
    site.reported(*IMAGES)
    settings = site.settings(registry_user="me", registry_password="hunter2")
    assert await deploy.apply(settings, site.screen, tools=site.tools) == 0
    for each in (settings, site.settings()):
        site.screen.lines.clear()
        await deploy.diff(each, site.screen, tools=site.tools)
        assert site.screen.lines == ["Nothing would change"]


async def test_diff_where_the_namespace_is_not_ours_to_change(site: Site) -> None:
    """Who may deploy to a namespace that stays as it is may see what that would change."""
    site.reported(*IMAGES)
    await site.deployed(release())
    site.kube.forbidden = {("patch", "Namespace"), ("create", "Namespace")}
    assert await deploy.diff(site.settings(), site.screen, tools=site.tools) == 0
    assert "try Namespace slipway" not in site.kube.calls


@pytest.mark.parametrize(
    ("ask", "verb", "kind"),
    [
        (deploy.diff, "patch", "Deployment"),
        (deploy.status, "list", "Pod"),
        (deploy.status, "list", "Deployment"),
        (deploy.remove, "delete", "Service"),
        (deploy.remove, "delete", "ConfigMap"),
    ],
)
async def test_what_we_may_not_do_is_told_before_anything_is_done(
    site: Site, ask: Callable[..., Awaitable[int]], verb: str, kind: str
) -> None:
    """The environment lacks a right: nothing was tried, and nothing deleted."""
    site.reported(*IMAGES)
    await site.deployed(release())
    site.kube.forbidden = {(verb, kind)}
    with pytest.raises(PrerequisiteError, match=f"does not allow us to {verb} {kind}"):
        await ask(site.settings(), site.screen, tools=site.tools)
    assert site.kube.calls == []


async def test_diff_before_the_first_deploy(site: Site) -> None:
    """All of it is new, and nothing can be tried in a namespace that is not there."""
    site.reported(*IMAGES)
    await deploy.diff(site.settings(), site.screen, tools=site.tools)
    assert site.screen.lines.count("--- (not in the cluster)") == len(system())
    assert site.kube.calls == []


async def test_a_login_becomes_a_pull_secret(site: Site) -> None:
    """The user who pushed lets the nodes pull, under the name by which they know the registry."""
    site.reported(*IMAGES)
    settings = site.settings(registry_user="me", registry_password="hunter2", pull_from="nodes:5")
    moved = [i.pulled("nodes:5") for i in IMAGES]
    site.objects = tuple(
        parse(
            dump(system())
            .replace(IMAGES[0].pulled(""), moved[0])
            .replace(IMAGES[1].pulled(""), moved[1])
        )
    )
    assert await deploy.apply(settings, site.screen, tools=site.tools) == 0
    secret = await site.kube.get(Kind("", "Secret"), PULL_SECRET, "slipway")
    assert secret is not None
    content = base64.b64decode(secret["data"][".dockerconfigjson"]).decode()
    assert json.loads(content)["auths"]["nodes:5"]["password"] == "hunter2"
    assert not [line for line in site.screen.lines if "hunter2" in line]


async def test_pull_secret_has_each_registry_that_a_login_is_known_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of a release may be on several, and Docker may know some of them."""
    hosts = ("one.example", "two.example:5000", "three.example")
    auths = {host: {"auth": base64.b64encode(b"me:" + host.encode()).decode()} for host in hosts}
    del auths["three.example"]
    folder = site.root / "docker"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for others, known in ((hosts[:2], set(hosts[:2])), (hosts[1:], {hosts[1]})):
        images = [
            dataclasses.replace(
                image, reference=image.reference.replace("127.0.0.1:5050", others[index])
            )
            for index, image in enumerate(IMAGES)
        ]
        site.reported(*images)
        text = dump(system())
        for before, after in zip(IMAGES, images, strict=True):
            text = text.replace(before.pulled(""), after.pulled(""))
        site.objects = tuple(parse(text))
        await deploy.apply(site.settings(), site.screen, tools=site.tools)
        secret = await site.kube.get(Kind("", "Secret"), PULL_SECRET, "slipway")
        assert secret is not None
        found = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"]
        assert {host: login["password"] for host, login in found.items()} == {h: h for h in known}


async def test_production_is_not_changed_without_yes(site: Site) -> None:
    """It is refused before the cluster is asked, for whatever changes it."""
    await site.deployed(dataclasses.replace(release(), overlay="production"), release(A="b"))
    with pytest.raises(UsageError, match="production") as raised:
        await deploy.roll_back(site.settings(), site.screen, 1, tools=site.tools)
    assert "--yes" in raised.value.remedy
    with pytest.raises(UsageError, match="production"):
        await deploy.remove(site.settings(), site.screen, tools=site.tools)
    assert site.kube.calls == []


async def test_rollback_checks_the_cluster_first(site: Site) -> None:
    """What a deploy needs, a rollback needs."""
    await site.deployed(release(), release(A="b"))
    site.kube.missing.add(SCALED_OBJECT)
    with pytest.raises(PrerequisiteError, match="has no KEDA"):
        await deploy.roll_back(site.settings(), site.screen, None, tools=site.tools)
    assert site.kube.calls == []


async def test_rollback_asks_whether_the_images_are_still_there(site: Site) -> None:
    """As a deploy does: what the registry lost is told before anything changes, exit code 3."""
    await site.deployed(release(), release(A="b"))
    site.pushed.clear()
    with pytest.raises(PrerequisiteError) as raised:
        await deploy.roll_back(site.settings(), site.screen, None, tools=site.tools)
    assert raised.value.message == (
        f"{IMAGES[0].reference} (rollback to release 1) is not on the registry 127.0.0.1:5050"
    )
    assert raised.value.exit_code == 3
    assert site.kube.calls == []


async def test_rollback_asks_once(site: Site) -> None:
    """What was seen before the lock counts under it, as long as it is the same release."""
    await site.deployed(release(), release(A="b"))
    await deploy.roll_back(site.settings(), site.screen, None, tools=site.tools)
    assert len(site.requests) == len(set(site.requests))


async def test_rollback_says_what_is_deployed(site: Site) -> None:
    """The number that was brought back and the one that it has now."""
    await site.deployed(release(), release(A="b"))
    code = await deploy.roll_back(
        site.settings(context="here"), site.screen, None, tools=site.tools
    )
    assert code == 0
    assert site.screen.lines[-1] == "Release 1 is deployed again, as release 3 (fake)"
    assert site.asked == ["here"]


async def test_status_of_what_runs(site: Site) -> None:
    """Ready is exit code 0; one object that is not is exit code 1."""
    await site.deployed(release(VERSION="v"))
    assert await deploy.status(site.settings(), site.screen, tools=site.tools) == 0
    assert re.search(
        r"Deployment slipway-api +ready +2 of 2 available", "\n".join(site.screen.lines)
    )
    site.kube.broken["v"] = "unready"
    assert await deploy.status(site.settings(), site.screen, tools=site.tools) == 1
    text = "\n".join(site.screen.lines)
    assert re.search(r"Deployment slipway-api +waiting +0 of 2 available", text)
    assert site.kube.calls == []


async def test_records_that_may_not_be_seen(site: Site) -> None:
    """Who may not list them is told so, whatever is asked."""

    async def refuse(*_args: object, **_more: object) -> list[dict[str, object]]:
        raise Refused("no", status=403, reason="Forbidden", evidence="configmaps is forbidden")

    site.kube.list = refuse  # type: ignore[method-assign]
    for ask in (deploy.status, deploy.releases, deploy.remove):
        with pytest.raises(PrerequisiteError, match="does not let us see the releases in slipway"):
            await ask(site.settings(), site.screen, tools=site.tools)


async def test_status_of_nothing(site: Site) -> None:
    """Nothing deployed is said, and is no success."""
    assert await deploy.status(site.settings(), site.screen, tools=site.tools) == 1
    assert "Nothing is deployed to slipway (fake)" in site.screen


async def test_releases_are_listed(site: Site) -> None:
    """Those that are recorded, or that there are none."""
    assert await deploy.releases(site.settings(), site.screen, tools=site.tools) == 0
    assert "Nothing was ever deployed to slipway (fake)" in site.screen
    await site.deployed(release(), release(A="b"))
    await deploy.releases(site.settings(), site.screen, tools=site.tools)
    assert "2        deployed" in site.screen


async def test_remove_says_that_nothing_is_left(site: Site) -> None:
    """The namespace was there before, and stays."""
    await site.deployed(release())
    assert await deploy.remove(site.settings(), site.screen, tools=site.tools) == 0
    assert site.screen.lines[-1] == "Nothing is left of it in slipway (fake)"
    assert [kind for kind, _, _ in site.kube.objects] == [NAMESPACE]


async def test_export_of_nothing_is_refused(site: Site) -> None:
    """There has to be a release that runs."""
    with pytest.raises(PrerequisiteError, match="there is nothing to export"):
        await deploy.export(site.settings(), site.screen, site.root / "f", tools=site.tools)
    assert not (site.root / "f").exists()


async def test_a_file_has_its_own_images(site: Site) -> None:
    """--from with --images or --tag is a contradiction."""
    settings = site.settings(archive=site.root / "file", deploy_tag="v1")
    with pytest.raises(UsageError, match="has images of its own"):
        await deploy.apply(settings, site.screen, tools=site.tools)
    assert site.asked == []


def test_a_release_that_is_printed_can_be_read() -> None:
    """What `render` prints is YAML of all its objects."""
    assert parse(dump(release().marked())) == release().marked()
