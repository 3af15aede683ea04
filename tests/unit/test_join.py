from __future__ import annotations

from typing import Any

import pytest

from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, SpanCorrection, TextCorrection
from stream_ft.ports import Record
from stream_ft.replay.join import Claim, judged, pack, tie_of, time_of, trust_of, unpack, value_of

RECORD = Record(topic="t", partition=2, offset=7, value=b"", appended_at=100.0)


def claim(**values: Any) -> Claim:
    base: dict[str, Any] = {
        "key": "k", "digest": b"", "input": "a", "correction": None, "source": "s", "trust": 1, "time": 5.0, "tie": "m",
        "appended_at": 9.0,
    }  # fmt: skip
    return Claim(**(base | values))


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"trust": 1, "time": 9.0, "tie": "z"}, {"trust": 2, "time": 1.0, "tie": "a"}),
        ({"time": 4.0, "tie": "z"}, {"time": 5.0, "tie": "a"}),
        ({"tie": "a"}, {"tie": "b"}),
    ],
)
def test_claims_are_ranked_by_trust_time_and_id(less: dict[str, Any], more: dict[str, Any]) -> None:
    assert claim(**less).rank < claim(**more).rank


@pytest.mark.parametrize(
    ("feedback", "right"),
    [
        ({"kind": "accept"}, True),
        ({"kind": "reject"}, False),
        ({"kind": "correct", "correction": LabelCorrection(label="out")}, True),
        ({"kind": "correct", "correction": LabelCorrection(label="other")}, False),
        ({"kind": "correct", "correction": TextCorrection(text="out")}, True),
        ({"kind": "rating", "rating": 5.0}, None),
        ({"kind": "accept", "origin": "model"}, None),
        ({"kind": "reject", "source": "model"}, None),
    ],
)
def test_what_feedback_says_of_an_answer(feedback: dict[str, Any], right: bool | None) -> None:
    assert judged(Feedback(prediction_id="p", **feedback), "out") is right


def test_trust() -> None:
    label = LabelCorrection(label="x")
    assert trust_of(LabelledEvent(input="a", correction=label)) == 2
    assert trust_of(LabelledEvent(input="a", correction=label, origin="user")) == 1
    assert trust_of(Feedback(prediction_id="p", kind="accept")) == 1
    assert trust_of(LabelledEvent(input="a", correction=label, source="model")) == 0


def test_an_event_without_id_is_ordered_by_its_place() -> None:
    bare = Feedback(prediction_id="p", kind="accept")
    assert tie_of(bare, RECORD) == "t/2/00000000000000000007"
    assert tie_of(Feedback(id="e", prediction_id="p", kind="accept"), RECORD) == "e"


@pytest.mark.parametrize(("time", "expected"), [(None, 100.0), (5.0, 5.0), (101.0, 100.0)])
def test_event_time_is_never_after_the_append_time(time: float | None, expected: float) -> None:
    assert time_of(Feedback(prediction_id="p", kind="accept", time=time), RECORD) == expected


@pytest.mark.parametrize(
    ("correction", "value"),
    [
        (LabelCorrection(label="退货"), "退货"),
        (TextCorrection(text="Bonjour"), "Bonjour"),
        (SpanCorrection(start=1, end=4), "1:4"),
    ],
)
def test_corrections_travel_and_compare(correction: Any, value: str) -> None:
    assert value_of(correction) == value
    assert unpack(pack(correction)) == correction
    assert unpack(pack(None)) is None
