"""From an overlay to objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline.deploy.render import dump, find_overlay, is_production, parse, render
from pipeline.errors import UsageError
from pipeline.setup.command import Output

from .deploy_fakes import IMAGES, manifest, system

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.deploy.release import Object

pytestmark = pytest.mark.anyio


class Kubectl:
    """Takes the place of kubectl, and remembers what was asked of it."""

    def __init__(self, *objects: Object, code: int = 0, said: str = "") -> None:
        self.output = Output(code, dump(objects), said)
        self.kustomization: dict[str, Any] = {}
        self.place = Path()

    async def __call__(
        self, argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None
    ) -> Output:
        """Read the generated folder, and answer."""
        del limit, env
        assert argv[:2] == ["/bin/kubectl", "kustomize"]
        self.place = Path(argv[2])
        text = await anyio.Path(argv[2], "kustomization.yaml").read_text()
        self.kustomization = json.loads(text)
        return self.output


async def rendered(kubectl: Kubectl, overlay: Path, pull_from: str = "") -> tuple[Object, ...]:
    """Render with this kubectl."""
    return await render(
        overlay,
        "elsewhere",
        IMAGES,
        pull_from=pull_from,
        kubectl=Path("/bin/kubectl"),
        run=kubectl,
    )


def resolved(path: Path) -> Path:
    """Return a path as it is without links and dots."""
    return path.resolve()


async def test_what_only_a_deploy_knows_is_set_from_outside(tmp_path: Path) -> None:
    """Namespace and digests are in a generated folder, which is gone afterwards."""
    kubectl = Kubectl(*system())
    await rendered(kubectl, tmp_path)
    assert kubectl.kustomization["namespace"] == "elsewhere"
    assert kubectl.kustomization["images"] == [
        {
            "name": f"slipway-{image.name}",
            "newName": f"127.0.0.1:5050/slipway-{image.name}",
            "digest": image.digest,
        }
        for image in IMAGES
    ]
    (way,) = kubectl.kustomization["resources"]
    assert not Path(way).is_absolute()
    assert resolved(kubectl.place / way) == resolved(tmp_path)
    assert not kubectl.place.exists()


async def test_nodes_may_know_the_registry_by_another_name(tmp_path: Path) -> None:
    """The host is another, repository and digest stay."""
    objects = system(image=IMAGES[0].pulled("nodes:5050"))
    objects = tuple(
        each
        if each["metadata"]["name"] != "slipway-nginx" or each["kind"] != "Deployment"
        else {**each, "spec": _spec(IMAGES[1].pulled("nodes:5050"))}
        for each in objects
    )
    kubectl = Kubectl(*objects)
    await rendered(kubectl, tmp_path, "nodes:5050")
    assert kubectl.kustomization["images"][0]["newName"] == "nodes:5050/slipway-api"


def _spec(image: str) -> dict[str, Any]:
    return {"template": {"spec": {"containers": [{"name": "nginx", "image": image}]}}}


async def test_objects_come_in_the_order_to_apply_them(tmp_path: Path) -> None:
    """Whatever order Kustomize gives."""
    found = await rendered(Kubectl(*reversed(system())), tmp_path)
    assert found == system()


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        ((*system(), manifest("apps/v1", "Deployment", "slipway-api")), "more than one Deployment"),
        (system(image="slipway-api"), "does not use the image slipway-api"),
        ((*system(), manifest("v1", "Secret", "s")), "has a Secret s, and all of a release is"),
    ],
)
async def test_what_kustomize_makes_is_checked(
    tmp_path: Path, objects: tuple[Object, ...], why: str
) -> None:
    """An image that is not named by digest, a double and a secret are refused."""
    with pytest.raises(UsageError, match=why):
        await rendered(Kubectl(*objects), tmp_path)


async def test_what_kustomize_says_is_the_evidence(tmp_path: Path) -> None:
    """A mistake in the overlay is told in Kustomize's own words."""
    kubectl = Kubectl(code=1, said="error: no matches for Id Deployment")
    with pytest.raises(UsageError, match="cannot be rendered") as raised:
        await rendered(kubectl, tmp_path)
    assert raised.value.evidence == "error: no matches for Id Deployment"


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "kind: X\n", "apiVersion: v1\nkind: X\n"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """No YAML, or YAML of something else."""
    with pytest.raises(UsageError, match="What Kustomize made"):
        parse(text)


def test_dump_and_parse() -> None:
    """What is printed can be applied."""
    assert parse(dump(system())) == system()


def test_overlays_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    """A name stands for a folder under k8s/overlays."""
    named = tmp_path / "k8s" / "overlays" / "minikube"
    own = tmp_path / "own"
    for folder in (named, own):
        folder.mkdir(parents=True)
        (folder / "kustomization.yaml").write_text("{}")
    assert find_overlay(tmp_path, "minikube") == named
    assert find_overlay(tmp_path, str(own)) == own
    with pytest.raises(UsageError, match="Unknown overlay 'minkube'") as raised:
        find_overlay(tmp_path, "minkube")
    assert "Did you mean 'minikube'?" in raised.value.remedy
    with pytest.raises(UsageError, match=r"has no kustomization\.yaml"):
        find_overlay(tmp_path, str(tmp_path))


@pytest.mark.parametrize(
    ("overlay", "is_it"),
    [("production", True), ("/a/production", True), ("minikube", False), ("/production/x", False)],
)
def test_production_is_the_overlay_of_that_name(overlay: str, is_it: bool) -> None:  # noqa: FBT001 - a table
    """By name or by path."""
    assert is_production(overlay) is is_it
