"""Tests of patterns: the two grammars, as their own documentation has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.core.patterns import glob, selector, static_prefix

PARTS = st.lists(st.sampled_from(["a", "b.py", ".c", "d e", "[x]"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("include", "exclude", "taken", "left"),
    [
        # https://docs.docker.com/build/concepts/context/#dockerignore-files
        ([], ["*/temp*"], ["temp", "a/b/temp"], ["a/temporary.txt", "a/temp/x"]),
        ([], ["temp?"], ["temp", "a/tempa"], ["tempa", "tempb/x"]),
        ([], ["*.md", "!README*.md"], ["README.md", "README-secret.md"], ["a.md"]),
        ([], ["*.md", "!README*.md", "README-secret.md"], ["README.md"], ["README-secret.md"]),
        ([], ["**/*.go"], ["go"], ["a.go", "a/b.go"]),
        ([], ["/foo/bar"], ["bar", "a/foo/bar"], ["foo/bar", "foo/bar/x"]),
        ([], ["./foo/"], ["a/foo"], ["foo", "foo/x"]),
        ([], ["sub", "!sub/keep"], ["sub/keep", "sub/keep/x"], ["sub/x"]),
        ([], ["*", "!keep"], ["keep", "keep/x"], ["a", "a/b"]),
        (["**/*.py"], [], ["a.py", "b/c.py"], ["a.txt"]),
        (["src"], ["src/*.txt"], ["src/a", "src/b/c.txt"], ["a", "src/a.txt"]),
        (["."], [], ["a", "a/b"], []),
        ([], ["."], [], ["a", "a/b"]),
        ([], ["#a", " b "], ["a"], ["#a", "b"]),
    ],
)
def test_include_and_exclude_are_those_of_dockerignore(
    include: list[str], exclude: list[str], taken: list[str], left: list[str]
) -> None:
    """Anchored at the root; a matched folder covers what is in it; ``!`` takes back."""
    selected = selector(include, exclude)
    assert [p for p in taken if not selected(p, folder=False)] == []
    assert [p for p in left if selected(p, folder=False)] == []


@pytest.mark.parametrize(
    ("pattern", "path", "folder", "taken"),
    [
        ("build/", "build", True, False),
        ("build/", "build", False, True),
        ("build/", "a/build/x", False, False),
        ("*.log", "a/b.log", False, False),
        ("/top", "a/top", False, True),
    ],
)
def test_gitignore_is_gits(pattern: str, path: str, folder: bool, taken: bool) -> None:  # noqa: FBT001
    """Matched at any depth; a slash at the end means folders alone."""
    assert selector(gitignore=[pattern])(path, folder=folder) is taken


def test_a_pattern_for_what_is_in_a_folder_leaves_the_folder() -> None:
    """``x/**`` names the content and not ``x``."""
    selected = selector(exclude=["x/**"])
    assert selected("x", folder=True)
    assert not selected("x/y", folder=True)


@given(PARTS)
def test_without_patterns_everything_is_taken(parts: list[str]) -> None:
    """No include takes everything."""
    assert selector()("/".join(parts), folder=False)


@pytest.mark.parametrize(
    ("pattern", "matched", "other"),
    [
        ("*.py", ["a.py"], ["b/a.py"]),
        ("**/*.py", ["a.py", "b/a.py", ".h/a.py"], ["a.txt"]),
        ("./a/*", ["a/b"], ["a/b/c"]),
        ("/a/**", ["a/b", "a/b/c"], ["b"]),
        ("*.{py,txt}", ["a.py", "a.txt"], ["a.md"]),
        ("[ab]?", ["ax", "by"], ["cx", "a"]),
    ],
)
def test_glob_is_doublestar(pattern: str, matched: list[str], other: list[str]) -> None:
    """Whole paths, ``**`` any number of folders, braces."""
    matches = glob(pattern)
    assert [p for p in matched if not matches(p)] == []
    assert [p for p in other if matches(p)] == []


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [("etc/ssl/*.pem", "etc/ssl"), ("**/x", ""), ("a/{b,c}/d", "a"), ("x", ""), ("./a/b", "a")],
)
def test_the_static_prefix_is_the_folders_without_anything_special(
    pattern: str, prefix: str
) -> None:
    """What comes before the first special part can be read alone."""
    assert static_prefix(pattern) == prefix


@given(PARTS)
def test_what_a_pattern_matches_lies_under_its_static_prefix(parts: list[str]) -> None:
    """Reading only the prefix loses nothing."""
    pattern = "/".join(parts) + "/*"
    prefix = static_prefix(pattern)
    assert pattern.startswith(prefix)
