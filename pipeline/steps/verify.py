"""Pull what was pushed, by digest; look into it; run it; and ask it over HTTP.

The system is Docker socket proxy → API → Nginx, each an image as it was pushed. The socket that
the proxy gets is a relay of ours, so that Docker can go away and come back for this system alone.
The suite of tests/verify runs in a client container, one phase after the other: ``serving``, with
the relay closed ``outage``, with the relay open again ``recovery``. The nonce that keeps an engine
from repeating an earlier outcome is on these executions alone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

from pipeline import images
from pipeline.context import IMAGES, VERIFY
from pipeline.errors import StepError
from pipeline.relay import relay
from pipeline.steps._inspect import inspect, write
from pipeline.steps._recorded import Ran, recorded
from pipeline.steps._suite import Suite, collect, names
from pipeline.task import Key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import dagger

    from pipeline.context import Context
    from pipeline.images import Reference
    from pipeline.relay import Relay
    from pipeline.steps._inspect import Check
    from pipeline.task import Outcome

PROXY_PORT, API_PORT, NGINX_PORT = 2375, 8000, 8080
RUNTIME_USER = "10001:10001"
_SOCKET = "/var/run/docker.sock"
_SUITE = "/verify"
_STOP_LIMIT = 10.0
"""Seconds that stopping the system may take; it ends with the session in any case."""


async def verify(ctx: Context) -> Outcome:
    """Examine the images, and the system that they make.

    Raises:
        StepError: A rule does not hold; which, and how, is the evidence.
    """
    found = {name: _digest(ctx, name) for name in IMAGES}
    files = (*ctx.source.select(VERIFY), *ctx.source.select(IMAGES["api"]))
    return await recorded(
        ctx,
        Key("verify"),
        {
            **{name: str(reference) for name, reference in found.items()},
            **{f"base {name}": base for name, base in ctx.bases.references.items()},
            # What was skipped for want of Docker has not passed where there is one.
            "docker": "yes" if ctx.socket.path else "no",
        },
        lambda: _verify(ctx, found),
        files=files,
    )


def _digest(ctx: Context, name: str) -> Reference:
    pushed = ctx.pushed.get(name)
    if pushed is not None:
        return images.parse(pushed.reference)
    return ctx.reference(name, ctx.tag).with_digest(ctx.others[name])


async def _verify(ctx: Context, found: dict[str, Reference]) -> Ran:
    client = await ctx.client()
    pulled = {name: ctx.pull(client, reference) for name, reference in found.items()}
    checks: dict[str, list[Check]] = {}
    phases: dict[str, Suite] = {}

    async def look(name: str) -> None:
        checks[name] = await inspect(ctx, name, pulled[name], found[name])

    async def ask() -> None:
        phases.update(await _ask(ctx, client, pulled))

    async with anyio.create_task_group() as tasks:
        for name in pulled:
            tasks.start_soon(look, name)
        tasks.start_soon(ask)
    return _judge(ctx, checks, phases)


def _judge(ctx: Context, checks: dict[str, list[Check]], phases: dict[str, Suite]) -> Ran:
    skipped = {} if ctx.socket.path else dict.fromkeys(("outage", "recovery"), ctx.socket.why)
    report = write(ctx.settings.report_dir, "verify/junit-images.xml", checks, skipped)
    files = (report, *(file for suite in phases.values() for file in suite.files))
    wrong = [check for name in sorted(checks) for check in checks[name] if check.problem]
    failed = tuple(f"{phase} {entry}" for phase, s in phases.items() for entry in s.failed)
    dead = [p for p, s in phases.items() if not s.failed and (s.exit_code or not s.tests)]
    if wrong or failed or dead:
        parts = []
        if wrong:
            parts.append("; ".join(f"{check.name}: {check.problem}" for check in wrong))
        if failed:
            total = sum(suite.tests for suite in phases.values())
            parts.append(f"{len(failed)} of {total} tests failed: {names(failed)}")
        parts += [f"the phase {phase} ended with {phases[phase].exit_code}" for phase in dead]
        output = [f"== {p}\n{s.output}" for p, s in phases.items() if s.failed or p in dead]
        details = [f"== {check.name}\n{check.evidence}" for check in wrong if check.evidence]
        raise StepError(
            f"The system does not do what it should: {'; '.join(parts)}",
            evidence="\n".join(failed) + "\n\n" * bool(failed) + "\n\n".join([*details, *output]),
            suites=tuple(ctx.settings.report_dir / file for file in files),
        )
    cause = ""
    if not ctx.socket.path:
        cause = f"what needs Docker behind the socket proxy was skipped: {ctx.socket.why}"
    unknown = [c for name in sorted(checks) for c in checks[name] if c.skipped]
    cause = "; ".join(
        filter(None, (cause, *(f"{check.name} was skipped: {check.skipped}" for check in unknown)))
    )
    return Ran(files=files, cause=cause)


async def _ask(
    ctx: Context, client: dagger.Client, pulled: dict[str, dagger.Container]
) -> dict[str, Suite]:
    """Run the system and the phases of the suite; return how each ended."""
    async with contextlib.AsyncExitStack() as stack:
        switch: Relay | None = None
        if ctx.socket.path is not None:
            switch = await stack.enter_async_context(relay(ctx.socket.path))
        proxy, nginx = _system(client, pulled, switch)
        asking = (
            ctx.build(client, "api", "test")
            .with_mounted_directory(
                _SUITE, ctx.directory(client, ctx.source.select(VERIFY), VERIFY)
            )
            .with_env_variable("SLIPWAY_URL", f"http://nginx:{NGINX_PORT}")
            .with_env_variable("SLIPWAY_SOCKET_PROXY", f"http://docker-proxy:{PROXY_PORT}")
            .with_service_binding("docker-proxy", proxy)
            .with_service_binding("nginx", nginx)
            .with_env_variable("SLIPWAY_RUN", ctx.nonce)
        )
        await stack.enter_async_context(_running(client, nginx))
        if switch is None:
            return {"serving": await _phase(ctx, asking, "serving", "serving and not source")}
        ended = {"serving": await _phase(ctx, asking, "serving", "serving")}
        await switch.close()
        ended["outage"] = await _phase(ctx, asking, "outage", "outage")
        await switch.open()
        ended["recovery"] = await _phase(ctx, asking, "recovery", "recovery")
        return ended


def _system(
    client: dagger.Client, pulled: dict[str, dagger.Container], switch: Relay | None
) -> tuple[dagger.Service, dagger.Service]:
    """Return the Docker socket proxy and Nginx, with the API between them."""
    socket_proxy = pulled["nginx"]
    if switch is not None:
        socket_proxy = socket_proxy.with_unix_socket(
            _SOCKET, client.host().unix_socket(str(switch.path)), owner=RUNTIME_USER
        )
    proxy = (
        # The image says that it listens on 8080, which it does not in this role.
        socket_proxy.with_exposed_port(NGINX_PORT, experimental_skip_healthcheck=True)
        .with_exposed_port(PROXY_PORT)
        .as_service(args=["socket-proxy"], use_entrypoint=True)
    )
    api = (
        pulled["api"]
        .with_env_variable("DOCKER_HOST", f"tcp://docker-proxy:{PROXY_PORT}")
        .with_service_binding("docker-proxy", proxy)
        .with_exposed_port(API_PORT)
        .as_service(use_entrypoint=True)
    )
    nginx = (
        pulled["nginx"]
        .with_env_variable("API_UPSTREAM", f"api:{API_PORT}")
        .with_service_binding("api", api)
        .with_exposed_port(NGINX_PORT)
        .as_service(args=["proxy"], use_entrypoint=True)
    )
    return proxy, nginx


@contextlib.asynccontextmanager
async def _running(client: dagger.Client, nginx: dagger.Service) -> AsyncIterator[None]:
    """Keep the system up from one phase to the next: a tunnel to a service holds it, and its own.

    Otherwise an engine may stop it when a client has ended and start another for the next one,
    and recovery would be that of a new system.
    """
    import dagger  # imported by the client already

    tunnel = client.host().tunnel(nginx, ports=[dagger.PortForward(backend=NGINX_PORT, frontend=0)])
    tunnel = await tunnel.start()
    try:
        yield
    finally:
        with anyio.move_on_after(_STOP_LIMIT, shield=True):
            # The phases have told what there is to tell; the system ends with the session anyway.
            with contextlib.suppress(dagger.DaggerError):
                await tunnel.stop()


async def _phase(ctx: Context, asking: dagger.Container, phase: str, expression: str) -> Suite:
    import dagger  # imported by the client already

    report = f"/reports/junit-{phase}.xml"
    ran = asking.with_exec(
        ["pytest", "-m", expression, f"--junit-xml={report}", _SUITE],
        expect=dagger.ReturnType.ANY,
    )
    target = f"verify/junit-{phase}.xml"
    return await collect(ctx, ran, {target: report}, what=f"The phase {phase}")
