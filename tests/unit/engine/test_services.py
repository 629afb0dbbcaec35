"""Tests of services: healthy before anybody sees them, one of each, and gone when stopped."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.engine import services as module
from pipeline.engine.core import container as c
from pipeline.engine.core.errors import BackendGone, EngineError, ExecFailed, NotServed
from pipeline.engine.core.service import ContainerService, Forward, HostService, Port, Tunnel

from .bench import run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream

    from .bench import Bench
    from .fake_backend import FakeHandle

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def accepting(port: int = 0) -> AsyncIterator[int]:
    """Listen on this host, which is where the runtime in memory has its containers."""

    async def greet(stream: SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(b"hello")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, greet)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tg.cancel_scope.cancel()


async def hear(port: int, host: str = "127.0.0.1") -> bytes:
    """Return what is said on a port."""
    async with await anyio.connect_tcp(host, port) as stream:
        return await stream.receive()


def service(bench: Bench, *ports: Port, args: tuple[str, ...] = ("serve",)) -> ContainerService:
    """Return a service that runs until it is stopped."""

    async def serve(handle: FakeHandle, _args: tuple[str, ...]) -> int:
        bench.handles.append(handle)
        handle.out += b"serving\n"
        await handle.stopped.wait()
        return 0

    bench.backend.programs.setdefault("serve", serve)
    container = bench.image()
    for port in ports:
        container = container.then(c.WithPort(port))
    return ContainerService(container, c.Start(args))


async def test_a_service_is_healthy_when_its_ports_accept(bench: Bench, free_port: int) -> None:
    """A client starts only then."""
    made = service(bench, Port(free_port))
    done = []

    async def client() -> None:
        await bench.services.start(made)
        done.append(True)

    async with anyio.create_task_group() as tg:
        tg.start_soon(client)
        await anyio.sleep(0.2)
        assert not done
        async with accepting(free_port):
            await until(lambda: done)


async def test_ports_that_need_no_check_are_not_waited_for(bench: Bench, free_port: int) -> None:
    """UDP, and those that say so."""
    made = service(bench, Port(free_port, "UDP"), Port(free_port, skip_healthcheck=True))
    with anyio.fail_after(5):
        await bench.services.start(made)


async def test_a_service_that_never_listens_is_an_error_with_its_output(
    bench: Bench, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port, the command and what it said are told, secrets masked, and nothing is left."""
    monkeypatch.setattr(module, "_HEALTH_LIMIT", 0.1)
    bench.vault.put("s", "serving")

    async def talk(handle: FakeHandle, _args: tuple[str, ...]) -> int:
        await handle.stopped.wait()
        return 0

    bench.backend.programs["talk"] = talk
    bench.backend.said["talk"] = b"serving, but where?"
    made = service(bench, Port(free_port), args=("talk",))
    with pytest.raises(EngineError, match=rf"port {free_port} did not accept(.|\n)*\*\*\*, but"):
        await bench.services.start(made)
    assert bench.backend.live["container"] == 0


async def test_a_service_that_ends_at_once_is_an_error_with_its_output(bench: Bench) -> None:
    """It is told before the limit."""
    bench.backend.programs["die"] = bench.backend.programs["print"]
    bench.backend.stillborn.add("die")
    bench.backend.said["die"] = b"no configuration"
    made = service(bench, Port(1), args=("die",))
    with pytest.raises(EngineError, match=r"ended before it was healthy\nno configuration"):
        await bench.services.start(made)


async def test_a_command_that_cannot_be_started_is_told_so(bench: Bench) -> None:
    """As for a command."""
    with pytest.raises(ExecFailed):
        await bench.services.start(service(bench, args=("nothing",)))
    assert bench.backend.live["container"] == 0


async def test_equal_services_are_one_also_when_started_at_once(bench: Bench) -> None:
    """However often it is bound, it runs once; a stopped one starts again."""
    async with anyio.create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(bench.services.start, service(bench))
    assert bench.backend.runs == [("serve",)]
    await bench.services.stop(service(bench))
    assert bench.backend.live["container"] == 0
    await bench.services.start(service(bench))
    assert bench.backend.runs == [("serve",)] * 2


async def test_stopping_what_does_not_run_is_no_error(bench: Bench) -> None:
    """It is stopped already."""
    await bench.services.stop(service(bench))


@pytest.mark.parametrize("kill", [True, False])
async def test_stop_kills_only_when_asked_to(bench: Bench, kill: bool) -> None:  # noqa: FBT001
    """A service may end as it wants, unless it must not."""
    made = service(bench)
    await bench.services.start(made)
    await anyio.sleep(0.01)
    await bench.services.stop(made, kill=kill)
    assert [handle.killed for handle in bench.handles] == [kill]


async def test_a_service_that_cannot_be_stopped_does_not_end_the_session(bench: Bench) -> None:
    """The next query is still answered."""
    made = service(bench)
    await bench.services.start(made)
    await anyio.sleep(0.01)

    async def refuse(*, kill: bool = False) -> None:  # noqa: ARG001 - as a handle's
        msg = "the Docker Engine does not answer"
        raise BackendGone(msg)

    bench.handles[0].stop = refuse  # type: ignore[method-assign]
    await bench.services.stop(made)
    assert (await bench.query("{version}"))["version"]


async def test_a_service_that_dies_is_started_again_by_who_needs_it_next(bench: Bench) -> None:
    """Nobody is bound to a dead one."""
    made = service(bench)
    await bench.services.start(made)
    await anyio.sleep(0.01)
    bench.handles[0].stopped.set()
    await until(lambda: not bench.backend.live["container"])
    await bench.services.start(made)
    assert bench.backend.runs == [("serve",)] * 2


async def test_a_client_finds_its_services_by_alias_and_host_name(bench: Bench) -> None:
    """Both resolve to where the service is, in a network of the session's own."""
    seen = []

    async def look(handle: FakeHandle, _args: tuple[str, ...]) -> int:
        seen.append((dict(handle.spec.hosts), handle.spec.network))
        return 0

    bench.backend.programs["look"] = look
    made = service(bench)
    await bench.solver.state(bench.image().then(c.WithBinding("web", made)).then(run("look")))
    assert seen == [({"web": "127.0.0.1", made.hostname: "127.0.0.1"}, "network")]


async def test_a_service_that_fails_fails_its_client_with_its_own_error(bench: Bench) -> None:
    """The client's command never runs."""
    broken = service(bench, args=("nothing",))
    made = bench.image().then(c.WithBinding("web", broken)).then(run("print", "x"))
    with pytest.raises(ExecFailed):
        await bench.solver.state(made)
    assert ("print", "x") not in bench.backend.runs


async def test_a_client_whose_service_changed_runs_again(bench: Bench) -> None:
    """What a service runs is part of what its client is; whether it runs is not."""
    for args in (("serve",), ("serve",), ("serve", "other")):
        bound = bench.image().then(c.WithBinding("web", service(bench, args=args)))
        await bench.solver.state(bound.then(run("print", "x")))
    assert bench.backend.runs.count(("print", "x")) == 2


async def test_a_service_may_need_another(bench: Bench) -> None:
    """It is started first, and what it runs is part of the identity."""
    behind = service(bench, args=("serve", "behind"))
    front = ContainerService(
        bench.image().then(c.WithBinding("behind", behind)), c.Start(("serve", "front"))
    )
    await bench.services.start(front)
    assert bench.backend.runs == [("serve", "behind"), ("serve", "front")]


async def test_a_tunnel_leads_to_a_service_until_it_is_stopped(bench: Bench) -> None:
    """On a port of this host that was free."""
    async with accepting() as port:
        tunnel = Tunnel(service(bench, Port(port)), (Forward(port, 0),))
        running = await bench.services.start(tunnel)
        front = running.ports[0].frontend
        assert front not in {0, None, port}
        assert await hear(front or 0) == b"hello"
        await bench.services.stop(tunnel)
        with pytest.raises(OSError, match="connect"):
            await hear(front or 0)


async def test_a_tunnel_without_ports_has_all_of_the_service(bench: Bench) -> None:
    """Each on a port of its own."""
    async with accepting() as one, accepting() as two:
        running = await bench.services.start(Tunnel(service(bench, Port(one), Port(two)), ()))
        assert [f.backend for f in running.ports] == [one, two]
        for forward in running.ports:
            assert await hear(forward.frontend or 0) == b"hello"


async def test_a_host_service_listens_for_the_sessions_containers(
    bench: Bench, free_port: int
) -> None:
    """On this host's address in the session's network, and nowhere else."""
    async with accepting() as port:
        made = HostService("localhost", (Forward(port, free_port),))
        running = await bench.services.start(made)
        assert running.address == "127.0.0.1"
        assert await hear(free_port) == b"hello"


async def test_udp_is_refused_by_name(bench: Bench) -> None:
    """Docker forwards it, the engine's relays do not."""
    made = HostService("localhost", (Forward(1, 2, "UDP"),))
    with pytest.raises(NotServed, match=r"PortForward\(protocol: UDP\)"):
        await bench.services.start(made)


async def test_a_registry_service_is_reached_through_this_hosts_loopback(bench: Bench) -> None:
    """Docker pushes without TLS to the loopback only."""
    made = HostService("localhost", (Forward(5000, 80),))
    async with bench.services.loopback(made, 80) as port:
        assert port == 5000
    with pytest.raises(EngineError, match="has no port 81"):
        async with bench.services.loopback(made, 81):
            pass
    async with accepting() as port:
        away = HostService("127.0.0.1", (Forward(port),))
        async with bench.services.loopback(away, port) as local:
            assert await hear(local) == b"hello"
        async with bench.services.loopback(service(bench, Port(port)), port) as local:
            assert await hear(local) == b"hello"
        elsewhere = HostService("127.0.0.2", (Forward(port),))
        async with bench.services.loopback(elsewhere, port) as local:
            assert local != port
