"""Identities: equal definitions have equal digests.

A digest covers the class and every field of a frozen dataclass, in order, and of the values
within it. A value that has a ``digest`` of its own is covered by that, so that a chain of a
thousand changes costs one step each. Secrets take part by name only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from enum import Enum

# Bump when the meaning of a digest or the form of a stored result changes: old results are
# then never found again, and prune removes them.
FORMAT = "1"


def _plain(value: object) -> object:
    """Reduce a value to what JSON can write, without losing a distinction."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Enum):
        return {"enum": [type(value).__name__, value.name]}
    own = getattr(value, "digest", None)
    if isinstance(own, str):
        return {"digest": own}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {"map": [[key, _plain(value[key])] for key in sorted(value)]}
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, *(_plain(getattr(value, f.name)) for f in fields(value))]
    msg = f"no identity for {type(value).__name__}"
    raise TypeError(msg)


def digest(*parts: object) -> str:
    """Return the identity of the parts as 64 hexadecimal digits (SHA-256)."""
    text = json.dumps([FORMAT, *(_plain(part) for part in parts)], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
