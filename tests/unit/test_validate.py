from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from stream_ft.events import (
    MAX_TEXT,
    Event,
    Feedback,
    LabelCorrection,
    LabelledEvent,
    Prediction,
    Reject,
    SpanCorrection,
    TextCorrection,
)
from stream_ft.ingest.validate import MAX_BYTES, parse
from stream_ft.metrics import labels
from stream_ft.ports import Headers, Record

AT = 1_700_000_000.0


def read(value: bytes, kind: str = "feedback", headers: Headers = (), at: float = AT) -> Event | Reject:
    record = Record(
        topic=f"stream_ft.m.{kind}" if kind else "reviews",
        partition=0,
        offset=0,
        value=value,
        headers=headers,
        appended_at=at,
    )
    return parse(record, now=AT + 5)


def said(body: dict[str, Any], kind: str = "feedback", headers: Headers = (), at: float = AT) -> Event | Reject:
    return read(json.dumps(body).encode(), kind, headers, at)


PREDICTION = {"id": "p", "time": AT, "model": "m", "version": "v0.0.0", "base": "b", "input": "hello", "output": "x"}


def reason(result: Event | Reject) -> str:
    assert isinstance(result, Reject), result
    assert result.reason in labels.DEAD_LETTERS
    assert result.detail.endswith(".")
    return result.reason


# --- what is accepted ------------------------------------------------------------------------------------------


def test_shorthand_of_a_correction() -> None:
    event = said({"prediction_id": "p", "label": "refund"})
    assert isinstance(event, Feedback)
    assert (event.kind, event.correction, event.origin) == ("correct", LabelCorrection(label="refund"), "user")
    assert event.time == AT


def test_shorthand_of_a_labelled_event() -> None:
    event = said({"input": "我要退货", "label": "退货"}, "labels")
    assert isinstance(event, LabelledEvent)
    assert event.correction == LabelCorrection(label="退货")
    assert event.origin == "label_topic"


def test_a_rejection_that_names_the_label_is_a_correction() -> None:
    event = said({"prediction_id": "p", "kind": "reject", "label": "refund"})
    assert isinstance(event, Feedback)
    assert event.kind == "correct"


def test_a_rejection_alone_stays_one() -> None:
    event = said({"prediction_id": "p", "kind": "reject"})
    assert isinstance(event, Feedback)
    assert event.kind == "reject"
    assert event.correction is None


def test_a_rating_needs_no_kind() -> None:
    event = said({"prediction_id": "p", "rating": 4})
    assert isinstance(event, Feedback)
    assert (event.kind, event.rating) == ("rating", 4.0)


def test_text_and_span_corrections() -> None:
    text = said({"prediction_id": "p", "correction": {"kind": "text", "text": "Bonjour"}})
    span = said({"input": "hello", "correction": {"kind": "span", "start": 1, "end": 3}}, "labels")
    assert isinstance(text, Feedback)
    assert text.correction == TextCorrection(text="Bonjour")
    assert isinstance(span, LabelledEvent)
    assert span.correction == SpanCorrection(start=1, end=3)


def test_prediction_with_embedding() -> None:
    vector = np.arange(4, dtype="<f2").tobytes()
    event = said(PREDICTION | {"embedding": base64.b64encode(vector).decode()}, "predictions")
    assert isinstance(event, Prediction)
    assert event.embedding == vector


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "feedback", "prediction_id": "p", "kind": "accept"}, Feedback),
        ({"prediction_id": "p", "kind": "accept"}, Feedback),
        ({"input": "hello", "label": "x"}, LabelledEvent),
        (PREDICTION | {"type": "prediction"}, Prediction),
    ],
)
@pytest.mark.parametrize("topic", ["events", ""])
def test_mixed_topics_take_every_type(body: dict[str, Any], kind: type[Event], topic: str) -> None:
    assert isinstance(said(body, topic), kind)


def test_cloudevents_headers_fill_what_is_missing() -> None:
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e-1"),
        ("ce_source", b"/shop"),
        ("ce_time", b"2023-11-14T22:13:00Z"),
        ("ce_type", b"org.shop.labelled"),
    )
    event = said({"input": "hello", "label": "x"}, "events", headers)
    assert isinstance(event, LabelledEvent)
    assert (event.id, event.source, event.time) == ("e-1", "/shop", 1_699_999_980.0)


def test_the_body_wins_over_the_headers() -> None:
    event = said({"prediction_id": "p", "kind": "accept", "id": "mine", "time": AT - 9}, headers=(("ce_id", b"other"),))
    assert isinstance(event, Feedback)
    assert event.id == "mine"


@pytest.mark.parametrize("time", [AT + 1, -5, 1e30, None])
def test_times_that_cannot_be_are_the_append_time(time: float | None) -> None:
    event = said({"prediction_id": "p", "kind": "accept", "time": time})
    assert isinstance(event, Feedback)
    assert event.time == AT


def test_a_record_without_append_time_counts_as_now() -> None:
    event = said({"prediction_id": "p", "kind": "accept"}, at=0.0)
    assert isinstance(event, Feedback)
    assert event.time == AT + 5


@pytest.mark.parametrize("topic", ["feedback", "reviews"])
def test_origin_cannot_be_raised(topic: str) -> None:
    body = {"prediction_id": "p", "kind": "accept", "origin": "label_topic"}
    event = said(body) if topic == "feedback" else said({"input": "a", "label": "x", "origin": "label_topic"}, "")
    assert not isinstance(event, Prediction | Reject)
    assert event.origin == "user"


def test_the_source_model_is_never_trusted() -> None:
    event = said({"input": "hello", "label": "x", "source": "model"}, "labels")
    assert isinstance(event, LabelledEvent)
    assert event.origin == "model"


def test_unknown_fields_of_a_later_publisher_are_ignored() -> None:
    assert isinstance(said({"prediction_id": "p", "kind": "accept", "mood": {"a": [1]}}), Feedback)


def test_a_text_of_the_greatest_length_passes() -> None:
    assert isinstance(said({"input": "𝄞" * MAX_TEXT, "label": "x"}, "labels"), LabelledEvent)


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": Infinity}', "invalid_json"),
        (b'{"a": 1e999}', "invalid_json"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "invalid_json"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid_json"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "invalid_json"),
        (b'{"input": "\\ud800", "label": "x"}', "invalid_json"),
        (b'{"a": 1} x', "invalid_json"),
        (b"\xff\xfe{}", "invalid_utf8"),
        (b'{"input": "\xed\xa0\x80"}', "invalid_utf8"),
        (b"[1, 2]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b'{"a":"' + b"x" * MAX_BYTES + b'"}', "too_long"),
    ],
)
def test_bytes_that_are_no_event(value: bytes, why: str) -> None:
    result = read(value)
    assert reason(result) == why
    assert isinstance(result, Reject)
    assert result.stage == "decode"


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        ({"prediction_id": "p", "kind": "accept", "schema_version": 2}, "feedback", "unknown_schema_version"),
        ({"prediction_id": "p", "kind": "accept", "schema_version": 10**30}, "feedback", "unknown_schema_version"),
        ({"prediction_id": "p", "kind": "accept", "schema_version": "1"}, "feedback", "wrong_type"),
        ({"prediction_id": "p", "kind": "accept", "schema_version": True}, "feedback", "wrong_type"),
        ({"kind": "accept"}, "feedback", "missing_field"),
        ({"prediction_id": "p"}, "feedback", "missing_field"),
        ({"prediction_id": "p", "kind": "correct"}, "feedback", "missing_field"),
        ({"prediction_id": "p", "kind": "rating"}, "feedback", "missing_field"),
        ({"prediction_id": "p", "kind": "maybe"}, "feedback", "invalid_field"),
        ({"prediction_id": "p", "kind": "rating", "rating": 1e9}, "feedback", "invalid_field"),
        ({"prediction_id": 7, "kind": "accept"}, "feedback", "wrong_type"),
        ({"prediction_id": "", "kind": "accept"}, "feedback", "invalid_field"),
        ({"prediction_id": "p\x00", "kind": "accept"}, "feedback", "invalid_field"),
        ({"prediction_id": "p" * 201, "kind": "accept"}, "feedback", "too_long"),
        ({"prediction_id": "p", "kind": "accept", "label": "x"}, "feedback", "conflict"),
        (
            {"prediction_id": "p", "label": "x", "correction": {"kind": "label", "label": "y"}},
            "feedback",
            "conflict",
        ),
        ({"prediction_id": "p", "kind": "accept", "time": "yesterday"}, "feedback", "wrong_type"),
        ({"prediction_id": "p", "kind": "accept", "time": 10**400}, "feedback", "bad_time"),
        ({"prediction_id": "p", "label": 7}, "feedback", "wrong_type"),
        ({"prediction_id": "p", "label": " "}, "feedback", "empty_text"),
        ({"prediction_id": "p", "label": ""}, "feedback", "empty_text"),
        ({"prediction_id": "p", "label": "a\x00b"}, "feedback", "invalid_field"),
        ({"prediction_id": "p", "correction": {"kind": "tune"}}, "feedback", "invalid_field"),
        ({"prediction_id": "p", "correction": {"label": "x"}}, "feedback", "missing_field"),
        ({"prediction_id": "p", "correction": {"kind": "text", "text": " \u200b"}}, "feedback", "empty_text"),
        ({"prediction_id": "p", "correction": {"kind": "span", "start": 3, "end": 3}}, "feedback", "invalid_field"),
        ({"input": "ab", "correction": {"kind": "span", "start": 0, "end": 3}}, "labels", "invalid_field"),
        ({"input": "ab", "correction": {"kind": "span", "start": -1, "end": 1}}, "labels", "invalid_field"),
        ({"input": "", "label": "x"}, "labels", "empty_text"),
        ({"input": " \n\t", "label": "x"}, "labels", "empty_text"),
        ({"input": "\u200b\u2060", "label": "x"}, "labels", "empty_text"),
        ({"input": "\x00", "label": "x"}, "labels", "empty_text"),
        ({"input": "a" * (MAX_TEXT + 1), "label": "x"}, "labels", "too_long"),
        ({"input": "hello"}, "labels", "missing_field"),
        ({"input": 7, "label": "x"}, "labels", "wrong_type"),
        ({"input": "hello", "label": "x", "origin": "god"}, "labels", "invalid_field"),
        ({"type": "prediction", "prediction_id": "p", "kind": "accept"}, "feedback", "not_allowed_here"),
        ({"type": "feedback", "prediction_id": "p", "kind": "accept"}, "labels", "not_allowed_here"),
        ({"type": "letter"}, "feedback", "unknown_type"),
        ({"type": ["feedback"]}, "events", "unknown_type"),
        ({"hello": 1}, "events", "unknown_type"),
        ({"prediction_id": "p", "kind": "accept"}, "control", "not_allowed_here"),
        ({"prediction_id": "p", "kind": "accept"}, "dlq", "not_allowed_here"),
        (PREDICTION | {"embedding": "AAAA"}, "predictions", "bad_embedding"),
        (PREDICTION | {"embedding": "A*A"}, "predictions", "bad_embedding"),
        (PREDICTION | {"embedding": ""}, "predictions", "bad_embedding"),
        (PREDICTION | {"embedding": "AHw="}, "predictions", "bad_embedding"),  # fp16 infinity
        (PREDICTION | {"embedding": 7}, "predictions", "bad_embedding"),
        (PREDICTION | {"score": "high"}, "predictions", "wrong_type"),
    ],
)
def test_events_that_cannot_be_used(body: dict[str, Any], kind: str, why: str) -> None:
    assert reason(said(body, kind)) == why


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ((("ce_id", b"\xff"),), "cloudevents"),
        ((("ce_specversion", b"0.3"),), "cloudevents"),
        ((("ce_time", b"noon"),), "bad_time"),
        ((("ce_time", b"2023-11-14T22:13:00"),), "bad_time"),
    ],
)
def test_cloudevents_headers_that_cannot_be_read(headers: Headers, why: str) -> None:
    assert reason(said({"prediction_id": "p", "kind": "accept"}, headers=headers)) == why


def test_details_never_carry_the_publishers_words() -> None:
    results = [
        said({"prediction_id": "p", "kind": "my secret"}),
        said({"prediction_id": "p", "correction": {"kind": "my secret"}}),
        said({"type": "my secret"}),
    ]
    assert all(isinstance(result, Reject) and "secret" not in result.detail for result in results)
