"""From a record to what the store takes: the one path of `learn`, `simulate` and the ingest workers. Pure."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from stream_ft import original
from stream_ft.events import Event, Reject
from stream_ft.ingest.validate import parse
from stream_ft.ports import Record
from stream_ft.topics import kind_of

Redact = Callable[[Event], Event]
"""Replaces personal data in the texts of an event."""


def received(record: Record, *, now: float, redact: Redact | None = None) -> tuple[Record, Event | Reject]:
    """The record, with its original if ingest forwarded it, and its event or the reason why it is none.

    Args:
        record: as it lies on the log.
        now: seconds since the epoch; stands in for the append time of a record that has none.
        redact: applied to what is accepted; ``None`` leaves texts as they are.
    """
    if kind_of(record.topic) == "events":
        try:
            found = original.read(record.headers)
        except ValueError as error:
            return record, Reject(stage="decode", reason="invalid_original", detail=f"{str(error).capitalize()}.")
        if found is not None:
            record = replace(record, original=found, appended_at=found.appended_at)
    event = parse(record, now=now)
    if redact is not None and not isinstance(event, Reject):
        event = redact(event)
    return record, event
