"""The guard of the fast tier: a sign test that a person can check."""

from __future__ import annotations

import pytest

from stream_ft.learn.fast import guard


def pairs(*, better: int = 0, worse: int = 0, same: int = 0) -> list[tuple[bool, bool]]:
    return [(True, True)] * same + [(True, False)] * better + [(False, True)] * worse


@pytest.mark.parametrize(
    ("seen", "accepted"),
    [
        (pairs(), True),
        (pairs(same=500), True),
        (pairs(better=300), True),
        (pairs(worse=19), True),  # too few to tell
        (pairs(worse=20), False),  # z = 4.47
        (pairs(worse=24, better=6), True),  # z = 3.3
        (pairs(worse=30, better=6), True),  # z = 4.0 is not beyond the limit
        (pairs(worse=31, better=6), False),
        (pairs(worse=100) + pairs(same=guard.WINDOW), True),  # long ago
    ],
)
def test_refused_only_when_it_is_surely_worse_than_its_checkpoint(
    seen: list[tuple[bool, bool]], accepted: bool
) -> None:
    verdict = guard.judge(seen)
    assert verdict.accepted is accepted
    assert bool(verdict.reason) is not accepted


def test_it_says_the_numbers() -> None:
    verdict = guard.judge(pairs(worse=40, better=2, same=100))
    assert (verdict.better, verdict.worse) == (2, 40)
    assert verdict.reason == (
        "Of the last 142 events of a source the fast tier got 40 wrong that its checkpoint gets right,"
        " and 2 the other way."
    )


def test_one_source_that_does_worse_is_enough_however_many_events_another_has() -> None:
    verdict = guard.judge_each({"import": pairs(better=480), "desk": pairs(worse=25, same=10)})
    assert (verdict.accepted, verdict.worse) == (False, 25)
    assert not guard.judge(pairs(better=480) + pairs(worse=25)).reason, "all in one they would have been outvoted"
    calm = guard.judge_each({"import": pairs(better=3, worse=2), "desk": pairs(worse=10, same=10)})
    assert (calm.accepted, calm.better, calm.worse) == (True, 3, 12)
    assert guard.judge_each({}).accepted


@pytest.mark.parametrize(
    ("right", "chosen"), [([90], 0), ([60, 90], 1), ([88, 90], 0), ([87, 90, 90], 1), ([60, 61, 80, 90, 91], 3)]
)
def test_it_goes_back_to_the_newest_checkpoint_that_is_as_good_as_any(right: list[int], chosen: int) -> None:
    assert guard.best(right) == chosen


def test_it_says_whose_events_speak_against_the_tier() -> None:
    verdict = guard.judge_each({"import": [(True, False)] * 300, "desk": [(False, True)] * 40})
    assert (verdict.accepted, verdict.source) == (False, "desk")
