"""CloudEvents in structured mode; binary mode is in test_validate.py."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from stream_ft.events import Event, Feedback, LabelledEvent, Reject
from stream_ft.ingest.validate import parse
from stream_ft.metrics import labels
from stream_ft.ports import Headers, Record

AT = 1_700_000_000.0
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
SAID = {"input": "hello", "label": "x"}
ENVELOPE = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "org.shop.labelled"}


def read(body: object, headers: Headers = STRUCTURED, kind: str = "labels") -> Event | Reject:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    record = Record(topic=f"stream_ft.m.{kind}", partition=0, offset=0, value=value, headers=headers, appended_at=AT)
    return parse(record, now=AT)


def test_structured_mode() -> None:
    event = read(ENVELOPE | {"time": "2023-11-14T22:13:00Z", "data": SAID})
    assert isinstance(event, LabelledEvent)
    assert (event.id, event.source, event.time, event.input) == ("e-1", "/shop", 1_699_999_980.0, "hello")


def test_data_may_be_base64() -> None:
    data = base64.b64encode(json.dumps(SAID).encode()).decode()
    event = read(ENVELOPE | {"data_base64": data})
    assert isinstance(event, LabelledEvent)
    assert event.id == "e-1"


@pytest.mark.parametrize("headers", [(), (("content-type", b"application/json"),)])
def test_a_command_line_that_sets_no_media_type_is_understood(headers: Headers) -> None:
    event = read(ENVELOPE | {"data": SAID}, headers)
    assert isinstance(event, LabelledEvent)
    assert event.id == "e-1"


def test_plain_json_with_a_field_of_that_name_is_no_envelope() -> None:
    event = read(SAID | {"specversion": "7"}, ())
    assert isinstance(event, LabelledEvent)
    assert event.id is None


def test_what_the_event_says_wins_over_the_envelope() -> None:
    event = read(ENVELOPE | {"data": SAID | {"id": "mine", "source": "crm"}})
    assert isinstance(event, LabelledEvent)
    assert (event.id, event.source) == ("mine", "crm")


def test_a_type_of_the_publishers_own_leaves_it_to_the_topic() -> None:
    event = read(
        ENVELOPE | {"type": "org.shop.ticket.closed", "data": {"prediction_id": "p", "label": "x"}}, kind="feedback"
    )
    assert isinstance(event, Feedback)
    assert event.id == "e-1"


def test_the_type_of_the_envelope_must_fit_the_topic() -> None:
    refused = read(ENVELOPE | {"type": "org.shop.feedback", "data": SAID})
    assert isinstance(refused, Reject)
    assert refused.reason == "not_allowed_here"


@pytest.mark.parametrize("absent", ["specversion", "id", "source", "type"])
def test_required_attributes(absent: str) -> None:
    refused = read({name: value for name, value in (ENVELOPE | {"data": SAID}).items() if name != absent})
    assert isinstance(refused, Reject)
    assert (refused.stage, refused.reason) == ("decode", "cloudevents")
    assert absent in refused.detail


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "cloudevents"),
        ({"data": None}, "cloudevents"),
        ({"data": SAID, "data_base64": "e30="}, "cloudevents"),
        ({"data_base64": "***"}, "cloudevents"),
        ({"data_base64": 7}, "cloudevents"),
        ({"data_base64": base64.b64encode(b"\xff").decode()}, "invalid_utf8"),
        ({"data_base64": base64.b64encode(b"{").decode()}, "invalid_json"),
        ({"data": [SAID]}, "not_an_object"),
        ({"data": "text"}, "not_an_object"),
        ({"data": SAID, "id": 7}, "cloudevents"),
        ({"data": SAID, "specversion": "0.3"}, "cloudevents"),
        ({"data": SAID, "time": "noon"}, "bad_time"),
        ({"data": SAID, "time": 7}, "bad_time"),
        ({"data": SAID | {"schema_version": 2}}, "unknown_schema_version"),
        ({"data": {"input": "hello"}}, "missing_field"),
    ],
)
def test_envelopes_that_cannot_be_used(more: dict[str, Any], why: str) -> None:
    refused = read(ENVELOPE | more)
    assert isinstance(refused, Reject)
    assert refused.reason == why
    assert why in labels.DEAD_LETTERS
    assert refused.detail.endswith(".")


def test_a_batch_is_refused_as_a_whole() -> None:
    refused = read([ENVELOPE | {"data": SAID}], (("Content-Type", b"application/cloudevents-batch+json"),))
    assert isinstance(refused, Reject)
    assert refused.reason == "cloudevents"
