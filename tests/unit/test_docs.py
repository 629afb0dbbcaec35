"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import dagger
import pytest

from pipeline import __main__, config

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "bench/*.md",
        "jenkins/*.md",
        "k8s/**/*.md",
        "nginx/*.md",
        "pipeline/**/*.md",
        "service/*.md",
        "tests/**/README.md",
    )
    for path in ROOT.glob(pattern)
    if not {".venv", "node_modules"} & set(path.parts)
)
README = (ROOT / "README.md").read_text()


def row(setting: config.Setting) -> str:
    """Return a setting's row of the README's table."""
    flag = f"`{f'{setting.flag} {setting.metavar}'.rstrip()}`" if setting.flag else "none"
    key = f"`{setting.key}`" if setting.key else "none"
    return f"| {flag} | `{setting.variable}` | {key} | {setting.default} | {setting.help} |"


@pytest.mark.parametrize("setting", config.SETTINGS, ids=lambda setting: setting.name)
def test_readme_has_each_setting_as_it_is(setting: config.Setting) -> None:
    """A setting that is added or changed is added or changed in the README."""
    assert row(setting) in README.splitlines()


def test_readme_has_no_setting_that_is_not_there() -> None:
    """A variable that the README names is one that something reads."""
    named = set(re.findall(r"\bPIPELINE_[A-Z_]+", README))
    assert named <= {setting.variable for setting in config.SETTINGS}


COMMANDS = [
    *(name for name in __main__.COMMANDS if name not in {"run", *__main__.SUBCOMMANDS}),
    *(f"{family} {name}" for family, own in __main__.SUBCOMMANDS.items() for name in own),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_has_each_command(command: str) -> None:
    """A command that is added is added to the README, with what it takes."""
    family, _, name = command.partition(" ")
    shown = f"{family} [{name}]" if name and __main__.IMPLIED.get(family) == name else command
    assert re.search(rf"`python -m pipeline {re.escape(shown)}( [^`]+)?`", README)


_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)


def links(document: Path) -> list[tuple[str, str]]:
    """Return what links and pictures of a document lead to within the project, with anchors."""
    text = _FENCE.sub("", document.read_text())
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'\b(?:src|srcset|href)="([^"]+)"', text
    )
    return [
        (path, anchor)
        for each in found
        if "://" not in each
        for path, _, anchor in [each.partition("#")]
    ]


def anchors(document: Path) -> set[str]:
    """Return what links to the headings of a document end with, as GitHub makes it of them."""
    headings = re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", document.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each).lower() for each in headings)
    return {re.sub(r"[^\w\- ]", "", each).replace(" ", "-") for each in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    """A link or picture within the project names a file that is there, and a heading in it."""
    for path, anchor in links(document):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_links_are_found() -> None:
    """Or the test above would hold for links that it cannot read."""
    found = [(path, anchor) for document in DOCUMENTS for path, anchor in links(document)]
    assert len(found) > 100
    assert any(anchor for _, anchor in found)
    assert {"docs/page-light.png", "docs/page-dark.png"} <= {
        path for path, _ in links(ROOT / "README.md")
    }


def test_readme_has_each_folder_of_tests() -> None:
    """Somebody who looks for a test, or adds a kind of them, finds where it is."""
    (told,) = re.findall(r"(?m)^\| \[`tests/`\].*$", README)
    folders = {path.parent.name for path in ROOT.glob("tests/*/__init__.py")} | {"verify"}
    assert folders <= set(re.findall(r"`([a-z]+)`", told))


def test_readme_has_each_document() -> None:
    """A document that is added is one that somebody finds."""
    (told,) = re.findall(r"(?m)^\| \[`docs/`\].*$", README)
    documents = {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")}
    assert documents <= set(re.findall(r"\]\(([^)]+)\)", told))


OBJECTS: tuple[type, ...] = (
    *(dagger.Client, dagger.Container, dagger.Directory, dagger.File, dagger.Host),
    *(dagger.Secret, dagger.Service),
)
METHODS = {name for kind in OBJECTS for name, _ in inspect.getmembers(kind, inspect.isfunction)} - {
    "digest",
    "search",
}  # our registry's, and that of a regular expression


def used(files: list[Path]) -> set[str]:
    """Return the fields of the API that files use, and those of their arguments that are named."""
    calls = [
        (node.func.attr, node.keywords)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    found = [name for name, _ in calls if name in METHODS]
    found += [f"{name}({k.arg})" for name, keys in calls if name in METHODS for k in keys]
    return {re.sub("_+([a-z])", lambda m: m[1].upper(), name).replace("_", "") for name in found}


def test_engine_s_readme_has_what_goes_beyond_the_contract() -> None:
    """What the steps ask of an engine has passed on a real Dagger engine, or is said not to."""
    steps = used([*ROOT.glob("pipeline/steps/*.py"), ROOT / "pipeline/context.py"])
    beyond = steps - used([ROOT / "tests/contract/test_engine_contract.py"])
    text = (ROOT / "pipeline/engine/README.md").read_text()
    (told,) = re.findall(r"- by the pipeline: ([^;]*)", text)
    assert beyond == {re.sub(r"\s", "", name) for name in re.findall("`([^`]*)`", told)}
