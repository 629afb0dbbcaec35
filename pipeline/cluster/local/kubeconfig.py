"""The cluster in the kubeconfig of a person: added and made current, and taken out again.

``kubectl config`` does the writing: which file it is, and who else writes at the same time, are
kubectl's rules. The context that was current before is made current again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cluster.local.node import NAME
from pipeline.errors import PrerequisiteError
from pipeline.setup.command import succeed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.setup.command import Run

LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Before:
    """What the kubeconfig was like.

    Attributes:
        context: The current context; empty when there was none.
        existed: Whether there was a file.
    """

    context: str
    existed: bool


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The kubeconfig of this user.

    Attributes:
        run: Runs programs.
        kubectl: The program.
        environ: The environment, in which KUBECONFIG may name the file.
    """

    run: Run
    kubectl: Path
    environ: Mapping[str, str]

    @property
    def file(self) -> Path:
        """Return the file that is written when none has the cluster yet."""
        named = [part for part in self.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
        if not named:
            return Path(self.environ.get("HOME") or Path.home()) / ".kube" / "config"
        # kubectl takes the first that is there, else makes the last.
        return next((Path(part) for part in named if Path(part).exists()), Path(named[-1]))

    async def check(self) -> dict[str, Any]:
        """Return what is in it, when the cluster may be added.

        Raises:
            PrerequisiteError: It cannot be read, or has another cluster under our name.
        """
        found = await self._view()
        taken = str(_named(found, "clusters").get("cluster", {}).get("server", ""))
        if taken and not taken.startswith("https://127.0.0.1:"):
            raise PrerequisiteError(
                f"The kubeconfig {self.file} has another cluster {NAME}, at {taken}",
                remedy="Rename it, or set KUBECONFIG to another file",
            )
        return found

    async def merge(self, server: str, pki: Path) -> Before:
        """Add the cluster and make its context the current one.

        Args:
            server: The address of the API server.
            pki: The folder with the certificates.

        Returns:
            What was there before.

        Raises:
            PrerequisiteError: The kubeconfig cannot be read or written, or has another cluster
                under our name.
        """
        existed = self.file.exists()
        found = await self.check()
        before = str(found.get("current-context") or "")
        await self._config(
            "set-cluster",
            NAME,
            f"--server={server}",
            f"--certificate-authority={pki / 'ca.crt'}",
            "--embed-certs=true",
        )
        await self._config(
            "set-credentials",
            NAME,
            f"--client-certificate={pki / 'admin.crt'}",
            f"--client-key={pki / 'admin.key'}",
            "--embed-certs=true",
        )
        await self._config("set-context", NAME, f"--cluster={NAME}", f"--user={NAME}")
        await self._config("use-context", NAME)
        return Before(context="" if before == NAME else before, existed=existed)

    async def has(self, server: str) -> bool:
        """Return whether the cluster is there, at this address."""
        found = await self._view()
        known = _named(found, "clusters").get("cluster", {}).get("server")
        return bool(known == server and _named(found, "contexts"))

    async def remove(self, server: str, before: Before) -> None:
        """Take the cluster out, if it is still ours.

        Args:
            server: The address of the API server.
            before: What `merge` returned.

        Raises:
            PrerequisiteError: The kubeconfig cannot be read or written.
        """
        if not await self.has(server):
            return
        found = await self._view()
        if found.get("current-context") == NAME:
            names = {context.get("name") for context in found.get("contexts") or ()}
            if before.context in names:
                await self._config("use-context", before.context)
            else:
                await self._config("unset", "current-context")
        for kind in ("context", "cluster", "user"):
            await self._config(f"delete-{kind}", NAME)
        left = await self._view()
        if not before.existed and not any(left.get(k) for k in ("clusters", "contexts", "users")):
            self.file.unlink(missing_ok=True)

    async def _view(self) -> dict[str, Any]:
        output = await self._config("view", "--output=json")
        found: dict[str, Any] = json.loads(output)
        return found

    async def _config(self, *arguments: str) -> str:
        output = await succeed(
            self.run,
            [str(self.kubectl), "config", *arguments],
            failure=f"The kubeconfig {self.file} cannot be read or written",
            remedy="Repair it, or set KUBECONFIG to another file",
            limit=LIMIT,
            env=self.environ,
        )
        return output.stdout


def _named(found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return our entry of a kind; empty when there is none."""
    entries: list[dict[str, Any]] = found.get(kind) or []
    return next((entry for entry in entries if entry.get("name") == NAME), {})
