"""What the tests' own conftest promises: a docker test is skipped with a reason, or fails in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .setup_fakes import fake_docker

ROOT = Path(__file__).parents[2]
CASE = """\
import pytest

@pytest.mark.docker
def test_docker():
    pass

@pytest.mark.docker
def test_skipped_by_itself():
    pytest.skip("for a reason of its own")

def test_plain():
    pytest.skip("not a docker test")
"""


def outcome(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the case where no Docker Engine answers."""
    (folder / "test_case.py").write_text(CASE)
    return run(folder, **environ)


def run(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder with the conftest of these tests."""
    markers = "".join(f"    {name}: x\n" for name in ("cluster", "docker", "network"))
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers =\n{markers}")
    known = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("COV_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-ra"],
        cwd=folder,
        env=known
        | {"PYTHONPATH": str(ROOT), "DOCKER_HOST": f"unix://{folder}/none.sock"}
        | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_docker_a_docker_test_is_skipped_with_the_reason(tmp_path: Path) -> None:
    """A laptop without Docker runs the rest."""
    done = outcome(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "3 skipped" in done.stdout
    assert "No Docker Engine answers at" in done.stdout


def test_in_ci_without_docker_its_tests_fail(tmp_path: Path) -> None:
    """Each of them; a test of another kind may be skipped."""
    done = outcome(tmp_path, CI="true")
    assert done.returncode == 1
    assert "1 skipped, 2 errors" in done.stdout
    assert "may not be skipped there: Skipped: No Docker Engine answers at" in done.stdout


@pytest.mark.parametrize("value", ["true", "1"])
def test_in_ci_a_docker_test_may_not_skip_itself(tmp_path: Path, value: str) -> None:
    """Whatever its reason; one that runs passes."""
    with fake_docker(tmp_path) as docker:
        done = outcome(tmp_path, CI=value, DOCKER_HOST=docker.host)
    assert done.returncode == 1
    assert "1 failed, 1 passed, 1 skipped" in done.stdout
    assert "may not be skipped there: Skipped: for a reason of its own" in done.stdout


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_in_ci_a_cluster_test_may_not_be_skipped(tmp_path: Path, ci: str, code: int) -> None:
    """On a laptop it may, for the reason that its fixture gives."""
    (tmp_path / "test_case.py").write_text(
        "import pytest\n\n"
        "@pytest.fixture\ndef stage():\n    pytest.skip('this machine cannot have one')\n\n"
        "@pytest.mark.cluster\ndef test_cluster(stage):\n    pass\n"
    )
    done = run(tmp_path, CI=ci)
    assert done.returncode == code, done.stdout
    assert "this machine cannot have one" in done.stdout
    assert ("a cluster test may not be skipped" in done.stdout) == bool(code)
