"""A service's fields."""

from __future__ import annotations

from pipeline.engine.core.errors import EngineError
from pipeline.engine.core.service import ContainerService, HostService, Port, Service, Tunnel

from ._engine import Engine, served


@served("Service", "start")
@served("Service", "sync")
async def start(engine: Engine, service: Service) -> str:
    """Start it, and return when it is healthy."""
    await engine.services.start(service)
    return engine.id(service)


@served("Service", "stop")
async def stop(engine: Engine, service: Service, kill: bool = False) -> str:
    """Stop it."""
    await engine.services.stop(service, kill=kill)
    return engine.id(service)


@served("Service", "hostname")
async def hostname(_engine: Engine, service: Service) -> str:
    """Return the name by which bound containers reach it."""
    return service.hostname


@served("Service", "withHostname")
async def with_hostname(_engine: Engine, service: Service, hostname: str) -> Service:
    """Give it a name of one's own."""
    if not isinstance(service, ContainerService):
        msg = "only a container's service can be given a host name"
        raise EngineError(msg)
    return ContainerService(service.container, service.start, hostname)


@served("Service", "ports")
async def ports(engine: Engine, service: Service) -> list[Port]:
    """Return the ports that clients connect to; a tunnel's are known once it is started."""
    match service:
        case ContainerService():
            return list((await engine.solver.state(service.container)).config.ports)
        case HostService():
            return [Port(f.frontend or f.backend, f.protocol) for f in service.ports]
        case Tunnel():
            running = await engine.services.start(service)
            return [Port(f.frontend or 0, f.protocol) for f in running.ports]


@served("Service", "endpoint")
async def endpoint(
    engine: Engine, service: Service, port: int | None = None, scheme: str = ""
) -> str:
    """Return ``host:port`` of one port, by default the first, as a URL when given a scheme."""
    known = [p.port for p in await ports(engine, service)]
    if port is None:
        if not known:
            msg = "the service exposes no port, so it has no endpoint"
            raise EngineError(msg)
        port = known[0]
    elif port not in known:
        msg = f"the service has no port {port}; it has {', '.join(map(str, known)) or 'none'}"
        raise EngineError(msg)
    host = "127.0.0.1" if isinstance(service, Tunnel) else service.hostname
    return f"{scheme}://{host}:{port}" if scheme else f"{host}:{port}"
