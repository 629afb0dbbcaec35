"""What becomes of the pods of a namespace, told by the API server as it happens.

One ``kubectl get --raw …?watch`` costs next to nothing, where asking again and again would take
processor time from what is measured.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NAME = "app.kubernetes.io/name"
POLL = 0.05


@dataclass(frozen=True, slots=True)
class Moment:
    """How many pods there were from some moment on.

    Attributes:
        at: The moment, of the monotonic clock.
        ready: Pods that serve, by workload.
        present: Pods that are there and not on their way out, by workload.
    """

    at: float
    ready: Mapping[str, int]
    present: Mapping[str, int]


class Watch:
    """A record of the pods of a namespace, kept while it is entered.

    Args:
        kubectl: The program with the arguments that name the cluster.
        environ: Its environment.
        namespace: Whose pods.
    """

    def __init__(self, kubectl: Sequence[str], environ: Mapping[str, str], namespace: str) -> None:
        # What is there comes first, and a bookmark after it: half a list is no moment.
        path = (
            f"/api/v1/namespaces/{namespace}/pods?watch=true&allowWatchBookmarks=true"
            "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        )
        self._argv = [*kubectl, "get", "--raw", path]
        self._environ = dict(environ)
        self._pods: dict[str, dict[str, Any]] = {}
        self._whole = False
        self._moments: list[Moment] = []
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(10)

    @property
    def moments(self) -> tuple[Moment, ...]:
        """All that was seen so far."""
        return tuple(self._moments)

    def most(self, workload: str) -> int:
        """Return the largest number of pods of a workload that were ready at once."""
        return max((moment.ready.get(workload, 0) for moment in self._moments), default=0)

    def until(self, done: Callable[[Moment], bool], limit: float) -> float:
        """Return the moment from which on something is so, of the monotonic clock.

        Args:
            done: Says of a moment whether it is so.
            limit: Seconds to wait for it.

        Raises:
            TimeoutError: It was not so within the limit; the message has the last moment.
        """
        began = time.monotonic()
        looked = max(len(self._moments) - 1, 0)
        while True:
            for moment in self._moments[looked:]:
                looked += 1
                if done(moment):
                    return max(moment.at, began)
            if time.monotonic() - began > limit:
                raise TimeoutError(f"not so within {limit:.0f} s: {self._moments[-1:]}")
            time.sleep(POLL)

    def _run(self) -> None:
        while not self._ended.is_set():
            with subprocess.Popen(
                self._argv,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process:
                self._process = process
                # What went while nobody looked is not in what a watch begins with.
                self._pods, self._whole = {}, False
                if process.stdout is not None:
                    for line in process.stdout:
                        self._take(json.loads(line))
            # The API server was away, or closed a watch that had lasted for long.
            self._ended.wait(0.5)

    def _take(self, event: Mapping[str, Any]) -> None:
        pod = event["object"]
        metadata = pod.get("metadata") or {}
        if event["type"] == "DELETED":
            self._pods.pop(metadata["name"], None)
        elif event["type"] in {"ADDED", "MODIFIED"}:
            self._pods[metadata["name"]] = pod
        elif "k8s.io/initial-events-end" in (metadata.get("annotations") or {}):
            self._whole = True
        else:
            return
        if not self._whole:
            return
        ready: dict[str, int] = {}
        present: dict[str, int] = {}
        for each in self._pods.values():
            workload = (each["metadata"].get("labels") or {}).get(NAME, "")
            leaving = "deletionTimestamp" in each["metadata"]
            present[workload] = present.get(workload, 0) + (not leaving)
            ready[workload] = ready.get(workload, 0) + (not leaving and is_ready(each))
        self._moments.append(Moment(time.monotonic(), ready, present))


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether Kubernetes says of a pod that it serves."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
