"""The Docker socket proxy before a real Docker Engine: the whole table of nginx/tests/calls.py.

What the proxy lets through goes on to the engine by way of a relay, which writes the request lines
down. The container that the calls are about is one of this test's own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import runpy
import socket
import socketserver
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio import to_thread

from pipeline import connect
from pipeline.config import Settings
from pipeline.connect import Engine
from tests.embedded import resources

from .conftest import DOCKER_HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import docker

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

ROOT = Path(__file__).resolve().parents[2]
# By its path: its package is called as this project's own tests are.
CALLS: dict[str, Any] = runpy.run_path(str(ROOT / "nginx/tests/calls.py"))
LIMIT = 10.0
"""Seconds that one call may take."""


class Relay(socketserver.ThreadingUnixStreamServer):
    """A Unix socket that leads to Docker's and notes the request lines, one for each connection."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.lines: list[str] = []
        super().__init__(str(path), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    timeout = LIMIT

    def handle(self) -> None:
        assert isinstance(self.server, Relay)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        self.server.lines.append(head.partition(b"\r\n")[0].decode("latin-1"))
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as engine:
            engine.settimeout(LIMIT)
            engine.connect(DOCKER_HOST.removeprefix("unix://"))
            engine.sendall(head)
            while data := engine.recv(65536):
                self.wfile.write(data)


@pytest.fixture
def relay() -> Iterator[tuple[Path, Relay]]:
    """Return a relay and its socket, in a folder with a short path: that of a socket is limited."""
    if not DOCKER_HOST.startswith("unix://"):
        pytest.skip(f"the relay leads to a Unix socket, and DOCKER_HOST is {DOCKER_HOST}")
    with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
        path = Path(folder) / "docker.sock"
        with Relay(path) as made:
            thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield path, made
            finally:
                made.shutdown()
                thread.join(LIMIT)


@pytest.fixture
def container(api: docker.APIClient, image: str) -> Iterator[str]:
    """Return the id of a container that runs, for as long as nobody stops it."""
    api.pull(image)
    made: str = api.create_container(
        image, ["sleep", "600"], environment=["SECRET=hidden"], labels={"io.slipway.test": ""}
    )["Id"]
    try:
        api.start(made)
        yield made
    finally:
        api.remove_container(made, force=True, v=True)


@contextlib.asynccontextmanager
async def serving(path: Path, folder: Path) -> AsyncIterator[int]:
    """Run the socket proxy of this checkout before a socket; yield the port that leads to it."""
    import dagger

    settings = Settings(root=ROOT, report_dir=folder, docker_host=DOCKER_HOST)
    engine = Engine("embedded", "0", "a test")
    async with connect.client(engine, settings, cache_dir=folder / "cache") as client:
        base = resources().bases["nginx"]
        proxy = (
            client.host()
            .directory(str(ROOT / "nginx"))
            .docker_build(target="runtime", build_args=[dagger.BuildArg("BASE", base)])
            .with_unix_socket(
                "/var/run/docker.sock",
                client.host().unix_socket(str(path)),
                owner="10001:10001",
            )
            .with_exposed_port(8080, experimental_skip_healthcheck=True)
            .with_exposed_port(2375)
            .as_service(args=["socket-proxy"], use_entrypoint=True)
        )
        ports = [dagger.PortForward(backend=2375, frontend=0)]
        tunnel = await client.host().tunnel(proxy, ports=ports).start()
        yield int((await tunnel.endpoint()).rpartition(":")[2])


def send(port: int, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and the body of the answer."""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as connection:
        connection.sendall(request)
        method = request.split(b" ", 1)[0].decode("latin-1")
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return response.status, response.read()


def ask(port: int, method: str, path: str) -> tuple[int, bytes]:
    """Send a request whose path goes out as it is given."""
    head = f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
    return send(port, head.encode("latin-1"))


def refusals(port: int, container: str) -> Iterator[tuple[str, int]]:
    """Send all that is to be refused; yield what got which status."""
    place = f"/{CALLS['CONTAINER']}/"
    for method, path in CALLS["DENIED"]:
        about = path.replace(place, f"/{container}/")
        yield f"{method} {about}", ask(port, method, about)[0]
    for request in CALLS["ODD"]:
        yield repr(request), send(port, request + b"\r\n")[0]


async def test_table_holds_before_a_real_engine(
    api: docker.APIClient,
    relay: tuple[Path, Relay],
    container: str,
    tmp_path: Path,
    tidy: None,  # noqa: ARG001 - what the engine keeps is removed
) -> None:
    """Nothing but the three calls reaches the engine, and these are answered by it.

    The container that is there is neither told of nor touched by anything else.
    """
    path, recorded = relay
    before = api.inspect_container(container)["State"]
    async with serving(path, tmp_path) as port:
        refused = await to_thread.run_sync(lambda: list(refusals(port, container)))
        assert len(refused) > 150
        assert [each for each in refused if each[1] != http.HTTPStatus.FORBIDDEN] == []
        assert recorded.lines == []

        for method, call in CALLS["ALLOWED"]:
            status, body = await to_thread.run_sync(ask, port, method, call)
            # Since and before name containers that are not there.
            if "since=" not in call:
                assert status == http.HTTPStatus.OK, (call, body)
        assert recorded.lines == [f"{method} {call} HTTP/1.1" for method, call in CALLS["ALLOWED"]]

        _, body = await to_thread.run_sync(ask, port, "GET", "/containers/json")
        assert container in {each["Id"] for each in json.loads(body)}
        assert b"hidden" not in body
    assert api.inspect_container(container)["State"] == before
