"""The table of claims: who says what of which text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from stream_ft.replay.join import Claim, pack, unpack

_COLUMNS = (
    "id, key, digest, input, correction, source, trust, time, tie, appended_at, predicted, version, covers,"
    " quarantined, dropped, dropped_by"
)


_CHUNK = 500


class _New:
    """A claim that is not written yet."""

    __slots__ = ("claim", "trained")

    def __init__(self, claim: Claim) -> None:
        self.claim, self.trained = claim, False


class Claims:
    """Reads and writes inside the caller's transaction.

    New claims are written together, by :meth:`flush` or before anything is read that could depend on them. What
    :meth:`expect` did not find need not be looked for again.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'claims'").fetchone()
        self._last = 0 if found is None else int(found[0])
        self._no_keys: set[str] = set()
        self._no_best: set[bytes] = set()
        self._never_trained: set[bytes] = set()
        self._new: dict[int, _New] = {}
        self._new_of: dict[bytes, list[int]] = {}
        self._drops: list[tuple[str, int | None, int]] = []

    def expect(self, keys: Sequence[str], digests: Sequence[bytes]) -> None:
        """Find out at once which of these claims and texts are not there."""
        self.flush()
        self._no_keys = set(keys) - self._found("key", "1", keys)
        self._no_best = set(digests) - self._found("digest", "correction IS NOT NULL AND quarantined = 0", digests)
        self._never_trained = set(digests) - self._found("digest", "trained = 1", digests)

    def _found(self, column: str, where: str, values: Sequence[Any]) -> set[Any]:
        found: set[Any] = set()
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            found.update(
                value
                for (value,) in self._db.execute(
                    f"SELECT {column} FROM claims WHERE {column} IN ({marks}) AND {where}", chunk
                )
            )
        return found

    def flush(self) -> None:
        """Write what is new."""
        if self._drops:
            self._db.executemany("UPDATE claims SET dropped = ?, dropped_by = ? WHERE id = ?", self._drops)
            self._drops = []
        if not self._new:
            return
        self._db.executemany(
            "INSERT INTO claims(id, key, digest, input, correction, source, trust, time, tie, appended_at, predicted,"
            " version, covers, quarantined, trained, dropped, dropped_by) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            [(*_values(new.claim), new.trained, new.claim.dropped, new.claim.dropped_by) for new in self._new.values()],
        )
        self._no_best -= self._new_of.keys()
        self._never_trained -= self._new_of.keys()
        self._new, self._new_of = {}, {}

    def get(self, key: str) -> Claim | None:
        """The claim of one prediction or labelled event."""
        if key in self._no_keys:
            return None
        self.flush()
        row = self._db.execute(f"SELECT {_COLUMNS} FROM claims WHERE key = ?", (key,)).fetchone()
        return None if row is None else _claim(row)

    def best(self, digest: bytes) -> Claim | None:
        """The greatest claim about a text, of those that bring a correction and are not quarantined."""
        new = self._new_of.get(digest, ())
        if digest in self._no_best and len(new) < 2:
            claim = self._new[new[0]].claim if new else None
            return None if claim is None or claim.correction is None or claim.quarantined else claim
        self.flush()
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM claims WHERE digest = ? AND correction IS NOT NULL AND quarantined = 0"
            " ORDER BY trust DESC, time DESC, tie DESC LIMIT 1",
            (digest,),
        ).fetchone()
        return None if row is None else _claim(row)

    def put(self, claim: Claim) -> int:
        """Write a claim in place of the one with the same key; its row."""
        if claim.key in self._no_keys:
            self._no_keys.discard(claim.key)
            self._last += 1
            self._new[self._last] = _New(structs.replace(claim, id=self._last))
            self._new_of.setdefault(claim.digest, []).append(self._last)
            return self._last
        self.flush()
        self._no_best.discard(claim.digest)
        (row,) = self._db.execute(
            "INSERT INTO claims(id, key, digest, input, correction, source, trust, time, tie, appended_at, predicted,"
            " version, covers, quarantined) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(key) DO UPDATE SET"
            " correction = excluded.correction, source = excluded.source, trust = excluded.trust, time = excluded.time,"
            " tie = excluded.tie, appended_at = excluded.appended_at, quarantined = excluded.quarantined,"
            " dropped = '', dropped_by = NULL RETURNING id",
            _values(structs.replace(claim, id=self._last + 1)),
        ).fetchone()
        self._last = max(self._last, row)
        return int(row)

    def drop(self, id: int, why: str, by: int | None = None) -> None:
        """Note why the example of a claim was evicted, and by which claim."""
        if (new := self._new.get(id)) is not None:
            new.claim = structs.replace(new.claim, dropped=why, dropped_by=by)
        else:
            self._drops.append((why, by, id))

    def trains(self, id: int) -> None:
        """Note that a claim's text has been among the training examples."""
        if (new := self._new.get(id)) is not None:
            new.trained = True
            return
        found = self._db.execute("UPDATE claims SET trained = 1 WHERE id = ? RETURNING digest", (id,)).fetchall()
        self._never_trained.difference_update(digest for (digest,) in found)

    def trained(self, digest: bytes) -> bool:
        """Whether a text has ever been among the training examples, as far as claims reach back.

        Under whatever claim: what its source is worth today does not undo what a version has learned.
        """
        if digest in self._never_trained:
            return any(self._new[id].trained for id in self._new_of.get(digest, ()))
        self.flush()
        found = self._db.execute("SELECT 1 FROM claims WHERE digest = ? AND trained = 1", (digest,)).fetchone()
        return found is not None

    def quarantine(self, source: str | None, since: float | None, until: float | None) -> tuple[int, list[bytes]]:
        """Set claims aside: how many, and the texts they are about.

        What those claims alone had contradicted is put back: its texts are among the result too.
        """
        self.flush()
        rows = self._db.execute(
            "UPDATE claims SET quarantined = 1 WHERE quarantined = 0 AND source = ifnull(?1, source)"
            " AND appended_at >= ifnull(?2, appended_at) AND appended_at <= ifnull(?3, appended_at)"
            " RETURNING id, digest",
            (source, since, until),
        ).fetchall()
        digests = {digest: None for _, digest in rows}
        for id, _ in rows:
            revived = self._db.execute(
                "UPDATE claims SET dropped = '', dropped_by = NULL WHERE dropped_by = ? RETURNING digest", (id,)
            ).fetchall()
            digests |= dict.fromkeys(digest for (digest,) in revived)
        return len(rows), list(digests)

    def set_aside(self, source: str | None, since: float | None, until: float | None) -> bool:
        """Whether any claim of these is quarantined."""
        self.flush()
        found = self._db.execute(
            "SELECT 1 FROM claims WHERE quarantined = 1 AND source = ifnull(?1, source)"
            " AND appended_at >= ifnull(?2, appended_at) AND appended_at <= ifnull(?3, appended_at) LIMIT 1",
            (source, since, until),
        ).fetchone()
        return found is not None

    def expire(self, before: float, limit: int) -> int:
        """Forget claims appended earlier, up to ``limit``, but for those that retained examples rest on."""
        self.flush()
        return self._db.execute(
            "DELETE FROM claims WHERE id IN (SELECT id FROM claims WHERE appended_at < ?"
            " AND id NOT IN (SELECT claim FROM examples) ORDER BY appended_at LIMIT ?)",
            (before, limit),
        ).rowcount


def _values(claim: Claim) -> tuple[Any, ...]:
    return (
        claim.id, claim.key, claim.digest, claim.input, pack(claim.correction), claim.source, claim.trust, claim.time,
        claim.tie, claim.appended_at, claim.predicted, claim.version, claim.covers, claim.quarantined,
    )  # fmt: skip


def _claim(row: Iterable[Any]) -> Claim:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["correction"] = unpack(values["correction"])
    values["covers"], values["quarantined"] = bool(values["covers"]), bool(values["quarantined"])
    return Claim(**values)
