"""The values of secrets, for as long as a session lasts; they are never written down here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .core.errors import EngineError, NotFound, NotServed
from .core.secret import Secret, scrub

# Seconds that a command which prints a secret may take; it may ask a person for a password.
_COMMAND_LIMIT = 60


class Vault:
    """Names and values of secrets."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], bytes] = {}
        # A name may be set again while a command still has the value from before.
        self._known: set[bytes] = set()

    def put(self, name: str, plaintext: str) -> Secret:
        """Set a secret; a name that is set again has the new value from then on."""
        self._keep((name, ""), plaintext.encode())
        return Secret(name)

    def _keep(self, key: tuple[str, str], value: bytes) -> bytes:
        self._values[key] = value
        self._known.add(value)
        return value

    def plaintext(self, secret: Secret) -> bytes:
        """Return the value of a secret; one with a URI is looked up once. Blocks.

        Raises:
            EngineError: There is no such secret, or its source does not give it.
        """
        key = (secret.name, secret.uri)
        if key in self._values:
            return self._values[key]
        if not secret.uri:
            msg = f"secret {secret.name} is not set in this session"
            raise NotFound(msg)
        return self._keep(key, _look_up(secret.uri))

    def scrub(self, output: bytes) -> bytes:
        """Replace every value that is known by now."""
        return scrub(output, tuple(self._known))


def _look_up(uri: str) -> bytes:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        msg = f"{uri} is no secret URI; write env://NAME, file://PATH or cmd://COMMAND"
        raise EngineError(msg)
    if scheme == "env":
        if rest not in os.environ:
            msg = f"secret {uri}: the environment variable is not set"
            raise NotFound(msg)
        return os.environb[rest.encode()]
    if scheme == "file":
        try:
            return Path(rest).expanduser().read_bytes()
        except OSError as e:
            msg = f"secret {uri}: {e.strerror}"
            raise NotFound(msg) from e
    if scheme == "cmd":
        try:
            done = subprocess.run(  # noqa: S602 - the scheme is defined as a shell command
                rest, shell=True, check=True, capture_output=True, timeout=_COMMAND_LIMIT
            )
        except (subprocess.SubprocessError, OSError) as e:
            msg = f"secret {uri.partition(' ')[0]}…: the command failed"
            raise EngineError(msg) from e
        return done.stdout
    what = f"secret(uri: {scheme}://…)"
    raise NotServed(what, "it has env, file and cmd")
