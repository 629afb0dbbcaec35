"""``python -m tests.browser``: take the pictures of the page that are in docs/, in both themes."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from playwright.sync_api import sync_playwright

from . import programs
from .api import ROOT, Api, environment
from .docker import FakeDocker, container

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Browser

THEMES: Sequence[Literal["light", "dark"]] = ("light", "dark")
SIZE = {"width": 1120, "height": 810}


def published(public: int, private: int, ip: str = "0.0.0.0") -> dict[str, object]:  # noqa: S104 - as Docker says it
    """Make a port."""
    return {"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": "tcp"}


def containers() -> list[dict[str, object]]:
    """Return a small system with one thing that somebody should look after."""
    now = int(time.time())
    return [
        container(
            0x4F, "slipway-nginx", "registry.example/slipway-nginx:1.4.0", Created=now - 7_300
        )
        | {"Status": "Up 2 hours (healthy)", "Ports": [published(8080, 8080)]},
        container(0xA1, "slipway-api", "registry.example/slipway-api:1.4.0", Created=now - 7_320)
        | {"Status": "Up 2 hours (healthy)", "Ports": [{"PrivatePort": 8000, "Type": "tcp"}]},
        container(0x3C, "orders", "registry.example/orders:2.11", Created=now - 95)
        | {"Status": "Up About a minute (health: starting)", "Ports": [published(8081, 8080)]},
        container(0xD7, "payments", "registry.example/payments:0.9.2", Created=now - 190_000)
        | {"Status": "Up 2 days (unhealthy)", "Ports": [published(9000, 9000, "127.0.0.1")]},
        container(0x92, "database", "postgres:18@sha256:" + "8c" * 32, Created=now - 2_700_000)
        | {"Status": "Up 4 weeks", "Ports": [{"PrivatePort": 5432, "Type": "tcp"}]},
        container(0xE0, "mailer", "registry.example/mailer:1.0", "restarting", Created=now - 400)
        | {"Status": "Restarting (1) 12 seconds ago"},
        container(
            0x15, "nightly-backup", "registry.example/backup:3", "exited", Created=now - 50_000
        )
        | {"Status": "Exited (0) 13 hours ago"},
    ]


def take(browser: Browser, url: str) -> None:
    """Take a picture for each theme."""
    for theme in THEMES:
        page = browser.new_page(color_scheme=theme, viewport=SIZE)  # type: ignore[arg-type]
        page.goto(f"{url}/?q=")
        page.locator("tbody tr").first.wait_for()
        page.screenshot(path=ROOT / f"docs/page-{theme}.png")
        page.close()


def main() -> None:
    """Start a browser, the API and a Docker for it, and take the pictures."""
    path = programs.chromium()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        gunicorn = environment(programs.uv(), Path(folder))
        with FakeDocker() as docker, Api(gunicorn, port, docker.address) as api:
            docker.items = containers()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=path)
                take(browser, api.url)
                browser.close()


if __name__ == "__main__":
    main()
