"""The base images: the official ones, or stand-ins made from Debian's packages.

A stand-in is a root filesystem of Debian's stable suite by ``mmdebstrap``, and on it one target of
``standins/Dockerfile``. Its tag carries the hash of the recipe, so that a changed recipe makes it
anew and an unchanged one is found again. It is pushed to the loopback registry, where any engine
pulls it from, and is named by digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import anyio
from anyio import to_thread

from pipeline.errors import PrerequisiteError
from pipeline.setup import state
from pipeline.setup.command import succeed
from pipeline.setup.registry import DEFAULT, MANIFESTS, Registry, loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.setup.command import Run
    from pipeline.setup.docker import Docker
    from pipeline.setup.settings import Say, Settings

    Ask = Callable[[Path | None], "Probe"]
    """Asks the official registry, trusting a CA bundle; the seam that tests replace."""

_log = logging.getLogger(__name__)

Kind = Literal["registry", "debian"]

SUITE = "trixie"
OFFICIAL: Mapping[str, str] = {
    "api": "docker.io/library/python:3.13-slim-trixie",
    "nginx": "docker.io/library/nginx:1.30-trixie",
}
"""The official base of each image: the default of ARG BASE in its Dockerfile."""

REGISTRY_IMAGE = "docker.io/library/registry:2"
TARGETS: Mapping[str, str] = {"api": "python", "nginx": "nginx"}
"""The target of ``standins/Dockerfile`` that stands for the base of each image."""

HUB = "https://registry-1.docker.io/v2/"
HUB_TOKEN = "https://auth.docker.io/token?service=registry.docker.io&scope=repository:{}:pull"  # noqa: S105
PROBE_LIMIT = 3.0
"""Seconds for the question whether the official registry answers."""
REMEMBERED = 600.0
"""Seconds for which its answer holds, so that a dead network does not cost every run 3 s."""
MIRROR = "http://deb.debian.org/debian"

STANDINS = Path(__file__).parent / "standins"
_RECIPE = ("Dockerfile", "install-packages", "registry.yml")
_ROOTFS = (
    "--variant=minbase",
    # As in the official slim images: no manuals and no translations, but the licences.
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    # These two are copied from this machine; Docker brings its own.
    '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Bases:
    """The base images of a run.

    Attributes:
        kind: ``registry`` the official ones, ``debian`` the stand-ins.
        references: The base of each image, by the image's name, with its digest; an official one
            has only its tag when its digest cannot be had.
        reason: Why this kind, one sentence without a full stop.
    """

    kind: Kind
    references: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of asking the official registry.

    Attributes:
        answered: Whether it did.
        detail: How it answered, or why it did not.
        references: The official bases with their digests, as far as they were found.
        untrusted: Whether it was its certificate that was refused.
    """

    answered: bool
    detail: str
    references: Mapping[str, str]
    untrusted: bool = False


def recipe() -> str:
    """Return the hash that names the recipe of the stand-ins: 12 hexadecimal digits."""
    digest = hashlib.sha256(" ".join((SUITE, *_ROOTFS)).encode())
    for name in _RECIPE:
        digest.update(b"\0" + (STANDINS / name).read_bytes())
    return digest.hexdigest()[:12]


def reference(kind: Kind, name: str, registry: str = DEFAULT) -> str:
    """Return the base of an image by its tag.

    Args:
        kind: Where bases come from.
        name: The image, ``api`` or ``nginx``.
        registry: The registry that has the stand-ins, ``HOST:PORT``.
    """
    if kind == "registry":
        return OFFICIAL[name]
    return f"{registry}/slipway-standin/{TARGETS[name]}:{SUITE}-{recipe()}"


def home(settings: Settings) -> Registry:
    """Return the registry that has the stand-ins: the one images go to, when it is local."""
    found = loopback(settings.registry) or loopback(DEFAULT)
    if found is None:  # pragma: no cover  the default is a loopback address
        raise AssertionError(DEFAULT)
    return found


async def resolve_bases(
    settings: Settings,
    *,
    ask: Ask | None = None,
    place: Path | None = None,
    elsewhere: Registry | None = None,
) -> Bases:
    """Return the bases of a run, by digest.

    Args:
        settings: What the run was asked for.
        ask: Asks the official registry; over the network when None.
        place: Where its answer is remembered; the state folder when None.
        elsewhere: A registry whose stand-ins are taken when the one images go to has none, or
            tells only those who have a password.

    Raises:
        PrerequisiteError: A stand-in is missing, the registry that has it is down, or the
            official registry was ordered and does not answer.
    """
    kind, reason, official = await choose(settings, ask=ask, place=place)
    if kind == "registry":
        found = {name: official.get(name, reference(kind, name)) for name in OFFICIAL}
        return Bases(kind, found, reason)
    registry = home(settings)
    try:
        references = await to_thread.run_sync(_all_standins, registry)
    except PrerequisiteError:
        if elsewhere is None or elsewhere == registry:
            raise
        try:
            references = await to_thread.run_sync(_all_standins, elsewhere)
        except PrerequisiteError as error:
            # What is wrong with the registry that was asked for is what a person can mend.
            _log.debug("%s", error)
            references = {}
        if not references:
            raise
    return Bases(kind, references, reason)


def _all_standins(registry: Registry) -> dict[str, str]:
    """Return each stand-in by digest, by the image's name.

    Raises:
        PrerequisiteError: One is missing, or the registry does not answer.
    """
    references = standins(registry)
    missing = [name for name, found in references.items() if found is None]
    if missing:
        raise PrerequisiteError(
            f"The stand-in for the base image of {' and '.join(missing)} is not on {registry}",
            remedy=f"Run `{registry.command}`.",
        )
    return cast("dict[str, str]", references)


def standins(registry: Registry) -> dict[str, str | None]:
    """Return each stand-in by digest, by the image's name; None for one that is missing.

    Raises:
        PrerequisiteError: The registry does not answer.
    """
    tag = f"{SUITE}-{recipe()}"
    found: dict[str, str | None] = {}
    for name, target in TARGETS.items():
        digest = registry.digest(f"slipway-standin/{target}", tag)
        found[name] = (
            None if digest is None else f"{reference('debian', name, str(registry))}@{digest}"
        )
    return found


async def choose(
    settings: Settings, *, ask: Ask | None = None, place: Path | None = None
) -> tuple[Kind, str, Mapping[str, str]]:
    """Decide where bases come from.

    Returns:
        The kind, why, and the official bases with their digests as far as they are known.

    Raises:
        PrerequisiteError: The official registry was ordered and does not answer.
    """
    if settings.bases == "debian":
        return "debian", "ordered by --bases debian", {}
    ordered = settings.bases == "registry"
    probe = await _probe(settings.ca, ask or ask_hub, place or state.folder(), ordered=ordered)
    if probe.answered:
        why = "ordered by --bases registry" if ordered else "auto"
        return "registry", f"{why}: {HUB} answers", probe.references
    if ordered:
        raise PrerequisiteError(
            f"The registry of the base images, {HUB}, does not answer: {probe.detail}",
            remedy="Name the CA bundle of the one who intercepts the connection with `--ca` or "
            "PIPELINE_CA."
            if probe.untrusted
            else "Check the network, or use `--bases debian`.",
        )
    return "debian", f"auto: {HUB} does not answer ({probe.detail})", {}


def ask_hub(ca: Path | None) -> Probe:
    """Ask the official registry whether it is there, and for the digests of the bases.

    Any HTTP status means that it is there. Proxies are those of the environment.
    """
    import ssl  # 40 ms with the next two, and only when it is asked
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPSHandler, Request, build_opener

    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        web = build_opener(HTTPSHandler(context=context))
        try:
            web.open(HUB, timeout=PROBE_LIMIT).close()
        except HTTPError as status:
            status.close()
    except (OSError, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        return Probe(
            answered=False,
            detail=str(cause),
            references={},
            untrusted=isinstance(cause, ssl.SSLCertVerificationError),
        )

    def fetch(url: str, method: str, headers: dict[str, str]) -> tuple[bytes, Mapping[str, str]]:
        request = Request(url, method=method, headers=headers)  # noqa: S310  only https, above
        with web.open(request, timeout=PROBE_LIMIT) as reply:
            return reply.read(), reply.headers

    return Probe(answered=True, detail="it answers", references=digests(fetch))


def digests(
    fetch: Callable[[str, str, dict[str, str]], tuple[bytes, Mapping[str, str]]],
) -> dict[str, str]:
    """Return the official bases with their digests, those that can be had without an account.

    Args:
        fetch: Takes an URL, a method and headers; returns body and headers; raises OSError.
    """
    found: dict[str, str] = {}
    for name, official in OFFICIAL.items():
        repository, _, tag = official.removeprefix("docker.io/").rpartition(":")
        try:
            body, _ = fetch(HUB_TOKEN.format(repository), "GET", {})
            _, headers = fetch(
                f"{HUB}{repository}/manifests/{tag}",
                "HEAD",
                {
                    "Authorization": f"Bearer {json.loads(body)['token']}",
                    "Accept": ", ".join(MANIFESTS),
                },
            )
            found[name] = f"{official}@{headers['Docker-Content-Digest']}"
        except (OSError, ValueError, KeyError):
            # The tag alone will do; the digest only makes the run's record exact.
            continue
    return found


async def _probe(ca: Path | None, ask: Ask, place: Path, *, ordered: bool) -> Probe:
    file = place / "bases.json"
    known = await to_thread.run_sync(_remembered, file, ca)
    # Who has ordered the registry may have just mended the network: a refusal does not hold then.
    if known is not None and (known.answered or not ordered):
        return known
    probe = await to_thread.run_sync(_bounded, ask, ca)
    record = {
        "at": time.time(),
        "ca": None if ca is None else str(ca),
        "answered": probe.answered,
        "detail": probe.detail,
        "references": dict(probe.references),
        "untrusted": probe.untrusted,
    }
    await to_thread.run_sync(state.remember, file, json.dumps(record, indent=2))
    return probe


def _bounded(ask: Ask, ca: Path | None) -> Probe:
    """Ask in a thread that may be left behind: the look-up of a name has no limit of its own."""
    answers: list[Probe] = []
    thread = threading.Thread(target=lambda: answers.append(ask(ca)), daemon=True)
    thread.start()
    thread.join(PROBE_LIMIT)
    if answers:
        return answers[0]
    return Probe(answered=False, detail=f"not within {PROBE_LIMIT:.0f} s", references={})


def _remembered(file: Path, ca: Path | None) -> Probe | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        fresh = 0 <= time.time() - record["at"] < REMEMBERED
        if not fresh or record["ca"] != (None if ca is None else str(ca)):
            return None
        return Probe(
            answered=record["answered"],
            detail=record["detail"],
            references=record["references"],
            untrusted=record["untrusted"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        # It is a memory, no more: asking again is right whatever is wrong with it.
        return None


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the stand-ins are made with.

    Attributes:
        docker: The Docker Engine.
        run: Runs programs.
        say: Told what is being made.
        ca: The CA bundle, for a mirror with TLS.
        mirror: The mirror of Debian's packages.
    """

    docker: Docker
    run: Run
    say: Say
    ca: Path | None = None
    mirror: str = MIRROR

    async def make(self, target: str, name: str) -> None:
        """Make one stand-in under a name, with the root filesystem that it needs.

        Raises:
            PrerequisiteError: It cannot be made.
        """
        command = [
            *("docker", "buildx", "build", "--builder", "default", "--quiet"),
            *("--provenance=false", "--target", target, "--tag", name),
            *("--build-arg", f"DEBIAN={self._rootfs}"),
        ]
        if self.ca is not None:
            command += ["--secret", f"id=ca,src={self.ca}"]
        for proxy in _PROXIES:
            if os.environ.get(proxy):
                # By name only: the value may hold a password and is in no list of processes.
                command += ["--build-arg", proxy]
        self.say(f"Making the stand-in {name} from Debian's packages")
        await succeed(
            self.run,
            [*command, str(STANDINS)],
            failure=f"The stand-in {name} cannot be made",
            remedy=f"Check that containers reach {self.mirror}.",
            limit=600.0,
            env=self._environment,
        )

    async def root(self) -> None:
        """Make the root filesystem of all stand-ins, unless the engine has it.

        Raises:
            PrerequisiteError: It cannot be made.
        """
        if await to_thread.run_sync(self.has_root):
            return
        self.say(f"Making a root filesystem of Debian {SUITE} from {self.mirror}")
        with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
            tar = f"{folder}/root.tar"
            await succeed(
                self.run,
                ["mmdebstrap", *_ROOTFS, SUITE, tar, self.mirror],
                failure="The root filesystem of the stand-ins cannot be made",
                remedy=f"Check that this machine reaches {self.mirror}.",
                limit=600.0,
            )
            await succeed(
                self.run,
                ["docker", "import", "--change", 'CMD ["bash"]', tar, self._rootfs],
                failure="The root filesystem of the stand-ins cannot be imported",
                remedy="See the log of the Docker Engine.",
                limit=120.0,
                env=self._environment,
            )

    def has_root(self) -> bool:
        """Return whether the engine has the root filesystem."""
        return self.docker.has_image(self._rootfs)

    async def push(self, name: str) -> None:
        """Push a stand-in to the registry in its name.

        Raises:
            PrerequisiteError: It cannot be pushed.
        """
        await succeed(
            self.run,
            ["docker", "push", "--quiet", name],
            failure=f"The stand-in {name} cannot be pushed",
            remedy="See `docker logs slipway-registry`.",
            limit=300.0,
            env=self._environment,
        )

    @property
    def registry_image(self) -> str:
        """The name of the stand-in for the registry's own image; it is on the engine only."""
        return f"slipway-standin/registry:{SUITE}-{recipe()}"

    @property
    def _rootfs(self) -> str:
        digest = hashlib.sha256(" ".join((SUITE, *_ROOTFS)).encode()).hexdigest()[:12]
        return f"slipway-standin/debian:{SUITE}-{digest}"

    @property
    def _environment(self) -> dict[str, str]:
        # The address that was chosen wins over a context of Docker's client.
        environment = {k: v for k, v in os.environ.items() if k != "DOCKER_CONTEXT"}
        return environment | {"DOCKER_HOST": self.docker.host}


async def prepare(workshop: Workshop, registry: Registry, *, with_registry: bool) -> None:
    """Make the stand-ins that the Docker Engine does not have, side by side.

    Args:
        workshop: What they are made with.
        registry: The registry that they will be pushed to; it need not be up.
        with_registry: Whether the stand-in for the registry's own image is wanted as well.

    Raises:
        PrerequisiteError: One cannot be made.
    """
    wanted = {target: reference("debian", name, str(registry)) for name, target in TARGETS.items()}
    if with_registry:
        wanted["registry"] = workshop.registry_image
    missing = {
        target: name
        for target, name in wanted.items()
        if not await to_thread.run_sync(workshop.docker.has_image, name)
    }
    if not missing:
        return
    await workshop.root()
    try:
        async with anyio.create_task_group() as group:
            for target, name in missing.items():
                group.start_soon(workshop.make, target, name)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures


async def publish(workshop: Workshop, registry: Registry) -> None:
    """Push the stand-ins that the registry does not have.

    Raises:
        PrerequisiteError: One cannot be pushed.
    """
    for name, digest in (await to_thread.run_sync(standins, registry)).items():
        if digest is None:
            await workshop.push(reference("debian", name, str(registry)))
