"""The program `slipway-nginx`: its commands, and what it makes of its settings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .role import LIMIT, kill, running

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .role import Role

NOTHING_BEHIND = {"API_UPSTREAM": "127.0.0.1:1", "DOCKER_SOCKET": "/nonexistent/docker.sock"}


def slipway_nginx(
    command: str, settings: Mapping[str, str], temporary: Path
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        ["slipway-nginx", command],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(temporary), **settings},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_check_accepts_both_configurations(tmp_path: Path) -> None:
    """Nginx accepts what both templates render to, and the check leaves nothing behind."""
    done = slipway_nginx("check", {"API_UPSTREAM": "127.0.0.1:8000"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "/proxy.conf test is successful" in done.stderr
    assert "/socket-proxy.conf test is successful" in done.stderr
    assert "[warn]" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_check_fails_on_a_configuration_that_nginx_rejects(tmp_path: Path) -> None:
    """The exit code of the check is nginx's opinion."""
    done = slipway_nginx("check", {"API_UPSTREAM": "127.0.0.1:99999"}, tmp_path)
    assert done.returncode == 1
    assert "/proxy.conf test failed" in done.stderr


@pytest.mark.parametrize("command", ["proxy", "socket-proxy", "check"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_UPSTREAM", "api"),
        ("API_UPSTREAM", "api:"),
        ("API_UPSTREAM", ":8000"),
        ("API_UPSTREAM", "api:http"),
        ("API_UPSTREAM", "api:8000; include /etc/passwd"),
        ("API_UPSTREAM", "api:80\n80"),
        ("API_UPSTREAM", "unix:/run/docker.sock"),
        ("DOCKER_SOCKET", "docker.sock"),
        ("DOCKER_SOCKET", "/"),
        ("DOCKER_SOCKET", "/run/docker.sock; }"),
        ("DOCKER_SOCKET", "/run/$host"),
    ],
)
def test_bad_setting_is_named(command: str, name: str, value: str, tmp_path: Path) -> None:
    """A setting that is not one plain word of its kind ends the program at once, by its name."""
    done = slipway_nginx(command, {name: value}, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"slipway-nginx: {name} must be ")
    assert value in done.stderr


def test_unknown_command_is_refused(tmp_path: Path) -> None:
    """A command that does not exist ends the program with those that do."""
    done = slipway_nginx("reload", {}, tmp_path)
    assert done.returncode == 2
    assert "use proxy, socket-proxy, check or health" in done.stderr


def test_proxy_waits_for_the_name_of_its_upstream(tmp_path: Path) -> None:
    """Until there is such a name it says what it waits for, and may be stopped."""
    settings = {"TMPDIR": str(tmp_path), "API_UPSTREAM": "no-such-name.invalid:8000"}
    with subprocess.Popen(
        ["slipway-nginx", "proxy"],
        env={"PATH": os.environ["PATH"], **settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            waiting = "slipway-nginx: waiting for the name no-such-name.invalid\n"
            assert process.stderr.readline() == waiting
            assert process.poll() is None
            process.send_signal(signal.SIGQUIT)
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()


def test_name_that_never_comes_is_told_by_nginx(tmp_path: Path) -> None:
    """The wait has an end; nginx then says what is missing."""
    program = Path(shutil.which("slipway-nginx") or "").read_text(encoding="utf-8")
    assert "\nname_limit=45\n" in program
    hasty = tmp_path / "slipway-nginx"
    hasty.write_text(program.replace("name_limit=45", "name_limit=1"), encoding="utf-8")
    done = subprocess.run(
        ["sh", str(hasty), "proxy"],
        env={
            "PATH": os.environ["PATH"],
            "TMPDIR": str(tmp_path),
            "API_UPSTREAM": "no-such-name.invalid:8000",
        },
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 1
    assert "host not found in upstream" in done.stderr


def log_with(role: Role, text: str) -> str:
    """The access log once it has the text; nginx writes it after it has answered."""
    deadline = time.monotonic() + LIMIT
    while text not in (log := role.output.read_text()):
        assert time.monotonic() < deadline, log
        time.sleep(0.02)
    return log


@pytest.mark.parametrize("name", ["proxy", "socket-proxy"])
def test_health_follows_nginx(name: str, tmp_path: Path) -> None:
    """The check succeeds while nginx runs, whether or not anything is behind it, and not after."""
    with running(name, tmp_path, NOTHING_BEHIND) as role:
        done = slipway_nginx("health", {}, role.temporary)
        assert done.returncode == 0, done.stderr
    assert slipway_nginx("health", {}, tmp_path).returncode != 0


@pytest.mark.parametrize("name", ["proxy", "socket-proxy"])
def test_log_has_requests_and_not_the_health_check(name: str, tmp_path: Path) -> None:
    """Each request is a line on stdout; a probe every few seconds does not bury them."""
    with running(name, tmp_path, NOTHING_BEHIND) as role:
        assert slipway_nginx("health", {}, role.temporary).returncode == 0
        role.ask("/some/path", headers={"X-Request-ID": "abc-123"})
        log = log_with(role, "/some/path")
        assert len(log.splitlines()) == 1
        assert '"GET /some/path HTTP/1.1"' in log
        assert log.rstrip().endswith(" abc-123")


@pytest.mark.parametrize("name", ["proxy", "socket-proxy"])
def test_quit_ends_nginx_well(name: str, tmp_path: Path) -> None:
    """The signal of `docker stop` ends nginx itself, not a shell around it, with exit code 0."""
    with running(name, tmp_path, NOTHING_BEHIND) as role:
        role.process.send_signal(signal.SIGQUIT)
        assert role.process.wait(LIMIT) == 0


@pytest.mark.parametrize("name", ["proxy", "socket-proxy"])
def test_second_start_replaces_what_the_first_left(name: str, tmp_path: Path) -> None:
    """A container that was killed and is started again finds its own old files in the way."""
    with running(name, tmp_path, NOTHING_BEHIND) as role:
        kill(role.process)
    with running(name, tmp_path, NOTHING_BEHIND) as role:
        assert slipway_nginx("health", {}, role.temporary).returncode == 0
