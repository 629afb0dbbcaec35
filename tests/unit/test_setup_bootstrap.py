"""The shell that makes the environment, and the Makefile in front of it."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    *("sh", "cksum", "cmp", "cut", "dirname", "head", "id", "mkdir", "mktemp", "mv", "rm"),
    *("sort", "tail", "cat", "chmod", "cp", "grep", "sed"),
)

PYTHON = """\
#!/bin/sh
# A Python that says which one it is, and has a venv only where it is told to.
case "$2" in
*version_info*print*executable*) [ -z "$OLD" ] && echo "$0" ;;
*"import ensurepip, venv"*) [ -z "$NO_VENV" ] ;;
*python%d*) echo python3.11-venv ;;
*venv*)
    mkdir -p "$3/bin"
    cp "$FAKES/python" "$3/bin/python"
    ;;
esac
"""
PIP = """\
#!/bin/sh
echo pip "$@" >>"$LOG"
cp "$FAKES/uv" "${0%/*}/uv"
"""
UV = """\
#!/bin/sh
[ "$1" = --version ] && { echo "uv ${UV_IS:-99.0} (fake)"; exit; }
echo "uv $* certs=$UV_SYSTEM_CERTS downloads=$UV_PYTHON_DOWNLOADS" >>"$LOG"
[ -z "$UV_FAILS" ] || exit 1
mkdir -p .venv/bin
printf '#!/bin/sh\\nexit 0\\n' >.venv/bin/python
chmod +x .venv/bin/python
"""


class Checkout:
    """A checkout and a PATH of fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / "fakes").mkdir()
        self.write(folder / "fakes" / "uv", UV)
        self.write(folder / "fakes" / "python", PIP)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)
        self.root = folder / "checkout"
        (self.root / "pipeline" / "setup").mkdir(parents=True)
        shutil.copy(ROOT / "pipeline/setup/bootstrap.sh", self.root / "pipeline/setup")
        (self.root / "uv.lock").write_text("one")
        (self.root / "pyproject.toml").write_text("")

    def write(self, file: Path, text: str) -> None:
        """Write a program."""
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def add(self, name: str, text: str) -> None:
        """Put a program on PATH."""
        self.write(self.bin / name, text)

    def run(self, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        return subprocess.run(
            ["/bin/sh", str(self.root / "pipeline/setup/bootstrap.sh")],
            env={
                "PATH": str(self.bin),
                "HOME": str(self.folder),
                "LOG": str(self.folder / "log"),
                "FAKES": str(self.folder / "fakes"),
                **environ,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    @property
    def log(self) -> list[str]:
        """Return what was called."""
        file = self.folder / "log"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a checkout with a Python and no uv."""
    made = Checkout(tmp_path)
    made.add("python3", PYTHON)
    return made


def test_a_recent_uv_on_path_is_used(checkout: Checkout) -> None:
    """Nothing is installed, no Python is downloaded, the system's certificates count."""
    checkout.add("uv", UV)
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert len(checkout.log) == 1
    assert checkout.log[0].startswith("uv sync --frozen")
    assert checkout.log[0].endswith("certs=1 downloads=never")


def test_nothing_changed_is_nothing_done(checkout: Checkout) -> None:
    """Neither uv nor anything else is called again, until the lock changes."""
    checkout.add("uv", UV)
    checkout.run()
    again = checkout.run()
    assert (again.returncode, again.stderr) == (0, "")
    assert len(checkout.log) == 1
    (checkout.root / "uv.lock").write_text("two")
    checkout.run()
    assert len(checkout.log) == 2


def test_an_environment_that_was_moved_is_made_anew(checkout: Checkout, tmp_path: Path) -> None:
    """Its programs name the folder that they were made in."""
    checkout.add("uv", UV)
    checkout.run()
    checkout.root = checkout.root.rename(tmp_path / "elsewhere")
    checkout.run()
    assert len(checkout.log) == 2


@pytest.mark.parametrize("on_path", [False, True])
def test_without_a_recent_uv_the_pinned_one_is_installed_once(
    checkout: Checkout,
    on_path: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    """Into the cache, where every checkout finds it."""
    if on_path:
        checkout.add("uv", UV.replace("99.0", "0.7.9"))
    first = checkout.run()
    assert first.returncode == 0, first.stderr
    assert re.fullmatch(r"pip -m pip install --quiet uv==[0-9.]+", checkout.log[0])
    cache = checkout.folder / ".cache" / "slipway"
    assert len(list(cache.glob("uv-*"))) == 1
    shutil.rmtree(checkout.root / ".venv")
    checkout.run()
    assert sum(line.startswith("pip") for line in checkout.log) == 1


def test_without_python_it_is_named(checkout: Checkout) -> None:
    """Exit code 3; nothing is made."""
    done = checkout.run(OLD="1")
    assert done.returncode == 3
    assert "Python 3.11 or later is not on PATH" in done.stderr
    assert not (checkout.root / ".venv").exists()
    assert not (checkout.folder / ".cache").exists()


def test_what_is_missing_is_reported(checkout: Checkout) -> None:
    """As a failed test, in the place of the reports of an earlier run; other files stay."""
    folder = checkout.root / "out"
    folder.mkdir()
    for name in ("report.json", "report.html", "junit.xml", "mine"):
        (folder / name).write_text("before")
    (checkout.bin / "flock").symlink_to(str(shutil.which("false")))
    done = checkout.run(PIPELINE_REPORT_DIR="out", XDG_CACHE_HOME=f'{checkout.folder}/<a&"b>')
    assert done.returncode == 3
    assert {file.name for file in folder.iterdir()} == {"junit.xml", "mine"}
    (case,) = ET.parse(folder / "junit.xml").iter("testcase")  # noqa: S314 - our own
    error = case.find("error")
    assert error is not None
    assert '/<a&"b>/slipway/lock for 10 minutes. End it' in error.attrib["message"]


def test_report_that_cannot_be_written_hides_nothing(checkout: Checkout) -> None:
    """What is missing is more important."""
    (checkout.root / "file").touch()
    done = checkout.run(OLD="1", PIPELINE_REPORT_DIR="file/reports")
    assert done.returncode == 3
    assert "Python 3.11 or later is not on PATH" in done.stderr
    assert "(file/reports/junit.xml cannot be written)" in done.stderr


def test_a_shim_that_leads_nowhere_is_passed_over(checkout: Checkout) -> None:
    """A version manager's shim is on PATH whether its Python is there or not."""
    checkout.add("uv", UV)
    checkout.add("python3.11", "#!/bin/sh\nexit 127\n")
    checkout.run()
    assert "--python " + str(checkout.bin / "python3") in checkout.log[0]


def test_without_root_a_missing_venv_module_is_named(checkout: Checkout) -> None:
    """Exit code 3, and the command for root; nothing is changed."""
    checkout.add("apt-get", "#!/bin/sh\necho apt-get >>$LOG\n")
    (checkout.bin / "id").unlink()
    checkout.add("id", "#!/bin/sh\necho 1000\n")
    done = checkout.run(NO_VENV="1")
    assert done.returncode == 3
    assert "sudo apt-get install python3.11-venv" in done.stderr
    assert checkout.log == []
    assert not (checkout.folder / ".cache").exists()


def test_root_installs_the_venv_module(checkout: Checkout) -> None:
    """As on a bare Debian, whose Python has none."""
    checkout.add("apt-get", '#!/bin/sh\necho "apt-get $*" >>$LOG\n')
    (checkout.bin / "id").unlink()
    checkout.add("id", "#!/bin/sh\necho 0\n")
    done = checkout.run(NO_VENV="1")
    assert done.returncode == 0, done.stderr
    assert checkout.log[0].endswith("update")
    assert checkout.log[1].endswith("--no-install-recommends install python3.11-venv")


def test_another_apt_is_waited_for(checkout: Checkout) -> None:
    """A machine that upgrades itself holds a lock for a while."""
    checkout.add(
        "apt-get",
        "#!/bin/sh\n[ -e $LOG ] || { echo once >$LOG; echo E: Could not get lock >&2; exit 9; }\n"
        'echo "apt-get $*" >>$LOG\n',
    )
    (checkout.bin / "id").unlink()
    checkout.add("id", "#!/bin/sh\necho 0\n")
    checkout.add("sleep", "#!/bin/sh\n")
    done = checkout.run(NO_VENV="1")
    assert done.returncode == 0, done.stderr
    assert checkout.log[1].endswith("update")


def test_an_apt_that_fails_is_shown(checkout: Checkout) -> None:
    """Exit code 3 and its last words, no endless tries."""
    checkout.add("apt-get", "#!/bin/sh\necho 'E: no mirror' >&2\nexit 100\n")
    (checkout.bin / "id").unlink()
    checkout.add("id", "#!/bin/sh\necho 0\n")
    done = checkout.run(NO_VENV="1")
    assert done.returncode == 3
    assert "E: no mirror" in done.stderr


def test_two_at_once_take_turns(checkout: Checkout) -> None:
    """The second finds made what the first has made."""
    checkout.add("uv", UV.replace("[ -z", "sleep 0.3\n[ -z"))
    sleep, flock = shutil.which("sleep"), shutil.which("flock")
    if sleep is None or flock is None:
        pytest.skip("flock is not installed here")
    (checkout.bin / "sleep").symlink_to(sleep)
    (checkout.bin / "flock").symlink_to(flock)
    with ThreadPoolExecutor() as pool:
        codes = [done.returncode for done in pool.map(lambda _: checkout.run(), range(3))]
    assert codes == [0, 0, 0]
    assert len(checkout.log) == 1


def test_a_lock_that_cannot_be_installed_is_no_success(checkout: Checkout) -> None:
    """Exit code 3, and the next call tries again."""
    checkout.add("uv", UV)
    assert checkout.run(UV_FAILS="1").returncode == 3
    assert checkout.run().returncode == 0


def test_the_least_uv_is_that_of_the_project() -> None:
    """What the script takes from PATH is what uv itself would accept."""
    script = (ROOT / "pipeline/setup/bootstrap.sh").read_text()
    least = re.search(r"^UV_LEAST=(\S+)", script, re.MULTILINE)
    assert least is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["uv"]["required-version"] == f">={least[1]}"


def test_the_help_of_make_names_every_command() -> None:
    """`make` alone tells what there is."""
    shown = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    for target in set(targets[1].split()) - {"environment"}:
        assert re.search(rf"^  make {target} +\S", shown, re.MULTILINE), target
