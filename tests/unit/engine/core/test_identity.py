"""Tests of identities: stable, and different wherever two things are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.identity import digest
from pipeline.engine.core.secret import Secret
from pipeline.engine.core.service import ContainerService, Forward, HostService, Port, Tunnel
from pipeline.engine.core.tree import Entry, Tree

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_values_are_told_apart(one: object, other: object) -> None:
    """Equal digests mean equal values; text and number, true and one are different."""
    assert (digest(one) == digest(other)) == (repr(one) == repr(other) or same(one, other))


def same(one: object, other: object) -> bool:
    """Tell whether two plain values are equal and of the same types all through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_digest_does_not_change_from_one_release_to_the_next() -> None:
    """What is in the cache was found by these; a change needs another FORMAT."""
    assert digest("a", 1, None, [b"b"]) == (
        "4bc318953ceb351ee7e99e50338c815056e36f5c476ec9581b0ec7f58ff6aa87"
    )


class Colour(Enum):
    """An enumeration."""

    RED = "x"


class Taste(Enum):
    """Another one with the same value."""

    RED = "x"


@dataclass(frozen=True)
class One:
    """A value."""

    x: object


@dataclass(frozen=True)
class Other:
    """Another value with the same fields."""

    x: object


def test_the_class_is_part_of_a_value() -> None:
    """Two classes with equal fields have different digests, and so do two enumerations."""
    assert digest(One(1)) != digest(Other(1))
    assert digest(Colour.RED) != digest(Taste.RED)
    assert digest(b"x") != digest("x")
    assert digest(One(1), One(2)) != digest(One((1, 2)))


def test_what_has_no_identity_is_an_error() -> None:
    """A value that nobody thought of is never silently equal to another."""
    with pytest.raises(TypeError, match="no identity for object"):
        digest(object())


def test_names_of_files_that_are_no_text_have_an_identity() -> None:
    """File names on Linux are bytes."""
    assert digest(b"\xff".decode(errors="surrogateescape")) != digest("?")


def test_every_definition_differs_in_every_part() -> None:
    """Whatever is asked for otherwise is another definition."""
    a, b = d.Literal(Tree()), d.Literal(Tree.of([Entry("x", "dir", 0o755)]))
    box = c.Container("linux/amd64")
    start = c.Start(("x",))
    service = ContainerService(box, start)
    definitions = [
        a,
        b,
        d.Sub(a, "x"),
        d.Sub(a, "y"),
        d.Sub(b, "x"),
        d.Removed(a, "x"),
        d.Overlay(a, "x", b),
        d.Overlay(a, "x", b, d.Filter(include=("y",))),
        d.Overlay(a, "x", b, d.Filter(exclude=("y",))),
        d.Overlay(a, "x", b, d.Filter(gitignore=True)),
        d.Overlay(a, "x", b, owner="1"),
        d.Overlay(a, "x", b, permissions=1),
        d.InContainer(box, "/"),
        d.InContainer(box, "/", mounts=False),
        d.FileIn(a, "x"),
        box,
        c.Container("linux/arm64"),
        *(
            box.then(change)
            for change in (
                c.WithEnv("a", "b"),
                c.WithEnv("a", "b", expand=True),
                c.WithEnv("ab", ""),
                c.WithLabel("a", "b"),
                c.WithoutEnv("a"),
                c.WithUser("a"),
                c.WithWorkdir("a"),
                c.WithEntrypoint(("a",)),
                c.WithEntrypoint(("a",), keep_default_args=True),
                c.WithDefaultArgs(("a",)),
                c.WithPort(Port(1)),
                c.WithPort(Port(1, "UDP")),
                c.WithMount(c.Mount("/a", directory=a)),
                c.WithMount(c.Mount("/a", directory=a, read_only=True)),
                c.WithMount(c.Mount("/a", directory=a, owner="1")),
                c.WithMount(c.Mount("/a", temporary=True)),
                c.WithMount(c.Mount("/a", temporary=True, size=1)),
                c.WithMount(c.Mount("/a", cache=c.CacheVolume("k"))),
                c.WithMount(c.Mount("/a", cache=c.CacheVolume("l"))),
                c.WithMount(c.Mount("/a", secret=Secret("s"))),
                c.WithMount(c.Mount("/a", secret=Secret("s"), mode=0o444)),
                c.WithMount(c.Mount("/a", socket=c.Socket("/s"))),
                c.WithWrite(c.Write("/a", directory=a)),
                c.WithWrite(c.Write("/a", directory=a, permissions=1)),
                c.WithSecretEnv("a", Secret("s")),
                c.WithBinding("a", service),
                c.From("a"),
                c.From("a", service),
                c.Exec(start),
                c.Exec(start, stdin=""),
                c.Exec(start, stdin="a"),
                c.Exec(start, redirect_stdin="a"),
                c.Exec(start, redirect_stdout="a"),
                c.Exec(start, redirect_stderr="a"),
                c.Exec(start, expect=c.Expect.ANY),
                c.Exec(c.Start(("x",), use_entrypoint=True)),
                c.Exec(c.Start(("x",), privileged=True)),
                c.Exec(c.Start(("x",), expand=True)),
                c.Exec(c.Start(("x",), no_init=True)),
            )
        ),
        service,
        ContainerService(box, start, "alias"),
        HostService("localhost", (Forward(1),)),
        HostService("localhost", (Forward(1, 2),)),
        HostService("other", (Forward(1),)),
        Tunnel(service, ()),
        Tunnel(service, (), native=True),
    ]
    digests = [digest(definition) for definition in definitions]
    assert len(set(digests)) == len(digests)


def test_a_chain_of_a_thousand_changes_has_an_identity() -> None:
    """Each link covers the ones before it by one digest."""
    one, other = c.Container("p"), c.Container("p")
    for n in range(1000):
        one = one.then(c.WithEnv("n", str(n)))
        other = other.then(c.WithEnv("n", str(n)))
    assert one.digest == other.digest
    assert one.digest != other.then(c.WithUser("me")).digest


def test_a_secret_takes_part_by_its_name_or_the_key_it_was_given() -> None:
    """Never by its value, which no definition has."""
    assert digest(Secret("a")) != digest(Secret("b"))
    assert digest(Secret("env://A", uri="env://A", cache_key="k")) == digest(
        Secret("env://B", uri="env://B", cache_key="k")
    )
