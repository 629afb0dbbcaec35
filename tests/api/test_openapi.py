"""The running system does what its OpenAPI document promises, whatever it is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.stack import Stack

pytestmark = pytest.mark.docker

SCHEMATHESIS = Path(sys.executable).with_name("st")


def test_answers_are_what_the_document_promises(system: Stack, tmp_path: Path) -> None:
    """Every check of schemathesis passes, for requests that are allowed and for those that are not.

    The same requests each time, so that it fails for what has changed here.
    """
    done = subprocess.run(
        [
            SCHEMATHESIS,
            *("run", f"{system.url}/openapi.json"),
            *("--checks", "all", "--mode", "all", "--max-examples", "200", "--seed", "1"),
            *("--continue-on-failure", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.search(r"(\d+) generated, \1 passed", done.stdout)
    assert count, done.stdout
    assert int(count[1]) > 200
