"""What an ingest worker makes of a record: one message for ``.events``, or one for the dead letters. Pure."""

from __future__ import annotations

from stream_ft import original, tracing
from stream_ft.dead_letters import dead_letter
from stream_ft.events import Event, Feedback, Prediction, Reject, to_json
from stream_ft.ingest.receive import Redact, received
from stream_ft.ports import Outgoing, Record

JSON = ("content-type", b"application/json")


def forwarded(record: Record, event: Event, topic: str) -> Outgoing:
    """The event as plain JSON with all its fields, keyed by its prediction, with the place of the original in a header.

    The key brings a prediction and what is said of it into one partition, whichever client hashed the original key
    how. A labelled event has the key of its id, or of its source. A trace goes on with it.
    """
    if isinstance(event, Prediction):
        key = event.id
    elif isinstance(event, Feedback):
        key = event.prediction_id
    else:
        key = event.id or event.source
    return Outgoing(
        topic=topic,
        key=key.encode(),
        value=to_json(event),
        headers=(JSON, original.header(original.of(record)), *tracing.headers(tracing.of(record.headers))),
    )


def outcome(
    record: Record, *, now: float, events: str, dlq: str, redact: Redact | None = None
) -> tuple[Outgoing, Event | Reject]:
    """The one message that a record becomes, and the event or the reason.

    Args:
        record: as its publisher put it on the log.
        now: seconds since the epoch; stands in for the append time of a record that has none.
        events, dlq: topics of what is accepted and of what is refused.
        redact: applied to what is accepted. A dead letter keeps the original bytes.
    """
    _, event = received(record, now=now, redact=redact)
    if isinstance(event, Reject):
        return dead_letter(record, event, dlq), event
    return forwarded(record, event, events), event
