"""The client of the Docker API."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import UsageError
from pipeline.setup.docker import Docker, DockerUnreachableError, Reply

from .setup_fakes import fake_docker

if TYPE_CHECKING:
    from pathlib import Path


def test_an_engine_that_answers_is_told_by_its_version(tmp_path: Path) -> None:
    """A ping returns, and version and root are what the engine says."""
    with fake_docker(tmp_path) as docker:
        docker.client.ping()
        assert docker.client.version() == "26.1.5"
        assert docker.client.root() == "/"


def test_no_socket_is_absent(tmp_path: Path) -> None:
    """An address without a socket is told from one where nobody listens."""
    with pytest.raises(DockerUnreachableError, match="there is no socket") as raised:
        Docker(f"unix://{tmp_path}/none.sock").ping()
    assert raised.value.why == "absent"
    assert raised.value.exit_code == 3


def test_nobody_listening_is_refused(tmp_path: Path) -> None:
    """A socket that a daemon left behind is refused, not absent."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(DockerUnreachableError) as raised:
        Docker(f"unix://{path}").ping()
    assert raised.value.why == "refused"


def test_an_engine_that_does_not_answer_is_silent_within_the_limit(tmp_path: Path) -> None:
    """A daemon that hangs costs the limit and no more."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(DockerUnreachableError, match="no answer within") as raised:
            Docker(f"unix://{path}").ping(timeout=0.05)
    assert raised.value.why == "silent"


def test_an_engine_that_is_out_of_order_is_broken(tmp_path: Path) -> None:
    """A ping that is answered with an error is no Docker Engine that could be used."""
    with fake_docker(tmp_path) as docker:
        docker.ping_answer = (500, {"message": "out of order"}, {})
        with pytest.raises(DockerUnreachableError, match="500: out of order") as raised:
            docker.client.ping()
    assert raised.value.why == "broken"


@pytest.mark.parametrize("host", ["ssh://there", "npipe:////./pipe/docker", "nonsense", "unix://"])
def test_an_address_of_another_kind_is_a_usage_error(host: str) -> None:
    """What set-up does not speak is refused by name, with exit code 2."""
    with pytest.raises(UsageError, match="neither unix") as raised:
        Docker(host)
    assert raised.value.exit_code == 2


def test_tcp_is_local_only_on_the_loopback() -> None:
    """Only an engine on this machine can publish on this machine's loopback interface."""
    assert Docker("tcp://127.0.0.1:2375").local
    assert not Docker("tcp://10.1.2.3:2375").local
    assert Docker("unix:///var/run/docker.sock").local


def test_tls_without_certificates_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DOCKER_TLS_VERIFY is honoured as Docker's own client does: no certificates, no connection."""
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(UsageError, match="certificates in"):
        Docker("tcp://127.0.0.1:2376").ping()


def test_remove_keeps_named_volumes(tmp_path: Path) -> None:
    """A container is stopped with a grace, then removed with its anonymous volumes only."""
    with fake_docker(tmp_path) as docker:
        docker.containers["a"] = {"Id": "1", "Name": "a", "State": {"Running": True}}
        assert docker.client.running() == ("a",)
        docker.client.remove("1", grace=3)
        assert docker.client.container("1") is None
    assert "POST /containers/1/stop?t=3" in docker.requests
    assert "DELETE /containers/1?force=true&v=true" in docker.requests


def test_a_message_that_is_not_json_is_given_as_it_is() -> None:
    """A proxy's error page is evidence, too."""
    assert Reply(502, b"Bad Gateway\n").message == "Bad Gateway"
    assert Reply(404, b'{"message": "gone"}').message == "gone"
