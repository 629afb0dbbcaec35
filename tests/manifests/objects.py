"""Objects of Kubernetes as the mappings that their YAML is, and how to find one.

Pure but for `load`, which reads files.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
BASE = K8S / "base"
OVERLAYS = {
    "minikube": K8S / "overlays/minikube",
    "production": K8S / "overlays/production",
    "test": ROOT / "tests/cluster/overlay",
}
"""The folders that can be deployed, by the name that a test shows."""


def parse(text: str) -> list[Object]:
    """Return the objects of a YAML stream."""
    return [each for each in yaml.safe_load_all(text) if each is not None]


def load(folder: Path) -> list[Object]:
    """Return the objects that the resources of a kustomization name, as the files have them."""
    names = parse((folder / "kustomization.yaml").read_text())[0]["resources"]
    return [found for name in names for found in parse((folder / name).read_text())]


def of(objects: Iterable[Object], kind: str) -> list[Object]:
    """Return the objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def one(objects: Iterable[Object], kind: str, name: str) -> Object:
    """Return the object of that kind and name; there has to be one."""
    (found,) = (each for each in of(objects, kind) if name_of(each) == name)
    return found


def without(objects: Iterable[Object], kind: str, name: str) -> list[Object]:
    """Return the objects but for that one, which has to be there."""
    kept = list(objects)
    kept.remove(one(kept, kind, name))
    return kept


def changed(objects: Sequence[Object]) -> list[Object]:
    """Return copies, for a test to change."""
    return copy.deepcopy(list(objects))


def name_of(found: Object) -> str:
    """Return an object's name."""
    return str(found["metadata"]["name"])


def pod_of(deployment: Object) -> Object:
    """Return the pod's specification in a Deployment."""
    specification: Object = deployment["spec"]["template"]["spec"]
    return specification


def labels_of(deployment: Object) -> dict[str, str]:
    """Return the labels of a Deployment's pods."""
    return dict(deployment["spec"]["template"]["metadata"]["labels"])


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector, of `matchLabels` alone, selects what has these labels."""
    if unknown := set(selector) - {"matchLabels"}:
        raise ValueError(f"a selector with {', '.join(sorted(unknown))}")
    return dict(selector.get("matchLabels", {})).items() <= labels.items()
