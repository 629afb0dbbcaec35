"""``python -m bench``: measure each way in turns, write JSON, a table and a plot.

A round is, for each way: empty all caches, then a cold start, a run with nothing changed, and a
run after one changed line of the API. Later rounds may leave the cold start out, which takes most
of the time; how often each was measured is said. The base images, the registry and the Docker
Engine are there from the start. The order of the ways alternates from round to round, so that a
machine that grows slower is unfair to none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from bench.figures import DOCUMENT, NAME, SCENARIOS, TITLES, document, plot
from pipeline import config
from pipeline.setup.bases import resolve_bases

ROOT = Path(__file__).resolve().parent.parent
# What the pipeline aims at, as a part of the imperative time.
AIMS = {"cold": 1.0, "unchanged": 1 / 3, "changed": 0.6}
# Seconds that one run may take; the slowest that was seen is a tenth of it.
LIMIT = 900
CHANGED = "service/slipway_api/app.py"


@dataclass
class Bench:
    """One run of the bench, in a folder of its own."""

    folder: Path
    docker: str
    bases: dict[str, str]
    registry: str
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @property
    def clone(self) -> Path:
        """The checkout that is worked on."""
        return self.folder / "clone"

    def environment(self) -> dict[str, str]:
        """Return the environment of both ways."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("PIPELINE_")},
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "REGISTRY": self.registry,
            "PIPELINE_REGISTRY": self.registry,
            "API_BASE": self.bases["api"],
            "NGINX_BASE": self.bases["nginx"],
            "DOCKER": self.docker,
            "PYTHONPATH": str(self.clone),
        }

    def empty(self) -> None:
        """Empty every cache that one of the ways may use."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        self._docker("buildx", "prune", "--all", "--force")
        listing = self._docker("images", "--format", "{{.Repository}}:{{.Tag}}")
        mine = [
            name
            for name in listing.split()
            if name.startswith(("slipway-cache:", "bench-", self.registry.rpartition("/")[0]))
            and "slipway-standin" not in name
        ]
        if mine:
            self._docker("rmi", "--force", *mine)
        volumes = self._docker("volume", "ls", "--quiet", "--filter", "label=io.slipway.cache")
        if volumes.split():
            self._docker("volume", "rm", *volumes.split())
        # A registry that has the layers would make the next push a cheap one.
        host, _, _ = self.registry.partition("/")
        self.registry = f"{host}/bench-{secrets.token_hex(4)}"

    def run(self, way: str) -> float:
        """Run the main job once; return its seconds as a whole process."""
        if way == "imperative":
            command = ["bash", str(ROOT / "bench/imperative.sh")]
        else:
            engine = way.removeprefix("pipeline, ")
            command = [sys.executable, "-m", "pipeline", "--engine", engine]
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.clone,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode:
            sys.stderr.write(f"{way} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n")
            raise SystemExit(1)
        return seconds

    def restore(self) -> None:
        """Take the changed line back."""
        subprocess.run(["git", "checkout", "-q", "--", "."], cwd=self.clone, check=True)

    def round(self, way: str, *, cold: bool) -> None:
        """Measure one way in all scenarios, the cold start where it is wanted."""
        self.restore()
        if cold:
            self.empty()
        for scenario in SCENARIOS if cold else SCENARIOS[1:]:
            if scenario == "changed":
                with (self.clone / CHANGED).open("a") as source:
                    source.write(f"\n\n# {secrets.token_hex(8)}\n")
            seconds = self.run(way)
            self.seconds.setdefault(way, {}).setdefault(scenario, []).append(seconds)
            sys.stderr.write(f"{way:24} {TITLES[scenario]:28} {seconds:7.2f} s\n")

    def _docker(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.docker, *arguments], capture_output=True, text=True, check=False, timeout=LIMIT
        )
        return done.stdout


def docker_with_buildx() -> str | None:
    """Return a docker client that finds its plug-in buildx; the first on PATH may not."""
    for folder in os.get_exec_path():
        path = str(Path(folder) / "docker")
        if os.access(path, os.X_OK):
            asked = subprocess.run([path, "buildx", "version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return path
    return None


def engines(settings: config.Settings) -> list[str]:
    """Return the engines at hand: the embedded one, and Dagger where it can be had."""
    from pipeline.connect import choose

    name = choose(settings).name
    return ["embedded", "dagger"] if name == "dagger" else ["embedded"]


def summary(bench: Bench) -> dict[str, Any]:
    """Return what was measured, for a program."""
    return {
        "schema_version": 1,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
        "seconds": bench.seconds,
        "medians": {
            way: {scenario: statistics.median(times) for scenario, times in rows.items()}
            for way, rows in bench.seconds.items()
        },
        "aims": AIMS,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", type=int, help="rounds with a cold start; by default all")
    parser.add_argument("--out", type=Path, default=ROOT / "reports/bench")
    arguments = parser.parse_args()
    settings = config.load({}, os.environ, cwd=ROOT)
    bases = anyio.run(resolve_bases, settings)
    docker = docker_with_buildx()
    if docker is None:
        raise SystemExit("docker with buildx is not here; run `make setup`")
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        bench = Bench(Path(folder), docker, dict(bases.references), settings.registry + "/x")
        subprocess.run(
            ["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(bench.clone)], check=True
        )
        ways = ["imperative", *(f"pipeline, {engine}" for engine in engines(settings))]
        wanted = arguments.rounds if arguments.cold is None else max(1, arguments.cold)
        # Emptied caches are shared: those of one way are warm until the other one's cold start.
        for number in range(wanted):
            for way in ways if number % 2 == 0 else reversed(ways):
                bench.round(way, cold=True)
        for way in ways if wanted < arguments.rounds else ():
            # The last cold start emptied what the other ways had.
            bench.restore()
            bench.run(way)
        for number in range(wanted, arguments.rounds):
            for way in ways if number % 2 == 0 else reversed(ways):
                bench.round(way, cold=False)
        bench.empty()
        result = summary(bench)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / NAME).write_text(json.dumps(result, indent=2) + "\n")
    text = document(arguments.out)
    (arguments.out / DOCUMENT).write_text(text)
    plot(result, arguments.out / "speed.svg")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
