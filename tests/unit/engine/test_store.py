"""Tests of what is on disk: whole or not at all, and never outside of where it belongs."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from pipeline.engine.core.errors import EngineError, NotFound
from pipeline.engine.core.tree import Entry, Tree
from pipeline.engine.store import Session, Store, alone, dead_sessions, remove_session, session_of

from .bench import tree_of
from .core.test_tree import TREES

if TYPE_CHECKING:
    from pathlib import Path


def lay_out(folder: Path, *names: str) -> Path:
    """Write files that hold their own names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def paths(tree: Tree) -> list[str]:
    """Return the paths of a tree's files and links."""
    return [e.path for e in tree.entries if e.kind != "dir"]


# --- contents -----------------------------------------------------------------------------------


def test_a_content_is_kept_once_and_found_by_its_digest(store: Store, tmp_path: Path) -> None:
    """However it comes in, it is one file."""
    file = tmp_path / "x"
    file.write_bytes(b"text")
    names = {
        store.add_bytes(b"text"),
        store.add_bytes(b"text"),
        store.add_stream(io.BytesIO(b"text")),
        store.add_file(file),
    }
    assert len(names) == 1
    name, size = names.pop()
    assert (store.read(name), size) == (b"text", 4)
    assert len([p for p in (store.root / "blobs").rglob("*") if p.is_file()]) == 1


def test_a_content_appears_whole_or_not_at_all(store: Store) -> None:
    """What breaks off while it is written leaves nothing, under no name."""

    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.left = 2

        def read(self, _size: int = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise ConnectionError
            return b"half"

    with pytest.raises(ConnectionError):
        store.add_stream(Broken())  # type: ignore[arg-type]
    assert [p for p in store.root.rglob("*") if p.is_file()] == []


def test_a_content_that_is_gone_is_an_error_that_says_what_to_do(store: Store) -> None:
    """After a prune, running again makes it anew."""
    gone = Entry("f", "file", 0o644, content="0" * 64, size=1)
    with pytest.raises(NotFound, match="run again"):
        store.read(gone.content)
    with pytest.raises(NotFound, match="run again"):
        store.tar([gone])
    with pytest.raises(NotFound, match="run again"):
        store.export_file(gone, store.root / "f")
    assert not store.holds(Tree((gone,)))
    assert not (store.root / "f").exists()


# --- results ------------------------------------------------------------------------------------


def test_a_result_is_found_again_by_another_store(store: Store) -> None:
    """It survives the process."""
    store.keep("ab12", {"x": 1})
    assert Store(store.root).result("ab12") == {"x": 1}
    assert store.result("cd34") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\udcff"])
def test_a_result_that_cannot_be_read_is_none(store: Store, text: str) -> None:
    """A broken file is a miss and no failure."""
    store.keep("ab12", {"x": 1})
    path = store.root / "results" / "ab" / "ab12.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert store.result("ab12") is None
    store.keep("ab12", {"x": 2})
    assert store.result("ab12") == {"x": 2}


# --- reading folders ----------------------------------------------------------------------------


def test_scan_takes_what_is_there_with_its_modes_and_without_owners(
    store: Store, tmp_path: Path
) -> None:
    """Files, folders, links; a pipe or a socket has no content to take."""
    root = lay_out(tmp_path / "in", "a", "d/b")
    (root / "a").chmod(0o751)
    (root / "empty").mkdir(mode=0o700)
    (root / "link").symlink_to("d/b")
    os.mkfifo(root / "pipe")
    tree = store.scan(root)
    assert [(e.path, e.kind) for e in tree.entries] == [
        ("a", "file"),
        ("d", "dir"),
        ("d/b", "file"),
        ("empty", "dir"),
        ("link", "link"),
    ]
    assert tree.find("a").mode == 0o751
    assert tree.find("empty").mode == 0o700
    assert {(e.uid, e.gid) for e in tree.entries} == {(0, 0)}


def test_scan_filters(store: Store, tmp_path: Path) -> None:
    """Include, then exclude, then the .gitignore of the folder."""
    root = lay_out(tmp_path / "in", "a.py", "b.txt", "s/c.py", "s/d.txt", "build/e.py", ".git/x")
    (root / ".gitignore").write_text("build/\n*.txt\n")
    assert paths(store.scan(root, include=("**/*.py",))) == ["a.py", "build/e.py", "s/c.py"]
    taken = store.scan(root, include=("**/*.py",), exclude=("s",))
    assert paths(taken) == ["a.py", "build/e.py"]
    ignored = store.scan(root, gitignore=True)
    assert [e.path for e in ignored.entries] == [".gitignore", "a.py", "s", "s/c.py"]
    taken = store.scan(root, exclude=("s", "!s/c.py"))
    assert "s/c.py" in paths(taken)
    assert "s/d.txt" not in paths(taken)


def test_scan_keeps_the_modes_of_folders_around_what_is_taken(store: Store, tmp_path: Path) -> None:
    """A folder that is named by no pattern is as it is on the host."""
    root = lay_out(tmp_path / "in", "s/c.py")
    (root / "s").chmod(0o700)
    assert store.scan(root, include=("**/*.py",)).find("s").mode == 0o700


def test_scan_reads_only_what_it_takes(store: Store, tmp_path: Path) -> None:
    """A content that is left out never enters the store."""
    root = lay_out(tmp_path / "in", "a", ".env")
    store.scan(root, exclude=(".env",))
    kept = [p.read_text() for p in (store.root / "blobs").rglob("*") if p.is_file()]
    assert kept == ["a"]


def test_scan_of_nothing_is_an_error_that_names_it(store: Store, tmp_path: Path) -> None:
    """A file is no folder either."""
    with pytest.raises(NotFound, match="nowhere: no such directory"):
        store.scan(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="a: no such directory"):
        store.scan(lay_out(tmp_path, "a") / "a")


# --- archives -----------------------------------------------------------------------------------


@given(TREES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_tree_survives_an_archive(store: Store, tree: Tree) -> None:
    """What is packed and unpacked is equal."""
    contents = {"1" * 64: b"one", "2" * 64: b"two"}
    entries = []
    for entry in tree.entries:
        if entry.kind == "file":
            name, size = store.add_bytes(contents[entry.content])
            entry = Entry(entry.path, "file", entry.mode, entry.uid, 0, name, size)  # noqa: PLW2901
        entries.append(entry)
    with store.tar(entries) as archive:
        assert store.untar(archive) == Tree(tuple(entries))


def test_equal_trees_make_equal_archives(store: Store) -> None:
    """Nothing in an archive depends on when it was made."""
    tree = tree_of(store, {"a": "1", "b/c": "2"})
    with store.tar(tree.entries) as one, store.tar(tree.entries) as other:
        assert one.read() == other.read()


def archive(*members: tarfile.TarInfo) -> io.BytesIO:
    """Return an archive with members; a file holds its own name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            data = member.name.encode() if member.isreg() else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    out.seek(0)
    return out


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """Return a member of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_untar_strips_the_folder_at_the_top(store: Store) -> None:
    """Docker names everything below the last part of the path that was asked for."""
    packed = archive(
        member("top", tarfile.DIRTYPE),
        member("top/a"),
        member("top/hard", tarfile.LNKTYPE, "top/a"),
        member("top/soft", tarfile.SYMTYPE, "a"),
        member("top/pipe", tarfile.FIFOTYPE),
        member("top/lost", tarfile.LNKTYPE, "elsewhere/x"),
        member("top/d/e"),
    )
    tree = store.untar(packed, "top", without=("d",))
    assert [(e.path, e.kind) for e in tree.entries] == [
        ("a", "file"),
        ("hard", "file"),
        ("soft", "link"),
    ]
    assert tree.find("hard").content == tree.find("a").content


def test_a_file_where_a_folder_is_wanted_is_an_error(store: Store) -> None:
    """Its name is that of the top."""
    with pytest.raises(NotFound, match="top: not a directory"):
        store.untar(archive(member("top")), "top")


# --- writing to the host ------------------------------------------------------------------------


def test_export_writes_modes_links_and_replaces_what_is_there(store: Store, tmp_path: Path) -> None:
    """What else is in the folder stays, unless it is to be wiped."""
    to = lay_out(tmp_path / "out", "old", "a")
    tree = Tree.of(
        [
            *tree_of(store, {"a": "new", "d/b": "2"}).entries,
            Entry("l", "link", 0o777, content="d/b"),
        ]
    )
    store.export(tree, to)
    assert (to / "a").read_text() == "new"
    assert (to / "l").read_text() == "2"
    assert (to / "old").exists()
    store.export(tree, to)
    store.export(tree, to, wipe=True)
    assert sorted(p.name for p in to.iterdir()) == ["a", "d", "l"]


def test_export_turns_a_file_or_a_link_into_the_folder_that_is_wanted(
    store: Store, tmp_path: Path
) -> None:
    """A folder takes the place of what is no folder."""
    to = lay_out(tmp_path / "out", "f")
    outside = tmp_path / "outside"
    outside.mkdir()
    (to / "l").symlink_to(outside)
    store.export(tree_of(store, {"f/x": "1", "l/y": "2"}), to)
    assert (to / "f/x").read_text() == "1"
    assert list(outside.iterdir()) == []


def test_export_refuses_to_leave_its_folder_through_a_link(store: Store, tmp_path: Path) -> None:
    """A link in the tree, or one that is already there, leads nothing out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    content, size = store.add_bytes(b"x")
    tree = Tree(
        (
            Entry("l", "link", 0o777, content=str(outside)),
            Entry("l/evil", "file", 0o644, content=content, size=size),
        )
    )
    with pytest.raises(EngineError, match="leads out of"):
        store.export(tree, tmp_path / "out")
    assert list(outside.iterdir()) == []


def test_export_to_a_link_to_a_folder_is_taken_as_the_folder(store: Store, tmp_path: Path) -> None:
    """The folder itself may be reached by a link, as /tmp is on some systems."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "l").symlink_to(real)
    store.export(tree_of(store, {"a": "1"}), tmp_path / "l")
    assert (real / "a").read_text() == "1"


def test_pinned_times_depend_on_contents_alone(store: Store, tmp_path: Path) -> None:
    """BuildKit compares times: equal contents have equal ones, different contents others."""
    times = []
    for name, text in (("one", "x"), ("two", "x"), ("three", "y")):
        store.export(tree_of(store, {"a": text}), tmp_path / name, pinned=True)
        times.append((tmp_path / name / "a").stat().st_mtime_ns)
    assert times[0] == times[1] != times[2]


def test_export_file_replaces_in_one_rename(store: Store, tmp_path: Path) -> None:
    """Nothing but the file is left beside it, and a link is not written through."""
    target = lay_out(tmp_path, "target") / "target"
    link = tmp_path / "d/link"
    link.parent.mkdir()
    link.symlink_to(target)
    entry = tree_of(store, {"f": "new"}).entries[0]
    store.export_file(entry, link)
    assert (link.read_text(), target.read_text()) == ("new", "target")
    assert [p.name for p in link.parent.iterdir()] == ["link"]


# --- sessions and locks -------------------------------------------------------------------------


def test_a_volume_is_locked_by_one_at_a_time(store: Store) -> None:
    """The second does not get it until the first lets go."""
    with store.volume_lock("v") as one, store.volume_lock("v") as other:
        assert one()
        assert not other()
    with store.volume_lock("v") as later:
        assert later()


def test_a_session_leaves_nothing(store: Store) -> None:
    """Its folder and its private folder go with it."""
    session = Session(store)
    private = session.private
    assert private.stat().st_mode & 0o777 == 0o700
    with dead_sessions(store) as dead:
        assert dead == []
    session.close()
    assert not private.exists()
    assert list((store.root / "sessions").iterdir()) == []


def test_a_dead_session_is_found_and_removed(store: Store) -> None:
    """A process that was killed no longer holds the lock."""
    session = Session(store)
    session._lock.close()  # noqa: SLF001 - as the kernel does it when a process is killed
    session._using.close()  # noqa: SLF001 - the same
    with dead_sessions(store) as dead:
        assert [session_of(folder) for folder in dead] == [session.id]
        remove_session(dead[0])
    assert not session.private.exists()
    with dead_sessions(store) as dead:
        assert dead == []


def test_nobody_is_alone_while_a_session_runs(store: Store) -> None:
    """What prune removes, a session may need; and none begins during a prune."""
    session = Session(store)
    with pytest.raises(EngineError, match="a pipeline is running"), alone(store):
        pass
    session.close()
    with alone(store), pytest.raises(EngineError, match="being pruned"):
        Session(store)
    Session(store).close()
