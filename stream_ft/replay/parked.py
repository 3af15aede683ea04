"""What must wait: feedback whose prediction has not come, and new labels that users alone have named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from stream_ft.events import Feedback, LabelledEvent
from stream_ft.ports import Record

Why = Literal["orphan", "new_label"]


class Waiting(Struct, frozen=True, kw_only=True):
    """An accepted event that cannot be used yet, with what was answered to it."""

    record: Record
    event: Feedback | LabelledEvent
    output: str | None = None
    version: str = ""
    embedding: bytes | None = None
    embedding_base: str = ""


_decoder = msgspec.msgpack.Decoder(Waiting)


class Parked:
    """Reads and writes inside the caller's transaction; counts are kept in memory until :meth:`load`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.load()

    def load(self) -> None:
        """Count what waits."""
        self.counts: dict[str, int] = {"orphan": 0, "new_label": 0}
        self.counts.update(self._db.execute("SELECT why, count(*) FROM parked GROUP BY why"))

    def add(self, why: Why, key: str, waiting: Waiting) -> None:
        """Park an event under the prediction or the label that it waits for."""
        self._db.execute(
            "INSERT INTO parked(why, key, source, appended_at, item) VALUES(?,?,?,?,?)",
            (why, key, waiting.event.source, waiting.record.appended_at, msgspec.msgpack.encode(waiting)),
        )
        self.counts[why] += 1

    def release(self, why: Why, key: str) -> list[Waiting]:
        """Take out what waits for a key, in the order it came."""
        if not self.counts[why]:
            return []
        rows = self._db.execute("SELECT id, item FROM parked WHERE why = ? AND key = ? ORDER BY id", (why, key))
        return self._take(why, rows.fetchall())

    def expired(self, why: Why, before: float, limit: int) -> list[Waiting]:
        """Take out up to ``limit`` of those appended before a time."""
        if not self.counts[why]:
            return []
        rows = self._db.execute(
            "SELECT id, item FROM parked WHERE why = ? AND appended_at < ? ORDER BY appended_at, id LIMIT ?",
            (why, before, limit),
        )
        return self._take(why, rows.fetchall())

    def voters(self, label: str) -> Iterator[tuple[str, float]]:
        """``(source, append time)`` of those who wait for a label."""
        yield from self._db.execute(
            "SELECT source, appended_at FROM parked WHERE why = 'new_label' AND key = ?", (label,)
        )

    def _take(self, why: Why, rows: list[tuple[int, bytes]]) -> list[Waiting]:
        self._db.executemany("DELETE FROM parked WHERE id = ?", [(id,) for id, _ in rows])
        self.counts[why] -= len(rows)
        return [_decoder.decode(item) for _, item in rows]
