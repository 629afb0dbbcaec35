"""What `doctor` tells of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline.cluster import findings
from pipeline.cluster.local.lifecycle import Tools
from pipeline.setup.command import Output

from .setup_fakes import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.finding import Finding


def found(tmp_path: Path, *programs: str, go: str = "go1.26.8", **facts: Any) -> dict[str, Finding]:  # noqa: ANN401
    """Return what is found where these programs are on PATH, by name."""
    recorder = Recorder({"/bin/go env GOVERSION": Output(0, f"{go}\n", "")})
    known: dict[str, Any] = {"run": recorder, "place": tmp_path, "platform": "linux", "root": True}
    tools = Tools(**(known | facts))

    async def examine() -> tuple[Finding, ...]:
        return await findings.examine(
            tools=tools,
            which=lambda name: f"/bin/{name}" if name in programs else None,
            built=lambda: None,
        )

    return {finding.name: finding for finding in anyio.run(examine)}


def test_a_run_can_start_without_any_of_it(tmp_path: Path) -> None:
    """So nothing is called missing; each has the one command that gets it."""
    every = found(tmp_path)
    assert {finding.state for finding in every.values()} == {"note"}
    assert all(finding.command for finding in every.values())
    assert "1.26.4" in every["go"].detail
    assert every["cluster"].command == "python -m pipeline cluster up --provider local"


def test_what_is_there_is_shown(tmp_path: Path) -> None:
    """With where it is."""
    every = found(tmp_path, "go", "kubectl")
    assert (every["go"].state, every["go"].detail) == ("ok", "1.26.8 at /bin/go")
    assert (every["kubectl"].state, every["kubectl"].detail) == ("ok", "/bin/kubectl")


@pytest.mark.parametrize("version", ["go1.19.8", "go1.26.3", ""])
def test_a_go_that_is_too_old_is_a_note(tmp_path: Path, version: str) -> None:
    """With the version that is needed."""
    go = found(tmp_path, "go", go=version)["go"]
    assert go.state == "note"
    assert "built with 1.26.4" in go.detail


def test_the_way_to_a_cluster_is_the_one_of_this_machine(tmp_path: Path) -> None:
    """Minikube where it is there, else the local one where it can be."""
    assert found(tmp_path, "minikube")["cluster"].command.endswith("--provider minikube")
    assert found(tmp_path, root=False)["cluster"].command.startswith("sudo ")
    assert "minikube.sigs.k8s.io" in found(tmp_path, platform="darwin")["cluster"].command
