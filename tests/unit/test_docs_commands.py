"""What the documents tell a person to type is what the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from pipeline.__main__ import program

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    ROOT / "docs" / "deploy.md",
    ROOT / "docs" / "jenkins.md",
    ROOT / "docs" / "troubleshooting.md",
    *sorted((ROOT / "docs" / "runbooks").glob("*.md")),
)
_BLOCK = re.compile(r"```.*?```", re.DOTALL)
_CALL = re.compile(r"python -m pipeline((?: [^`\n|&;]|[^`\n|&;\s])*)")


def calls() -> list[tuple[str, str]]:
    """Return the calls in the documents, each with where it stands."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        # A line that goes on in the next one is one line, in a block and in a sentence.
        for block in _BLOCK.findall(text):
            joined = re.sub(r"\\\n\s*", " ", block)
            found += [(document.name, line) for line in joined.splitlines()]
        flowing = re.sub(r"\n\s*", " ", _BLOCK.sub("", text))
        found += [(document.name, span) for span in re.findall(r"`([^`]+)`", flowing)]
    return [
        (name, match[1].partition(" #")[0].strip())
        for name, line in found
        if (match := _CALL.search(line))
    ]


def silent(group: click.Group) -> click.Group:
    """Return a program that reads what it is told, and does nothing."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            silent(command)
        else:
            command.callback = lambda **_: None
    return group


@pytest.mark.parametrize(("document", "call"), calls())
def test_calls_in_the_documents_are_taken(document: str, call: str) -> None:
    """Commands, options and their values are those that there are."""
    try:
        silent(program()).main(shlex.split(call), standalone_mode=False)
    except click.ClickException as error:
        pytest.fail(f"{document}: python -m pipeline {call}: {error.format_message()}")


def test_documents_have_calls() -> None:
    """Or the test above would hold for documents that it cannot read."""
    assert {name for name, _ in calls()} == {document.name for document in DOCUMENTS}
    assert len(calls()) > 30


MAKEFILE = (ROOT / "Makefile").read_text()
_TARGET = re.compile(r"(?:`|^)make ([a-z-]+)", re.MULTILINE)


def targets(*texts: str) -> set[str]:
    """Return what `make` is told in documents."""
    return {name for text in texts for name in _TARGET.findall(text)}


def test_targets_of_make_in_the_documents_are_there() -> None:
    """`make` is told nothing in the documents that the Makefile does not know."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    named = targets(*(path.read_text() for path in documents))
    assert {"run", "test", "bench-api"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_each_target_of_make_is_told() -> None:
    """What somebody can do by `make` is in the README or in CONTRIBUTING."""
    told = targets(*((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")))
    described = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
    # What `setup` and `doctor` call is in the table of commands; `make` alone lists all of them.
    assert described - told <= {"help", "clean", "setup", "doctor"}
