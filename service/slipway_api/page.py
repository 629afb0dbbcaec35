"""``GET /``: the page that lists the containers, and the three files that it is made of.

The page is whole without its script: filters are a form, headings are links, and every state of it
has an address. The script asks for that same address again and puts what is new in the place of
what was there, so nothing is rendered in two ways.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, request
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slipway_api.sources import STATES, PodContainer, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jinja2 import Template
    from werkzeug.datastructures import MultiDict

    from slipway_api.sources import Container, Port
    from slipway_api.sources.shared import Listing, Shared

HERE = Path(__file__).parent

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Files of our own and nothing else: no inline script or style, and no text that becomes markup."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""What the page is made of, with the media types."""

URGENCY = ("dead", "restarting", "removing", "exited", "paused", "created", "running")
"""The states in the order of sorting: what somebody may have to look after comes first."""

HEALTH = ("unhealthy", "starting", "healthy")
"""The same of health; what has no health check comes last."""

MOST_PORTS = 6
"""Ports of one container on the page; the API has them all."""

# Docker puts into the status what stands in a column of its own here.
_HEALTH_IN_STATUS = re.compile(r" \((healthy|unhealthy|health: starting)\)$")

_LONG_DIGEST = 64
_SHORT = 12  # as Docker cuts ids

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class View:
    """What of the list is wanted, and in which order.

    Attributes:
        text: Words that each must be in the name, image, pod or node, or begin the id.
        states: The states wanted; none stands for all of them.
        sort: One of ``COLUMNS``, with ``-`` in front of it for the other way round.
    """

    text: str = ""
    states: frozenset[str] = frozenset({"running"})
    sort: str = "name"

    def query(self, **changed: str) -> str:
        """Return the query of this view's address, with some parameters changed."""
        parameters = {"q": self.text, "state": sorted(self.states), "sort": self.sort, **changed}
        return "?" + urlencode(parameters, doseq=True)

    def column(self) -> tuple[str, bool]:
        """Return the column that it is sorted by, and whether from the highest down."""
        return self.sort.removeprefix("-"), self.sort.startswith("-")

    def takes(self, item: Container) -> bool:
        """Tell whether a container is wanted."""
        if self.states and item.state not in self.states:
            return False
        where = [item.name, item.image]
        if isinstance(item, PodContainer):
            where += [item.pod, item.node or ""]
        text = "\n".join(where).casefold()
        return all(
            word in text or item.id.startswith(word) for word in self.text.casefold().split()
        )


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a column.

    Attributes:
        name: Its name in the query; empty where there is no sorting by it.
        title: What stands there.
        order: ``aria-sort``: ``ascending``, ``descending`` or ``none``.
        href: Where a click leads: sorted by it, or by it the other way round.
    """

    name: str
    title: str
    order: str = "none"
    href: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A state that may be chosen, with how many containers are in it; None when nobody knows."""

    state: str
    chosen: bool
    count: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """A container as it stands in the table: texts, and for some the long form.

    Attributes:
        beneath: What stands under the name, in order.
        more: How many of its ports are left out.
    """

    id: str
    name: str
    beneath: tuple[str, ...]
    state: str
    status: str
    image: str
    image_in_full: str
    health: str | None
    age: str
    created: datetime
    ports: tuple[str, ...]
    more: int


COLUMNS: Mapping[str, Callable[[Container], Any]] = {
    "name": lambda item: item.name.casefold(),
    "state": lambda item: _place(item.state, URGENCY),
    "image": lambda item: item.image.casefold(),
    "health": lambda item: _place(item.health, HEALTH),
    "age": lambda item: -item.created.timestamp(),
}
"""What the list can be sorted by."""


def blueprint(shared: Shared) -> Blueprint:
    """Serve the page and its files."""
    routes = Blueprint("page", __name__)
    template = _template()
    # Read once; the ETag is the content's own, because an image may give all files one time.
    files = {name: (HERE / "static" / name).read_bytes() for name in FILES}
    tags = {name: hashlib.sha256(content).hexdigest()[:32] for name, content in files.items()}

    @routes.get("/")
    def page() -> Response:
        """Answer the page; 503 with the same page around a sentence when the source is gone."""
        view = asked(request.args)
        source = shared.name.capitalize()
        try:
            listing = shared.listing()
        except SourceError as error:
            text = template.render(gone=f"{error}.", source=source, **_controls(view))
            answer = Response(text, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"})
        else:
            text = template.render(
                gone="",
                source=source,
                rows=rows(listing, view),
                total=len(listing.containers),
                as_of=listing.as_of.astimezone(UTC),
                **_controls(view, listing),
            )
            answer = Response(text)
        answer.headers.update(HEADERS)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @routes.get("/static/<name>")
    def static(name: str) -> Response:
        """Answer one of the page's files."""
        if name not in files:
            abort(404)
        answer = Response(files[name], content_type=FILES[name])
        answer.headers.update(HEADERS)
        # Always asked for and seldom sent: no address has to change with the content.
        answer.headers["Cache-Control"] = "no-cache"
        answer.set_etag(tags[name])
        answer.make_conditional(request)
        return answer

    return routes


@cache
def _template() -> Template:
    """Compile the page, which takes most of what it takes to make an application, once."""
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    ).get_template("page.html")


def asked(arguments: MultiDict[str, str]) -> View:
    """Read what a query asks for.

    Without any query it is what runs. With one it is the states that it names, none meaning all:
    a form in which no box is ticked sends no state.

    Raises:
        werkzeug.exceptions.BadRequest: A state or column is named that there is not.
    """
    if not arguments:
        return View()
    states = frozenset(arguments.getlist("state"))
    for state in sorted(states.difference(STATES)):
        abort(400, f"Not a state of a container: {state!r}. Use one of {', '.join(STATES)}.")
    sort = arguments.get("sort") or View().sort
    if sort.removeprefix("-") not in COLUMNS:
        abort(400, f"Not a column to sort by: {sort!r}. Use one of {', '.join(COLUMNS)}.")
    return View(arguments.get("q", "").strip(), states, sort)


def rows(listing: Listing, view: View) -> list[Row]:
    """Return the rows of a view, in its order; what is equal there is in the order of names."""
    name, descending = view.column()
    found = [item for item in listing.containers if view.takes(item)]
    found.sort(key=lambda item: (item.name.casefold(), item.id))
    found.sort(key=COLUMNS[name], reverse=descending)
    return [_row(item, listing.as_of) for item in found]


def age(seconds: float) -> str:
    """Write a length of time in its largest fitting unit, rounded down."""
    for unit, length, least in (
        ("y", 31_557_600, 2),
        ("mo", 2_629_800, 2),
        ("d", 86_400, 2),
        ("h", 3_600, 2),
        ("min", 60, 1),
    ):
        if seconds >= least * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def ports(items: Iterable[Port]) -> list[str]:
    """Write ports as ``80 → 8080/tcp``, with the address if it is not any; each once."""
    texts: dict[str, None] = {}
    for port in items:
        inside = f"{port.private_port}/{port.protocol}"
        if port.public_port is None:
            texts[inside] = None
            continue
        address = ""
        if port.ip is not None and port.ip not in WILDCARDS:
            address = f"[{port.ip}]:" if ":" in port.ip else f"{port.ip}:"
        texts[f"{address}{port.public_port} → {inside}"] = None
    return list(texts)


def image(name: str) -> str:
    """Return the name of an image with a digest in it cut as Docker cuts ids."""
    before, mark, digest = name.rpartition("sha256:")
    if mark and len(digest) == _LONG_DIGEST:
        return f"{before}{mark}{digest[:_SHORT]}…"
    return name


def _controls(view: View, listing: Listing | None = None) -> dict[str, Any]:
    counts = Counter(item.state for item in listing.containers) if listing else None
    column, descending = view.column()
    headings = [
        Heading(
            name,
            name.capitalize(),
            order=("descending" if descending else "ascending") if name == column else "none",
            href=view.query(sort=f"-{name}" if view.sort == name else name),
        )
        for name in COLUMNS
    ]
    return {
        "view": view,
        "everything": View(states=frozenset()).query(),
        "choices": [
            Choice(state, state in view.states, counts[state] if counts is not None else None)
            for state in reversed(URGENCY)
        ],
        "headings": [*headings, Heading("", "Ports")],
    }


def _row(item: Container, as_of: datetime) -> Row:
    beneath = [item.id[:_SHORT]]
    if isinstance(item, PodContainer):
        beneath = [item.pod, *filter(None, [item.node])]
        if item.restarts:
            beneath.append(f"{item.restarts} restart{'s' if item.restarts > 1 else ''}")
    texts = ports(item.ports)
    return Row(
        id=item.id,
        name=item.name,
        beneath=tuple(beneath),
        state=item.state,
        status=_HEALTH_IN_STATUS.sub("", item.status),
        image=image(item.image),
        image_in_full=item.image,
        health=item.health,
        age=age((as_of - item.created).total_seconds()),
        created=item.created.astimezone(UTC),
        ports=tuple(texts[:MOST_PORTS]),
        more=max(0, len(texts) - MOST_PORTS),
    )


def _place(word: str | None, order: tuple[str, ...]) -> int:
    return next((place for place, each in enumerate(order) if each == word), len(order))
