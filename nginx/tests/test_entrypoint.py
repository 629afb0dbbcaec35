"""The program `slipway-nginx`: its commands, and what it makes of its settings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .role import LIMIT, kill, running
from .test_log import logged

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    done = slipway_nginx("check", {"API_UPSTREAM": "[:::::]:80"}, tmp_path)
    assert done.returncode == 1
    assert "/proxy.conf test failed" in done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"API_UPSTREAM": "a-b.c_d.test.:8000", "DOCKER_SOCKET": ""},
        {"API_UPSTREAM": "[::1]:8000"},
        {"API_UPSTREAM": "127.0.0.1:1,127.0.0.1:2,[::1]:3", "TRUSTED_PROXIES": ""},
        {"PORT": "1024"},
        {"PORT": "65535"},
        {"RATE_LIMIT": "1", "RATE_BURST": "1"},
        {"RATE_LIMIT": "999999", "RATE_BURST": "999999"},
        {"TRUSTED_PROXIES": "10.0.0.0/8"},
        {"TRUSTED_PROXIES": "192.168.0.1,172.16.0.0/12,::1,fd00::/8,::ffff:10.0.0.0/104"},
    ],
    ids=str,
)
def test_good_settings_are_accepted(settings: dict[str, str], tmp_path: Path) -> None:
    """What the README allows is a configuration that nginx accepts; empty is as not set."""
    done = slipway_nginx("check", settings, tmp_path)
    names = settings.get("API_UPSTREAM", "")
    assert done.returncode == (1 if "test" in names else 0), done.stderr
    assert "host not found in upstream" in done.stderr or "test" not in names
    assert "[warn]" not in done.stderr


@pytest.mark.parametrize("command", ["proxy", "socket-proxy", "check"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "80"),
        ("PORT", "1023"),
        ("PORT", "08080"),
        ("PORT", "65536"),
        ("PORT", "100000"),
        ("PORT", "-8080"),
        ("PORT", "http"),
        ("PORT", "8080 ssl"),
        ("PORT", "8080; }"),
        ("PORT", "8080\n80"),
        ("API_UPSTREAM", "api"),
        ("API_UPSTREAM", "api:"),
        ("API_UPSTREAM", ":8000"),
        ("API_UPSTREAM", "api:http"),
        ("API_UPSTREAM", "api:0"),
        ("API_UPSTREAM", "api:65536"),
        ("API_UPSTREAM", "api:080"),
        ("API_UPSTREAM", "api:8000; include /etc/passwd"),
        ("API_UPSTREAM", "api:80\n80"),
        ("API_UPSTREAM", "unix:/run/docker.sock"),
        ("API_UPSTREAM", "api:8000,"),
        ("API_UPSTREAM", "api:8000,,b:8000"),
        ("API_UPSTREAM", "api:8000 b:8000"),
        ("API_UPSTREAM", "-x:8000"),
        ("RATE_LIMIT", "0"),
        ("RATE_LIMIT", "-1"),
        ("RATE_LIMIT", "1.5"),
        ("RATE_LIMIT", "50r/s"),
        ("RATE_LIMIT", "1000000"),
        ("RATE_LIMIT", "1\n1"),
        ("RATE_BURST", "0"),
        ("RATE_BURST", "ten"),
        ("TRUSTED_PROXIES", "ingress"),
        ("TRUSTED_PROXIES", "10.0.0.256"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,"),
        ("TRUSTED_PROXIES", "10.0.0.0/8; }"),
        ("TRUSTED_PROXIES", "0.0.0.0/0"),
        ("TRUSTED_PROXIES", "::/0"),
        ("TRUSTED_PROXIES", "fd00::/129"),
        ("TRUSTED_PROXIES", "unix:"),
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


@pytest.mark.waits(1)
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


@pytest.mark.waits(1)
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
    assert done.returncode == 2
    assert "host not found in upstream" in done.stderr
    assert done.stderr.endswith("for the reason above\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [("API_UPSTREAM", "[:::::]:80"), ("TRUSTED_PROXIES", ":::::")],
)
def test_setting_that_only_nginx_knows_is_wrong(name: str, value: str, tmp_path: Path) -> None:
    """What looks right and is not ends the program at once too, with what nginx says of it."""
    done = slipway_nginx("proxy", NOTHING_BEHIND | {name: value}, tmp_path)
    assert done.returncode == 2
    assert value.strip("[]").removesuffix("]:80") in done.stderr
    assert done.stderr.endswith("for the reason above\n")


@pytest.mark.parametrize("name", ["proxy", "socket-proxy"])
def test_health_follows_nginx(name: str, tmp_path: Path) -> None:
    """The check succeeds while nginx runs, whether or not anything is behind it, and not after."""
    with running(name, tmp_path, NOTHING_BEHIND) as role:
        asked = {"PORT": str(role.port)}
        done = slipway_nginx("health", asked, role.temporary)
        assert done.returncode == 0, done.stderr
    assert slipway_nginx("health", asked, tmp_path).returncode != 0


@pytest.mark.parametrize(("name", "port"), [("proxy", 8080), ("socket-proxy", 2375)])
def test_port_is_that_of_the_role(name: str, port: int, tmp_path: Path) -> None:
    """Where none is set, it listens where everybody looks for it, the health check as well."""
    with running(name, tmp_path, NOTHING_BEHIND, default_port=port) as role:
        assert f"listen {port} " in (role.prefix / f"{name}.conf").read_text()
        done = slipway_nginx("health", {"PORT": ""}, role.temporary)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["proxy", "socket-proxy"])
def test_log_has_requests_and_not_the_health_check(name: str, tmp_path: Path) -> None:
    """Each request is a line on stdout; a probe every few seconds does not bury them."""
    with running(name, tmp_path, NOTHING_BEHIND) as role:
        asked = {"PORT": str(role.port)}
        assert slipway_nginx("health", asked, role.temporary).returncode == 0
        role.ask("/some/path", headers={"X-Request-ID": "abc-123"})
        assert logged(role, "abc-123")["url.path"] == "/some/path"
        assert len(role.output.read_text().splitlines()) == 1


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
        asked = {"PORT": str(role.port)}
        assert slipway_nginx("health", asked, role.temporary).returncode == 0
