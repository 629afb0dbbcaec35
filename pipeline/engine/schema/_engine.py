"""What every field's function is given, and the table of the fields that are served."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.errors import NotFound, NotServed
from pipeline.engine.core.identity import digest
from pipeline.engine.core.secret import Secret
from pipeline.engine.core.service import ContainerService, HostService, Port, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.engine.services import Services
    from pipeline.engine.solver import Solver
    from pipeline.engine.store import Store
    from pipeline.engine.vault import Vault

F = TypeVar("F", bound="Callable[..., Any]")

# (type, field) → the function that serves it. Its parameters after the engine and the value are
# the field's arguments in snake case; a test holds them against Dagger's.
SERVED: dict[tuple[str, str], Callable[..., Any]] = {}


def served(type_: str, field_: str) -> Callable[[F], F]:
    """Bind a function to a field."""

    def bind(function: F) -> F:
        SERVED[type_, field_] = function
        return function

    return bind


def refuse(field_: str, **arguments: object) -> None:
    """Refuse arguments that ask for something this engine does not do.

    Raises:
        NotServed: One of them is set.
    """
    for name, value in arguments.items():
        if value:
            camel = "".join(
                part.capitalize() if n else part for n, part in enumerate(name.split("_"))
            )
            what = f"{field_}({camel}: …)"
            raise NotServed(what)


@dataclass(frozen=True, slots=True)
class EnvVariable:
    """A name with its value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Label:
    """A name with its value."""

    name: str
    value: str


class Query:
    """The root."""


class Host:
    """The machine that the client runs on."""


_NAMES: dict[type, str] = {
    c.Container: "Container",
    c.CacheVolume: "CacheVolume",
    c.Socket: "Socket",
    d.Literal: "Directory",
    d.InContainer: "Directory",
    d.Sub: "Directory",
    d.Overlay: "Directory",
    d.Placed: "Directory",
    d.Removed: "Directory",
    d.LiteralFile: "File",
    d.FileIn: "File",
    Secret: "Secret",
    ContainerService: "Service",
    HostService: "Service",
    Tunnel: "Service",
    Port: "Port",
    EnvVariable: "EnvVariable",
    Label: "Label",
    Query: "Query",
    Host: "Host",
}


def type_name(value: object) -> str:
    """Return the GraphQL type of a value."""
    return _NAMES[type(value)]


@dataclass
class Engine:
    """One session, as the API's fields see it."""

    solver: Solver
    services: Services
    store: Store
    vault: Vault
    cwd: Path
    objects: dict[str, object] = field(default_factory=dict)

    def id(self, value: object) -> str:
        """Return the id of a value; it is known from then on."""
        match value:
            case Query() | Host():
                own = ""
            case Secret(name, uri, cache_key):
                # Two secrets may be equal to the cache and still be two.
                own = digest(name, uri, cache_key)
            case _:
                own = digest(value)
        id_ = f"{type_name(value)}:{own}"
        self.objects[id_] = value
        return id_

    def load(self, id_: str, type_: str = "") -> Any:
        """Return the value of an id.

        Raises:
            NotFound: The session does not know it, or it is of another type.
        """
        value = self.objects.get(id_)
        if value is None:
            msg = f"no object with the id {id_[:80]} in this session"
            raise NotFound(msg)
        if type_ and type_name(value) != type_:
            msg = f"the id is that of a {type_name(value)}, not of a {type_}"
            raise NotFound(msg)
        return value

    def path(self, text: str) -> Path:
        """Return a path of the host, made absolute from where the client runs."""
        return self.cwd / Path(text).expanduser()
