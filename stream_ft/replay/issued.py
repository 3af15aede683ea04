"""The predictions that feedback can name: their table, looked up and written in batches."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stream_ft.events import Prediction

_CHUNK = 500


class Issued:
    """One prediction, as far as feedback needs it."""

    __slots__ = ("base", "embedding", "input", "output", "scored", "version")

    def __init__(self, version: str, base: str, input: str, output: str, embedding: bytes | None, scored: int) -> None:
        self.version, self.base, self.input, self.output = version, base, input, output
        self.embedding, self.scored = embedding, bool(scored)


class Predictions:
    """Reads and writes inside the caller's transaction; what is new is written by :meth:`flush`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._seen: dict[str, Issued | None] = {}
        self._new: list[tuple[object, ...]] = []
        self._scored: list[tuple[str]] = []

    def expect(self, ids: Sequence[str]) -> None:
        """Look these up at once."""
        self._seen = dict.fromkeys(ids)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            for id, *row in self._db.execute(
                f"SELECT id, version, base, input, output, embedding, scored FROM predictions WHERE id IN ({marks})",
                chunk,
            ):
                self._seen[id] = Issued(*row)

    def get(self, id: str) -> Issued | None:
        """A prediction; ``None`` if it has not come, or was forgotten."""
        if id not in self._seen:
            row = self._db.execute(
                "SELECT version, base, input, output, embedding, scored FROM predictions WHERE id = ?", (id,)
            ).fetchone()
            self._seen[id] = None if row is None else Issued(*row)
        return self._seen[id]

    def add(self, event: Prediction, *, appended_at: float, time: float) -> bool:
        """Keep a prediction; false if another one has its id."""
        if self.get(event.id) is not None:
            return False
        self._seen[event.id] = Issued(event.version, event.base, event.input, event.output, event.embedding, 0)
        self._new.append(
            (event.id, appended_at, time, event.version, event.base, event.input, event.output, event.embedding)
        )
        return True

    def score(self, id: str, found: Issued) -> None:
        """Note that somebody has judged its answer."""
        found.scored = True
        self._scored.append((id,))

    def flush(self) -> None:
        """Write what is new."""
        if self._new:
            self._db.executemany(
                "INSERT INTO predictions(id, appended_at, time, version, base, input, output, embedding)"
                " VALUES(?,?,?,?,?,?,?,?)",
                self._new,
            )
            self._new = []
        if self._scored:
            self._db.executemany("UPDATE predictions SET scored = 1 WHERE id = ?", self._scored)
            self._scored = []

    def expire(self, before: float, limit: int) -> None:
        """Forget up to ``limit`` of those appended before a time, the oldest first."""
        self.flush()
        self._db.execute(
            "DELETE FROM predictions WHERE row IN"
            " (SELECT row FROM predictions WHERE appended_at < ? ORDER BY appended_at LIMIT ?)",
            (before, limit),
        )
        self._seen = {}
