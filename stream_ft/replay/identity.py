"""Which events have been applied. Day tables, dropped whole: bounded space, and no row is ever looked for to delete.

"Applied once" is promised under exactly this rule: an event with an id is known by ``(source, id)`` for the horizon;
one that by its own time is older than that when it is appended is refused; one without an id is known by its place on
the log: by its offset, or, where ingest forwarded it, by the place where it lay before. The horizon counts in append
time, and has passed once a whole window of records says so: see :mod:`stream_ft.replay.watermark`.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence

from stream_ft.events import Event
from stream_ft.ports import Record

DAY = 86_400.0
_CHUNK = 500


def name_of(event: Event) -> bytes | None:
    """16 bytes that stand for ``(source, id)``; ``None`` for an event without an id."""
    if event.id is None:
        return None
    source, id = event.source.encode(), event.id.encode()
    return hashlib.blake2b(len(source).to_bytes(4, "big") + source + id, digest_size=16).digest()


def name_of_place(topic: str, partition: int, offset: int) -> bytes:
    """16 bytes that stand for the place of an event without an id, whichever topic it was read from."""
    # No source is this long, so no event with an id has this name.
    place = b"\xff\xff\xff\xff" + place_text(topic, partition, offset).encode()
    return hashlib.blake2b(place, digest_size=16).digest()


def place_text(topic: str, partition: int, offset: int) -> str:
    """A place as one string; in the order of offsets."""
    return f"{topic}/{partition}/{offset:020d}"


def place_of(record: Record) -> tuple[str, int, int]:
    """Topic, partition and offset at which the publisher's event lay."""
    place = record.original or record
    return place.topic, place.partition, place.offset


class Identities:
    """Reads and writes inside the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._new: dict[int, list[tuple[bytes, bytes, str, str]]] = {}
        self._days = [day for (day,) in db.execute("SELECT day FROM days ORDER BY day DESC")]

    def known(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """Digest of the bytes that came under each of these names, where any did."""
        self.flush()
        found: dict[bytes, bytes] = {}
        for day in self._days:
            for start in range(0, len(names), _CHUNK):
                chunk = names[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                found.update(self._db.execute(f"SELECT name, digest FROM ids_{day} WHERE name IN ({marks})", chunk))
        return found

    def add(self, name: bytes, digest: bytes, *, source: str, id: str, appended_at: float) -> None:
        """Remember an event that was taken, from the next :meth:`flush` on.

        The place stands for the id of one that has none.
        """
        day = max(0, int(appended_at // DAY))
        if day not in self._days:
            self._db.execute(
                f"CREATE TABLE ids_{day}(name BLOB PRIMARY KEY, digest BLOB NOT NULL, source TEXT NOT NULL,"
                " id TEXT NOT NULL) WITHOUT ROWID"
            )
            self._db.execute("INSERT INTO days VALUES(?)", (day,))
            self._days = sorted([*self._days, day], reverse=True)
        self._new.setdefault(day, []).append((name, digest, source, id))

    def flush(self) -> None:
        """Write what was remembered."""
        for day, rows in self._new.items():
            self._db.executemany(f"INSERT INTO ids_{day} VALUES(?,?,?,?)", rows)
        self._new = {}

    def expire(self, before: float) -> None:
        """Drop the tables of days that ended before a time."""
        self.flush()
        for day in [day for day in self._days if (day + 1) * DAY <= before]:
            self._db.execute(f"DROP TABLE ids_{day}")
            self._db.execute("DELETE FROM days WHERE day = ?", (day,))
            self._days.remove(day)

    def all(self) -> Iterator[tuple[str, str]]:
        """``(source, id)`` of every event remembered; of one without an id, its place."""
        for day in sorted(self._days):
            yield from self._db.execute(f"SELECT source, id FROM ids_{day}")
