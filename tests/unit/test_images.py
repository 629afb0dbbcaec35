"""Image references by the grammar of the distribution project."""

from __future__ import annotations

import pytest

from pipeline import images
from pipeline.errors import ExitCode, UsageError

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("python", "docker.io", "library/python", "", ""),
        ("python:3.13-slim", "docker.io", "library/python", "3.13-slim", ""),
        ("acme/web:1", "docker.io", "acme/web", "1", ""),
        ("docker.io/library/python:3", "docker.io", "library/python", "3", ""),
        ("127.0.0.1:5050/a/b/c:t", "127.0.0.1:5050", "a/b/c", "t", ""),
        ("localhost/x", "localhost", "x", "", ""),
        ("[::1]:5050/x:t", "[::1]:5050", "x", "t", ""),
        (
            "Registry.Example.com:443/a__b/c-d.e_f",
            "Registry.Example.com:443",
            "a__b/c-d.e_f",
            "",
            "",
        ),
        (f"r.example/x:t@{DIGEST}", "r.example", "x", "t", DIGEST),
        (f"r.example/x@{DIGEST}", "r.example", "x", "", DIGEST),
    ],
)
def test_reference_is_read_as_docker_reads_it(
    text: str, host: str, repository: str, tag: str, digest: str
) -> None:
    """Host, repository, tag and digest are told apart; Docker Hub's names are filled in."""
    assert images.parse(text) == images.Reference(host, repository, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER",
        "a//b",
        "a/",
        "/a",
        "a:",
        "a:-b",
        "r.example/",
        "r.example:99999/a",
        "r.example:0/a",
        "a@sha256:12",
        f"a@sha256:{'AB' * 32}",
        "a b",
        "[::g]:5/a",
        "[1.2.3.4]:5/a",
        "http://r.example/a",
        "r_x.example/a",
        "r.example/" + "a/" * 130 + "a",
        "a___b",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """The error names the text, and is one of usage."""
    with pytest.raises(UsageError) as caught:
        images.parse(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.remedy


def test_reference_round_trips() -> None:
    """What is written is read as the same."""
    reference = images.Reference("[::1]:5050", "a/b", "t").with_digest(DIGEST)
    assert str(reference) == f"[::1]:5050/a/b:t@{DIGEST}"
    assert images.parse(str(reference)) == reference
    assert reference.registry == images.Registry("::1", 5050)


def test_pinned_prefers_the_digest() -> None:
    """A registry is asked for the digest, else for the tag, else for ``latest``."""
    reference = images.parse("r.example/x")
    assert reference.pinned == "latest"
    assert images.parse("r.example/x:1").pinned == "1"
    assert images.parse(f"r.example/x:1@{DIGEST}").pinned == DIGEST


@pytest.mark.parametrize(
    ("text", "host", "port", "namespace"),
    [
        ("127.0.0.1:5050", "127.0.0.1", 5050, ""),
        ("registry.example.com", "registry.example.com", 0, ""),
        ("registry.example.com/team/web", "registry.example.com", 0, "team/web"),
        ("registry:5000/team", "registry", 5000, "team"),
        ("localhost", "localhost", 0, ""),
        ("[::1]:5050/x", "::1", 5050, "x"),
        ("docker.io/acme", "docker.io", 0, "acme"),
    ],
)
def test_registry_is_host_port_and_namespace(
    text: str, host: str, port: int, namespace: str
) -> None:
    """``HOST[:PORT][/NAMESPACE]`` is taken apart, and put together again as it was."""
    registry = images.parse_registry(text)
    assert registry == images.Registry(host, port, namespace)
    assert str(registry) == text


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("https://r.example", "Leave out https://"),
        ("http://127.0.0.1:5050", "Leave out http://"),
        ("registry", "docker.io/registry"),
        ("acme/team", "acme:5000"),
        ("r.example/", "Leave out the '/'"),
        ("r.example/Team", "lower-case"),
        ("r.example:70000", "1 to 65535"),
        ("r.example:123456789012345678901234567890", "1 to 65535"),
        ("", "HOST[:PORT]"),
        (":5050", "HOST[:PORT]"),
        ("a b", "HOST[:PORT]"),
        ("[:::]:1", "no IPv6 address"),
        ("-a.example", "HOST[:PORT]"),
    ],
)
def test_what_is_no_registry_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    """The remedy says what is wrong with just this text."""
    with pytest.raises(UsageError) as caught:
        images.parse_registry(text)
    assert remedy in caught.value.remedy
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("LocalHost", True),
        ("::1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("::2", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback_is_told_by_the_address(host: str, *, inside: bool) -> None:
    """Only this machine's own interface is spoken to without TLS."""
    assert images.is_loopback(host) is inside
    registry = images.Registry(host)
    assert registry.plain_http is inside
    assert registry.effective_port == (80 if inside else 443)


def test_docker_hub_is_served_from_another_host() -> None:
    """The name in references is not the host of the API."""
    assert images.parse_registry("docker.io/x").endpoint == ("registry-1.docker.io", 443)
    assert images.parse_registry("[::1]:5050").endpoint == ("::1", 5050)


def test_registry_makes_references() -> None:
    """The namespace goes in front of the repository."""
    assert str(images.parse_registry("r:1/n").reference("x", "t")) == "r:1/n/x:t"
    assert str(images.parse_registry("r:1").reference("x", "t")) == "r:1/x:t"


@pytest.mark.parametrize("tag", ["a", "_", "1.2.3", "v1-dirty", "A.b_c-d", "a" * 128])
def test_valid_tag_is_returned(tag: str) -> None:
    """Letters, digits, ``_``, ``.`` and ``-``, up to 128 of them."""
    assert images.validate_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a b", "a/b", "a:b", "ä", "a" * 129, "a\n"])
def test_invalid_tag_is_refused_with_the_rule(tag: str) -> None:
    """The remedy is the rule."""
    with pytest.raises(UsageError) as caught:
        images.validate_tag(tag)
    assert "128 characters" in caught.value.remedy
    assert len(caught.value.message) < 80


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("v1.2.3-4-gabc-dirty", "v1.2.3-4-gabc-dirty"),
        ("release/1.0+build", "release-1.0-build"),
        ("-.x", "x"),
        ("a" * 200, "a" * 128),
        ("///", "untagged"),
    ],
)
def test_any_text_becomes_a_valid_tag(text: str, tag: str) -> None:
    """What git calls a revision may have signs that a tag may not."""
    assert images.as_tag(text) == tag
    assert images.validate_tag(images.as_tag(text))


def test_digest_is_checked() -> None:
    """A digest is not taken on trust."""
    assert images.validate_digest(DIGEST) == DIGEST
    with pytest.raises(UsageError):
        images.Reference("r.example", "x").with_digest("sha256:nope")
