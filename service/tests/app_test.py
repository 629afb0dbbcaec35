"""What the API answers over HTTP, its source being a fake."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from slipway_api.app import create_app, from_environment
from slipway_api.config import Settings
from slipway_api.containers import STATES
from slipway_api.sources import Container, Port, SourceError

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.conftest import FakeDocker

LIST = "/api/v1/containers"


def made(state: str) -> Container:
    """Make a container in a state, named after it."""
    return Container(
        id=state * 3,
        name=state,
        image="nginx:1.29",
        state=state,
        status="Up 3 minutes",
        created=datetime(2025, 1, 1, tzinfo=UTC),
        ports=(Port(8080, 80, "tcp", "192.0.2.1"), Port(443, None, "tcp", None)),
    )


class FakeSource:
    """Lists one container in each state, or fails with what it is given."""

    name = "docker"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0

    def containers(self) -> tuple[Container, ...]:
        """List them."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        return tuple(made(state) for state in STATES)


@pytest.fixture
def source() -> FakeSource:
    """Where the containers come from."""
    return FakeSource()


@pytest.fixture
def app(source: FakeSource) -> Flask:
    """Make the application as it runs, over the fake source."""
    return create_app(Settings(), source)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Make a client of the application."""
    return app.test_client()


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


def test_list_answers_running_containers(client: FlaskClient) -> None:
    """With no filter the list holds running containers, each with exactly the promised members."""
    answer = client.get(LIST)
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    body = answer.get_json()
    as_of = body.pop("as_of")
    assert body == {
        "containers": [
            {
                "id": "runningrunningrunning",
                "name": "running",
                "image": "nginx:1.29",
                "state": "running",
                "status": "Up 3 minutes",
                "created": "2025-01-01T00:00:00Z",
                "ports": [
                    {"private_port": 8080, "public_port": 80, "protocol": "tcp", "ip": "192.0.2.1"},
                    {"private_port": 443, "public_port": None, "protocol": "tcp", "ip": None},
                ],
            }
        ],
        "total": 1,
        "source": "docker",
    }
    assert as_of.endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(as_of)
    assert abs(age.total_seconds()) < 60


def test_list_is_compact(client: FlaskClient) -> None:
    """JSON is written without blanks and in the documented order."""
    answer = client.get(LIST)
    body = json.loads(answer.data)
    assert answer.data.strip() == json.dumps(body, separators=(",", ":")).encode()
    assert list(body) == ["containers", "total", "source", "as_of"]


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
def test_list_filters_by_state(client: FlaskClient, query: str, states: list[str]) -> None:
    """The filter ``state`` is repeatable, ``all`` means every state, and ``total`` counts it."""
    body = client.get(f"{LIST}?{query}").get_json()
    assert sorted(item["state"] for item in body["containers"]) == sorted(states)
    assert body["total"] == len(states)


@pytest.mark.parametrize("value", ["stopped", "", "Running", "running,exited", "<b>"])
def test_list_refuses_an_unknown_state(client: FlaskClient, source: FakeSource, value: str) -> None:
    """What is no state is a 400 that names it and what there is, and asks no source."""
    answer = client.get(LIST, query_string={"state": ["running", value]})
    detail = assert_problem(answer, 400, "Bad Request", LIST)
    assert repr(value) in detail
    assert all(state in detail for state in (*STATES, "all"))
    assert source.calls == 0


def test_head_and_options_answer(client: FlaskClient) -> None:
    """HEAD is GET without the body; OPTIONS says what is allowed."""
    head = client.head(LIST)
    assert (head.status_code, head.data) == (200, b"")
    assert client.options(LIST).allow.as_set() == {"get", "head", "options"}


@pytest.mark.parametrize("path", [LIST, "/readyz"])
def test_without_source_answers_503(client: FlaskClient, source: FakeSource, path: str) -> None:
    """A source that fails makes the list and readiness 503, with its sentence and Retry-After."""
    source.error = SourceError("Docker cannot be reached")
    answer = client.get(path)
    detail = assert_problem(answer, 503, "Service Unavailable", path)
    assert detail == "Docker cannot be reached."
    assert answer.headers["Retry-After"] == "1"


def test_livez_does_not_ask_the_source(client: FlaskClient, source: FakeSource) -> None:
    """Liveness is about the process alone."""
    source.error = SourceError("Docker cannot be reached")
    answer = client.get("/livez")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert source.calls == 0


def test_readyz_answers_ok(client: FlaskClient, source: FakeSource) -> None:
    """Readiness is 200 once the list could be served, which it tries."""
    answer = client.get("/readyz")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert source.calls == 1


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


def test_defect_is_a_problem_that_tells_nothing(
    client: FlaskClient, source: FakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error is a 500 whose body holds nothing of it; the log holds it all."""
    source.error = ZeroDivisionError("s3cr3t")
    answer = client.get(LIST)
    assert "s3cr3t" not in assert_problem(answer, 500, "Internal Server Error", LIST)
    assert "s3cr3t" in caplog.text


def test_application_lists_from_docker(
    fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made from the environment it asks Docker at DOCKER_HOST, and shows no label."""
    monkeypatch.setenv("DOCKER_HOST", fake_docker.host)
    answer = from_environment().test_client().get(f"{LIST}?state=all")
    assert answer.status_code == 200
    assert [item["name"] for item in answer.get_json()["containers"]] == ["web", "job"]
    assert b"s3cr3t" not in answer.data


def test_connects_to_nothing_before_a_request(fake_docker: FakeDocker) -> None:
    """Making the application starts no thread and asks nobody, so that a server may fork it."""
    before = threading.active_count()
    create_app(Settings(docker_host=fake_docker.host))
    assert fake_docker.asked == []
    assert threading.active_count() == before
