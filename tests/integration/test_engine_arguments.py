"""Each argument of each field that the engine serves: honoured, or refused by its name.

``CASES`` has one entry for each of them, and a test holds it against what a real engine answers
to introspection, so that an argument without a case fails.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.server
import json
import re
import secrets
import socket
import socketserver
import tarfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import dagger
import httpx
import pytest
from dagger import CacheSharingMode, ImageLayerCompression, ImageMediaTypes, NetworkProtocol

from pipeline.engine.schema import SERVED, build
from tests.embedded import engine, resources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from pipeline.engine.session import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

SCHEMA = Path(__file__).parent.parent / "contract" / "dagger-schema.json"
UUID = "cat /proc/sys/kernel/random/uuid"


@dataclass(frozen=True)
class World:
    """What a case has: a client, a container to start from, and the machine around it."""

    dag: dagger.Client
    base: dagger.Container
    image: str
    registry: str
    folder: Path
    endpoint: Endpoint

    async def query(self, text: str) -> dict[str, Any]:
        """Send a query by hand; return its data."""
        async with httpx.AsyncClient(auth=(self.endpoint.token, ""), trust_env=False) as client:
            url = f"http://127.0.0.1:{self.endpoint.port}/query"
            answer = await client.post(url, json={"query": text}, timeout=60)
        body = answer.json()
        assert "errors" not in body, body
        data: dict[str, Any] = body["data"]
        return data

    def files(self, **files: str) -> dagger.Directory:
        """Return a folder; two underscores in a name stand for a dot, three for a slash."""
        folder = self.dag.directory()
        for name, text in files.items():
            path = name.replace("___", "/").replace("__", ".")
            folder = folder.with_new_file(path, text)
        return folder

    def place(self, **files: str) -> Path:
        """Return a new folder of the host; names as in ``files``."""
        folder = self.folder / secrets.token_hex(4)
        folder.mkdir()
        for name, text in files.items():
            path = folder / name.replace("___", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder


CASES: dict[tuple[str, str], Callable[[World], Awaitable[None]]] = {}


def case(
    field: str, *arguments: str
) -> Callable[[Callable[[World], Awaitable[None]]], Callable[[World], Awaitable[None]]]:
    """Register a case for arguments of a field."""

    def register(check: Callable[[World], Awaitable[None]]) -> Callable[[World], Awaitable[None]]:
        for argument in arguments:
            assert (field, argument) not in CASES
            CASES[field, argument] = check
        return check

    return register


async def sh(container: dagger.Container, script: str) -> str:
    """Run a script; return what it prints, without the space around it."""
    return (await container.with_exec(["sh", "-c", script]).stdout()).strip()


def refused(what: str) -> pytest.RaisesExc[dagger.QueryError]:
    """Expect a refusal by name, with the advice to use Dagger."""
    return pytest.raises(dagger.QueryError, match=f"{re.escape(what)}.*--engine dagger")


# --- the root -----------------------------------------------------------------------------------


@case("Query.container", "platform")
async def _(w: World) -> None:
    mine = await w.dag.default_platform()
    assert await w.dag.container(platform=mine).platform() == mine
    with refused("platform linux/s390x"):
        await w.dag.container(platform=dagger.Platform("linux/s390x")).platform()


@case("Query.file", "name", "contents", "permissions")
async def _(w: World) -> None:
    file = w.dag.file("name", "text", permissions=0o640)
    assert (await file.name(), await file.contents()) == ("name", "text")
    path = w.folder / "permissions"
    await file.export(str(path))
    assert path.stat().st_mode & 0o777 == 0o640


@case("Query.cacheVolume", "key", "source", "owner")
async def _(w: World) -> None:
    key = secrets.token_hex(4)
    volume = w.dag.cache_volume(key, source=w.files(f="from the source"), owner="12:34")
    seen = await sh(w.base.with_mounted_cache("/c", volume), "cat /c/f; stat -c %u:%g /c /c/f")
    assert seen.split("\n") == ["from the source12:34", "12:34"]
    other = w.base.with_mounted_cache("/c", w.dag.cache_volume(key + "-other"))
    assert await sh(other, "ls /c") == ""


async def at_once(w: World, container: dagger.Container, script: str) -> list[str]:
    """Run a script twice, each when the other has begun as well."""
    meeting = w.dag.cache_volume(secrets.token_hex(4))
    wait = "touch /meeting/$N; until [ $(ls /meeting | wc -l) = 2 ]; do sleep 0.05; done"
    both = container.with_mounted_cache("/meeting", meeting)
    names = [n + secrets.token_hex(4) for n in "12"]
    return await asyncio.gather(
        *(sh(both.with_env_variable("N", n), f"{wait}; {script}") for n in names)
    )


@case("Query.cacheVolume", "sharing")
async def _(w: World) -> None:
    volume = w.dag.cache_volume(secrets.token_hex(4), sharing=CacheSharingMode.PRIVATE)
    script = "touch /c/$N; sleep 0.5; ls /c | wc -l"
    assert await at_once(w, w.base.with_mounted_cache("/c", volume), script) == ["1", "1"]


@case("Container.withMountedCache", "sharing")
async def _(w: World) -> None:
    volume = w.dag.cache_volume(secrets.token_hex(4))
    shared = w.base.with_mounted_cache("/c", volume, sharing=CacheSharingMode.SHARED)
    script = "touch /c/$N; until [ $(ls /c | wc -l) = 2 ]; do sleep 0.05; done; echo both"
    assert await at_once(w, shared, script) == ["both", "both"]
    locked = w.base.with_mounted_cache("/c", volume, sharing=CacheSharingMode.LOCKED)
    script = "test -e /c/busy && echo clash; touch /c/busy; sleep 0.5; rm -f /c/busy"
    runs = (sh(locked.with_env_variable("N", n + secrets.token_hex(4)), script) for n in "12")
    assert await asyncio.gather(*runs) == ["", ""]


LOADS = {
    "Container": ("container{id}", "workdir", ""),
    "Directory": ("directory{id}", "entries", []),
    "File": ('file(name:"f",contents:"text"){id}', "contents", "text"),
    "Secret": ('setSecret(name:"loaded",plaintext:"a secret"){id}', "name", "loaded"),
    "Service": ('container{asService(args:["x"]){id}}', "ports", []),
    "CacheVolume": ('cacheVolume(key:"k"){id}', "__typename", "CacheVolume"),
    "Socket": ('host{unixSocket(path:"/s"){id}}', "__typename", "Socket"),
}


def loaded(type_: str) -> None:
    """Register the case of a field that loads an object by its id."""

    @case(f"Query.load{type_}FromID", "id")
    async def _(w: World) -> None:
        query, field, expected = LOADS[type_]
        found: Any = await w.query(f"{{{query}}}")
        while isinstance(found, dict):
            found = next(iter(found.values()))
        name = f"load{type_}FromID"
        chosen = "ports{port}" if field == "ports" else field
        data = await w.query(f"{{{name}(id:{json.dumps(found)}){{{chosen}}}}}")
        assert data[name][field] == expected


for name in LOADS:
    loaded(name)


@case("Query.node", "id")
async def _(w: World) -> None:
    id_ = await w.dag.container().with_workdir("/here").id()
    data = await w.query(f"{{node(id:{json.dumps(id_)}){{... on Container{{workdir}}}}}}")
    assert data["node"] == {"workdir": "/here"}
    with pytest.raises(AssertionError, match="no object with the id"):
        await w.query('{node(id:"Container:unknown"){id}}')


@case("Query.secret", "uri", "cacheKey")
async def _(w: World) -> None:
    place = w.place(one="first", two="second")
    rolled = []
    for name in ("one", "two"):
        secret = w.dag.secret(f"file://{place}/{name}", cache_key=place.name)
        rolled.append(await sh(w.base.with_secret_variable("S", secret), UUID))
        assert await secret.plaintext() == {"one": "first", "two": "second"}[name]
    assert rolled[0] == rolled[1]
    other = w.dag.secret(f"file://{place}/one")
    assert await sh(w.base.with_secret_variable("S", other), UUID) != rolled[0]


@case("Query.setSecret", "name", "plaintext")
async def _(w: World) -> None:
    secret = w.dag.set_secret("named", "value")
    assert (await secret.name(), await secret.plaintext()) == ("named", "value")
    with pytest.raises(dagger.QueryError, match="larger than 128000 bytes"):
        await w.dag.set_secret("large", "large" * 25_601).id()


# --- the host -----------------------------------------------------------------------------------


@case("Host.directory", "path", "exclude", "include")
async def _(w: World) -> None:
    place = w.place(a__py="", b__txt="", s___c__py="")
    d = w.dag.host().directory(str(place), include=["**/*.py"], exclude=["s"])
    assert await d.glob("**") == ["a.py"]
    relative = w.dag.host().directory(place.name)
    assert await relative.entries() == ["a.py", "b.txt", "s/"]


@case("Host.directory", "noCache", "gitignore")
async def _(w: World) -> None:
    place = w.place(__gitignore="*.log\n", a__log="", b="old")
    host = w.dag.host()
    assert await host.directory(str(place), gitignore=True).entries() == [".gitignore", "b"]
    assert await host.directory(str(place)).file("b").contents() == "old"
    (place / "b").write_text("new")
    assert await host.directory(str(place)).file("b").contents() == "old"
    assert await host.directory(str(place), no_cache=True).file("b").contents() == "new"


@case("Host.file", "path", "noCache")
async def _(w: World) -> None:
    place = w.place(f="old")
    assert await w.dag.host().file(str(place / "f")).contents() == "old"
    (place / "f").write_text("new")
    assert await w.dag.host().file(str(place / "f")).contents() == "old"
    assert await w.dag.host().file(str(place / "f"), no_cache=True).contents() == "new"


@contextlib.contextmanager
def unix_server(path: Path) -> Iterator[None]:
    """Answer ``pong`` on a socket."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(16)
            self.request.sendall(b"pong")

    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield
        server.shutdown()


ASK = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
    "s.sendall(b'ping'); print(s.recv(16).decode())"
)


@case("Host.unixSocket", "path")
@case("Container.withUnixSocket", "path", "source", "owner", "expand")
@case("Container.withoutUnixSocket", "path", "expand")
async def _(w: World) -> None:
    path = w.place() / "s"
    with unix_server(path):
        c = w.base.with_env_variable("D", "/run").with_unix_socket(
            "$D/s", w.dag.host().unix_socket(str(path)), owner="12:34", expand=True
        )
        assert await sh(c, f'python3 -c "{ASK}" /run/s; stat -c %u:%g /run/s') == "pong\n12:34"
        gone = c.without_unix_socket("$D/s", expand=True)
        assert await sh(gone, "test -S /run/s || echo gone") == "gone"


@contextlib.contextmanager
def http_server(address: str, text: str) -> Iterator[int]:
    """Answer a text on an address of this host; yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def fetch(url: str) -> list[str]:
    """Return the command that prints what a URL answers."""
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
    return ["python3", "-c", code, url]


@case("Host.service", "ports", "host")
async def _(w: World) -> None:
    text = secrets.token_hex(4)
    with http_server("127.0.0.2", text) as port:
        ports = [dagger.PortForward(backend=port, frontend=7070)]
        bound = w.base.with_service_binding("h", w.dag.host().service(ports, host="127.0.0.2"))
        assert await bound.with_exec(fetch("http://h:7070/")).stdout() == f"{text}\n"
    with pytest.raises(dagger.QueryError, match="at least one port"):
        await w.dag.host().service([]).id()
    udp = [dagger.PortForward(backend=1, frontend=7071, protocol=NetworkProtocol.UDP)]
    with refused("PortForward(protocol: UDP)"):
        await w.dag.host().service(udp).start()


def server(w: World, port: int = 8000) -> dagger.Container:
    """Return a container that serves ``index.html`` on a port once it is a service."""
    text = w.files(index__html="served")
    return w.base.with_directory("/srv", text).with_exposed_port(port)


def serving(w: World, port: int = 8000) -> dagger.Service:
    """Return the service."""
    args = ["python3", "-m", "http.server", str(port), "-d", "/srv"]
    return server(w, port).as_service(args=args)


async def get(url: str) -> str:
    """Return what a URL answers to this host."""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - of the test's own
            text: str = answer.read().decode()
            return text

    return await anyio.to_thread.run_sync(read)


def free() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@case("Host.tunnel", "service", "native", "ports")
@case("Service.endpoint", "port", "scheme")
async def _(w: World) -> None:
    own, more = free(), free()
    ports = [dagger.PortForward(backend=own, frontend=more)]
    tunnel = w.dag.host().tunnel(serving(w, own), native=True, ports=ports)
    tunnel = await tunnel.start()
    try:
        for port in (own, more):
            url = await tunnel.endpoint(port=port, scheme="http")
            assert url.endswith(f":{port}")
            assert await get(url) == "served"
        assert await tunnel.endpoint() == f"127.0.0.1:{more}"
        with pytest.raises(dagger.QueryError, match="has no port 1;"):
            await tunnel.endpoint(port=1)
    finally:
        await tunnel.stop()


# --- services -----------------------------------------------------------------------------------

REPORT = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = open('/proc/self/status').read()
        body = json.dumps([sys.argv[1:], os.getpid(), status]).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(('', 8000), Handler).serve_forever()
"""


def capabilities(status: str) -> int:
    """Return the effective capabilities of a process from its status."""
    found = re.search(r"CapEff:\s*(\w+)", status)
    assert found
    return int(found[1], 16)


@case(
    "Container.asService", "args", "useEntrypoint", "insecureRootCapabilities", "expand", "noInit"
)
@case("Container.withServiceBinding", "alias", "service")
@case("Service.withHostname", "hostname")
async def _(w: World) -> None:
    c = (
        w.base.with_env_variable("WORD", "hello")
        .with_exposed_port(8000)
        .with_entrypoint(["python3", "-c", REPORT])
    )
    all_ = c.as_service(
        args=["$WORD"], use_entrypoint=True, insecure_root_capabilities=True, expand=True,
        no_init=True,
    ).with_hostname("by-name")  # fmt: skip
    plain = c.with_default_args(["python3", "-c", REPORT, "$WORD"]).as_service()
    bound = w.base.with_service_binding("all", all_).with_service_binding("plain", plain)
    answers = [
        json.loads(await bound.with_exec(fetch(f"http://{host}:8000/")).stdout())
        for host in ("all", "by-name", "plain")
    ]
    assert [(args, pid == 1) for args, pid, _ in answers] == [
        (["hello"], True),
        (["hello"], True),
        (["$WORD"], False),
    ]
    assert capabilities(answers[0][2]) > capabilities(answers[2][2])


@case("Container.asService", "experimentalPrivilegedNesting")
async def _(w: World) -> None:
    with refused("Container.asService(experimentalPrivilegedNesting: …)"):
        await w.base.as_service(experimental_privileged_nesting=True).id()


@case("Service.stop", "kill")
async def _(w: World) -> None:
    script = "trap 'sleep 2; exit' TERM; while :; do sleep 0.1; done"
    slow = w.base.as_service(args=["sh", "-c", script])
    seconds = []
    for kill in (True, False):
        service = await slow.start()
        began = time.monotonic()
        await service.stop(kill=kill)
        seconds.append(time.monotonic() - began)
    assert seconds[0] < 2 < seconds[1]


@case("Container.withExposedPort", "port", "protocol", "description", "experimentalSkipHealthcheck")
async def _(w: World) -> None:
    c = w.base.with_exposed_port(
        9, protocol=NetworkProtocol.UDP, description="nothing", experimental_skip_healthcheck=False
    ).with_exposed_port(10, experimental_skip_healthcheck=True)
    first, second = await c.exposed_ports()
    assert (await first.port(), await first.protocol()) == (9, NetworkProtocol.UDP)
    assert await first.description() == "nothing"
    assert await second.experimental_skip_healthcheck()
    assert not await first.experimental_skip_healthcheck()
    # Nobody ever listens, and it counts as healthy all the same.
    with anyio.fail_after(20):
        service = await c.as_service(args=["sleep", "60"]).start()
        await service.stop(kill=True)


# --- configuration ------------------------------------------------------------------------------


@case("Container.withEnvVariable", "name", "value", "expand")
@case("Container.envVariable", "name")
@case("Container.withoutEnvVariable", "name")
async def _(w: World) -> None:
    c = w.base.with_env_variable("A", "x").with_env_variable("B", "$A/${A}", expand=True)
    c = c.with_env_variable("C", "$A")
    assert [await c.env_variable(name) for name in "ABC"] == ["x", "x/x", "$A"]
    assert await c.without_env_variable("A").env_variable("A") is None


@case("Container.withWorkdir", "path", "expand")
async def _(w: World) -> None:
    c = w.base.with_env_variable("A", "x")
    assert await c.with_workdir("/w/$A", expand=True).workdir() == "/w/x"
    assert await c.with_workdir("/w/$A").workdir() == "/w/$A"


@case("Container.withUser", "name")
async def _(w: World) -> None:
    assert await sh(w.base.with_user("12:34"), "id -u; id -g") == "12\n34"
    assert await sh(w.base.with_user("nobody"), "id -un") == "nobody"


@case("Container.withEntrypoint", "args", "keepDefaultArgs")
@case("Container.withDefaultArgs", "args")
async def _(w: World) -> None:
    c = w.base.with_default_args(["kept"])
    kept = c.with_entrypoint(["echo"], keep_default_args=True)
    assert (await kept.entrypoint(), await kept.default_args()) == (["echo"], ["kept"])
    assert await c.with_entrypoint(["echo"]).default_args() == []


@case("Container.withLabel", "name", "value")
@case("Container.label", "name")
async def _(w: World) -> None:
    c = w.base.with_label("a", "1").with_label("b", "2")
    assert [await c.label(name) for name in "abc"] == ["1", "2", None]


# --- files of a container -----------------------------------------------------------------------


@case("Container.directory", "path", "expand")
@case("Container.file", "path", "expand")
async def _(w: World) -> None:
    c = w.base.with_env_variable("A", "d").with_directory("/d", w.files(f="text"))
    c = c.with_workdir("/d")
    assert await c.directory("/$A", expand=True).entries() == ["f"]
    assert await c.directory(".").entries() == ["f"]
    assert await c.file("/$A/f", expand=True).contents() == "text"
    assert await c.file("f").contents() == "text"
    with pytest.raises(dagger.QueryError, match=r"\$A"):
        await c.file("/$A/f").contents()


@case(
    "Container.withDirectory",
    "path", "source", "exclude", "include", "gitignore", "owner", "expand", "permissions",
)  # fmt: skip
async def _(w: World) -> None:
    source = w.files(a__py="1", b__py="2", c__txt="3", d__py="4", __gitignore="d.py\n")
    c = w.base.with_env_variable("A", "dst").with_directory(
        "/$A", source, include=["*.py"], exclude=["b.*"], owner="12:34", expand=True,
        permissions=0o640,
    )  # fmt: skip
    c = c.with_directory("/ignored", source, gitignore=True)
    c = c.with_directory("/named", source, owner="nobody")
    seen = await sh(c, "cd /dst; stat -c '%n %u:%g %a' *; ls /ignored; stat -c %U /named/a.py")
    assert seen.split("\n") == [
        "a.py 12:34 640",
        "d.py 12:34 640",
        "a.py",
        "b.py",
        "c.txt",
        "nobody",
    ]


@case("Container.withFile", "path", "source", "permissions", "owner", "expand")
@case("Container.withNewFile", "path", "contents", "permissions", "owner", "expand")
async def _(w: World) -> None:
    file = w.dag.file("f", "old")
    c = w.base.with_env_variable("A", "x")
    c = c.with_file("/$A/f", file, permissions=0o751, owner="12:34", expand=True)
    c = c.with_new_file("/$A/n", "new", permissions=0o640, owner="nobody", expand=True)
    seen = await sh(c, "cd /x; stat -c '%n %u:%g %a' f; stat -c '%n %U %a' n; cat f n")
    assert seen.split("\n") == ["f 12:34 751", "n nobody 640", "oldnew"]


# --- mounts -------------------------------------------------------------------------------------


@case("Container.withMountedDirectory", "path", "source", "owner", "readOnly", "expand")
@case("Container.withoutMount", "path", "expand")
async def _(w: World) -> None:
    source = w.files(f="text", s___g="")
    c = w.base.with_env_variable("A", "m")
    c = c.with_mounted_directory("/$A/rw", source, owner="12:34", expand=True)
    c = c.with_mounted_directory("/$A/ro", source, owner="5:6", read_only=True, expand=True)
    show = "stat -c %u:%g /m/rw /m/rw/s/g /m/ro /m/ro/f; cat /m/*/f"
    seen = await sh(c, f"{show}; touch /m/rw/x; touch /m/ro/x || echo no")
    assert seen.split("\n") == ["12:34", "12:34", "5:6", "5:6", "texttextno"]
    gone = c.without_mount("/$A/rw", expand=True)
    assert await sh(gone, "ls /m/rw | wc -l; cat /m/ro/f") == "0\ntext"


@case("Container.withMountedFile", "path", "source", "owner", "expand")
async def _(w: World) -> None:
    c = w.base.with_env_variable("A", "m").with_mounted_file(
        "/$A/f", w.dag.file("x", "text", permissions=0o604), owner="12:34", expand=True
    )
    assert await sh(c, "stat -c '%u:%g %a' /m/f; cat /m/f") == "12:34 604\ntext"


@case("Container.withMountedCache", "path", "cache", "source", "owner", "expand")
async def _(w: World) -> None:
    volume = w.dag.cache_volume(secrets.token_hex(4))
    c = w.base.with_env_variable("A", "m").with_mounted_cache(
        "/$A/c", volume, source=w.files(f="text"), owner="nobody", expand=True
    )
    assert await sh(c, "stat -c %U /m/c; cat /m/c/f; echo more > /m/c/g") == "nobody\ntext"
    again = w.base.with_mounted_cache("/other", volume)
    assert await sh(again, "cat /other/g") == "more"


@case("Container.withMountedTemp", "path", "size", "expand")
async def _(w: World) -> None:
    c = w.base.with_env_variable("A", "m").with_mounted_temp("/$A", size=1 << 20, expand=True)
    assert await sh(c, "df -k --output=size,fstype /m | tail -1; touch /m/x") == "1024 tmpfs"
    after = c.with_exec(["touch", "/m/x"])
    assert await sh(after, "ls /m | wc -l") == "0"


@case("Container.withMountedSecret", "path", "source", "owner", "mode", "expand")
@case("Container.withSecretVariable", "name", "secret")
async def _(w: World) -> None:
    secret = w.dag.set_secret("mounted", "sesame")
    c = (
        w.base.with_env_variable("A", "m")
        .with_mounted_secret("/$A/s", secret, owner="12:34", mode=0o440, expand=True)
        .with_secret_variable("SESAME", secret)
    )
    script = "stat -c '%u:%g %a' /m/s; wc -c < /m/s; test $SESAME = $(cat /m/s) && echo same"
    assert await sh(c, script) == "12:34 440\n6\nsame"


# --- commands -----------------------------------------------------------------------------------


@case("Container.withExec", "args", "useEntrypoint", "expand")
async def _(w: World) -> None:
    c = w.base.with_entrypoint(["echo", "entry"]).with_env_variable("A", "x")
    assert await c.with_exec(["echo", "$A"]).stdout() == "$A\n"
    assert await c.with_exec(["$A"], use_entrypoint=True, expand=True).stdout() == "entry x\n"


@case("Container.withExec", "stdin", "redirectStdin", "redirectStdout", "redirectStderr")
async def _(w: World) -> None:
    c = w.base.with_workdir("/w").with_exec(["cat"], stdin="typed", redirect_stdout="out")
    assert await c.file("out").contents() == "typed"
    c = c.with_exec(["sh", "-c", "cat >&2"], redirect_stdin="/w/out", redirect_stderr="/m/err")
    assert await c.stderr() == "typed"
    assert await c.file("/m/err").contents() == "typed"
    with pytest.raises(dagger.QueryError, match="exclude each other"):
        await w.base.with_exec(["cat"], stdin="x", redirect_stdin="y").sync()


@case("Container.withExec", "expect")
async def _(w: World) -> None:
    failing = ["sh", "-c", "exit 3"]
    for expect in (dagger.ReturnType.FAILURE, dagger.ReturnType.ANY):
        assert await w.base.with_exec(failing, expect=expect).exit_code() == 3
    with pytest.raises(dagger.ExecError):
        await w.base.with_exec(["true"], expect=dagger.ReturnType.FAILURE).sync()


@case("Container.withExec", "experimentalPrivilegedNesting")
async def _(w: World) -> None:
    with refused("Container.withExec(experimentalPrivilegedNesting: …)"):
        await w.base.with_exec(["true"], experimental_privileged_nesting=True).sync()


@case("Container.withExec", "insecureRootCapabilities", "noInit")
async def _(w: World) -> None:
    show = ["sh", "-c", "echo $$; cat /proc/self/status"]
    plain = await w.base.with_exec(show).stdout()
    bare = await w.base.with_exec(show, insecure_root_capabilities=True, no_init=True).stdout()
    assert capabilities(bare) > capabilities(plain)
    assert (bare.split()[0] == "1", plain.split()[0] == "1") == (True, False)


# --- images -------------------------------------------------------------------------------------


@case("Container.from", "address", "registryService")
@case("Container.publish", "address", "registryService")
async def _(w: World) -> None:
    port = int(w.registry.rpartition(":")[2])
    there = w.dag.host().service([dagger.PortForward(backend=port, frontend=4321)])
    name = f"registry.invalid:4321/contract/arguments:{secrets.token_hex(4)}"
    reference = await w.base.with_label("a", "1").publish(name, registry_service=there)
    assert reference.startswith(f"{name}@sha256:")
    pulled = w.dag.container().from_(reference, registry_service=there)
    assert await pulled.label("a") == "1"
    with pytest.raises(dagger.QueryError, match="has no port 5"):
        await w.base.publish("registry.invalid:5/x:y", registry_service=there)


@case("Container.publish", "platformVariants", "forcedCompression", "mediaTypes")
async def _(w: World) -> None:
    address = f"{w.registry}/contract/arguments:forms"
    reference = await w.base.publish(
        address,
        forced_compression=ImageLayerCompression.Gzip,
        media_types=ImageMediaTypes.DockerMediaTypes,
    )
    accept = "application/vnd.docker.distribution.manifest.v2+json"
    url = f"http://{w.registry}/v2/contract/arguments/manifests/{reference.partition('@')[2]}"
    async with httpx.AsyncClient(trust_env=False) as client:
        manifest = (await client.get(url, headers={"Accept": accept})).json()
    assert manifest["mediaType"] == accept
    assert all(layer["mediaType"].endswith("tar.gzip") for layer in manifest["layers"])
    with refused("Container.publish(forcedCompression: Zstd)"):
        await w.base.publish(address, forced_compression=ImageLayerCompression.Zstd)
    # The SDK takes OCIMediaTypes for the default and does not send it.
    query = f'{{container{{publish(address:"{address}",mediaTypes:OCIMediaTypes)}}}}'
    with pytest.raises(AssertionError, match=r"publish\(mediaTypes: OCIMediaTypes\) is not served"):
        await w.query(query)
    with refused("Container.publish(platformVariants: …)"):
        await w.base.publish(address, platform_variants=[w.base])


@case("Container.export", "path", "platformVariants", "forcedCompression", "mediaTypes", "expand")
async def _(w: World) -> None:
    small = w.dag.container().with_new_file("/f", "text").with_env_variable("A", "archive")
    await small.export(
        f"{w.folder}/$A.tar", expand=True, media_types=ImageMediaTypes.DockerMediaTypes
    )
    with tarfile.open(w.folder / "archive.tar") as tar:
        assert "manifest.json" in tar.getnames()
    path = str(w.folder / "refused.tar")
    with refused("Container.export(forcedCompression: Gzip)"):
        await small.export(path, forced_compression=ImageLayerCompression.Gzip)
    query = f'{{container{{export(path:"{path}",mediaTypes:OCIMediaTypes)}}}}'
    with pytest.raises(AssertionError, match=r"export\(mediaTypes: OCIMediaTypes\) is not served"):
        await w.query(query)
    with refused("Container.export(platformVariants: …)"):
        await small.export(path, platform_variants=[small])
    assert not await anyio.Path(path).exists()


@case("Container.withRegistryAuth", "address", "username", "secret")
async def _(w: World) -> None:
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the base class's own name

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        address = f"127.0.0.1:{made.server_port}/x/y:z"
        secret = w.dag.set_secret("password", "sesame")
        c = w.dag.container().with_registry_auth(address, "me", secret)
        with pytest.raises(dagger.QueryError, match=re.escape(address)):
            await c.from_(address).sync()
        made.shutdown()
    assert f"Basic {base64.b64encode(b'me:sesame').decode()}" in seen


# --- folders ------------------------------------------------------------------------------------


@case("Directory.entries", "path")
@case("Directory.glob", "pattern")
@case("Directory.file", "path")
@case("Directory.directory", "path")
@case("Directory.withoutFile", "path")
@case("Directory.withoutDirectory", "path")
async def _(w: World) -> None:
    d = w.files(a="1", s___b="2", s___c="3")
    assert await d.entries(path="s") == ["b", "c"]
    assert await d.glob("*/c") == ["s/c"]
    assert await d.file("s/b").contents() == "2"
    assert await d.directory("s").entries() == ["b", "c"]
    assert await d.without_file("s/b").glob("**/*") == ["a", "s/", "s/c"]
    assert await d.without_directory("s").entries() == ["a"]


@case("Directory.filter", "exclude", "include", "gitignore")
async def _(w: World) -> None:
    d = w.files(a__py="", b__py="", c__txt="", d__py="", __gitignore="d.py\n")
    taken = d.filter(include=["*.py"], exclude=["b.py"], gitignore=True)
    assert await taken.entries() == ["a.py"]
    assert await d.filter(include=["*.py"]).entries() == ["a.py", "b.py", "d.py"]
    assert await d.filter(exclude=["*.py"]).entries() == [".gitignore", "c.txt"]
    ignored = await d.filter(gitignore=True).entries()
    assert ignored == [".gitignore", "a.py", "b.py", "c.txt"]


@case(
    "Directory.withDirectory",
    "path", "source", "exclude", "include", "gitignore", "owner", "permissions",
)  # fmt: skip
@case("Directory.withFile", "path", "source", "permissions", "owner")
@case("Directory.withNewFile", "path", "contents", "permissions")
async def _(w: World) -> None:
    source = w.files(a__py="1", b__py="2", c__txt="3", __gitignore="c.txt\n")
    d = (
        w.dag.directory()
        .with_directory(
            "d", source, include=["*.py"], exclude=["b.py"], owner="12:34", permissions=0o640
        )
        .with_directory("i", source, gitignore=True)
        .with_file("f", w.dag.file("x", "4"), owner="5:6", permissions=0o751)
        .with_new_file("n", "5", permissions=0o604)
    )
    c = w.base.with_directory("/x", d)
    seen = await sh(c, "cd /x; find d/* f n -printf '%p %U:%G %m\\n' | sort; ls i; cat d/* f n")
    assert seen.split("\n") == [
        "d/a.py 12:34 640",
        "f 5:6 751",
        "n 0:0 604",
        "a.py",
        "b.py",
        "145",
    ]


@case("Directory.export", "path", "wipe")
async def _(w: World) -> None:
    place = w.place(old="")
    d = w.files(new="")
    await d.export(str(place))
    assert sorted(p.name for p in place.iterdir()) == ["new", "old"]
    await d.export(str(place), wipe=True)
    assert [p.name for p in place.iterdir()] == ["new"]


DOCKERFILE = """\
ARG BASE
FROM ${BASE} AS first
ARG WHO=nobody
RUN --mount=type=secret,id=token --mount=type=ssh \
    echo "$WHO $$ $(wc -c < /run/secrets/token) $(test -S "$SSH_AUTH_SOCK" && echo agent)" > /seen
FROM first AS last
RUN false
"""


@case(
    "Directory.dockerBuild", "dockerfile", "platform", "buildArgs", "target", "secrets", "noInit",
    "ssh",
)  # fmt: skip
async def _(w: World) -> None:
    agent = w.place() / "agent"
    args = [dagger.BuildArg("BASE", w.image), dagger.BuildArg("WHO", secrets.token_hex(4))]
    context = w.files(other__Dockerfile=DOCKERFILE)
    with unix_server(agent):
        built = context.docker_build(
            dockerfile="other.Dockerfile",
            platform=await w.dag.default_platform(),
            build_args=args,
            target="first",
            secrets=[w.dag.set_secret("token", "sesame")],
            no_init=True,
            ssh=w.dag.host().unix_socket(str(agent)),
        )
        # Process 1 is the shell itself: there is no init.
        assert await built.file("/seen").contents() == f"{args[1].value} 1 6 agent\n"
    with refused("platform linux/s390x"):
        await context.docker_build(platform=dagger.Platform("linux/s390x")).sync()


# --- files --------------------------------------------------------------------------------------


@case("File.contents", "offsetLines", "limitLines")
async def _(w: World) -> None:
    file = w.dag.file("f", "1\n2\x0c\u2028\n3\n4")
    assert await file.contents(offset_lines=1, limit_lines=2) == "2\x0c\u2028\n3\n"
    assert await file.contents(offset_lines=3) == "4"
    assert await file.contents(limit_lines=1) == "1\n"
    with pytest.raises(dagger.QueryError, match="limitLines is negative"):
        await file.contents(limit_lines=-1)


@case("File.digest", "excludeMetadata")
async def _(w: World) -> None:
    one, other = w.dag.file("f", "x", permissions=0o600), w.dag.file("f", "x", permissions=0o644)
    assert await one.digest() != await other.digest()
    assert await one.digest(exclude_metadata=True) == await other.digest(exclude_metadata=True)


@case("File.export", "path", "allowParentDirPath")
async def _(w: World) -> None:
    place, file = w.place(), w.dag.file("f", "text")
    await file.export(str(place / "made" / "g"))
    assert (place / "made" / "g").read_text() == "text"
    await file.export(str(place), allow_parent_dir_path=True)
    assert (place / "f").read_text() == "text"
    with pytest.raises(dagger.QueryError, match="allowParentDirPath"):
        await file.export(str(place))


# --- the tests ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run everything on asyncio, for which the SDK is made."""
    return "asyncio"


@pytest.fixture(scope="module")
async def world(
    anyio_backend: str,  # noqa: ARG001 - the fixture runs on it
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    """Return a session of the embedded engine, with a client."""
    made = await anyio.to_thread.run_sync(resources)
    folder = tmp_path_factory.mktemp("world")
    with engine(folder) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGGER_SESSION_PORT", str(endpoint.port))
        patch.setenv("DAGGER_SESSION_TOKEN", endpoint.token)
        async with dagger.Connection() as dag:
            patch.undo()
            base = dag.container().from_(made.image)
            yield World(dag, base, made.image, made.registry, folder, endpoint)


NAMED = {
    f"{next(field for (field, _), at in CASES.items() if at is check)}-{number}": check
    for number, check in enumerate(dict.fromkeys(CASES.values()))
}


@pytest.mark.parametrize("check", NAMED.values(), ids=NAMED.keys())
async def test_an_argument_is_honoured_or_refused(
    world: World, check: Callable[[World], Awaitable[None]]
) -> None:
    """What a field is asked for is done, or refused by the argument's name; never ignored."""
    with anyio.fail_after(120):
        await check(world)


async def test_every_argument_has_a_case() -> None:
    """A field that is served has a case for each argument that it has on a real engine."""
    build()
    types = json.loads(SCHEMA.read_text())["types"]
    arguments = {
        (f"{type_}.{field}", argument)
        for type_, field in SERVED
        for argument in types[type_]["fields"][field].get("args") or {}
    }
    assert set(CASES) == arguments


async def test_a_field_that_is_not_served_is_refused_through_the_sdk(world: World) -> None:
    """The message names the field and says what to do."""
    with refused("Container.terminal is not served by the embedded engine"):
        await world.base.terminal().sync()
    with refused("Container.withRootfs is not served by the embedded engine"):
        await world.base.with_rootfs(world.files(a="")).sync()
    with refused("Directory.diff is not served by the embedded engine"):
        await world.files(a="").diff(world.files(b="")).entries()
    with refused("Query.http is not served by the embedded engine"):
        await world.dag.http("http://127.0.0.1/").contents()
