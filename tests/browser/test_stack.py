"""The page as a person has it: through Nginx, from the real Docker behind its proxy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests import stack

from .conftest import Visitor
from .test_page import main_names, notice, until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker import DockerClient
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.docker]


def test_page_outlives_each_part(
    docker: DockerClient, images: Mapping[str, str], browser: Browser
) -> None:
    """It lists the system's own containers, and keeps them in view whichever part is stopped."""
    with stack.running(docker, images) as system, browser.new_context() as context:
        parts = [*system.apis, system.socket_proxy, system.nginx]
        own = (system.nginx.name or "").removesuffix("nginx")
        names = sorted(part.name or "" for part in parts)
        page = context.new_page()
        page.clock.install()
        visitor = Visitor(page, system.url)
        page.goto(f"{system.url}/?q={own}&state=running")
        expect(main_names(page)).to_have_text(names)
        expect(page.locator(".image").filter(has_text="slipway")).to_have_count(len(names))
        for part, reason in (
            (system.socket_proxy, "Docker cannot be reached."),
            (system.apis[0], "Slipway cannot be reached."),
            (system.nginx, "Slipway cannot be reached."),
        ):
            part.stop()
            until(page, notice(page), f"{reason} Below is the last list that came.")
            expect(main_names(page)).to_have_text(names)
            part.start()
            until(page, notice(page), re.compile(r"^3 of \d+ containers\.$"))
            expect(main_names(page)).to_have_text(names)
        assert (visitor.complaints, visitor.strangers) == ([], [])
