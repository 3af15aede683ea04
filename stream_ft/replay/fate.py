"""What became of a statement: read from the store's file, beside the process that writes it.

The file is opened read-only for each question, so nothing here can hold up the learner or checkpoint its log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from msgspec import Struct

from stream_ft.events import Feedback, LabelledEvent
from stream_ft.ports import Record
from stream_ft.replay.identity import name_of
from stream_ft.replay.join import tie_of
from stream_ft.topics import kind_of

What = Literal[
    "unread", "waits_for_prediction", "waits_for_label", "trains", "held_out", "quarantined", "outranked",
    "contradicted", "sampled_out", "near_duplicate", "holdout_full", "not_trained", "unknown",
]  # fmt: skip
"""``not_trained``: it scored the answer, or was a rating, and brings no correction of its own. ``outranked``: another
statement about the same answer or text counts. ``unknown``: there is no store here, or it has forgotten it."""

WAIT_S = 1.0


class Fate(Struct, frozen=True, kw_only=True):
    """What became of one statement."""

    what: What
    seq: int | None = None
    """Store sequence number, where it is an example: a version that covers it has learned from it."""
    input: str | None = None
    predicted: str | None = None
    """What was answered."""
    version: str = ""
    """Who answered it."""


UNKNOWN = Fate(what="unknown")


def fates(path: Path, said: Sequence[tuple[Record, Feedback | LabelledEvent]]) -> list[Fate]:
    """What became of each statement, in order.

    Args:
        path: the store's file; all are ``unknown`` where it is missing or cannot be read now.
        said: records of the feedback and labels topics with what they say.
    """
    if not path.exists():
        return [UNKNOWN] * len(said)
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=WAIT_S, isolation_level=None)
        ) as db:
            db.execute("BEGIN")  # one state of the file for all of them
            offsets = {(t, p): n for t, p, n in db.execute("SELECT topic, part, next FROM offsets")}
            return [_fate(db, offsets, record, event) for record, event in said]
    except sqlite3.DatabaseError:  # replaced, being restored, or no store: whoever writes it says so
        return [UNKNOWN] * len(said)


def _fate(
    db: sqlite3.Connection, offsets: dict[tuple[str, int], int], record: Record, event: Feedback | LabelledEvent
) -> Fate:
    told = _told(db, event) if isinstance(event, Feedback) else Fate(what="unknown", input=event.input)
    unread = record.offset >= offsets.get((record.topic, record.partition), 0)
    # What ingest forwards is read from another topic: there, only what has left no trace may be unread.
    forwarded = kind_of(record.topic) != "events" and any(kind_of(topic) == "events" for topic, _ in offsets)
    if unread and not forwarded:
        return _with(told, "unread")
    tie = tie_of(event, record)
    if (why := _parked(db, event)) is not None:
        return _with(told, why)
    claim = db.execute(
        "SELECT id, tie, input, predicted, version, quarantined, dropped, correction IS NULL, digest FROM claims"
        " WHERE key = ?",
        (_key(event, tie),),
    ).fetchone()
    if claim is None:
        if isinstance(event, Feedback) and event.correction is None and told.input is not None:
            return _with(told, "not_trained")
        return _with(told, "unread") if unread else told
    id, counts, text, predicted, version, quarantined, dropped, bare, digest = claim
    if isinstance(event, LabelledEvent) and event.input != text:
        return told  # an identity that was taken: this one is a dead letter
    told = Fate(what="unknown", input=text, predicted=predicted, version=version or told.version)
    if isinstance(event, Feedback) and counts != tie:
        return _with(told, "not_trained" if event.kind in ("accept", "rating") else "outranked")
    if quarantined:
        return _with(told, "quarantined")
    if dropped:
        return _with(told, dropped)
    if bare:
        return _with(told, "not_trained")
    example = db.execute("SELECT seq, holdout, claim FROM examples WHERE digest = ?", (digest,)).fetchone()
    if example is None:
        return _with(told, "unknown")
    seq, held, claimed = example
    if claimed != id:
        return _with(told, "outranked")
    return _with(told, "held_out" if held else "trains", seq)


def _with(fate: Fate, what: What, seq: int | None = None) -> Fate:
    return Fate(what=what, seq=seq, input=fate.input, predicted=fate.predicted, version=fate.version)


def _key(event: Feedback | LabelledEvent, tie: str) -> str:
    if isinstance(event, Feedback):
        return f"p:{event.prediction_id}"
    name = name_of(event)
    return f"e:{tie}" if name is None else f"e:{name.hex()}"


def _told(db: sqlite3.Connection, event: Feedback) -> Fate:
    row: Any = db.execute(
        "SELECT input, output, version FROM predictions WHERE id = ?", (event.prediction_id,)
    ).fetchone()
    return UNKNOWN if row is None else Fate(what="unknown", input=row[0], predicted=row[1], version=row[2])


def _parked(db: sqlite3.Connection, event: Feedback | LabelledEvent) -> What | None:
    """Whether it waits, and for what."""
    if isinstance(event, Feedback):
        found = db.execute(
            "SELECT 1 FROM parked WHERE why = 'orphan' AND key = ? LIMIT 1", (event.prediction_id,)
        ).fetchone()
        if found is not None:
            return "waits_for_prediction"
    label = getattr(event.correction, "label", None)
    if label is None or db.execute("SELECT 1 FROM labels WHERE label = ?", (label,)).fetchone() is not None:
        return None
    if isinstance(event, LabelledEvent) and event.origin == "label_topic":
        return None
    found = db.execute("SELECT 1 FROM parked WHERE why = 'new_label' AND key = ? LIMIT 1", (label,)).fetchone()
    return None if found is None else "waits_for_label"
