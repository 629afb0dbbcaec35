"""Tests of the judgement whether a build can be remembered."""

from __future__ import annotations

import pytest

from pipeline.engine.core.dockerfile import pinned

AT = "@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "args", "expected"),
    [
        (f"FROM x{AT}", {}, True),
        ("FROM x", {}, False),
        ("FROM x:1.2.3", {}, False),
        ("FROM scratch", {}, True),
        ("", {}, False),
        (f"ARG BASE\nFROM $BASE\nRUN x{AT}", {}, False),
        ("ARG BASE\nFROM ${BASE}", {"BASE": f"x{AT}"}, True),
        (f"ARG BASE=x{AT}\nFROM ${{BASE}}", {}, True),
        (f"ARG BASE=x{AT}\nFROM ${{BASE}}", {"BASE": "x"}, False),
        (f"ARG V=1\nARG BASE=x:$V{AT}\nFROM $BASE", {}, True),
        (f"FROM ${{BASE:-x{AT}}}", {}, True),
        (f'ARG BASE="x{AT}"\nFROM $BASE', {}, True),
        (f"FROM x{AT} AS a\nFROM a\nCOPY --from=a / /", {}, True),
        (f"from x{AT} as A\nfrom a", {}, True),
        (f"FROM --platform=linux/amd64 x{AT}", {}, True),
        ("FROM --platform=linux/amd64 x", {}, False),
        (f"FROM x{AT}\nFROM \\\n  y", {}, False),
        (f"FROM x{AT}\nCOPY --from=y / /", {}, False),
        (f"FROM x{AT}\nCOPY --from=0 / /", {}, True),
        (f"FROM x{AT}\nCOPY --from=y{AT} / /", {}, True),
        (f"FROM x{AT}\nRUN --mount=type=bind,from=y,target=/y true", {}, False),
        (f"# syntax=docker/dockerfile:1\nFROM x{AT}", {}, False),
        (f"#syntax = docker/dockerfile:1\nFROM x{AT}", {}, False),
        (f"# a comment\nFROM x{AT}", {}, True),
        (f"FROM x{AT}\nARG BASE\nRUN echo", {}, True),
    ],
)
def test_a_build_is_pinned_when_all_its_images_are(
    text: str,
    args: dict[str, str],
    expected: bool,  # noqa: FBT001
) -> None:
    """FROM, COPY --from, mounts and the frontend: each by digest, or it is looked up each time."""
    assert pinned(text, args) is expected


def test_adding_what_lies_elsewhere_is_not_pinned() -> None:
    """ADD of a URL or a repository brings what is there now."""
    assert not pinned(f"FROM x{AT}\nADD https://example.org/x /x", {})
    assert not pinned(f"FROM x{AT}\nadd --chmod=644 git@example.org:x.git /x", {})
    assert pinned(f"FROM x{AT}\nADD local.tar /x", {})
    checked = f"ADD --checksum=sha256:{'0' * 64} https://example.org/x /x"
    assert pinned(f"FROM x{AT}\n{checked}", {})


def test_other_frontends_and_checks_before_the_first_instruction_are_seen() -> None:
    """A directive counts below others and comments' first lines too."""
    assert not pinned(f"# escape=`\n# syntax=x\nFROM x{AT}", {})
    assert not pinned(f"\ufeff# syntax=x\nFROM x{AT}", {})
