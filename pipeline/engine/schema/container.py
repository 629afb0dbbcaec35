"""A container's fields.

Those that start with ``with`` only add a change to the chain. The others need the state that
the chain leads to, and so run what precedes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.errors import EngineError, NotServed
from pipeline.engine.core.service import ContainerService, Port, Protocol
from pipeline.engine.core.tree import Tree

from ._engine import Engine, EnvVariable, Label, refuse, served
from .query import new_file

if TYPE_CHECKING:
    from pipeline.engine.core.secret import Secret

_SECRET_MODE = 0o400
# What the Docker Engine makes when it pushes or saves; it can be asked for nothing else.
_COMPRESSION = {"", "Gzip", "GZIP"}
_MEDIA_TYPES = {"", "DockerMediaTypes", "DOCKER"}


# --- where a filesystem comes from -----------------------------------------------------------


@served("Container", "from")
async def from_(
    engine: Engine, container: c.Container, address: str, registry_service: str | None = None
) -> c.Container:
    """Start from an image of a registry."""
    registry = engine.load(registry_service, "Service") if registry_service else None
    return container.then(c.From(address, registry))


# --- configuration -----------------------------------------------------------------------------


@served("Container", "withEnvVariable")
async def with_env_variable(
    _engine: Engine,
    container: c.Container,
    name: str,
    value: str,
    expand: bool = False,
) -> c.Container:
    """Set an environment variable."""
    return container.then(c.WithEnv(name, value, expand))


@served("Container", "withoutEnvVariable")
async def without_env_variable(_engine: Engine, container: c.Container, name: str) -> c.Container:
    """Remove an environment variable."""
    return container.then(c.WithoutEnv(name))


@served("Container", "envVariable")
async def env_variable(engine: Engine, container: c.Container, name: str) -> str | None:
    """Return the value of an environment variable."""
    return (await engine.solver.state(container)).config.variable(name)


@served("Container", "envVariables")
async def env_variables(engine: Engine, container: c.Container) -> list[EnvVariable]:
    """List the environment."""
    env = (await engine.solver.state(container)).config.env
    return [EnvVariable(name, value) for name, value in env]


@served("Container", "withWorkdir")
async def with_workdir(
    _engine: Engine,
    container: c.Container,
    path: str,
    expand: bool = False,
) -> c.Container:
    """Set the working directory; it is made when a command first runs there."""
    return container.then(c.WithWorkdir(path, expand))


@served("Container", "workdir")
async def workdir(engine: Engine, container: c.Container) -> str:
    """Return the working directory."""
    return (await engine.solver.state(container)).config.workdir


@served("Container", "withUser")
async def with_user(_engine: Engine, container: c.Container, name: str) -> c.Container:
    """Set the user that commands run as."""
    return container.then(c.WithUser(name))


@served("Container", "user")
async def user(engine: Engine, container: c.Container) -> str:
    """Return the user that commands run as."""
    return (await engine.solver.state(container)).config.user


@served("Container", "withEntrypoint")
async def with_entrypoint(
    _engine: Engine,
    container: c.Container,
    args: list[str],
    keep_default_args: bool = False,
) -> c.Container:
    """Set the entrypoint."""
    return container.then(c.WithEntrypoint(tuple(args), keep_default_args))


@served("Container", "entrypoint")
async def entrypoint(engine: Engine, container: c.Container) -> list[str]:
    """Return the entrypoint."""
    return list((await engine.solver.state(container)).config.entrypoint)


@served("Container", "withDefaultArgs")
async def with_default_args(
    _engine: Engine, container: c.Container, args: list[str]
) -> c.Container:
    """Set the default arguments."""
    return container.then(c.WithDefaultArgs(tuple(args)))


@served("Container", "defaultArgs")
async def default_args(engine: Engine, container: c.Container) -> list[str]:
    """Return the default arguments."""
    return list((await engine.solver.state(container)).config.args)


@served("Container", "withLabel")
async def with_label(_engine: Engine, container: c.Container, name: str, value: str) -> c.Container:
    """Set a label."""
    return container.then(c.WithLabel(name, value))


@served("Container", "label")
async def label(engine: Engine, container: c.Container, name: str) -> str | None:
    """Return the value of a label."""
    return dict((await engine.solver.state(container)).config.labels).get(name)


@served("Container", "labels")
async def labels(engine: Engine, container: c.Container) -> list[Label]:
    """List the labels."""
    pairs = (await engine.solver.state(container)).config.labels
    return [Label(name, value) for name, value in pairs]


@served("Container", "withExposedPort")
async def with_exposed_port(
    _engine: Engine,
    container: c.Container,
    port: int,
    protocol: Protocol = "TCP",
    description: str | None = None,
    experimental_skip_healthcheck: bool = False,
) -> c.Container:
    """Expose a port."""
    exposed = Port(port, protocol, description, experimental_skip_healthcheck)
    return container.then(c.WithPort(exposed))


@served("Container", "exposedPorts")
async def exposed_ports(engine: Engine, container: c.Container) -> list[Port]:
    """List the exposed ports."""
    return list((await engine.solver.state(container)).config.ports)


@served("Container", "platform")
async def platform(engine: Engine, container: c.Container) -> str:
    """Return the platform."""
    return (await engine.solver.state(container)).platform


# --- files --------------------------------------------------------------------------------------


@served("Container", "withDirectory")
async def with_directory(
    engine: Engine,
    container: c.Container,
    path: str,
    source: str,
    exclude: list[str] | None = None,
    include: list[str] | None = None,
    gitignore: bool = False,
    owner: str = "",
    expand: bool = False,
    permissions: int | None = None,
) -> c.Container:
    """Put a folder into the filesystem."""
    directory = engine.load(source, "Directory")
    if include or exclude or gitignore:
        filter_ = d.Filter(tuple(include or ()), tuple(exclude or ()), gitignore)
        directory = d.Overlay(d.Literal(Tree()), "", directory, filter_)
    write = c.Write(path, directory=directory, owner=owner, permissions=permissions)
    return container.then(c.WithWrite(write, expand))


@served("Container", "withFile")
async def with_file(
    engine: Engine,
    container: c.Container,
    path: str,
    source: str,
    permissions: int | None = None,
    owner: str = "",
    expand: bool = False,
) -> c.Container:
    """Put a file into the filesystem."""
    file = engine.load(source, "File")
    write = c.Write(path, file=file, owner=owner, permissions=permissions)
    return container.then(c.WithWrite(write, expand))


@served("Container", "withNewFile")
async def with_new_file(
    engine: Engine,
    container: c.Container,
    path: str,
    contents: str,
    permissions: int | None = None,
    owner: str = "",
    expand: bool = False,
) -> c.Container:
    """Put a new file into the filesystem."""
    file = new_file(engine, "file", contents, permissions)
    return container.then(c.WithWrite(c.Write(path, file=file, owner=owner), expand))


@served("Container", "directory")
async def directory(
    engine: Engine,
    container: c.Container,
    path: str,
    expand: bool = False,
) -> d.Directory:
    """Name a folder of the filesystem, mounts included."""
    return d.InContainer(container, await _path(engine, container, path, expand=expand))


@served("Container", "file")
async def file(
    engine: Engine,
    container: c.Container,
    path: str,
    expand: bool = False,
) -> d.File:
    """Name a file of the filesystem, mounts included."""
    full = await _path(engine, container, path, expand=expand)
    return d.FileIn(d.InContainer(container, "/"), full)


async def _path(engine: Engine, container: c.Container, path: str, *, expand: bool) -> str:
    config = (await engine.solver.state(container)).config
    return config.path(config.expand(path, expand))


@served("Container", "rootfs")
async def rootfs(_engine: Engine, container: c.Container) -> d.Directory:
    """Name the whole filesystem, mounts left out."""
    return d.InContainer(container, "/", mounts=False)


# --- mounts -------------------------------------------------------------------------------------


@served("Container", "withMountedDirectory")
async def with_mounted_directory(
    engine: Engine,
    container: c.Container,
    path: str,
    source: str,
    owner: str = "",
    read_only: bool = False,
    expand: bool = False,
) -> c.Container:
    """Mount a folder; what a command writes there is seen by the next one."""
    directory = engine.load(source, "Directory")
    mount = c.Mount(path, directory=directory, owner=owner, read_only=read_only)
    return container.then(c.WithMount(mount, expand))


@served("Container", "withMountedFile")
async def with_mounted_file(
    engine: Engine,
    container: c.Container,
    path: str,
    source: str,
    owner: str = "",
    expand: bool = False,
) -> c.Container:
    """Mount a file; here it cannot be written to."""
    mount = c.Mount(path, file=engine.load(source, "File"), owner=owner)
    return container.then(c.WithMount(mount, expand))


@served("Container", "withMountedCache")
async def with_mounted_cache(
    engine: Engine,
    container: c.Container,
    path: str,
    cache: str,
    source: str | None = None,
    sharing: str | None = None,
    owner: str = "",
    expand: bool = False,
) -> c.Container:
    """Mount a cache volume."""
    volume: c.CacheVolume = engine.load(cache, "CacheVolume")
    if source:
        volume = replace(volume, source=engine.load(source, "Directory"))
    if sharing:
        volume = replace(volume, sharing=c.Sharing[sharing])
    return container.then(c.WithMount(c.Mount(path, cache=volume, owner=owner), expand))


@served("Container", "withMountedTemp")
async def with_mounted_temp(
    _engine: Engine,
    container: c.Container,
    path: str,
    size: int | None = None,
    expand: bool = False,
) -> c.Container:
    """Mount a folder in memory, empty for each command."""
    return container.then(c.WithMount(c.Mount(path, temporary=True, size=size), expand))


@served("Container", "withMountedSecret")
async def with_mounted_secret(
    engine: Engine,
    container: c.Container,
    path: str,
    source: str,
    owner: str = "",
    mode: int = _SECRET_MODE,
    expand: bool = False,
) -> c.Container:
    """Mount a secret as a file."""
    secret: Secret = engine.load(source, "Secret")
    mount = c.Mount(path, secret=secret, owner=owner, mode=mode)
    return container.then(c.WithMount(mount, expand))


@served("Container", "withUnixSocket")
async def with_unix_socket(
    engine: Engine,
    container: c.Container,
    path: str,
    source: str,
    owner: str = "",
    expand: bool = False,
) -> c.Container:
    """Mount a socket of the host."""
    mount = c.Mount(path, socket=engine.load(source, "Socket"), owner=owner)
    return container.then(c.WithMount(mount, expand))


@served("Container", "withoutMount")
@served("Container", "withoutUnixSocket")
async def without_mount(
    _engine: Engine,
    container: c.Container,
    path: str,
    expand: bool = False,
) -> c.Container:
    """Take a mount away."""
    return container.then(c.WithoutMount(path, expand))


@served("Container", "withSecretVariable")
async def with_secret_variable(
    engine: Engine, container: c.Container, name: str, secret: str
) -> c.Container:
    """Set an environment variable to a secret, for commands only."""
    return container.then(c.WithSecretEnv(name, engine.load(secret, "Secret")))


# --- commands -----------------------------------------------------------------------------------


@served("Container", "withExec")
async def with_exec(
    _engine: Engine,
    container: c.Container,
    args: list[str],
    use_entrypoint: bool = False,
    stdin: str | None = None,
    redirect_stdin: str = "",
    redirect_stdout: str = "",
    redirect_stderr: str = "",
    expect: str = "SUCCESS",
    experimental_privileged_nesting: bool = False,
    insecure_root_capabilities: bool = False,
    expand: bool = False,
    no_init: bool = False,
) -> c.Container:
    """Run a command, once something is asked of what it leaves."""
    refuse("Container.withExec", experimental_privileged_nesting=experimental_privileged_nesting)
    if stdin and redirect_stdin:
        msg = "withExec: stdin and redirectStdin exclude each other"
        raise EngineError(msg)
    start = c.Start(tuple(args), use_entrypoint, insecure_root_capabilities, expand, no_init)
    change = c.Exec(
        start,
        stdin,
        redirect_stdin or None,
        redirect_stdout or None,
        redirect_stderr or None,
        c.Expect[expect],
    )
    return container.then(change)


async def _output(engine: Engine, container: c.Container) -> c.Output:
    state = await engine.solver.state(container)
    if state.output is None:
        msg = "no command has been run in this container"
        raise EngineError(msg)
    return state.output


@served("Container", "stdout")
async def stdout(engine: Engine, container: c.Container) -> str:
    """Return what the last command wrote to standard output."""
    return (await _output(engine, container)).stdout


@served("Container", "stderr")
async def stderr(engine: Engine, container: c.Container) -> str:
    """Return what the last command wrote to standard error."""
    return (await _output(engine, container)).stderr


@served("Container", "exitCode")
async def exit_code(engine: Engine, container: c.Container) -> int:
    """Return the exit code of the last command."""
    return (await _output(engine, container)).exit_code


@served("Container", "sync")
async def sync(engine: Engine, container: c.Container) -> str:
    """Run everything that precedes."""
    await engine.solver.settled(await engine.solver.state(container))
    return engine.id(container)


# --- services -----------------------------------------------------------------------------------


@served("Container", "withServiceBinding")
async def with_service_binding(
    engine: Engine, container: c.Container, alias: str, service: str
) -> c.Container:
    """Bind a service, to be reached by an alias."""
    return container.then(c.WithBinding(alias, engine.load(service, "Service")))


@served("Container", "asService")
async def as_service(
    _engine: Engine,
    container: c.Container,
    args: list[str] | None = None,
    use_entrypoint: bool = False,
    experimental_privileged_nesting: bool = False,
    insecure_root_capabilities: bool = False,
    expand: bool = False,
    no_init: bool = False,
) -> ContainerService:
    """Run a command as long as somebody needs it."""
    refuse("Container.asService", experimental_privileged_nesting=experimental_privileged_nesting)
    start = c.Start(
        tuple(args) if args else None, use_entrypoint, insecure_root_capabilities, expand, no_init
    )
    return ContainerService(container, start)


# --- images -------------------------------------------------------------------------------------


@served("Container", "withRegistryAuth")
async def with_registry_auth(
    engine: Engine, container: c.Container, address: str, username: str, secret: str
) -> c.Container:
    """Set the credentials for the registry of an address."""
    name = address.removeprefix("https://").removeprefix("http://")
    registry = c.registry_of(name) if "/" in name else name
    auth = c.Auth(registry, username, engine.load(secret, "Secret"))
    return container.then(c.WithAuth(auth))


def _refuse_forms(
    field: str,
    platform_variants: list[str] | None,
    forced_compression: str,
    media_types: str,
) -> None:
    refuse(field, platform_variants=platform_variants)
    for name, value, able in (
        ("forcedCompression", forced_compression, _COMPRESSION),
        ("mediaTypes", media_types, _MEDIA_TYPES),
    ):
        if value not in able:
            what = f"{field}({name}: {value})"
            raise NotServed(what, "the Docker Engine writes gzip and Docker's media types")


@served("Container", "publish")
async def publish(
    engine: Engine,
    container: c.Container,
    address: str,
    platform_variants: list[str] | None = None,
    forced_compression: str = "",
    media_types: str = "",
    registry_service: str | None = None,
) -> str:
    """Push the image; return its address with the digest."""
    _refuse_forms("Container.publish", platform_variants, forced_compression, media_types)
    registry = engine.load(registry_service, "Service") if registry_service else None
    return await engine.solver.publish(container, address, registry)


@served("Container", "export")
async def export(
    engine: Engine,
    container: c.Container,
    path: str,
    platform_variants: list[str] | None = None,
    forced_compression: str = "",
    media_types: str = "",
    expand: bool = False,
) -> str:
    """Write the image as an archive to the host."""
    if forced_compression:
        what = f"Container.export(forcedCompression: {forced_compression})"
        raise NotServed(what, "the Docker Engine saves layers uncompressed")
    _refuse_forms("Container.export", platform_variants, "", media_types)
    if expand:
        config = (await engine.solver.state(container)).config
        path = config.expand(path, True)  # noqa: FBT003 - the API's own argument
    target = engine.path(path)
    await engine.solver.save(container, target)
    return str(target)
