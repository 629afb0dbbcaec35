"""Look at the sources: style, types, Dockerfiles and the configuration of nginx.

All checks run side by side, and all of their findings are told. The tools are those of the
project's own lock file, in a container that only a changed lock makes anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import anyio

from pipeline import log
from pipeline.context import linted
from pipeline.errors import PipelineError, StepError
from pipeline.steps._recorded import Ran, recorded
from pipeline.task import Key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import dagger

    from pipeline.context import Context
    from pipeline.task import Outcome

UV_VERSION = "0.13.9"
"""The same as in service/Dockerfile; a test compares."""

_CA = "/run/secrets/ca"
_CACHE = "/var/cache/slipway"
# The CA bundle is for this one command; what it does is the same where there is none.
_TRUST = f"if [ -s {_CA} ]; then export PIP_CERT={_CA} SSL_CERT_FILE={_CA}; fi"
_INSTALL = (
    f"{_TRUST}; python3 -m venv /opt/uv"
    f" && /opt/uv/bin/pip install --quiet --disable-pip-version-check uv=={UV_VERSION}"
)
_SYNC = f"{_TRUST}; /opt/uv/bin/uv sync --quiet --frozen --no-install-project --python python3"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has to say: its name, and its output."""

    check: str
    output: str


async def lint(ctx: Context) -> Outcome:
    """Check the sources.

    Raises:
        StepError: There are findings; all of them are the evidence.
    """
    bases = ctx.bases.references
    return await recorded(ctx, Key("lint"), bases, lambda: _lint(ctx), files=linted(ctx.source))


async def _lint(ctx: Context) -> Ran:
    client = await ctx.client()
    findings: list[Finding] = []
    errors: list[tuple[int, PipelineError]] = []
    groups: tuple[Callable[[], Awaitable[list[Finding]]], ...] = (
        lambda: _with_tools(ctx, client),
        lambda: _api(ctx, client),
        lambda: _nginx(ctx, client),
    )

    async def one(number: int, group: Callable[[], Awaitable[list[Finding]]]) -> None:
        from pipeline.connect import translate  # beside its use

        # A check that cannot run does not keep the others from telling what they find.
        try:
            findings.extend(await group())
        except Exception as error:  # noqa: BLE001 - translated, and raised below
            errors.append((number, translate("lint", error)))

    async with anyio.create_task_group() as tasks:
        for number, group in enumerate(groups):
            tasks.start_soon(one, number, group)
    if findings:
        findings.sort(key=lambda finding: finding.check)
        broken = "".join(f"\n\n== {e.message}\n{e.evidence}" for _, e in sorted(errors, key=_first))
        raise StepError(
            f"{', '.join(finding.check for finding in findings)} found something to correct",
            remedy="Correct it and run it again",
            evidence="\n\n".join(f"== {f.check}\n{f.output}" for f in findings) + broken,
        )
    if errors:
        raise min(errors, key=_first)[1]
    return Ran()


def _first(entry: tuple[int, PipelineError]) -> int:
    return entry[0]


async def _with_tools(ctx: Context, client: dagger.Client) -> list[Finding]:
    tools = await _tools(ctx, client).sync()
    files = linted(ctx.source)
    everything = tools.with_mounted_directory("/src", ctx.directory(client, files))
    results = client.cache_volume("slipway-mypy")
    ours = set(ctx.source.select("pyproject.toml", "pipeline", "tests", "bench"))
    typed = tools.with_mounted_directory(
        "/src", ctx.directory(client, [file for file in files if file in ours])
    ).with_mounted_cache(_CACHE, results)
    # On its own, because its package is called as the project's own tests are.
    nginx = everything.with_mounted_cache(_CACHE, results)
    dockerfiles = [f.path for f in files if PurePosixPath(f.path).name.endswith("Dockerfile")]
    return await _checks(
        ctx,
        {
            "ruff check": (everything, ["ruff", "check", "--no-cache", "."]),
            "ruff format": (everything, ["ruff", "format", "--no-cache", "--check", "."]),
            "mypy": (typed, ["mypy", f"--cache-dir={_CACHE}/project"]),
            "mypy (nginx)": (nginx, ["mypy", f"--cache-dir={_CACHE}/nginx", "nginx/tests"]),
            "hadolint": (everything, ["hadolint", *dockerfiles]),
        },
    )


async def _api(ctx: Context, client: dagger.Client) -> list[Finding]:
    # The service's own dependencies, mypy among them, are in its test target, and nowhere else.
    built = (await ctx.built(client, "api", "test")).with_mounted_cache(
        _CACHE, client.cache_volume("slipway-mypy")
    )
    return await _checks(
        ctx, {"mypy (service)": (built, ["mypy", f"--cache-dir={_CACHE}/service"])}
    )


async def _nginx(ctx: Context, client: dagger.Client) -> list[Finding]:
    built = await ctx.built(client, "nginx", "test")
    return await _checks(ctx, {"nginx": (built, ["slipway-nginx", "check"])})


def _tools(ctx: Context, client: dagger.Client) -> dagger.Container:
    """Return a container with the project's locked tools on PATH; its sources are not in it."""
    ca = ctx.ca(client)
    container = ctx.base(client, "api").with_mounted_cache(
        "/root/.cache", client.cache_volume("slipway-packages")
    )
    if ca is not None:
        container = container.with_mounted_secret(_CA, ca)
    lock = ctx.directory(client, ctx.source.select("pyproject.toml", "uv.lock"))
    container = (
        container.with_env_variable("UV_LINK_MODE", "copy")
        .with_env_variable("UV_PYTHON_DOWNLOADS", "never")
        .with_env_variable("UV_PROJECT_ENVIRONMENT", "/opt/tools")
        .with_exec(["sh", "-c", _INSTALL])
        .with_directory("/src", lock)
        .with_workdir("/src")
        .with_exec(["sh", "-c", _SYNC])
        .without_mount("/root/.cache")
        .with_env_variable("PATH", "/opt/tools/bin:/usr/local/bin:/usr/bin:/bin")
    )
    return container.without_mount(_CA) if ca is not None else container


async def _checks(
    ctx: Context, checks: dict[str, tuple[dagger.Container, list[str]]]
) -> list[Finding]:
    """Run checks side by side; return the findings."""
    import dagger  # imported by the client already

    findings: list[Finding] = []
    fresh = "lint" in ctx.settings.fresh

    async def check(name: str, container: dagger.Container, command: list[str]) -> None:
        if fresh:
            container = container.with_env_variable("SLIPWAY_RUN", ctx.nonce)
        ran = container.with_exec(command, expect=dagger.ReturnType.ANY)
        if await ran.exit_code():
            output = f"{await ran.stdout()}\n{await ran.stderr()}"
            findings.append(Finding(name, log.printable(output).strip()))

    async with anyio.create_task_group() as tasks:
        for name, (container, command) in checks.items():
            tasks.start_soon(check, name, container, command)
    return findings
