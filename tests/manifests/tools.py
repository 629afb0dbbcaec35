"""The programs that the manifests are rendered and checked with.

kubectl is the one that the pipeline finds. kube-score and cyclonus are built from k8s/checks, and
KEDA's definition of a ScaledObject comes out of its Go module: nothing of them is in git.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import yaml

from pipeline.cluster import versions
from pipeline.deploy.release import Image
from pipeline.deploy.render import render

from .objects import K8S, of, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .objects import Object

CHECKS = K8S / "checks"
WORKLOADS = ("slipway-api", "slipway-nginx")
IMAGES = tuple(
    Image(name.removeprefix("slipway-"), f"registry.example/{name}:1.2.3@sha256:{digit * 64}")
    for name, digit in zip(WORKLOADS, "56", strict=True)
)
BUILD_LIMIT = 600.0
"""Seconds that a first build may take on two processors, with the modules to fetch."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a connection.

    Attributes:
        ip: Its address.
        namespace: Its namespace; None for what is no pod.
        labels: Those of the pod.
    """

    ip: str
    namespace: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def json(self) -> Object:
        """Return it as cyclonus reads it."""
        if self.namespace is None:
            return {"IP": self.ip}
        inside = {
            "Namespace": self.namespace,
            "NamespaceLabels": {"kubernetes.io/metadata.name": self.namespace},
            "PodLabels": dict(self.labels),
        }
        return {"IP": self.ip, "Internal": inside}


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that somebody may want to open."""

    source: Peer
    destination: Peer
    port: int
    protocol: str = "TCP"

    def json(self) -> Object:
        """Return it as cyclonus reads it."""
        return {
            "Source": self.source.json(),
            "Destination": self.destination.json(),
            "ResolvedPort": self.port,
            "ResolvedPortName": "",
            "Protocol": self.protocol,
        }


def run(argv: Sequence[str | Path], *, stdin: str = "", limit: float = 60.0) -> str:
    """Return what a program wrote to standard output; fails the test when it fails."""
    done = subprocess.run(
        [str(each) for each in argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, f"{argv[0]} ended with {done.returncode}\n{done.stderr}"
    return done.stdout


def build(go: Path, folder: Path) -> None:
    """Build the tools of k8s/checks into a folder."""
    run([go, "-C", CHECKS, "build", "-o", f"{folder}/", "tool"], limit=BUILD_LIMIT)


def rendered(
    kubectl: Path, overlay: Path, namespace: str = "slipway", components: Sequence[Path] = ()
) -> list[Object]:
    """Return the objects of an overlay as the deploy step renders them.

    Args:
        kubectl: The program.
        overlay: The folder with its kustomization.
        namespace: Where they go.
        components: Folders of components to add to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        # Kustomize takes no absolute path.
        around = {
            "resources": [os.path.relpath(overlay, scratch)],
            "components": [os.path.relpath(each, scratch) for each in components],
        }
        (scratch / "kustomization.yaml").write_text(yaml.safe_dump(around))
        deploy = partial(render, pull_from="", kubectl=kubectl)
        return list(anyio.run(deploy, scratch, namespace, IMAGES))


def definition(go: Path) -> Object:
    """Return KEDA's definition of a ScaledObject, in the version that we deploy to."""
    module = f"github.com/kedacore/keda/v2@v{versions.KEDA}"
    found = json.loads(run([go, "mod", "download", "-json", module], limit=BUILD_LIMIT))
    file = Path(found["Dir"]) / "config/crd/bases/keda.sh_scaledobjects.yaml"
    (crd,) = parse(file.read_text())
    return crd


def autoscaler(scaled: Object) -> Object:
    """Return the autoscaler that KEDA makes of a ScaledObject, as far as it matters."""
    spec = scaled["spec"]
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": scaled["metadata"] | {"name": f"keda-hpa-{scaled['metadata']['name']}"},
        "spec": {
            "scaleTargetRef": spec["scaleTargetRef"],
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
        },
    }


def score(kube_score: Path, objects: Sequence[Object]) -> list[str]:
    """Return what kube-score has to say against objects, one line a finding.

    It knows nothing of KEDA, so the autoscalers that KEDA will make are added.
    """
    everything = [*objects, *(autoscaler(each) for each in of(objects, "ScaledObject"))]
    version = "v" + ".".join(map(str, versions.MINORS[-1]))
    argv: list[str | Path] = [kube_score, "score", "--output-format=json"]
    # The other optional ones want limits that equal requests: guaranteed and not burstable. What
    # these workloads need in a burst is ten times what they need otherwise.
    argv += [f"--enable-optional-test={each}" for each in OPTIONAL]
    done = subprocess.run(
        [*argv, f"--kubernetes-version={version}", "-"],
        input=yaml.safe_dump_all(everything),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # 1 is its answer to a critical finding.
    assert done.returncode in {0, 1}, done.stderr
    scored: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(scored) >= len(WORKLOADS), done.stdout
    return [
        f"{each['object_meta']['name']}: {check['check']['id']}: {comment['summary']}"
        for each in scored
        for check in each["checks"] or ()
        if not check["skipped"] and check["grade"] < _ALL_OK
        for comment in check["comments"] or [{"summary": "is not well"}]
    ]


OPTIONAL = ("container-seccomp-profile", "container-ports-check")
_ALL_OK = 10
"""kube-score's grade of what it has nothing against."""


def allowed(
    cyclonus: Path, policies: Sequence[Object], asked: Sequence[Connection], scratch: Path
) -> list[bool]:
    """Return, for each connection in turn, whether the policies let it through.

    Args:
        cyclonus: The program, which evaluates the policies as the Kubernetes API defines them.
        policies: NetworkPolicies.
        asked: The connections.
        scratch: A folder to write to.
    """
    folder = scratch / "policies"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, policy in enumerate(policies):
        (folder / f"{number}.yaml").write_text(yaml.safe_dump(policy))
    traffic = scratch / "traffic.json"
    traffic.write_text(json.dumps([each.json() for each in asked]))
    said = run(
        [
            cyclonus,
            "analyze",
            "--mode=query-traffic",
            f"--policy-path={folder}",
            f"--traffic-path={traffic}",
        ]
    )
    found = re.findall(r"\| IS ALLOWED\? +\| +(TRUE|FALSE)", said)
    assert len(found) == len(asked), said[:2000]
    return [verdict == "TRUE" for verdict in found]
