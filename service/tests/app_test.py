"""What the API answers over HTTP, whichever source it lists containers from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pytest
from prometheus_client.parser import text_string_to_metric_families
from slipway_api.app import create_app, from_environment
from slipway_api.config import Settings
from slipway_api.log import EcsFormatter
from slipway_api.sources import STATES, shared

from tests.conftest import RUNNING as RUNNING_DOCKER
from tests.conftest import pod

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from slipway_api.sources import Container
    from werkzeug.test import TestResponse

    from tests.conftest import FakeDocker, FakeKubernetes, FakeServer

ROOT = Path(__file__).parents[1]
LIST = "/api/v1/containers"

RUNNING: dict[str, dict[str, Any]] = {
    "docker": {
        "id": "4f" * 32,
        "name": "web",
        "image": "nginx:1.29",
        "state": "running",
        "status": "Up 3 minutes (healthy)",
        "health": "healthy",
        "created": "2025-01-01T00:00:00Z",
        "ports": [
            {"private_port": 443, "public_port": None, "protocol": "tcp", "ip": None},
            {"private_port": 8080, "public_port": 80, "protocol": "tcp", "ip": "192.0.2.1"},
            {"private_port": 8080, "public_port": 80, "protocol": "tcp", "ip": "::"},
        ],
        "labels": {"com.docker.compose.service": "web"},
    },
    "kubernetes": {
        "id": "4f" * 32,
        "name": "web",
        "image": "nginx:1.29",
        "state": "running",
        "status": "Running",
        "health": "healthy",
        "created": "2025-01-01T00:00:00Z",
        "ports": [
            {"private_port": 53, "public_port": 5353, "protocol": "udp", "ip": "0.0.0.0"},  # noqa: S104
            {"private_port": 8080, "public_port": None, "protocol": "tcp", "ip": None},
        ],
        "labels": {"app.kubernetes.io/name": "web"},
        "pod": "web-6d4cf56db6-x2x7q",
        "node": "node-1",
        "restarts": 0,
        "ready": True,
    },
}
"""What the running container of each fake is in an answer."""


class DefectiveSource:
    """Fails with what no source should fail with."""

    name = "docker"

    def containers(self) -> tuple[Container, ...]:
        """Fail."""
        raise ZeroDivisionError("s3cr3t")


@pytest.fixture
def client(fake: FakeServer) -> FlaskClient:
    """Make a client of the application, which asks the fake."""
    return client_of(fake)


def client_of(fake: FakeServer, **settings: str) -> FlaskClient:
    """Make a client of an application that is told of the fake, and of further settings."""
    return create_app(Settings.from_environment({**fake.environment, **settings})).test_client()


def assert_problem(answer: TestResponse, status: int, title: str, path: str) -> str:
    """Check that an answer is a problem with the true status; return its detail."""
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    problem = answer.get_json()
    detail = problem.pop("detail")
    assert problem == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "instance": path,
        "request_id": answer.headers["X-Request-ID"],
    }
    assert isinstance(detail, str)
    assert detail
    return detail


def test_list_answers_running_containers(client: FlaskClient, fake: FakeServer) -> None:
    """With no filter the list holds running containers, each with exactly the promised members."""
    answer = client.get(LIST)
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    body = answer.get_json()
    as_of = body.pop("as_of")
    assert body == {"containers": [RUNNING[fake.name]], "total": 1, "source": fake.name}
    assert as_of.endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(as_of)
    assert abs(age.total_seconds()) < 60


def test_list_is_compact(client: FlaskClient, fake: FakeServer) -> None:
    """JSON is written without blanks and in the documented order."""
    answer = client.get(LIST)
    body = json.loads(answer.data)
    assert answer.data.strip() == json.dumps(body, separators=(",", ":")).encode()
    assert list(body) == ["containers", "total", "source", "as_of"]
    assert list(body["containers"][0]) == list(RUNNING[fake.name])


@pytest.mark.parametrize(
    ("query", "states"),
    [
        ("state=exited", ["exited"]),
        ("state=exited&state=paused", ["exited", "paused"]),
        ("state=dead&state=dead", ["dead"]),
        ("state=all", list(STATES)),
        ("state=all&state=exited", list(STATES)),
        ("other=x", ["running"]),
    ],
)
def test_list_filters_by_state(
    client: FlaskClient, fake: FakeServer, query: str, states: list[str]
) -> None:
    """The filter ``state`` is repeatable, ``all`` means every state, and ``total`` counts it.

    A state that the source does not know is no mistake; nothing is in it.
    """
    fake.hold_each_state()
    body = client.get(f"{LIST}?{query}").get_json()
    found = sorted(item["state"] for item in body["containers"])
    assert found == sorted(set(states).intersection(fake.states))
    assert body["total"] == len(found) == len({item["id"] for item in body["containers"]})


@pytest.mark.parametrize("value", ["stopped", "", "Running", "running,exited", "<b>"])
def test_list_refuses_an_unknown_state(client: FlaskClient, fake: FakeServer, value: str) -> None:
    """What is no state is a 400 that names it and what there is, and asks no source."""
    answer = client.get(LIST, query_string={"state": ["running", value]})
    detail = assert_problem(answer, 400, "Bad Request", LIST)
    assert repr(value) in detail
    assert all(state in detail for state in (*STATES, "all"))
    assert fake.asked == []


def test_list_filters_by_name_and_image(fake_docker: FakeDocker) -> None:
    """Each contains one of its values, in letters of either case; both filters must hold."""
    fake_docker.containers = [
        {**RUNNING_DOCKER, "Id": f"{number:02x}" * 32, "Names": [f"/{name}"], "Image": image}
        for number, (name, image) in enumerate(
            [("Web-1", "nginx:1.29"), ("web-2", "httpd:2.4"), ("db", "example/NGINX:1")]
        )
    ]
    client = client_of(fake_docker)
    assert names(client, "name=WEB") == ["Web-1", "web-2"]
    assert names(client, "name=-2&name=db") == ["web-2", "db"]
    assert names(client, "image=nginx") == ["Web-1", "db"]
    assert names(client, "image=nginx&name=web") == ["Web-1"]
    assert names(client, "image=nothing") == []
    assert names(client, "name=eb-1&state=exited") == []


def test_list_filters_by_label(fake_docker: FakeDocker) -> None:
    """All labels must be there, by key or by key and value; one that is not shown is not."""
    prefix = "app.kubernetes.io"
    fake_docker.containers = [
        {**RUNNING_DOCKER, "Id": f"{number:02x}" * 32, "Names": [f"/{name}"], "Labels": labels}
        for number, (name, labels) in enumerate(
            {
                "a": {f"{prefix}/name": "x", f"{prefix}/component": "web", "secret": "s3cr3t"},
                "b": {f"{prefix}/name": "y=1"},
                "c": None,
            }.items()
        )
    ]
    client = client_of(fake_docker)
    assert names(client, f"label={prefix}/name") == ["a", "b"]
    assert names(client, f"label={prefix}/name=x") == ["a"]
    assert names(client, f"label={prefix}/name=y=1") == ["b"]
    assert names(client, f"label={prefix}/name=") == []
    assert names(client, f"label={prefix}/name&label={prefix}/component=web") == ["a"]
    assert names(client, "label=secret") == names(client, "label=secret=s3cr3t") == []
    client = client_of(fake_docker, SLIPWAY_LABEL_PREFIXES="none")
    assert names(client, f"label={prefix}/name") == []
    assert client.get(LIST).get_json()["containers"][0]["labels"] == {}


def names(client: FlaskClient, query: str) -> list[str]:
    """Return the names of the containers that a query gives."""
    return [item["name"] for item in client.get(f"{LIST}?{query}").get_json()["containers"]]


@pytest.mark.parametrize(("limit", "count"), [("1", 1), ("7", 7), ("500", 7)])
def test_list_is_limited(fake_docker: FakeDocker, limit: str, count: int) -> None:
    """A limit leaves the first ones, and ``total`` says how many there are."""
    fake_docker.hold_each_state()
    client = client_of(fake_docker)
    everything = client.get(f"{LIST}?state=all").get_json()
    body = client.get(f"{LIST}?state=all&limit={limit}").get_json()
    assert body["total"] == 7
    assert body["containers"] == everything["containers"][:count]


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "501"), ("limit", "x"), ("limit", ""), ("limit", "1.5")]
    + [(name, "") for name in ("name", "image", "label")],
)
def test_list_refuses_other_values(
    client: FlaskClient, fake: FakeServer, name: str, value: str
) -> None:
    """What a parameter cannot be is a 400 that names both, and asks no source."""
    detail = assert_problem(client.get(f"{LIST}?{name}={value}"), 400, "Bad Request", LIST)
    assert detail.startswith(f"The parameter {name} cannot be {value!r}: ")
    assert fake.asked == []


def test_list_may_be_kept_for_a_second(client: FlaskClient) -> None:
    """As long as the API itself keeps it; the proxy may serve an old list for some time more."""
    for path in (LIST, f"{LIST}?state=all"):
        control = client.get(path).headers["Cache-Control"]
        assert control == "max-age=1, stale-while-revalidate=8, stale-if-error=8"
    assert client.get(f"{LIST}/web").headers["Cache-Control"] == "max-age=1"


def test_failure_takes_the_place_of_the_list(client: FlaskClient, fake: FakeServer) -> None:
    """The proxy is told to keep a failure of the list for a second, so that it forgets the list."""
    fake.close()
    assert client.get(f"{LIST}?state=all").headers["X-Accel-Expires"] == "1"
    assert "X-Accel-Expires" not in client.get(f"{LIST}/web").headers
    assert "X-Accel-Expires" not in client.get(f"{LIST}?limit=0").headers


def test_plain_list_is_news_as_soon_as_there_is_some(
    fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written once for each list of the source is written anew for the next."""
    monkeypatch.setattr(shared, "INTERVAL", 0.0)
    client = client_of(fake_docker)
    assert client.get(LIST).get_json()["total"] == 1
    fake_docker.containers = []
    assert client.get(LIST).get_json()["total"] == 0


@pytest.mark.parametrize("word", ["4f" * 32, "4f", "4f4f4f4f4f4f", "web"])
def test_item_is_one_of_the_list(client: FlaskClient, fake: FakeServer, word: str) -> None:
    """One container is found by full id, by the beginning of the id, and by name."""
    answer = client.get(f"{LIST}/{word}")
    assert (answer.status_code, answer.get_json()) == (200, RUNNING[fake.name])


def test_item_may_be_in_any_state(client: FlaskClient) -> None:
    """One that has ended is found as well."""
    assert client.get(f"{LIST}/a0a0").get_json()["state"] == "exited"


def test_item_is_found_by_the_best_that_fits(fake_docker: FakeDocker) -> None:
    """A full id goes over a name, and a name over the beginning of an id."""
    one, other, third = "aa" * 32, "ab" * 32, "cc" * 32
    fake_docker.containers = [
        {**RUNNING_DOCKER, "Id": identity, "Names": [f"/{name}"]}
        for identity, name in ((one, "x"), (other, one), (third, "ab"))
    ]
    client = client_of(fake_docker)
    assert client.get(f"{LIST}/{one}").get_json()["id"] == one
    assert client.get(f"{LIST}/ab").get_json()["id"] == third
    assert client.get(f"{LIST}/abab").get_json()["id"] == other
    path = f"{LIST}/a"
    assert "2 containers" in assert_problem(client.get(path), 409, "Conflict", path)


def test_item_of_a_pod_without_an_id_of_its_own(fake_kubernetes: FakeKubernetes) -> None:
    """An id may have a slash in it, written as it is or encoded; a name may be in several pods."""
    fake_kubernetes.pods = [pod("a", "created", metadata={"uid": "u1"}), pod("b", "running")]
    client = client_of(fake_kubernetes)
    for path in (f"{LIST}/u1/web", f"{LIST}/u1%2Fweb", f"{LIST}/u1"):
        assert client.get(path).get_json()["pod"] == "a"
    assert_problem(client.get(f"{LIST}/web"), 409, "Conflict", f"{LIST}/web")


@pytest.mark.parametrize("word", ["nothing", "web/json", "4F4F", "%00", "a%20%22%3C", "😀"])
def test_unknown_item_is_a_problem(client: FlaskClient, word: str) -> None:
    """What is no container's is a 404, whose instance is the path as a URI has it."""
    answer = client.get(f"{LIST}/{word}")
    assert_problem(answer, 404, "Not Found", f"{LIST}/{quote(unquote(word))}")


def test_head_and_options_answer(client: FlaskClient) -> None:
    """HEAD is GET without the body; OPTIONS says what is allowed."""
    head = client.head(LIST)
    assert (head.status_code, head.data) == (200, b"")
    assert client.options(LIST).allow.as_set() == {"get", "head", "options"}


@pytest.mark.parametrize("path", [LIST, f"{LIST}/web", "/readyz"])
def test_without_source_answers_503(client: FlaskClient, fake: FakeServer, path: str) -> None:
    """A source that is gone makes the list and readiness 503, with a sentence and Retry-After."""
    fake.close()
    answer = client.get(path)
    detail = assert_problem(answer, 503, "Service Unavailable", path)
    assert detail == f"{fake.name.capitalize()} cannot be reached."
    assert answer.headers["Retry-After"] == "1"


def test_source_that_hangs_and_comes_back(fake: FakeServer) -> None:
    """It is 503 within 2 s when the source hangs, and 200 by itself within 5 s of its return."""
    client = client_of(fake, SLIPWAY_SOURCE_TIMEOUT="0.5")
    fake.answer.clear()
    start = time.monotonic()
    answer = client.get(LIST)
    assert time.monotonic() - start < 2
    detail = assert_problem(answer, 503, "Service Unavailable", LIST)
    assert detail == f"{fake.name.capitalize()} did not answer within 0.5 s."
    fake.answer.set()
    start = time.monotonic()
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() - start < 5
        time.sleep(0.05)
    assert client.get(LIST).get_json()["total"] == 1


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_liveness_does_not_ask_the_source(client: FlaskClient, fake: FakeServer, path: str) -> None:
    """Liveness is about the process alone."""
    answer = client.get(path)
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert fake.asked == []


def test_readyz_answers_ok(client: FlaskClient, fake: FakeServer) -> None:
    """Readiness is 200 once the list could be served, which it tries."""
    answer = client.get("/readyz")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert fake.asked[-1].endswith(("/containers/json", "/pods"))


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v1/containers/", "/api/v1//containers", "/static/x", "/docs/"]
)
def test_unknown_path_is_a_problem(client: FlaskClient, path: str) -> None:
    """A path that is not served is a 404, not a page and not a redirect."""
    detail = assert_problem(client.get(path), 404, "Not Found", path)
    assert detail == "There is nothing at this path."


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_other_methods_are_refused(client: FlaskClient, method: str) -> None:
    """A method that is not served is a 405 that says which ones are."""
    answer = client.open(LIST, method=method)
    detail = assert_problem(answer, 405, "Method Not Allowed", LIST)
    assert detail == "This path cannot be asked for by that method."
    assert answer.allow.as_set() == {"get", "head", "options"}


def test_defect_is_a_problem_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is a 500 whose body holds nothing of it; the log holds it all."""
    answer = create_app(Settings(), DefectiveSource()).test_client().get(LIST)
    detail = assert_problem(answer, 500, "Internal Server Error", LIST)
    assert detail == "The server met with an error of its own."
    assert "s3cr3t" not in answer.text
    assert "s3cr3t" in caplog.text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a", True),
        ("A.b_c-9" * 9, True),
        ("a" * 65, False),
        ("", False),
        ("a b", False),
        ('a"b', False),
        ("ä", False),
    ],
)
@pytest.mark.parametrize("path", [LIST, "/livez", "/nothing", "/openapi.json"])
def test_request_id_is_kept_if_it_is_safe(
    client: FlaskClient, path: str, given: str, *, kept: bool
) -> None:
    """Every answer has the word of its request, or a new one where that could do harm in a log."""
    (word,) = client.get(path, headers={"X-Request-ID": given}).headers.getlist("X-Request-ID")
    assert (word == given) is kept
    assert kept or re.fullmatch("[0-9a-f]{32}", word)


def test_log_of_an_error_has_the_word_of_its_request(caplog: pytest.LogCaptureFixture) -> None:
    """So that who is told a word finds what went wrong."""
    caplog.handler.setFormatter(EcsFormatter())
    client = create_app(Settings(), DefectiveSource()).test_client()
    client.get(LIST, headers={"X-Request-ID": "my.word"})
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    (failed,) = [line for line in lines if line["log.level"] == "error"]
    assert failed["http.request.id"] == "my.word"
    assert failed["error.type"] == "ZeroDivisionError"


def test_requests_are_counted(client: FlaskClient, fake: FakeServer) -> None:
    """By method, route and status, and never by what a client makes up."""
    for path in (LIST, f"{LIST}?state=all", f"{LIST}/web", f"{LIST}/x", "/a", "/b"):
        client.get(path)
    client.open(LIST, method="MADEUP")
    text = client.get("/metrics").get_data(as_text=True)
    counted = {
        (labels["method"], labels["route"], labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for labels in [sample.labels]
        if sample.name == "slipway_http_requests_total"
    }
    assert counted == {
        ("GET", LIST, "200"): 2,
        ("GET", f"{LIST}/<id>", "200"): 1,
        ("GET", f"{LIST}/<id>", "404"): 1,
        ("GET", "unmatched", "404"): 2,
        ("other", "unmatched", "405"): 1,
    }
    assert f'slipway_source_calls_total{{outcome="ok",source="{fake.name}"}} 1.0' in text
    for state in STATES:
        count = 1.0 if state in ("running", "exited") else 0.0
        assert f'slipway_containers{{state="{state}"}} {count}' in text


def test_metrics_are_for_prometheus(client: FlaskClient) -> None:
    """They are in its text format, and nobody keeps them."""
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    assert answer.headers["Cache-Control"] == "no-store"


def test_application_lists_from_what_the_environment_says(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made from the environment it asks the source named there, and shows no label or variable."""
    for variable, value in fake.environment.items():
        monkeypatch.setenv(variable, value)
    answer = from_environment().test_client().get(f"{LIST}?state=all")
    assert answer.status_code == 200
    body = answer.get_json()
    assert (body["source"], body["total"]) == (fake.name, 2)
    assert b"s3cr3t" not in answer.data


def test_connects_to_nothing_before_a_request(fake: FakeServer) -> None:
    """Making the application starts no thread and asks nobody, so that a server may fork it."""
    before = set(threading.enumerate())
    client_of(fake)
    assert fake.asked == []
    assert not set(threading.enumerate()) - before


def test_other_source_is_not_loaded(fake: FakeServer, bare_environment: dict[str, str]) -> None:
    """The client of a source that is not asked takes neither memory nor time."""
    code = """if True:
        import sys
        from slipway_api.app import from_environment

        from_environment()
        print(*sorted({"docker", "lightkube"}.intersection(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**bare_environment, **fake.environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.split() == [{"docker": "docker", "kubernetes": "lightkube"}[fake.name]]
