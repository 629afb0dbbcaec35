"""What is built, in a git checkout and outside one."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from pipeline import images, source
from pipeline.errors import PrerequisiteError

from .engine_fakes import lay_out

if TYPE_CHECKING:
    from pathlib import Path


def git(root: Path, *arguments: str) -> str:
    """Run git as somebody, at a fixed time."""
    who = {
        f"GIT_{role}_{what}": "a@b.example"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    when = {"GIT_COMMITTER_DATE": "1700000000 +0200", "GIT_AUTHOR_DATE": "1600000000 +0000"}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-C", str(root), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **who, **when, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a project that is committed."""
    root = lay_out(tmp_path / "project")
    (root / ".gitignore").write_text("/reports/\n.venv/\n*.log\n", encoding="utf-8")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def paths(found: source.Source) -> set[str]:
    """Return the paths of the files."""
    return {file.path for file in found.files}


def test_tag_and_revision_are_git_s(checkout: Path) -> None:
    """``git describe`` names the images; the commit's time is theirs."""
    found = source.read(checkout)
    head = git(checkout, "rev-parse", "HEAD")
    assert found.revision == head
    assert head.startswith(found.tag)
    assert found.created == "2023-11-14T22:13:20Z"
    git(checkout, "tag", "release/1.0")
    assert source.read(checkout).tag == "release-1.0"


def test_changed_checkout_is_dirty(checkout: Path) -> None:
    """What is not committed cannot be told by its commit, and its tag says so."""
    before = source.read(checkout)
    (checkout / "service/app.py").write_text("x = 1\n", encoding="utf-8")
    after = source.read(checkout)
    assert after.tag == f"{before.tag}-dirty"
    assert after.revision == before.revision
    assert source.digest(after.select("service")) != source.digest(before.select("service"))
    assert source.digest(after.select("nginx")) == source.digest(before.select("nginx"))


def test_new_file_that_is_built_is_dirty(checkout: Path) -> None:
    """It is in the image and not in the commit; one beside the images' folders is in neither."""
    built = ("service", "nginx")
    before = source.read(checkout, built=built)
    (checkout / "out").mkdir()
    (checkout / "out/report.json").touch()
    (checkout / "service/noise.log").touch()
    assert source.read(checkout, built=built).tag == before.tag
    assert source.read(checkout).tag == f"{before.tag}-dirty"
    (checkout / "service/new.py").touch()
    assert source.read(checkout, built=built).tag == f"{before.tag}-dirty"
    (checkout / "service/app.py").write_text("x = 1\n", encoding="utf-8")
    assert source.read(checkout, built=built).tag == f"{before.tag}-dirty"


def test_new_files_count_and_ignored_ones_do_not(checkout: Path) -> None:
    """Content is what git tracks, and what it would track."""
    before = paths(source.read(checkout))
    (checkout / "service/new.py").touch()
    (checkout / "service/noise.log").touch()
    (checkout / "nginx/Dockerfile").unlink()
    assert paths(source.read(checkout)) - before == {"service/new.py"}
    assert before - paths(source.read(checkout)) == {"nginx/Dockerfile"}


def test_mode_and_links_are_content(checkout: Path) -> None:
    """An executable file and one that is not differ; a link is its target."""
    before = source.digest(source.read(checkout).files)
    (checkout / "service/app.py").chmod(0o755)
    changed = source.digest(source.read(checkout).files)
    assert changed != before
    (checkout / "service/link").symlink_to("nowhere")
    found = {file.path: file.digest for file in source.read(checkout).files}
    (checkout / "service/link").unlink()
    (checkout / "service/link").symlink_to("elsewhere")
    again = {file.path: file.digest for file in source.read(checkout).files}
    assert found["service/link"] != again["service/link"]


def test_repository_without_a_commit_is_named_by_content(tmp_path: Path) -> None:
    """Before the first commit there is nothing to describe."""
    root = lay_out(tmp_path / "project")
    git(root, "init", "--quiet")
    found = source.read(root)
    assert found.tag.startswith("content-")
    assert found.revision == ""


def test_archive_is_named_by_content(tmp_path: Path) -> None:
    """Outside a checkout equal contents have equal tags, whatever is beside them."""
    a = lay_out(tmp_path / "a")
    (a / ".gitignore").write_text("*.log\n/reports/\n", encoding="utf-8")
    b = lay_out(tmp_path / "b")
    (b / ".gitignore").write_text("*.log\n/reports/\n", encoding="utf-8")
    (b / "x.log").touch()
    (b / "reports/report.json").touch()
    (b / "service/__pycache__").mkdir()
    (b / "service/__pycache__/x.pyc").touch()
    one, other = source.read(a, {}), source.read(b, {})
    assert one.tag == other.tag
    assert one.files == other.files
    assert len(one.tag) == len("content-") + 12
    assert images.validate_tag(one.tag)
    assert one.revision == ""
    (b / "service/app.py").write_text("x = 1\n", encoding="utf-8")
    assert source.read(b, {}).tag != one.tag


def test_archive_without_gitignore_is_walked_whole(tmp_path: Path) -> None:
    """No .gitignore ignores nothing but what never is content."""
    root = lay_out(tmp_path / "a")
    (root / ".gitignore").unlink()
    (root / "x.log").touch()
    assert "x.log" in paths(source.read(root, {}))


def test_time_of_an_archive_is_the_environment_s(tmp_path: Path) -> None:
    """SOURCE_DATE_EPOCH says when it was made; without it, the epoch: never now."""
    root = lay_out(tmp_path / "a")
    assert source.read(root, {"SOURCE_DATE_EPOCH": "86400"}).created == "1970-01-02T00:00:00Z"
    assert source.read(root, {}).created == "1970-01-01T00:00:00Z"
    assert source.read(root, {"SOURCE_DATE_EPOCH": "soon"}).created == "1970-01-01T00:00:00Z"


def test_archive_within_another_checkout_is_not_that_checkout(checkout: Path) -> None:
    """A folder that the surrounding repository ignores is named by its own content."""
    inner = lay_out(checkout / "reports/unpacked")
    found = source.read(inner, {})
    assert found.revision == ""
    assert "service/app.py" in paths(found)


def test_select_takes_paths_folders_and_suffixes(checkout: Path) -> None:
    """A prefix is a whole name: ``service`` is not ``services``."""
    (checkout / "services").mkdir()
    (checkout / "services/x").touch()
    found = source.read(checkout)
    assert {f.path for f in found.select("nginx", "uv.lock")} == {"nginx/Dockerfile", "uv.lock"}
    assert "services/x" not in {f.path for f in found.select("service")}
    assert {f.path for f in found.select(suffixes=(".md",))} == {"docs/index.md"}


def test_again_tells_what_changed_meanwhile(checkout: Path) -> None:
    """The same files, as they are now."""
    files = source.read(checkout).select("service")
    assert source.again(checkout, files) == files
    (checkout / "service/app.py").unlink()
    assert source.again(checkout, files) != files


def test_file_that_cannot_be_read_is_named(checkout: Path) -> None:
    """The error names the file and why."""
    with pytest.raises(PrerequisiteError, match=r"app\.py/x cannot be read: Not a directory"):
        source.again(checkout, [source.File("service/app.py/x", "")])


def test_without_git_content_is_walked(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There need be no git."""
    monkeypatch.setenv("PATH", "/nonexistent")
    found = source.read(checkout, {})
    assert found.tag.startswith("content-")
    assert "service/app.py" in paths(found)
