"""An index template of Elasticsearch, and whether a line of a log fits it.

Pure. What a value has to be for a type is in
https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/field-data-types.
"""

from __future__ import annotations

import ipaddress
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .files import LOGGING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LONGEST_KEYWORD = 32766
"""Bytes of a term in Lucene; a longer one makes Elasticsearch refuse the whole line."""


def template() -> dict[str, Any]:
    """Return the index template."""
    found: dict[str, Any] = json.loads((LOGGING / "index-template.json").read_text())
    return found


def fields() -> dict[str, dict[str, Any]]:
    """Return the mapping of each field, by its whole name with dots."""
    return dict(_flat("", template()["template"]["mappings"]["properties"]))


def _flat(before: str, properties: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, mapping in properties.items():
        if "properties" in mapping:
            yield from _flat(f"{before}{name}.", mapping["properties"])
        else:
            yield f"{before}{name}", mapping


def complaints(line: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a line whose names have dots: an unknown field, another type."""
    known = fields()
    found = []
    for name, value in line.items():
        if name not in known:
            found.append(f"{name} is not in the template")
        elif not _fits(known[name], value):
            found.append(f"{name} is no {known[name]['type']}: {value!r}")
    return found


def _fits(mapping: Mapping[str, Any], value: object) -> bool:
    match mapping["type"]:
        case "long":
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        case "date":
            return isinstance(value, str) and _is_time(value)
        case "ip":
            return isinstance(value, str) and _is_address(value)
        case "keyword":
            # What is longer than ignore_above is kept and not searched.
            bounded = mapping.get("ignore_above", _LONGEST_KEYWORD) * 4 <= _LONGEST_KEYWORD
            return isinstance(value, str) and bounded
        case "match_only_text" | "wildcard":
            return isinstance(value, str)
        case "constant_keyword":
            return isinstance(value, str) and value == mapping.get("value", value)
    raise ValueError(f"{mapping['type']!r} is no type that is known here")


def _is_time(text: str) -> bool:
    try:
        # strict_date_optional_time: which moment it was must not depend on who reads it.
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
