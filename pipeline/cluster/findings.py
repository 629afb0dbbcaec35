"""What `doctor` tells of clusters: whether there is one, and what it takes to have one here."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import anyio

from pipeline.cluster import kubectl
from pipeline.cluster.local import build
from pipeline.cluster.local.build import CLUSTER
from pipeline.cluster.local.lifecycle import Cluster, Tools
from pipeline.cluster.local.node import NAME
from pipeline.errors import PrerequisiteError
from pipeline.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.setup.command import Run

GO_LIMIT = 4.0
"""Seconds for its version, which takes 10 ms: `doctor` is not to wait for it."""


async def examine(
    *,
    tools: Tools | None = None,
    which: Callable[[str], str | None] = shutil.which,
    built: Callable[[], object] = kubectl.newest,
) -> tuple[Finding, ...]:
    """Return what is here and what is missing; starts and changes nothing.

    A run needs none of it, so nothing is more than a note.

    Args:
        tools: What the local provider uses of this machine.
        which: Finds a program on PATH.
        built: Finds the kubectl that was built for the local cluster.
    """
    tools = tools or Tools()
    return (
        await _go(which("go"), tools.run),
        _kubectl(which("kubectl"), built),
        _cluster(tools, which("minikube")),
    )


async def _go(program: str | None, run: Run) -> Finding:
    wanted = build.required(await anyio.Path(CLUSTER.folder / "go.mod").read_text(encoding="utf-8"))
    get = f"see {build.DOCS}"
    if program is None:
        return Finding("go", "note", f"not on PATH; a local cluster is built with {wanted}", get)
    # It is asked for its own version: an older one might fetch a newer one for the answer.
    environment = build.environment() | {"GOTOOLCHAIN": "local"}
    try:
        output = await run([program, "env", "GOVERSION"], limit=GO_LIMIT, env=environment)
    except PrerequisiteError as error:
        return Finding("go", "note", error.message, get)
    version = output.stdout.strip().removeprefix("go")
    if output.code != 0 or _numbers(version) < _numbers(wanted):
        detail = f"{program} is {version or 'broken'}; a local cluster is built with {wanted}"
        return Finding("go", "note", detail, get)
    return Finding("go", "ok", f"{version} at {program}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _kubectl(program: str | None, built: Callable[[], object]) -> Finding:
    found = program or built()
    if found is None:
        return Finding(
            "kubectl", "note", "not on PATH; a deployment needs it", f"see {kubectl.DOCS}"
        )
    return Finding("kubectl", "ok", str(found))


def _cluster(tools: Tools, minikube: str | None) -> Finding:
    up = "python -m pipeline cluster up --provider"
    record = Cluster(tools, lambda _: None).record()
    if record is not None:
        return Finding("cluster", "ok", f"local, context {NAME}, 127.0.0.1:{record.port}")
    if minikube is not None:
        return Finding("cluster", "note", f"none of ours runs; {minikube} can", f"{up} minikube")
    if tools.platform.startswith("linux"):
        sudo = "" if tools.root else "sudo "
        return Finding("cluster", "note", "none of ours runs", f"{sudo}{up} local")
    return Finding(
        "cluster",
        "note",
        "Minikube is not on PATH, and a local cluster is for Linux",
        "see https://minikube.sigs.k8s.io/docs/start/",
    )
