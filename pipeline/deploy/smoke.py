"""The smoke test: ask for the list of containers through Nginx, and hold it against the cluster.

It asks through the API server's proxy of the Nginx Service
(``/api/v1/namespaces/…/services/http:slipway-nginx:…/proxy``), because that

- goes through the Service, to a ready endpoint of its, where a port-forward goes to one pod that we
  chose, past Service, endpoints and network policies;
- comes from outside of the namespace, as a client does, so the policies that let nobody but Nginx
  in are kept, and Nginx and the API are reached only in the way that they are meant to be;
- needs nothing but ``get services/proxy``: no address of a node, no load balancer, no tunnel, no
  open port on this machine.

What it must answer is the very pods that were deployed: all pods of the present templates, none of
an earlier one, and ``source`` says that Kubernetes was asked and not Docker.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.deploy.readiness import pods_of
from pipeline.deploy.release import identity
from pipeline.deploy.wait import Time, observe
from pipeline.errors import StepError
from pipeline.kube import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.deploy.readiness import Snapshot
    from pipeline.deploy.release import Object
    from pipeline.kube import Answer, Kube

LIMIT = 45.0
"""Seconds for the list to be right: the API may keep one for a second, and pods come and go while
the autoscalers find their number."""
PAUSE = 1.0
SERVICE = "slipway-nginx"
PATH = "/api/v1/containers"
ANSWER_LIMIT = 8 * 1024 * 1024


class SmokeFailed(StepError):
    """What was deployed does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found.

    Attributes:
        pods: The pods that were listed as they are.
        wrong: What is wrong; empty when nothing is.
        evidence: What was answered.
    """

    pods: tuple[str, ...] = ()
    wrong: str = ""
    evidence: str = ""


async def smoke(
    kube: Kube,
    objects: Sequence[Object],
    namespace: str,
    *,
    limit: float = LIMIT,
    tempo: Time | None = None,
) -> tuple[str, ...]:
    """Return the pods that the deployed system lists, when they are the deployed ones.

    Args:
        kube: The cluster.
        objects: What was applied.
        namespace: Where.
        limit: Seconds until the list has to be right.
        tempo: Where time comes from.

    Raises:
        SmokeFailed: It does not answer, or with something else.
        Away: The cluster has not answered for long.
    """
    tempo = tempo or Time()
    service = next(
        (each for each in objects if _is_service(each) and each["metadata"]["name"] == SERVICE),
        None,
    )
    if service is None:
        raise SmokeFailed(
            f"The manifests have no Service {SERVICE} to ask",
            remedy="Add one to the overlay: the smoke test goes through it",
        )
    port = (service.get("spec") or {})["ports"][0]
    named = port.get("name") or port["port"]
    way = f"/api/v1/namespaces/{namespace}/services/http:{SERVICE}:{named}/proxy{PATH}"
    deployments = [identity(each) for each in objects if each["kind"] == "Deployment"]
    began = tempo.clock()
    while True:
        answer = await kube.raw(way, limit=ANSWER_LIMIT)
        found = compare(answer, await observe(kube, deployments))
        if not found.wrong:
            return found.pods
        if tempo.clock() - began >= limit:
            raise SmokeFailed(
                f"The smoke test failed: GET {PATH} through {SERVICE} {found.wrong}",
                evidence=found.evidence,
            )
        await tempo.sleep(PAUSE)


def compare(answer: Answer, snapshot: Snapshot) -> Finding:
    """Hold an answer against what the cluster says of the Deployments."""
    text = answer.body.decode(errors="replace")
    if not answer.ok:
        return Finding(wrong=f"answers {answer.status}{_of_kubernetes(text)}", evidence=text[:2000])
    try:
        listed = json.loads(answer.body)
        items = listed["containers"]
        source = listed.get("source")
        named = {str(item["pod"]) for item in items if item.get("pod")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return Finding(wrong="answers with what is no list of containers", evidence=text[:2000])
    if source != "kubernetes":
        return Finding(
            wrong=f"lists what {source or 'an unnamed source'} says, and not Kubernetes",
            evidence=text[:2000],
        )
    present: set[str] = set()
    past: set[str] = set()
    for deployment in snapshot.objects.values():
        new, old = pods_of(deployment, snapshot)
        present |= set(_running(new))
        past |= set(_running(old))
    missing, left = present - named, past & named
    if missing or left:
        parts = [f"lacks {', '.join(sorted(missing))}"] if missing else []
        parts += [f"still has {', '.join(sorted(left))}"] if left else []
        return Finding(wrong=" and ".join(parts), evidence=f"It lists {', '.join(sorted(named))}")
    if not present:
        return Finding(wrong="has nothing to be held against: no pod runs", evidence=text[:2000])
    return Finding(pods=tuple(sorted(present)))


def _running(pods: Iterable[Object]) -> list[str]:
    return [
        str(pod["metadata"]["name"])
        for pod in pods
        if (pod.get("status") or {}).get("phase") == "Running"
        and not pod["metadata"].get("deletionTimestamp")
    ]


def _of_kubernetes(text: str) -> str:
    """Return what the API server says when it was not Nginx that answered; empty when it was."""
    try:
        status: Mapping[str, Any] = json.loads(text)
        if status["kind"] == "Status" and status["apiVersion"] == "v1":
            return f" (the API server: {status.get('message', '')})"
    except (ValueError, KeyError, TypeError):
        return ""
    return ""


def _is_service(obj: Object) -> bool:
    return Kind.of(obj) == Kind("", "Service")
