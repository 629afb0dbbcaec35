"""The id of a request, from the proxy through the answer to the line of the log."""

from __future__ import annotations

import re
from uuid import uuid4

HEADER = "X-Request-ID"
ENVIRON = "slipway.request_id"
"""Where it is in the WSGI environment."""

# The proxy's own rule, for whoever asks the API directly: what it lets through may be logged.
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def chosen(given: str | None) -> str:
    """Return the id that a client gave, or a new one when there is none that is safe."""
    return given if given and _SAFE.fullmatch(given) else uuid4().hex
