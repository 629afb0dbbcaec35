"""Services that run: started when somebody needs them, healthy before anybody sees them.

Equal services are one service. It runs until it is stopped or the session ends; a client that
starts later finds it as it is.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio

from .core.errors import BackendError, EngineError, NotFound, NotServed
from .core.service import ContainerService, Forward, HostService, Port, Service, Tunnel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from .backend import Handle
    from .solver import Solver

logger = logging.getLogger(__name__)

# Seconds in which an exposed port must accept, as an image may have to be unpacked and a
# program to load: the contract's slowest starter takes 2 s.
_HEALTH_LIMIT = 60
_FIRST_POLL, _LAST_POLL = 0.01, 0.25
# Lines of output that are told of a service that ended.
_LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class Running:
    """A service that accepts connections.

    Attributes:
        address: Where, as seen from this host and, for a container, from others.
        ports: Where each of its ports is.
    """

    address: str
    ports: tuple[Forward, ...]


class _Slot:
    def __init__(self) -> None:
        self.stop = anyio.Event()
        self.handle: Handle | None = None
        self.stopped = anyio.Event()
        self.kill = False
        self.running: Running | None = None


class Services:
    """The session's services."""

    def __init__(self, solver: Solver, tasks: TaskGroup) -> None:
        self._solver = solver
        self._tasks = tasks
        self._slots: dict[str, _Slot] = {}
        self._locks: dict[str, anyio.Lock] = {}

    async def start(self, service: Service) -> Running:
        """Start a service unless it runs; return when its ports accept.

        Raises:
            EngineError: It ended, or did not become healthy in time; its output is in the text.
        """
        key = await self._key(service)
        async with self._locks.setdefault(key, anyio.Lock()):
            slot = self._slots.get(key)
            if slot is not None and slot.running is not None and not slot.stop.is_set():
                return slot.running
            if slot is not None:
                # It is ending, and its address will be somebody else's.
                await slot.stopped.wait()
            slot = _Slot()
            # The task is the session's, not that of the request which happened to be first.
            slot.running = await self._tasks.start(self._run, service, slot)
            self._slots[key] = slot
            return slot.running

    async def stop(self, service: Service, *, kill: bool = False) -> None:
        """Stop a service; one that does not run is stopped already."""
        slot = self._slots.pop(await self._key(service), None)
        if slot is not None:
            slot.kill = kill
            slot.stop.set()
            await slot.stopped.wait()

    async def _key(self, service: Service) -> str:
        if isinstance(service, Tunnel):
            return "tunnel" + service.digest
        return await self._solver.service_identity(service)

    async def _run(
        self, service: Service, slot: _Slot, *, task_status: TaskStatus[Running]
    ) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                match service:
                    case ContainerService():
                        running = await self._run_container(stack, service, slot)
                    case HostService():
                        running = await self._run_host(stack, service)
                    case Tunnel():
                        running = await self._run_tunnel(stack, service)
                task_status.started(running)
                async with anyio.create_task_group() as tg:
                    if slot.handle is not None:
                        tg.start_soon(self._watch, slot.handle, service, slot)
                    await slot.stop.wait()
                    tg.cancel_scope.cancel()
        finally:
            slot.stopped.set()

    async def _watch(self, handle: Handle, service: Service, slot: _Slot) -> None:
        """End a service whose container ends by itself: whoever needs it next starts it anew."""
        try:
            code = await handle.wait()
            raw = b"".join(await handle.logs())
        except (BackendError, NotFound) as e:
            logger.warning("service %s is no longer watched: %s", service.hostname, e)
            return
        if slot.stop.is_set():
            return
        output = self._solver.vault.scrub(raw).decode(errors="replace").strip()
        last = "\n".join(output.splitlines()[-_LAST_LINES:])
        logger.warning("service %s ended with exit code %d\n%s", service.hostname, code, last)
        slot.stop.set()

    async def _run_container(
        self, stack: contextlib.AsyncExitStack, service: ContainerService, slot: _Slot
    ) -> Running:
        solver = self._solver
        state = await solver.state(service.container)
        command = service.start.command(state.config)
        spec = await solver.prepared(stack, state, service.start, command)
        if not spec.network:
            network, _ = await solver.backend.network()
            spec = replace(spec, network=network)
        handle = await stack.enter_async_context(solver.backend.container(spec))
        await solver.fill(handle, state, spec)
        await handle.start()
        slot.handle = handle
        stack.push_async_callback(self._end, handle, slot)
        address = await self._healthy(handle, state.config.ports, command)
        ports = tuple(Forward(p.port, p.port, p.protocol) for p in state.config.ports)
        return Running(address, ports)

    async def _end(self, handle: Handle, slot: _Slot) -> None:
        with anyio.move_on_after(10, shield=True):
            if slot.stop.is_set():
                try:
                    await handle.stop(kill=slot.kill)
                except BackendError as e:
                    # It is removed next, which says so again when that fails as well.
                    logger.warning("a service did not stop: %s", e)
        # Otherwise the session ends: removing the container kills it at once.

    async def _healthy(
        self, handle: Handle, ports: Sequence[Port], command: tuple[str, ...]
    ) -> str:
        address = await handle.address()
        waiting = [p.port for p in ports if p.protocol == "TCP" and not p.skip_healthcheck]
        pause = _FIRST_POLL
        with anyio.move_on_after(_HEALTH_LIMIT):
            while address and waiting:
                if await _accepts(address, waiting[0]):
                    waiting.pop(0)
                    continue
                await anyio.sleep(pause)
                pause = min(2 * pause, _LAST_POLL)
                address = await handle.address()
        if address and not waiting:
            return address
        raw = b"".join(await handle.logs())
        output = self._solver.vault.scrub(raw).decode(errors="replace").strip()
        what = f"service {' '.join(command)}"
        if not address:
            msg = f"{what} ended before it was healthy\n{output}"
        else:
            msg = f"{what}: port {waiting[0]} did not accept within {_HEALTH_LIMIT} s\n{output}"
        raise EngineError(msg)

    async def _run_host(self, stack: contextlib.AsyncExitStack, service: HostService) -> Running:
        """Listen on this host's address in the session's network, for its containers only."""
        _, gateway = await self._solver.backend.network()
        ports = []
        for forward in service.ports:
            _tcp_only(forward)
            frontend = forward.frontend or forward.backend
            await stack.enter_async_context(
                self._solver.relays.tcp((gateway, frontend), (service.host, forward.backend))
            )
            ports.append(Forward(forward.backend, frontend))
        return Running(gateway, tuple(ports))

    async def _run_tunnel(self, stack: contextlib.AsyncExitStack, tunnel: Tunnel) -> Running:
        target = await self.start(tunnel.service)
        wanted = tunnel.ports
        if tunnel.native or not wanted:
            own = (p.frontend or p.backend for p in target.ports)
            wanted += tuple(Forward(port, port if tunnel.native else 0) for port in own)
        ports = []
        for forward in wanted:
            _tcp_only(forward)
            _, port = await stack.enter_async_context(
                self._solver.relays.tcp(
                    ("127.0.0.1", forward.frontend or 0), (target.address, forward.backend)
                )
            )
            ports.append(Forward(forward.backend, port))
        return Running("127.0.0.1", tuple(ports))

    # --- for clients ----------------------------------------------------------------------------

    async def bind(
        self, bindings: Sequence[tuple[str, Service]]
    ) -> tuple[tuple[tuple[str, str], ...], str]:
        """Start what a container is bound to; it outlives the container.

        Returns:
            Names with addresses, and the network in which they are reached; none for no binding.
        """
        if not bindings:
            return (), ""
        network, _gateway = await self._solver.backend.network()
        found: dict[int, Running] = {}

        async def start(number: int, service: Service) -> None:
            found[number] = await self.start(service)

        try:
            async with anyio.create_task_group() as tg:
                for number, (_alias, service) in enumerate(bindings):
                    tg.start_soon(start, number, service)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        hosts = []
        for number, (alias, service) in enumerate(bindings):
            address = found[number].address
            hosts += [(alias, address), (service.hostname, address)]
        return tuple(hosts), network

    @contextlib.asynccontextmanager
    async def loopback(self, service: Service, port: int) -> AsyncIterator[int]:
        """Yield the port on this host's loopback that leads to a service's port."""
        if isinstance(service, HostService):
            forward = next((f for f in service.ports if (f.frontend or f.backend) == port), None)
            if forward is None:
                msg = f"the registry service has no port {port}"
                raise EngineError(msg)
            if service.host in {"localhost", "127.0.0.1"}:
                yield forward.backend
                return
            target = (service.host, forward.backend)
        else:
            running = await self.start(service)
            target = (running.address, port)
        async with self._solver.relays.tcp(("127.0.0.1", 0), target) as (_, local):
            yield local


def _tcp_only(forward: Forward) -> None:
    if forward.protocol != "TCP":
        what = f"PortForward(protocol: {forward.protocol})"
        raise NotServed(what, "only TCP is forwarded")


async def _accepts(address: str, port: int) -> bool:
    try:
        with anyio.fail_after(1):
            stream = await anyio.connect_tcp(address, port)
            await stream.aclose()
    except (OSError, TimeoutError):
        return False
    return True
