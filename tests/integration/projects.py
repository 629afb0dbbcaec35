"""What the tests of whole runs drive: a checkout of a trimmed project, and a registry to misuse."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jsonschema

import pipeline

from .engines import LABEL

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    import docker

_SERVICES = 3
ROOT = Path(pipeline.__file__).parent.parent
LIMIT = 240
SCHEMA = json.loads((ROOT / "pipeline" / "report.schema.json").read_text(encoding="utf-8"))
# The product, and what the steps need to look at it. Without the pipeline's own sources, which are
# run from where they are, lint is quick.
_PARTS = ("pyproject.toml", "uv.lock", ".gitignore", ".hadolint.yaml", "service", "nginx")
_TESTS = ("tests/__init__.py", "tests/verify")
_IDENTITY = {
    **{f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
    # Equal content has equal commits, and is built once for all tests.
    **{f"GIT_{who}_DATE": "2024-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    reports: Path

    @property
    def report(self) -> dict[str, Any]:
        """What report.json says, when it is as its schema has it."""
        found: dict[str, Any] = json.loads((self.reports / "report.json").read_text())
        jsonschema.validate(found, SCHEMA)
        assert found["exit_code"] == self.code
        return found

    @property
    def states(self) -> dict[str, str]:
        """How each step ended."""
        return {f"{s['name']} {s['image'] or ''}".strip(): s["state"] for s in self.report["steps"]}

    def cause(self, step: str) -> str:
        """Return why a step did not pass."""
        (found,) = [
            s for s in self.report["steps"] if f"{s['name']} {s['image'] or ''}".strip() == step
        ]
        return str(found["cause"])

    def check(self, code: int) -> None:
        """Fail unless it ended with this exit code, without a traceback, and with its reports."""
        assert self.code == code, f"{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stdout + self.stderr
        assert self.report["exit_code"] == code
        ET.parse(self.reports / "junit.xml")  # noqa: S314 - our own
        assert "</html>" in (self.reports / "report.html").read_text(encoding="utf-8")

    def complained(self, code: int, *words: str) -> None:
        """Fail unless it gave up before the first step, with one sentence that has these words."""
        assert (self.code, self.stdout) == (code, ""), f"{self.stdout}\n{self.stderr}"
        line, *evidence = self.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.endswith((".", "?"))
        assert all(more.startswith("    ") for more in evidence)
        assert "Traceback" not in self.stderr
        for word in words:
            assert word in self.stderr


@dataclass
class Project:
    """A checkout, and where its images go."""

    root: Path
    home: Path
    registry: str
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path, home: Path, registry: str, *, git: bool = True) -> Project:
        """Make one with this project's files."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard", "--", *_PARTS, *_TESTS],
            cwd=ROOT,
            check=False,
            capture_output=True,
            timeout=30,
        ).stdout.split(b"\0")
        for path in [ROOT / os.fsdecode(name) for name in listed if name] or _unlisted():
            if path.is_file():
                target = root / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        made = cls(root, home, f"{registry}/test-{uuid.uuid4().hex[:12]}")
        made.edit("pyproject.toml", 'files = ["pipeline", "tests", "bench"]', 'files = ["tests"]')
        if git:
            made.git("init", "--quiet")
            made.commit()
        return made

    def git(self, *arguments: str) -> None:
        """Run git in it."""
        subprocess.run(
            ["git", *arguments],
            cwd=self.root,
            check=True,
            env={**os.environ, **_IDENTITY},
            timeout=30,
        )

    def commit(self) -> None:
        """Commit what is there."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "content")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text in a file, which must have it."""
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text
        (self.root / path).write_text(text.replace(old, new), encoding="utf-8")

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Running:
        """Start ``python -m pipeline`` in it."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIPELINE_", "DAGGER_", "COV_", "_EXPERIMENTAL_DAGGER"))
        }
        environ |= {
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "PIPELINE_REGISTRY": self.registry,
            "PIPELINE_ENGINE": "embedded",
        }
        command = [sys.executable, "-m", "pipeline", *arguments]
        streams = {name: self.home / f"{uuid.uuid4().hex}.{name}" for name in ("out", "err")}
        with streams["out"].open("wb") as out, streams["err"].open("wb") as err:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env={**environ, **self.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return Running(process, streams["out"], streams["err"], self.root / "reports")

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run ``python -m pipeline`` in it."""
        return self.start(*arguments, env=env).wait()


def _unlisted() -> list[Path]:
    """Return the files of a project that is no checkout."""
    found = [ROOT / name for name in (*_PARTS, *_TESTS)]
    inner = [file for path in found if path.is_dir() for file in path.rglob("*")]
    return [f for f in (*found, *inner) if "__pycache__" not in f.parts and ".venv" not in f.parts]


@dataclass
class Running:
    """A run that was started."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    reports: Path
    began: float = field(default_factory=time.monotonic)

    def wait(self, limit: float = LIMIT) -> Ended:
        """Wait for its end."""
        try:
            code = self.process.wait(limit)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        texts = [path.read_text(encoding="utf-8") for path in (self.out, self.err)]
        return Ended(code, texts[0], texts[1], time.monotonic() - self.began, self.reports)

    def until_serving(self, api: docker.APIClient, home: Path) -> str:
        """Wait until the services of it run; return its session.

        Args:
            api: Of the Docker Engine.
            home: The home of the project, whose only run this is.
        """
        ends = time.monotonic() + 60
        folder = home / "cache" / "slipway" / "engine" / "sessions"
        while True:
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < ends, self.out.read_text()
            for entry in folder.iterdir() if folder.is_dir() else ():
                mine = {"label": f"{LABEL}={entry.name}"}
                if len(api.containers(filters=mine)) >= _SERVICES:
                    return entry.name
            time.sleep(0.05)

    def stop(self, number: signal.Signals) -> Ended:
        """Send it a signal, and wait for its end."""
        self.began = time.monotonic()
        self.process.send_signal(number)
        return self.wait(20)


class Registry:
    """A registry in front of another one, with a temper.

    Attributes:
        login: The only user and password that it lets in; None lets in everybody.
        refuses_pushes: Whether it lets nobody push.
        stalls: Whether it stops answering once something was pushed.
        dies: Whether it goes down when somebody pushes.
    """

    def __init__(self, behind: str) -> None:
        self.login: tuple[str, str] | None = None
        self.refuses_pushes = False
        self.stalls = False
        self.dies = False
        self._ended = threading.Event()
        self._behind = behind
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # BuildKit tries TLS first, and knows a registry without it by an answer with a head.
            default_request_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - do_GET and its like
                if name.startswith("do_"):
                    return lambda: outer.answer(self)
                raise AttributeError(name)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing: a client that goes away is what is being tested."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        """Answer a request, as the one behind does or as the temper is."""
        body = _body(asked)
        if self.login is not None:
            pair = base64.b64encode(":".join(self.login).encode()).decode()
            if asked.headers.get("Authorization") != f"Basic {pair}":
                self._refuse(asked, 401, "UNAUTHORIZED", "authentication required")
                return
        if "/slipway-standin/" in asked.path:
            # The bases are had from elsewhere: what it does is about what is pushed.
            self._refuse(asked, 404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        pushing = asked.command in ("POST", "PUT", "PATCH")
        if pushing and self.refuses_pushes:
            self._refuse(asked, 403, "DENIED", "requested access to the resource is denied")
            return
        if pushing and self.dies:
            with contextlib.suppress(OSError):
                self._server.socket.shutdown(socket.SHUT_RDWR)
            self._server.socket.close()
            asked.close_connection = True
            return
        if self.stalls and asked.command == "HEAD" and "/manifests/" in asked.path:
            self._ended.wait(60)
            asked.close_connection = True
            return
        self._forward(asked, body)

    def _forward(self, asked: BaseHTTPRequestHandler, body: bytes) -> None:
        kept = ("host", "accept", "content-type", "range", "content-range")
        send = {name: value for name, value in asked.headers.items() if name.lower() in kept}
        send["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection(self._behind, timeout=30)
        try:
            connection.request(asked.command, asked.path, body, send)
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        asked.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                asked.send_header(name, value)
        length = reply.getheader("Content-Length") if asked.command == "HEAD" else len(content)
        asked.send_header("Content-Length", str(length or 0))
        asked.end_headers()
        asked.wfile.write(content)

    def _refuse(self, asked: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
        content = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        asked.send_response_only(status)
        asked.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if status == http.client.UNAUTHORIZED:
            asked.send_header("WWW-Authenticate", 'Basic realm="test"')
        asked.send_header("Content-Type", "application/json")
        asked.send_header("Content-Length", str(len(content)))
        asked.end_headers()
        if asked.command != "HEAD":
            asked.wfile.write(content)


def _body(asked: BaseHTTPRequestHandler) -> bytes:
    """Return what was sent with a request."""
    if asked.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return asked.rfile.read(int(asked.headers.get("Content-Length") or 0))
    parts = []
    while size := int(asked.rfile.readline().split(b";")[0], 16):
        parts.append(asked.rfile.read(size))
        asked.rfile.readline()
    asked.rfile.readline()
    return b"".join(parts)
