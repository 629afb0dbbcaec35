"""The OpenAPI document agrees with the code and with the answers; its page asks nobody else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import TypeAdapter
from slipway_api import openapi
from slipway_api.app import create_app
from slipway_api.config import Settings
from slipway_api.containers import ContainerList, Item
from slipway_api.problem import Problem

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from tests.conftest import FakeServer

FILE = Path(__file__).parents[1] / "openapi.json"


@pytest.fixture
def client(fake: FakeServer) -> FlaskClient:
    """Make a client of the application, which asks the fake."""
    return create_app(Settings.from_environment(fake.environment)).test_client()


def test_file_is_what_the_code_says() -> None:
    """The document that is committed is made by `python -m slipway_api.openapi > openapi.json`."""
    assert openapi.document(create_app(Settings())) == FILE.read_text(encoding="utf-8")


def test_document_is_served(client: FlaskClient) -> None:
    """It is that of the file, and its version is 3.1."""
    answer = client.get("/openapi.json")
    assert answer.content_type == "application/json"
    assert answer.data == FILE.read_bytes()
    assert answer.get_json()["openapi"].startswith("3.1.")


def test_document_has_each_route_of_the_api(client: FlaskClient) -> None:
    """What answers JSON is in it; every operation has a name, and errors are problems."""
    paths = client.get("/openapi.json").get_json()["paths"]
    assert set(paths) == {
        "/api/v1/containers",
        "/api/v1/containers/{id}",
        "/livez",
        "/healthz",
        "/readyz",
    }
    for item in paths.values():
        assert item["get"]["operationId"]
        for status, answer in item["get"]["responses"].items():
            kind = "application/json" if status == "200" else "application/problem+json"
            assert list(answer["content"]) == [kind]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/api/v1/containers?state=all", ContainerList),
        ("/api/v1/containers/web", Item),
        ("/api/v1/containers?limit=0", Problem),
    ],
)
def test_answers_are_what_the_document_says(
    client: FlaskClient, path: str, model: type[ContainerList | Item | Problem]
) -> None:
    """The models of the document read every answer back to the letter."""
    data = client.get(path).data
    found = TypeAdapter(model).validate_json(data, strict=True)
    assert found.model_dump_json().encode() == data.strip()


def test_page_runs_nothing_but_itself(client: FlaskClient) -> None:
    """It has a policy with the hash of what is written in it, and no address but this server's."""
    answer = client.get("/docs")
    assert answer.mimetype == "text/html"
    page = answer.get_data(as_text=True)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert page.count("<script>") + page.count("<style>") == 2
    assert policy.count("'sha256-") == 3  # and a style that a script of the page puts into it
    assert '"/openapi.json"' in page
    assert r'"validatorUrl": null' in page
    assert not re.search(r"https?://|//[a-z]", page)
    assert not re.search(r" (on\w+|style)=", page)
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(named) == 4
    for name in named:
        with client.get(f"/{name}") as file:
            assert file.status_code == 200
