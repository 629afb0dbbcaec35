"""The fields of small values: ports, environment variables, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._engine import Engine, EnvVariable, Label, served

if TYPE_CHECKING:
    from pipeline.engine.core.service import Port


@served("EnvVariable", "name")
@served("Label", "name")
async def name(_engine: Engine, pair: EnvVariable | Label) -> str:
    """Return the name."""
    return pair.name


@served("EnvVariable", "value")
@served("Label", "value")
async def value(_engine: Engine, pair: EnvVariable | Label) -> str:
    """Return the value."""
    return pair.value


@served("Port", "port")
async def port(_engine: Engine, port: Port) -> int:
    """Return the number."""
    return port.port


@served("Port", "protocol")
async def protocol(_engine: Engine, port: Port) -> str:
    """Return TCP or UDP."""
    return port.protocol


@served("Port", "description")
async def description(_engine: Engine, port: Port) -> str | None:
    """Return what it is for."""
    return port.description


@served("Port", "experimentalSkipHealthcheck")
async def skip_healthcheck(_engine: Engine, port: Port) -> bool:
    """Tell whether the service counts as healthy before the port accepts."""
    return port.skip_healthcheck
