"""What is logged is what the index template is made for, and Filebeat is told how to bring it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from . import index
from .files import LOGGING, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker.models.containers import Container

    from tests.stack import Stack

LINE = {
    "@timestamp": "2026-01-02T03:04:05.678Z",
    "log.level": "info",
    "message": "GET /api/v1/containers 200",
    "ecs.version": "8.17.0",
    "event.dataset": "slipway.api",
    "event.duration": 3_007_000,
    "http.response.status_code": 200,
    "source.ip": "2001:db8::1",
}
SERVICE = ROOT / "service/slipway_api"
NGINX = (ROOT / "nginx/conf/log.conf").read_text()


def test_line_fits() -> None:
    """A line as it should be has nothing wrong."""
    assert index.complaints(LINE) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("@timestamp", "2026-01-02T03:04:05.678"),
        ("@timestamp", 1),
        ("event.duration", 3.5),
        ("event.duration", "3"),
        ("http.response.status_code", True),
        ("source.ip", ""),
        ("source.ip", "unix:"),
        ("message", None),
        ("url.query", "a=b"),
    ],
)
def test_mistake_in_a_line_is_noticed(field: str, value: object) -> None:
    """Another type, and a field that nobody has thought of."""
    (complaint,) = index.complaints({**LINE, field: value})
    assert complaint.startswith(f"{field} ")


def test_fields_of_nginx_are_in_the_template() -> None:
    """Each that its log format writes, numbers as such."""
    known = index.fields()
    written = re.findall(r'"([a-z@][a-z_.@]*)":("?)', NGINX.partition("log_format")[2])
    assert len(written) > 15
    for name, quote in written:
        assert (known[name]["type"] == "long") == (not quote), name


def test_fields_of_the_api_are_in_the_template() -> None:
    """Each that its formatter and its access log name."""
    text = "".join((SERVICE / name).read_text() for name in ("log.py", "access_log.py"))
    written = set(re.findall(r'"((?:@timestamp|message|[a-z_]+(?:\.[a-z_]+)+))"[\]:]', text))
    assert len(written) > 15
    assert written <= index.fields().keys() | {"gunicorn.error", "gunicorn.access"}


def test_template_is_for_the_stream_that_filebeat_writes() -> None:
    """And comes before Elasticsearch's own ones, whose priority is 200 at most."""
    template = index.template()
    told = yaml.safe_load((LOGGING / "filebeat.yml").read_text())
    (pattern,) = template["index_patterns"]
    assert told["output.elasticsearch"]["index"].startswith(pattern.rstrip("*"))
    assert template["priority"] > 200
    assert template["data_stream"] == {}
    kind, dataset, _ = told["output.elasticsearch"]["index"].split("-")
    known = index.fields()
    assert known["data_stream.type"]["value"] == kind
    assert known["data_stream.dataset"]["value"] == dataset


def test_a_line_that_does_not_fit_is_not_lost() -> None:
    """Elasticsearch keeps what is malformed or unknown, and does not search it; but for the time.

    A data stream wants the time of each line, and takes none that may be malformed.
    """
    inside = index.template()["template"]
    assert inside["settings"]["index"]["mapping"]["ignore_malformed"] is True
    assert inside["mappings"]["dynamic"] is False
    assert index.fields()["@timestamp"] == {"type": "date", "ignore_malformed": False}


@pytest.mark.parametrize("name", ["api", "nginx"])
def test_filebeat_is_told_to_read_the_logs_of_our_pods(name: str) -> None:
    """By hints, as the loggers of ECS want it: JSON's names as objects, in the place of its own.

    All values of an annotation are text.
    """
    patch = yaml.safe_load((LOGGING / f"deployment-{name}.yaml").read_text())
    assert patch["metadata"]["name"] == f"slipway-{name}"
    prefix = "co.elastic.logs/"
    told = patch["spec"]["template"]["metadata"]["annotations"]
    wanted = ("enabled", "json.expand_keys", "json.overwrite_keys", "json.ignore_decoding_error")
    assert told == {f"{prefix}{key}": "true" for key in wanted}


def test_filebeat_reads_what_it_is_told_to_and_nothing_else() -> None:
    """The logs of other pods are not brought, least of all into an index that is ours."""
    told = yaml.safe_load((LOGGING / "filebeat.yml").read_text())
    (provider,) = told["filebeat.autodiscover"]["providers"]
    assert provider["hints.enabled"] is True
    source = provider["hints.default_config"]
    assert source["enabled"] is False
    assert (source["type"], source["parsers"]) == ("filestream", [{"container": None}])


def test_filebeat_has_no_secret() -> None:
    """Where Elasticsearch is and what opens it come from the environment."""
    output = yaml.safe_load((LOGGING / "filebeat.yml").read_text())["output.elasticsearch"]
    assert output["hosts"] == ["${ELASTICSEARCH_HOSTS}"]
    assert output["api_key"] == "${ELASTICSEARCH_API_KEY}"


def lines(container: Container) -> list[dict[str, Any]]:
    """Return the log of a container, each line of which is JSON."""
    text: bytes = container.logs(stdout=True, stderr=False)
    return [json.loads(line) for line in text.splitlines()]


PARTS: dict[str, Callable[[Stack], Container]] = {
    "slipway-api": lambda system: system.apis[0],
    "slipway-nginx": lambda system: system.nginx,
    "slipway-socket-proxy": lambda system: system.socket_proxy,
}


@pytest.mark.docker
@pytest.mark.parametrize("name", PARTS)
def test_real_lines_fit(name: str, system: Stack) -> None:
    """Whatever was asked, and however it was answered."""
    for method, path in (
        ("GET", "/"),
        ("GET", "/api/v1/containers?name=x"),
        ("GET", "/api/v1/containers/none"),
        ("GET", "/api/v1/containers?limit=0"),
        ("POST", "/api/v1/containers"),
        ("GET", "/metrics"),
        ("GET", "/%22%0a\u00fc"),
    ):
        headers = {b"User-Agent": 'a "b" \u00fc'.encode(), b"X-Request-ID": b"one"}
        httpx.request(method, f"{system.url}{path}", headers=headers, timeout=10)
    found = lines(PARTS[name](system))
    assert {line["service.name"] for line in found} == {name}
    assert any("http.request.method" in line for line in found)
    assert {complaint for line in found for complaint in index.complaints(line)} == set()


@pytest.mark.docker
def test_one_word_goes_with_a_request(system: Stack) -> None:
    """Its line at Nginx and its line at the API have the same id."""
    httpx.get(f"{system.url}/nothing", headers={"X-Request-ID": "a-word"}, timeout=10)
    for name in ("slipway-nginx", "slipway-api"):
        found = [line for line in lines(PARTS[name](system)) if line["message"].endswith(" 404")]
        assert "a-word" in {line["http.request.id"] for line in found}
