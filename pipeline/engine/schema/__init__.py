"""The API: Dagger's types, with the fields that this engine serves bound to definitions.

``dagger.json`` is what a real engine answers to introspection. The types are made from it, so
that names, types and nullability are Dagger's by construction. A field that no module here
serves is there all the same, and refuses by its name: the SDK can then say so, where an unknown
field would only make it fail to build the query.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

import graphql

from pipeline.engine.core.errors import NotServed

from ._engine import SERVED, Engine, type_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SERVED", "Engine", "build", "load_types"]

_MODULES = ("query", "host", "container", "directory", "file", "secret", "service", "values")
_BUILT_IN = {
    "String": graphql.GraphQLString,
    "Int": graphql.GraphQLInt,
    "Float": graphql.GraphQLFloat,
    "Boolean": graphql.GraphQLBoolean,
    "ID": graphql.GraphQLID,
}


def load_types() -> dict[str, Any]:
    """Return what a real engine answers to introspection."""
    text = resources.files(__package__).joinpath("dagger.json").read_text()
    types: dict[str, Any] = json.loads(text)
    return types


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _resolver(type_: str, field: str) -> Callable[..., Any]:
    handler = SERVED.get((type_, field))

    def resolve(value: Any, info: graphql.GraphQLResolveInfo[Engine], /, **args: Any) -> Any:
        if handler is None:
            name = f"{type_}.{field}"
            raise NotServed(name)
        given = {name: arg for name, arg in args.items() if arg is not None}
        return handler(info.context, value, **given)

    return resolve


class _Types:
    """Makes each type once, when something names it."""

    def __init__(self) -> None:
        self._rows = load_types()
        self._made: dict[str, Any] = dict(_BUILT_IN)

    def named(self, name: str) -> Any:
        """Return the type of a name."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def of(self, text: str) -> Any:
        """Return the type that is written as in GraphQL, as ``[String!]!``."""
        if text.endswith("!"):
            return graphql.GraphQLNonNull(self.of(text[:-1]))
        if text.startswith("["):
            return graphql.GraphQLList(self.of(text[1:-1]))
        return self.named(text)

    def _make(self, name: str) -> Any:
        rows = self._rows
        if name in rows["enums"]:
            return graphql.GraphQLEnumType(name, {value: value for value in rows["enums"][name]})
        if name in rows["inputs"]:
            fields = rows["inputs"][name]
            return graphql.GraphQLInputObjectType(
                name,
                lambda: {f: graphql.GraphQLInputField(self.of(t)) for f, t in fields.items()},
            )
        if name in rows["interfaces"]:
            return graphql.GraphQLInterfaceType(
                name,
                lambda: {
                    f: graphql.GraphQLField(
                        self.of(t),
                        # Exportable.export is the one field of an interface with an argument.
                        args={"path": graphql.GraphQLArgument(self.of("String!"))}
                        if f == "export"
                        else None,
                    )
                    for f, t in rows["interfaces"][name].items()
                },
                resolve_type=lambda value, _info, _type: type_name(value),
            )
        if name in rows["types"]:
            return self._object(name, rows["types"][name])
        if name in rows["scalars"]:
            return graphql.GraphQLScalarType(name)
        # An object that only fields lead to which are not served: it has what each object has.
        return self._object(name, {"interfaces": ["Node"], "fields": {"id": {"type": "ID!"}}})

    def _object(self, name: str, row: dict[str, Any]) -> graphql.GraphQLObjectType:
        def fields() -> dict[str, graphql.GraphQLField]:
            return {
                field: graphql.GraphQLField(
                    self.of(spec["type"]),
                    args={
                        arg: graphql.GraphQLArgument(self.of(type_), out_name=_snake(arg))
                        for arg, type_ in spec.get("args", {}).items()
                    },
                    resolve=_resolver(name, field),
                )
                for field, spec in row["fields"].items()
            }

        return graphql.GraphQLObjectType(
            name,
            fields,
            interfaces=lambda: [self.named(i) for i in row["interfaces"]],
            is_type_of=None,
        )


@cache
def build() -> graphql.GraphQLSchema:
    """Return the schema; made once a process."""
    for module in _MODULES:
        import_module(f"{__package__}.{module}")
    types = _Types()
    every = [types.named(name) for name in load_types()["types"]]
    return graphql.GraphQLSchema(query=types.named("Query"), types=every, assume_valid=True)
