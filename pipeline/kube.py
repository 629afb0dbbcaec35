"""A client of one Kubernetes cluster: objects as their JSON is, found by group and kind.

Rules:

- The sole place that imports ``kubernetes``, and only when a cluster is asked: the import takes
  0.35 s. Of that library we use how it reads a kubeconfig and authenticates; requests are generic,
  because its models know neither KEDA's kinds nor the fields of next year's Kubernetes.
- Errors of the library and of the cluster are translated here. `Refused` is an answer, `Conflict`
  one of them; `Away` means that none came.
- An API server that is away for a moment (it restarts, a load balancer moves on) is asked again
  for `Kube.patience` seconds. So is one that answers 429, 503 or 504, whose etcd has no leader, or
  whose webhook does not answer. Every request here may be sent twice: changes are server-side
  applies, replacements that name the version they replace, and deletions of what may be gone
  already. No other error is retried.
"""

from __future__ import annotations

import functools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote, urlencode

import anyio
from anyio import to_thread

from pipeline.errors import PrerequisiteError, StepError, UsageError
from pipeline.log import conceal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

Object = dict[str, Any]
"""An object of Kubernetes, as its JSON is."""

PATIENCE = 60.0
"""Seconds for which an API server that is away is asked again: three times the 20 s that an
upgrade of a single control plane takes."""
CONNECT_LIMIT = 5.0
LOGIN_LIMIT = 120.0
"""Seconds for a program that the kubeconfig names for a login: it may ask a person."""
ANSWER_LIMIT = 30.0
"""Seconds for one answer: a request may pass several webhooks of 10 s each."""
BODY_LIMIT = 64 * 1024 * 1024
MANAGER = "slipway"
"""Our name as a field manager."""
AT_ONCE = 8
"""Questions to the API server at a time."""

T = TypeVar("T")

_PAUSE = 0.5
_LONGEST_PAUSE = 3.0
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_NOT_FOUND = 404
_CONFLICT = 409
_BUSY = frozenset({429, 503, 504})
_INTERNAL = 500
_HOOK = "failed calling webhook"
_HOOK_AWAY = (
    "connection refused",
    "connection reset",
    "no endpoints available",
    "no route to host",
    "deadline exceeded",
    "Client.Timeout",
    "i/o timeout",
    "EOF",
)
_KEPT = frozenset({"list", "delete"})
"""What can be done to objects that are stored; figures that are computed can only be listed."""
_OK = 200
_MULTIPLE = 300


class Kind(NamedTuple):
    """A kind of objects, whatever version of its API is served.

    Attributes:
        group: The API group; empty for the core group.
        name: As objects have it in ``kind``.
    """

    group: str
    name: str

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Kind:
        """Return the kind of an object."""
        return cls(str(obj["apiVersion"]).rpartition("/")[0], str(obj["kind"]))

    def __str__(self) -> str:
        return self.name


NAMESPACE = Kind("", "Namespace")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server answered."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it did what it was asked."""
        return _OK <= self.status < _MULTIPLE

    def json(self) -> Any:  # noqa: ANN401 - JSON is anything
        """Return the body as JSON.

        Raises:
            ValueError: It is none.
        """
        return json.loads(self.body)


class Refused(StepError):
    """The API server answered, and refuses.

    Attributes:
        status: The HTTP status.
        reason: The reason in one word, as ``Forbidden``.
    """

    def __init__(
        self, message: str, *, remedy: str = "", evidence: str = "", status: int, reason: str
    ) -> None:
        super().__init__(message, remedy=remedy, evidence=evidence)
        self.status = status
        self.reason = reason


class Conflict(Refused):
    """Others own a field that was to be set, or the object changed meanwhile.

    Attributes:
        fields: Pairs of the field and who owns it; empty when the object changed.
    """

    def __init__(self, message: str, *, fields: Sequence[tuple[str, str]], evidence: str) -> None:
        super().__init__(message, evidence=evidence, status=_CONFLICT, reason="Conflict")
        self.fields = tuple(fields)


class Away(StepError):
    """The API server did not answer for as long as it was asked."""


class Unreached(Exception):  # it never leaves this module
    """No answer came; ``final`` says that asking again is no use."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Kube(Protocol):
    """One cluster."""

    @property
    def context(self) -> str:
        """The context of the kubeconfig that names it."""

    @property
    def server(self) -> str:
        """The address of its API server."""

    @property
    def version(self) -> str:
        """Its version, as in ``v1.36.3``."""

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """Return an object; None when it, or its kind, is not there.

        Raises:
            Refused: It may not be read.
            Away: No answer came.
        """

    async def list(self, kind: Kind, namespace: str = "", *, labels: str = "") -> list[Object]:
        """Return all objects of a kind; none when the kind is not there.

        Args:
            kind: Which.
            namespace: Where; empty means everywhere.
            labels: A label selector.

        Raises:
            Refused: They may not be read.
            Away: No answer came.
        """

    async def apply(
        self,
        obj: Object,
        *,
        dry_run: bool = False,
        force: bool = False,
        manager: str = MANAGER,
    ) -> Object:
        """Apply an object on the server's side and return what became of it.

        Args:
            obj: The object; every field in it is ours from then on.
            dry_run: Change nothing, but pass all checks.
            force: Take fields from other managers.
            manager: Who we are.

        Raises:
            Conflict: Another manager owns fields with another value.
            Refused: It is wrong, or not allowed.
            Away: No answer came.
        """

    async def create(self, obj: Object) -> Object:
        """Create an object.

        Raises:
            Conflict: It is there already.
            Refused: It is wrong, or not allowed.
            Away: No answer came.
        """

    async def replace(self, obj: Object) -> Object:
        """Replace an object in the version that ``obj`` names.

        Raises:
            Conflict: It has changed since.
            Refused: It is wrong, not there, or not allowed.
            Away: No answer came.
        """

    async def delete(
        self, kind: Kind, name: str, namespace: str = "", *, version: str = ""
    ) -> bool:
        """Delete an object, and with it what it owns; return whether it was there.

        Args:
            kind: Which kind.
            name: Its name.
            namespace: Its namespace.
            version: Only in this ``resourceVersion``.

        Raises:
            Conflict: It has changed since.
            Refused: It may not be deleted.
            Away: No answer came.
        """

    async def serves(self, kind: Kind) -> bool:
        """Return whether the cluster knows a kind."""

    async def namespaced(self, kind: Kind) -> bool | None:
        """Return whether objects of a kind are in a namespace; None when it is not known."""

    async def kept(self) -> frozenset[Kind]:
        """Return the kinds whose objects are kept in a namespace, and go with it."""

    async def allowed(
        self, verb: str, kind: Kind, namespace: str = "", *, subresource: str = ""
    ) -> bool:
        """Return whether we may do something; of an unknown kind, True: that is told elsewhere.

        Args:
            verb: As Kubernetes names it.
            kind: What it is done to.
            namespace: Where; for a namespace, which one.
            subresource: A part of it.
        """

    async def raw(self, path: str, *, limit: int = BODY_LIMIT) -> Answer:
        """Get any path; the answer's status is the caller's concern.

        Raises:
            Away: No answer came.
        """

    async def logs(
        self, namespace: str, pod: str, container: str, *, lines: int, previous: bool = False
    ) -> str:
        """Return the last lines that a container wrote; empty when there is nothing to be had."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the API server."""

    method: str
    path: str
    accept: str = "application/json"
    content: str = "application/json"
    body: Object | None = None
    limit: int = BODY_LIMIT


@dataclass(frozen=True, slots=True)
class _Resource:
    group: str
    version: str
    plural: str
    namespaced: bool
    kept: bool

    def path(self, namespace: str, name: str = "", *, version: str = "") -> str:
        root = f"/apis/{self.group}" if self.group else "/api"
        parts = [root, version or self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        return "/".join(parts)


class Client:
    """`Kube` over HTTP.

    Args:
        context: The context of the kubeconfig.
        server: The address of the API server.
        send: Sends a request, in a thread; raises `Unreached` when no answer comes.
        say: Told once when the API server is away, and once when it is back.
        patience: Seconds for which one that is away is asked again.
        clock: Seconds that only go forward.
        sleep: Waits.
    """

    def __init__(  # noqa: PLR0913 - the last two are for tests
        self,
        context: str,
        server: str,
        send: Callable[[Request], Answer],
        *,
        say: Callable[[str], None] = lambda _line: None,
        patience: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.context = context
        self.server = server
        self.version = ""
        self.patience = patience
        self._send = send
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._resources: dict[Kind, _Resource] | None = None
        self._away = False

    async def greet(self) -> None:
        """Learn the version, or raise the reason why the cluster cannot be used.

        Raises:
            PrerequisiteError: It does not answer, or not us.
        """
        try:
            found = self._checked(await self._ask(Request("GET", "/version")), "its version")
            self.version = str(found.json().get("gitVersion", ""))
        except Away as error:
            raise PrerequisiteError(
                f"The cluster of the context {self.context} ({self.server}) cannot be reached",
                remedy="Start it (`python -m pipeline cluster up`), or name another one with "
                "--context",
                evidence=error.evidence,
            ) from error
        except Refused as error:
            if error.status == _NOT_FOUND:
                raise self._no_kubernetes() from error
            raise PrerequisiteError(
                f"The cluster of the context {self.context} ({self.server}) refuses us "
                f"({error.status} {error.reason})",
                remedy="Log in again, or name another context with --context",
                evidence=error.evidence,
            ) from error
        except (ValueError, AttributeError) as error:
            raise self._no_kubernetes() from error

    def _no_kubernetes(self) -> PrerequisiteError:
        return PrerequisiteError(
            f"What answers at {self.server} (context {self.context}) is not Kubernetes",
            remedy="Correct the address in the kubeconfig, or name another context with --context",
        )

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """See `Kube`."""
        resource = await self._resource(kind)
        if resource is None:
            return None
        answer = await self._ask(Request("GET", resource.path(namespace, name)))
        if answer.status == _NOT_FOUND:
            return None
        return _object(self._checked(answer, f"reading {kind} {name}"))

    async def list(self, kind: Kind, namespace: str = "", *, labels: str = "") -> list[Object]:
        """See `Kube`."""
        resource = await self._resource(kind)
        if resource is None:
            return []
        query = "?" + urlencode({"labelSelector": labels}) if labels else ""
        answer = await self._ask(Request("GET", resource.path(namespace) + query))
        found = _object(self._checked(answer, f"listing every {kind}"))
        items = found.get("items") or []
        # The items of a list leave out what the list says of all of them.
        api_version = str(found.get("apiVersion", ""))
        return [{"apiVersion": api_version, "kind": kind.name, **item} for item in items]

    async def apply(
        self,
        obj: Object,
        *,
        dry_run: bool = False,
        force: bool = False,
        manager: str = MANAGER,
    ) -> Object:
        """See `Kube`."""
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        answer = await self._ask(
            Request(
                "PATCH",
                f"{await self._path(obj)}?{urlencode(query)}",
                # JSON is YAML.
                content="application/apply-patch+yaml",
                body=obj,
            )
        )
        return _object(self._checked(answer, f"applying {_named(obj)}"))

    async def create(self, obj: Object) -> Object:
        """See `Kube`."""
        path = (await self._path(obj)).rpartition("/")[0]
        request = Request("POST", f"{path}?fieldManager={MANAGER}", body=obj)
        return _object(self._checked(await self._ask(request), f"creating {_named(obj)}"))

    async def replace(self, obj: Object) -> Object:
        """See `Kube`."""
        request = Request("PUT", f"{await self._path(obj)}?fieldManager={MANAGER}", body=obj)
        return _object(self._checked(await self._ask(request), f"replacing {_named(obj)}"))

    async def delete(
        self, kind: Kind, name: str, namespace: str = "", *, version: str = ""
    ) -> bool:
        """See `Kube`."""
        resource = await self._resource(kind)
        if resource is None:
            return False
        options: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # It is gone when what it owns is: pods that are ending count.
            "propagationPolicy": "Foreground",
        }
        if version:
            options["preconditions"] = {"resourceVersion": version}
        answer = await self._ask(Request("DELETE", resource.path(namespace, name), body=options))
        if answer.status == _NOT_FOUND:
            return False
        self._checked(answer, f"deleting {kind} {name}")
        return True

    async def serves(self, kind: Kind) -> bool:
        """See `Kube`."""
        return await self._resource(kind) is not None

    async def namespaced(self, kind: Kind) -> bool | None:
        """See `Kube`."""
        resource = await self._resource(kind)
        return None if resource is None else resource.namespaced

    async def kept(self) -> frozenset[Kind]:
        """See `Kube`."""
        self._resources = await self._discover()
        return frozenset(
            kind for kind, found in self._resources.items() if found.namespaced and found.kept
        )

    async def allowed(
        self, verb: str, kind: Kind, namespace: str = "", *, subresource: str = ""
    ) -> bool:
        """See `Kube`."""
        resource = await self._resource(kind)
        if resource is None:
            return True
        asked = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
            # Of a namespace itself, one may have rights within it.
            "namespace": namespace if resource.namespaced or kind == NAMESPACE else "",
        }
        if kind == NAMESPACE:
            asked["name"] = namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._ask(Request("POST", path, body=review))
        found = _object(self._checked(answer, "asking for our permissions"))
        return bool((found.get("status") or {}).get("allowed"))

    async def raw(self, path: str, *, limit: int = BODY_LIMIT) -> Answer:
        """See `Kube`."""
        return await self._ask(Request("GET", path, accept="*/*", limit=limit), busy=False)

    async def logs(
        self, namespace: str, pod: str, container: str, *, lines: int, previous: bool = False
    ) -> str:
        """See `Kube`."""
        query = {"container": container, "tailLines": lines, "previous": str(previous).lower()}
        path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/log?{urlencode(query)}"
        answer = await self.raw(path, limit=64 * 1024)
        return answer.body.decode(errors="replace").rstrip() if answer.ok else ""

    async def _path(self, obj: Object) -> str:
        kind = Kind.of(obj)
        resource = await self._resource(kind)
        if resource is None:
            raise Refused(
                f"The cluster has no {kind} ({obj['apiVersion']})",
                remedy="Run `python -m pipeline cluster prepare`"
                if kind.group == "keda.sh"
                else "Install what defines it, or take it out of the overlay",
                status=_NOT_FOUND,
                reason="NotFound",
            )
        metadata = obj["metadata"]
        return resource.path(
            metadata.get("namespace", ""),
            metadata["name"],
            version=str(obj["apiVersion"]).rpartition("/")[2],
        )

    async def _resource(self, kind: Kind) -> _Resource | None:
        if self._resources is None:
            self._resources = await self._discover()
        elif kind not in self._resources:
            # It may have been installed since.
            self._resources = await self._discover()
        return self._resources.get(kind)

    async def _discover(self) -> dict[Kind, _Resource]:
        found: dict[Kind, _Resource] = {}
        for root in ("/api", "/apis"):
            answer = await self._ask(Request("GET", root, accept=_DISCOVERY))
            listed = _object(self._checked(answer, "asking what the cluster serves"))
            for group in listed.get("items") or []:
                name = str((group.get("metadata") or {}).get("name", ""))
                for version in reversed(group.get("versions") or []):
                    # The first version is the preferred one: it comes last here, and stays.
                    found.update(_resources(name, version))
        return found

    async def _ask(self, request: Request, *, busy: bool = True) -> Answer:
        """Return an answer, asking again as long as none comes.

        Args:
            request: What to ask.
            busy: Whether an answer that means "not now" counts as none.

        Raises:
            Away: None came for as long as our patience lasts.
        """
        since: float | None = None
        pause = _PAUSE
        while True:
            final = False
            try:
                answer = await to_thread.run_sync(
                    functools.partial(self._send, request), abandon_on_cancel=True
                )
                why = _not_now(answer) if busy else ""
                if not why:
                    self._back()
                    return answer
            except Unreached as error:
                why, final = str(error), error.final
            now = self._clock()
            since = now if since is None else since
            if final or now - since >= self.patience:
                raise Away(
                    f"The API server {self.server} does not answer"
                    + (f" (asked again for {now - since:.0f} s)" if now > since else ""),
                    remedy="See whether the cluster is up, then run it again",
                    evidence=why,
                )
            if not self._away:
                self._away = True
                self._say(
                    f"The API server does not answer ({why}): asking again for "
                    f"{self.patience:.0f} s"
                )
            await self._sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _back(self) -> None:
        if self._away:
            self._away = False
            self._say("The API server answers again")

    def _checked(self, answer: Answer, doing: str) -> Answer:
        if answer.ok:
            return answer
        text = answer.body.decode(errors="replace").strip()
        try:
            status = json.loads(answer.body)
            message = str(status.get("message") or text)
            reason = str(status.get("reason") or answer.status)
            causes = (status.get("details") or {}).get("causes") or []
        except (ValueError, AttributeError):
            message, reason, causes = text[:2000], str(answer.status), []
        if answer.status == _CONFLICT:
            fields = [
                (str(cause.get("field", "")), _owner(str(cause.get("message", ""))))
                for cause in causes
                if cause.get("reason") == "FieldManagerConflict"
            ]
            raise Conflict(
                f"The cluster reports a conflict {doing}", fields=fields, evidence=message
            )
        raise Refused(
            f"The cluster refuses {doing} ({answer.status} {reason})",
            evidence=message,
            status=answer.status,
            reason=reason,
        )


async def together(
    calls: Iterable[Callable[[], Awaitable[T]]], *, at_once: int = AT_ONCE
) -> list[T]:
    """Return the results of calls that are made at the same time, in their order.

    The first error ends the others, and is raised as it is: no group of errors leaves here.

    Args:
        calls: What to call.
        at_once: How many may be under way.
    """
    waiting = list(calls)
    results: dict[int, T] = {}
    limiter = anyio.CapacityLimiter(at_once)
    failed: list[BaseException] = []

    async def one(index: int, call: Callable[[], Awaitable[T]]) -> None:
        async with limiter:
            try:
                results[index] = await call()
            except Exception as error:  # noqa: BLE001 - raised again below
                failed.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index, call in enumerate(waiting):
            group.start_soon(one, index, call)
    if failed:
        raise failed[0]
    return [results[index] for index in range(len(waiting))]


async def connect(
    context: str,
    *,
    say: Callable[[str], None] = lambda _line: None,
    patience: float = PATIENCE,
) -> Client:
    """Return a client of the cluster of a context, which has answered once.

    Args:
        context: A context of the kubeconfig; empty means its current one.
        say: As for `Client`.
        patience: As for `Client`; it begins when the cluster has answered.

    Raises:
        UsageError: There is no such context.
        PrerequisiteError: There is no kubeconfig, or the cluster does not answer, or not us.
    """
    try:
        with anyio.fail_after(LOGIN_LIMIT):
            opened = functools.partial(_open, context, say)
            client = await to_thread.run_sync(opened, abandon_on_cancel=True)
    except TimeoutError as error:
        raise PrerequisiteError(
            f"The program that the kubeconfig names for a login gave none in {LOGIN_LIMIT:.0f} s",
            remedy="Run it by hand, or name another context with --context",
        ) from error
    await client.greet()
    client.patience = patience
    return client


def _open(context: str, say: Callable[[str], None]) -> Client:
    from kubernetes import client as library
    from kubernetes import config
    from kubernetes.config import kube_config

    place = kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    named, current = _contexts(place)
    if not named:
        raise PrerequisiteError(
            f"There is no kubeconfig with a cluster in it ({place})",
            remedy="Make a cluster with `python -m pipeline cluster up`, or point KUBECONFIG to "
            "the file of one",
        )
    chosen = context or current
    if not chosen:
        raise UsageError(
            f"The kubeconfig ({place}) has no current context",
            remedy=f"Name one with --context: {', '.join(named)}",
        )
    if chosen not in named:
        raise unknown_context(chosen, named, place)
    settings = library.Configuration()
    # Asking again is ours to decide.
    settings.retries = False
    try:
        api = config.new_client_from_config(
            context=chosen, persist_config=False, client_configuration=settings
        )
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise PrerequisiteError(
            f"The context {chosen} of the kubeconfig ({place}) cannot be used: {error}",
            remedy="Correct it, or name another one with --context",
        ) from error
    return Client(chosen, str(settings.host), _sender(api), say=say)


def _contexts(place: str) -> tuple[list[str], str]:
    """Return the names of the contexts of a kubeconfig, and the current one.

    Args:
        place: Its path, or several: they are merged, and what comes first counts.
    """
    import yaml

    named: dict[str, None] = {}
    current = ""
    for part in filter(None, place.split(os.pathsep)):
        try:
            text = Path(part).expanduser().read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(part, error) from error
        try:
            content = yaml.safe_load(text) or {}
            current = current or str(content.get("current-context") or "")
            named |= {str(each["name"]): None for each in content.get("contexts") or []}
        except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(part, error) from error
    return list(named), current


def unknown_context(name: str, known: Sequence[str], place: str) -> UsageError:
    """Return the error for a context that the kubeconfig does not have."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return UsageError(
        f"Unknown context {name!r} ({place})", remedy=f"{hint}Choose from {', '.join(known)}"
    )


def _unreadable(place: str, error: Exception) -> PrerequisiteError:
    return PrerequisiteError(
        f"The kubeconfig ({place}) cannot be read: {error}",
        remedy="Correct it, or point KUBECONFIG to another one",
    )


def _sender(api: Any) -> Callable[[Request], Answer]:  # noqa: ANN401 - the library has no types
    """Return what sends a request with the library's authentication and pool of connections."""
    import urllib3
    from kubernetes.client.exceptions import ApiException

    def send(request: Request) -> Answer:
        headers = {"Accept": request.accept, "Content-Type": request.content}
        path, _, query = request.path.partition("?")
        try:
            parts = api.param_serialize(
                request.method,
                path,
                header_params=headers,
                body=request.body,
                auth_settings=["BearerToken"],
            )
            method, url, sent, body, post = parts
            conceal(str(sent.get("authorization") or "").removeprefix("Bearer "))
            answer = api.call_api(
                method,
                f"{url}?{query}" if query else url,
                sent,
                body,
                post,
                _request_timeout=(CONNECT_LIMIT, ANSWER_LIMIT),
            )
            try:
                return Answer(answer.status, answer.response.read(request.limit) or b"")
            finally:
                answer.response.release_conn()
        except ApiException as error:
            # The library makes one of a handshake that failed, and of nothing else here.
            why = str(error.reason or error).rpartition("\n")[2]
            raise Unreached(why, final="CERTIFICATE_VERIFY" in why) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            why = str(getattr(error, "reason", "") or error).rpartition(": ")[2] or str(error)
            raise Unreached(why, final="CERTIFICATE_VERIFY" in str(error)) from error

    return send


def _object(answer: Answer) -> Object:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise StepError(
            f"The API server answered with {len(answer.body)} bytes that are no object",
            remedy="See what stands between here and the cluster, then run it again",
            evidence=answer.body[:500].decode(errors="replace"),
        )
    return value


def _resources(group: str, version: Mapping[str, Any]) -> dict[Kind, _Resource]:
    return {
        Kind(group, str(each["responseKind"]["kind"])): _Resource(
            group=group,
            version=str(version["version"]),
            plural=str(each["resource"]),
            namespaced=each.get("scope") == "Namespaced",
            kept=_KEPT.issubset(each.get("verbs") or ()),
        )
        for each in version.get("resources") or []
        if each.get("responseKind")
    }


def _not_now(answer: Answer) -> str:
    """Return why an answer means that it is to be asked again; empty when it does not."""
    if answer.status in _BUSY:
        return f"it answers {answer.status}"
    if answer.status == _INTERNAL and b"etcdserver: " in answer.body:
        return "its store has no leader at the moment"
    if not answer.ok and _HOOK.encode() in answer.body:
        text = answer.body.decode(errors="replace")
        if any(sign in text for sign in _HOOK_AWAY):
            return "a webhook of the cluster does not answer"
    return ""


def _owner(message: str) -> str:
    """Return who owns a field, out of ``conflict with "kubectl" using apps/v1``."""
    parts = message.split('"')
    return parts[1] if len(parts) > 2 else message  # noqa: PLR2004 - before, within, after


def _named(obj: Mapping[str, Any]) -> str:
    return f"{obj['kind']} {obj['metadata']['name']}"
