"""Logging, and what is removed from texts."""

from __future__ import annotations

import base64
import io
import logging
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from pipeline import log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Keep secrets, and the handlers, within a test."""
    logger = logging.getLogger("pipeline")
    before = logger.handlers[:], logger.level, logger.propagate
    with log.remembering():
        yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.parametrize(
    "form",
    [
        'p"ss wörd/1',
        quote('p"ss wörd/1', safe=""),
        'p\\"ss wörd/1',
        'p\\"ss w\\u00f6rd/1',
        base64.b64encode('p"ss wörd/1'.encode()).decode(),
    ],
)
def test_scrub_knows_a_secret_in_each_of_its_forms(form: str) -> None:
    """A secret is masked as it is, in a URL, in JSON and in base64."""
    assert log.scrub(f"before {form} after", ['p"ss wörd/1']) == "before *** after"


def test_scrub_masks_the_longer_secret_first() -> None:
    """A secret that is a part of another does not leave the rest of it."""
    assert log.scrub("hunter2!", ["hunter2", "hunter2!"]) == "***"


def test_empty_secret_is_none() -> None:
    """An empty secret masks nothing."""
    log.conceal("")
    assert log.scrub("text", [""]) == "text"


def test_concealed_secret_is_scrubbed_until_forgotten() -> None:
    """What was concealed is masked everywhere, until the block that it was concealed in ends."""
    with log.remembering():
        log.conceal("hunter2")
        assert log.scrub("hunter2") == "***"
    assert log.scrub("hunter2") == "hunter2"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link", "textlink"),
        ("10 %\r20 %\r100 %\nnext", "100 %\nnext"),
        ("line\r\nnext\r\n", "line\nnext\n"),
        ("tab\tstays, nul\x00 and bell\x07 do not", "tab\tstays, nul and bell do not"),
        ("lone \ud800 surrogate", "lone  surrogate"),
    ],
)
def test_printable_removes_what_drives_a_terminal(text: str, plain: str) -> None:
    """Colours, titles, overwritten lines and control characters are removed, the text stays."""
    assert log.printable(text) == plain


def test_records_are_scrubbed_with_arguments_and_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A secret is in no log record: not in the message, the arguments or the traceback."""
    log.conceal("hunter2")
    log.configure("info")
    logger = logging.getLogger("pipeline.test")
    try:
        int("hunter2")
    except ValueError:
        logger.exception("failed with %s", "hunter2")
    logger.debug("not shown")
    told = capsys.readouterr().err
    assert "failed with ***" in told
    assert "literal for int() with base 10: '***'" in told
    assert "hunter2" not in told
    assert "not shown" not in told


def test_configure_replaces_what_it_did() -> None:
    """Configuring twice does not log twice, and follows standard error where it goes."""
    log.configure("debug")
    log.configure("warning")
    kept, sys.stderr = sys.stderr, io.StringIO()
    try:
        logging.getLogger("pipeline.test").warning("once")
        told = sys.stderr.getvalue()
    finally:
        sys.stderr = kept
    assert told.count("once") == 1


def test_traceback_is_saved_scrubbed(tmp_path: Path) -> None:
    """A traceback is added to the file in the report folder, without secrets."""
    log.conceal("hunter2")
    log.save_traceback(ValueError("one"), tmp_path)
    path = log.save_traceback(ValueError("hunter2"), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "internal-error.txt"
    assert "ValueError: one" in text
    assert "ValueError: ***" in text


@pytest.mark.parametrize("folder", [None, "absent"])
def test_traceback_is_saved_somewhere(tmp_path: Path, folder: str | None) -> None:
    """Without a folder that can be written the traceback goes among the temporary files."""
    path = log.save_traceback(ValueError("x"), tmp_path / folder if folder else None)
    try:
        assert "ValueError: x" in path.read_text(encoding="utf-8")
        assert path.parent != tmp_path
    finally:
        path.unlink()
