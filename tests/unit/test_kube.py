"""The client of a cluster: what it sends, what it makes of answers, and its patience."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pipeline.errors import PrerequisiteError, StepError, UsageError
from pipeline.kube import (
    Answer,
    Away,
    Client,
    Conflict,
    Kind,
    Refused,
    Request,
    Unreached,
    connect,
    together,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

POD = Kind("", "Pod")
DEPLOYMENT = Kind("apps", "Deployment")


STORED = ("create", "delete", "get", "list", "patch", "update", "watch")


def group(
    name: str, version: str, *kinds: tuple[str, str, str], verbs: tuple[str, ...] = STORED
) -> dict[str, Any]:
    """Return a group of the aggregated discovery."""
    return {
        "metadata": {"name": name},
        "versions": [
            {
                "version": each,
                "resources": [
                    {
                        "resource": plural,
                        "scope": scope,
                        "verbs": verbs,
                        "responseKind": {"group": name, "version": each, "kind": kind},
                    }
                    for plural, kind, scope in kinds
                ],
            }
            for each in (version, f"{version}beta1")
        ],
    }


CORE = group("", "v1", ("pods", "Pod", "Namespaced"), ("namespaces", "Namespace", "Cluster"))
APPS = group("apps", "v1", ("deployments", "Deployment", "Namespaced"))


class Server:
    """Answers requests, and remembers them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: dict[str, list[Answer | Unreached]] = {}
        self.default = Answer(200, b'{"kind": "X", "apiVersion": "v1"}')
        self.groups = [APPS]

    def __call__(self, request: Request) -> Answer:
        """Answer a request."""
        if request.path in ("/api", "/apis"):
            items = [CORE] if request.path == "/api" else self.groups
            return Answer(200, json.dumps({"items": items}).encode())
        self.requests.append(request)
        path = request.path.partition("?")[0]
        queue = self.answers.get(path)
        answer = self.default if not queue else queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(answer, Unreached):
            raise answer
        return answer

    def put(self, path: str, *answers: Answer | Unreached) -> None:
        """Answer a path with these, the last one for ever."""
        self.answers[path] = list(answers)


class Patience:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture
def server() -> Server:
    """Return a server."""
    return Server()


@pytest.fixture
def said() -> list[str]:
    """Return what was told."""
    return []


@pytest.fixture
def time() -> Patience:
    """Return a time of our own."""
    return Patience()


@pytest.fixture
def client(server: Server, said: list[str], time: Patience) -> Client:
    """Return a client with 60 s of patience."""
    return Client(
        "ctx",
        "https://s:6443",
        server,
        say=said.append,
        patience=60.0,
        clock=lambda: time.now,
        sleep=time.sleep,
    )


def status(code: int, message: str, reason: str = "", **details: object) -> Answer:
    """Return what Kubernetes answers when it refuses."""
    body = {"kind": "Status", "message": message, "reason": reason, "details": details}
    return Answer(code, json.dumps(body).encode())


def deployment(**more: object) -> dict[str, Any]:
    """Return a Deployment."""
    metadata = {"name": "d", "namespace": "ns"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, **more}


async def test_paths_are_found_by_group_and_kind(client: Client, server: Server) -> None:
    """The preferred version of a group is asked for, in the namespace where there is one."""
    await client.get(DEPLOYMENT, "d", "ns")
    await client.get(Kind("", "Namespace"), "ns")
    await client.list(POD)
    await client.list(POD, "ns", labels="a=b")
    assert [request.path for request in server.requests] == [
        "/apis/apps/v1/namespaces/ns/deployments/d",
        "/api/v1/namespaces/ns",
        "/api/v1/pods",
        "/api/v1/namespaces/ns/pods?labelSelector=a%3Db",
    ]


async def test_apply_is_on_the_servers_side(client: Client, server: Server) -> None:
    """We are a field manager of our own, force nothing, and have unknown fields refused."""
    await client.apply(deployment())
    await client.apply(deployment(), dry_run=True, force=True)
    first, second = server.requests
    assert (first.method, first.content) == ("PATCH", "application/apply-patch+yaml")
    assert first.path == (
        "/apis/apps/v1/namespaces/ns/deployments/d"
        "?fieldManager=slipway&force=false&fieldValidation=Strict"
    )
    assert second.path.endswith("force=true&fieldValidation=Strict&dryRun=All")
    assert first.body == deployment()


async def test_apply_goes_to_the_version_that_the_object_names(
    client: Client, server: Server
) -> None:
    """What is written for an older version is not read as the newer one."""
    await client.apply({**deployment(), "apiVersion": "apps/v1beta1"})
    assert server.requests[0].path.startswith("/apis/apps/v1beta1/")


async def test_what_is_not_there_is_none(client: Client, server: Server) -> None:
    """Neither an object nor a kind that is missing is an error of reading."""
    server.default = status(404, "not found", "NotFound")
    thing = Kind("example.org", "Thing")
    assert await client.get(POD, "p", "ns") is None
    assert await client.get(thing, "t") is None
    assert await client.list(thing) == []
    assert await client.delete(thing, "t") is False
    assert await client.delete(POD, "p", "ns") is False
    assert not await client.serves(thing)
    assert await client.namespaced(thing) is None
    assert await client.namespaced(POD) is True


async def test_kinds_that_come_later_are_found(client: Client, server: Server) -> None:
    """A kind that was not served is asked for again: it may have been installed since."""
    thing = Kind("example.org", "Thing")
    assert not await client.serves(thing)
    server.groups.append(group("example.org", "v1", ("things", "Thing", "Cluster")))
    assert await client.serves(thing)


async def test_kinds_that_are_kept_in_a_namespace(client: Client, server: Server) -> None:
    """Objects of the cluster, and figures that are computed, do not go with a namespace."""
    figures = group(
        "metrics.k8s.io", "v1", ("pods", "PodMetrics", "Namespaced"), verbs=("get", "list")
    )
    server.groups += [figures, group("example.org", "v1", ("things", "Thing", "Namespaced"))]
    assert await client.kept() == {POD, DEPLOYMENT, Kind("example.org", "Thing")}


async def test_applying_an_unknown_kind_says_what_is_missing(client: Client) -> None:
    """KEDA's kinds have a command that installs them."""
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "s"}}
    with pytest.raises(Refused, match="The cluster has no ScaledObject") as raised:
        await client.apply(scaled)
    assert "cluster prepare" in raised.value.remedy


async def test_items_of_a_list_are_whole_objects(client: Client, server: Server) -> None:
    """Kind and version, which a list leaves out of its items, are put back."""
    body = {"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "p"}}]}
    server.put("/api/v1/pods", Answer(200, json.dumps(body).encode()))
    (found,) = await client.list(POD)
    assert found == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}


async def test_conflict_names_fields_and_owners(client: Client, server: Server) -> None:
    """Who owns what is taken out of the answer."""
    message = 'conflict with "kubectl-edit" using apps/v1'
    causes = [{"reason": "FieldManagerConflict", "message": message, "field": ".spec.replicas"}]
    server.default = status(409, "Apply failed", "Conflict", causes=causes)
    with pytest.raises(Conflict) as raised:
        await client.apply(deployment())
    assert raised.value.fields == ((".spec.replicas", "kubectl-edit"),)
    assert raised.value.exit_code == 1


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [
        (status(403, "pods is forbidden", "Forbidden"), "pods is forbidden"),
        (status(422, "spec.x: unknown", "Invalid"), "spec.x: unknown"),
        (Answer(500, b"<html>oops</html>"), "<html>oops</html>"),
    ],
)
async def test_refusal_has_the_words_of_the_cluster(
    client: Client, server: Server, answer: Answer, evidence: str
) -> None:
    """An answer is never asked for again, and its message is the evidence."""
    server.default = answer
    with pytest.raises(Refused) as raised:
        await client.list(POD)
    assert raised.value.status == answer.status
    assert raised.value.evidence == evidence
    assert len(server.requests) == 1


HOOK = 'Internal error occurred: failed calling webhook "vscaledobject.kb.io": '


@pytest.mark.parametrize(
    "moment",
    [
        Unreached("Connection refused"),
        status(429, "too many requests"),
        status(503, "apiserver is shutting down"),
        status(504, "timeout"),
        status(500, "etcdserver: leader changed"),
        status(500, f"{HOOK}dial tcp: connect: connection refused"),
        status(500, f'{HOOK}no endpoints available for service "keda"'),
    ],
)
async def test_what_is_away_for_a_moment_is_asked_again(
    client: Client, server: Server, time: Patience, said: list[str], moment: Answer | Unreached
) -> None:
    """An outage of 20 s is told once, waited through, and its end told."""
    path = "/api/v1/namespaces/ns/pods/p"
    server.put(path, *[moment] * 9, server.default)
    assert await client.get(POD, "p", "ns") is not None
    assert 15 < time.now < 30
    assert len(said) == 2
    assert said[0].startswith("The API server does not answer (")
    assert said[1] == "The API server answers again"


async def test_patience_ends(client: Client, server: Server, time: Patience) -> None:
    """After its limit a clear error says so; the last reason is the evidence."""
    server.put("/api/v1/namespaces/ns/pods/p", Unreached("Connection refused"))
    with pytest.raises(
        Away, match=r"https://s:6443 does not answer \(asked again for 6. s\)"
    ) as raised:
        await client.get(POD, "p", "ns")
    assert raised.value.evidence == "Connection refused"
    assert 60 <= time.now < 65


@pytest.mark.parametrize(
    "answer", [status(500, "etcd is sad"), status(500, f"{HOOK}denied"), status(401, "who?")]
)
async def test_no_other_error_is_retried(
    client: Client, server: Server, time: Patience, answer: Answer
) -> None:
    """What was answered is believed."""
    server.default = answer
    with pytest.raises(Refused):
        await client.get(POD, "p", "ns")
    assert time.now == 0


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"[]"])
async def test_answer_that_is_no_object_is_told(
    client: Client, server: Server, body: bytes
) -> None:
    """What stands in between may answer anything with 200."""
    server.put("/api/v1/namespaces/ns/pods/p", Answer(200, body))
    with pytest.raises(StepError, match="that are no object") as raised:
        await client.get(POD, "p", "ns")
    assert raised.value.evidence == body.decode()


async def test_a_certificate_that_is_wrong_stays_wrong(client: Client, server: Server) -> None:
    """Asking again would be no use."""
    server.put("/api/v1/namespaces/ns/pods/p", Unreached("bad certificate", final=True))
    with pytest.raises(Away):
        await client.get(POD, "p", "ns")
    assert len(server.requests) == 1


async def test_raw_leaves_the_status_to_the_caller(client: Client, server: Server) -> None:
    """A 503 through the proxy of a Service is what was asked about, and not the API server's."""
    server.default = Answer(503, b"no endpoints")
    assert await client.raw("/proxy") == Answer(503, b"no endpoints")
    assert len(server.requests) == 1


async def test_delete_takes_what_it_owns_and_names_the_version(
    client: Client, server: Server
) -> None:
    """An object is gone when what it owns is; another version than the one meant is not deleted."""
    assert await client.delete(POD, "p", "ns", version="7")
    (request,) = server.requests
    assert request.body is not None
    assert request.body["propagationPolicy"] == "Foreground"
    assert request.body["preconditions"] == {"resourceVersion": "7"}


async def test_permission_is_asked_of_the_cluster(client: Client, server: Server) -> None:
    """A review says what we may; of a kind that is not there nothing is asked."""
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    server.put(path, Answer(201, b'{"status": {"allowed": false}}'))
    assert not await client.allowed("get", POD, "ns", subresource="log")
    (request,) = server.requests
    assert request.body is not None
    assert request.body["spec"]["resourceAttributes"] == {
        "verb": "get",
        "group": "",
        "resource": "pods",
        "subresource": "log",
        "namespace": "ns",
    }
    assert await client.allowed("get", Kind("example.org", "Thing"))


async def test_logs_are_text_or_nothing(client: Client, server: Server) -> None:
    """A container that has not written yet has an empty log."""
    path = "/api/v1/namespaces/ns/pods/p/log"
    server.put(path, Answer(200, b"one\ntwo\n"), status(400, "container is waiting to start"))
    assert await client.logs("ns", "p", "c", lines=5, previous=True) == "one\ntwo"
    assert server.requests[0].path == f"{path}?container=c&tailLines=5&previous=true"
    assert await client.logs("ns", "p", "c", lines=5) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Unreached("Connection refused"), "cannot be reached"),
        (status(401, "Unauthorized", "Unauthorized"), r"refuses us \(401 Unauthorized\)"),
        (Answer(200, b"<html>"), "is not Kubernetes"),
        (Answer(200, b"[]"), "is not Kubernetes"),
        (Answer(404, b"404 page not found"), "is not Kubernetes"),
    ],
)
async def test_first_contact_tells_what_is_wrong(
    client: Client, server: Server, answer: Answer | Unreached, why: str
) -> None:
    """A cluster that cannot be used is a lack of the environment, found before anything."""
    client.patience = 0
    server.put("/version", answer)
    with pytest.raises(PrerequisiteError, match=why):
        await client.greet()


async def test_together_keeps_the_order_and_raises_one_error() -> None:
    """Results are in the order of the calls; a failure ends the others and is no group."""

    async def value(number: int, pause: float) -> int:
        await anyio.sleep(pause)
        return number

    async def fail() -> int:
        raise StepError("this one")

    assert await together([lambda: value(1, 0.02), lambda: value(2, 0)]) == [1, 2]
    with anyio.fail_after(1), pytest.raises(StepError, match="this one"):
        await together([lambda: value(1, 5), fail])


# --- a real exchange ----------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, str, bytes]]

    def do_GET(self) -> None:
        """Answer with the version."""
        self._answer(b'{"gitVersion": "v1.36.3"}')

    def do_PATCH(self) -> None:
        """Answer with what was sent."""
        self._answer(b'{"kind": "X"}')

    def _answer(self, body: bytes) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length)
        self.seen.append((self.command, self.path, self.headers.get("Authorization") or "", sent))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return what writes a kubeconfig and makes it the one that is read."""
    path = tmp_path / "config"

    def write(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        return path

    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return write


CONFIG = """
apiVersion: v1
kind: Config
current-context: one
clusters: [{{name: c, cluster: {{server: "{server}"}}}}]
users: [{{name: u, user: {{token: sesame}}}}]
contexts:
- {{name: one, context: {{cluster: c, user: u}}}}
- {{name: broken, context: {{cluster: nowhere, user: u}}}}
"""


@pytest.fixture
def web() -> Iterator[str]:
    """Return the address of a server that answers for a cluster."""
    _Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_a_kubeconfig_leads_to_its_cluster(
    kubeconfig: Callable[[str], Path], web: str
) -> None:
    """The current context is taken, its token is sent, and its server has answered."""
    kubeconfig(CONFIG.format(server=web))
    kube = await connect("")
    assert (kube.context, kube.server, kube.version) == ("one", web, "v1.36.3")
    assert _Handler.seen == [("GET", "/version", "Bearer sesame", b"")]
    answer = await to_send(kube, Request("PATCH", "/x?a=b", body={"a": 1}))
    assert answer.json() == {"kind": "X"}
    assert _Handler.seen[1] == ("PATCH", "/x?a=b", "Bearer sesame", b'{"a": 1}')
    kube.patience = 0
    with pytest.raises(Away, match="does not answer"):
        await Client("c", "s", refusing(ssl.SSLError("boom"))).raw("/x")


async def to_send(kube: Client, request: Request) -> Answer:
    """Send a request through the library."""
    return await anyio.to_thread.run_sync(kube._send, request)  # noqa: SLF001 - the seam itself


def refusing(error: Exception) -> Callable[[Request], Answer]:
    """Return what cannot send."""

    def send(_request: Request) -> Answer:
        raise Unreached(str(error))

    return send


@pytest.mark.parametrize(
    ("text", "context", "kind", "why"),
    [
        (CONFIG, "on", UsageError, "Unknown context 'on'"),
        (CONFIG, "broken", PrerequisiteError, "The context broken of the kubeconfig"),
        (CONFIG.replace("current-context: one", ""), "", UsageError, "has no current context"),
        ("", "", PrerequisiteError, "no kubeconfig with a cluster in it"),
        ("a: [", "", PrerequisiteError, "cannot be read"),
        ("[]", "", PrerequisiteError, "cannot be read|no kubeconfig"),
    ],
)
async def test_a_kubeconfig_that_is_of_no_use(
    kubeconfig: Callable[[str], Path], text: str, context: str, kind: type[Exception], why: str
) -> None:
    """What is wrong with it is told in one sentence; a slip in a name is put right."""
    kubeconfig(text.format(server="http://127.0.0.1:9") if "{" in text else text)
    with pytest.raises(kind, match=why) as raised:
        await connect(context)
    if context == "on":
        assert "Did you mean 'one'?" in str(raised.value)


async def test_a_cluster_that_is_down_is_told_at_once(kubeconfig: Callable[[str], Path]) -> None:
    """Nobody listens on the port: first contact is not waited for."""
    kubeconfig(CONFIG.format(server="http://127.0.0.1:9"))
    with anyio.fail_after(5), pytest.raises(PrerequisiteError, match="cannot be reached") as raised:
        await connect("")
    assert "refused" in raised.value.evidence


async def test_a_login_that_does_not_come_is_not_waited_for(
    kubeconfig: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program of a kubeconfig that gives the login may ask a person who is not there."""
    program = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: sleep, args: ['1']}}"
    text = CONFIG.format(server="http://127.0.0.1:9").replace("{token: sesame}", program)
    kubeconfig(text)
    monkeypatch.setattr("pipeline.kube.LOGIN_LIMIT", 0.2)
    with anyio.fail_after(0.9), pytest.raises(PrerequisiteError, match="for a login gave none"):
        await connect("one")


async def test_no_kubeconfig(kubeconfig: Callable[[str], Path]) -> None:
    """Without a file, the way to a cluster is told."""
    del kubeconfig
    with pytest.raises(PrerequisiteError, match="There is no kubeconfig") as raised:
        await connect("")
    assert "cluster up" in raised.value.remedy
