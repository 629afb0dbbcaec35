"""Settings are read from the environment, and a bad one is named."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
from slipway_api.config import Settings, SettingsError

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults() -> None:
    """With nothing set, the defaults hold; an empty variable counts as not set."""
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"DOCKER_HOST": " ", "SLIPWAY_THREADS": ""}) == Settings()


def test_every_setting_is_a_variable() -> None:
    """Each field is read from its variable."""
    settings = Settings.from_environment(
        {
            "SLIPWAY_SOURCE": "docker",
            "DOCKER_HOST": "tcp://docker-proxy:2375",
            "SLIPWAY_SERVICE_ACCOUNT": "/run/account",
            "SLIPWAY_SOURCE_TIMEOUT": "0.5",
            "SLIPWAY_BIND": "[::]:8001",
            "SLIPWAY_WORKERS": "3",
            "SLIPWAY_THREADS": "4",
            "SLIPWAY_DRAIN_DELAY": "0",
            "SLIPWAY_GRACEFUL_TIMEOUT": "5",
            "SLIPWAY_LABEL_PREFIXES": "a., b/",
            "SLIPWAY_LOG_LEVEL": "debug",
        }
    )
    assert settings == Settings(
        source="docker",
        docker_host="tcp://docker-proxy:2375",
        service_account="/run/account",
        source_timeout=0.5,
        bind="[::]:8001",
        workers=3,
        threads=4,
        drain_delay=0.0,
        graceful_timeout=5,
        label_prefixes=("a.", "b/"),
        log_level="debug",
    )
    assert set(Settings.VARIABLES) == {field.name for field in fields(Settings)}


def test_no_label_may_be_shown() -> None:
    """A word of its own says so, since an empty variable counts as not set."""
    assert Settings.from_environment({"SLIPWAY_LABEL_PREFIXES": "none"}).label_prefixes == ()


@pytest.mark.parametrize(
    "host",
    ["tcp://a", "tcp://a:1", "http://a:2375", "http://a:2375/", "unix:///var/run/docker.sock"],
)
def test_docker_host_forms(host: str) -> None:
    """Docker is asked over TCP or a Unix socket."""
    assert Settings(docker_host=host).docker_host == host


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "localhost:65535", "[::1]:8000"])
def test_bind_forms(bind: str) -> None:
    """It listens on an address; a name would be looked up when it is too late to say so."""
    assert Settings(bind=bind).bind == bind


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SLIPWAY_SOURCE", "podman"),
        ("SLIPWAY_SERVICE_ACCOUNT", "run/account"),
        ("DOCKER_HOST", "docker-proxy:2375"),
        ("DOCKER_HOST", "ssh://a"),
        ("DOCKER_HOST", "https://a:2376"),
        ("DOCKER_HOST", "tcp://"),
        ("DOCKER_HOST", "tcp://a:x"),
        ("DOCKER_HOST", "tcp://a:0"),
        ("DOCKER_HOST", "tcp://a:2375/x"),
        ("DOCKER_HOST", "tcp://a:2375?x=y"),
        ("DOCKER_HOST", "tcp://[::1"),
        ("DOCKER_HOST", "unix://var/run/docker.sock"),
        ("SLIPWAY_SOURCE_TIMEOUT", "x"),
        ("SLIPWAY_SOURCE_TIMEOUT", "nan"),
        ("SLIPWAY_SOURCE_TIMEOUT", "2"),
        ("SLIPWAY_SOURCE_TIMEOUT", "0"),
        ("SLIPWAY_BIND", "8000"),
        ("SLIPWAY_BIND", "127.0.0.1:0"),
        ("SLIPWAY_BIND", "127.0.0.1:65536"),
        ("SLIPWAY_BIND", "127.0.0.1:b"),
        ("SLIPWAY_BIND", "999.1.1.1:8000"),
        ("SLIPWAY_BIND", "::1:8000"),
        ("SLIPWAY_BIND", "[127.0.0.1]:8000"),
        ("SLIPWAY_BIND", "a:8000"),
        ("SLIPWAY_WORKERS", "0"),
        ("SLIPWAY_WORKERS", "1.5"),
        ("SLIPWAY_THREADS", "257"),
        ("SLIPWAY_GRACEFUL_TIMEOUT", "-1"),
        ("SLIPWAY_DRAIN_DELAY", "-1"),
        ("SLIPWAY_LABEL_PREFIXES", "a.,,b."),
        ("SLIPWAY_LABEL_PREFIXES", ","),
        ("SLIPWAY_LABEL_PREFIXES", "*"),
        ("SLIPWAY_LOG_LEVEL", "loud"),
    ],
)
def test_bad_setting_is_named(variable: str, value: str) -> None:
    """A value that cannot be used is refused in one line with its variable and itself."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable} must be ")
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize("host", ["ssh://root:s3cr3t@a", "tcp://x:s3c/r@3t@a:2375"])
def test_bad_setting_is_told_without_its_password(host: str) -> None:
    """What stands before the host may be a secret."""
    with pytest.raises(SettingsError, match=r"^DOCKER_HOST must be ") as caught:
        Settings.from_environment({"DOCKER_HOST": host})
    assert "s3c" not in str(caught.value)
    assert "3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "mounted", "chosen"),
    [
        ("auto", True, "kubernetes"),
        ("auto", False, "docker"),
        ("docker", True, "docker"),
        ("docker", False, "docker"),
        ("kubernetes", True, "kubernetes"),
    ],
)
def test_source_is_chosen(source: str, chosen: str, *, mounted: bool, tmp_path: Path) -> None:
    """A source that is ordered is taken; by itself it is Kubernetes where a token is mounted."""
    if mounted:
        (tmp_path / "token").write_text("t")
    assert Settings(source=source, service_account=str(tmp_path)).chosen_source() == chosen


def test_kubernetes_without_a_token_is_refused(tmp_path: Path) -> None:
    """Kubernetes cannot be ordered where it mounts no token; it says which folder was looked in."""
    settings = Settings(source="kubernetes", service_account=str(tmp_path))
    with pytest.raises(SettingsError, match=rf"^SLIPWAY_SOURCE must .* {tmp_path}, not") as caught:
        settings.chosen_source()
    assert "\n" not in str(caught.value)
