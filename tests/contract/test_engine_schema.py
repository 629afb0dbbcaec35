"""The embedded engine's schema against what a real engine answers to introspection.

It is read as the SDK reads it: over HTTP, from a session.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphql
import httpx
import pytest

from pipeline.engine.schema import SERVED, build, load_types

from .conftest import EXPLICIT

if TYPE_CHECKING:
    from tests.embedded import Endpoint

pytestmark = pytest.mark.skipif(EXPLICIT, reason="this is about the embedded engine's own schema")

EXPECTED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "dagger-schema.json").read_text(encoding="utf-8")
)

# What issues ask of the engine, at the least.
WANTED = {
    "Query": "version container directory cacheVolume setSecret host node defaultPlatform",
    "Host": "directory file unixSocket service tunnel",
    "Container": (
        "from withExec stdout stderr exitCode sync withEnvVariable withoutEnvVariable envVariable "
        "envVariables withWorkdir workdir withUser user withEntrypoint entrypoint withDefaultArgs "
        "defaultArgs withLabel label labels withExposedPort exposedPorts withDirectory withFile "
        "withNewFile withMountedDirectory withMountedFile withMountedCache withMountedTemp "
        "withMountedSecret withoutMount withSecretVariable withUnixSocket withServiceBinding "
        "withRegistryAuth directory file rootfs asService export publish platform id"
    ),
    "Directory": (
        "entries glob file directory withDirectory withFile withNewFile withoutFile "
        "withoutDirectory export dockerBuild digest sync id"
    ),
    "File": "contents size name digest export sync id",
    "Secret": "plaintext name id",
    "Service": "start stop endpoint hostname ports id",
}


@pytest.fixture(scope="module")
def served(endpoint: Endpoint) -> dict[str, Any]:
    """Return what the engine answers to introspection, by the name of each type."""
    answer = httpx.post(
        f"http://127.0.0.1:{endpoint.port}/query",
        json={"query": graphql.get_introspection_query()},
        auth=(endpoint.token, ""),
        trust_env=False,
    )
    schema = answer.json()["data"]["__schema"]
    return {type_["name"]: type_ for type_ in schema["types"]}


def written(type_: dict[str, Any]) -> str:
    """Return a type as GraphQL writes it."""
    match type_["kind"]:
        case "NON_NULL":
            return written(type_["ofType"]) + "!"
        case "LIST":
            return f"[{written(type_['ofType'])}]"
    name: str = type_["name"]
    return name


def field(row: dict[str, Any]) -> dict[str, Any]:
    """Return a field in the form of the file."""
    out: dict[str, Any] = {"type": written(row["type"])}
    if row["args"]:
        out["args"] = {arg["name"]: written(arg["type"]) for arg in row["args"]}
    return out


@pytest.mark.parametrize("name", EXPECTED["types"])
def test_a_type_is_that_of_a_real_engine(served: dict[str, Any], name: str) -> None:
    """The same fields, arguments, types, nullability and interfaces; nothing more or less."""
    row = served[name]
    expected = EXPECTED["types"][name]
    assert {i["name"] for i in row["interfaces"]} == set(expected["interfaces"])
    fields = {f["name"]: field(f) for f in row["fields"]}
    assert fields == {
        name: {key: spec[key] for key in ("type", "args") if spec.get(key)}
        for name, spec in expected["fields"].items()
    }


def test_enums_are_those_of_a_real_engine(served: dict[str, Any]) -> None:
    """Each enumeration that a served type leads to has the same values, in the same order."""
    found = {
        name: [value["name"] for value in type_["enumValues"]]
        for name, type_ in served.items()
        if type_["kind"] == "ENUM" and not name.startswith("__")
    }
    assert found
    assert found == {name: EXPECTED["enums"][name] for name in found}


def test_inputs_are_those_of_a_real_engine(served: dict[str, Any]) -> None:
    """Each input has the same fields."""
    found = {
        name: {f["name"]: written(f["type"]) for f in type_["inputFields"]}
        for name, type_ in served.items()
        if type_["kind"] == "INPUT_OBJECT"
    }
    assert {"BuildArg", "PortForward"} <= set(found)
    assert found == {name: EXPECTED["inputs"][name] for name in found}


def test_interfaces_are_those_of_a_real_engine(served: dict[str, Any]) -> None:
    """Each interface has the same fields."""
    found = {
        name: {f["name"]: written(f["type"]) for f in type_["fields"]}
        for name, type_ in served.items()
        if type_["kind"] == "INTERFACE"
    }
    assert found == EXPECTED["interfaces"]


def test_nothing_is_served_that_a_real_engine_does_not_have(served: dict[str, Any]) -> None:
    """Each type is in the file, or one that its fields lead to, which has an id and no more."""
    known = {
        *EXPECTED["types"],
        *EXPECTED["enums"],
        *EXPECTED["inputs"],
        *EXPECTED["interfaces"],
        *EXPECTED["scalars"],
    }
    for name in served.keys() - known:
        if not name.startswith("__"):
            assert [f["name"] for f in served[name]["fields"]] == ["id"], name


def test_the_engine_is_made_from_the_very_file() -> None:
    """What it carries with it is the same as what the suite is held against."""
    mine, theirs = load_types(), dict(EXPECTED)
    mine.pop("engine")
    theirs.pop("engine")
    assert mine == theirs


@pytest.mark.parametrize("type_", WANTED)
def test_what_was_asked_for_is_served(type_: str) -> None:
    """No field that the pipeline needs is missing."""
    build()
    assert {(type_, name) for name in WANTED[type_].split()} <= SERVED.keys()


def test_each_served_field_takes_exactly_its_arguments() -> None:
    """No argument can be dropped on the way: the function has a parameter for each."""
    build()
    for (type_, name), function in SERVED.items():
        spec = EXPECTED["types"][type_]["fields"][name]
        arguments = {
            re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", arg).lower() for arg in spec.get("args") or {}
        }
        _engine, _value, *parameters = inspect.signature(function).parameters.values()
        assert {p.name for p in parameters} == arguments, (type_, name)
        required = {
            re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", arg).lower()
            for arg, written_ in (spec.get("args") or {}).items()
            if written_.endswith("!")
        }
        assert {p.name for p in parameters if p.default is p.empty} == required, (type_, name)
