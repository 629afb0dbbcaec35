"""A Prometheus of one's own, as a process of this machine."""

from __future__ import annotations

import contextlib
import math
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from .files import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT = 90.0
"""Seconds that anything may take to be seen."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that runs.

    Attributes:
        url: Where it answers.
        process: It.
        log: What it wrote.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        """Return the data of an answer of its API, which has to be a good one."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()["data"]

    def values(self, expression: str) -> list[float]:
        """Return what an expression comes to now, but for what is no number."""
        result = self.get("query", query=expression)["result"]
        found = [float(each["value"][1]) for each in result]
        return [value for value in found if not math.isnan(value)]

    def wait(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something is true, for a limited time."""
        deadline = time.monotonic() + LIMIT
        while not true():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"after {LIMIT} s: {what}\n{self.log.read_text()}"
            time.sleep(0.2)

    def answers(self) -> bool:
        """Return whether it is ready."""
        try:
            return httpx.get(f"{self.url}/-/ready").is_success
        except httpx.TransportError:
            return False


@contextlib.contextmanager
def running(program: Path, folder: Path, port: int, target: str) -> Iterator[Prometheus]:
    """Start a server that scrapes one API every second, by our rules; stop it afterwards.

    Args:
        program: Prometheus.
        folder: Where it keeps what it keeps.
        port: A free one of the loopback interface.
        target: ``HOST:PORT`` of the API.
    """
    job = {
        "job_name": "slipway-api",
        # As the annotations of its pods say, whose namespace a Prometheus in a cluster adds.
        "metrics_path": "/metrics",
        "static_configs": [{"targets": [target], "labels": {"namespace": "slipway"}}],
    }
    configuration = {
        "global": {
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "evaluation_interval": "1s",
        },
        "rule_files": [str(RULES)],
        "scrape_configs": [job],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    log = folder / "log"
    command = [
        str(program),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}", process, log)
        server.wait(server.answers, "it is not ready")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
