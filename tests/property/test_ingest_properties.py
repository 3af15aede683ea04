"""Whatever the bytes: ingest answers with one message, and what it forwards is what was said."""

from __future__ import annotations

import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft import original
from stream_ft.dead_letters import PREFIX
from stream_ft.events import Event, Reject
from stream_ft.ingest.forward import outcome
from stream_ft.ingest.receive import received
from stream_ft.ingest.redact import Redactor
from stream_ft.ports import Headers, Outgoing, Record

AT = 1_700_000_000.0
EVENTS, DLQ = "stream_ft.m.events", "stream_ft.m.dlq"
REDACTOR = Redactor(region="US")

words = st.text(st.characters(codec="utf-8"), max_size=20)
ids = st.none() | st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=12)
times = st.none() | st.floats(0, 2 * AT)
labels = st.text(string.ascii_letters, min_size=1, max_size=8)
feedback = st.fixed_dictionaries(
    {"prediction_id": st.text(string.ascii_letters, min_size=1, max_size=8)},
    optional={"id": ids, "label": labels, "kind": st.sampled_from(["accept", "reject", "correct"]), "time": times},
)
labelled = st.fixed_dictionaries(
    {"input": words, "label": labels}, optional={"id": ids, "source": labels, "time": times}
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
envelopes = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": words, "source": words, "type": words, "data": feedback | labelled | anything}
)
values = st.binary(max_size=80) | st.builds(
    lambda body: json.dumps(body).encode(), feedback | labelled | envelopes | anything
)
headers: st.SearchStrategy[Headers] = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_time", "ce_type", "ce_specversion", "content-type", original.HEADER, "trace"]),
        st.binary(max_size=12) | st.sampled_from([b"1.0", b"application/cloudevents+json", b"2024-01-01T00:00:00Z"]),
    ),
    max_size=3,
).map(tuple)
records = st.builds(
    Record,
    topic=st.sampled_from(["stream_ft.m.feedback", "stream_ft.m.labels", "stream_ft.m.predictions"]),
    partition=st.integers(0, 99),
    offset=st.integers(0, 10**15),
    value=values,
    key=st.none() | st.binary(max_size=8),
    headers=headers,
    appended_at=st.floats(1, 2 * AT),
)


def work(record: Record) -> tuple[Outgoing, Event | Reject]:
    return outcome(record, now=AT, events=EVENTS, dlq=DLQ, redact=REDACTOR.event)


@given(records)
@settings(max_examples=300)
def test_every_record_becomes_one_message(record: Record) -> None:
    message, event = work(record)
    if isinstance(event, Reject):
        assert (message.topic, message.value, message.key) == (DLQ, record.value, record.key)
        said = dict(message.headers)
        assert said[PREFIX + "topic"] == record.topic.encode()
        assert said[PREFIX + "offset"] == str(record.offset).encode()
        assert said[PREFIX + "exception.class.name"] == event.reason.encode()
    else:
        assert message.topic == EVENTS
        assert message.key


@given(records, st.integers(0, 99), st.integers(0, 10**9), st.floats(1, 3 * AT))
@settings(max_examples=300)
def test_what_is_forwarded_is_read_back_as_it_was(record: Record, partition: int, offset: int, at: float) -> None:
    message, event = work(record)
    if isinstance(event, Reject):
        return
    forwarded = Record(
        topic=EVENTS, partition=partition, offset=offset, value=message.value, key=message.key,
        headers=message.headers, appended_at=at,
    )  # fmt: skip
    again, read = received(forwarded, now=AT, redact=REDACTOR.event)
    assert (again.topic, again.partition, again.offset) == (EVENTS, partition, offset)
    assert again.original is not None
    assert abs(again.appended_at - record.appended_at) < 1e-5
    was = original.of(record)
    assert (again.original.topic, again.original.partition, again.original.offset) == (
        record.topic, record.partition, record.offset,
    )  # fmt: skip
    assert again.original.digest == was.digest
    assert not isinstance(read, Reject)
    # The append time travels in whole microseconds, and an event's time is never after it.
    assert abs((read.time or 0) - (event.time or 0)) < 1e-5
    assert msgspec.structs.replace(read, time=0.0) == msgspec.structs.replace(event, time=0.0)


@given(records)
def test_the_same_record_becomes_the_same_message(record: Record) -> None:
    assert work(record)[0] == work(record)[0]


@given(st.binary(max_size=60) | st.text(string.digits + "/.ab", max_size=60).map(str.encode))
def test_headers_that_name_no_original_are_refused_or_read(value: bytes) -> None:
    record = Record(
        topic=EVENTS, partition=0, offset=3, value=b'{"prediction_id": "p", "kind": "accept"}',
        headers=((original.HEADER, value),), appended_at=AT,
    )  # fmt: skip
    again, event = received(record, now=AT)
    if again.original is None:
        assert isinstance(event, Reject)
        assert event.reason == "invalid_original"


@pytest.mark.parametrize("topic", ["stream_ft.m.feedback", "stream_ft.m.labels"])
def test_only_the_topic_that_ingest_writes_is_believed(topic: str) -> None:
    forged = original.header(original.Original(topic="t", partition=0, offset=0, appended_at=1.0, digest=b"0" * 16))
    record = Record(topic=topic, partition=0, offset=0, value=b"{}", headers=(forged,), appended_at=AT)
    assert received(record, now=AT)[0].original is None


tokens = st.sampled_from(
    ["jane@example.org", "+44 20 7946 0958", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "536-90-4399",
     "10.0.0.1", "fe80::1", "[EMAIL**]", "@", "order", "+1", " ", ".", "-", "12", "::", "a"]
)  # fmt: skip
texts = st.lists(tokens | words, max_size=10).map("".join) | st.lists(tokens, max_size=10).map(" ".join)


@given(texts)
@settings(max_examples=300, deadline=None)
def test_redaction_keeps_the_length_and_finds_nothing_twice(text: str) -> None:
    once = REDACTOR.text(text)
    assert len(once) == len(text)
    assert REDACTOR.text(once) == once


@given(st.lists(st.sampled_from(["please", "where", "is", "my", "refund", "7"]), max_size=8).map(" ".join), st.data())
@settings(deadline=None)
def test_what_surrounds_personal_data_stays(text: str, data: Any) -> None:
    found = data.draw(st.sampled_from(["jane@example.org", "4111 1111 1111 1111", "10.0.0.1", "536-90-4399"]))
    redacted = REDACTOR.text(f"{text} | {found} | {text}")
    assert found not in redacted
    assert redacted.startswith(f"{text} | [")
    assert redacted.endswith(f"] | {text}")
