"""``python -m bench.api``: measure the API and its proxy, write JSON, a table and a plot.

The system of this checkout runs in containers, and beside it what it is measured against. A round
measures each way once; the order turns round from round to round, so that a machine that grows
slower is unfair to none. The load is bounded in connections, rate and time, and stays on the
loopback interface of the container that it is for.

Exit code 1: an aim was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import figures as documents
from bench.api import figures
from bench.api.figures import API, CLIENT, CONSTANT, FILE, LIST, BenchError
from pipeline.setup.docker import DEFAULT_HOST
from tests import stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient
    from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PATH = "/api/v1/containers"
FILE_PATH = "/bench.json"
CONTAINERS = 20
"""How many run beside those of the system."""
CONNECTIONS = 16
"""As many as the API has threads."""
RATE = 500
"""Requests a second that nobody has trouble with: the question is how long each takes."""
REQUESTS = (1000, 10000)
"""How many lie behind the API when its memory is looked at."""
MOST_ROUNDS = 20
MOST_SECONDS = 60
SLACK = 60
"""Seconds that a tool may take beyond its time."""

_SOCKET = Path("/var/run/docker.sock")
# What the server of a static file is, put into the configuration of the running proxy.
_SERVE_FILE = f"""
set -eu
folder=${{TMPDIR:-/tmp}}/slipway-nginx
mkdir "$folder/bench"
curl -fsS --noproxy '*' -o "$folder/bench/list.json" http://127.0.0.1:8080{PATH}
location="location = {FILE_PATH} {{ alias $folder/bench/list.json; }}"
sed -i "s|location = /nginx-health {{|$location\\n&|" "$folder/proxy.conf"
kill -HUP 1
curl -fs --noproxy '*' --retry 10 --retry-delay 1 --retry-all-errors \\
    -o "$folder/bench/again" http://127.0.0.1:8080{FILE_PATH}
cmp "$folder/bench/list.json" "$folder/bench/again"
wc -c <"$folder/bench/list.json"
"""
_ANSWERS = """
import time, urllib.request
for _ in range(300):
    try:
        raise SystemExit(urllib.request.urlopen("http://127.0.0.1:8000/", timeout=30).status != 200)
    except OSError:
        time.sleep(0.1)
raise SystemExit(1)
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the tools are run with."""

    docker: DockerClient
    tools: str
    seconds: float

    def run(self, beside: Container, script: str, seconds: float) -> str:
        """Run a script with the tools, on the network of a container; return what it prints."""
        made = self.docker.containers.create(
            self.tools,
            ["sh", "-c", script],
            network_mode=f"container:{beside.id}",
            labels=stack.LABELS,
        )
        try:
            made.start()
            ended = made.wait(timeout=seconds + SLACK)
            text = made.logs(stderr=False).decode()
            if ended["StatusCode"]:
                raise BenchError(f"`{script}` failed:\n{made.logs().decode()}")
            return text
        finally:
            made.remove(force=True)

    def most(self, beside: Container, url: str) -> float:
        """Return how many requests a second are answered at most."""
        seconds = f"{self.seconds:g}"
        script = f"exec wrk -t1 -c{CONNECTIONS} -d{seconds}s --timeout 30s '{url}'"
        return figures.wrk(self.run(beside, script, self.seconds))

    def at_rate(self, beside: Container, url: str, requests: int) -> float:
        """Ask so often at a constant rate; return the seconds within which 99 % are answered."""
        seconds = requests / RATE
        script = (
            f"echo 'GET {url}' | vegeta attack -rate={RATE}/1s -duration={seconds:g}s -timeout=5s"
            " | vegeta report -type=json"
        )
        return figures.vegeta(self.run(beside, script, seconds))


@contextlib.contextmanager
def serving(docker: DockerClient, image: str, app: str, **more: Any) -> Iterator[Container]:  # noqa: ANN401 - as docker-py takes it
    """Run an application of ``apps/`` under the API's own gunicorn, and wait until it answers."""
    from docker.types import LogConfig

    made = docker.containers.create(
        image,
        ["gunicorn", "--config", "python:slipway_api.gunicorn_conf", f"{app}:app"],
        environment={"PYTHONPATH": "/app:/bench"},
        network_mode="none",
        labels=stack.LABELS,
        healthcheck={"test": ["NONE"]},
        # As of the system that it is measured beside: Docker takes a processor's time for a log.
        log_config=LogConfig(type=LogConfig.types.NONE),
        **_mounted(more),
    )
    try:
        made.start()
        stack.within(made, "python3", "-c", _ANSWERS)
        yield made
    finally:
        made.remove(force=True)


def _mounted(more: dict[str, Any]) -> dict[str, Any]:
    return {**more, "volumes": [f"{HERE / 'apps'}:/bench:ro", *more.get("volumes", [])]}


@contextlib.contextmanager
def sleeping(docker: DockerClient, image: str) -> Iterator[None]:
    """Have containers run that do nothing."""
    with contextlib.ExitStack() as made:
        for _ in range(CONTAINERS):
            container = docker.containers.create(
                image,
                ["sleep", "infinity"],
                network_mode="none",
                labels=stack.LABELS,
                healthcheck={"test": ["NONE"]},
            )
            made.callback(container.remove, force=True)
            container.start()
        yield


def remembered(bench: Bench, api: Container) -> dict[str, int]:
    """Return the bytes that the API takes with so many requests behind it."""
    found: dict[str, int] = {}
    before = 0
    for count in REQUESTS:
        bench.at_rate(api, f"http://127.0.0.1:8000{PATH}", count - before)
        before = count
        found[str(count)] = stack.memory(api)
    return found


def measure(bench: Bench, images: Mapping[str, str], rounds: int) -> dict[str, Any]:
    """Run the system and what it is measured against; return what was measured."""
    docker = bench.docker
    group = str(_SOCKET.stat().st_gid)
    with (
        sleeping(docker, images["api"]),
        stack.running(docker, images, nginx=stack.UNLIMITED, logged=False) as system,
    ):
        (api,) = system.apis
        memory = remembered(bench, api)
        size = int(stack.within(system.nginx, "sh", "-c", _SERVE_FILE))
        with (
            serving(docker, images["api"], "constant") as constant,
            serving(
                docker,
                images["api"],
                "client_per_request",
                volumes=[f"{_SOCKET}:{_SOCKET}"],
                group_add=[group],
            ) as client,
        ):
            ways = {
                FILE: (system.nginx, f"http://127.0.0.1:8080{FILE_PATH}"),
                LIST: (system.nginx, f"http://127.0.0.1:8080{PATH}"),
                CONSTANT: (constant, "http://127.0.0.1:8000/"),
                API: (api, f"http://127.0.0.1:8000{PATH}"),
                CLIENT: (client, "http://127.0.0.1:8000/"),
            }
            measured: dict[str, dict[str, list[float]]] = {
                "requests a second": {way: [] for way in ways},
                "99 % within": {way: [] for way in (FILE, LIST)},
            }
            running = len(docker.containers.list(sparse=True))
            for number in range(rounds):
                for way in list(ways) if number % 2 == 0 else reversed(ways):
                    for unit, rows in measured.items():
                        if way not in rows:
                            continue
                        beside, url = ways[way]
                        rows[way].append(
                            bench.most(beside, url)
                            if unit == "requests a second"
                            else bench.at_rate(beside, url, int(RATE * bench.seconds))
                        )
                        sys.stderr.write(f"{way}, {unit}: {rows[way][-1]:.6g}\n")
    return {
        "schema_version": 1,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
        "rounds": rounds,
        "seconds": bench.seconds,
        "connections": CONNECTIONS,
        "rate": RATE,
        "containers": running,
        "bytes": size,
        "measured": measured,
        "memory": memory,
    }


def main() -> None:
    """Measure and write."""
    from docker import DockerClient

    parser = argparse.ArgumentParser(prog="python -m bench.api", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=ROOT / "reports/bench")
    given = parser.parse_args()
    if not (1 <= given.rounds <= MOST_ROUNDS and 1 <= given.seconds <= MOST_SECONDS):
        parser.error(f"1 to {MOST_ROUNDS} rounds, and 1 to {MOST_SECONDS} seconds")
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    with (
        tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder,
        contextlib.closing(DockerClient(base_url=host, timeout=120)) as docker,
    ):
        images = stack.build(Path(folder), {"tools": HERE / "tools"})
        for image in images.values():
            docker.images.pull(image)
        began = time.monotonic()
        try:
            result = measure(Bench(docker, images["tools"], given.seconds), images, given.rounds)
        finally:
            for image in images.values():
                docker.images.remove(image)
        sys.stderr.write(f"measured in {time.monotonic() - began:.0f} s\n")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / figures.NAME).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    figures.plot(result, given.out / figures.PLOT)
    text = documents.document(given.out)
    (given.out / documents.DOCUMENT).write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    if missed := figures.missed(result):
        sys.stderr.write("".join(f"{sentence}\n" for sentence in missed))
        raise SystemExit(1)


if __name__ == "__main__":
    main()
