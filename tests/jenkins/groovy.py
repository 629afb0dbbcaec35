"""Groovy as Jenkins runs it: version 2.4.21, which is Debian's package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup.daemon import this_machine

VERSION = "2.4.21"
PACKAGES = ("groovy", "default-jre-headless")
LIMIT = 60.0
"""Seconds that a script may take; a Java machine with nothing in its caches starts in two."""


@dataclass(frozen=True, slots=True)
class Groovy:
    """A Groovy of the right version.

    Attributes:
        program: Its launcher.
        java: The Java that it runs on, as JAVA_HOME names one.
    """

    program: Path
    java: Path

    def run(self, script: Path, *arguments: str, stdin: str = "", limit: float = LIMIT) -> str:
        """Return what a script wrote to standard output; fails the test when it fails.

        Args:
            script: Its file; what it needs is looked for beside it.
            arguments: What it is given.
            stdin: What it reads.
            limit: Seconds after which it is ended.
        """
        done = subprocess.run(
            [self.program, "-cp", script.parent, script, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env=self.environment(),
        )
        assert done.returncode == 0, f"{script.name} ended with {done.returncode}\n{done.stderr}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Return the environment that programs in Java get: nothing in it may change Groovy."""
        foreign = {"CLASSPATH", "GROOVY_HOME", "JAVA_OPTS", "JAVA_TOOL_OPTIONS"}
        kept = {name: value for name, value in os.environ.items() if name not in foreign}
        # The reports of failures are compared, and scripts are in UTF-8 wherever they run.
        return kept | {"JAVA_HOME": str(self.java), "LC_ALL": "C.UTF-8"}


def found_or_skipped() -> Groovy:
    """Return what `find` does; skip the test that asks where there is none."""
    try:
        return find()
    except PrerequisiteError as error:
        pytest.skip(f"{error.message}. {error.remedy}")


def find() -> Groovy:
    """Return Groovy, installed first where it is missing and this user may.

    Raises:
        PrerequisiteError: There is none of the right version, and none could be installed.
    """
    if shutil.which("groovy") is None or shutil.which("java") is None:
        machine = this_machine(print)
        why = "Groovy or Java is not on PATH"
        anyio.run(partial(machine.install, PACKAGES, why=why))
    program, java = shutil.which("groovy"), shutil.which("java")
    if program is None or java is None:
        raise PrerequisiteError(
            f"{' and '.join(PACKAGES)} are installed, but groovy or java is not on PATH",
            remedy="Put /usr/bin on PATH",
        )
    found = Groovy(Path(program), Path(java).resolve().parents[1])
    said = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env=found.environment(),
    ).stdout
    version = re.search(r"Groovy Version: (\S+)", said)
    if version is None or version[1] != VERSION:
        raise PrerequisiteError(
            f"{program} is {f'Groovy {version[1]}' if version else 'no Groovy'}, and Jenkins runs "
            f"Groovy {VERSION}",
            remedy=f"Put a Groovy {VERSION} in front of it on PATH; Debian's package has it.",
        )
    return found
