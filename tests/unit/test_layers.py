"""Imports point down only: a walk over every import of the package, lazy ones included."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parent

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "finding", "log", "task"}),
    frozenset({"images"}),
    frozenset({"config", "source"}),
    frozenset({"setup", "engine"}),
    frozenset({"cache", "connect", "context", "credentials", "kube", "registry", "relay", "trust"}),
    frozenset({"steps"}),
    frozenset({"flow", "report", "console"}),
    frozenset({"cluster"}),
    frozenset({"deploy"}),
    frozenset({"doctor"}),
    frozenset({"compare", "course"}),
    frozenset({"__main__"}),
)
"""The parts of the package, the lowest first. A part imports from its own layer or from below."""


class Import(NamedTuple):
    """An import in a file of the package."""

    file: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports(path: Path) -> list[Import]:
    """Return the modules that a file imports, by their full names."""
    file = path.relative_to(ROOT.parent)
    package = list(file.with_suffix("").parts[:-1])
    found: list[Import] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(str(file), node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            # `from pipeline import images` names a module, `from pipeline.task import Key` a class
            # in one: with the name behind it, both begin with the part that they are of.
            found += [Import(str(file), node.lineno, f"{base}.{a.name}") for a in node.names]
    return found


def part(module: str) -> str:
    """Return the part of the package that a module belongs to, empty when it is not of it."""
    names = module.split(".")
    return names[1] if names[0] == "pipeline" and len(names) > 1 else ""


FILES = sorted(ROOT.rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports(path)]


def rank(name: str) -> int:
    """Return the layer of a part."""
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def own(found: Import) -> str:
    """Return the part of the package that an import stands in."""
    return part(found.file.removesuffix(".py").replace("/", "."))


def test_every_part_has_its_layer() -> None:
    """A new module or folder is given a layer here, or nothing would keep it in one."""
    parts = {own(Import(str(path.relative_to(ROOT.parent)), 0, "")) for path in FILES}
    assert parts - {"__init__"} == frozenset().union(*LAYERS)


def test_no_import_points_up() -> None:
    """A part imports from its own layer and below, lazily or not."""
    upward = [
        str(found)
        for found in IMPORTS
        if own(found) != "__init__"
        and part(found.module) not in ("", "__init__")
        and rank(part(found.module)) > rank(own(found))
    ]
    assert upward == []


def test_parts_do_not_import_in_a_circle() -> None:
    """Within a layer too, no part imports one that imports it."""
    needs: dict[str, set[str]] = {}
    for found in IMPORTS:
        target = part(found.module)
        if target and target != own(found):
            needs.setdefault(own(found), set()).add(target)
    while ready := [name for name in needs if not needs[name] & needs.keys()]:
        for name in ready:
            del needs[name]
    assert needs == {}


def test_lowest_parts_import_nothing_of_ours() -> None:
    """What everybody imports imports nobody."""
    assert [str(i) for i in IMPORTS if own(i) in LAYERS[0] and part(i.module)] == []


def test_engine_imports_nothing_else_of_ours() -> None:
    """The embedded engine could be a project of its own."""
    assert [
        str(found)
        for found in IMPORTS
        if own(found) == "engine" and part(found.module) not in ("", "engine")
    ] == []


def test_docker_is_imported_in_one_place() -> None:
    """Within the engine only the backend knows docker-py."""
    users = {
        found.file
        for found in IMPORTS
        if own(found) == "engine" and found.module.split(".")[0] == "docker"
    }
    assert users == {"pipeline/engine/backend/docker.py"}


def test_kubernetes_is_imported_in_one_place() -> None:
    """Only the client of clusters knows the library, and only when a cluster is asked."""
    users = {found.file for found in IMPORTS if found.module.split(".")[0] == "kubernetes"}
    assert users == {"pipeline/kube.py"}


def test_judging_a_deployment_does_no_io() -> None:
    """What is ready, and in what order things are applied, is decided from values alone."""
    doing = {"os", "subprocess", "socket", "asyncio", "anyio", "httpx", "kubernetes", "time"}
    pure = {f"pipeline/deploy/{name}.py" for name in ("release", "readiness", "tables")}
    assert {found.file for found in IMPORTS} >= pure
    assert [
        str(found)
        for found in IMPORTS
        if found.file in pure and found.module.split(".")[0] in doing
    ] == []


def test_core_of_the_engine_does_no_io() -> None:
    """The engine's core imports nothing that reads, writes, waits or starts something."""
    doing = {"os", "subprocess", "socket", "asyncio", "anyio", "httpx", "docker", "shutil", "h11"}
    assert [
        str(found)
        for found in IMPORTS
        if found.file.startswith("pipeline/engine/core/") and found.module.split(".")[0] in doing
    ] == []


def test_steps_do_not_ask_for_the_engine() -> None:
    """No step imports the engine: it sees a client, and not what is behind it."""
    assert [str(i) for i in IMPORTS if own(i) == "steps" and part(i.module) == "engine"] == []


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "manager"])
def test_no_module_is_named_for_nothing(name: str) -> None:
    """A module is named for what it is about."""
    assert not [path for path in FILES if name in path.stem]
