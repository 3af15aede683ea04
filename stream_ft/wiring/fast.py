"""The fast tier at work: lessons from the store into the tier, heads of it into the log, states of it into the store.

The store's journal is the queue: a lesson is learned once, in its order, by whoever takes up the newest checkpoint.
What the control log says decides what becomes of the state: a new head or leader leaves it; another base, or a
rollback, brings it back to a checkpoint of that base. What came since a checkpoint is learned again after a rollback
only if that said which examples were to blame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from stream_ft.config import Settings
from stream_ft.errors import ArtifactError, MessageTooLargeError
from stream_ft.events import Example
from stream_ft.learn.fast import guard
from stream_ft.learn.fast.tier import FastTier, learnable, weight_of
from stream_ft.model.mixture import AnyHead, read_head
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release import dossier
from stream_ft.release.fold import Quarantined, State
from stream_ft.release.heads import HeadRecord, Heads, seq_of, version
from stream_ft.release.registry import Registry
from stream_ft.replay.lessons import Checkpoint
from stream_ft.replay.store import Store
from stream_ft.topics import topic
from stream_ft.wiring.answering import Embed
from stream_ft.wiring.backlog import Again, Backlog, Left, remembered
from stream_ft.wiring.releasing import forget_heads
from stream_ft.wiring.watch import Watch

log = logging.getLogger("stream_ft.learn.fast")

CHUNK = 64
"""Lessons learned in one go: about 50 ms."""
CHECKPOINT_S = 60.0
HELD = "fast_held"
"""Under which the store remembers the head that is pinned or paused at."""
ON_LOG = 20
"""Heads left on their topic."""
EVERY_TRIM = 10
ALL = 1_000_000


@dataclass(frozen=True, kw_only=True)
class InForce:
    """A head of the tier that answers."""

    version: str
    head: AnyHead
    examples_upto: int


class Held(Struct, frozen=True, kw_only=True):
    """What answers in a version that is pinned or paused; ``record`` is ``None`` for the release's own head."""

    base: str
    start_head: str
    epoch: int
    record: HeadRecord | None


class Fast:
    """The fast tier of one learner.

    Args:
        store, registry, log: the learner's.
        topic: of the heads.
        embed: embeddings of texts under the base in force.
        dim: width of an embedding. experts: learners that are mixed. seed: of their random features.
        every_s: least time between two heads. checkpoint_every: lessons between two checkpoints.
        offsets: per topic, the offset before which everything up to a sequence number is covered.
    """

    def __init__(
        self,
        *,
        store: Store,
        registry: Registry,
        log: EventLog,
        topic: str,
        embed: Embed,
        dim: int,
        experts: Sequence[str],
        seed: int,
        every_s: float,
        checkpoint_every: int,
        offsets: Callable[[int], dict[str, int]] = lambda upto: {},
    ) -> None:
        self._store = store
        self._registry = registry
        self._log = log
        self._topic = topic
        self._embed = embed
        self._dim, self._experts, self._seed = dim, tuple(experts), seed
        self._every_s, self._checkpoint_every = every_s, checkpoint_every
        self._offsets = offsets
        self._heads = Heads()
        self._tier: FastTier | None = None
        self._base = ""
        self._epoch = -1
        self._backlog = Backlog(store)
        self.upto = 0
        self.refused = ""
        """Why no heads are published, if that is so."""
        self._published_at = -1e18
        self._said = -1
        """Lessons in the last head."""
        self._kept = 0
        self._kept_at = -1e18
        self._clean_from = -1
        """Epoch of the last rollback: a checkpoint from before it may be what was left."""
        self.watch = Watch(store=store, registry=registry)
        self._held: Held | None = None
        self._published = 0

    # --- what the control log says -----------------------------------------------------------------------------

    def follow(
        self,
        state: State,
        *,
        rolled_back: int,
        examples_upto: int,
        built: bytes | None = None,
        blamed: Quarantined | None = None,
    ) -> None:
        """The version in force is that of ``state``.

        Args:
            rolled_back: the last epoch that began with a rollback or a denial.
            blamed: what that rollback puts in quarantine.
            examples_upto: of its start head.
            built: a checkpoint of a tier under its base that has learned everything up to there.
        """
        if self._tier is None:
            self._take_up(state)
        self._clean_from = max(self._clean_from, rolled_back)
        if state.epoch == self._epoch:
            return
        back = rolled_back > self._epoch
        if (back and self._base) or state.base != self._base:
            self._go_back(state, examples_upto, built, rolled_back=back and bool(self._base), blamed=blamed)
        self._epoch = state.epoch
        if self._heads.in_force(state) is None:
            self._said = -1

    def _take_up(self, state: State) -> None:
        """After a start: the newest checkpoint that can be, whatever base it is of.

        What came after it and is not in the journal is learned from what is retained: a newer checkpoint was damaged,
        or the fast tier was off for a while.
        """
        self._tier = self._empty()
        for taken in self._store.lessons.checkpoints():
            try:
                self._adopt(taken)
            except (ArtifactError, KeyError) as error:
                log.error("a checkpoint of the fast tier cannot be taken up: %s", error)
                continue
            self._epoch = taken.epoch
            waiting = self._store.lessons.after(taken.upto, ALL)
            upto = self._backlog.add_missing(waiting, after=taken.upto)
            self.upto = taken.upto if upto is None else upto
            return

    def _adopt(self, taken: Checkpoint) -> None:
        tier = FastTier.from_bytes(self._store.lessons.data(taken))
        if (tier.dim, tier.names) != (self._dim, self._experts):
            raise ArtifactError("manifest", "It is of another encoder or of other learners.")
        self._tier, self._base, self.upto = tier, taken.base, taken.upto
        self._backlog.clear()
        self.watch.compare(taken.head)

    def _go_back(
        self,
        state: State,
        examples_upto: int,
        built: bytes | None,
        *,
        rolled_back: bool,
        blamed: Quarantined | None,
    ) -> None:
        """The state that belongs to a release: of its checkpoint, as built by a round, or learned from what is there.

        What came between a checkpoint and a rollback may be what that was for. It is learned again, as far as it is
        retained, only where the rollback has put in quarantine what is to blame.
        """
        self._backlog.clear()
        start_head, newest = state.start_head, self._store.max_seq()
        if rolled_back:
            left = Left(
                epoch=self._clean_from,
                base=state.base,
                start_head=start_head,
                examples_upto=examples_upto,
                newest=newest,
            )
            left = remembered(self._store, left)
            start_head, examples_upto, newest = left.start_head, left.examples_upto, left.newest
        if built is not None and not rolled_back:
            try:
                self._tier, self._base, self.upto = FastTier.from_bytes(built), state.base, newest
                self.watch.compare("")
                self._kept = self._checkpoint_every
                # What came meanwhile, and what the round withheld to judge by.
                self._backlog.add(after=examples_upto)
                return
            except ArtifactError as error:
                log.error("the fast tier that a round built cannot be taken up: %s", error)
        known = self._store.lessons.checkpoints()
        for taken in sorted(known, key=lambda each: each.head != start_head):
            if taken.base != state.base or not (taken.head == start_head or taken.upto <= examples_upto):
                continue
            try:
                self._adopt(taken)
            except (ArtifactError, KeyError) as error:
                log.error("a checkpoint of the fast tier cannot be taken up: %s", error)
                continue
            if not rolled_back:
                self._backlog.add(after=taken.upto, upto=newest)
            elif blamed is not None:
                # An earlier rollback may have kept the same state again, under a later number.
                learned = min(each.upto for each in known if each.head == taken.head)
                self._backlog.add_again(Again(blamed=blamed, after=learned, sure=learned, upto=newest))
            self.upto = newest
            self._kept = self._checkpoint_every
            if not self._backlog:
                self._keep(state.epoch, taken.head)
            return
        self._tier, self._base, self.upto = self._empty(), state.base, newest
        self.watch.compare("")
        if rolled_back and blamed is not None:
            self._backlog.add_again(Again(blamed=blamed, after=-1, sure=examples_upto, upto=newest))
        else:
            self._backlog.add(upto=examples_upto if rolled_back else newest)
        self._kept = self._checkpoint_every
        if not self._backlog:
            self._keep(state.epoch, start_head)

    def _empty(self) -> FastTier:
        return FastTier(dim=self._dim, experts=self._experts, seed=self._seed)

    # --- lessons -----------------------------------------------------------------------------------------------

    def learn(self, limit: int = CHUNK) -> int:
        """Learn up to ``limit`` of what waits; how many that was."""
        if self._tier is None or not self._base:
            return 0
        if not self._backlog.ready():
            return 0
        if anew := bool(self._backlog):
            lessons = self._backlog.take(limit)
        else:
            lessons = self._store.lessons.after(self.upto, limit)
        for lesson in lessons:
            if not learnable(lesson):  # a text or a span is no label
                self.upto = self.upto if anew else lesson.seq
                continue
            embedding = self._embedding(lesson)
            self._tier.learn(embedding, lesson.label, weight_of(lesson.trust))
            if not anew:
                self.upto = lesson.seq
                self._kept += 1
                if lesson.covers and seq_of(lesson.predicted_version):
                    self.watch.heard(embedding, lesson)
        return len(lessons)

    def _embedding(self, lesson: Example) -> npt.NDArray[np.float16]:
        ours = lesson.embedding is not None and lesson.embedding_base == self._base
        if ours and len(lesson.embedding or b"") == 2 * self._dim:
            return np.frombuffer(lesson.embedding or b"", "<f2").astype(np.float16)
        # One at a time: the same bits whatever else waits.
        made: npt.NDArray[np.float16] = self._embed([lesson.input])[0]
        return made

    # --- heads -------------------------------------------------------------------------------------------------

    def in_force(self, state: State) -> InForce | None:
        """What answers in this state, if it is a head of this tier."""
        record = self._heads.in_force(state)
        if record is None:
            return None
        return InForce(
            version=version(state, record.seq), head=read_head(record.data), examples_upto=record.examples_upto
        )

    def due(self, now: float) -> bool:
        """Whether there is something to publish, and it is time."""
        if self._tier is None or self._backlog or not self._tier.labels or self._tier.learned == self._said:
            return False
        return not 0 <= now - self._published_at < self._every_s

    def judged(self, now: float) -> guard.Verdict:
        """May it be published?"""
        return self.watch.judged(now)

    @property
    def checkpoint(self) -> str:
        """sha256 of the head of the checkpoint that the guard compares with; empty if there is none."""
        return self.watch.checkpoint

    def best(self, source: str) -> str:
        """Head of the checkpoint to go back to, for what the events of a source say."""
        return self.watch.best(source, base=self._base, clean_from=self._clean_from)

    def publish(self, state: State, *, leader: str, now: float, ahead: bool = False, start_head: str = "") -> bool:
        """Append the tier's head; false if the log does not take it.

        Args:
            leader: who publishes.
            ahead: for the epoch after this one, which a message will begin that leaves the base: so that it begins with
                this head.
            start_head: of that release, if it is another one.
        """
        held = None
        if ahead and (state.pinned or state.paused) and (stays := self._held_in(state)) is not None:
            held = stays.record
            if held is None:
                return False  # the release's own head is what answers
        if self._tier is None or self._base != state.base:
            return False
        if held is None and (self._backlog or not self._tier.labels):
            return False
        data = self._stamped(now) if held is None else held.data
        epoch, start = state.epoch + ahead, start_head or state.start_head
        made = HeadRecord(
            base=state.base,
            start_head=start,
            epoch=epoch,
            leader=leader,
            seq=1,
            sha256=sha256(data).hexdigest(),
            labels=len(self._tier.labels) if held is None else held.labels,
            examples_upto=self.upto if held is None else held.examples_upto,
            data=data,
        )
        made = msgspec.structs.replace(made, seq=self._heads.last(made) + 1)
        message = Outgoing(topic=self._topic, key=str(epoch).encode(), value=msgspec.msgpack.encode(made))
        try:
            (offset,) = self._log.append([message])
        except MessageTooLargeError as error:
            if not self.refused:
                log.error("heads of the fast tier are not published: %s %s", error.message, error.remedy)
            self.refused = error.message
            self._published_at = now
            return False
        self.refused = ""
        self._heads.put(made)
        self._heads.forget(state.epoch)
        self._published_at, self._said = now, self._tier.learned if held is None else -1
        self._published += 1
        if self._published % EVERY_TRIM == 0:
            self._log.trim(self._topic, 0, offset - ON_LOG)
        return True

    def hold(self, state: State) -> None:
        """Remember which head answers in a version that is pinned or paused: after a restart it goes on with that."""
        held = Held(base=state.base, start_head=state.start_head, epoch=state.epoch, record=self._heads.in_force(state))
        if held != self._held:
            self._store.save(HELD, msgspec.msgpack.encode(held))
            self._held = held

    def _held_in(self, state: State) -> Held | None:
        """What answered in a state, before a restart; ``None`` where nobody here knows."""
        saved = self._store.load(HELD)
        held = msgspec.msgpack.decode(saved, type=Held) if saved else None
        now = (state.base, state.start_head, state.epoch)
        return held if held is not None and (held.base, held.start_head, held.epoch) == now else None

    def keep(self, state: State, now: float) -> None:
        """Take a checkpoint if it is time; the heads of those that are forgotten for it are deleted."""
        if self._tier is None or self._backlog or not self._tier.labels:
            return
        if state.base != self._base or not self._kept:
            return
        if self._kept < self._checkpoint_every and 0 <= now - self._kept_at < CHECKPOINT_S:
            return
        known = self.heads()
        head = self._registry.put_head(self._stamped(now))
        self._keep(state.epoch, head)
        self._kept_at = now
        self.watch.consider(head, now, known=self.heads())
        forget_heads(self._registry, state, known - self.heads())

    def _keep(self, epoch: int, head: str) -> None:
        assert self._tier is not None
        taken = Checkpoint(base=self._base, epoch=epoch, upto=self.upto, head=head)
        self._store.lessons.checkpoint(taken, self._tier.to_bytes(), wanted=self.watch.checkpoint)
        self._kept = 0

    def heads(self) -> set[str]:
        """Heads of the checkpoints that are kept, by which a rollback names them."""
        return {taken.head for taken in self._store.lessons.checkpoints()}

    def _stamped(self, now: float) -> bytes:
        assert self._tier is not None
        told = dossier.Dossier(
            kind="fast",
            examples_upto=self.upto,
            offsets=self._offsets(self.upto),
            train_examples=self._tier.learned,
            created=now,
            seed=self._seed,
        )
        return dossier.stamp(self._tier.head().to_bytes(), told)


def fast_tier(
    settings: Settings,
    store: Store,
    registry: Registry,
    log: EventLog,
    embed: Embed,
    dim: int,
    offsets: Callable[[int], dict[str, int]],
) -> Fast | None:
    """The fast tier that the settings ask for; ``None`` if they do not."""
    asked = settings.fast
    if not asked.enabled:
        return None
    return Fast(
        store=store,
        registry=registry,
        log=log,
        topic=topic(settings.model.name, "heads"),
        embed=embed,
        dim=dim,
        experts=asked.names(),
        seed=settings.seed,
        every_s=asked.every_s,
        checkpoint_every=asked.checkpoint_every,
        offsets=offsets,
    )
