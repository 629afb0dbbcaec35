"""What is behind nginx goes away and comes back; each test runs a role of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .recorder import Recorder, free_port
from .role import running

if TYPE_CHECKING:
    from pathlib import Path


def test_api_that_is_gone_is_502_until_it_is_back(tmp_path: Path) -> None:
    """Without an API the answer is 502 at once; the first request after its return is served."""
    port = free_port()
    with running("proxy", tmp_path, {"API_UPSTREAM": f"127.0.0.1:{port}"}) as role:
        for _ in range(3):
            answer = role.ask("/livez")
            assert answer.status == 502
            assert answer.problem()["instance"] == "/livez"
            assert answer.headers["Retry-After"] == "1"
            assert answer.seconds < 2
        with Recorder().listening(("127.0.0.1", port)):
            assert role.ask("/livez").status == 200


def test_read_whose_connection_was_cut_is_tried_again(tmp_path: Path) -> None:
    """Up to four times in all: behind the one address there may be others that are well."""
    port = free_port()
    with (
        running("proxy", tmp_path, {"API_UPSTREAM": f"127.0.0.1:{port}"}) as role,
        Recorder().listening(("127.0.0.1", port)) as api,
    ):
        for dropped, status in ((3, 200), (4, 502)):
            api.reset()
            api.dropped = dropped
            assert role.ask("/livez").status == status
            assert api.lines() == ["GET /livez HTTP/1.1"] * 4


def test_docker_that_is_gone_is_502_until_it_is_back(tmp_path: Path) -> None:
    """Without a socket the answer is 502 at once; the first call after its return is served."""
    path = tmp_path / "docker.sock"
    with running("socket-proxy", tmp_path, {"DOCKER_SOCKET": str(path)}) as role:
        for _ in range(3):
            answer = role.ask("/containers/json")
            assert answer.status == 502
            assert answer.problem()["title"] == "Bad Gateway"
            assert answer.seconds < 2
        assert role.ask("/info").status == 403
        with Recorder().listening(path) as docker:
            assert role.ask("/containers/json").status == 200
        assert docker.lines() == ["GET /containers/json HTTP/1.1"]
        # The socket file stands, and nobody listens.
        assert path.exists()
        assert role.ask("/containers/json").status == 502
