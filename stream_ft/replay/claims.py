"""The table of claims: who says what of which text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from stream_ft.replay.join import Claim, pack, unpack

_COLUMNS = (
    "id, key, digest, input, correction, source, trust, time, tie, appended_at, predicted, version, covers,"
    " quarantined, dropped, dropped_by"
)


class Claims:
    """Reads and writes inside the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def get(self, key: str) -> Claim | None:
        """The claim of one prediction or labelled event."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM claims WHERE key = ?", (key,)).fetchone()
        return None if row is None else _claim(row)

    def best(self, digest: bytes) -> Claim | None:
        """The greatest claim about a text, of those that bring a correction and are not quarantined."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM claims WHERE digest = ? AND correction IS NOT NULL AND quarantined = 0"
            " ORDER BY trust DESC, time DESC, tie DESC LIMIT 1",
            (digest,),
        ).fetchone()
        return None if row is None else _claim(row)

    def put(self, claim: Claim) -> int:
        """Write a claim in place of the one with the same key; its row."""
        (row,) = self._db.execute(
            "INSERT INTO claims(key, digest, input, correction, source, trust, time, tie, appended_at, predicted,"
            " version, covers, quarantined) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(key) DO UPDATE SET"
            " correction = excluded.correction, source = excluded.source, trust = excluded.trust, time = excluded.time,"
            " tie = excluded.tie, appended_at = excluded.appended_at, quarantined = excluded.quarantined,"
            " dropped = '', dropped_by = NULL RETURNING id",
            (
                claim.key, claim.digest, claim.input, pack(claim.correction), claim.source, claim.trust, claim.time,
                claim.tie, claim.appended_at, claim.predicted, claim.version, claim.covers, claim.quarantined,
            ),
        ).fetchone()  # fmt: skip
        return int(row)

    def drop(self, id: int, why: str, by: int | None = None) -> None:
        """Note why the example of a claim was evicted, and by which claim."""
        self._db.execute("UPDATE claims SET dropped = ?, dropped_by = ? WHERE id = ?", (why, by, id))

    def trains(self, id: int) -> None:
        """Note that a claim's text has been among the training examples."""
        self._db.execute("UPDATE claims SET trained = 1 WHERE id = ?", (id,))

    def trained(self, digest: bytes) -> bool:
        """Whether a text has ever been among the training examples, as far as claims reach back.

        Under whatever claim: what its source is worth today does not undo what a version has learned.
        """
        found = self._db.execute("SELECT 1 FROM claims WHERE digest = ? AND trained = 1", (digest,)).fetchone()
        return found is not None

    def quarantine(self, source: str | None, since: float | None, until: float | None) -> tuple[int, list[bytes]]:
        """Set claims aside: how many, and the texts they are about.

        What those claims alone had contradicted is put back: its texts are among the result too.
        """
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

    def expire(self, before: float, limit: int) -> int:
        """Forget claims appended earlier, up to ``limit``, but for those that retained examples rest on."""
        return self._db.execute(
            "DELETE FROM claims WHERE id IN (SELECT id FROM claims WHERE appended_at < ?"
            " AND id NOT IN (SELECT claim FROM examples) ORDER BY appended_at LIMIT ?)",
            (before, limit),
        ).rowcount


def _claim(row: Iterable[Any]) -> Claim:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["correction"] = unpack(values["correction"])
    values["covers"], values["quarantined"] = bool(values["covers"]), bool(values["quarantined"])
    return Claim(**values)
