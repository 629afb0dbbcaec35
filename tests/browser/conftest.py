"""What the tests of the page share: a browser, the API, and the Docker that it asks.

While Playwright is there an event loop runs in this thread, which no other test could bear: so the
browser lives for the tests of this package and not for the session.
"""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

from pipeline.errors import PrerequisiteError

from . import programs
from .api import Api, environment
from .docker import FakeDocker, container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Page,
        Playwright,
        Request,
    )

WAIT = 10_000
"""Milliseconds that anything on the page may take to come."""

PORTS = [
    {"IP": "0.0.0.0", "PrivatePort": 8080, "PublicPort": 80, "Type": "tcp"},  # noqa: S104
    {"IP": "::", "PrivatePort": 8080, "PublicPort": 80, "Type": "tcp"},
    {"PrivatePort": 443, "Type": "tcp"},
]
WEB = container(1, "web", "nginx:1.29", Status="Up 3 hours (healthy)", Ports=PORTS)
WORKER = container(2, "worker", "app:2", Status="Up 5 minutes (unhealthy)")
JOB = container(3, "job", "busybox", "exited")


@dataclass
class Visitor:
    """Somebody who looks at the page, and what the browser had to say about it.

    Attributes:
        page: The browser's page.
        url: Where the page is.
        lists: How often the page was asked for.
        losses: How often nobody answered.
        complaints: What a developer would find in the console.
        strangers: Requests that went to somebody else.
    """

    page: Page
    url: str
    lists: int = 0
    losses: int = 0
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._requested)
        self.page.on("requestfailed", self._lost)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def names(self) -> list[str]:
        """Return the names in the list, in order."""
        return self.page.locator("tbody .main").all_inner_texts()

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.strangers.append(request.url)
        path = request.url.removeprefix(self.url)
        self.lists += path == "/" or path.startswith("/?")

    def _lost(self, _: Request) -> None:
        self.losses += 1

    def _said(self, message: ConsoleMessage) -> None:
        # Chromium tells of every answer that is an error, which an outage consists of.
        lost = message.text.startswith("Failed to load resource")
        if message.type in {"error", "warning"} and not lost:
            self.complaints.append(message.text)


@pytest.fixture(scope="package")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the text of axe-core."""
    with needed():
        return programs.axe(tmp_path_factory.mktemp("axe"))


@pytest.fixture(scope="package")
def chromium() -> Path:
    """Return where Debian's Chromium is."""
    with needed():
        return programs.chromium()


@pytest.fixture(scope="package")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the programs of the API's environment."""
    with needed():
        return environment(programs.uv(), tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="package")
def playwright(axe: str, chromium: Path, gunicorn: Path) -> Iterator[Playwright]:  # noqa: ARG001
    """Start Playwright, once nothing has to be installed any more."""
    with sync_playwright() as started:
        expect.set_options(timeout=WAIT)
        yield started


@pytest.fixture(scope="package")
def debugging_port() -> int:
    """Return a port of the loopback interface for whoever else wants to drive the browser."""
    return unused_port()


@pytest.fixture(scope="package")
def browser(chromium: Path, playwright: Playwright, debugging_port: int) -> Iterator[Browser]:
    """Start Debian's Chromium."""
    port = f"--remote-debugging-port={debugging_port}"
    running = playwright.chromium.launch(executable_path=chromium, args=[port])
    yield running
    running.close()


@pytest.fixture
def window(
    browser: Browser,  # noqa: ARG001 - it has to run
    playwright: Playwright,
    debugging_port: int,
) -> Iterator[BrowserContext]:
    """Return a window of tabs, of which one hides the others.

    In Playwright's own contexts each page believes that it is seen, whatever lies over it.
    """
    address = f"http://127.0.0.1:{debugging_port}"
    other = playwright.chromium.connect_over_cdp(address, no_defaults=True)
    yield other.contexts[0]
    other.close()


def lists(api: Api) -> list[str] | None:
    """Return the names that the API lists, which for a second may be those of before; None if none.

    What a test has put into the Docker is to be what its visitor finds.
    """
    status, body = api.ask("/api/v1/containers?state=all")
    if status != HTTPStatus.OK:
        return None
    return sorted(each["name"] for each in json.loads(body)["containers"])


def unused_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def needed() -> Iterator[None]:
    """Skip the test when the machine lacks something that cannot be installed."""
    try:
        yield
    except PrerequisiteError as error:
        pytest.skip(f"{error} {error.evidence}".rstrip())


@pytest.fixture(scope="package")
def fake_docker() -> Iterator[FakeDocker]:
    """Start a Docker that lists what a test says."""
    with FakeDocker() as fake:
        yield fake


@pytest.fixture
def fake(fake_docker: FakeDocker) -> FakeDocker:
    """Return the Docker, which lists one that is well, one that is not, and one that has ended."""
    fake_docker.items = [WEB, WORKER, JOB]
    fake_docker.gone = False
    return fake_docker


@pytest.fixture(scope="package")
def running_api(gunicorn: Path, fake_docker: FakeDocker) -> Iterator[Api]:
    """Start the API."""
    with Api(gunicorn, unused_port(), fake_docker.address) as started:
        yield started


@pytest.fixture
def api(running_api: Api, fake: FakeDocker) -> Iterator[Api]:  # noqa: ARG001
    """Return the API, which the next test finds running, whatever this one did."""
    yield running_api
    if not running_api.running:
        running_api.start()


@pytest.fixture
def visit(browser: Browser, api: Api, fake: FakeDocker) -> Iterator[Callable[..., Visitor]]:
    """Return what opens the page for somebody, in a window or by ``Browser.new_context``'s options.

    Whatever a test is about, the page asks nobody else, breaks no rule of its policy, and has no
    error in its script.
    """
    visitors: list[Visitor] = []

    def open_page(
        path: str = "/",
        *,
        window: BrowserContext | None = None,
        **options: Any,  # noqa: ANN401 - as Playwright has them
    ) -> Visitor:
        context = window or browser.new_context(**options)
        page = context.new_page()
        opened.callback((page if window else context).close)
        page.set_default_timeout(WAIT)
        page.clock.install()
        visitor = Visitor(page, api.url)
        visitors.append(visitor)
        api.wait(lambda: lists(api) == fake.names)
        page.goto(f"{api.url}{path}")
        return visitor

    with ExitStack() as opened:
        yield open_page
    assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]
    assert [visitor.strangers for visitor in visitors] == [[] for _ in visitors]
