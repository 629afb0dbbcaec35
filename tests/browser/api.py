"""The API as it is in production, gunicorn and all, as a process of this machine."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pipeline.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service"
LIMIT = 30.0


def environment(uv: Path, folder: Path) -> Path:
    """Make the API's locked environment, which is not that of the tests; return its programs.

    Args:
        uv: The program.
        folder: Where to make it.

    Raises:
        PrerequisiteError: It cannot be made.
    """
    command: list[str | Path] = [
        uv,
        "sync",
        "--frozen",
        "--no-dev",
        "--quiet",
        "--python",
        sys.executable,
    ]
    command += ["--project", SERVICE]
    done = subprocess.run(
        command,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder), "UV_SYSTEM_CERTS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise PrerequisiteError(
            "The API's environment cannot be made from service/uv.lock",
            remedy="Run `uv sync --frozen` in service to see why.",
            evidence=done.stderr,
        )
    return folder / "bin"


class Api:
    """The API on one port, which may be stopped and started again; stopped when it is left.

    Args:
        programs: The folder of its environment's programs.
        port: The port of the loopback interface that it listens on.
        docker: ``DOCKER_HOST``.
    """

    def __init__(self, programs: Path, port: int, docker: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._command = [
            str(programs / "gunicorn"),
            "--config",
            "python:slipway_api.gunicorn_conf",
        ]
        self._environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(SERVICE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DOCKER_HOST": docker,
            "SLIPWAY_SOURCE": "docker",
            "SLIPWAY_BIND": f"127.0.0.1:{port}",
            "SLIPWAY_WORKERS": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, cwd=SERVICE, env=self._environment, stdout=subprocess.DEVNULL
        )
        self.wait(lambda: self.ask("/livez")[0] == http.HTTPStatus.OK)

    def wait(self, state: Callable[[], bool]) -> None:
        """Wait until the API is in some state."""
        deadline = time.monotonic() + LIMIT
        while not state():
            assert self._process is not None
            assert self._process.poll() is None, "the API ended; see its standard error"
            assert time.monotonic() < deadline, f"the API took more than {LIMIT} s"
            time.sleep(0.05)

    def ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body of an answer; both are nothing when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def stop(self) -> None:
        """Stop it as a platform does, with SIGTERM, and wait for its end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(LIMIT)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
