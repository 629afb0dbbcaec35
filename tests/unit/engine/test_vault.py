"""Tests of the vault: values are found where their URI says, and masked from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.engine.core.errors import EngineError, NotFound, NotServed
from pipeline.engine.core.secret import Secret
from pipeline.engine.vault import Vault

if TYPE_CHECKING:
    from pathlib import Path


def looked_up(uri: str) -> bytes:
    """Return the value that a URI leads to."""
    return Vault().plaintext(Secret(uri, uri=uri))


def test_a_secret_is_found_by_its_name() -> None:
    """The value is what it was set to."""
    vault = Vault()
    secret = vault.put("s", "välue")
    assert vault.plaintext(secret) == "välue".encode()
    with pytest.raises(NotFound, match="other is not set in this session"):
        vault.plaintext(Secret("other"))


def test_a_value_that_was_replaced_is_still_masked() -> None:
    """A command that runs may have the earlier one."""
    vault = Vault()
    vault.put("s", "earlier")
    secret = vault.put("s", "later")
    assert vault.plaintext(secret) == b"later"
    assert vault.scrub(b"earlier later") == b"*** ***"


def test_a_name_that_looks_like_a_uri_is_another_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name and a URI never stand for each other."""
    monkeypatch.setenv("A", "from the environment")
    vault = Vault()
    named = vault.put("env://A", "by name")
    assert vault.plaintext(Secret("env://A", uri="env://A")) == b"from the environment"
    assert vault.plaintext(named) == b"by name"


def test_a_uri_is_looked_up_once_and_masked_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it held when it was first needed counts."""
    monkeypatch.setenv("A", "first")
    vault = Vault()
    secret = Secret("env://A", uri="env://A")
    assert vault.scrub(b"first") == b"first"
    assert vault.plaintext(secret) == b"first"
    monkeypatch.setenv("A", "second")
    assert vault.plaintext(secret) == b"first"
    assert vault.scrub(b"first") == b"***"


def test_an_empty_value_masks_nothing() -> None:
    """Otherwise every gap between two bytes would be masked."""
    vault = Vault()
    vault.put("s", "")
    vault.put("t", "\n")
    assert vault.scrub(b"a\nb") in {b"a\nb", b"a***b"}
    assert vault.scrub(b"ab") == b"ab"


def test_each_scheme_gives_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, a file, a command's output."""
    monkeypatch.setenv("A", "1")
    (tmp_path / "f").write_bytes(b"\xff2")
    assert looked_up("env://A") == b"1"
    assert looked_up(f"file://{tmp_path}/f") == b"\xff2"
    assert looked_up("cmd://printf 3; printf 4") == b"34"


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("env://SURELY_NOT_SET", NotFound, "SURELY_NOT_SET: the environment variable is not set"),
        ("file:///surely/nowhere", NotFound, "nowhere: No such file"),
        ("cmd://exit 3", EngineError, "the command failed"),
        ("vault://x", NotServed, "vault://"),
        ("nothing", EngineError, "is no secret URI"),
    ],
)
def test_a_source_that_gives_nothing_is_an_error_that_names_it(
    uri: str, error: type[EngineError], message: str
) -> None:
    """One sentence, and no value in it."""
    with pytest.raises(error, match=message):
        looked_up(uri)


def test_a_failed_command_is_not_told_with_its_arguments() -> None:
    """They may hold what opens the secret."""
    with pytest.raises(EngineError) as caught:
        looked_up("cmd://false --password hunter2")
    assert "hunter2" not in str(caught.value)
