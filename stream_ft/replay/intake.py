"""Takes events into the store, one after the other, inside one transaction: identity, join, trust, labels."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Literal

from stream_ft import original
from stream_ft.dead_letters import dead_letter
from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction, Reject, SpanCorrection
from stream_ft.ports import Record
from stream_ft.replay.applied import Applied, Item, Memory, Scored
from stream_ft.replay.claims import Claims
from stream_ft.replay.examples import Examples
from stream_ft.replay.identity import Identities, name_of, name_of_place, place_of, place_text
from stream_ft.replay.issued import Predictions
from stream_ft.replay.join import Claim, judged, rated, tie_of, time_of, trust_of, value_of
from stream_ft.replay.neardup import digest, normalise
from stream_ft.replay.outbox import Outbox
from stream_ft.replay.parked import Parked, Waiting
from stream_ft.replay.watermark import PREDICTIONS_WINDOW, WINDOW
from stream_ft.topics import kind_of

Stage = Literal["identity", "join", "store"]
QUORUM = 3
"""Sources that must name a new label before users alone can introduce it."""
CLEAN = 2_000
"""Rows past their time that one transaction removes: bounds what a long pause costs."""


class Intake:
    """One transaction's work; the store makes a new one for each.

    Args:
        db, claims, examples, identities, parked, outbox: parts of one store, inside its transaction.
        labels: labels that are known; grows.
        quarantines: ``(source, since, until)`` whose statements do not train.
        offsets: next offset of each partition; moves on.
        memory: counters before.
        dlq: topic of the dead letters.
        orphan_limit_s, horizon_s: how long things wait, in seconds of append time.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        claims: Claims,
        examples: Examples,
        identities: Identities,
        parked: Parked,
        outbox: Outbox,
        labels: set[str],
        quarantines: Sequence[tuple[str | None, float | None, float | None]],
        offsets: dict[tuple[str, int], int],
        memory: Memory,
        dlq: str,
        orphan_limit_s: float,
        horizon_s: float,
    ) -> None:
        self._db = db
        self._claims = claims
        self._examples = examples
        self._identities = identities
        self._predictions = Predictions(db)
        self._texts: dict[str, tuple[str, bytes]] = {}
        self._parked = parked
        self._outbox = outbox
        self._labels = labels
        self._quarantines = quarantines
        self._offsets = offsets
        self._forwarded = any(kind_of(topic) == "events" for topic, _ in offsets)
        """Whether this store has ever read what ingest forwards: then what lies where it was published may be known."""
        self._dlq = dlq
        self._orphan_limit = orphan_limit_s
        self._horizon = horizon_s
        self._log_time = memory.log_time
        self._predictions_time = memory.predictions_time
        self._appended: list[float] = []
        self._predicted: list[float] = []
        self._before = memory
        self._known: dict[bytes, bytes] = {}
        self._scored: list[Scored] = []
        self._ratings: list[float] = []
        self._admitted = 0
        self._rejects: list[Reject] = []
        self._duplicates = self._orphans = self._events = 0
        self._kinds: dict[str, int] = {}

    def take(self, items: Sequence[Item]) -> None:
        """Take in items, in the order of each partition."""
        names = [self._name(item) for item in items]
        self._known = self._identities.known([name for name in names if name is not None])
        self._prepare([item for item, name in zip(items, names, strict=True) if name not in self._known])
        for item, name in zip(items, names, strict=True):
            self._take(item, name)

    def _prepare(self, items: Sequence[Item]) -> None:
        """Look up at once what the items will need one by one: a statement costs more than a row."""
        issued: dict[str, str] = {}
        named: list[str] = []
        keys: list[str] = []
        texts: dict[str, None] = {}
        for item in items:
            event = item.event
            if isinstance(event, Prediction):
                issued[event.id] = event.input
            elif isinstance(event, Feedback):
                named.append(event.prediction_id)
            elif isinstance(event, LabelledEvent) and trust_of(event) > 0:
                keys.append(self._key(event, item.record))
                texts[event.input] = None
        self._predictions.expect([*dict.fromkeys([*issued, *named])])
        for id in named:
            found = self._predictions.get(id)
            text = issued.get(id) if found is None else found.input
            if text is not None:
                keys.append(f"p:{id}")
                texts[text] = None
        for text in texts:
            normalised = normalise(text)
            self._texts[text] = normalised, digest(normalised)
        self._examples.prepare(normalised for normalised, _ in self._texts.values())
        self._claims.expect(keys, [digest for _, digest in self._texts.values()])

    def _digest(self, text: str) -> bytes:
        known = self._texts.get(text)
        return digest(normalise(text)) if known is None else known[1]

    @staticmethod
    def _key(event: LabelledEvent, record: Record) -> str:
        """What the claim of a labelled event is kept under."""
        name = name_of(event)
        return f"e:{name.hex()}" if name is not None else f"e:{tie_of(event, record)}"

    def finish(self) -> tuple[Applied, Memory]:
        """Let expire what is past its time, evict what is contradicted, and say what was done."""
        if self._appended:
            self._log_time = self._log_time.passed(min(self._appended), len(self._appended), WINDOW)
        if self._predicted:
            self._predictions_time = self._predictions_time.passed(
                min(self._predicted), len(self._predicted), PREDICTIONS_WINDOW
            )
        self._expire()
        self._examples.settle()
        examples, evicted = self._examples.take()
        lessons = [example for example in (*examples, *self._examples.passed()) if not example.holdout]
        for part in (self._predictions, self._claims, self._examples, self._identities):
            part.flush()
        before = self._before
        memory = Memory(
            seq=self._examples.seq,
            last_id=self._examples.last_id,
            events=before.events + self._events,
            dead_letters=before.dead_letters + len(self._rejects),
            duplicates=before.duplicates + self._duplicates,
            log_time=self._log_time,
            predictions_time=self._predictions_time,
        )
        applied = Applied(
            examples=examples,
            scored=self._scored,
            evicted=evicted,
            duplicates=self._duplicates,
            rejects=self._rejects,
            orphans=self._orphans,
            kinds=self._kinds,
            ratings=self._ratings,
            admitted=self._admitted,
            lessons=sorted(lessons, key=lambda example: example.seq),
        )
        return applied, memory

    def allow(self, label: str, why: str) -> None:
        """Let users use a label from now on, and those who waited for it be heard."""
        if label in self._labels:
            return
        self._labels.add(label)
        self._db.execute("INSERT OR IGNORE INTO labels VALUES(?, ?)", (label, why))
        for waiting in self._parked.release("new_label", label):
            if isinstance(waiting.event, Feedback):
                self._feedback(waiting, waiting.event)
            else:
                self._labelled(waiting, again=True)

    def resolve(self, digest: bytes, embedding: bytes | None = None, base: str = "") -> None:
        """Make the example of a text what the greatest claim about it says."""
        best = self._claims.best(digest)
        current = self._examples.find(digest)
        if best is None or best.dropped:
            if current is not None:
                self._examples.remove(current.id)
            return
        if embedding is None:
            embedding, base = self._embedding_of(best)
        if current is None:
            self._examples.admit(best, embedding, base)
        elif current.correction == best.correction:
            self._examples.refresh(current, best, embedding, base)
        elif current.claim == best.id:
            self._examples.revise(current, best)
        else:
            self._examples.remove(current.id)
            self._examples.admit(best, embedding, base)

    # --- one event ---------------------------------------------------------------------------------------------

    def _name(self, item: Item) -> bytes | None:
        """What the event is known by, if by more than its offset."""
        if isinstance(item.event, Reject):
            return None
        if (name := name_of(item.event)) is not None:
            return name
        if item.record.original is None and not self._forwarded:
            return None
        return name_of_place(*place_of(item.record))

    def _take(self, item: Item, name: bytes | None) -> None:
        record, event = item.record, item.event
        place = (record.topic, record.partition)
        if record.offset < self._offsets.get(place, 0):
            self._duplicates += 1
            return
        self._offsets[place] = record.offset + 1
        if (was := record.original) is not None and was.offset < self._offsets.get((was.topic, was.partition), 0):
            # It was read where it lay, before this learner read what ingest forwards.
            self._duplicates += 1
            return
        self._appended.append(record.appended_at)
        if isinstance(event, Reject):
            self._reject_once(record, event)
            return
        # By its own append time: one record with a wrong clock must not make all others too old.
        if time_of(event, record) < record.appended_at - self._horizon:
            days = self._horizon / 86_400
            detail = f"The event is older than {days:.0f} days."
            self._reject_once(record, Reject(stage="store", reason="too_old", detail=detail))
            return
        if name is not None:
            digest = original.digest_of(record.value) if was is None else was.digest
            if (known := self._known.get(name)) is not None:
                if known == digest:
                    self._duplicates += 1
                else:
                    detail = "Another event came with this source and id."
                    self._reject_once(record, Reject(stage="identity", reason="identity_conflict", detail=detail))
                return
            self._known[name] = digest
            if event.id is not None or was is not None:
                # Where nothing forwards, the offset alone knows an event without an id.
                self._identities.add(
                    name,
                    digest,
                    source=event.source,
                    id=event.id or place_text(*place_of(record)),
                    appended_at=self._kept_from(record),
                )
        self._events += 1
        kind = str(event.__struct_config__.tag)
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if isinstance(event, Prediction):
            self._prediction(record, event)
            return
        waiting = Waiting(
            record=record,
            event=event,
            output=item.output,
            version=item.version,
            embedding=item.embedding,
            embedding_base=item.embedding_base,
        )
        if isinstance(event, Feedback):
            self._feedback(waiting, event)
        else:
            self._labelled(waiting)

    def _prediction(self, record: Record, event: Prediction) -> None:
        self._predicted.append(record.appended_at)
        if not self._predictions.add(event, appended_at=self._kept_from(record), time=time_of(event, record)):
            self._refuse(record, "join", "conflict", "Another prediction has this id.")
            self._events -= 1
            return
        for waiting in self._parked.release("orphan", event.id):
            if isinstance(waiting.event, Feedback):
                self._feedback(waiting, waiting.event)

    def _feedback(self, waiting: Waiting, event: Feedback) -> None:
        record = waiting.record
        found = self._predictions.get(event.prediction_id)
        if found is None:
            self._parked.add("orphan", event.prediction_id, waiting)
            self._orphans += 1
            return
        text, output = found.input, found.output
        if (rating := rated(event)) is not None and not self._is_quarantined(event.source, record.appended_at):
            self._ratings.append(rating)
        right = judged(event, output)
        if right is None:
            return
        correction = event.correction
        if isinstance(correction, SpanCorrection) and correction.end > len(text):
            self._refuse(record, "join", "invalid_field", "The span does not lie in the input of the prediction.")
            self._events -= 1
            return
        set_aside = self._is_quarantined(event.source, record.appended_at)
        if not found.scored and not set_aside:
            self._predictions.score(event.prediction_id, found)
            label = None if correction is None else value_of(correction)
            self._scored.append(Scored(version=found.version, correct=right, covers=False, label=label, output=output))
        if event.kind == "accept" or self._waits(waiting, correction):
            return
        self._claim(
            Claim(
                key=f"p:{event.prediction_id}",
                digest=self._digest(text),
                input=text,
                correction=correction,
                source=event.source,
                trust=trust_of(event),
                time=time_of(event, record),
                tie=tie_of(event, record),
                appended_at=record.appended_at,
                predicted=output,
                version=found.version,
                quarantined=set_aside,
            ),
            found.embedding,
            found.base,
        )

    def _labelled(self, waiting: Waiting, *, again: bool = False) -> None:
        record, event = waiting.record, waiting.event
        if isinstance(event, Feedback) or (trust := trust_of(event)) == 0:
            return
        trusted = event.origin == "label_topic"
        set_aside = self._is_quarantined(event.source, record.appended_at)
        if waiting.output is not None and not again and not set_aside:
            label = value_of(event.correction)
            self._scored.append(
                Scored(
                    version=waiting.version,
                    correct=label == waiting.output,
                    covers=trusted,
                    label=label,
                    output=waiting.output,
                    input=event.input if trusted else "",
                    embedding=waiting.embedding if trusted else None,
                    embedding_base=waiting.embedding_base,
                )
            )
        if not again and waiting.embedding is not None:
            self._examples.adopt(waiting.embedding_base)
        if trusted and not set_aside and isinstance(event.correction, LabelCorrection):
            self.allow(event.correction.label, "label_topic")
        elif not trusted and self._waits(waiting, event.correction):
            return
        self._claim(
            Claim(
                key=self._key(event, record),
                digest=self._digest(event.input),
                input=event.input,
                correction=event.correction,
                source=event.source,
                trust=trust,
                time=time_of(event, record),
                tie=tie_of(event, record),
                appended_at=record.appended_at,
                predicted=waiting.output,
                version=waiting.version,
                covers=trusted and waiting.output is not None,
                quarantined=set_aside,
            ),
            waiting.embedding,
            waiting.embedding_base,
        )

    def _waits(self, waiting: Waiting, correction: object) -> bool:
        """Park a label that users alone have named, until enough of them have. True if it waits, or has been heard."""
        if not isinstance(correction, LabelCorrection) or correction.label in self._labels:
            return False
        label = correction.label
        self._parked.add("new_label", label, waiting)
        voters = {source for source, at in self._parked.voters(label) if not self._is_quarantined(source, at)}
        if len(voters) >= QUORUM:
            self.allow(label, "quorum")
            self._admitted += 1
        return True

    def _claim(self, claim: Claim, embedding: bytes | None, base: str) -> None:
        known = self._claims.get(claim.key)
        if known is not None and not known.quarantined and (claim.quarantined or known.rank >= claim.rank):
            return
        self._claims.put(claim)
        self.resolve(claim.digest, embedding, base)

    def _embedding_of(self, claim: Claim) -> tuple[bytes | None, str]:
        if not claim.key.startswith("p:"):
            return None, ""
        found = self._predictions.get(claim.key[2:])
        return (None, "") if found is None else (found.embedding, found.base)

    def _is_quarantined(self, source: str, appended_at: float) -> bool:
        return any(
            (who is None or who == source)
            and (since is None or since <= appended_at)
            and (until is None or appended_at <= until)
            for who, since, until in self._quarantines
        )

    # --- what is past its time ---------------------------------------------------------------------------------

    def _kept_from(self, record: Record) -> float:
        """When the horizon begins to count: not before the log had come here, whatever a slow clock wrote."""
        return max(record.appended_at, self._log_time.whole)

    def _expire(self) -> None:
        for waiting in self._parked.expired("orphan", self._predictions_time.at - self._orphan_limit, CLEAN):
            self._refuse(waiting.record, "join", "orphan", "The prediction that this feedback names did not come.")
            self._events -= 1
        horizon = self._log_time.at - self._horizon
        for waiting in self._parked.expired("new_label", horizon, CLEAN):
            self._refuse(waiting.record, "store", "new_label", "The label is new, and too few sources named it.")
            self._events -= 1
        if horizon <= 0:
            return
        self._identities.expire(horizon)
        self._predictions.expire(horizon, CLEAN)
        self._examples.flush()
        self._claims.expire(horizon, CLEAN)

    def _refuse(self, record: Record, stage: Stage, reason: str, detail: str) -> None:
        self._reject(record, Reject(stage=stage, reason=reason, detail=detail))

    def _reject_once(self, record: Record, reject: Reject) -> None:
        """Reject what has no identity; one that ingest forwarded may come again, at another offset."""
        if (was := record.original) is not None:
            name = name_of_place(*place_of(record))
            if name in self._known or self._identities.known([name]):
                self._duplicates += 1
                return
            self._identities.add(
                name, was.digest, source="", id=place_text(*place_of(record)), appended_at=self._kept_from(record)
            )
        self._reject(record, reject)

    def _reject(self, record: Record, reject: Reject) -> None:
        self._outbox.add(dead_letter(record, reject, self._dlq))
        self._rejects.append(reject)
