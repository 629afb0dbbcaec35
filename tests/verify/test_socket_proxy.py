"""The Docker socket proxy of the running system: what it lets through, and what it refuses.

Whatever would change something names nothing that exists, so that it does no harm when it is let
through after all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = pytest.mark.serving

NOBODY = "f" * 64
"""The id of no container."""

READS_OF_A_CONTAINER = [
    "json",
    "top",
    "logs?stdout=1",
    "changes",
    "export",
    "stats?stream=0",
    "attach/ws",
    "archive?path=/etc/hostname",
]

DENIED = [
    ("GET", "/"),
    ("GET", "/info"),
    ("GET", "/events?until=1"),
    ("GET", "/images/json"),
    ("GET", "/v1.43/images/json"),
    ("GET", "/images/none/get"),
    ("GET", "/networks"),
    ("GET", "/volumes"),
    ("GET", "/swarm"),
    ("GET", "/system/df"),
    ("GET", f"/exec/{NOBODY}/json"),
    ("HEAD", f"/containers/{NOBODY}/archive?path=/etc/hostname"),
    ("PUT", f"/containers/{NOBODY}/archive?path=/nowhere"),
    ("POST", "/containers/create"),
    ("POST", "/v1.43/containers/create"),
    ("POST", f"/containers/{NOBODY}/exec"),
    ("POST", f"/containers/{NOBODY}/start"),
    ("POST", f"/containers/{NOBODY}/attach?stream=1"),
    ("POST", f"/exec/{NOBODY}/start"),
    ("DELETE", f"/containers/{NOBODY}"),
    ("DELETE", f"/images/{NOBODY}"),
    ("POST", "/build?remote=none"),
    ("POST", "/images/create"),
    ("POST", "/session"),
    # The allowed paths with another method.
    ("POST", "/_ping"),
    ("POST", "/version"),
    ("POST", "/containers/json"),
    ("PUT", "/containers/json"),
    ("PATCH", "/containers/json"),
    ("DELETE", "/containers/json"),
    ("OPTIONS", "/containers/json"),
    ("TRACE", "/_ping"),
    ("HEAD", "/version"),
    ("HEAD", "/containers/json"),
    # Paths that are nearly allowed, or that mean an allowed one once decoded or resolved.
    ("GET", "/_ping/"),
    ("GET", "/_ping?x=1"),
    ("GET", "/version?x=1"),
    ("GET", "/containers/json/"),
    ("GET", "/containers/jsonx"),
    ("GET", "/v2.0/_ping"),
    ("GET", "/v1.43/v1.43/_ping"),
    ("GET", "//_ping"),
    ("GET", "/v1.43//containers/json"),
    ("GET", "/containers//json"),
    ("GET", "/containers/./json"),
    ("GET", "/images/../containers/json"),
    ("GET", f"/containers/json/../{NOBODY}/json"),
    ("GET", f"/containers/json/..%2f{NOBODY}/json"),
    ("GET", f"/containers/json/%2e%2e/{NOBODY}/json"),
    ("GET", "/containers/%6ason"),
    ("GET", "/containers%2fjson"),
    ("GET", "/containers/json%3fall=1"),
    ("GET", "http://docker/containers/json"),
]


@pytest.mark.source
@pytest.mark.parametrize("version", ["", "/v1.43"])
def test_allowed_calls_are_answered_by_docker(version: str, socket_proxy: Endpoint) -> None:
    """The three calls work, with and without a version of the API."""
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        ping = socket_proxy.ask(f"{version}/_ping", method)
        assert (ping.status, ping.body) == (200, body)
        assert ping.headers["Api-Version"]
    assert socket_proxy.ask(f"{version}/version").json()["ApiVersion"]
    assert isinstance(socket_proxy.ask(f"{version}/containers/json").json(), list)
    assert isinstance(socket_proxy.ask(f"{version}/containers/json?all=1&limit=3").json(), list)


@pytest.mark.parametrize(("method", "path"), DENIED)
def test_everything_else_is_denied(method: str, path: str, socket_proxy: Endpoint) -> None:
    """Whatever is not one of the three calls, letter by letter, is 403."""
    answer = socket_proxy.ask(path, method)
    if method == "HEAD":
        assert answer.status == 403
    else:
        answer.problem(403)


@pytest.mark.source
@pytest.mark.parametrize("version", ["", "/v1.43"])
@pytest.mark.parametrize("call", READS_OF_A_CONTAINER)
def test_reads_of_a_container_are_denied(call: str, version: str, socket_proxy: Endpoint) -> None:
    """What a container is, says and holds stays closed, whether or not it exists.

    They only read, but environment variables, logs and files hold secrets.
    """
    found = socket_proxy.ask("/containers/json?all=1&limit=1").json()
    for identity in (NOBODY, *(item["Id"] for item in found)):
        socket_proxy.ask(f"{version}/containers/{identity}/{call}").problem(403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "2"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "Upgrade", "Upgrade": "tcp"},
        {"Connection": "Upgrade", "Upgrade": "h2c"},
    ],
    ids="+".join,
)
def test_allowed_path_with_more_is_denied(headers: dict[str, str], socket_proxy: Endpoint) -> None:
    """An allowed call that brings a body, or asks for another protocol, is not that call."""
    socket_proxy.ask("/_ping", headers=headers).problem(403)
