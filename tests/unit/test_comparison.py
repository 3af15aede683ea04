"""The frozen copy takes little of the learner's time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stream_ft.wiring import comparison
from stream_ft.wiring.comparison import Comparison


def test_encoding_for_the_copy_has_its_share_of_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    core: Any = SimpleNamespace(
        engine=SimpleNamespace(dim=4), registry=None, store=SimpleNamespace(load=lambda name: None)
    )
    made = Comparison(core, after=10, clock=lambda: now[0])
    asked: list[float] = []

    def catch_up(limit: int) -> int:
        asked.append(now[0])
        now[0] += 0.1  # so long it takes
        return limit

    monkeypatch.setattr(made._frozen, "catch_up", catch_up)
    while now[0] < 100.0:
        made.catch_up(8)
        now[0] += 0.01
    assert 0.1 * len(asked) == pytest.approx(comparison.SHARE * 100.0, rel=0.1)
