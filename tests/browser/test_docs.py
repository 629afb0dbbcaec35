"""The page that documents the API, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Visitor

pytestmark = pytest.mark.browser


def test_documentation_is_all_there(visit: Callable[..., Visitor]) -> None:
    """It lists the operations and tries them, asks nobody else, and keeps its own policy."""
    page = visit("/docs").page
    listing = page.locator(".opblock").filter(has_text=re.compile(r"/api/v1/containers(?!/)"))
    expect(listing.first).to_be_visible()
    listing.first.get_by_role("button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table").get_by_text('"worker"')).to_be_visible()
