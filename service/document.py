# ruff: noqa: INP001 - a script, of no package
"""Writes docs/api.md from openapi.json: ``python3 document.py``, in this folder, prints it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SOURCE = Path(__file__).parent / "openapi.json"


def markdown(document: dict[str, Any]) -> str:
    """Write an OpenAPI document, as this project makes them, for people to read."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield "# The API"
    yield ""
    yield "<!-- Made from service/openapi.json by service/document.py. -->"
    yield ""
    yield f"{info['summary']} {info['description']}"
    yield ""
    yield "The same as [OpenAPI](../service/openapi.json), which the running system serves at"
    yield "`/openapi.json`, with a page to try it out at `/docs`. What it does not describe:"
    yield "`GET /`, the page for people, and `GET /metrics`, which the proxy lets nobody see."
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield from _operation(method.upper(), path, operation)
    yield ""
    yield "## What is answered"
    for name, schema in document["components"]["schemas"].items():
        yield from _schema(name, schema)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"## {method} {path}"
    yield ""
    yield " ".join(filter(None, (operation["summary"], operation.get("description"))))
    parameters = operation.get("parameters", [])
    if parameters:
        yield ""
        yield from _table(
            ("parameter", "in", "type", "default", "meaning"),
            (
                (
                    f"`{each['name']}`",
                    each["in"],
                    _type(each["schema"]),
                    _default(each["schema"]),
                    each["description"],
                )
                for each in parameters
            ),
        )
    yield ""
    yield from _table(
        ("status", "body", "meaning"),
        (
            (status, ", ".join(map(_type, _bodies(answer))), answer["description"])
            for status, answer in operation["responses"].items()
        ),
    )


def _bodies(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (content["schema"] for content in answer["content"].values())


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"### {name}"
    yield ""
    yield schema["description"]
    yield ""
    if "properties" in schema:
        yield from _table(
            ("member", "type", "meaning"),
            (
                (f"`{key}`", _type(value), value.get("description", ""))
                for key, value in schema["properties"].items()
            ),
        )
    else:
        yield f"It is {_type(schema)}."


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return f"several: {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    limits = [
        f"{word} {schema[key]:g}"
        for key, word in (("minimum", "from"), ("maximum", "to"))
        if key in schema
    ]
    return " ".join([str(schema.get("format", schema["type"])), *limits])


def _default(schema: dict[str, Any]) -> str:
    values = schema.get("default") or []
    return ", ".join(f"`{value}`" for value in values)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    print(markdown(json.loads(SOURCE.read_text(encoding="utf-8"))), end="")  # noqa: T201 - it prints
