"""Redaction by settings, and in the path of the learner."""

from __future__ import annotations

import pytest
from store_kit import open_store

from stream_ft.config import Settings, load
from stream_ft.errors import ConfigError
from stream_ft.events import LabelCorrection, LabelledEvent, to_json
from stream_ft.ingest.receive import received
from stream_ft.ports import Record
from stream_ft.replay.store import Item
from stream_ft.wiring.learn import check_source
from stream_ft.wiring.redacting import redaction

SAID = LabelledEvent(input="jane@example.org, 10.0.0.1", correction=LabelCorrection(label="x"))


def settings(**ingest: object) -> Settings:
    return load(None, {f"ingest.{name}": value for name, value in ingest.items()})


def test_off_unless_asked_for() -> None:
    assert redaction(settings()) is None


def test_what_is_stored_is_redacted() -> None:
    store = open_store()
    record = Record(topic="stream_ft.m.labels", partition=0, offset=0, value=to_json(SAID), appended_at=1.7e9)
    again, event = received(record, now=1.7e9, redact=redaction(settings(redact=True, redact_kinds=" email , card")))
    store.apply([Item(record=again, event=event)], now=1.7e9)
    assert [example.input for example in store.training()] == ["[EMAIL*********], 10.0.0.1"]


@pytest.mark.parametrize(
    ("name", "value"), [("redact_kinds", "email,names"), ("phone_region", "usa"), ("phone_region", "us")]
)
def test_settings_that_cannot_be_used(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"ingest.{name}"):
        settings(**{name: value})


def test_a_region_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="'XX' is no region"):
        redaction(settings(redact=True, phone_region="XX"))


def test_what_workers_write_needs_a_broker() -> None:
    with pytest.raises(ConfigError, match="needs a broker"):
        check_source(load(None, {"learn.reads": "ingested"}))
    check_source(load(None, {"learn.reads": "ingested", "broker": "kafka://localhost"}))
    check_source(load(None, {}))
