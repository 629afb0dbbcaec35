"""gixy, which knows the mistakes that nginx accepts without a word, has nothing to say."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .role import Role


def findings(configuration: Path) -> str:
    """What gixy has to say of a configuration and of all that it includes; empty when nothing."""
    done = subprocess.run(
        ["gixy", "--format=text", str(configuration)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_proxy_has_no_findings(proxy: Role) -> None:
    """The configuration as nginx runs it."""
    assert not findings(proxy.prefix / "proxy.conf")


def test_socket_proxy_has_no_findings(socket_proxy: Role) -> None:
    """The configuration as nginx runs it."""
    assert not findings(socket_proxy.prefix / "socket-proxy.conf")


def test_mistake_is_found(tmp_path: Path) -> None:
    """It looks: a header that a client could add lines to is told."""
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        "events {}\nhttp { server { location ~ /(?<a>[^.]*) { add_header X $a; return 200; } } }\n",
        encoding="utf-8",
    )
    assert "http_splitting" in findings(configuration)
