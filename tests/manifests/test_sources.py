"""The files of k8s/ themselves: their form, and what may not be in them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from .objects import K8S, OVERLAYS, ROOT, name_of, parse

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = [K8S / "base", *sorted((K8S / "components").iterdir()), *OVERLAYS.values()]
FILES = sorted(
    path
    for folder in FOLDERS
    for path in folder.rglob("*.yaml")
    if path.name != "kustomization.yaml"
)
DEPLOYMENTS = [path for path in FILES if path.name == "deployment.yaml"]
WHOLE = [path for path in FILES if "base" in path.parts or "components" in path.parts]


def relative(path: Path) -> str:
    """Return a path as a test's name shows it."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_one_object_a_file_named_by_kind(path: Path) -> None:
    """A file has one object, and is named by its kind; what it is for may follow a dash."""
    (found,) = parse(path.read_text())
    assert path.stem.partition("-")[0] == found["kind"].lower()


@pytest.mark.parametrize("path", WHOLE, ids=relative)
def test_name_begins_with_what_it_is_for(path: Path) -> None:
    """What is after the dash, or the folder, is in the object's name."""
    (found,) = parse(path.read_text())
    what = path.stem.partition("-")[2] or path.parent.name
    if what not in ("base", "ingress"):
        assert what in name_of(found)


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_each_file_is_named_in_its_kustomization(folder: Path) -> None:
    """A file that no kustomization names would be shipped to nobody."""
    (found,) = parse((folder / "kustomization.yaml").read_text())
    named = {each for each in found.get("resources", ()) if each.endswith(".yaml")}
    named |= {each["path"] for each in found.get("patches", ()) if "path" in each}
    named |= {name for each in found.get("configMapGenerator", ()) for name in each["files"]}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert named == there - {"kustomization.yaml"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_secret(path: Path) -> None:
    """Neither a Secret nor the name of one to pull with is in git: the deploy step adds it."""
    text = path.read_text()
    assert "kind: Secret" not in text
    assert "imagePullSecrets" not in text


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=relative)
def test_image_is_a_name_alone(path: Path) -> None:
    """The deploy step sets a digest, and finds the image by the name of its folder."""
    (found,) = parse(path.read_text())
    images = [each["image"] for each in found["spec"]["template"]["spec"]["containers"]]
    assert images == [f"slipway-{path.parent.name}"]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_each_exception_has_its_reason_beside_it(path: Path) -> None:
    """A check that kube-score leaves out is named with the reason, in a comment above it."""
    text = path.read_text()
    for line in re.finditer(r"^ *kube-score/ignore: (.+)$", text, re.MULTILINE):
        before = text[: line.start()].rstrip().splitlines()
        comment: list[str] = []
        while before and before[-1].lstrip().startswith("#"):
            comment.insert(0, before.pop().lstrip("# "))
        for check in line[1].split(","):
            assert re.search(rf"^{check.strip()}: \w+", "\n".join(comment), re.MULTILINE), check


def test_there_are_exceptions_to_look_at() -> None:
    """The test above would pass if nothing were ever found."""
    assert sum("kube-score/ignore" in path.read_text() for path in FILES) == len(DEPLOYMENTS) == 2
