"""The Docker source against an engine that is a fake: what it asks, and how it fails."""

from __future__ import annotations

import gc
import socket
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import docker.errors
import pytest
import requests.exceptions
from slipway_api.sources import Port, SourceError
from slipway_api.sources.docker import DockerSource, container

from tests.conftest import EXITED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway_api.sources import Container

    from tests.conftest import FakeDocker

VERSION = "GET /version"
LIST = "GET /v1.45/containers/json"
PREFIXES = ("com.docker.compose.",)


def source_at(host: str, timeout: float) -> DockerSource:
    """Make a source that asks there."""
    return DockerSource(host, timeout, PREFIXES)


def read(item: dict[str, Any]) -> Container:
    """Read one element of a list."""
    return container(item, PREFIXES)


def test_list_is_one_request(fake_docker: FakeDocker) -> None:
    """A list is one call, whatever it holds; the version is agreed once; nothing else is asked."""
    source = source_at(fake_docker.host, 1.0)
    for _ in range(3):
        assert [item.name for item in source.containers()] == ["web", "job"]
    assert fake_docker.asked == [VERSION, LIST, LIST, LIST]


def test_container_is_read_from_the_list() -> None:
    """Every member comes from the element of the list; ports are in ascending order."""
    found = read(RUNNING)
    assert found.id == "4f" * 32
    assert found.name == "web"
    assert found.image == "nginx:1.29"
    assert found.state == "running"
    assert found.status == "Up 3 minutes (healthy)"
    assert found.health == "healthy"
    assert found.created == datetime(2025, 1, 1, tzinfo=UTC)
    assert found.ports == (
        Port(443, None, "tcp", None),
        Port(8080, 80, "tcp", "192.0.2.1"),
        Port(8080, 80, "tcp", "::"),
    )


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["/web"], "web"),
        (["/other/alias", "/web"], "web"),
        ([], "4f4f4f4f4f4f"),
        (None, "4f4f4f4f4f4f"),
    ],
)
def test_name_is_its_own(names: list[str] | None, name: str) -> None:
    """The name is the container's own, not one by which another links to it; else the short id."""
    assert read({**RUNNING, "Names": names}).name == name


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("Up 3 minutes (healthy)", "healthy"),
        ("Up 3 minutes (unhealthy)", "unhealthy"),
        ("Up 3 seconds (health: starting)", "starting"),
        ("Up 3 minutes", None),
        ("Up 3 minutes (Paused)", None),
        ("Exited (0) 2 hours ago", None),
    ],
)
def test_health_is_what_the_status_ends_with(status: str, health: str | None) -> None:
    """The list of Docker says it nowhere else; without a health check there is none."""
    assert read({**RUNNING, "Status": status}).health == health


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (
            {"com.docker.compose.service": "web", "secret": "s3cr3t", "com.docker.compose": "x"},
            {"com.docker.compose.service": "web"},
        ),
        ({"secret": "s3cr3t"}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_labels_are_shown_by_prefix_alone(
    labels: dict[str, str] | None, shown: dict[str, str]
) -> None:
    """A label that begins with none of the prefixes is not even in the value."""
    assert read({**RUNNING, "Labels": labels}).labels == shown


def test_ports_may_be_missing() -> None:
    """Docker says null for the ports of a container on the host's network."""
    assert read({**EXITED, "Ports": None}).ports == ()


def test_closed_connection_is_not_a_failure(fake_docker: FakeDocker) -> None:
    """When the other side closed a connection that was kept, the list is asked for again."""
    source = source_at(fake_docker.host, 1.0)
    source.containers()
    fake_docker.drop = 1
    assert len(source.containers()) == 2
    assert fake_docker.asked == [VERSION, LIST, LIST, VERSION, LIST]


def test_connection_that_is_always_closed_is_a_failure(fake_docker: FakeDocker) -> None:
    """It is asked for again once, not for ever."""
    source = source_at(fake_docker.host, 1.0)
    source.containers()
    fake_docker.drop = 5
    with pytest.raises(SourceError, match=r"^Docker cannot be reached$"):
        source.containers()
    assert fake_docker.drop == 3


def test_refused_connection(free_port: Callable[[], int]) -> None:
    """Where nothing listens, it fails at once."""
    source = source_at(f"tcp://127.0.0.1:{free_port()}", 5.0)
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"^Docker cannot be reached$"):
        source.containers()
    assert time.monotonic() - start < 5.0


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_missing_socket(tmp_path: Path) -> None:
    """A Unix socket that is not there is a Docker that cannot be reached."""
    with pytest.raises(SourceError, match=r"^Docker cannot be reached$"):
        source_at(f"unix://{tmp_path}/docker.sock", 1.0).containers()
    # docker-py leaves a Unix socket that did not connect to the garbage collector, which warns.
    gc.collect()


def test_engine_that_hangs(fake_docker: FakeDocker) -> None:
    """An engine that takes the question and says nothing is given up after the time-out."""
    fake_docker.answer.clear()
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"^Docker did not answer within 0\.2 s$"):
        source_at(fake_docker.host, 0.2).containers()
    assert time.monotonic() - start < 5.0


def test_hang_on_a_kept_connection_is_not_asked_again(fake_docker: FakeDocker) -> None:
    """An engine that hangs is not asked a second time, which would take a second time-out."""
    source = source_at(fake_docker.host, 1.0)
    source.containers()
    fake_docker.answer.clear()
    with pytest.raises(SourceError, match=r"^Docker did not answer within 1 s$"):
        source.containers()
    assert fake_docker.asked == [VERSION, LIST, LIST]


def test_engine_that_hangs_before_the_version() -> None:
    """The same while the version is being agreed, on a socket that nobody accepts from."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = source_at(f"tcp://127.0.0.1:{listener.getsockname()[1]}", 0.2)
        with pytest.raises(SourceError, match=r"^Docker did not answer within 0\.2 s$"):
            source.containers()


@pytest.mark.parametrize(
    "body",
    [b'{"message": "s3cr3t"}', b'{"title": "Forbidden"}', b"[]", b"<html>s3cr3t</html>", b""],
)
@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_refusal(fake_docker: FakeDocker, status: int, body: bytes) -> None:
    """An error of the engine, or of the proxy before it, is a failure that names its status.

    Its cause, which is logged, is the error that has it, whatever docker-py made of the body.
    """
    fake_docker.status = status
    fake_docker.body = body
    message = rf"^Docker refused to list containers \({status}\)$"
    with pytest.raises(SourceError, match=message) as caught:
        source_at(fake_docker.host, 1.0).containers()
    assert str(caught.value.__cause__).startswith(
        f"{status} Client Error" if status < 500 else f"{status} Server Error"
    )


@pytest.mark.parametrize("status", [502, 503, 504])
def test_proxy_without_docker(fake_docker: FakeDocker, status: int) -> None:
    """When it is the proxy that says so, Docker cannot be reached either."""
    fake_docker.status = status
    with pytest.raises(SourceError, match=r"^Docker cannot be reached$"):
        source_at(fake_docker.host, 1.0).containers()


def test_version_is_agreed_again_after_a_failure(fake_docker: FakeDocker) -> None:
    """An engine that was replaced may no longer speak the version that was agreed."""
    source = source_at(fake_docker.host, 1.0)
    source.containers()
    fake_docker.status = 400
    with pytest.raises(SourceError):
        source.containers()
    fake_docker.status = 200
    source.containers()
    assert fake_docker.asked == [VERSION, LIST, LIST, VERSION, LIST]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>no such page</html>",
        b"",
        b"null",
        b"7",
        b'{"message": "hello"}',
        b"[7]",
        b"[{}]",
        b'[{"Id": "a"}]',
        b'[{"Id":"a","Names":[7],"Image":"b","State":"c","Status":"d","Created":1}]',
        b'[{"Id":"a","Names":7,"Image":"b","State":"c","Status":"d","Created":1}]',
        b'[{"Id":"a","Image":"b","State":"c","Status":"d","Created":"x"}]',
        b'[{"Id":"a","Image":"b","State":"c","Status":"d","Created":1e99}]',
        b'[{"Id":"a","Image":"b","State":"c","Status":"d","Created":1,"Ports":[{}]}]',
        b'[{"Id":"a","Image":"b","State":"c","Status":"d","Created":1,"Ports":{"a":1}}]',
    ],
)
def test_answer_that_is_no_list(fake_docker: FakeDocker, body: bytes) -> None:
    """An answer that is not a list of containers is a failure of the source, not a defect."""
    fake_docker.body = body
    with pytest.raises(SourceError, match=r"^Docker's answer is not a list of containers$"):
        source_at(fake_docker.host, 1.0).containers()


def test_internet_proxy_is_not_used(
    fake_docker: FakeDocker, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is for the internet; the way to Docker does not go through it."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert len(source_at(fake_docker.host, 1.0).containers()) == 2


def test_late_failure_keeps_the_new_client(fake_docker: FakeDocker) -> None:
    """A call that fails after another one succeeded does not undo that one's connection."""
    source = source_at(fake_docker.host, 1.5)
    fake_docker.answer.clear()
    errors: list[SourceError] = []

    def late() -> None:
        try:
            source.containers()
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    while LIST not in fake_docker.asked:
        time.sleep(0.005)
    fake_docker.answer.set()
    source.containers()
    thread.join(5)
    asked = len(fake_docker.asked)
    source.containers()
    assert fake_docker.asked[asked:] == [LIST]


def test_every_error_below_is_translated() -> None:
    """No error that docker-py or requests declares lies outside of what is translated."""
    roots = (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        RuntimeError,
        Warning,
    )
    declared = [
        item
        for module in (docker.errors, requests.exceptions)
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Exception)
        and item.__module__ == module.__name__
    ]
    assert len(declared) > 30
    assert [item for item in declared if not issubclass(item, roots)] == []
