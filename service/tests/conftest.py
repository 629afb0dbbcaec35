"""A Docker Engine and a Kubernetes API server that are none.

They answer what a test says, over HTTP on the loopback interface, and record what is asked.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl

import pytest
import trustme
from slipway_api.sources import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from email.message import Message
    from pathlib import Path

# What Docker Engine 26.1 answers for one element, shortened by what nobody reads.
RUNNING: dict[str, Any] = {
    "Id": "4f" * 32,
    "Names": ["/web"],
    "Image": "nginx:1.29",
    "Command": "nginx",
    "Created": 1735689600,
    "Ports": [
        {"IP": "::", "PrivatePort": 8080, "PublicPort": 80, "Type": "tcp"},
        {"IP": "192.0.2.1", "PrivatePort": 8080, "PublicPort": 80, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ],
    "Labels": {"secret": "s3cr3t", "com.docker.compose.service": "web"},
    "State": "running",
    "Status": "Up 3 minutes (healthy)",
    "HostConfig": {"NetworkMode": "bridge"},
    "Mounts": [],
}
EXITED: dict[str, Any] = {
    **RUNNING,
    "Id": "a0" * 32,
    "Names": ["/job"],
    "Ports": [],
    "State": "exited",
    "Status": "Exited (0) 2 hours ago",
}

CONTAINER_STATES: dict[str, dict[str, Any]] = {
    "created": {"waiting": {"reason": "ContainerCreating"}},
    "restarting": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
    "running": {"running": {"startedAt": "2025-01-01T00:00:00Z"}},
    "exited": {
        "terminated": {
            "exitCode": 0,
            "reason": "Completed",
            "startedAt": "2025-01-01T00:00:00Z",
            "finishedAt": "2025-01-01T00:00:09Z",
            "containerID": "containerd://" + "a0" * 32,
        }
    },
}
"""What Kubernetes says about the state of a container, by what that is called here."""


IDS = {"exited": "a0"}
"""What the id of a container is made of, when it is not `4f`."""


def container_status(state: str = "running", **other: object) -> dict[str, Any]:
    """Make what Kubernetes says about a container, whose name is ``web``."""
    status: dict[str, Any] = {
        "name": "web",
        "image": "docker.io/library/nginx:1.29",
        "imageID": "docker.io/library/nginx@sha256:" + "0b" * 32,
        "containerID": None if state == "created" else "containerd://" + IDS.get(state, "4f") * 32,
        "restartCount": 3 if state == "restarting" else 0,
        "ready": state == "running",
        "started": state == "running",
        "state": CONTAINER_STATES[state],
        "lastState": {},
    }
    return status | other


def pod(
    name: str = "web-6d4cf56db6-x2x7q",
    state: str = "running",
    *,
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make a pod of one container, as Kubernetes 1.36 has it, shortened by what nobody reads.

    Args:
        name: The name of the pod.
        state: The state of its container.
        spec: What is different in the spec.
        status: The same in the status.
        metadata: The same in the metadata.
    """
    return {
        "metadata": {
            "name": name,
            "namespace": "slipway",
            "uid": "0a3c1d6e-7b1f-4a52-9f33-5d8f1c6f4f10",
            "resourceVersion": "1042",
            "creationTimestamp": "2024-12-31T23:59:58Z",
            "labels": {"secret": "s3cr3t", "app.kubernetes.io/name": "web"},
            "annotations": {"secret": "s3cr3t"},
            "managedFields": [
                {
                    "manager": "kubelet",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": "2025-01-01T00:00:01Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:status": {"f:phase": {}}},
                    "subresource": "status",
                }
            ],
            **(metadata or {}),
        },
        "spec": {
            "nodeName": "node-1",
            "restartPolicy": "Always",
            "containers": [
                {
                    "name": "web",
                    "image": "nginx:1.29",
                    "env": [{"name": "SECRET", "value": "s3cr3t"}],
                    "ports": [
                        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                        {"containerPort": 53, "protocol": "UDP", "hostPort": 5353},
                    ],
                    "resources": {"requests": {"cpu": "50m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
                    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
            **(spec or {}),
        },
        "status": {
            "phase": "Running",
            "podIP": "10.244.0.7",
            "containerStatuses": [container_status(state)],
            **(status or {}),
        },
    }


class FakeServer:
    """Answers lists over HTTP on the loopback interface.

    Attributes:
        name: What the source that asks it is called.
        states: The states that it knows.
        environment: What the API is told, so that it asks here.
        body: Sent instead of a list's own, when not None.
        status: The status of a list.
        drop: How many lists end with the connection closed and no answer.
        answer: While it is not set, lists hang.
        asked: The request line's method and path of each request, without the query.
        connections: How many there were.
    """

    name: ClassVar[str]
    states: ClassVar[tuple[str, ...]]
    environment: Mapping[str, str]

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.body: bytes | None = None
        self.status = 200
        self.drop = 0
        self.answer = threading.Event()
        self.answer.set()
        self.asked: list[str] = []
        self.connections = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # as in Go, in which the true ones are written

            def setup(self) -> None:
                fake.connections += 1
                super().setup()

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                fake.asked.append(f"{self.command} {path}")
                at_once = fake.at_once(path)
                if at_once is not None:
                    self._send(200, at_once)
                    return
                fake.answer.wait(30)
                if fake.drop:
                    fake.drop -= 1
                    self.close_connection = True
                    return
                status, body = fake.listing(path, dict(parse_qsl(query)), self.headers)
                self._send(status, body if fake.body is None else fake.body)

            def _send(self, status: int, body: bytes) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # the client has given up

            def log_message(self, *args: object) -> None:
                """Keep the test's output for the test."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """Be silent about a client that does not trust the certificate."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            # The handshake is for the thread of the connection: here, a client that does not
            # answer would keep all others waiting.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def at_once(self, path: str) -> bytes | None:
        """Return what a path that is no list answers."""

    def listing(self, path: str, query: Mapping[str, str], headers: Message) -> tuple[int, bytes]:
        """Return status and body of a list."""
        raise NotImplementedError

    def hold_each_state(self) -> None:
        """Hold one container in each state that it knows."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what hangs, and of the port."""
        self.answer.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


class FakeDocker(FakeServer):
    """Answers like a Docker Engine.

    Attributes:
        containers: What the list answers; may be anything that JSON can say.
    """

    name = "docker"
    states = STATES

    def __init__(self) -> None:
        super().__init__()
        self.containers: Any = [RUNNING, EXITED]
        self.environment = {"SLIPWAY_SOURCE": "docker", "DOCKER_HOST": self.host}

    @property
    def host(self) -> str:
        """As in ``DOCKER_HOST``."""
        return f"tcp://127.0.0.1:{self.port}"

    def at_once(self, path: str) -> bytes | None:
        """Return the version."""
        return b'{"ApiVersion": "1.45"}' if path == "/version" else None

    def listing(self, path: str, query: Mapping[str, str], headers: Message) -> tuple[int, bytes]:
        """Return the containers."""
        del path, query, headers
        return self.status, json.dumps(self.containers).encode()

    def hold_each_state(self) -> None:
        """Hold one container in each state."""
        self.containers = [
            {**RUNNING, "Id": f"{number:02x}" * 32, "State": state}
            for number, state in enumerate(self.states)
        ]


class FakeKubernetes(FakeServer):
    """Answers like a Kubernetes API server, with a certificate of its own CA.

    Attributes:
        pods: What the list answers; may be anything that JSON can say.
        token: The one that it accepts.
        allowed: Whether whoever has it may list pods.
        limits: For each list, the parameters ``limit`` and ``continue``.
        account: The folder that it mounts into pods.
    """

    name = "kubernetes"
    states = tuple(CONTAINER_STATES)

    def __init__(self, account: Path, ca: trustme.CA) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(tls)
        super().__init__(tls)
        self.pods: Any = [
            pod(),
            pod(
                "job-xr6lq",
                spec={"containers": [{"name": "job", "image": "nginx:1.29"}]},
                status={
                    "phase": "Succeeded",
                    "containerStatuses": [container_status("exited", name="job")],
                },
            ),
        ]
        self.token = "first"
        self.allowed = True
        self.limits: list[tuple[str | None, str | None]] = []
        self.account = account
        for name, content in {
            "token": self.token,
            "namespace": "slipway",
            "ca.crt": ca.cert_pem.bytes().decode(),
        }.items():
            self.mount(name, content)
        self.environment = {
            "SLIPWAY_SOURCE": "kubernetes",
            "SLIPWAY_SERVICE_ACCOUNT": str(account),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
        }

    def mount(self, name: str, content: str) -> None:
        """Put a file into the folder as Kubernetes does: a new one takes the place of the old."""
        new = self.account / f"{name}.new"
        new.write_text(content)
        new.replace(self.account / name)

    def listing(self, path: str, query: Mapping[str, str], headers: Message) -> tuple[int, bytes]:
        """Return a page of the pods, or a refusal."""
        if headers.get("Authorization") != f"Bearer {self.token}":
            return self._refusal(401, "Unauthorized")
        if path != "/api/v1/namespaces/slipway/pods" or not self.allowed:
            return self._refusal(403, 'User "system:serviceaccount:slipway:api" cannot list')
        if self.status != 200:
            return self._refusal(self.status, "no")
        self.limits.append((query.get("limit"), query.get("continue")))
        start = int(query.get("continue", "0"))
        end = start + int(query.get("limit", len(self.pods)))
        metadata = {"resourceVersion": "1043"}
        if end < len(self.pods):
            metadata["continue"] = str(end)
        page = {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": metadata,
            "items": self.pods[start:end],
        }
        return 200, json.dumps(page).encode()

    def _refusal(self, code: int, message: str) -> tuple[int, bytes]:
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "code": code,
        }
        return code, json.dumps(status).encode()

    def hold_each_state(self) -> None:
        """Hold one pod for each state."""
        self.pods = [
            pod(
                f"web-{state}",
                state,
                metadata={"uid": f"uid-{state}"},
                status={
                    "containerStatuses": [
                        container_status(
                            state,
                            containerID=None
                            if state == "created"
                            else "containerd://" + f"{number:02x}" * 32,
                        )
                    ]
                },
            )
            for number, state in enumerate(self.states)
        ]


@pytest.fixture
def fake_docker() -> Iterator[FakeDocker]:
    """A Docker Engine with one running and one exited container."""
    fake = FakeDocker()
    try:
        yield fake
    finally:
        fake.close()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The CA of a cluster."""
    return trustme.CA()


@pytest.fixture
def fake_kubernetes(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeKubernetes]:
    """A Kubernetes with one running pod and one that has ended, as this process's own cluster."""
    account = tmp_path / "serviceaccount"
    account.mkdir()
    fake = FakeKubernetes(account, authority)
    for variable in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.setenv(variable, fake.environment[variable])
    try:
        yield fake
    finally:
        fake.close()


@pytest.fixture(params=["docker", "kubernetes"])
def fake(request: pytest.FixtureRequest) -> FakeServer:
    """Each of them."""
    found: FakeServer = request.getfixturevalue(f"fake_{request.param}")
    return found


@pytest.fixture
def bare_environment() -> dict[str, str]:
    """The environment without what tells this process where containers come from."""
    named = ("SLIPWAY_", "DOCKER_HOST", "KUBERNETES_")
    return {name: value for name, value in os.environ.items() if not name.startswith(named)}


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Find a port of the loopback interface on which nothing listens.

    It is kept until the test ends: who says that the address may be used again, as gunicorn does,
    can listen there, and the system gives it to nobody else.
    """
    with ExitStack() as kept:

        def find() -> int:
            holder = kept.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
            return int(holder.getsockname()[1])

        yield find
