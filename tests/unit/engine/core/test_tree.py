"""Tests of trees: what the operations of a folder mean, whatever is in it."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.core.errors import NotFound
from pipeline.engine.core.patterns import glob
from pipeline.engine.core.tree import Entry, Tree, clean

NAMES = st.sampled_from(["a", "b", "c", "a-b", "ab", ".x", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
ENTRIES = st.builds(
    lambda path, kind, mode, uid, content: Entry(
        path, kind, mode, uid, 0, content if kind == "file" else "", 0
    ),
    PATHS,
    st.sampled_from(["file", "file", "dir"]),
    st.sampled_from([0o644, 0o755, 0o600]),
    st.sampled_from([0, 7]),
    st.sampled_from(["1" * 64, "2" * 64]),
)
TREES = st.lists(ENTRIES, max_size=8).map(Tree.of)


def file(path: str, content: str = "0" * 64) -> Entry:
    """Return a file."""
    return Entry(path, "file", 0o644, content=content)


def link(path: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(path, "link", 0o777, content=target)


def sound(tree: Tree) -> bool:
    """Tell whether a tree keeps the rules of its module."""
    paths = [e.path for e in tree.entries]
    parents = {posixpath.dirname(p) for p in paths} - {""}
    return (
        paths == sorted(set(paths))
        and all(p and p == clean(p) for p in paths)
        and all(p in tree.by_path and tree.by_path[p].kind != "file" for p in parents)
    )


@given(TREES, TREES, PATHS)
def test_every_operation_leaves_a_sound_tree(one: Tree, other: Tree, path: str) -> None:
    """Sorted, each path once, every folder there, nothing below a file."""
    assert sound(one)
    assert sound(one.merge(path, other))
    assert sound(one.merge("", other))
    assert sound(one.without(path))
    assert sound(one.put(file(path)))
    assert sound(one.select(lambda at, *, folder: folder or len(at) % 2 == 0))
    assert sound(one.owned((1, 2), 0o600))


@given(TREES)
def test_a_tree_does_not_depend_on_the_order_of_its_entries(tree: Tree) -> None:
    """Equal entries make equal trees with equal digests."""
    again = Tree.of(reversed(tree.entries))
    assert (again, again.digest) == (tree, tree.digest)


@given(TREES, TREES)
def test_different_trees_have_different_digests(one: Tree, other: Tree) -> None:
    """The digest tells trees apart, and nothing else."""
    assert (one.digest == other.digest) == (one == other)


@given(TREES, PATHS, ENTRIES)
def test_what_is_put_is_found(tree: Tree, path: str, entry: Entry) -> None:
    """The entry is there as it was given, and what is elsewhere stays."""
    placed = Entry(path, "file", entry.mode, entry.uid, content="3" * 64)
    after = tree.put(placed)
    assert after.find(path) == placed
    untouched = [
        e
        for e in tree.entries
        if not path.startswith(e.path + "/")
        and not e.path.startswith(path + "/")
        and e.path != path
    ]
    assert all(e in after.entries for e in untouched)


@given(TREES, TREES, PATHS)
def test_what_is_merged_is_a_folder_there(one: Tree, other: Tree, path: str) -> None:
    """Everything of the other tree is found below the path."""
    merged = one.merge(path, other)
    if other.entries:
        below = {e.path: e for e in merged.sub(path).entries}
        assert all(below[e.path] == e for e in other.entries if e.kind != "dir")


@given(TREES, PATHS)
def test_what_is_removed_is_gone_and_stays_gone(tree: Tree, path: str) -> None:
    """Removing twice is removing once, and putting nothing back."""
    after = tree.without(path)
    assert after.without(path) == after
    with pytest.raises(NotFound, match="no such file"):
        after.find(path)


@given(TREES)
def test_a_sub_tree_is_what_lies_below(tree: Tree) -> None:
    """Each folder taken out and merged back changes nothing."""
    for entry in tree.entries:
        if entry.kind == "dir":
            assert tree.merge(entry.path, tree.sub(entry.path)) == tree


@given(TREES)
def test_everything_selected_is_the_tree_itself(tree: Tree) -> None:
    """A selection of all takes all, with modes and owners."""
    assert tree.select(lambda _path, *, folder: True) == tree  # noqa: ARG005 - a selection


def test_a_selected_file_brings_its_folders_as_they_are() -> None:
    """The folders around it keep their modes and owners."""
    secret = Entry("s", "dir", 0o700, 5, 5)
    tree = Tree.of([secret, file("s/f"), file("s/g"), Entry("other", "dir", 0o755)])
    taken = tree.select(lambda path, *, folder: not folder and path == "s/f")
    assert taken.entries == (secret, file("s/f"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b", "a/b"), ("/a//b/", "a/b"), ("a/./b", "a/b"), ("a/x/../b", "a/b"), ("", ""), (".", "")],
)
def test_clean_makes_a_path_relative_to_the_root(path: str, expected: str) -> None:
    """However it is written, it is one path."""
    assert clean(path) == expected


@pytest.mark.parametrize("path", ["..", "a/../../b", "../a"])
def test_a_path_that_leaves_the_root_is_refused(path: str) -> None:
    """A tree has no outside."""
    with pytest.raises(NotFound, match="leaves the root"):
        clean(path)


def test_links_are_followed_within_the_tree() -> None:
    """The last part of a path may be a link, and so may each folder before it."""
    tree = Tree.of([file("d/f"), link("l", "d/f"), link("e", "d"), link("x/up", "../e")])
    assert tree.find("l").path == "d/f"
    assert tree.find("e/f").path == "d/f"
    assert tree.find("x/up/f").path == "d/f"
    assert tree.sub("e").entries == (file("f"),)


def test_links_that_lead_nowhere_are_not_found() -> None:
    """A circle ends, and so does a link to what is not there or out of the tree."""
    tree = Tree.of([link("a", "b"), link("b", "a"), link("gone", "nothing"), link("out", "../x")])
    for path in ("a", "gone", "out"):
        with pytest.raises(NotFound):
            tree.find(path)


def test_children_are_sorted_and_folders_end_in_a_slash() -> None:
    """Only what is directly there is listed."""
    tree = Tree.of([file("b"), file("a/x/y"), link("c", "b")])
    assert tree.children() == ["a/", "b", "c"]
    assert tree.children("a") == ["x/"]
    with pytest.raises(NotFound, match="b: not a directory"):
        tree.children("b")


def test_glob_names_what_matches_and_marks_folders() -> None:
    """Folders end in a slash, and paths are sorted."""
    tree = Tree.of([file("a/b.py"), file("c.py")])
    assert tree.glob(glob("**/*.py")) == ["a/b.py", "c.py"]
    assert tree.glob(glob("*")) == ["a/", "c.py"]


def test_a_file_in_the_way_of_a_folder_gives_way() -> None:
    """What is put below a file replaces that file."""
    tree = Tree.of([file("a")]).put(file("a/b"))
    assert tree.find("a").kind == "dir"
    back = tree.put(file("a"))
    assert [e.path for e in back.entries] == ["a"]


def test_a_folder_merged_over_a_file_below_replaces_it() -> None:
    """A file that takes a folder's place takes what was in it."""
    over = Tree.of([file("x")])
    tree = Tree.of([file("at/x/deep"), file("at/y")]).merge("at", over)
    assert [e.path for e in tree.entries] == ["at", "at/x", "at/y"]


def test_an_empty_tree_merged_at_a_path_is_a_folder_there() -> None:
    """Laying nothing over a path makes the folder."""
    assert Tree().merge("a/b", Tree()).find("a/b").kind == "dir"


def test_removing_the_root_leaves_nothing() -> None:
    """The root names everything."""
    assert Tree.of([file("a/b")]).without("/") == Tree()


def test_owner_and_permissions_change_all_but_links_modes() -> None:
    """A link has no mode of its own."""
    tree = Tree.of([file("f"), link("l", "f")]).owned((1, 2), 0o600)
    assert [(e.uid, e.gid, e.mode) for e in tree.entries] == [(1, 2, 0o600), (1, 2, 0o777)]
    assert Tree.of([file("f")]).owned(None) == Tree.of([file("f")])
    assert Tree.of([file("f")]).owned(None, 0o400).entries[0].uid == 0
