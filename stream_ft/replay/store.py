"""What the learner remembers: events, offsets, joins, examples, holdout and outgoing messages, one transaction a call.

SQLite in WAL mode, ``synchronous=FULL``: when :meth:`Store.apply` returns, the offsets and everything that follows from
their events survive a kill -9 and a power cut, and when it raises, nothing of it was done. The indexes in memory are
built from the file when it is opened. One process writes; use it from one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from stream_ft import failpoints
from stream_ft.events import Example
from stream_ft.ports import Outgoing
from stream_ft.replay import database
from stream_ft.replay.applied import Applied, Composition, Counts, Item, Memory, Scored
from stream_ft.replay.claims import Claims
from stream_ft.replay.contradiction import Neighbourhood
from stream_ft.replay.examples import Examples
from stream_ft.replay.identity import DAY, Identities
from stream_ft.replay.intake import Intake
from stream_ft.replay.lessons import Lessons
from stream_ft.replay.outbox import Outbox
from stream_ft.replay.parked import Parked
from stream_ft.replay.sampler import Name, sampler
from stream_ft.topics import topic

__all__ = ["Applied", "Composition", "Counts", "Item", "Scored", "Store"]

_MEMORY = "store.memory"


class Store:
    """One model's store.

    Args:
        path: of the file, or ``:memory:``.
        capacity: most training examples retained.
        sampler: ``reservoir``, ``balanced`` or ``recent``: which of them.
        holdout_share: share of the examples that are tested on and never trained on.
        holdout_after: a class is held out from only once it has this many training examples.
        holdout_capacity: most holdout examples.
        orphan_limit_s: feedback whose prediction is missing expires when the append times of the last predictions have
            all passed it by this many seconds.
        horizon_days: identities, predictions and claims are kept this long, counted in append time; an event that is
            older when it is appended is refused.
        contradictions: newer neighbours that agree on another label before an example is evicted.
        similarity: cosine from which two embeddings are neighbours.
        seed: of the sampler.
        model: name of the model, for the dead letters' topic.
        journal: keep what can be learned from until it was (:attr:`lessons`).

    Raises:
        ConfigError: the file is damaged or not a store.
        StoreFullError: it cannot be written. So do all methods that write.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        capacity: int,
        sampler: Name,
        holdout_share: float,
        holdout_after: int,
        holdout_capacity: int,
        orphan_limit_s: float,
        horizon_days: int,
        contradictions: int,
        similarity: float,
        seed: int,
        model: str,
        journal: bool = False,
    ) -> None:
        self._journal = journal
        self._path = path
        self._capacity = capacity
        self._sampler: Name = sampler
        self._holdout = (holdout_share, holdout_after, holdout_capacity)
        self._orphan_limit = orphan_limit_s
        self._horizon = horizon_days * DAY
        self._neighbours = (contradictions, similarity)
        self._seed = seed
        self._dlq = topic(model, "dlq")
        self._stale = False
        self._db = database.connect(path)
        self._load()

    # --- reading -----------------------------------------------------------------------------------------------

    def offsets(self) -> dict[tuple[str, int], int]:
        """Next offset to read of each ``(topic, partition)``: where a consumer seeks to on start."""
        self._ensure_fresh()
        return dict(self._offsets)

    def training(self) -> list[Example]:
        """The training examples retained, ascending by ``seq``."""
        with self._reading():
            return self._examples.all(holdout=False)

    def holdout(self) -> list[Example]:
        """The examples that are never trained on, ascending by ``seq``."""
        with self._reading():
            return self._examples.all(holdout=True)

    def example(self, id: int) -> Example | None:
        """An example as it is now; ``None`` if it is not retained."""
        with self._reading():
            return next(iter(self._examples.get([id])), None)

    def missing_embeddings(self, base: str, limit: int) -> list[Example]:
        """Up to ``limit`` retained examples that have no embedding under ``base``, the newest first."""
        with self._reading():
            return self._examples.missing(base, limit)

    def max_seq(self) -> int:
        """Greatest sequence number given so far; 0 in a new store."""
        self._ensure_fresh()
        return self._memory.seq

    def count(self) -> Counts:
        """How much is held. Cheap: nothing is read from the file."""
        self._ensure_fresh()
        waiting = self._parked.counts
        return Counts(
            train=self._examples.train,
            holdout=self._examples.held,
            classes=self._examples.classes,
            events=self._memory.events,
            duplicates=self._memory.duplicates,
            dead_letters=self._memory.dead_letters,
            waiting=sum(waiting.values()),
            orphans=waiting["orphan"],
            outbox=self._outbox.count,
        )

    def composition(self, fresh_after: int) -> Composition:
        """What the training examples are; reads all of them.

        Args:
            fresh_after: examples with a greater ``seq`` are fresh.
        """
        with self._reading():
            return Composition(
                by_trust=self._examples.by_trust(fresh_after), class_sizes=list(self._examples.class_sizes)
            )

    def labels(self) -> frozenset[str]:
        """Labels that users may give."""
        self._ensure_fresh()
        return frozenset(self._labels)

    def identities(self) -> Iterator[tuple[str, str]]:
        """``(source, id)`` of every event with an id that was applied within the horizon.

        What ingest forwarded is there too without an id, by the place where it lay.
        """
        with self._reading():
            yield from self._identities.all()

    def load(self, key: str) -> bytes | None:
        """What :meth:`save` wrote last under a key."""
        with self._reading():
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"user.{key}",)).fetchone()
        return None if found is None else bytes(found[0])

    def outbox(self, limit: int) -> list[tuple[int, Outgoing]]:
        """The oldest messages that wait to be published, with the rows to cross off."""
        with self._reading():
            return self._outbox.first(limit)

    # --- writing -----------------------------------------------------------------------------------------------

    def apply(self, items: Sequence[Item], *, now: float) -> Applied:
        """Take in records with what they say, and pass their offsets, in one transaction.

        A record below its partition's offset and an event that came before are absorbed; refused events become dead
        letters in the outbox. An event's place in the result does not depend on the clock: ``now`` is only for logs.

        Args:
            items: in the order of each partition.
            now: seconds since the epoch.
        """
        with self._writing("store.before_commit"):
            intake = self._intake()
            offsets = dict(self._offsets)
            intake.take(items)
            applied = self._finish(intake)
            moved = [(t, p, n) for (t, p), n in self._offsets.items() if offsets.get((t, p)) != n]
            self._db.executemany("INSERT OR REPLACE INTO offsets VALUES(?,?,?)", moved)
        failpoints.hit("store.after_commit")
        return applied

    def set_embeddings(self, base: str, rows: Sequence[tuple[int, bytes]]) -> None:
        """Take embeddings of examples under ``base``; ids that are no longer retained are ignored.

        Neighbours are sought under that base from now on; an example that they contradict is evicted.
        """
        with self._writing():
            self._examples.set_embeddings(base, rows)
            self._finish(self._intake())

    def quarantine(self, source: str | None, since: float | None, until: float | None) -> int:
        """Set aside what a source said in a range of append times, past and future; how many statements that was.

        ``None`` leaves an end open, or means every source. Their examples neither train nor test any more; what only
        they had contradicted is back. All three ``None`` would end all learning for ever, and does nothing.
        """
        rule = (source, since, until)
        if rule == (None, None, None):
            return 0
        with self._writing():
            if rule not in self._quarantines:
                self._db.execute("INSERT INTO quarantines VALUES(?,?,?)", rule)
                self._quarantines.append(rule)
            count, digests = self._claims.quarantine(*rule)
            intake = self._intake()
            for digest in digests:
                intake.resolve(digest)
            self._finish(intake)
        return count

    def set_aside(self, source: str | None, since: float | None, until: float | None) -> bool | None:
        """Whether a quarantine holds any statement; ``None`` before :meth:`quarantine` has carried it out."""
        rule = (source, since, until)
        with self._reading():
            return self._claims.set_aside(*rule) if rule in self._quarantines else None

    def allow_label(self, label: str) -> None:
        """Let users give a label from now on; those who gave it before are heard now."""
        with self._writing():
            intake = self._intake()
            intake.allow(label, "operator")
            self._finish(intake)

    def evict(self, ids: Sequence[int]) -> None:
        """Forget examples for good; ids that are not retained are ignored."""
        with self._writing():
            for id in ids:
                self._examples.remove(id, "evicted")
            self._finish(self._intake())

    def save(self, key: str, value: bytes) -> None:
        """Keep some bytes under a key."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (f"user.{key}", value))

    def outbox_done(self, rows: Sequence[int]) -> None:
        """Cross off messages that were published."""
        with self._writing():
            self._outbox.done(list(rows))

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._db.close()

    # --- inside ------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Everything in memory, from the file."""
        with database.explained(self._path):
            db = self._db
            share, after, holdout_capacity = self._holdout
            contradictions, similarity = self._neighbours
            found = db.execute("SELECT value FROM meta WHERE key = ?", (_MEMORY,)).fetchone()
            self._memory = msgspec.msgpack.decode(found[0], type=Memory) if found else Memory()
            self._offsets: dict[tuple[str, int], int] = {
                (t, p): n for t, p, n in db.execute("SELECT topic, part, next FROM offsets")
            }
            self._labels = {label for (label,) in db.execute("SELECT label FROM labels")}
            self._quarantines: list[tuple[str | None, float | None, float | None]] = list(
                db.execute("SELECT source, since, until FROM quarantines")
            )
            self._claims = Claims(db)
            self._identities = Identities(db)
            self._parked = Parked(db)
            self._outbox = Outbox(db)
            self.lessons = Lessons(db, self._writing, self._reading)
            self._examples = Examples(
                db,
                self._claims,
                sampler=sampler(self._sampler, self._capacity, self._seed),
                neighbourhood=Neighbourhood(contradictions=contradictions, similarity=similarity),
                holdout_share=share,
                holdout_after=after,
                holdout_capacity=holdout_capacity,
                seq=self._memory.seq,
                last_id=self._memory.last_id,
            )
        self._stale = False

    def _finish(self, intake: Intake) -> Applied:
        applied, self._memory = intake.finish()
        if self._journal:
            self.lessons.add(applied.lessons)
        return applied

    def _intake(self) -> Intake:
        return Intake(
            self._db,
            claims=self._claims,
            examples=self._examples,
            identities=self._identities,
            parked=self._parked,
            outbox=self._outbox,
            labels=self._labels,
            quarantines=self._quarantines,
            offsets=self._offsets,
            memory=self._memory,
            dlq=self._dlq,
            orphan_limit_s=self._orphan_limit,
            horizon_s=self._horizon,
        )

    def _ensure_fresh(self) -> None:
        """After a transaction that failed, memory is built anew before anybody looks at it."""
        if self._stale:
            self._load()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        self._ensure_fresh()
        with database.explained(self._path):
            yield

    @contextmanager
    def _writing(self, failpoint: str = "") -> Iterator[None]:
        """One transaction: all of it, or none of it, in the file and in memory."""
        self._ensure_fresh()
        memory = self._memory
        with database.explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            done = False
            try:
                yield
                if self._memory != memory:
                    self._db.execute(
                        "INSERT OR REPLACE INTO meta VALUES(?, ?)", (_MEMORY, msgspec.msgpack.encode(self._memory))
                    )
                if failpoint:
                    failpoints.hit(failpoint)
                self._db.execute("COMMIT")
                done = True
            finally:
                if not done:
                    self._stale = True
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
