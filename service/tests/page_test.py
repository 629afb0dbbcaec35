"""What the page says, and that it says it without its script."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, ClassVar

import pytest
from flask import Flask
from slipway_api import page
from slipway_api.app import create_app
from slipway_api.config import Settings
from slipway_api.page import View, age, image, ports
from slipway_api.sources import STATES, Container, PodContainer, Port, SourceError

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WEB = Container(
    id="4f" * 32,
    name="web",
    image="nginx:1.29",
    state="running",
    status="Up 3 minutes (healthy)",
    health="healthy",
    created=NOW,
    ports=(Port(8080, 80, "tcp", "0.0.0.0"), Port(8080, 80, "tcp", "::")),  # noqa: S104
    labels={},
)
JOB = replace(WEB, id="a0" * 32, name="job", image="busybox", state="exited", health=None, ports=())
SICK = replace(WEB, id="b1" * 32, name="Sick", image="app:2", health="unhealthy")
POD = PodContainer(
    **{name: getattr(WEB, name) for name in Container.__slots__},
    pod="web-6d4cf",
    node="node-1",
    restarts=2,
    ready=True,
)


@dataclass
class Listed:
    """A source that lists what a test says, or fails."""

    items: tuple[Container, ...] = ()
    error: str = ""
    name: ClassVar[str] = "docker"

    def containers(self) -> tuple[Container, ...]:
        """List them, or fail."""
        if self.error:
            raise SourceError(self.error)
        return self.items


class Texts(HTMLParser):
    """Reads what a person sees of a page, and what leads on from it.

    Attributes:
        names: The names of the containers, in order.
        links: The addresses of the links, by their text.
        checked: The states whose boxes are ticked.
        inline: What the policy forbids and would therefore not work.
        text: All of the text.
    """

    def __init__(self, answer: TestResponse) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: dict[str, str] = {}
        self.checked: set[str] = set()
        self.inline: list[str] = []
        self.text = ""
        self._href: str | None = None
        self._name = False
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what begins."""
        found = dict(attrs)
        self.inline += [name for name in found if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in found):
            self.inline.append(tag)
        for address in (found.get("src"), found.get("href"), found.get("action")):
            assert address is None or re.match(r"/(?!/)|\?", address), address
        if tag == "a":
            self._href = found["href"]
        if tag == "input" and found.get("name") == "state" and "checked" in found:
            self.checked.add(str(found["value"]))
        self._name = tag == "span" and found.get("class") == "main"

    def handle_data(self, data: str) -> None:
        """Take what stands between."""
        self.text += data
        if self._href is not None:
            self.links[data] = self._href
            self._href = None
        if self._name:
            self.names.append(data)
            self._name = False


def client_of(*items: Container, error: str = "") -> FlaskClient:
    """Make a client of the application."""
    return create_app(Settings(), Listed(items, error)).test_client()


def read(client: FlaskClient, query: str = "", status: int = 200) -> Texts:
    """Get the page and read it."""
    answer = client.get(f"/{query}")
    assert answer.status_code == status
    return Texts(answer)


def test_page_lists_what_runs() -> None:
    """Without a query it is what runs, by name, and everything that is known about each."""
    found = read(client_of(WEB, JOB, SICK))
    assert found.names == ["Sick", "web"]
    assert found.checked == {"running"}
    assert "2 of 3 containers." in found.text
    for said in ("Up 3 minutes", "nginx:1.29", "unhealthy", "80 → 8080/tcp", "4f4f4f"):
        assert said in found.text


def test_page_says_more_of_a_pod() -> None:
    """In Kubernetes a name is unique only in its pod: that is there, with node and restarts."""
    assert "web-6d4cf · node-1 · 2 restarts" in read(client_of(POD)).text


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("?q=", ["job", "Sick", "web"]),
        ("?q=&state=exited", ["job"]),
        ("?state=exited&state=running", ["job", "Sick", "web"]),
        ("?q=NGINX", ["web"]),
        ("?q=+web++1.29+", ["web"]),
        ("?q=web+3", []),
        ("?q=a0a0", ["job"]),
        ("?q=0a0", []),
        ("?q=s&state=running", ["Sick"]),
    ],
)
def test_page_filters(query: str, names: list[str]) -> None:
    """With a query it is what it says: states, none meaning all, and words that all must fit."""
    assert read(client_of(WEB, JOB, SICK), query).names == names


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["job", "Sick", "web"]),
        ("-name", ["web", "Sick", "job"]),
        ("state", ["job", "Sick", "web"]),
        ("-state", ["Sick", "web", "job"]),
        ("image", ["Sick", "job", "web"]),
        ("health", ["Sick", "web", "job"]),
        ("age", ["web", "Sick", "job"]),
        ("-age", ["job", "Sick", "web"]),
    ],
)
def test_page_sorts(sort: str, names: list[str]) -> None:
    """Each column sorts both ways; what needs a look comes first, and equals stand by name."""
    items = (WEB, replace(JOB, created=NOW - timedelta(days=9)), SICK)
    sick = replace(SICK, created=NOW - timedelta(days=1))
    assert read(client_of(*items[:2], sick), f"?q=&sort={sort}").names == names


def test_headings_lead_to_their_order() -> None:
    """A heading is a link: sorted by it, and the other way round if it is so already."""
    client = client_of(WEB, JOB)
    found = read(client, "?q=e+&state=running&sort=image")
    assert found.links["Name"] == "?q=e&state=running&sort=name"
    assert found.links["Image"] == "?q=e&state=running&sort=-image"
    again = read(client, found.links["Image"])
    assert again.links["Image"] == "?q=e&state=running&sort=image"
    assert again.checked == {"running"}
    assert 'aria-sort="descending"' in client.get("/" + found.links["Image"]).text


@pytest.mark.parametrize("query", ["?state=stopped", "?state=", "?sort=size", "?sort=--name"])
def test_page_refuses_what_there_is_not(query: str) -> None:
    """A state or column that there is not is a 400 that names it, as in the list."""
    answer = client_of(WEB).get(f"/{query}")
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert repr(query.partition("=")[2]) in answer.get_json()["detail"]


def test_page_without_source() -> None:
    """It is 503 with a plain sentence when the source is gone, and still a page with its filter."""
    client = client_of(error="Docker cannot be reached")
    answer = client.get("/?q=x&state=exited")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    found = Texts(answer)
    assert "Docker cannot be reached." in found.text
    assert found.links["Try again"] == "?q=x&state=exited&sort=name"
    assert found.checked == {"exited"}


def test_page_without_containers() -> None:
    """An empty list and a filter that nothing fits are told apart; the second has a way out."""
    assert "Docker has no container." in read(client_of()).text
    client = client_of(WEB, JOB)
    found = read(client, "?q=nothing")
    assert "No container is like that." in found.text
    assert read(client, found.links["Show all 2"]).names == ["job", "web"]


def test_page_counts_each_state() -> None:
    """Each state has its box, with how many containers are in it whatever else is filtered."""
    text = re.sub(r"\s+", " ", read(client_of(WEB, JOB, SICK), "?q=nothing").text)
    assert "running 2 created 0 paused 0 exited 1" in text
    assert all(f" {state} " in text for state in STATES)


def test_page_is_no_markup_of_others() -> None:
    """What a source or a query says is text, whatever is in it."""
    bad = "<script>alert(1)</script>\"'"
    item = replace(WEB, name=bad, image=bad, status=bad, id=bad)
    answer = client_of(item).get("/", query_string={"q": bad})
    assert "<script>alert" not in answer.text
    assert Texts(answer).inline == []
    assert bad in Texts(answer).names


@pytest.mark.parametrize("error", ["", "Docker cannot be reached"])
def test_page_keeps_its_own_policy(error: str) -> None:
    """Nothing in it is inline, all of its addresses are its own, and the policy says just that."""
    answer = client_of(WEB, JOB, error=error).get("/?q=")
    assert Texts(answer).inline == []
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.content_type == "text/html; charset=utf-8"


@pytest.mark.parametrize(("name", "kind"), page.FILES.items())
def test_files_are_asked_for_and_seldom_sent(name: str, kind: str) -> None:
    """A file of the page has its type, and is not sent again as long as it is the same."""
    client = client_of()
    answer = client.get(f"/static/{name}")
    assert (answer.status_code, answer.content_type) == (200, kind)
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert f'"/static/{name}"' in client.get("/").text


@pytest.mark.parametrize("name", ["x", "..%2fpage.py", "page.css/", "%2e%2e/page.py"])
def test_other_files_are_not_there(name: str) -> None:
    """Nothing else of the disk is served."""
    answer = client_of().get(f"/static/{name}")
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")


def test_script_makes_no_markup_from_text() -> None:
    """The script has no way to turn text into markup or code, which the policy would stop."""
    script = client_of().get("/static/page.js").text
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function", script
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (119, "1 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
        (5_259_600, "2 mo"),
        (63_115_200, "2 y"),
    ],
)
def test_age_has_one_unit(seconds: float, text: str) -> None:
    """An age is written in the largest unit of which there are two, and never rounded up."""
    assert age(seconds) == text


def test_ports_are_written_once() -> None:
    """A port published on all addresses of both kinds is one; a certain address is named."""
    items = (
        Port(443, None, "tcp", None),
        *WEB.ports,
        Port(53, 5353, "udp", "127.0.0.1"),
        Port(53, 5353, "udp", "::1"),
    )
    assert ports(items) == [
        "443/tcp",
        "80 → 8080/tcp",
        "127.0.0.1:5353 → 53/udp",
        "[::1]:5353 → 53/udp",
    ]


def test_many_ports_are_cut() -> None:
    """A container with a range of ports does not fill the page; how many are left out is said."""
    many = replace(WEB, ports=tuple(Port(port, None, "tcp", None) for port in range(100, 120)))
    text = read(client_of(many)).text
    assert "105/tcp" in text
    assert "106/tcp" not in text
    assert "and 14 more" in text


def test_image_digest_is_cut() -> None:
    """A digest is cut as Docker cuts ids, and other names are not."""
    digest = "0123456789ab" + "c" * 52
    assert image(f"registry.example/app:1@sha256:{digest}") == (
        "registry.example/app:1@sha256:0123456789ab…"
    )
    assert image(f"sha256:{digest}") == "sha256:0123456789ab…"
    assert image("registry.example:5000/app:1.2") == "registry.example:5000/app:1.2"


def test_view_is_its_own_address() -> None:
    """What a view's query asks for is that view, with every character that may be in it."""
    view = View(text="a&b=c d+é", states=frozenset({"dead", "exited"}), sort="-age")
    with Flask(__name__).test_request_context("/" + view.query()) as context:
        assert page.asked(context.request.args) == view
