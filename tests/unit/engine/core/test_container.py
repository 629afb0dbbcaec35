"""Tests of changes: what each leaves in a state."""

from __future__ import annotations

import pytest

from pipeline.engine.core import container as c
from pipeline.engine.core import directory as d
from pipeline.engine.core.errors import EngineError, NotFound
from pipeline.engine.core.secret import Secret, scrub
from pipeline.engine.core.service import Forward, HostService, Port
from pipeline.engine.core.tree import Tree

EMPTY = c.State("linux/amd64", origin="image")


def after(*changes: c.Change, state: c.State = EMPTY) -> c.State:
    """Return what changes lead to."""
    for change in changes:
        state = change.apply(state)
    return state


def test_every_configuration_change_makes_another_image() -> None:
    """The state is no longer equal to the image that it came from."""
    changes: list[c.Change] = [
        c.WithEnv("A", "1"),
        c.WithoutEnv("A"),
        c.WithWorkdir("/w"),
        c.WithUser("me"),
        c.WithEntrypoint(("e",)),
        c.WithDefaultArgs(("a",)),
        c.WithLabel("l", "1"),
        c.WithPort(Port(1)),
        c.WithWrite(c.Write("/x", directory=d.Literal(Tree()))),
    ]
    assert [after(change).origin for change in changes] == [""] * len(changes)


def test_what_is_no_part_of_the_image_leaves_it_as_it_is() -> None:
    """Mounts, secrets, bindings and credentials make no other image."""
    changes: list[c.Change] = [
        c.WithMount(c.Mount("/m", temporary=True)),
        c.WithoutMount("/m"),
        c.WithSecretEnv("S", Secret("s")),
        c.WithBinding("a", HostService("h", (Forward(1),))),
        c.WithAuth(c.Auth("r", "u", Secret("s"))),
    ]
    assert [after(change).origin for change in changes] == ["image"] * len(changes)


def test_the_later_value_counts() -> None:
    """Setting something again replaces it, and keeps its place."""
    state = after(c.WithEnv("A", "1"), c.WithEnv("B", "2"), c.WithEnv("A", "3"))
    assert state.config.env == (("A", "3"), ("B", "2"))
    state = after(c.WithPort(Port(1)), c.WithPort(Port(1, "UDP")), c.WithPort(Port(1, "TCP", "x")))
    assert state.config.ports == (Port(1, "UDP"), Port(1, "TCP", "x"))
    one, two = (HostService("h", (Forward(n),)) for n in (1, 2))
    assert after(c.WithBinding("a", one), c.WithBinding("a", two)).bindings == (("a", two),)
    auths = [c.WithAuth(c.Auth("r", user, Secret("s"))) for user in ("x", "y")]
    found = after(*auths).auth("r")
    assert found is not None
    assert found.username == "y"
    assert after(*auths).auth("other") is None


def test_a_plain_variable_and_a_secret_one_replace_each_other() -> None:
    """Whichever was set later counts."""
    secret = c.WithSecretEnv("A", Secret("s"))
    assert after(secret, c.WithEnv("A", "1")).secret_env == ()
    assert after(c.WithEnv("A", "1"), secret).secret_env == (("A", Secret("s")),)


def test_expansion_is_by_the_environment_and_only_when_asked_for() -> None:
    """``$NAME`` and ``${NAME}``; what is not set is empty."""
    env = c.WithEnv("A", "x")
    assert after(env, c.WithEnv("B", "${A}/$A/$C.", expand=True)).config.variable("B") == "x/x/."
    assert after(env, c.WithEnv("B", "$A")).config.variable("B") == "$A"
    assert after(env, c.WithWorkdir("/$A", expand=True)).config.workdir == "/x"
    mount = c.Mount("$A", temporary=True)
    assert after(env, c.WithMount(mount, expand=True)).mounts[0].path == "/x"
    mounted = after(env, c.WithMount(mount, expand=True))
    assert after(c.WithoutMount("/${A}", expand=True), state=mounted).mounts == ()


def test_paths_start_from_the_working_directory() -> None:
    """Relative ones do; absolute ones do not."""
    state = after(c.WithWorkdir("/w"), c.WithWorkdir("x"))
    assert state.config.workdir == "/w/x"
    assert state.config.path("y") == "/w/x/y"
    assert state.config.path("/y") == "/y"
    assert after(c.WithMount(c.Mount("m", temporary=True)), state=state).mounts[0].path == "/w/x/m"


def test_an_entrypoint_drops_the_default_arguments_unless_they_are_kept() -> None:
    """Both belong together."""
    args = c.WithDefaultArgs(("a",))
    assert after(args, c.WithEntrypoint(("e",))).config.args == ()
    assert after(args, c.WithEntrypoint(("e",), keep_default_args=True)).config.args == ("a",)


def test_the_innermost_mount_is_the_one_that_counts() -> None:
    """A path leads into the deepest mount that holds it."""
    outer, inner = (c.WithMount(c.Mount(path, temporary=True)) for path in ("/m", "/m/n"))
    state = after(outer, inner)
    for path, mount in (("/m/n/x", "/m/n"), ("/m/nx", "/m"), ("/m", "/m")):
        found = c.mount_at(state, path)
        assert found is not None
        assert found.path == mount
    assert c.mount_at(state, "/other") is None
    assert after(c.WithoutMount("/m"), state=state).mounts == ()
    assert len(after(c.WithoutMount("/m/n"), state=state).mounts) == 1


def test_writing_into_a_mount_is_refused() -> None:
    """It would be no part of the image, and Docker would put it under the mount."""
    state = after(c.WithMount(c.Mount("/m", temporary=True)))
    with pytest.raises(EngineError, match="/m/x lies in the mount at /m"):
        after(c.WithWrite(c.Write("/m/x")), state=state)


def test_the_command_is_arguments_or_defaults_after_the_entrypoint_when_asked() -> None:
    """As an OCI image is run."""
    config = c.Config(entrypoint=("e",), args=("a",), env=(("V", "v"),))
    assert c.Start(("x",)).command(config) == ("x",)
    assert c.Start(()).command(config) == ("a",)
    assert c.Start(None, use_entrypoint=True).command(config) == ("e", "a")
    assert c.Start(("$V",), expand=True).command(config) == ("v",)
    with pytest.raises(EngineError, match="no command"):
        c.Start().command(c.Config())


PASSWD = "root:x:0:0::/:\napp:x:10:20::/:\nbroken\n"
GROUP = "staff:x:50:\nbroken\n"


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("1", (1, 1)),
        ("1:2", (1, 2)),
        ("app", (10, 20)),
        ("app:staff", (10, 50)),
        ("app:7", (10, 7)),
        ("7:staff", (7, 50)),
    ],
)
def test_owners_are_numbers_or_names_of_the_container(
    owner: str, expected: tuple[int, int]
) -> None:
    """Without a group it is the user's own."""
    assert c.numeric_owner(owner, PASSWD, GROUP) == expected


@pytest.mark.parametrize("owner", ["nobody", "app:nobody", ":staff", "broken"])
def test_an_unknown_owner_is_named(owner: str) -> None:
    """The message says which name is in which file not."""
    with pytest.raises(NotFound, match=r"no (user|group) \w* in the container's"):
        c.numeric_owner(owner, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("address", "registry"),
    [
        ("x/y:1", "docker.io"),
        ("alpine", "docker.io"),
        ("localhost/x", "localhost"),
        ("h:1/x", "h:1"),
        ("a.b/x@sha256:0", "a.b"),
    ],
)
def test_the_registry_of_an_address_is_read_as_docker_reads_it(address: str, registry: str) -> None:
    """The first part is a host when it looks like one."""
    assert c.registry_of(address) == registry


def test_all_forms_of_a_secret_are_scrubbed_the_longest_first() -> None:
    """A value within another leaves nothing of the longer one, and no line end hides one."""
    assert scrub(b"abc ab xyz", (b"ab", b"abc", b"xyz\n", b"")) == b"*** *** ***"
