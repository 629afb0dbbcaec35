"""docs/api.md is what the OpenAPI document says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = json.loads((ROOT / "service/openapi.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")


def test_page_is_made_from_the_document() -> None:
    """It is made anew by `python3 service/document.py > docs/api.md`."""
    markdown = runpy.run_path(str(ROOT / "service/document.py"))["markdown"]
    assert markdown(DOCUMENT) == PAGE


def test_page_says_everything() -> None:
    """Each route with each of its parameters and answers is in it, and each value of the JSON."""
    for path, item in DOCUMENT["paths"].items():
        part = PAGE.partition(f"\n## GET {path}\n")[2].partition("\n## ")[0]
        for parameter in item["get"].get("parameters", []):
            assert f"| `{parameter['name']}` | {parameter['in']} |" in part
        for status in item["get"]["responses"]:
            assert f"| {status} |" in part
    for name, schema in DOCUMENT["components"]["schemas"].items():
        part = PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        for member in schema.get("properties", ()):
            assert f"| `{member}` |" in part
    assert "integer from 1 to 500" in PAGE
