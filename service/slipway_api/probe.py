"""``python3 -m slipway_api.probe``: exit 0 if the API in this container lives, or else 1."""

from __future__ import annotations

import http.client
import os
import sys

# Reads the one variable by itself: it runs every few seconds, and Settings costs more to import.
_BIND = "0.0.0.0:8000"


def lives(bind: str, timeout: float = 2.0) -> bool:
    """Tell whether ``/livez`` answers 200.

    Args:
        bind: ``HOST:PORT`` that the server listens on; a wildcard address is asked on loopback.
        timeout: Seconds to wait.
    """
    host, _, port = bind.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if lives(os.environ.get("SLIPWAY_BIND") or _BIND) else 1)
