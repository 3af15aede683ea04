"""How far a log has come: the lowest append time among the last records."""

from __future__ import annotations

import random

from stream_ft.replay.watermark import Watermark


def after(times: list[float], window: int, together: int = 1) -> Watermark:
    mark = Watermark()
    for start in range(0, len(times), together):
        batch = times[start : start + together]
        mark = mark.passed(min(batch), len(batch), window)
    return mark


def test_nothing_is_believed_before_a_window_is_full() -> None:
    assert after([5.0] * 9, 10).at == 0.0
    assert after([5.0] * 10, 10).at == 5.0


def test_it_follows_the_log_by_a_window_or_two() -> None:
    for count in range(20, 200):
        mark = after([float(number) for number in range(count)], 10)
        assert count - 20 <= mark.at < count - 9


def test_fewer_wrong_times_than_a_window_never_move_it_ahead() -> None:
    rng = random.Random(0)
    for _ in range(200):
        right = [float(number) for number in range(100)]
        start, length = rng.randrange(100), rng.randrange(1, 10)
        wrong = [*right[:start], *[1e9] * length, *right[start:]]
        assert after(wrong, 10).at < 100


def test_it_goes_back_with_the_clock() -> None:
    assert after([1e9] * 50 + [7.0], 10).at == 7.0
    assert after([1e9] * 50 + [7.0] * 20 + [8.0] * 20, 10).at == 8.0


def test_partitions_that_are_read_together_are_judged_together() -> None:
    side_by_side = [time for turn in range(10) for time in [float(turn)] * 500 + [float(turn + 1_000)] * 500]
    assert after(side_by_side, 100, together=1_000).at == 9.0
