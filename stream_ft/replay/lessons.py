"""What the fast tier has still to learn, in its order, and the states that it can go back to.

A lesson is written in the transaction that makes its example, and stays until a checkpoint has it. A learner that was
killed goes on exactly: it takes up its newest checkpoint and learns what came after, once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import msgspec
from msgspec import Struct

from stream_ft.events import Example

KEPT = 20
"""Checkpoints kept."""


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A state of the fast tier."""

    id: int = 0
    base: str
    """Whose embeddings it was learned from."""
    epoch: int
    """In which it was taken."""
    upto: int
    """It has learned every lesson up to this sequence number."""
    head: str
    """sha256 of the head that it gives."""


class Lessons:
    """The two tables of one store.

    Args:
        db: the store's connection.
        writing, reading: open a transaction of the store, and a look at it.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        writing: Callable[[], AbstractContextManager[None]],
        reading: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._db = db
        self._writing = writing
        self._reading = reading

    def add(self, examples: Sequence[Example]) -> None:
        """Inside the transaction that made them; ``seq`` grows."""
        rows = [(example.seq, msgspec.msgpack.encode(example)) for example in examples]
        self._db.executemany("INSERT OR REPLACE INTO lessons VALUES(?, ?)", rows)

    def after(self, seq: int, limit: int) -> list[Example]:
        """Up to ``limit`` lessons with a greater sequence number, ascending."""
        with self._reading():
            found = self._db.execute(
                "SELECT example FROM lessons WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
            ).fetchall()
        return [msgspec.msgpack.decode(data, type=Example) for (data,) in found]

    def checkpoint(self, taken: Checkpoint, data: bytes, *, wanted: str = "") -> None:
        """Keep a state; the lessons that it has, and the oldest states beyond :data:`KEPT`, are forgotten.

        Args:
            wanted: head of a state that is kept however old it is.
        """
        with self._writing():
            self._db.execute(
                "INSERT INTO checkpoints(base, epoch, upto, head, data) VALUES(?,?,?,?,?)",
                (taken.base, taken.epoch, taken.upto, taken.head, data),
            )
            self._db.execute(
                "DELETE FROM checkpoints WHERE head <> ?"
                " AND id NOT IN (SELECT id FROM checkpoints ORDER BY id DESC LIMIT ?)",
                (wanted, KEPT),
            )
            self._db.execute("DELETE FROM lessons WHERE seq <= ?", (taken.upto,))

    def checkpoints(self) -> list[Checkpoint]:
        """What is kept, the newest first."""
        with self._reading():
            found = self._db.execute("SELECT id, base, epoch, upto, head FROM checkpoints ORDER BY id DESC").fetchall()
        return [
            Checkpoint(id=id, base=base, epoch=epoch, upto=upto, head=head) for id, base, epoch, upto, head in found
        ]

    def data(self, taken: Checkpoint) -> bytes:
        """The state itself.

        Raises:
            KeyError: it is not kept any more.
        """
        with self._reading():
            found = self._db.execute("SELECT data FROM checkpoints WHERE id = ?", (taken.id,)).fetchone()
        if found is None:
            raise KeyError(taken.id)
        return bytes(found[0])
