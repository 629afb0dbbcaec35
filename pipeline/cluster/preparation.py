"""Install what a cluster lacks before the system can be deployed to it: metrics-server and KEDA.

Rules:

- Nothing is changed before everything is known: the cluster's version, what is in it and whose, and
  the manifests that would be applied.
- What somebody else installed is waited for and never changed; a KEDA of another version is refused
  by name.
- Done means that it works, not that it was applied: the metrics API has figures of the nodes, the
  external metrics API answers, and KEDA's webhook refuses what it has to refuse.
- Run again, it asks a few questions, changes nothing and ends.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from pipeline.cluster import addons, versions
from pipeline.cluster.addons import KEDA, METRICS_SERVER
from pipeline.errors import PrerequisiteError, StepError, UsageError
from pipeline.kube import Kind, Refused
from pipeline.setup import command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pipeline.cluster.addons import Addon, Object
    from pipeline.kube import Kube
    from pipeline.setup.command import Run
    from pipeline.setup.settings import Say

LIMIT = 300.0
"""Seconds until all of it works: images are pulled, and the metrics of a node take a minute."""
UNPULLABLE_AFTER = 60.0
"""Seconds for which an image cannot be pulled until it is given up; registries do hiccup."""
DOWNLOAD_LIMIT = 60.0
MANIFEST_LIMIT = 16 * 1024 * 1024
"""Bytes of a manifest; KEDA's has half a megabyte."""
HELM_REPOSITORY = "https://kedacore.github.io/charts"
LOCAL_CONTEXT = "slipway-local"
MANAGER = "slipway-prepare"
"""Our name as a field manager; another one than that of a deploy, which has other objects."""

_PART_OF_KEDA = "app.kubernetes.io/part-of=keda-operator"
_MINIKUBE = "minikube.k8s.io/name"
_UNPULLABLE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_NODES = "/apis/metrics.k8s.io/v1beta1/nodes"
_EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1"
_DENIED = "admission webhook"
"""What the API server says of a refusal that was not its own."""

_DEPLOYMENT = Kind("apps", "Deployment")
_DEFINITION = Kind("apiextensions.k8s.io", "CustomResourceDefinition")
_SERVICE = Kind("apiregistration.k8s.io", "APIService")
_WEBHOOKS = Kind("admissionregistration.k8s.io", "ValidatingWebhookConfiguration")


class Settings(Protocol):
    """What preparing a cluster reads of the settings."""

    @property
    def keda(self) -> str:
        """An ``https://`` address, a file, or ``helm``; empty means what fits the cluster."""

    @property
    def ca(self) -> Path | None:
        """A CA bundle for what is downloaded."""


class Fetch(Protocol):
    """Downloads a text; the seam that tests replace."""

    async def __call__(self, url: str, ca: Path | None) -> str:
        """Return it.

        Raises:
            PrerequisiteError: It cannot be had.
        """


async def download(url: str, ca: Path | None) -> str:
    """Return a manifest from the internet; see `Fetch`."""
    import ssl  # what a prepared cluster does not need is not imported

    import httpx

    remedy = (
        "Download it where it can be had, and name the file with --keda FILE"
        if url != METRICS_SERVER.url
        else "Install metrics-server as the provider of the cluster says, then run it again"
    )
    trust = ssl.create_default_context()
    try:
        if ca is not None:
            trust.load_verify_locations(cafile=str(ca))
        with anyio.fail_after(DOWNLOAD_LIMIT):
            async with (
                httpx.AsyncClient(verify=trust, follow_redirects=True, timeout=20.0) as client,
                client.stream("GET", url) as reply,
            ):
                reply.raise_for_status()
                body = bytearray()
                async for chunk in reply.aiter_bytes():
                    body += chunk
                    if len(body) > MANIFEST_LIMIT:
                        raise PrerequisiteError(
                            f"What {url} gives has more than {MANIFEST_LIMIT >> 20} MiB",
                            remedy=remedy,
                        )
                return body.decode()
    except TimeoutError as error:
        raise PrerequisiteError(
            f"{url} was not downloaded within {DOWNLOAD_LIMIT:.0f} s", remedy=remedy
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise PrerequisiteError(
            f"{url} cannot be downloaded: {str(error) or type(error).__name__}".partition("\n")[0],
            remedy=remedy,
        ) from error


def built() -> Mapping[str, Path]:
    """Return the manifests that were built for the local cluster, by the name of the addon.

    Raises:
        PrerequisiteError: There is no local cluster on this machine.
    """
    from pipeline.cluster import local  # what another cluster does not need

    found = local.manifests()
    return {KEDA.name: found.keda, METRICS_SERVER.name: found.metrics_server}


@dataclass(frozen=True, slots=True)
class Tools:
    """What preparing a cluster uses beside the cluster, so that a test can give it something else.

    Attributes:
        run: Runs programs.
        fetch: Downloads manifests.
        which: Finds a program; None when it is not there.
        built: As `built`.
        limit: Seconds until all of it has to work.
        unpullable_after: As `UNPULLABLE_AFTER`.
        pause: Seconds between two looks.
        clock: Seconds that only grow.
    """

    run: Run = command.run
    fetch: Fetch = download
    which: Callable[[str], str | None] = shutil.which
    built: Callable[[], Mapping[str, Path]] = built
    limit: float = LIMIT
    unpullable_after: float = UNPULLABLE_AFTER
    pause: float = 0.5
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about an addon.

    Attributes:
        addon: Which one.
        selector: What its Deployments are found by; empty when they are not ours to know.
        ours: Whether we installed it, or are about to.
        change: Does it; None when it is there.
    """

    addon: Addon
    selector: str
    ours: bool
    change: Callable[[], Awaitable[None]] | None = None


async def prepare(kube: Kube, settings: Settings, say: Say, *, tools: Tools | None = None) -> None:
    """Install metrics-server and KEDA where they are missing, and wait until they work.

    Args:
        kube: The cluster.
        settings: What was asked for.
        say: Told what is done, line by line.
        tools: What is used beside the cluster; the real ones when None.

    Raises:
        PrerequisiteError: The cluster, or what is in it, does not fit; nothing was changed.
        UsageError: What ``--keda`` names is no manifest of KEDA in the pinned version; nothing was
            changed.
        StepError: It was installed, and does not work within the limit.
    """
    tools = tools or Tools()
    where = f"The cluster {kube.context}"
    versions.require(kube.version, where)
    preparing = _Preparing(kube, settings, say, tools)
    plans = [await preparing.plan_metrics_server(), await preparing.plan_keda()]
    for plan in plans:
        if plan.change is not None:
            await plan.change()
    await preparing.wait(plans)
    done = " and ".join(f"{plan.addon.title}{_version(plan)}" for plan in plans)
    say(f"{where} (Kubernetes {kube.version.removeprefix('v')}) is prepared: {done}")


def _version(plan: Plan) -> str:
    return f" {plan.addon.version}" if plan.ours or plan.addon is KEDA else ""


@dataclass(frozen=True, slots=True)
class _Preparing:
    kube: Kube
    settings: Settings
    say: Say
    tools: Tools

    async def plan_metrics_server(self) -> Plan:
        addon = METRICS_SERVER
        ours = await self._ours(addon)
        if ours is not None:
            return ours
        found = await self._api(addon)
        if found is not None and not addons.is_ours(found, addon):
            # Whoever serves the metrics of nodes and pods: what counts is that somebody does.
            return Plan(addon, selector="", ours=False)
        profile = await self._minikube()
        if profile:
            return Plan(addon, "", ours=False, change=lambda: self._enable(profile))
        source = await self._source(addon, "")
        return await self._install(addon, *source)

    async def plan_keda(self) -> Plan:
        addon = KEDA
        ours = await self._ours(addon)
        if ours is not None:
            return ours
        deployments = await self.kube.list(_DEPLOYMENT, labels=_PART_OF_KEDA)
        operators = [each for each in deployments if addons.component(each) == "keda-operator"]
        if operators and not addons.is_ours(operators[0], addon):
            return self._foreign(addon, operators[0])
        await self._refuse_leftovers(addon)
        if self.settings.keda == "helm":
            return self._plan_helm(addon)
        return await self._install(addon, *await self._source(addon, self.settings.keda))

    async def wait(self, plans: Sequence[Plan]) -> None:
        """Return when everything works."""
        began = self.tools.clock()
        unpullable: float | None = None
        told = ""
        while True:
            waits = [text for plan in plans for text in await self._waits(plan)]
            if not waits:
                return
            now = self.tools.clock()
            stuck = any(reason in text for text in waits for reason in _UNPULLABLE)
            unpullable = (now if unpullable is None else unpullable) if stuck else None
            if unpullable is not None and now - unpullable >= self.tools.unpullable_after:
                raise StepError(
                    f"An image of {_titles(plans)} cannot be pulled in {self.kube.context}",
                    remedy="Give the nodes a way to its registry, or name a manifest with other "
                    "images with --keda FILE; then run it again",
                    evidence="\n".join(waits),
                )
            if now - began >= self.tools.limit:
                raise StepError(
                    f"{_titles(plans)} did not work in {self.kube.context} within "
                    f"{self.tools.limit:.0f} s: {waits[0].partition(': ')[0]} does not",
                    remedy="See `kubectl get events --all-namespaces`, then run it again",
                    evidence="\n".join(waits),
                )
            if waits[0] != told:
                told = waits[0]
                self.say(f"Waiting for {told}")
            await anyio.sleep(self.tools.pause)

    async def _waits(self, plan: Plan) -> list[str]:
        """Return what an addon still lacks to work."""
        addon = plan.addon
        waits: list[str] = []
        if plan.selector:
            deployments = await self.kube.list(_DEPLOYMENT, labels=plan.selector)
            if not deployments:
                waits.append(f"{addon.title}: its Deployments are not there")
            for each in deployments:
                lack = addons.lacks(each)
                if lack:
                    why = await self._pods(each)
                    waits.append(f"{each['metadata']['name']}: {lack}{why}")
        for name in addon.definitions:
            found = await self.kube.get(_DEFINITION, name)
            if found is None or not addons.condition(found, "Established")[0]:
                waits.append(f"{name}: the definition is not established")
        api = await self._api(addon)
        if api is None:
            waits.append(f"{addon.api}: the API is not registered")
        else:
            available, message = addons.condition(api, "Available")
            if not available:
                waits.append(f"{addon.api}: {message or 'the API is not available'}")
        # Whether it works is asked only when it could: each of these goes through the API server
        # to a pod.
        return waits or await self._idle(addon)

    async def _idle(self, addon: Addon) -> list[str]:
        if addon is METRICS_SERVER:
            nodes = await self._answer(_NODES)
            if not nodes.get("items"):
                return [f"{addon.title}: it has no figures of the nodes yet"]
            return []
        external = await self._answer(_EXTERNAL)
        if not external.get("resources"):
            return [f"{addon.title}: its metrics API lists nothing yet"]
        if await self._has_webhook() and not await self._refuses(addons.probe("default")):
            # Until the webhook has its certificate, the API server takes everything: the rules of
            # a ScaledObject would be those of the definition alone.
            return [f"{addon.title}: its webhook does not check anything yet"]
        return []

    async def _answer(self, path: str) -> Mapping[str, Any]:
        """Return what an API answers; nothing when it does not."""
        answer = await self.kube.raw(path)
        found = answer.json() if answer.ok else None
        return found if isinstance(found, dict) else {}

    async def _refuses(self, obj: Object) -> bool:
        """Return whether a webhook refuses an object; it is not made either way."""
        try:
            await self.kube.apply(obj, dry_run=True, manager=MANAGER)
        except Refused as error:
            if _DENIED not in error.evidence:
                raise
            return True
        return False

    async def _has_webhook(self) -> bool:
        found = await self.kube.list(_WEBHOOKS)
        rules = (
            rule
            for each in found
            for webhook in each.get("webhooks") or ()
            for rule in webhook.get("rules") or ()
        )
        return any("scaledobjects" in (rule.get("resources") or ()) for rule in rules)

    async def _pods(self, deployment: Object) -> str:
        """Return why the pods of a Deployment do not run, to follow what it lacks."""
        labels = (deployment["spec"].get("selector") or {}).get("matchLabels") or {}
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        namespace = deployment["metadata"]["namespace"]
        for pod in await self.kube.list(Kind("", "Pod"), namespace, labels=selector):
            why = addons.trouble(pod)
            if why:
                return f" ({why})"
        return ""

    async def _ours(self, addon: Addon) -> Plan | None:
        """Return the plan for what we installed; None when we did not, or not all of it."""
        selector = f"{addons.PREPARED}={addon.name}"
        deployments = await self.kube.list(_DEPLOYMENT, labels=selector)
        for each in deployments:
            version = addons.version_of(each)
            if version != addon.version:
                raise self._other_version(addon, version, each, "it was installed by this")
        whole = len(deployments) >= addon.deployments and await self._api(addon) is not None
        for name in addon.definitions:
            whole = whole and await self.kube.get(_DEFINITION, name) is not None
        return Plan(addon, selector, ours=True) if whole else None

    def _foreign(self, addon: Addon, operator: Object) -> Plan:
        version = addons.version_of(operator)
        if version != addon.version:
            raise self._other_version(addon, version, operator, "somebody else installed it")
        self.say(f"{addon.title} {version} is there; it is not ours, and stays as it is")
        return Plan(addon, _PART_OF_KEDA, ours=False)

    def _other_version(
        self, addon: Addon, version: str, deployment: Object, whose: str
    ) -> PrerequisiteError:
        namespace = deployment["metadata"].get("namespace", "")
        found = f"{addon.title} {version}" if version else f"A {addon.title} of unknown version"
        return PrerequisiteError(
            f"{found} is in the namespace {namespace} of {self.kube.context}, and this needs "
            f"{addon.version} ({whose}, so it is not changed)",
            remedy=f"Upgrade it to {addon.version} the way it was installed, or name another "
            f"cluster with --context; the release's manifest is {addon.url}",
        )

    async def _refuse_leftovers(self, addon: Addon) -> None:
        """Raise when there is something of an addon that is not ours, without the addon itself."""
        api = await self._api(addon)
        if api is not None and not addons.is_ours(api, addon):
            service = (api.get("spec") or {}).get("service") or {}
            raise PrerequisiteError(
                f"The external metrics of {self.kube.context} are served by "
                f"{service.get('namespace', '?')}/{service.get('name', '?')}, which is no KEDA",
                remedy="A cluster has one server of them: remove that one, or name another cluster "
                "with --context",
            )
        for name in addon.definitions:
            found = await self.kube.get(_DEFINITION, name)
            if found is not None and not addons.is_ours(found, addon):
                raise self._taken(addon, found)

    def _taken(self, addon: Addon, obj: Object) -> PrerequisiteError:
        return PrerequisiteError(
            f"{obj['kind']} {obj['metadata']['name']} is in {self.kube.context}, {addon.title} is "
            "not, and this did not make it",
            remedy=f"See whose it is; remove what is left of another {addon.title}, or install "
            f"{addon.title} {addon.version} by hand from {addon.url}",
        )

    async def _source(self, addon: Addon, given: str) -> tuple[str, str]:
        """Return the text of the manifest to install an addon from, and how it is named."""
        # An address that is the usual one is no order to fetch it where it was built.
        if given in ("", addon.url):
            there = self.tools.built() if self.kube.context == LOCAL_CONTEXT else {}
            path = there.get(addon.name)
            if path is not None:
                return await _read(path), str(path)
            given = addon.url
        if "://" in given:
            if not given.startswith("https://"):
                raise UsageError(
                    f"The manifest {given} is not downloaded over https",
                    remedy="Name an https:// address, a file, or `helm` with --keda",
                )
            self.say(f"Downloading {given}")
            return await self.tools.fetch(given, self.settings.ca), given
        return await _read(Path(given)), given

    async def _install(self, addon: Addon, text: str, source: str) -> Plan:
        objects = addons.checked(addon, addons.parse(text, source), source)
        wanted: list[Object] = []
        for each in addons.marked(addon, objects):
            metadata = each["metadata"]
            there = await self.kube.get(
                Kind.of(each), metadata["name"], metadata.get("namespace", "")
            )
            if there is None or addons.is_ours(there, addon):
                wanted.append(each)
            elif each["kind"] != "Namespace":
                raise self._taken(addon, there)

        async def change() -> None:
            self.say(f"Installing {addon.title} {addon.version} ({source})")
            for each in wanted:
                await self.kube.apply(each, manager=MANAGER)

        return Plan(addon, f"{addons.PREPARED}={addon.name}", ours=True, change=change)

    def _plan_helm(self, addon: Addon) -> Plan:
        if self.tools.which("helm") is None:
            raise PrerequisiteError(
                "Helm is not on PATH",
                remedy="Install it (https://helm.sh/docs/intro/install/), or leave out --keda helm",
            )

        async def change() -> None:
            self.say(f"Installing {addon.title} {addon.version} (Helm, {HELM_REPOSITORY})")
            output = await self.tools.run(_helm(addon, self.kube.context), limit=self.tools.limit)
            if output.code != 0:
                raise StepError(
                    f"Helm did not install {addon.title} in {self.kube.context}",
                    remedy=f"See `helm status --namespace {addon.namespace} keda`, then run it "
                    "again",
                    evidence=command.tail(output.stderr + output.stdout),
                )

        return Plan(addon, f"{addons.PREPARED}={addon.name}", ours=True, change=change)

    async def _enable(self, profile: str) -> None:
        """Switch on Minikube's own metrics-server."""
        self.say(f"Enabling {METRICS_SERVER.title} (Minikube's addon, profile {profile})")
        output = await self.tools.run(
            ["minikube", "addons", "enable", "metrics-server", f"--profile={profile}"],
            limit=self.tools.limit,
        )
        if output.code != 0:
            raise StepError(
                f"Minikube did not enable metrics-server in the profile {profile}",
                remedy=f"See `minikube logs --profile={profile}`, then run it again",
                evidence=command.tail(output.stderr + output.stdout),
            )

    async def _minikube(self) -> str:
        """Return the profile of Minikube that the cluster is; empty when it is none.

        The nodes say so: a context may be named as somebody likes.
        """
        nodes = await self.kube.list(Kind("", "Node"), labels=_MINIKUBE)
        labels = nodes[0]["metadata"].get("labels") or {} if nodes else {}
        profile = str(labels.get(_MINIKUBE, ""))
        if profile and self.tools.which("minikube") is None:
            raise PrerequisiteError(
                f"{self.kube.context} is a Minikube cluster, and minikube is not on PATH",
                remedy=f"Run `minikube addons enable metrics-server --profile={profile}` where it "
                "is, then run it again",
            )
        return profile

    async def _api(self, addon: Addon) -> Object | None:
        return await self.kube.get(_SERVICE, addon.api)


def _helm(addon: Addon, context: str) -> list[str]:
    key = addons.PREPARED.replace(".", "\\.")
    return [
        *("helm", "upgrade", "--install", "keda", "keda"),
        *(f"--repo={HELM_REPOSITORY}", f"--version={addon.version}"),
        *(f"--namespace={addon.namespace}", "--create-namespace", f"--kube-context={context}"),
        f"--set=additionalLabels.{key}={addon.name}",
    ]


async def _read(path: Path) -> str:
    try:
        return await (await anyio.Path(path).expanduser()).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"The manifest {path} cannot be read: {why}",
            remedy="Name a file, an https:// address, or `helm` with --keda",
        ) from error


def _titles(plans: Sequence[Plan]) -> str:
    return " and ".join(plan.addon.title for plan in plans)
