"""Debian's packages: what to install, from where, and how; Debian and Ubuntu only.

Debian 12 has a Docker without buildx. Debian 13's installs beside it with nothing upgraded when
each package is asked for by its suite (``docker.io/trixie``); ``-t trixie`` would bring libc along.
The suite is pinned at 50, so that nothing else of it is ever taken.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from pipeline.errors import PrerequisiteError
from pipeline.setup.bases import MIRROR, SUITE
from pipeline.setup.command import succeed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.setup.command import Run
    from pipeline.setup.settings import Say

SOURCES = Path("/etc/apt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ENGINE = ("docker.io", "docker-cli", "docker-buildx")
ETCD = "etcd-server"
LEAST: Mapping[str, tuple[int, int]] = {ETCD: (3, 5)}
"""The versions that are old enough to be worthless: Kubernetes 1.34 and later want etcd 3.5."""
_OF_SUITE = frozenset({*ENGINE, ETCD})
"""What is taken from the added suite: the parts of one thing come from one place."""
LIMIT = 600.0
LOCK_LIMIT = 120.0
"""Seconds to wait for another apt, such as the upgrades that a machine does by itself."""
_LOCK = "DPkg::Lock::Timeout=120"


@dataclass(frozen=True, slots=True)
class Source:
    """A suite of a mirror that this machine's apt uses.

    Attributes:
        uri: The mirror.
        suites: Its suites.
        signed_by: The keyring; empty when it is one that apt trusts for everything.
    """

    uri: str
    suites: tuple[str, ...]
    signed_by: str = ""


def parse_stanzas(text: str) -> tuple[Source, ...]:
    """Return the sources of packages in a ``.sources`` file (deb822-style, sources.list(5))."""
    found: list[Source] = []
    for stanza in "\n".join(
        "" if not line.strip() else line for line in text.splitlines() if not line.startswith("#")
    ).split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[key] = f"{fields.get(key, '')}\n{line.strip()}"
            else:
                name, _, value = line.partition(":")
                key = name.strip().lower()
                fields[key] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in {"no", "false", "0", "off"}
        if enabled and "deb" in fields.get("types", "").split():
            signed = fields.get("signed-by", "")
            # A key may stand there in full; only a file's name can be used again.
            signed = signed if signed.startswith("/") and "\n" not in signed else ""
            suites = tuple(fields.get("suites", "").split())
            found += [Source(uri, suites, signed) for uri in fields.get("uris", "").split()]
    return tuple(found)


def parse_lines(text: str) -> tuple[Source, ...]:
    """Return the sources of packages in a ``.list`` file (one-line-style, sources.list(5))."""
    found: list[Source] = []
    for line in text.splitlines():
        words = line.partition("#")[0].strip()
        kind, _, rest = words.partition(" ")
        if kind != "deb":
            continue
        options = ""
        rest = rest.strip()
        if rest.startswith("["):
            options, _, rest = rest[1:].partition("]")
        signed = [o.partition("=")[2] for o in options.split() if o.startswith("signed-by=")]
        uri, _, suites = rest.strip().partition(" ")
        found.append(Source(uri, tuple(suites.split()[:1]), signed[0] if signed else ""))
    return tuple(found)


def sources(folder: Path = SOURCES) -> tuple[Source, ...]:
    """Return the sources that apt is configured with, in its order."""
    found: list[Source] = []
    lists = folder / "sources.list"
    if lists.is_file():
        found += parse_lines(lists.read_text(encoding="utf-8", errors="replace"))
    for file in sorted((folder / "sources.list.d").glob("*")):
        if file.suffix == ".list":
            found += parse_lines(file.read_text(encoding="utf-8", errors="replace"))
        elif file.suffix == ".sources":
            found += parse_stanzas(file.read_text(encoding="utf-8", errors="replace"))
    return tuple(found)


def mirror(found: Iterable[Source]) -> Source:
    """Return the mirror to take Debian's stable suite from: this machine's own, where it has one.

    A mirror of Ubuntu, and of Debian's security updates, does not have it.
    """
    keyring = KEYRING if Path(KEYRING).is_file() else ""
    for source in found:
        is_debian = any(suite in {"bookworm", SUITE, "stable", "sid"} for suite in source.suites)
        if is_debian and source.uri.startswith(("http://", "https://")):
            return Source(source.uri, (SUITE,), source.signed_by or keyring)
    return Source(MIRROR, (SUITE,), keyring)


def stanza(source: Source) -> str:
    """Return the ``.sources`` file for Debian's stable suite from a mirror."""
    lines = [
        "# Made by Slipway, for Docker with buildx and for etcd. All of it is pinned at 50.",
        "Types: deb",
        f"URIs: {source.uri}",
        f"Suites: {' '.join(source.suites)}",
        "Components: main",
    ]
    if source.signed_by:
        lines.append(f"Signed-By: {source.signed_by}")
    return "\n".join(lines) + "\n"


PIN = f"Package: *\nPin: release n={SUITE}\nPin-Priority: 50\n"


@dataclass(frozen=True, slots=True)
class Apt:
    """The package manager of this machine.

    Attributes:
        run: Runs programs.
        say: Told what is installed.
        folder: Its configuration.
        distribution: ID of os-release(5): ``debian``, ``ubuntu``, …
        pause: Seconds between two tries for a lock.
    """

    run: Run
    say: Say
    folder: Path = SOURCES
    distribution: str = "debian"
    pause: float = 1.0

    async def install(self, names: Sequence[str]) -> None:
        """Install packages, with Debian's stable suite as one more source where it is needed.

        Args:
            names: The packages; ``docker-cli`` is left out where ``docker.io`` contains it.

        Raises:
            PrerequisiteError: One is nowhere to be had, or the installation failed.
        """
        self.say(f"Installing {' '.join(names)} (apt-get)")
        await self.update()
        candidates = {name: await self.candidate(name) for name in names}
        suite = ""
        missing = [name for name in names if not _serves(name, candidates[name])]
        if any(name != "docker-cli" for name in missing):
            if self.distribution != "debian":
                raise PrerequisiteError(
                    f"This {self.distribution} has no package "
                    f"{' and '.join(map(_described, missing))}",
                    remedy=_elsewhere(missing),
                )
            await to_thread.run_sync(self._add_suite)
            await self.update()
            candidates = {name: await self.candidate(name) for name in names}
        if await anyio.Path(self._suite_file).is_file():
            # The engine and its parts come from the same suite; the rest is this machine's own.
            suite = f"/{SUITE}"
        wanted = [
            f"{name}{suite}" if name in _OF_SUITE else name for name in names if candidates[name]
        ]
        await succeed(
            self.run,
            [
                *("apt-get", "-qq", "-o", _LOCK, "-o", "Dpkg::Use-Pty=0"),
                *("--yes", "--no-install-recommends", "install"),
                *wanted,
            ],
            failure=f"{' '.join(wanted)} cannot be installed",
            remedy="Install them by hand to see why.",
            limit=LIMIT,
            env=_environment(),
        )

    async def candidate(self, name: str) -> str:
        """Return the version of a package that would be installed; empty when there is none."""
        output = await self.run(["apt-cache", "policy", name], limit=60.0, env=_environment())
        for line in output.stdout.splitlines():
            key, _, value = line.strip().partition(": ")
            if key == "Candidate":
                return "" if value == "(none)" else value
        return ""

    @property
    def _suite_file(self) -> Path:
        return self.folder / "sources.list.d" / "slipway-trixie.sources"

    async def update(self) -> None:
        """Update the lists of packages, and wait for whoever does so already.

        apt itself waits for the lock of dpkg, but not for theirs.

        Raises:
            PrerequisiteError: They cannot be updated.
        """
        command = ["apt-get", "-qq", "-o", _LOCK, "update"]
        deadline = anyio.current_time() + LOCK_LIMIT
        while anyio.current_time() < deadline:
            output = await self.run(command, limit=LIMIT, env=_environment())
            if output.code == 0:
                return
            if "Could not get lock" not in output.stderr:
                break
            await anyio.sleep(self.pause)
        await succeed(
            self.run,
            command,
            failure="The lists of packages cannot be updated",
            remedy=f"Check that this machine reaches its mirrors: {self.folder}/sources.list*.",
            limit=LIMIT,
            env=_environment(),
        )

    def _add_suite(self) -> None:
        source = mirror(sources(self.folder))
        preferences = self.folder / "preferences.d" / "slipway-trixie"
        self.say(f"Adding Debian {SUITE} from {source.uri} as an apt source, pinned at 50")
        for file, text in ((preferences, PIN), (self._suite_file, stanza(source))):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


def _serves(name: str, version: str) -> bool:
    """Return whether a version of a package would do; an empty one is none."""
    if not version or name not in LEAST:
        return bool(version)
    # policy-manual, "Version": an epoch may stand before a colon.
    numbers = re.findall(r"\d+", version.rpartition(":")[2])[:2]
    return tuple(map(int, numbers)) >= LEAST[name]


def _described(name: str) -> str:
    least = LEAST.get(name)
    return f"{name} {'.'.join(map(str, least))} or later" if least else name


def _elsewhere(missing: Sequence[str]) -> str:
    if ETCD in missing:
        return (
            "Install etcd as https://etcd.io/docs/latest/install/ says, so that `etcd` is on PATH."
        )
    return (
        "Install Docker with buildx as https://docs.docker.com/engine/install/ says, then run "
        "`make setup` again."
    )


def distribution(file: Path = Path("/etc/os-release")) -> str:
    """Return the ID of os-release(5), ``linux`` when it names none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "linux"
    for line in lines:
        key, _, value = line.partition("=")
        if key == "ID":
            return "".join(shlex.split(value))
    return "linux"


def _environment() -> dict[str, str]:
    return os.environ | {
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_SUSPEND": "1",
        "LC_ALL": "C.UTF-8",
    }
