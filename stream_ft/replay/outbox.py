"""Dead letters and other messages, written in the transaction that passes their offset and published after it."""

from __future__ import annotations

import sqlite3

import msgspec

from stream_ft.ports import Outgoing


class Outbox:
    """Messages that wait to be published, written in the transaction that passes their offset."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.load()

    def load(self) -> None:
        """Count what waits."""
        (self.count,) = self._db.execute("SELECT count(*) FROM outbox").fetchone()

    def add(self, message: Outgoing) -> None:
        """Let a message wait."""
        self._db.execute(
            "INSERT INTO outbox(topic, key, value, headers) VALUES(?,?,?,?)",
            (message.topic, message.key, message.value, msgspec.msgpack.encode(message.headers)),
        )
        self.count += 1

    def first(self, limit: int) -> list[tuple[int, Outgoing]]:
        """The oldest messages, with their rows."""
        rows = self._db.execute("SELECT id, topic, key, value, headers FROM outbox ORDER BY id LIMIT ?", (limit,))
        return [
            (
                id,
                Outgoing(
                    topic=topic,
                    key=key,
                    value=value,
                    headers=msgspec.msgpack.decode(headers, type=tuple[tuple[str, bytes], ...]),
                ),
            )
            for id, topic, key, value, headers in rows
        ]

    def done(self, rows: list[int]) -> None:
        """Cross off messages that were published; unknown rows are ignored."""
        before = self._db.total_changes
        self._db.executemany("DELETE FROM outbox WHERE id = ?", [(row,) for row in rows])
        self.count -= self._db.total_changes - before
