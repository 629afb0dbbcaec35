"""The Minikube provider: a cluster on this machine, with the CPU, memory and network that it needs.

Rules:

- `up` makes the cluster where there is none and starts it where it is stopped; one that runs is
  left as it is.
- `down` takes back what `up` did, and no more: a cluster that was there before is not deleted, and
  one that ran before is not stopped.
- The registry of a run listens on this machine's loopback interface, which no node of Minikube
  reaches. With Minikube's Docker driver, `up` joins its container to the network of the nodes,
  where it has a name; nothing is opened to the outside for it.

Minikube is called as a program; what it is called with is tested with a recorder in its place.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from anyio import to_thread

from pipeline.cluster import versions
from pipeline.errors import PrerequisiteError, StepError
from pipeline.setup import command, registry, state
from pipeline.setup.docker import Docker, DockerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.setup.command import Output, Run
    from pipeline.setup.settings import Say

PROFILE = "minikube"
CPUS = (2, 4)
"""At least, and at most when the machine has them: KEDA, metrics-server, Calico and the control
plane request 1.4 together; the system comes on top, and scales."""
MEMORY = "4g"
CNI = "calico"
"""Minikube's own networks enforce no NetworkPolicy; this one does."""
START_LIMIT = 900.0
"""Seconds until Minikube is up: it downloads 1 GB the first time."""
STOP_LIMIT = 180.0
STATUS_LIMIT = 60.0
REGISTRY_PORT = 5000
"""Where the registry listens within its container."""
HOST_NAME = "host.minikube.internal"
"""What Minikube's nodes call this machine."""

_RECORD = "minikube.json"
_NOT_FOUND = 85
"""What `minikube status` exits with when there is no such profile (its ExGuestNotFound)."""
_NETWORK_LABEL = "created_by.minikube.sigs.k8s.io"
_ALREADY = 403
"""What Docker answers when a container is in a network already."""


class Settings(Protocol):
    """What the provider reads of the settings."""

    @property
    def context(self) -> str:
        """The context, which is the profile as well; empty means Minikube's own name for it."""

    @property
    def registry(self) -> str:
        """Where images are pushed, ``HOST[:PORT][/NAMESPACE]``."""

    @property
    def docker_host(self) -> str:
        """The address of the Docker Engine."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the provider uses of this machine, so that a test can give it something else.

    Attributes:
        run: Runs programs.
        which: Finds a program; None when it is not there.
        docker: Returns a client of the Docker Engine at an address.
        place: The state folder.
        processors: How many processors this machine has.
    """

    run: Run = command.run
    which: Callable[[str], str | None] = shutil.which
    docker: Callable[[str], Docker] = Docker
    place: Path = field(default_factory=state.folder)
    processors: int = field(default_factory=lambda: os.cpu_count() or CPUS[0])


async def up(settings: Settings, say: Say, *, tools: Tools | None = None) -> None:
    """Have a cluster that runs, and the registry within reach of its nodes.

    Raises:
        PrerequisiteError: Minikube is not on PATH.
        StepError: Minikube cannot start it.
    """
    tools = tools or Tools()
    profile = _profile(settings)
    _require(tools)
    found = await _look(tools, profile)
    record = _load(tools.place, profile)
    if _runs(found):
        say(f"Minikube's cluster {profile} is up")
    else:
        made = found is None
        say(
            f"{'Making' if made else 'Starting'} Minikube's cluster {profile}; the first time "
            "takes some minutes"
        )
        # Before it begins: what is interrupted is `down`'s to clean up as well.
        record = {**record, "made": made or bool(record.get("made")), "started": True}
        _save(tools.place, profile, record)
        arguments = _settings_of(settings, tools.processors) if made else []
        await _succeed(
            tools,
            ["minikube", "start", f"--profile={profile}", *arguments],
            f"Minikube cannot {'make' if made else 'start'} the cluster {profile}",
            f"See `minikube logs --profile={profile}`, then run it again",
            START_LIMIT,
        )
        say(f"Minikube's cluster {profile} is up")
    local = registry.loopback(settings.registry)
    if local is not None:
        connected = await to_thread.run_sync(_connect, tools, settings, profile, local)
        if connected and connected != record.get("registry"):
            _save(tools.place, profile, {**record, "registry": connected})
        say(_pull_from(profile, connected, local))


async def down(settings: Settings, say: Say, *, tools: Tools | None = None) -> None:
    """Take back what `up` did.

    Raises:
        PrerequisiteError: Minikube is not on PATH.
        StepError: Minikube cannot do it.
    """
    tools = tools or Tools()
    profile = _profile(settings)
    record = _load(tools.place, profile)
    if not record:
        say(
            f"Minikube's cluster {profile} was not started by this, and stays as it is "
            f"(`minikube delete --profile={profile}` removes one)"
        )
        return
    if record.get("registry"):
        # Before the network goes: Docker removes none that a container is in.
        container = str(record["registry"])
        await to_thread.run_sync(_disconnect, tools, settings, profile, container)
        say(f"The registry's container {container} has left Minikube's network {profile}")
    if record.get("started"):
        _require(tools)
        verb = "delete" if record.get("made") else "stop"
        if await _look(tools, profile) is not None:
            await _succeed(
                tools,
                ["minikube", verb, f"--profile={profile}"],
                f"Minikube cannot {verb} the cluster {profile}",
                f"Run `minikube {verb} --profile={profile}` by hand to see why",
                STOP_LIMIT,
            )
        say(f"Minikube's cluster {profile} is {'deleted' if record.get('made') else 'stopped'}")
    _forget(tools.place, profile)


async def status(settings: Settings, say: Say, *, tools: Tools | None = None) -> bool:
    """Tell how the cluster is, and return whether it is up.

    Raises:
        PrerequisiteError: Minikube is not on PATH.
    """
    tools = tools or Tools()
    profile = _profile(settings)
    _require(tools)
    found = await _look(tools, profile)
    if found is None:
        say(f"Minikube has no cluster {profile}")
        return False
    parts = ("Host", "Kubelet", "APIServer", "Kubeconfig")
    told = ", ".join(
        f"{part.lower()} {str(found[part]).lower()}" for part in parts if part in found
    )
    say(f"Minikube's cluster {profile}: {told}")
    return _runs(found)


def _profile(settings: Settings) -> str:
    return settings.context or PROFILE


def _settings_of(settings: Settings, processors: int) -> list[str]:
    """Return the options that a cluster is made with."""
    least, most = CPUS
    options = [
        f"--kubernetes-version=v{versions.KUBERNETES}",
        f"--cpus={max(least, min(most, processors))}",
        f"--memory={MEMORY}",
        f"--cni={CNI}",
        "--addons=metrics-server",
    ]
    local = registry.loopback(settings.registry)
    if local is not None:
        # The registry speaks plain HTTP: the nodes are told under both names that it may have.
        options += [
            f"--insecure-registry={name}"
            for name in (f"{local.name}:{REGISTRY_PORT}", f"{HOST_NAME}:{local.port}")
        ]
    return options


def _require(tools: Tools) -> None:
    if tools.which("minikube") is None:
        raise PrerequisiteError(
            "Minikube is not on PATH",
            remedy="Install it (https://minikube.sigs.k8s.io/docs/start/), or use `--provider "
            "local` on Linux as root",
        )


async def _look(tools: Tools, profile: str) -> dict[str, Any] | None:
    """Return what Minikube says of a profile; None when there is none."""
    argv = ["minikube", "status", f"--profile={profile}", "--output=json"]
    output = await tools.run(argv, limit=STATUS_LIMIT)
    # Its exit code is a sum of bits about what does not run: the answer is what it prints.
    try:
        found = json.loads(output.stdout)
    except ValueError:
        if output.code == _NOT_FOUND or "not found" in output.stdout + output.stderr:
            return None
        raise _failed(
            f"Minikube does not tell the state of {profile}",
            "Run `minikube status` by hand to see why",
            argv,
            output,
        ) from None
    # One node is an object, several are a list with the control plane first.
    first = found[0] if isinstance(found, list) and found else found
    if not isinstance(first, dict) or first.get("Host") in (None, "", "Nonexistent"):
        return None
    return first


def _runs(found: dict[str, Any] | None) -> bool:
    return found is not None and all(
        found.get(part) == "Running" for part in ("Host", "Kubelet", "APIServer")
    )


async def _succeed(tools: Tools, argv: list[str], failure: str, remedy: str, limit: float) -> None:
    output = await tools.run(argv, limit=limit)
    if output.code != 0:
        raise _failed(failure, remedy, argv, output)


def _failed(failure: str, remedy: str, argv: list[str], output: Output) -> StepError:
    return StepError(
        f"{failure}: `{' '.join(argv[:2])}` ended with {output.code}",
        remedy=remedy,
        evidence=command.tail(output.stderr + output.stdout),
    )


def _connect(tools: Tools, settings: Settings, profile: str, local: registry.Registry) -> str:
    """Join the registry's container to the network of the nodes, and return its name there.

    Empty when there is no such network on this machine's Docker Engine, which is so with every
    driver but Minikube's Docker one, or when the registry is not in a container of ours.
    """
    docker = tools.docker(settings.docker_host)
    try:
        network = docker.request("GET", f"/networks/{quote(profile, safe='')}")
        if network.status != 200 or _NETWORK_LABEL not in (network.json().get("Labels") or {}):  # noqa: PLR2004 - HTTP's OK
            return ""
        if docker.container(local.name) is None:
            return ""
        joined = docker.request(
            "POST", f"/networks/{quote(profile, safe='')}/connect", {"Container": local.name}
        )
    except DockerUnreachableError:
        return ""
    if joined.status >= 300 and joined.status != _ALREADY:  # noqa: PLR2004 - HTTP's
        raise StepError(
            f"The registry's container {local.name} cannot join Minikube's network {profile}: "
            f"{joined.message}",
            remedy=f"Run `docker network connect {profile} {local.name}`, then run it again",
        )
    return local.name


def _disconnect(tools: Tools, settings: Settings, profile: str, container: str) -> None:
    docker = tools.docker(settings.docker_host)
    path = f"/networks/{quote(profile, safe='')}/disconnect"
    left = docker.request("POST", path, {"Container": container, "Force": True})
    # What is not there any more, network or container, needs no more doing.
    if left.status >= 300 and left.status not in (403, 404):  # noqa: PLR2004 - HTTP's
        raise StepError(
            f"The registry's container {container} cannot leave Minikube's network {profile}: "
            f"{left.message}",
            remedy=f"Run `docker network disconnect {profile} {container}`, then run it again",
        )


def _pull_from(profile: str, connected: str, local: registry.Registry) -> str:
    if connected:
        return (
            f"The nodes see the registry {local} as {connected}:{REGISTRY_PORT}: deploy with "
            f"--context {profile} --pull-from {connected}:{REGISTRY_PORT}"
        )
    return (
        f"The nodes cannot reach the registry {local}, which listens on this machine's loopback "
        f"interface alone: push to one that they reach (--registry), or let {local} listen on the "
        f"address that they call {HOST_NAME} and deploy with --pull-from {HOST_NAME}:{local.port}"
    )


def _load(place: Path, profile: str) -> dict[str, Any]:
    """Return what is remembered of a profile; nothing when there is nothing.

    Raises:
        PrerequisiteError: It cannot be read.
    """
    return dict(_records(place).get(profile) or {})


def _save(place: Path, profile: str, record: dict[str, Any]) -> None:
    state.write(place / _RECORD, json.dumps({**_records(place), profile: record}, indent=2))


def _forget(place: Path, profile: str) -> None:
    rest = {name: record for name, record in _records(place).items() if name != profile}
    state.write(place / _RECORD, json.dumps(rest, indent=2))


def _records(place: Path) -> dict[str, Any]:
    file = place / _RECORD
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError("it is not an object")  # noqa: TRY301 - told below, as what json raises
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise PrerequisiteError(
            f"What is remembered of Minikube in {file} cannot be read: {error}",
            remedy=f"Remove it (`rm {file}`), and stop by hand what was started",
        ) from error
    return found
