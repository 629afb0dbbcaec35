"""Logging, and the scrubbing of secrets from everything that is stored or printed.

A secret is made known once, with `conceal`, by whoever learns it; every log record, and every text
that the console and the reports take from elsewhere, passes through `scrub`. This module imports
nothing of ours.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
TRACEBACK_NAME = "internal-error.txt"

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_concealed: set[str] = set()

# ECMA-48 control sequences: CSI …, OSC … up to BEL or ST, and two-character escapes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# What XML 1.0 allows is tab, line feed and everything printable; surrogates cannot be encoded.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def conceal(secret: str) -> None:
    """Have `scrub` remove a secret, and every log record, from now on in this process."""
    if secret:
        _concealed.add(secret)


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Forget on leaving what `conceal` was told within, for more than one run in a process."""
    before = set(_concealed)
    try:
        yield
    finally:
        _concealed.intersection_update(before)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text with each secret masked, as it is and as JSON, URLs and base64 write it.

    Args:
        text: What is to be stored or printed.
        secrets: Secrets beside those that `conceal` was told of.
    """
    known = {form for secret in {*secrets, *_concealed} if secret for form in _forms(secret)}
    # The longest first: a secret may be a part of another.
    for form in sorted(known, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def printable(text: str) -> str:
    """Return the text scrubbed, and without colours, overwritten lines and control characters."""
    plain = _ESCAPES.sub("", text)
    if "\r" in plain:
        # A progress bar: a terminal shows what was written last.
        plain = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n"))
    return scrub(_CONTROLS.sub("", plain))


def configure(level: str) -> None:
    """Send the records of this package at ``level`` and above to standard error, scrubbed.

    Calling it again replaces what it did before.
    """
    handler = _Handler()
    handler.setFormatter(_Formatter(_FORMAT))
    # Of its own as well: a file of the run may want more of one part, and lower that logger's.
    handler.setLevel(level.upper())
    logger = logging.getLogger("pipeline")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def save_traceback(error: BaseException, folder: Path | None) -> Path:
    """Append an error's traceback, scrubbed, to internal-error.txt, and return the file.

    Args:
        error: What was raised.
        folder: Where to write it. When it is None or cannot be written, the traceback goes to a
            file of its own in the folder for temporary files.
    """
    text = scrub("".join(traceback.format_exception(error)))
    if folder:
        path = folder / TRACEBACK_NAME
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as refused:
            logging.getLogger(__name__).info("%s cannot be written: %s", path, refused)
        else:
            return path
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="slipway-", suffix=".txt", delete=False
    ) as own:
        own.write(text)
    return Path(own.name)


class _Formatter(logging.Formatter):
    """Scrubs the whole record: its arguments and traceback too may hold a secret."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time: the live display puts its own in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _forms(secret: str) -> set[str]:
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        base64.b64encode(secret.encode()).decode(),
        base64.urlsafe_b64encode(secret.encode()).decode(),
    }
