"""The list of containers, asked through Nginx."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from .endpoint import within

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = [pytest.mark.serving, pytest.mark.source]

PATH = "/api/v1/containers"

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

STATES = {"created", "restarting", "running", "removing", "paused", "exited", "dead"}
"""https://docs.docker.com/reference/api/engine/, ContainerList."""


def listed(nginx: Endpoint, query: str = "") -> dict[str, dict[str, Any]]:
    """The containers of one answer, by id."""
    answer = nginx.ask(PATH + query).json()
    containers = {item["id"]: item for item in answer["containers"]}
    assert answer["total"] == len(answer["containers"]) == len(containers)
    return containers


def moment(text: str) -> datetime:
    """Read a time, which must be RFC 3339 and say its offset."""
    assert RFC_3339.fullmatch(text), text
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(("query", "docker_query"), [("", ""), ("?state=all", "?all=1")])
def test_list_agrees_with_docker(
    query: str, docker_query: str, nginx: Endpoint, socket_proxy: Endpoint
) -> None:
    """Within 3 s the list says what the Docker API of this machine says.

    The same containers, with the same name, image, state and time of creation.
    """

    def one_pair() -> None:
        found = socket_proxy.ask(f"/containers/json{docker_query}").json()
        theirs = {
            item["Id"]: (
                [name for name in item["Names"] if name.count("/") == 1],
                item["Image"],
                item["State"],
                item["Created"],
            )
            for item in found
        }
        ours = {
            identity: (
                [f"/{item['name']}"],
                item["image"],
                item["state"],
                moment(item["created"]).timestamp(),
            )
            for identity, item in listed(nginx, query).items()
        }
        assert ours == theirs

    within(3, one_pair)


def test_each_state_filter_gives_that_state_alone(nginx: Endpoint) -> None:
    """A filter lets its own state through, and nothing else; several add up."""
    for state in sorted(STATES):
        assert {item["state"] for item in listed(nginx, f"?state={state}").values()} <= {state}
    both = listed(nginx, "?state=running&state=exited")
    assert {item["state"] for item in both.values()} <= {"running", "exited"}


def test_filters_are_parts_of_all(nginx: Endpoint) -> None:
    """What runs or has ended is in the list of all, and what runs is the list without a filter."""

    def one_set() -> None:
        everything = listed(nginx, "?state=all").keys()
        running = listed(nginx, "?state=running").keys()
        exited = listed(nginx, "?state=exited").keys()
        assert everything >= running | exited
        assert not running & exited
        assert running == listed(nginx).keys()

    within(3, one_set)


def test_unknown_state_is_refused(nginx: Endpoint) -> None:
    """A state that does not exist is the client's mistake, and is said so."""
    details = nginx.ask(f"{PATH}?state=sleeping").problem(400)
    assert "sleeping" in details["detail"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "name=", "label="])
def test_wrong_parameter_is_refused(query: str, nginx: Endpoint) -> None:
    """A parameter that cannot be is the client's mistake, and is named."""
    details = nginx.ask(f"{PATH}?{query}").problem(400)
    assert query.partition("=")[0] in details["detail"]


def test_limit_leaves_the_first(nginx: Endpoint) -> None:
    """No more than were asked for are listed, and how many there are is said all the same."""

    def two() -> None:
        everything = nginx.ask(f"{PATH}?state=all").json()
        limited = nginx.ask(f"{PATH}?state=all&limit=1").json()
        assert limited["total"] == everything["total"] == len(everything["containers"])
        assert limited["containers"] == everything["containers"][:1]

    within(3, two)


def test_container_is_found_by_what_names_it(nginx: Endpoint) -> None:
    """Each of the list is there by its full id and by its name, and is in the list of its name."""

    def each() -> None:
        for identity, item in listed(nginx).items():
            for word in (identity, item["name"]):
                assert nginx.ask(f"{PATH}/{word}").json()["id"] == identity
            assert identity in listed(nginx, f"?name={item['name']}")

    within(3, each)


def test_unknown_container_is_404(nginx: Endpoint) -> None:
    """No container has an id that begins with what is no digit."""
    nginx.ask(f"{PATH}/no-such-container").problem(404)


def test_fields_have_their_types(nginx: Endpoint) -> None:
    """Every container has every field, of its type."""
    for item in listed(nginx, "?state=all").values():
        assert re.fullmatch("[0-9a-f]{64}", item["id"])
        assert item["name"]
        assert item["image"]
        assert {type(item[field]) for field in ("name", "image", "status")} == {str}
        assert item["state"] in STATES
        assert item["health"] in {"healthy", "unhealthy", "starting", None}
        assert {type(text) for text in item["labels"].values()} <= {str}
        assert moment(item["created"]) < datetime.now(UTC) + timedelta(seconds=1)
        assert isinstance(item["ports"], list)
        for port in item["ports"]:
            assert port["protocol"] in {"tcp", "udp", "sctp"}
            assert 0 < port["private_port"] < 65536
            assert port["public_port"] is None or 0 < port["public_port"] < 65536


def test_labels_are_shown_by_prefix_alone(nginx: Endpoint, socket_proxy: Endpoint) -> None:
    """What people write into labels stays inside, but for what begins as the settings say."""
    prefixes = ("org.opencontainers.image.", "com.docker.compose.service", "app.kubernetes.io/")

    def same() -> None:
        theirs = {
            item["Id"]: {
                key: value
                for key, value in (item["Labels"] or {}).items()
                if key.startswith(prefixes)
            }
            for item in socket_proxy.ask("/containers/json").json()
        }
        ours = {identity: item["labels"] for identity, item in listed(nginx).items()}
        assert ours == theirs

    within(3, same)


def test_list_says_where_and_when_it_is_from(nginx: Endpoint) -> None:
    """The list names its source, and is news: not older than 5 s."""
    answer = nginx.ask(PATH).json()
    now = datetime.now(UTC)
    assert answer["source"] == "docker"
    assert now - timedelta(seconds=5) < moment(answer["as_of"]) < now + timedelta(seconds=1)


def test_head_is_get_without_body(nginx: Endpoint) -> None:
    """HEAD answers as GET does, with no body."""
    answer = nginx.ask(PATH, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers.get_content_type() == "application/json"
