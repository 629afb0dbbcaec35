"""The CA bundle for downloads within builds."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import certifi
import pytest

from pipeline import trust
from pipeline.errors import PrerequisiteError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

PUBLIC = trust._CERTIFICATE.findall(certifi.contents())  # noqa: SLF001 - what a bundle is made of
FEW = "".join(f"{certificate}\n" for certificate in PUBLIC[:3])


class Ask:
    """Answers whether a certificate is trusted, and counts how often it was asked."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self, _ca: Path | None) -> str | None:
        """Answer."""
        self.asked += 1
        return self.answer


def test_bundle_is_read_without_comments(tmp_path: Path) -> None:
    """Only certificates are handed over."""
    path = tmp_path / "ca.pem"
    path.write_text(f"# a comment\n{FEW}", encoding="utf-8")
    assert trust.read(path) == FEW


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----"])
def test_bundle_without_a_certificate_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is an error of usage that names the file."""
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"ca\.pem"):
        trust.read(path)
    with pytest.raises(UsageError, match="cannot be read"):
        trust.read(tmp_path)


def test_small_bundle_is_handed_over_whole() -> None:
    """Nothing is chosen where there is room for all."""
    assert trust.fitting(FEW) == FEW


def test_large_bundle_keeps_what_is_not_everybody_s() -> None:
    """The private CA is the reason to hand a bundle over; public ones come where there is room."""
    bundle = "".join(f"{certificate}\n" for certificate in PUBLIC)
    private = PUBLIC[-1]
    public = "".join(f"{certificate}\n" for certificate in PUBLIC[:-1])
    for limit in (len(private) + 1, 50_000):
        kept = trust.fitting(bundle, limit, public)
        assert private in kept
        assert len(kept.encode()) <= limit
    assert kept.count("BEGIN") > 20


def test_large_bundle_prefers_those_who_serve_packages() -> None:
    """Of the public ones, those of the networks that registries are on go first."""
    bundle = "".join(f"{certificate}\n" for certificate in PUBLIC)
    kept = trust.fitting(bundle, trust.SECRET_LIMIT)
    assert len(kept.encode()) <= trust.SECRET_LIMIT
    lets_encrypt = "ISRG Root X1"
    (wanted,) = [
        text for text in certifi.contents().split("\n\n") if f'Label: "{lets_encrypt}"' in text
    ]
    assert trust._CERTIFICATE.findall(wanted)[0] in kept  # noqa: SLF001 - as above


def test_trusted_connection_is_remembered(tmp_path: Path) -> None:
    """It is asked once a day, and again when the bundle changes."""
    ca = tmp_path / "ca.pem"
    ca.write_text(FEW, encoding="utf-8")
    ask = Ask("")
    for _ in range(2):
        trust.check(ca, tmp_path, ask)
    assert ask.asked == 1
    ca.write_text(f"{FEW}\n", encoding="utf-8")
    trust.check(ca, tmp_path, ask)
    trust.check(None, tmp_path, ask)
    assert ask.asked == 3


def test_unreachable_network_is_no_error_and_asked_again_sooner(tmp_path: Path) -> None:
    """Builds will say what they cannot get; a proxy may carry them."""
    ask = Ask(None)
    trust.check(None, tmp_path, ask)
    trust.check(None, tmp_path, ask)
    assert ask.asked == 1
    file = tmp_path / "trust.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    assert known["for"] == trust.UNREACHABLE_FOR
    file.write_text(json.dumps({**known, "at": time.time() - 3600}), encoding="utf-8")
    trust.check(None, tmp_path, ask)
    assert ask.asked == 2


def test_answer_that_cannot_be_remembered_stops_nothing(tmp_path: Path) -> None:
    """The next run asks again, which costs it a moment and no more."""
    (tmp_path / "file").touch()
    ask = Ask("")
    trust.check(None, tmp_path / "file", ask)
    trust.check(None, tmp_path / "file", ask)
    assert ask.asked == 2


@pytest.mark.parametrize("known", [True, False])
def test_intercepted_connection_is_found_before_the_first_step(
    tmp_path: Path, *, known: bool
) -> None:
    """The remedy names the setting; it is asked each time, until it is right."""
    ca = tmp_path / "ca.pem" if known else None
    if ca:
        ca.write_text(FEW, encoding="utf-8")
    ask = Ask("self-signed certificate in certificate chain")
    for _ in range(2):
        with pytest.raises(PrerequisiteError, match="is intercepted") as caught:
            trust.check(ca, tmp_path, ask)
        assert "--ca" in caught.value.remedy
    assert ask.asked == 2
    assert ("ca.pem" in caught.value.message) is known


@pytest.mark.parametrize("memory", ["{", "[]", '{"mark": ""}', '{"mark": "", "at": "x", "for": 1}'])
def test_damaged_memory_is_no_error(tmp_path: Path, memory: str) -> None:
    """It is asked again."""
    (tmp_path / "trust.json").write_text(memory, encoding="utf-8")
    ask = Ask("")
    trust.check(None, tmp_path, ask)
    assert ask.asked == 1


def test_host_that_does_not_answer_is_no_verdict() -> None:
    """None: nobody can tell."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert trust.untrusted(None, "127.0.0.1", taken.getsockname()[1]) is None


@pytest.mark.network
def test_certificate_of_the_package_index_is_judged(tmp_path: Path) -> None:
    """A bundle that did not sign it is told apart from none at all; needs the network."""
    own = tmp_path / "own.pem"
    own.write_text(PUBLIC[0], encoding="utf-8")
    assert trust.untrusted(own) != ""
