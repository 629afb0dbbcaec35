"""``/api/v1/containers``: the list of containers, one of them, and how they look in JSON."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations of the models
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field, RootModel
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002 - the same
from werkzeug.exceptions import Conflict, NotFound

from slipway_api import problem
from slipway_api.sources import Container, PodContainer, SourceError, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from slipway_api.sources.shared import Listing, Shared

PATH = "/api/v1/containers"

MOST = 500
"""The largest ``limit``."""

# An answer is what the source said within the last second; nobody gets a newer one sooner.
_FRESH = {"Cache-Control": "max-age=1"}

# The proxy in front serves an old list while it fetches a new one, and for a while when it cannot
# reach the API. It keeps the two last words for itself.
_CACHED = {"Cache-Control": "max-age=1, stale-while-revalidate=8, stale-if-error=8"}

# A failure takes the place of the old list there: nobody is to take it for the truth. It is a word
# for the proxy alone, as long as a failure is repeated here.
_FAILED = {"X-Accel-Expires": "1"}

Text = Annotated[str, Field(min_length=1)]


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]  # null, which no client can say


class _Described(BaseModel):
    """A model whose schema is made once: flask-openapi3 asks for one at each request."""

    @classmethod
    @cache
    def model_json_schema(  # type: ignore[override]  # a wrapper of the same function
        cls,
        *args: Any,  # noqa: ANN401 - pydantic's
        **kwargs: Any,  # noqa: ANN401 - the same
    ) -> dict[str, Any]:
        return super().model_json_schema(*args, **kwargs)


class ListQuery(_Described):
    """The parameters of the list."""

    state: tuple[Literal[State, "all"], ...] = Field(
        default=("running",),
        description="In one of these states; `all` stands for every state.",
    )
    name: tuple[Text, ...] = Field(
        default=(),
        description="The name contains one of these, in letters of either case.",
    )
    image: tuple[Text, ...] = Field(
        default=(),
        description="The image contains one of these, in letters of either case.",
    )
    label: tuple[Text, ...] = Field(
        default=(),
        description="Has all of these labels, each `key` or `key=value`, among those shown.",
    )
    limit: Annotated[int, Field(ge=1, le=MOST)] | SkipJsonSchema[None] = Field(
        default=None,
        description="At most so many containers, the first ones; all of them when not given.",
        json_schema_extra=_without_default,
    )


class ItemPath(BaseModel):
    """What names one container."""

    id: str = Field(description="Its full id, its name, or the beginning of its id alone.")


class ContainerList(_Described):
    """A list of containers."""

    containers: tuple[PodContainer | Container, ...] = Field(
        description="In the order of the source: Docker's newest first, pods by name."
    )
    total: int = Field(description="How many there are before `limit` is applied.")
    source: Literal["docker", "kubernetes"] = Field(description="Where the list comes from.")
    as_of: datetime = Field(description="When the source was asked for it, in UTC (RFC 3339).")


class Item(_Described, RootModel[PodContainer | Container]):
    """One container."""


def blueprint(source: Shared) -> APIBlueprint:
    """Serve the list and its items."""
    routes = APIBlueprint("containers", __name__, abp_tags=[Tag(name="containers")])
    kept: tuple[Listing, bytes] | None = None

    @routes.get(
        PATH,
        operation_id="listContainers",
        description=(
            "Each parameter but `limit` can be given several times. A container is listed when"
            " every parameter lets it through."
        ),
        responses={
            HTTPStatus.OK: ContainerList,
            **problem.responses(
                {
                    HTTPStatus.BAD_REQUEST: "A parameter has a value that it cannot have.",
                    HTTPStatus.SERVICE_UNAVAILABLE: "The source of the list does not answer.",
                }
            ),
        },
    )
    def containers(query: ListQuery) -> Response:
        """List containers: running ones, unless `state` says otherwise."""
        nonlocal kept
        try:
            listing = source.listing()
        except SourceError as error:
            return problem.from_source(error, _FAILED)
        if request.query_string:
            return _json(_render(source, listing, query), _CACHED)
        # Written once for each list of the source, since it is what nearly everybody asks for.
        if kept is None or kept[0] is not listing:
            kept = (listing, _render(source, listing, query))
        return _json(kept[1], _CACHED)

    @routes.get(
        f"{PATH}/<path:id>",
        operation_id="getContainer",
        description=("It is looked for by full id, then by name, then by the beginning of the id."),
        responses={
            HTTPStatus.OK: Item,
            **problem.responses(
                {
                    HTTPStatus.BAD_REQUEST: "The request is not valid.",
                    HTTPStatus.NOT_FOUND: "No container is meant.",
                    HTTPStatus.CONFLICT: "More than one container is meant.",
                    HTTPStatus.SERVICE_UNAVAILABLE: "The source of the list does not answer.",
                }
            ),
        },
    )
    def container(path: ItemPath) -> Response:
        """Get one container, in whatever state."""
        found = Item(only(source.listing().containers, path.id))
        return _json(found.model_dump_json().encode(), _FRESH)

    return routes


def _json(body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(body, mimetype="application/json", headers=headers)


def _render(source: Shared, listing: Listing, query: ListQuery) -> bytes:
    found = select(listing.containers, query)
    # What a source gives is not checked again; the tests do that.
    answer = ContainerList.model_construct(
        containers=tuple(found[: query.limit]),
        total=len(found),
        source=source.name,
        as_of=listing.as_of,
    )
    return answer.model_dump_json().encode()


def select(containers: Iterable[Container], query: ListQuery) -> list[Container]:
    """Return the containers that every parameter lets through, before the limit."""
    checks: list[Callable[[Container], bool]] = []
    if "all" not in query.state:
        states = frozenset(query.state)
        checks.append(lambda item: item.state in states)
    if query.name:
        names = [part.casefold() for part in query.name]
        checks.append(lambda item: _has_one(item.name, names))
    if query.image:
        images = [part.casefold() for part in query.image]
        checks.append(lambda item: _has_one(item.image, images))
    if query.label:
        labels = [part.partition("=") for part in query.label]
        checks.append(lambda item: _has_all(item.labels, labels))
    return [item for item in containers if all(check(item) for check in checks)]


def _has_one(text: str, parts: Iterable[str]) -> bool:
    folded = text.casefold()
    return any(part in folded for part in parts)


def _has_all(labels: Mapping[str, str], wanted: Iterable[tuple[str, str, str]]) -> bool:
    return all(
        key in labels and (not equals or labels[key] == value) for key, equals, value in wanted
    )


def only(containers: Sequence[Container], word: str) -> Container:
    """Return the container that a word means: by full id, then by name, then by prefix of the id.

    Raises:
        werkzeug.exceptions.NotFound: It means none.
        werkzeug.exceptions.Conflict: It means more than one.
    """
    ways: tuple[Callable[[Container], bool], ...] = (
        lambda item: item.id == word,
        lambda item: item.name == word,
        lambda item: item.id.startswith(word),
    )
    for meant in ways:
        found = [item for item in containers if meant(item)]
        if len(found) == 1:
            return found[0]
        if found:
            raise Conflict(f"{len(found)} containers are meant. Use more of the id.")
    raise NotFound("No container has this id or name, or an id that begins so.")
