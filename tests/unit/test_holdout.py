from __future__ import annotations

import pytest

from stream_ft.replay.holdout import drawn, held_out
from stream_ft.replay.neardup import digest


def test_the_share_is_kept() -> None:
    assert 400 <= sum(drawn(digest(f"text {n}"), 0.05) for n in range(10_000)) <= 600


def test_none_and_all() -> None:
    digests = [digest(str(n)) for n in range(100)] + [b"\x00" * 16, b"\xff" * 16]
    assert not any(drawn(d, 0.0) for d in digests)
    assert all(drawn(d, 1.0) for d in digests)


def test_a_larger_share_only_adds() -> None:
    small = {n for n in range(1_000) if drawn(digest(str(n)), 0.05)}
    large = {n for n in range(1_000) if drawn(digest(str(n)), 0.2)}
    assert small < large


@pytest.mark.parametrize(("trained", "expected"), [(0, False), (19, False), (20, True), (500, True)])
def test_the_first_examples_of_a_class_train(trained: int, expected: bool) -> None:
    assert held_out(b"\x00" * 16, share=0.05, trained_of_class=trained, after=20) is expected


@pytest.mark.parametrize(("sides", "expected"), [({True}, True), ({False}, False), ({True, False}, False)])
def test_near_duplicates_decide_before_the_hash(sides: set[bool], expected: bool) -> None:
    for share in (0.0, 1.0):
        assert held_out(b"\x01" * 16, share=share, trained_of_class=0, after=20, sides_of_near=sides) is expected
