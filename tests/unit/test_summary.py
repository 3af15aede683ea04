"""Numbers of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.connectors.files import Row
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.summary import (
    Scores,
    Story,
    accuracy,
    by_phase,
    macro_f1,
    percentile,
    recall_at_precision,
    recalls,
    versions,
    write_summary,
)


def test_accuracy_of_nothing_is_not_a_number_but_none() -> None:
    assert accuracy([], []) is None
    assert accuracy(["a", "b"], ["a", "a"]) == 0.5


def test_macro_f1_weighs_a_rare_class_like_a_common_one() -> None:
    labels = ["a"] * 9 + ["b"]
    assert macro_f1(labels, ["a"] * 10) == pytest.approx((2 * 9 / (9 + 10) + 0) / 2)
    assert macro_f1(labels, labels) == 1.0


def test_phases_keep_the_order_of_first_sight() -> None:
    rows = [
        Row(text="t", label="a", phase="late"),
        Row(text="t", label="b", phase="early"),
        Row(text="t", label="a", phase="late"),
    ]
    assert by_phase(rows, ["a", "a", "b"]) == [
        {"phase": "late", "events": 2, "accuracy": 0.5},
        {"phase": "early", "events": 1, "accuracy": 0.0},
    ]


def test_recall_at_precision_by_hand() -> None:
    positive = [True, True, False, True, False]
    scores = [0.9, 0.8, 0.7, 0.6, 0.1]
    assert recall_at_precision(positive, scores, 0.99) == pytest.approx(2 / 3)
    assert recall_at_precision(positive, scores, 0.75) == 1.0
    assert recall_at_precision([False, True], [0.9, 0.1], 0.99) == 0.0
    assert recall_at_precision([False], [0.9], 0.99) is None


def test_rows_of_equal_score_are_taken_together() -> None:
    # The threshold cannot separate the two: at 0.5 precision is one half.
    assert recall_at_precision([True, False], [0.5, 0.5], 0.99) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), min_size=1, max_size=40))
def test_recall_at_precision_is_the_best_threshold(rows: list[tuple[bool, float]]) -> None:
    positive, scores = [p for p, _ in rows], [s for _, s in rows]
    best = 0.0
    for threshold in set(scores):
        taken = [p for p, s in rows if s >= threshold]
        if sum(taken) >= 0.9 * len(taken) and sum(positive):
            best = max(best, sum(taken) / sum(positive))
    found = recall_at_precision(positive, scores, 0.9)
    assert found is None if not sum(positive) else found == pytest.approx(best)


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_feedback_to_live_counts_from_the_label_to_the_first_covering_answer() -> None:
    story = Story(rate=10.0, start=100.0)
    story.fed(1, 100.0)
    story.fed(2, 101.0)
    story.predicted(5, upto=0)
    assert story.latencies == []
    story.predicted(20, upto=1)
    assert story.latencies == [2.0]
    story.predicted(30, upto=2)
    assert story.latencies == [2.0, 2.0]
    story.predicted(40, upto=2)
    assert len(story.latencies) == 2


def happening(kind: str, **fields: object) -> Happening:
    return Happening(kind=kind, text=kind, time=0.0, **fields)  # type: ignore[arg-type]


def test_versions_name_what_was_live_and_list_what_was_not() -> None:
    story = Story(rate=1.0, start=0.0)
    story.happened(happening("promotion", version="v1.2.0", round_kind="head", sha256="a", parent="v0.1.0"))
    story.happened(happening("refusal", version="v1.2.0", round_kind="lora", sha256="b", parent="v1.2.0"))
    story.happened(happening("refusal"))
    story.happened(happening("rollback", version="v0.3.0"))
    rows = versions(story.told)
    assert [(row["name"], row["verdict"]) for row in rows] == [
        ("v1.2.0", "accepted"),
        ("", "refused"),
        ("v0.3.0", "rollback"),
    ]
    assert story.count("promotion") == 1
    assert story.count("rollback") == 1


def scores(final: list[tuple[Row, str, dict[str, float]]]) -> Scores:
    rows = [Row(text="x", label="ham"), Row(text="y", label="spam")]
    return Scores(
        rows=rows,
        outputs=["ham", "spam"],
        chances=[{"ham": 1.0, "spam": 0.0}, {"ham": 0.2, "spam": 0.8}],
        frozen=None,
        softmax=None,
        final=final,
    )


def test_recalls_come_from_the_stream_without_a_test_file() -> None:
    assert recalls(scores([])) == {"ham": 1.0, "spam": 1.0}


def test_recalls_come_from_the_test_file_where_there_is_one() -> None:
    missed = [
        (Row(text="z", label="spam"), "ham", {"ham": 0.9, "spam": 0.1}),
        (Row(text="w", label="ham"), "ham", {"ham": 0.5, "spam": 0.5}),
    ]
    # The spam scores highest as ham and lowest as spam: no threshold finds either at 99 % precision.
    assert recalls(scores(missed)) == {"ham": 0.0, "spam": 0.0}


def test_a_summary_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_summary(tmp_path / "s.json", {"x": float("nan")})
    write_summary(tmp_path / "s.json", {"x": None, "y": "ü"})
    assert json.loads((tmp_path / "s.json").read_text("utf-8")) == {"x": None, "y": "ü"}


def test_no_answer_is_never_right() -> None:
    assert accuracy(["", "a"], ["", "a"]) == 0.5
    assert macro_f1(["", "a"], ["", "a"]) == 0.5
