"""Fakes for the tests of set-up: servers on real sockets, and a recorder of programs."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.setup.bases import Probe
from pipeline.setup.command import Output
from pipeline.setup.daemon import Machine
from pipeline.setup.docker import Docker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Answer = tuple[int, object, dict[str, str]]


@dataclass
class FakeSettings:
    """The settings that set-up reads."""

    registry: str = "127.0.0.1:5050"
    bases: str = "debian"
    engine: str = "auto"
    docker_host: str = "unix:///nowhere/docker.sock"
    ca: Path | None = None


@dataclass
class Recorder:
    """Runs nothing: records what was to be run, and answers by the first words of it."""

    outputs: dict[str, Output] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    environments: list[Mapping[str, str] | None] = field(default_factory=list)
    on_call: Callable[[str], None] | None = None

    async def __call__(
        self, argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None
    ) -> Output:
        """Record the call, and answer it."""
        assert limit > 0
        line = " ".join(argv)
        self.calls.append(line)
        self.environments.append(env)
        if self.on_call is not None:
            self.on_call(line)
        for words, output in self.outputs.items():
            if line.startswith(words):
                return output
        return Output(0, "", "")


def machine(recorder: Recorder, said: list[str], **facts: Any) -> Machine:  # noqa: ANN401
    """Return a machine on which root may do everything, but for the facts given."""
    known: dict[str, Any] = {
        "root": True,
        "apt": True,
        "systemd": False,
        "distribution": "debian",
        "say": said.append,
        "run": recorder,
        "dockerd": lambda: "/usr/sbin/dockerd",
        "client": lambda: Path("/usr/bin/docker"),
        "plugin": lambda: Path("/usr/libexec/docker/cli-plugins/docker-buildx"),
        "sources": Path("/nowhere/apt"),
    }
    return Machine(**(known | facts))


def offline(_ca: Path | None) -> Probe:
    """Ask the official registry on a machine without the internet."""
    return Probe(answered=False, detail="name not known", references={})


def online(_ca: Path | None) -> Probe:
    """Ask the official registry on a machine with the internet."""
    return Probe(answered=True, detail="it answers", references={"api": "python@sha256:1"})


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    answer: Callable[[str, str, Any], Answer]

    def _do(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        sent = json.loads(self.rfile.read(length)) if length else None
        status, body, headers = type(self).answer(self.command, self.path, sent)
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_HEAD = _do  # noqa: N815  http.server's names

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def address_string(self) -> str:
        return "fake"


@contextmanager
def _serve(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class FakeDocker:
    """A Docker Engine: images by name, containers by name; starting one runs ``on_start``."""

    host: str = ""
    images: set[str] = field(default_factory=set)
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ping_answer: Answer = (200, "OK", {})
    start_answer: Answer = (204, "", {})
    create_answer: Answer | None = None
    on_start: Callable[[dict[str, Any]], None] | None = None

    @property
    def client(self) -> Docker:
        """Return a client of it."""
        return Docker(self.host)

    def answer(self, method: str, path: str, sent: Any) -> Answer:  # noqa: ANN401, C901, PLR0912  one case a route
        """Answer one request as Docker 26 does."""
        self.requests.append(f"{method} {path}")
        path, _, query = path.partition("?")
        words = path.strip("/").split("/")
        match [method, *words]:
            case ["GET", "_ping"]:
                return self.ping_answer
            case ["GET", "version"]:
                return 200, {"Version": "26.1.5"}, {}
            case ["GET", "info"]:
                return 200, {"DockerRootDir": "/"}, {}
            case ["GET", "images", *name, "json"]:
                return (200 if "/".join(name) in self.images else 404), {}, {}
            case ["GET", "containers", "json"]:
                names = [c["Name"] for c in self.containers.values() if c["State"]["Running"]]
                return 200, [{"Names": [f"/{name}"]} for name in names], {}
            case ["POST", "containers", "create"]:
                if self.create_answer is not None:
                    return self.create_answer
                named = query.removeprefix("name=")
                made = {"Id": f"id-{named}", "Name": named, "State": {"Running": False}, **sent}
                self.containers[named] = made
                return 201, {"Id": made["Id"]}, {}
        found = self._find(words[1]) if len(words) > 1 else None
        if found is None:
            return 404, {"message": f"no such thing: {path}"}, {}
        match [method, *words]:
            case ["GET", "containers", _, "json"]:
                return 200, found, {}
            case ["POST", "containers", _, "start"]:
                if self.start_answer[0] < 400:
                    found["State"]["Running"] = True
                    if self.on_start is not None:
                        self.on_start(found)
                return self.start_answer
            case ["POST", "containers", _, "stop"]:
                found["State"]["Running"] = False
                return 204, "", {}
            case ["DELETE", "containers", _]:
                del self.containers[found["Name"]]
                return 204, "", {}
        return 404, {"message": f"no such route: {path}"}, {}

    def _find(self, name: str) -> dict[str, Any] | None:
        return next((c for c in self.containers.values() if name in {c["Name"], c["Id"]}), None)


@contextmanager
def fake_docker(folder: Path) -> Iterator[FakeDocker]:
    """Serve a Docker Engine on a socket in a folder."""
    path = folder / "docker.sock"
    docker = FakeDocker(host=f"unix://{path}")
    handler = type("Handler", (_Handler,), {"answer": staticmethod(docker.answer)})
    with _serve(_UnixServer(str(path), handler)):
        yield docker
    path.unlink(missing_ok=True)


@dataclass
class FakeRegistry:
    """A registry: digests by ``repository:tag``."""

    address: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    status: int = 200
    version: str = "registry/2.0"

    def answer(self, _method: str, path: str, _sent: object) -> Answer:
        """Answer one request as the distribution's registry does."""
        headers = {"Docker-Distribution-Api-Version": self.version}
        if path == "/v2/" or self.status != 200:
            return self.status, "{}", headers
        repository, _, tag = path.removeprefix("/v2/").partition("/manifests/")
        digest = self.digests.get(f"{repository}:{tag}")
        if digest is None:
            return 404, "{}", headers
        return 200, "{}", headers | {"Docker-Content-Digest": digest}


@contextmanager
def fake_registry(port: int = 0) -> Iterator[FakeRegistry]:
    """Serve a registry on the loopback interface, on a free port unless one is named."""
    registry = FakeRegistry()
    handler = type("Handler", (_Handler,), {"answer": staticmethod(registry.answer)})
    server = _Server(("127.0.0.1", port), handler)
    registry.address = f"127.0.0.1:{server.server_address[1]}"
    with _serve(server):
        yield registry
