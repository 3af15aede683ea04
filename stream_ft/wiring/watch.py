"""What the guard of the fast tier is asked about: the live heads' answers, beside those of a checkpoint's head."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream_ft.errors import ArtifactError
from stream_ft.events import Example
from stream_ft.learn.fast import guard
from stream_ft.model.mixture import AnyHead, read_head
from stream_ft.release.registry import Registry
from stream_ft.replay.lessons import Checkpoint
from stream_ft.replay.store import Store

log = logging.getLogger("stream_ft.learn.fast")

MOST_RECENT = 4_096
"""Events that wait for the guard's question; one who stands by never asks it."""


class Evidence(NamedTuple):
    """An event that the guard has judged by; ``against`` the tier, where only the checkpoint's head was right."""

    embedding: npt.NDArray[np.float16]
    label: str
    seq: int
    against: bool


class Watch:
    """Remembers, by source of labels, on which events the live heads and the checkpoint's head were right.

    Args:
        store: with the checkpoints.
        registry: with their heads.
    """

    def __init__(self, *, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._recent: deque[tuple[npt.NDArray[np.float16], Example]] = deque(maxlen=MOST_RECENT)
        self._version = ""
        self._of_head: Counter[str] = Counter()
        """By source, events that the newest head has answered."""
        self.pairs: dict[str, deque[tuple[bool, bool]]] = {}
        """By source: was the live head right, and would the checkpoint's have been."""
        self.evidence: dict[str, deque[Evidence]] = {}
        """The same events, by source."""
        self._reference: tuple[str, AnyHead] | None = None
        self._newer: tuple[str, AnyHead] | None = None
        """A checkpoint that is the next to compare with, once events have shown nothing against the tier it is of."""
        self._since_newer, self._newer_at = 0, 0.0

    @property
    def checkpoint(self) -> str:
        """sha256 of the head of the checkpoint that is compared with; empty if there is none."""
        return "" if self._reference is None else self._reference[0]

    def compare(self, head: str) -> None:
        """Compare with this checkpoint from now on; empty: with none."""
        self._recent.clear()
        self.pairs.clear()
        self.evidence.clear()
        self._reference = self._opened(head) if head else None
        self._newer = None

    def consider(self, head: str, now: float, *, known: Collection[str]) -> None:
        """A checkpoint was taken. It may hold what is wrong already, so it is not compared with at once: many examples
        can come in a second, and the events that show what they did come after them.

        Args:
            known: heads of the checkpoints that are kept.
        """
        if self._reference is None or self._reference[0] not in known:
            self.compare(head)
        elif self._newer is None:
            self._newer, self._since_newer, self._newer_at = self._opened(head), 0, now

    def heard(self, embedding: npt.NDArray[np.float16], lesson: Example) -> None:
        """An event that a live head answered, with its label."""
        if lesson.predicted_version != self._version:
            self._version = lesson.predicted_version
            self._of_head.clear()
        self._of_head[lesson.source] += 1
        if self._of_head[lesson.source] <= guard.PER_HEAD:
            self._recent.append((embedding, lesson))

    def judged(self, now: float) -> guard.Verdict:
        """What the guard says of the live heads, by all that was heard."""
        if self._reference is not None and self._recent:
            said = self._reference[1].predict(np.stack([embedding for embedding, _ in self._recent]))
            for (embedding, lesson), (old, _) in zip(self._recent, said, strict=True):
                of_source = self.pairs.pop(lesson.source, None) or deque(maxlen=guard.WINDOW)
                of_source.append((lesson.predicted == lesson.label, old == lesson.label))
                self.pairs[lesson.source] = of_source  # the last one heard is the last one forgotten
                evidence = self.evidence.setdefault(lesson.source, deque(maxlen=guard.WINDOW))
                against = old == lesson.label != lesson.predicted
                evidence.append(Evidence(embedding, lesson.label, lesson.seq, against))
            while len(self.pairs) > guard.SOURCES:
                forgotten = next(iter(self.pairs))
                del self.pairs[forgotten]
                self.evidence.pop(forgotten, None)
        self._since_newer += len(self._recent)
        self._recent.clear()
        verdict = guard.judge_each(self.pairs)
        if verdict.accepted and self._newer is not None and self._shown(now):
            self.compare(self._newer[0])
        return verdict

    def _shown(self, now: float) -> bool:
        """Enough has come since the newer checkpoint to have shown that it was good."""
        return self._since_newer >= guard.CONFIRMED and not 0 <= now - self._newer_at < guard.CONFIRMED_S

    def best(self, source: str, *, base: str, clean_from: int) -> str:
        """Head of the checkpoint to go back to: of those without the fault, the one that answers best by now.

        Without the fault is one that gets most of those events right that speak against the tier. Of those, the newest
        that is as good as any on *all* events since is chosen: by the former alone it would be the one that is compared
        with, however old, for they are the ones that it got right. Events that a checkpoint has learned from say
        nothing for it, and what an earlier rollback has left does not come back.

        Args:
            base: of the tier.
            clean_from: epoch of the last rollback.
        """
        evidence = self.evidence.get(source, ())
        rows = np.stack([each.embedding for each in evidence]) if evidence else np.zeros((0, 0), np.float16)
        sound: list[tuple[Checkpoint, list[bool]]] = []
        for taken in self._store.lessons.checkpoints():
            ours = taken.base == base and (taken.epoch >= clean_from or taken.head == self.checkpoint)
            against = [at for at, each in enumerate(evidence) if each.against and each.seq > taken.upto]
            if not ours or len(against) < guard.SPEAKING or (opened := self._opened(taken.head)) is None:
                continue
            right = [said == each.label for (said, _), each in zip(opened[1].predict(rows), evidence, strict=True)]
            if 2 * sum(right[at] for at in against) > len(against):
                sound.append((taken, right))
        if not sound:
            return self.checkpoint
        newest = max(taken.upto for taken, _ in sound)
        since = [at for at, each in enumerate(evidence) if each.seq > newest]
        return sound[guard.best([sum(right[at] for at in since) for _, right in sound])][0].head

    def _opened(self, head: str) -> tuple[str, AnyHead] | None:
        try:
            return head, read_head(self._registry.get_head(head))
        except ArtifactError as error:
            log.warning("the guard has nothing to compare with until the next checkpoint: %s", error)
            return None
