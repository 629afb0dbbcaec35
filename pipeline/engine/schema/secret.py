"""A secret's fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import to_thread

from ._engine import Engine, served

if TYPE_CHECKING:
    from pipeline.engine.core.secret import Secret


@served("Secret", "name")
async def name(_engine: Engine, secret: Secret) -> str:
    """Return the name; a secret that is looked up has none but its URI."""
    return secret.name


@served("Secret", "uri")
async def uri(_engine: Engine, secret: Secret) -> str:
    """Return where the value comes from; empty when the client gave it."""
    return secret.uri


@served("Secret", "plaintext")
async def plaintext(engine: Engine, secret: Secret) -> str:
    """Return the value, to the client that holds the session's token."""
    value = await to_thread.run_sync(engine.vault.plaintext, secret)
    return value.decode(errors="replace")
