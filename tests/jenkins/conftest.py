"""What the tests of Groovy share: a Groovy, installed where it is missing and this user may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import groovy as programs

if TYPE_CHECKING:
    from .groovy import Groovy


@pytest.fixture(scope="session")
def groovy() -> Groovy:
    """Return the Groovy that Jenkins runs."""
    return programs.found_or_skipped()
