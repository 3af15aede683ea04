"""The retained examples: their table, and the indexes in memory that say who is near, who is drawn, who falls."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from msgspec import Struct, structs

from stream_ft.events import Correction, Example, LabelCorrection
from stream_ft.replay.claims import Claims
from stream_ft.replay.contradiction import Neighbourhood, Placed
from stream_ft.replay.holdout import held_out
from stream_ft.replay.join import Claim, pack, unpack
from stream_ft.replay.neardup import SAME, NearDuplicates, normalise
from stream_ft.replay.sampler import Sampler

_COLUMNS = (
    "id, seq, input, correction, source, trust, weight, time, accepted_at, holdout, embedding, base, predicted,"
    " version, covers"
)


class Row(Struct, frozen=True, kw_only=True):
    """What memory holds of an example."""

    id: int
    claim: int
    digest: bytes
    correction: Correction
    trust: int
    time: float
    tie: str
    holdout: bool

    @property
    def label(self) -> str:
        """Class by which examples are balanced; answers that are no label are all of one class."""
        return self.correction.label if isinstance(self.correction, LabelCorrection) else ""


class Examples:
    """Examples of one store. Writes happen inside the caller's transaction; after a rollback, make a new one.

    Args:
        db: the store's connection.
        claims: of the same store.
        sampler: chooses among training examples.
        neighbourhood: finds contradicted ones.
        holdout_share, holdout_after: see :func:`stream_ft.replay.holdout.held_out`.
        holdout_capacity: most holdout examples; the oldest leave.
        seq, last_id: the last ones given.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        claims: Claims,
        *,
        sampler: Sampler,
        neighbourhood: Neighbourhood,
        holdout_share: float,
        holdout_after: int,
        holdout_capacity: int,
        seq: int,
        last_id: int,
    ) -> None:
        self.seq = seq
        self.last_id = last_id
        self._db = db
        self._claims = claims
        self._sampler = sampler
        self._neighbourhood = neighbourhood
        self._share = holdout_share
        self._after = holdout_after
        self._capacity = holdout_capacity
        self._load()

    def _load(self) -> None:
        self._rows: dict[int, Row] = {}
        self._by_digest: dict[bytes, int] = {}
        self._per_class: Counter[str] = Counter()
        self._held: set[int] = set()
        self._near = NearDuplicates()
        self._new: dict[int, tuple[Any, ...]] = {}
        """Rows that are not written yet."""
        self._fresh: dict[int, Example] = {}
        """Those of the changed that are as they were inserted: they need not be read back."""
        self._gone: list[tuple[int]] = []
        self._changed: set[int] = set()
        self._evicted: dict[int, None] = {}
        self._passed: list[Example] = []
        rows = self._db.execute(
            "SELECT id, claim, digest, correction, trust, time, tie, holdout, input FROM examples ORDER BY id"
        ).fetchall()
        self.prepare(normalise(values[-1]) for values in rows)
        for values in rows:
            id, claim, digest, correction, trust, time, tie, holdout, text = values
            row = Row(
                id=id, claim=claim, digest=digest, correction=_correction(correction), trust=trust, time=time, tie=tie,
                holdout=bool(holdout),
            )  # fmt: skip
            self._enter(row, normalise(text))
        self._sampler.restore((row.id, row.label) for row in self._rows.values() if not row.holdout)
        newest = self._db.execute("SELECT base FROM examples WHERE base != '' ORDER BY seq DESC LIMIT 1").fetchone()
        self._adopt("" if newest is None else newest[0])
        self._neighbourhood.settle()

    # --- reading -----------------------------------------------------------------------------------------------

    @property
    def train(self) -> int:
        """How many train."""
        return len(self._rows) - len(self._held)

    @property
    def held(self) -> int:
        """How many are held out."""
        return len(self._held)

    @property
    def classes(self) -> int:
        """Labels among the training examples."""
        return len(self._per_class)

    @property
    def class_sizes(self) -> Collection[int]:
        """Training examples of each class."""
        return self._per_class.values()

    def by_trust(self, fresh_after: int) -> dict[tuple[int, bool], int]:
        """Training examples by trust, and by whether their ``seq`` is greater than ``fresh_after``."""
        self.flush()
        rows = self._db.execute(
            "SELECT trust, seq > ?, count(*) FROM examples WHERE holdout = 0 GROUP BY 1, 2", (fresh_after,)
        )
        return {(trust, bool(fresh)): count for trust, fresh, count in rows}

    def find(self, digest: bytes) -> Row | None:
        """The example with a text."""
        id = self._by_digest.get(digest)
        return None if id is None else self._rows[id]

    def all(self, *, holdout: bool) -> list[Example]:
        """One side, ascending by ``seq``."""
        return self._select("WHERE holdout = ? ORDER BY seq", (holdout,))

    def get(self, ids: Iterable[int]) -> list[Example]:
        """Those of these ids that are retained, ascending by ``seq``."""
        found = [example for id in ids for example in self._select("WHERE id = ?", (id,))]
        return sorted(found, key=lambda example: example.seq)

    def missing(self, base: str, limit: int) -> list[Example]:
        """Up to ``limit`` examples without an embedding of ``base``, the newest first."""
        return self._select("WHERE base != ? ORDER BY seq DESC LIMIT ?", (base, limit))

    def take(self) -> tuple[list[Example], list[int]]:
        """New and revised examples, and the ids of those that left, since the last call."""
        changed = [*self._fresh.values(), *self.get(self._changed - self._fresh.keys())]
        evicted = list(self._evicted)
        self._changed, self._fresh, self._evicted = set(), {}, {}
        return sorted(changed, key=lambda example: example.seq), evicted

    def flush(self) -> None:
        """Write what came and went."""
        if self._gone:
            self._db.executemany("DELETE FROM examples WHERE id = ?", self._gone)
            self._gone = []
        if self._new:
            self._db.executemany("INSERT INTO examples VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", self._new.values())
            self._new = {}

    def prepare(self, normalised: Iterable[str]) -> None:
        """Make ready for texts that claims will be about."""
        self._near.prepare(normalised)

    def passed(self) -> list[Example]:
        """New training examples for which there was no room, since the last call: they can be learned from now."""
        passed, self._passed = self._passed, []
        return passed

    # --- writing -----------------------------------------------------------------------------------------------

    def admit(self, claim: Claim, embedding: bytes | None, base: str) -> None:
        """Make a claim an example, unless newer evidence or the sampler is against it."""
        correction = claim.correction
        if correction is None:
            return
        normalised = normalise(claim.input)
        near = [(self._rows[id], similarity) for id, similarity in self._near.near(normalised)]
        rivals = [row for row, s in near if s >= SAME and _disagree(row.correction, correction)]
        for row in rivals:
            if (row.time, row.tie) > (claim.time, claim.tie) and row.trust >= claim.trust:
                self._claims.drop(claim.id, "contradicted", row.claim)
                return
        for row in rivals:
            if row.trust <= claim.trust and (row.time, row.tie) < (claim.time, claim.tie):
                self.remove(row.id, "contradicted", claim.id)
        stored = [row for row, _ in near if row.id in self._rows]
        label = correction.label if isinstance(correction, LabelCorrection) else ""
        holdout = held_out(
            claim.digest,
            share=self._share,
            trained_of_class=self._per_class[label],
            after=self._after,
            sides_of_near={row.holdout for row in stored},
        ) and not self._claims.trained(claim.digest)
        self.last_id += 1
        row = Row(
            id=self.last_id, claim=claim.id, digest=claim.digest, correction=correction, trust=claim.trust,
            time=claim.time, tie=claim.tie, holdout=holdout,
        )  # fmt: skip
        if not holdout:
            gone = self._sampler.offer(row.id, label)
            if gone == row.id:
                self._claims.drop(claim.id, "sampled_out")
                self._pass(row, claim, embedding, base)
                return
            if gone is not None:
                self.remove(gone, "sampled_out")
            for other in stored:
                if other.holdout:
                    self.remove(other.id, "near_duplicate")
            self._claims.trains(claim.id)
        self._insert(row, claim, embedding, base)
        self._enter(row, normalised)
        self._place(row, embedding, base)
        if len(self._held) > self._capacity:
            oldest = min(self._held, key=lambda id: (self._rows[id].time, id))
            self.remove(oldest, "holdout_full")

    def refresh(self, row: Row, claim: Claim, embedding: bytes | None, base: str) -> None:
        """The same answer was said again, or by somebody else: one example, as new and as trusted as the latest."""
        same = structs.replace(row, claim=claim.id, trust=claim.trust, time=claim.time, tie=claim.tie)
        if same == row:
            return
        self._changing(row.id)
        self._update(same, claim)
        if embedding is not None and base == self._neighbourhood.base:
            self._db.execute("UPDATE examples SET embedding = ?, base = ? WHERE id = ?", (embedding, base, row.id))
        self._replace(same)

    def revise(self, row: Row, claim: Claim) -> None:
        """The same claim now says something else: same id, same side, a new ``seq``."""
        if claim.correction is None:
            return
        new = structs.replace(
            row, correction=claim.correction, trust=claim.trust, time=claim.time, tie=claim.tie, claim=claim.id
        )
        self.seq += 1
        self._changing(row.id)
        self._update(new, claim)
        self._db.execute("UPDATE examples SET seq = ? WHERE id = ?", (self.seq, row.id))
        if not row.holdout:
            self._count(row.label, -1)
            self._count(new.label, 1)
            self._sampler.discard(row.id)
            self._sampler.offer(new.id, new.label)  # takes the room it has just left
        self._replace(new)
        self._changed.add(row.id)

    def remove(self, id: int, why: str = "", by: int | None = None) -> bool:
        """Evict an example; with ``why``, its claim remembers. False if it is not retained."""
        row = self._rows.pop(id, None)
        if row is None:
            return False
        del self._by_digest[row.digest]
        self._near.remove(id)
        self._neighbourhood.remove(id)
        if row.holdout:
            self._held.discard(id)
        else:
            self._count(row.label, -1)
            self._sampler.discard(id)
        if self._new.pop(id, None) is None:
            self._gone.append((id,))
        fresh = self._fresh.pop(id, None)
        if fresh is not None and why and not fresh.holdout:
            self._passed.append(fresh)  # one transaction for each event would have taught it
        if why:
            self._claims.drop(row.claim, why, by)
        self._changed.discard(id)
        self._evicted[id] = None
        return True

    def settle(self) -> None:
        """Evict what newer neighbours contradict."""
        while fallen := self._neighbourhood.settle():
            guilty = {contradicted.by: self._rows[contradicted.by].claim for contradicted in fallen}
            for contradicted in fallen:
                self.remove(contradicted.id, "contradicted", guilty[contradicted.by])

    def set_embeddings(self, base: str, rows: Sequence[tuple[int, bytes]]) -> None:
        """Take embeddings under a base, which is the base of the neighbourhood from now on."""
        known = [(embedding, base, id) for id, embedding in rows if id in self._rows]
        self._changing(*(id for _, _, id in known))
        self._db.executemany("UPDATE examples SET embedding = ?, base = ? WHERE id = ?", known)
        if base != self._neighbourhood.base:
            self._adopt(base)
        else:
            for embedding, _, id in known:
                self._place(self._rows[id], embedding, base)
        self.settle()

    def adopt(self, base: str) -> None:
        """From now on neighbours are sought under this base."""
        if base and base != self._neighbourhood.base:
            self._adopt(base)

    # --- inside ------------------------------------------------------------------------------------------------

    def _adopt(self, base: str) -> None:
        self._neighbourhood.reset(base)
        if base:
            self.flush()
            for id, embedding in self._db.execute("SELECT id, embedding FROM examples WHERE base = ?", (base,)):
                self._place(self._rows[id], embedding, base)

    def _enter(self, row: Row, normalised: str) -> None:
        self._rows[row.id] = row
        self._by_digest[row.digest] = row.id
        self._near.add(row.id, normalised)
        if row.holdout:
            self._held.add(row.id)
        else:
            self._count(row.label, 1)

    def _changing(self, *ids: int) -> None:
        """What is to be updated must be in its table, and be read back from there."""
        self.flush()
        for id in ids:
            self._fresh.pop(id, None)

    def _replace(self, row: Row) -> None:
        self._rows[row.id] = row
        found = self._db.execute("SELECT embedding, base FROM examples WHERE id = ?", (row.id,)).fetchone()
        self._place(row, *found)

    def _place(self, row: Row, embedding: bytes | None, base: str) -> None:
        if embedding is None or not row.label:
            return
        if not self._neighbourhood.base:
            self._neighbourhood.reset(base)
        if base == self._neighbourhood.base:
            self._neighbourhood.add(
                Placed(id=row.id, label=row.label, trust=row.trust, time=row.time, embedding=embedding)
            )

    def _count(self, label: str, by: int) -> None:
        self._per_class[label] += by
        if not self._per_class[label]:
            del self._per_class[label]

    def _insert(self, row: Row, claim: Claim, embedding: bytes | None, base: str) -> None:
        self.seq += 1
        base = base if embedding is not None else ""
        self._new[row.id] = (
            row.id, self.seq, row.claim, row.digest, claim.input, pack(row.correction), claim.source, claim.trust,
            1.0, claim.time, claim.tie, claim.appended_at, row.holdout, embedding, base, claim.predicted,
            claim.version, claim.covers,
        )  # fmt: skip
        self._fresh[row.id] = Example(
            seq=self.seq,
            id=row.id,
            input=claim.input,
            correction=row.correction,
            source=claim.source,
            trust=claim.trust,
            weight=1.0,
            time=claim.time,
            accepted_at=claim.appended_at,
            holdout=row.holdout,
            embedding=embedding,
            embedding_base=base,
            predicted=claim.predicted,
            predicted_version=claim.version,
            covers=claim.covers,
        )
        self._changed.add(row.id)

    def _pass(self, row: Row, claim: Claim, embedding: bytes | None, base: str) -> None:
        self.seq += 1
        self._passed.append(
            Example(
                seq=self.seq,
                id=row.id,
                input=claim.input,
                correction=row.correction,
                source=claim.source,
                trust=claim.trust,
                time=claim.time,
                accepted_at=claim.appended_at,
                embedding=embedding,
                embedding_base=base if embedding is not None else "",
                predicted=claim.predicted,
                predicted_version=claim.version,
                covers=claim.covers,
            )
        )

    def _update(self, row: Row, claim: Claim) -> None:
        self._db.execute(
            # The first answer to a text stays: one that was given after it had been learned says nothing.
            "UPDATE examples SET claim = ?1, correction = ?2, source = ?3, trust = ?4, time = ?5, tie = ?6,"
            " accepted_at = ?7, predicted = iif(correction = ?2, predicted, ?8),"
            " version = iif(correction = ?2, version, ?9), covers = iif(correction = ?2, covers, ?10) WHERE id = ?11",
            (row.claim, pack(row.correction), claim.source, claim.trust, claim.time, claim.tie, claim.appended_at,
             claim.predicted, claim.version, claim.covers, row.id),
        )  # fmt: skip
        if not row.holdout:
            self._claims.trains(claim.id)  # the claim that it rested on so far may be forgotten before this one

    def _select(self, where: str, values: tuple[Any, ...]) -> list[Example]:
        self.flush()
        return [_example(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM examples {where}", values)]


def _disagree(left: Correction, right: Correction) -> bool:
    """Two labels that differ. Nearly equal inputs may well have two right texts or spans."""
    return isinstance(left, LabelCorrection) and isinstance(right, LabelCorrection) and left != right


def _correction(data: bytes) -> Correction:
    correction = unpack(data)
    assert correction is not None  # the column is NOT NULL
    return correction


def _example(row: tuple[Any, ...]) -> Example:
    (id, seq, text, correction, source, trust, weight, time, accepted_at, holdout, embedding, base, predicted, version,
     covers) = row  # fmt: skip
    return Example(
        seq=seq,
        id=id,
        input=text,
        correction=_correction(correction),
        source=source,
        trust=trust,
        weight=weight,
        time=time,
        accepted_at=accepted_at,
        holdout=bool(holdout),
        embedding=embedding,
        embedding_base=base,
        predicted=predicted,
        predicted_version=version,
        covers=bool(covers),
    )
