"""Tests of the Docker backend that need no Docker: errors, references, and what it refuses."""

from __future__ import annotations

import http.server
import inspect
import json
import socketserver
import threading
from typing import TYPE_CHECKING, Any

import docker.errors
import pytest
import requests.exceptions

from pipeline.engine.backend import Attachment, Limits
from pipeline.engine.backend import docker as module
from pipeline.engine.core.errors import BackendError, BackendGone, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIBRARY_ERRORS = [
    error
    for library in (docker.errors, requests.exceptions)
    for _, error in inspect.getmembers(library, inspect.isclass)
    if issubclass(error, Exception)
    and not issubclass(error, Warning)
    and error.__module__.startswith(("docker", "requests"))
]


@pytest.mark.parametrize("error", LIBRARY_ERRORS, ids=lambda e: f"{e.__module__}.{e.__name__}")
def test_every_error_of_the_libraries_below_is_translated(error: type[Exception]) -> None:
    """None of them reaches who uses the backend; one that is new must be mapped as well."""
    made = error.__new__(error)
    Exception.__init__(made, "what happened")
    attributes: dict[str, object] = {"response": None, "build_log": [], "stderr": b""}
    for name in ("explanation", "msg", "name", "param"):
        attributes[name] = "what happened"
    for name, value in attributes.items():
        if not hasattr(made, name):
            made.__dict__[name] = value
    expected = NotFound if issubclass(error, docker.errors.NotFound) else BackendError
    with pytest.raises(expected, match=r"^doing: "), module._translated("doing"):  # noqa: SLF001
        raise made


def test_a_missing_thing_is_told_from_a_daemon_that_is_gone() -> None:
    """What is not there is one error; what does not answer is another."""
    with pytest.raises(NotFound, match="doing: gone"), module._translated("doing"):  # noqa: SLF001
        raise docker.errors.NotFound("gone", explanation="gone")
    with pytest.raises(BackendGone, match="does not answer"), module._translated("doing"):  # noqa: SLF001
        raise requests.exceptions.ConnectionError


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("x", ("x", "latest")),
        ("x:1", ("x", "1")),
        ("h:1/x", ("h:1/x", "latest")),
        ("h:1/x:2", ("h:1/x", "2")),
        ("h:1/x@sha256:0", ("h:1/x", "sha256:0")),
        ("h:1/x:2@sha256:0", ("h:1/x", "sha256:0")),
    ],
)
def test_a_reference_has_a_name_and_a_version(reference: str, expected: tuple[str, str]) -> None:
    """The digest counts where there is one; a port is no tag."""
    assert module._split(reference) == expected  # noqa: SLF001 - a table says it best


def test_mounts_never_copy_from_the_image() -> None:
    """A volume has what was put into it, and no more."""
    row = module._mount(Attachment("/a", "v", "volume"))  # noqa: SLF001
    assert row["VolumeOptions"] == {"NoCopy": True}
    assert module._mount(Attachment("/a", kind="tmpfs", size=5))["TmpfsOptions"] == {"SizeBytes": 5}  # noqa: SLF001
    assert module._mount(Attachment("/a", "/b", read_only=True))["ReadOnly"] is True  # noqa: SLF001


def test_a_failed_build_is_told_by_its_instruction() -> None:
    """BuildKit's own excerpt where it gives one, its errors or its last words otherwise."""
    tell = module._build_failure  # noqa: SLF001
    assert tell("#1 x\n------\n > RUN false\n------\nfailed") == (
        "------\n > RUN false\n------\nfailed"
    )
    assert tell("#1 x\nERROR: no such thing\n#2 y") == "ERROR: no such thing"
    assert tell("\n".join(map(str, range(30)))).startswith("10\n")


def test_buildx_is_found_where_docker_keeps_it_or_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs without the client."""
    monkeypatch.setattr(module, "_PLUGIN_FOLDERS", (str(tmp_path / "plugins"),))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert module.find_buildx() is None
    for folder in ("bin", "plugins"):
        program = tmp_path / folder / "docker-buildx"
        program.parent.mkdir()
        program.write_text("")
        program.chmod(0o755)
        assert module.find_buildx() == str(program)


@pytest.fixture
def info() -> dict[str, Any]:
    """Return what the Docker Engine says of itself; a test may change it."""
    return {"OSType": "linux", "Architecture": "x86_64", "DriverStatus": [["Backing", "ext4"]]}


@pytest.fixture
def host(tmp_path: Path, info: dict[str, Any]) -> Iterator[str]:
    """Return the address of a Docker Engine that can do no more than introduce itself."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known: dict[str, Any] = {"version": {"ApiVersion": "1.45"}, "info": info}
            body = json.dumps(known.get(self.path.rpartition("/")[2], {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return ""

    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"unix://{path}"
        server.shutdown()


@pytest.mark.anyio
async def test_the_platform_is_named_as_images_name_it(host: str, tmp_path: Path) -> None:
    """The kernel's name for a machine is not the registry's."""
    backend = await module.DockerBackend.connect(host, "id", tmp_path, Limits())
    assert backend.platform == "linux/amd64"
    await backend.close()


@pytest.mark.anyio
async def test_the_containerd_image_store_is_refused(
    host: str, info: dict[str, Any], tmp_path: Path
) -> None:
    """It cannot describe layers that it has anew; the message says how to switch it off."""
    info["DriverStatus"] = [["driver-type", "io.containerd.snapshotter.v1"]]
    with pytest.raises(BackendError, match="containerd-snapshotter"):
        await module.DockerBackend.connect(host, "id", tmp_path, Limits())
