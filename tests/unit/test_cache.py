"""Records of what passed before."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from pathlib import Path

import pytest

from pipeline import cache
from pipeline.cache import Record, Records
from pipeline.task import Image

NAME = cache.key("test", "api", {"files": "sha256:1"})
RECORD = Record(
    key=NAME,
    when=1_700_000_000.0,
    host="laptop",
    seconds=1.5,
    image=Image("api", "r/x:1@sha256:2", 3, "base"),
    facts={"cause": "why"},
    files=("api/junit.xml",),
)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Return a report folder in which a step has written."""
    folder = tmp_path / "reports"
    (folder / "api").mkdir(parents=True)
    (folder / "api/junit.xml").write_text("<testsuite/>", encoding="utf-8")
    return folder


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Return records in a folder that does not exist yet."""
    return Records(tmp_path / "deep/records")


def test_key_is_the_digest_of_all_that_matters() -> None:
    """The order of the material does not matter; everything else does."""
    one = cache.key("test", "api", {"a": "1", "b": "2"})
    assert one == cache.key("test", "api", {"b": "2", "a": "1"})
    others = [
        cache.key("lint", "api", {"a": "1", "b": "2"}),
        cache.key("test", "nginx", {"a": "1", "b": "2"}),
        cache.key("test", "api", {"a": "1", "b": "3"}),
        cache.key("test", "api", {"a": "1"}),
        cache.key("test", "api", {"a": "1b", "": "2"}),
    ]
    assert len({one, *others}) == 6


def test_record_comes_back_with_its_files(records: Records, reports: Path, tmp_path: Path) -> None:
    """A cached step has the reports of when it ran."""
    assert records.find(NAME, reports) is None
    records.keep(RECORD, reports)
    elsewhere = tmp_path / "other-reports"
    assert records.find(NAME, elsewhere) == RECORD
    assert (elsewhere / "api/junit.xml").read_text(encoding="utf-8") == "<testsuite/>"


def test_record_without_an_image_comes_back(records: Records, reports: Path) -> None:
    """Most steps push nothing."""
    record = dataclasses.replace(RECORD, image=None, files=(), facts={})
    records.keep(record, reports)
    assert records.find(NAME, reports) == record


def test_later_record_takes_the_place(records: Records, reports: Path) -> None:
    """The last time that it ran is the one that is told."""
    records.keep(RECORD, reports)
    later = dataclasses.replace(RECORD, host="server")
    records.keep(later, reports)
    assert records.find(NAME, reports) == later


def test_story_says_where_and_when() -> None:
    """A person reads when and where it passed."""
    assert "laptop" in RECORD.story
    assert "2023-11-1" in RECORD.story


@pytest.mark.parametrize(
    "damage",
    [
        lambda home: (home / "record.json").write_text("{", encoding="utf-8"),
        lambda home: (home / "record.json").write_text("[]", encoding="utf-8"),
        lambda home: (home / "record.json").write_text("{}", encoding="utf-8"),
        lambda home: (home / "record.json").write_bytes(b"\xff"),
        lambda home: (home / "files/api/junit.xml").unlink(),
        lambda home: (home / "record.json").unlink(),
    ],
)
def test_damaged_record_counts_as_absent(
    records: Records, reports: Path, tmp_path: Path, damage: object
) -> None:
    """Whatever a crash or a person did to it: the step runs again."""
    records.keep(RECORD, reports)
    assert callable(damage)
    damage(tmp_path / "deep/records" / NAME)
    assert records.find(NAME, reports) is None
    records.keep(RECORD, reports)
    assert records.find(NAME, reports) == RECORD


def test_record_under_another_name_is_not_taken(
    records: Records, reports: Path, tmp_path: Path
) -> None:
    """A record says itself what it is about."""
    records.keep(RECORD, reports)
    other = cache.key("test", "api", {})
    home = tmp_path / "deep/records"
    (home / NAME).rename(home / other)
    assert records.find(other, reports) is None


def test_disk_that_takes_nothing_costs_the_record_alone(
    tmp_path: Path, reports: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The step has passed all the same; a warning tells that it will run again."""
    (tmp_path / "file").touch()
    Records(tmp_path / "file/records").keep(RECORD, reports)
    assert "cannot be kept" in caplog.text


def test_report_that_is_gone_costs_the_record_alone(
    records: Records, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing half-written is left."""
    records.keep(RECORD, tmp_path / "nowhere")
    assert "cannot be kept" in caplog.text
    assert list((tmp_path / "deep/records").iterdir()) == []


def test_two_pipelines_may_keep_the_same_record_at_once(
    tmp_path: Path, reports: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader finds one of them, whole; nothing is left beside it."""
    home = tmp_path / "records"

    def keep(host: str) -> None:
        for _ in range(20):
            Records(home).keep(dataclasses.replace(RECORD, host=host), reports)

    threads = [threading.Thread(target=keep, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Records(home).find(NAME, reports)
    assert found is not None
    assert found.host in {"one", "two", "three"}
    assert [entry.name for entry in home.iterdir()] == [NAME]
    assert "cannot be kept" not in caplog.text


def test_record_that_nobody_asks_for_is_removed_in_the_end(
    records: Records, reports: Path, tmp_path: Path
) -> None:
    """As is what a killed pipeline has left half-written; what was of use stays."""
    home = tmp_path / "deep/records"
    old = cache.key("lint", "", {})
    records.keep(dataclasses.replace(RECORD, key=old), reports)
    (home / ".new-left").mkdir()
    long_ago = time.time() - 40 * 24 * 3600
    for name in (old, ".new-left"):
        os.utime(home / name, (long_ago, long_ago))
    records.keep(RECORD, reports)
    assert [entry.name for entry in home.iterdir()] == [NAME]


def test_record_is_plain_json(records: Records, reports: Path, tmp_path: Path) -> None:
    """A person can read it."""
    records.keep(RECORD, reports)
    text = (tmp_path / "deep/records" / NAME / "record.json").read_text(encoding="utf-8")
    assert json.loads(text)["image"]["reference"] == "r/x:1@sha256:2"


def test_folder_is_the_user_s() -> None:
    """The XDG base directory specification says where; a relative path is ignored."""
    assert cache.folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/slipway")
    assert cache.folder({"XDG_CACHE_HOME": "c"}) == Path.home() / ".cache/slipway"
    assert cache.folder({}) == Path.home() / ".cache/slipway"
    assert cache.host()
