"""npm-groovy-lint has nothing to say against any Groovy of this project.

Its version and those of all that it needs are in tests/jenkins/lint, the rules that are not kept in
.groovylintrc.json. Node.js is in the dependency group `groovy`, which nothing else installs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .jobs import HERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .groovy import Groovy

pytestmark = [pytest.mark.groovy, pytest.mark.network]

ROOT = HERE.parents[1]
LINT = HERE / "lint"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
"""As in pipeline/setup/bootstrap.sh."""
LIMIT = 600.0
"""Seconds that a first installation may take, or a run on a machine that is busy."""


def sources() -> list[str]:
    """Return all Groovy of this project, as git has it."""
    argv = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    paths = map(Path, listed.splitlines())
    return [str(path) for path in paths if path.suffix == ".groovy" or path.name == "Jenkinsfile"]


def run(groovy: Groovy, argv: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of Node.js, which uv gets as uv.lock has it."""
    uv = shutil.which("uv") or max(CACHE.glob("uv-*/bin/uv"))
    bundle = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    node = [uv, "run", "--quiet", "--frozen", "--isolated", "--only-group=groovy"]
    return subprocess.run(
        [*node, f"--project={ROOT}", *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env=groovy.environment() | {"UV_SYSTEM_CERTS": "1", "NODE_EXTRA_CA_CERTS": bundle},
    )


@pytest.fixture(scope="module")
def linter(groovy: Groovy) -> Path:
    """Return npm-groovy-lint, installed once for each content of its lock file."""
    lock = (LINT / "package-lock.json").read_bytes()
    folder = CACHE / f"groovy-lint-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Beside its place, and moved there whole: two runs may do this at once.
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="groovy-lint.") as scratch:
            new = Path(scratch) / "new"
            shutil.copytree(LINT, new)
            done = run(groovy, ["npm", "ci", "--no-audit", "--no-fund"], new)
            assert done.returncode == 0, done.stdout + done.stderr
            if not folder.is_dir():
                new.rename(folder)
    return folder / "node_modules" / ".bin" / "npm-groovy-lint"


def test_nothing_is_found_in_any_groovy(groovy: Groovy, linter: Path, tmp_path: Path) -> None:
    """Not even a note is left; what is wrong in another file is found, so the linter does read."""
    # In a folder with nothing else: the linter walks through all that is around its files.
    for name in sources():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "wrong.groovy").write_text("import java.util.zip.ZipFile\n")
    # Its server would stay for an hour; its parser is another Groovy's, and the other tests parse.
    options = ["--noserver", "--no-parse", "--output=json", "--failon=none", f"--config={ROOT}"]
    done = run(groovy, [linter, *options, "."], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {
        str(Path(name).relative_to(tmp_path)): [each["rule"] for each in file["errors"]]
        for name, file in json.loads(done.stdout)["files"].items()
    }
    assert found == {"wrong.groovy": ["UnusedImport"], **{name: [] for name in sources()}}
