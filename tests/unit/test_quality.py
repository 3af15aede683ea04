"""What the learner shows of its answers and of its reading."""

from __future__ import annotations

import pytest

from stream_ft.events import Example, LabelCorrection
from stream_ft.metrics import LearnMetrics, new_registry
from stream_ft.ports import Record
from stream_ft.replay.store import Applied, Scored
from stream_ft.testing import ManualClock
from stream_ft.wiring.consumption import Consumption
from stream_ft.wiring.quality import CLASS_SUPPORT, LEAST, Quality


@pytest.fixture
def series() -> LearnMetrics:
    return LearnMetrics(new_registry())


def value(series: LearnMetrics, name: str, **labels: str) -> float | None:
    return series.registry.get_sample_value(f"stream_ft_{name}", labels)


def scored(version: str, correct: bool, *, covers: bool = True, label: str = "a") -> Scored:
    return Scored(version=version, correct=correct, covers=covers, label=label, output="a" if correct else "b")


def example(seq: int, said: float, *, holdout: bool = False) -> Example:
    return Example(
        seq=seq, id=seq, input="x", correction=LabelCorrection(label="a"), source="s", trust=2,
        accepted_at=said, holdout=holdout,
    )  # fmt: skip


def applied(*rows: Scored, examples: list[Example] | None = None, ratings: list[float] | None = None) -> Applied:
    return Applied(
        examples=examples or [], scored=list(rows), evicted=[], duplicates=0, rejects=[], orphans=0,
        ratings=ratings or [],
    )  # fmt: skip


# --- answers -------------------------------------------------------------------------------------------------------


def test_accuracy_is_of_the_version_that_answered_and_only_where_labels_cover(series: LearnMetrics) -> None:
    quality = Quality(series)
    for i in range(LEAST):
        quality.note(
            applied(
                scored("v0.1.0", i % 2 == 0),
                scored("v2.2.0", True),
                scored("v2.2.9", False),
                scored("v2.2.0", False, covers=False),
            )
        )
    assert value(series, "live_accuracy_ratio", base="v0", tier="slow") == 0.5
    assert value(series, "live_accuracy_ratio", base="v2", tier="slow") == 1.0
    assert value(series, "live_accuracy_ratio", base="v2", tier="fast") == 0.0
    assert value(series, "scored_answers_total", base="v2", result="right") == LEAST
    assert value(series, "scored_answers_total", base="v2", result="wrong") == LEAST
    assert quality.accuracy == (0.5, 3 * LEAST)
    assert value(series, "accuracy_ratio", window="last") == 0.5
    assert quality.corrections == (1.0, LEAST)
    assert value(series, "correction_ratio", window="last") == 1.0
    assert value(series, "user_judgements_total", result="wrong") == LEAST


def test_an_accuracy_of_a_few_answers_is_not_shown(series: LearnMetrics) -> None:
    quality = Quality(series)
    for _ in range(LEAST - 1):
        quality.note(applied(scored("v0.1.0", True)))
    assert value(series, "accuracy_ratio", window="last") is None
    assert value(series, "live_accuracy_ratio", base="v0", tier="slow") is None
    assert quality.accuracy == (1.0, LEAST - 1), "but told to whoever asks how many it is of"
    quality.note(applied(scored("v0.1.0", True)))
    assert value(series, "accuracy_ratio", window="last") == 1.0


def test_what_a_version_on_trial_answers_is_not_held_against_the_one_in_force(series: LearnMetrics) -> None:
    quality = Quality(series)
    good = [scored("v1.1.0", True), scored("v1.1.0", True, covers=False)]
    bad = [scored("trial-7", False), scored("trial-7", False, covers=False)]
    quality.note(applied(*(good + bad) * LEAST))
    assert quality.accuracy == (1.0, LEAST)
    assert quality.corrections == (0.0, LEAST)
    assert value(series, "correction_ratio", window="last") == 0.0
    assert value(series, "user_judgements_total", result="wrong") in (None, 0)
    assert value(series, "class_recall_ratio", **{"class": "a"}) == 1.0
    assert value(series, "live_accuracy_ratio", base="v1", tier="slow") == 1.0
    assert value(series, "live_accuracy_ratio", base="other", tier="slow") == 0.0, "the trial is seen, but apart"


def test_before_anybody_said_anything_there_is_no_number(series: LearnMetrics) -> None:
    quality = Quality(series)
    quality.note(applied())
    assert quality.accuracy == (None, 0)
    assert value(series, "correction_ratio", window="last") is None
    assert value(series, "rating_mean", window="last") is None
    assert b"stream_ft_live_accuracy_ratio{" not in b"".join(
        str(sample).encode() for family in series.registry.collect() for sample in family.samples
    )


def test_the_worst_classes_are_named_and_the_rest_is_together(series: LearnMetrics) -> None:
    quality = Quality(series)
    rows = []
    for number in range(14):
        rights = min(number, CLASS_SUPPORT)
        rows += [scored("v0.1.0", i < rights, label=f"c{number:02}") for i in range(CLASS_SUPPORT)]
    rows += [scored("v0.1.0", False, label="rare")] * (CLASS_SUPPORT - 1)
    quality.note(applied(*rows))
    for number in range(10):
        assert value(series, "class_recall_ratio", **{"class": f"c{number:02}"}) == number / 10
    assert value(series, "class_recall_ratio", **{"class": "rare"}) is None, "too few to tell"
    right, total = 4 * CLASS_SUPPORT, 4 * CLASS_SUPPORT + CLASS_SUPPORT - 1
    assert value(series, "class_recall_ratio", **{"class": "other"}) == right / total


def test_from_what_was_said_to_the_version_that_learned_it(series: LearnMetrics) -> None:
    quality = Quality(series)
    quality.note(applied(examples=[example(1, 100.0), example(2, 101.0, holdout=True), example(3, 104.0)]))
    quality.live(0, 110.0)
    assert value(series, "feedback_to_live_seconds_count") == 0
    quality.live(2, 110.0)
    quality.live(2, 500.0)
    assert value(series, "feedback_to_live_seconds_sum") == 10.0
    quality.live(9, 111.0)
    assert value(series, "feedback_to_live_seconds_sum") == 17.0
    assert value(series, "feedback_to_live_seconds_count") == 2, "what is held out is never learned"


# --- reading -------------------------------------------------------------------------------------------------------


def record(offset: int, at: float) -> Record:
    return Record(topic="t", partition=0, offset=offset, value=b"", appended_at=at)


def test_the_lag_is_of_all_partitions_and_the_age_of_the_oldest_record(series: LearnMetrics) -> None:
    consumption = Consumption("labels", series, ManualClock(0.0).monotonic)
    consumption.read(0, 10, [record(10, 95.0), record(11, 96.0)], 40, 100.0)
    consumption.read(1, 0, [record(0, 98.0)], 1, 100.0)
    consumption.show()
    assert consumption.lag == 31, "what was read is not taken in before it is committed"
    assert value(series, "consumer_lag_events", topic="labels") == 31
    assert value(series, "consumer_lag_seconds", topic="labels") == 5.0
    assert value(series, "consumer_partitions", topic="labels") == 2
    consumption.committed(0, 12)
    consumption.committed(1, 1)
    consumption.show()
    assert consumption.lag == 28
    assert value(series, "consumer_records_total", topic="labels") == 3
    consumption.read(0, 12, [record(12, 99.0)], 40, 101.0)
    consumption.committed(0, 40)
    consumption.read(0, 40, [], 40, 102.0)
    consumption.read(1, 1, [], 1, 102.0)
    consumption.show()
    assert consumption.lag == 0
    assert value(series, "consumer_lag_seconds", topic="labels") == 0.0
    assert value(series, "consumer_records_total", topic="labels") == 31


def test_one_partition_that_stands_still_is_seen_behind_another_that_moves(series: LearnMetrics) -> None:
    clock = ManualClock(0.0)
    consumption = Consumption("labels", series, clock.monotonic)
    for second in range(60):
        consumption.read(0, second, [record(second, 0.0)], second + 1, 0.0)
        consumption.read(1, 7, [record(7, 0.0)], 9, 0.0)
        consumption.committed(0, second + 1)
        consumption.committed(1, 7)
        consumption.show()
        clock.advance(1.0)
    assert consumption.stalled_s() == 60.0
    clock.advance(5.0)
    assert value(series, "consumer_stalled_seconds", topic="labels") == 65.0, "a loop that hangs says nothing"
    consumption.read(0, 60, [], 60, 0.0)
    consumption.read(1, 7, [record(7, 0.0)], 9, 0.0)
    consumption.committed(1, 8)
    assert consumption.stalled_s() == 0.0
    clock.advance(2.0)
    assert consumption.stalled_s() == 2.0
    consumption.read(1, 8, [record(8, 0.0)], 9, 0.0)
    consumption.committed(1, 9)
    clock.advance(100.0)
    assert consumption.stalled_s() == 0.0, "nothing waits"
