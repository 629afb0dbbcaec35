"""Containers from Kubernetes, by listing the pods of the API's own namespace and nothing else.

What Kubernetes says about a container is told in Docker's words:

- ``running`` is ``running``, also while its pod is being deleted: its process is there until it
  ends.
- ``terminated`` is ``exited``.
- ``waiting`` is ``created`` before the first start and ``restarting`` after it.

``paused``, ``removing`` and ``dead`` do not occur. The reason that Kubernetes gives, such as
``CrashLoopBackOff`` or ``OOMKilled``, is the status. Init containers, sidecars among them, and
ephemeral ones are listed as the others are: what has done its work is ``exited``, and so not in the
list without a filter.
"""

from __future__ import annotations

import logging
import ssl
import threading
import weakref
from dataclasses import dataclass
from datetime import UTC
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import httpcore2  # noqa: F401 - httpx2 does it with the first request, whose time is limited
import httpx2
import msgspec
from lightkube import Client, KubeConfig
from lightkube.core.exceptions import ConfigError
from lightkube.models.core_v1 import ContainerState, PodSpec, PodStatus
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from slipway_api.sources import PodContainer, Port, SourceError, SourceTimeout, in_order, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from lightkube.models.core_v1 import Container as ContainerSpec
    from lightkube.models.core_v1 import ContainerPort, ContainerStatus, EphemeralContainer

    from slipway_api.sources import Health

log = logging.getLogger(__name__)

PAGE = 500
"""Pods in one answer, as ``kubectl`` asks for them."""

MOST_PODS = 5000
"""Beyond that the list is refused rather than cut: a page has some megabytes."""

# What a load balancer before the API server answers when there is no server behind it.
_GATEWAY_ERRORS = frozenset({502, 503, 504})

# The phases of a pod after which none of its containers starts any more.
_ENDED = frozenset({"Succeeded", "Failed"})

_INCOMPLETE = "Kubernetes cannot be asked, because the pod's service account is not complete"


class KubernetesSource:
    """Lists the containers of the pods in one namespace, that of the service account.

    Where Kubernetes answers is in the variables that it puts into each pod. Token and CA are read
    again when their files have changed, since both are replaced while the pod runs.

    Args:
        service_account: The folder of ``token``, ``ca.crt`` and ``namespace``.
        timeout: Seconds to connect and seconds between two pieces of an answer.
        prefixes: What the labels begin with that are shown; a container has those of its pod.
    """

    name = "kubernetes"

    def __init__(self, service_account: str, timeout: float, prefixes: tuple[str, ...]) -> None:
        self._prefixes = prefixes
        self._folder = Path(service_account)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._kept: _Connection | None = None

    def containers(self) -> tuple[PodContainer, ...]:
        """List all containers with one request for each ``PAGE`` pods.

        Raises:
            SourceError: Kubernetes is gone, refuses, or answers what is not a list of pods, or has
                more than ``MOST_PODS``.
        """
        try:
            return tuple(found for pod in self._list() for found in containers(pod, self._prefixes))
        except httpx2.TimeoutException as error:
            raise SourceTimeout(f"Kubernetes did not answer within {self._timeout:g} s") from error
        except httpx2.TransportError as error:
            raise SourceError("Kubernetes cannot be reached") from error
        except (ConfigError, OSError) as error:
            raise SourceError(_INCOMPLETE) from error
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            msgspec.MsgspecError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise SourceError(_sentence(_status(error))) from error

    def _list(self) -> list[Pod]:
        with self._lock:
            # Whoever uses a connection has it alone: closing it must not disturb anybody else.
            connection, self._kept = self._kept, None
        if connection is not None:
            if connection.stamp == self._stamp():
                try:
                    return self._ask(connection)
                except httpx2.TimeoutException:
                    raise
                except httpx2.TransportError:
                    # The other side may have closed a connection that was kept for the next
                    # request, which says nothing about whether it answers.
                    log.debug("a kept connection to Kubernetes was closed; asking on a new one")
            else:
                connection.client.close()
        return self._ask(self._connect())

    def _ask(self, connection: _Connection) -> list[Pod]:
        try:
            # One more than is allowed, so that too many can be told from just as many.
            pods = list(islice(connection.client.list(Pod, chunk_size=PAGE), MOST_PODS + 1))
        except BaseException:
            connection.client.close()
            raise
        with self._lock:
            spare, self._kept = self._kept, connection
        if spare is not None:
            spare.client.close()
        if len(pods) > MOST_PODS:
            raise SourceError(f"The namespace has more than {MOST_PODS} pods")
        return pods

    def _connect(self) -> _Connection:
        stamp = self._stamp()
        try:
            config = KubeConfig.from_service_account(str(self._folder))
        except KeyError as error:
            raise SourceError(
                f"Kubernetes cannot be asked, because {error.args[0]} is not set"
            ) from error
        context = ssl.create_default_context(cafile=self._folder / "ca.crt")
        # From Python 3.13 on, it refuses the CA of many a cluster, that of EKS for one, for want of
        # an extension (https://github.com/tomplus/kubernetes_asyncio/issues/349).
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        transport = httpx2.HTTPTransport(verify=context)
        client = Client(
            config,
            timeout=httpx2.Timeout(self._timeout),
            trust_env=False,  # a proxy for the internet is not the way to Kubernetes
            transport=transport,
        )
        weakref.finalize(client, transport.close)  # the one that is kept when the source is not
        return _Connection(client, stamp)

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """Tell one content of the folder from the next; Kubernetes replaces whole files."""
        found = (Path(self._folder, name).stat() for name in ("token", "ca.crt", "namespace"))
        return tuple((stat.st_ino, stat.st_mtime_ns) for stat in found)


@dataclass(frozen=True, slots=True)
class _Connection:
    """A client, and the stamp of the files that it was made from."""

    client: Client
    stamp: tuple[tuple[int, int], ...]


def containers(pod: Pod, prefixes: tuple[str, ...]) -> Iterator[PodContainer]:
    """Turn a pod into its containers: init containers, then its own, then ephemeral ones.

    Raises:
        ValueError: It is none.
    """
    metadata = pod.metadata or ObjectMeta()
    spec = pod.spec or PodSpec(containers=[])
    status = pod.status or PodStatus()
    if not (metadata.name and metadata.uid and metadata.creationTimestamp):
        raise ValueError("a pod without a name, a UID or a time of creation")
    labels = shown(metadata.labels, prefixes)
    said = {
        item.name: item
        for item in (
            *(status.initContainerStatuses or ()),
            *(status.containerStatuses or ()),
            *(status.ephemeralContainerStatuses or ()),
        )
    }
    for item in (*(spec.initContainers or ()), *spec.containers, *(spec.ephemeralContainers or ())):
        found = said.get(item.name)
        state, reason, since = _state(metadata, status, found)
        yield PodContainer(
            id=_identity(found) or f"{metadata.uid}/{item.name}",
            name=item.name,
            image=item.image or "",
            state=state,
            status=reason,
            health=_health(item, state, found),
            created=(since or metadata.creationTimestamp).astimezone(UTC),
            ports=in_order(_ports(item.ports or ())),
            labels=labels,
            pod=metadata.name,
            node=spec.nodeName,
            restarts=found.restartCount if found else 0,
            ready=found.ready if found else False,
        )


def _identity(found: ContainerStatus | None) -> str | None:
    # `containerd://4f4f…`; the scheme is the runtime's, the rest what Docker would call the id.
    return found.containerID.rpartition("/")[2] if found and found.containerID else None


def _state(
    metadata: ObjectMeta, status: PodStatus, found: ContainerStatus | None
) -> tuple[str, str, datetime | None]:
    """Return state, status and time of creation of a container."""
    state = (found.state if found else None) or ContainerState()
    if state.running:
        reason = "Terminating" if metadata.deletionTimestamp else status.reason or "Running"
        return "running", reason, state.running.startedAt
    if state.terminated:
        ended = state.terminated
        return "exited", ended.reason or f"Exited ({ended.exitCode})", ended.startedAt
    if status.phase in _ENDED:
        # Evicted before the kubelet told of its containers, for one.
        return "exited", status.reason or status.phase, None
    reason = (state.waiting.reason if state.waiting else None) or _hold_up(status)
    ran = found and (found.restartCount or (found.lastState and found.lastState.terminated))
    return "restarting" if ran else "created", reason, None


def _health(
    item: ContainerSpec | EphemeralContainer, state: str, found: ContainerStatus | None
) -> Health | None:
    # Kubernetes calls a container without a probe ready as soon as it runs, which is no check.
    probed = item.startupProbe or item.readinessProbe or item.livenessProbe
    if not probed or state != "running" or found is None:
        return None
    if found.ready:
        return "healthy"
    return "unhealthy" if found.started else "starting"


def _hold_up(status: PodStatus) -> str:
    """Return why a pod has not come as far as its containers."""
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status != "True" and condition.reason:
            return condition.reason  # `Unschedulable`
    return status.reason or "Waiting"


def _ports(ports: Iterable[ContainerPort]) -> Iterator[Port]:
    for port in ports:
        published = port.hostPort or None
        yield Port(
            private_port=port.containerPort,
            public_port=published,
            protocol=(port.protocol or "TCP").lower(),
            ip=(port.hostIP or "0.0.0.0") if published else None,  # noqa: S104 - as Docker says it
        )


def _status(error: BaseException | None) -> int | None:
    # lightkube stumbles over an error whose body is not a Status, such as a load balancer's page;
    # the error with the status is then the one during whose handling it did.
    while error is not None:
        if isinstance(error, httpx2.HTTPStatusError):
            return error.response.status_code
        error = error.__context__
    return None


def _sentence(status: int | None) -> str:
    if status is None:
        return "Kubernetes' answer is not a list of pods"
    if status in _GATEWAY_ERRORS:
        return "Kubernetes cannot be reached"
    if status == HTTPStatus.UNAUTHORIZED:
        return "Kubernetes does not accept the token of the pod's service account (401)"
    if status == HTTPStatus.FORBIDDEN:
        return (
            "Kubernetes refused (403): the pod's service account lacks the right to list pods in"
            " its namespace"
        )
    return f"Kubernetes refused to list pods ({status})"
