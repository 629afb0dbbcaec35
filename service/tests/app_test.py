"""What the API answers over HTTP, whichever source it lists containers from."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from slipway_api.app import create_app, from_environment
from slipway_api.config import Settings
from slipway_api.containers import STATES

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from slipway_api.sources import Container
    from werkzeug.test import TestResponse

    from tests.conftest import FakeServer

ROOT = Path(__file__).parents[1]
LIST = "/api/v1/containers"

RUNNING: dict[str, dict[str, Any]] = {
    "docker": {
        "id": "4f" * 32,
        "name": "web",
        "image": "nginx:1.29",
        "state": "running",
        "status": "Up 3 minutes (healthy)",
        "created": "2025-01-01T00:00:00Z",
        "ports": [
            {"private_port": 443, "public_port": None, "protocol": "tcp", "ip": None},
            {"private_port": 8080, "public_port": 80, "protocol": "tcp", "ip": "192.0.2.1"},
            {"private_port": 8080, "public_port": 80, "protocol": "tcp", "ip": "::"},
        ],
    },
    "kubernetes": {
        "id": "4f" * 32,
        "name": "web",
        "image": "nginx:1.29",
        "state": "running",
        "status": "Running",
        "created": "2025-01-01T00:00:00Z",
        "ports": [
            {"private_port": 53, "public_port": 5353, "protocol": "udp", "ip": "0.0.0.0"},  # noqa: S104
            {"private_port": 8080, "public_port": None, "protocol": "tcp", "ip": None},
        ],
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
    keep = 0.0

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
    assert problem == {"type": "about:blank", "title": title, "status": status, "instance": path}
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


def test_head_and_options_answer(client: FlaskClient) -> None:
    """HEAD is GET without the body; OPTIONS says what is allowed."""
    head = client.head(LIST)
    assert (head.status_code, head.data) == (200, b"")
    assert client.options(LIST).allow.as_set() == {"get", "head", "options"}


@pytest.mark.parametrize("path", [LIST, "/readyz"])
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


def test_livez_does_not_ask_the_source(client: FlaskClient, fake: FakeServer) -> None:
    """Liveness is about the process alone."""
    answer = client.get("/livez")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert fake.asked == []


def test_readyz_answers_ok(client: FlaskClient, fake: FakeServer) -> None:
    """Readiness is 200 once the list could be served, which it tries."""
    answer = client.get("/readyz")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert fake.asked[-1].endswith(("/containers/json", "/pods"))


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/containers/", "/static/x", "/"])
def test_unknown_path_is_a_problem(client: FlaskClient, path: str) -> None:
    """A path that is not served is a 404, not a page and not a redirect."""
    assert_problem(client.get(path), 404, "Not Found", path)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_other_methods_are_refused(client: FlaskClient, method: str) -> None:
    """A method that is not served is a 405 that says which ones are."""
    answer = client.open(LIST, method=method)
    assert_problem(answer, 405, "Method Not Allowed", LIST)
    assert answer.allow.as_set() == {"get", "head", "options"}


def test_defect_is_a_problem_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is a 500 whose body holds nothing of it; the log holds it all."""
    answer = create_app(Settings(), DefectiveSource()).test_client().get(LIST)
    assert "s3cr3t" not in assert_problem(answer, 500, "Internal Server Error", LIST)
    assert "s3cr3t" in caplog.text


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
    before = threading.active_count()
    client_of(fake)
    assert fake.asked == []
    assert threading.active_count() == before


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
    log, loaded = done.stdout.splitlines()
    assert log.endswith(f"containers are listed from {fake.name}")
    assert loaded == {"docker": "docker", "kubernetes": "lightkube"}[fake.name]
