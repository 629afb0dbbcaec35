"""The Docker socket has just come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .endpoint import within

if TYPE_CHECKING:
    from .endpoint import Endpoint

pytestmark = [pytest.mark.recovery, pytest.mark.source]


def test_list_and_readiness_recover_within_5_s(nginx: Endpoint) -> None:
    """Nobody has to restart anything: both are good again within 5 s, and stay so."""

    def both() -> None:
        assert nginx.ask("/readyz").status == 200
        assert nginx.ask("/api/v1/containers").status == 200

    within(5, both)
    for _ in range(5):
        both()
