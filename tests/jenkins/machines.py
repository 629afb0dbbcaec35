"""What the jobs are run with in the tests: a repository, agents, and a person with a laptop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .agent import LIMIT, PASSED_ON, Agent, git

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .agent import Credential

ROOT = Path(__file__).resolve().parents[2]
# All that a job needs. Without the project's own tests, and their types, lint is quick.
PARTS = (
    *(".gitignore", ".hadolint.yaml", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
    *("jenkins", "k8s", "nginx", "pipeline", "service", "uv.lock"),
    *("tests/__init__.py", "tests/verify"),
)


@dataclass(frozen=True, slots=True)
class Done:
    """A line that was pasted, and what came of it.

    Attributes:
        code: Its exit code.
        out: What it printed.
        report: report.json, empty when there is none.
    """

    code: int
    out: str
    report: Mapping[str, Any]


@dataclass(slots=True)
class Site:
    """A repository, and machines that have one cache.

    Attributes:
        folder: All of it is under this.
        origin: The repository.
        environ: What is set on its machines.
    """

    folder: Path
    origin: Path
    environ: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Site:
        """Make one with this project's files, as they are now."""
        origin = folder / "origin"
        listed = git("ls-files", "-z", "-co", "--exclude-standard", "--", *PARTS, at=ROOT)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (origin / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, origin / name)
        git("init", "--quiet", "--initial-branch=main", at=origin)
        made = cls(folder, origin, machine(folder))
        made.commit("pyproject.toml", 'files = ["pipeline", "tests", "bench"]', 'files = ["tests"]')
        return made

    def fork(self, folder: Path) -> Site:
        """Return one with the same content, and the same caches."""
        shutil.copytree(self.origin, folder / "origin")
        return Site(folder, folder / "origin", dict(self.environ))

    def commit(self, path: str, old: str, new: str) -> None:
        """Replace a text in a file, which must have it, and commit all there is."""
        file = self.origin / path
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        git("add", "--all", at=self.origin)
        git("commit", "--quiet", "--message", "content", at=self.origin)

    def agent(self, name: str, credentials: Mapping[str, Credential] | None = None) -> Agent:
        """Return an agent with nothing on it."""
        return Agent(self.folder / name, self.origin, self.environ, credentials or {})

    def paste(self, line: str, at: Path, **variables: str) -> Done:
        """Run a line in a checkout, as a person does; it is cloned where there is none."""
        if not at.exists():
            git("clone", "--quiet", "--no-local", self.origin, at)
        # A shell has nothing of Jenkins: neither CI, nor parameters, nor which build it is.
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=at,
            env={**kept, "HOME": str(at.parent), **self.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        file = at / "reports" / "report.json"
        report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return Done(done.returncode, done.stdout, report)


def machine(folder: Path) -> dict[str, str]:
    """Return what is set on a machine whose caches are under a folder.

    Those of uv are this user's: what is downloaded is locked, and is none of what is compared.
    """
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    programs = sorted((usual / "slipway").glob("uv-*/bin"))
    return {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(usual / "uv"),
        "PATH": os.pathsep.join([os.environ["PATH"], *map(str, programs)]),
    }
