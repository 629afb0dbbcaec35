"""Each object is what the Kubernetes API and KEDA take, in every supported version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import pytest

from pipeline.cluster import versions

from . import tools
from .objects import BASE, K8S, changed, load, of, one

if TYPE_CHECKING:
    from pathlib import Path

    from .objects import Object

MINORS = [".".join(map(str, minor)) for minor in versions.MINORS]
CUSTOM = {"ScaledObject"}


def validate(objects: list[Object], minor: str) -> None:
    """Raise when an object is not what that version of Kubernetes defines."""
    for each in objects:
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, minor, strict=True)


@pytest.mark.parametrize("minor", MINORS)
def test_base_is_valid(minor: str) -> None:
    """The files are, before anything is rendered."""
    validate([*load(BASE), *load(K8S / "components/ingress")], minor)


@pytest.mark.cluster
@pytest.mark.parametrize("minor", MINORS)
def test_overlay_is_valid(minor: str, overlay: list[Object]) -> None:
    """What is applied is."""
    validate(overlay, minor)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("progressDeadlineSecond", 60),
        ("minReadySeconds", "5"),
    ],
)
def test_a_mistake_is_noticed(path: str, value: object) -> None:
    """A field that does not exist, and a value of another type, are refused."""
    found = one(load(BASE), "Deployment", "slipway-api")
    found["spec"][path] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        validate([found], MINORS[-1])


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that refuses unknown fields, as the API server does when it is strict."""
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {key: strict(each) for key, each in made["properties"].items()}
        made.setdefault("additionalProperties", False)
    if isinstance(made.get("items"), dict):
        made["items"] = strict(made["items"])
    return made


@pytest.fixture(scope="session")
def scaled_object(go: Path) -> jsonschema.Draft202012Validator:
    """Return a validator of a ScaledObject, from KEDA's definition of it."""
    (version,) = tools.definition(go)["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # The API server looks at what is in here itself.
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.cluster
def test_scaled_objects_are_valid(
    overlay: list[Object], scaled_object: jsonschema.Draft202012Validator
) -> None:
    """They are what the deployed version of KEDA defines."""
    found = of(overlay, "ScaledObject")
    assert len(found) == len(tools.WORKLOADS)
    for each in found:
        scaled_object.validate(each)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("spec", "minReplicas", 2),
        ("spec", "maxReplicaCount", "6"),
        ("trigger", "metricTyp", "Utilization"),
        ("metadata", "value", 60),
    ],
)
def test_a_mistake_in_a_scaled_object_is_noticed(
    where: str,
    key: str,
    value: object,
    rendered: dict[str, list[Object]],
    scaled_object: jsonschema.Draft202012Validator,
) -> None:
    """A field that does not exist, and a value of another type, are refused."""
    (found,) = changed([one(rendered["minikube"], "ScaledObject", "slipway-api")])
    trigger = found["spec"]["triggers"][0]
    {"spec": found["spec"], "trigger": trigger, "metadata": trigger["metadata"]}[where][key] = value
    with pytest.raises(jsonschema.ValidationError):
        scaled_object.validate(found)
