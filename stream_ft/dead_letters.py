"""What becomes of a record that was refused: its own bytes, with headers that say where it lay and why."""

from __future__ import annotations

from stream_ft.events import Reject
from stream_ft.ports import Outgoing, Record

PREFIX = "__connect.errors."


def dead_letter(record: Record, reject: Reject, topic: str) -> Outgoing:
    """A record that was refused, as it lay on the log, with Kafka Connect's headers that say where and why.

    ``exception.class.name`` is the slug of the reason, ``exception.message`` the sentence for a person.
    """
    why = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "stage": reject.stage,
        "exception.class.name": reject.reason,
        "exception.message": reject.detail,
    }
    kept = tuple((name, value) for name, value in record.headers if not name.startswith(PREFIX))
    return Outgoing(
        topic=topic,
        key=record.key,
        value=record.value,
        headers=kept + tuple((PREFIX + name, value.encode("utf-8", "replace")) for name, value in why.items()),
    )
