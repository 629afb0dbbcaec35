"""Tests of fields whose meaning is no argument's: what they answer, and what they refuse."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pipeline.engine import __version__
from pipeline.engine.core import container as c
from pipeline.engine.schema import SERVED, build, load_types

from .fake_backend import PLATFORM

if TYPE_CHECKING:
    from .bench import Bench

pytestmark = pytest.mark.anyio


def test_every_served_field_is_one_of_a_real_engine() -> None:
    """Nothing is bound to a field that Dagger does not have."""
    build()
    types = load_types()["types"]
    assert all(field in types[type_]["fields"] for type_, field in SERVED)


async def test_every_field_that_is_not_served_is_refused_by_its_name(bench: Bench) -> None:
    """However it is reached, with the advice to use Dagger."""
    build()
    types = load_types()["types"]
    reached = {
        "Query": "{%s}",
        "Host": "{host{%s}}",
        "Container": "{container{%s}}",
        "Directory": "{directory{%s}}",
        "File": '{file(name:"f",contents:""){%s}}',
        "Service": '{container{asService(args:["x"]){%s}}}',
    }
    literals = {
        "String!": '"x"', "ID!": '"x"', "[String!]!": "[]", "[ID!]!": "[]", "Int!": "1",
    }  # fmt: skip
    tried = 0
    for type_, query in reached.items():
        for field, spec in types[type_]["fields"].items():
            if (type_, field) in SERVED:
                continue
            required = {
                name: literals.get(kind, '"x"')
                for name, kind in (spec.get("args") or {}).items()
                if kind.endswith("!")
            }
            given = ",".join(f"{name}:{value}" for name, value in required.items())
            named = spec["type"].strip("[]!")
            leaf = named in {*load_types()["scalars"], *load_types()["enums"]}
            call = f"{field}({given})" if given else field
            message = await bench.refusal(query % (call if leaf else call + "{__typename}"))
            assert message == (
                f"{type_}.{field} is not served by the embedded engine; "
                "use Dagger for this (--engine dagger)"
            )
            tried += 1
    assert tried > 100


async def test_the_root_names_the_engine(bench: Bench) -> None:
    """Its own version, and this machine's platform."""
    assert await bench.query("{version defaultPlatform}") == {
        "version": f"v{__version__}",
        "defaultPlatform": PLATFORM,
    }


async def test_reading_the_host_fails_with_the_path_and_the_reason(bench: Bench) -> None:
    """As the system says it."""
    message = await bench.refusal('{host{file(path:"nowhere"){contents}}}')
    assert message.endswith("nowhere: No such file or directory")
    message = await bench.refusal('{host{directory(path:"nowhere"){entries}}}')
    assert message.endswith("nowhere: no such directory on the host")
    folder = bench.engine.cwd / "f"
    folder.mkdir()
    (folder / "x").symlink_to("y" * 200)
    assert await bench.query('{host{directory(path:"f"){entries}}}') == {
        "host": {"directory": {"entries": ["x"]}}
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_folder_that_may_not_be_read_is_named(bench: Bench) -> None:
    """The folder within is in the message."""
    hidden = bench.engine.cwd / "f" / "hidden"
    hidden.mkdir(parents=True)
    hidden.chmod(0)
    try:
        message = await bench.refusal('{host{directory(path:"f"){entries}}}')
    finally:
        hidden.chmod(0o700)
    assert message.endswith("hidden: Permission denied")


async def test_digest_and_sync_of_folders_and_files(bench: Bench) -> None:
    """A digest tells contents apart; sync answers with an id that leads back."""
    data = await bench.query(
        '{a:directory{withNewFile(path:"x",contents:"1"){digest sync}}'
        ' b:directory{withNewFile(path:"x",contents:"2"){digest}}'
        ' f:file(name:"f",contents:"1"){sync digest}}'
    )
    one, other = (data[name]["withNewFile"]["digest"] for name in "ab")
    assert one.startswith("sha256:")
    assert one != other
    for id_, query in (
        (data["a"]["withNewFile"]["sync"], "... on Directory{entries}"),
        (data["f"]["sync"], "... on File{contents}"),
    ):
        assert await bench.query(f'{{node(id:"{id_}"){{{query}}}}}')


async def test_sync_of_what_is_not_there_fails(bench: Bench) -> None:
    """It forces the evaluation."""
    assert "no such file" in await bench.refusal('{directory{file(path:"x"){sync}}}')
    assert "no such file" in await bench.refusal('{directory{directory(path:"x"){sync}}}')


async def test_outputs_need_a_command(bench: Bench) -> None:
    """As on Dagger, without one they are an error."""
    for field in ("stdout", "stderr", "exitCode"):
        message = await bench.refusal(f"{{container{{{field}}}}}")
        assert message == "no command has been run in this container"


async def test_a_container_tells_its_configuration(bench: Bench) -> None:
    """What the image says, and what was changed."""
    id_ = bench.engine.id(bench.image().then(c.WithLabel("l", "1")))
    fields = "envVariables{name value} defaultArgs labels{name value} platform user workdir"
    data = await bench.query(f'{{node(id:"{id_}"){{... on Container{{{fields}}}}}}}')
    assert data["node"] == {
        "envVariables": [{"name": "PATH", "value": "/bin"}],
        "defaultArgs": ["default"],
        "labels": [{"name": "l", "value": "1"}],
        "platform": PLATFORM,
        "user": "",
        "workdir": "",
    }


async def test_a_secret_uri_needs_a_scheme(bench: Bench) -> None:
    """The message says which there are."""
    assert "env://NAME" in await bench.refusal('{secret(uri:"NAME"){id}}')
    data = await bench.query('{secret(uri:"env://NAME"){name uri}}')
    assert data["secret"] == {"name": "env://NAME", "uri": "env://NAME"}


async def test_services_tell_their_ports_and_names(bench: Bench) -> None:
    """A host's are those that clients connect to; only a container's can be named."""
    data = await bench.query(
        "{host{service(ports:[{backend:1,frontend:2},{backend:3}]){ports{port protocol} hostname}}}"
    )
    service = data["host"]["service"]
    assert [p["port"] for p in service["ports"]] == [2, 3]
    assert len(service["hostname"]) == 16
    message = await bench.refusal(
        '{host{service(ports:[{backend:1}]){withHostname(hostname:"x"){id}}}}'
    )
    assert "only a container's service" in message
    message = await bench.refusal('{container{asService(args:["x"]){endpoint}}}')
    assert "exposes no port" in message


async def test_an_endpoint_is_an_address_or_a_url(bench: Bench) -> None:
    """By the service's name, which bound containers resolve."""
    data = await bench.query(
        '{container{withExposedPort(port:80){asService(args:["x"])'
        '{withHostname(hostname:"web"){endpoint url:endpoint(scheme:"http")}}}}}'
    )
    found = data["container"]["withExposedPort"]["asService"]["withHostname"]
    assert found == {"endpoint": "web:80", "url": "http://web:80"}


async def test_a_chain_that_only_passes_a_folder_on_reads_nothing(bench: Bench) -> None:
    """A folder of a container that would fail is no failure until somebody looks into it."""
    failing = bench.image().then(c.Exec(c.Start(("fail", "1"))))
    directory = bench.engine.id(bench.folder({"a": ""}))
    data = await bench.query(
        f'{{container{{withDirectory(path:"/x",source:"{directory}",include:["a"]){{id}}}}}}'
    )
    assert data["container"]["withDirectory"]["id"]
    id_ = bench.engine.id(failing)
    rootfs = (await bench.query(f'{{node(id:"{id_}"){{... on Container{{rootfs{{id}}}}}}}}'))[
        "node"
    ]
    source = rootfs["rootfs"]["id"]
    for extra in ("", ',include:["a"]', ",gitignore:true"):
        await bench.query(
            f'{{container{{withDirectory(path:"/x",source:"{source}"{extra}){{id}}}}}}'
        )
    assert bench.backend.runs == []


async def test_credentials_belong_to_the_registry_of_an_address(bench: Bench) -> None:
    """Given as for a push, or as the registry alone."""
    bench.vault.put("p", "sesame")
    secret = (await bench.query('{setSecret(name:"p",plaintext:"sesame"){id}}'))["setSecret"]["id"]
    for address, registry in (
        ("alice/app:1", "docker.io"),
        ("docker.io/alice/app", "docker.io"),
        ("https://h.example/v2/", "h.example"),
        ("127.0.0.1:5050", "127.0.0.1:5050"),
    ):
        data = await bench.query(
            f'{{container{{withRegistryAuth(address:"{address}",username:"me",'
            f'secret:"{secret}"){{id}}}}}}'
        )
        made = bench.engine.load(data["container"]["withRegistryAuth"]["id"])
        assert (await bench.solver.state(made)).auth(registry) is not None
