"""Secrets: a name that stands for a value that only the session knows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from . import identity

MASK = "***"


@dataclass(frozen=True)
class Secret:
    """A reference to a secret; the value is not part of it.

    Attributes:
        name: The name it was set under, or its URI.
        uri: Where the value comes from; empty when the client gave it.
        cache_key: What takes the place of the name in identities, when the client gave one.
    """

    name: str
    uri: str = ""
    cache_key: str = ""

    @cached_property
    def digest(self) -> str:
        """The identity, which never depends on the value."""
        return identity.digest("secret", self.cache_key or self.name)


def scrub(text: bytes, values: tuple[bytes, ...]) -> bytes:
    """Replace every secret value in output, the longest first."""
    for value in sorted(values, key=len, reverse=True):
        for form in {value, value.rstrip(b"\r\n")}:
            if form:
                text = text.replace(form, MASK.encode())
    return text
