"""What the system says about itself, asked through Nginx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = pytest.mark.serving


def test_document_describes_what_is_served(nginx: Endpoint) -> None:
    """It is OpenAPI 3.1, and every path in it that takes no parameter answers."""
    document = nginx.ask("/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    assert "/api/v1/containers" in document["paths"]
    for path in document["paths"]:
        if "{" not in path:
            assert nginx.ask(path).status in {200, 503}


@pytest.mark.parametrize("path", ["/docs", pytest.param("/", marks=pytest.mark.source)])
def test_page_is_there(path: str, nginx: Endpoint) -> None:
    """The page of the document and that of the list are HTML that runs nothing of anybody else."""
    answer = nginx.ask(path)
    assert answer.status == 200
    assert answer.headers.get_content_type() == "text/html"
    (policy,) = answer.headers.get_all("Content-Security-Policy") or [""]
    assert "unsafe" not in policy
    assert "https:" not in policy
