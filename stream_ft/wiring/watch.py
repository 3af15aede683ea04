"""What the guard of the fast tier is asked about: the live heads' answers, beside those of a checkpoint's head."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from stream_ft.errors import ArtifactError
from stream_ft.events import Example
from stream_ft.learn.fast import guard
from stream_ft.model.mixture import AnyHead, read_head
from stream_ft.release.registry import Registry
from stream_ft.replay.store import Store

log = logging.getLogger("stream_ft.learn.fast")

MOST_RECENT = 4_096
"""Events that wait for the guard's question; one who stands by never asks it."""


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
        self.pairs: dict[str, deque[tuple[bool, bool]]] = {}
        """By source: was the live head right, and would the checkpoint's have been."""
        self.evidence: dict[str, deque[tuple[npt.NDArray[np.float16], str, int]]] = {}
        """Of the same events, by source, the latest: embedding, label and sequence number."""
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
        self._recent.append((embedding, lesson))

    def judged(self, now: float) -> guard.Verdict:
        """What the guard says of the live heads, by all that was heard."""
        if self._reference is not None and self._recent:
            said = self._reference[1].predict(np.stack([embedding for embedding, _ in self._recent]))
            for (embedding, lesson), (old, _) in zip(self._recent, said, strict=True):
                of_source = self.pairs.pop(lesson.source, None) or deque(maxlen=guard.WINDOW)
                of_source.append((lesson.predicted == lesson.label, old == lesson.label))
                self.pairs[lesson.source] = of_source  # the last one heard is the last one forgotten
                evidence = self.evidence.setdefault(lesson.source, deque(maxlen=guard.EVIDENCE))
                evidence.append((embedding, lesson.label, lesson.seq))
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
        """Head of the checkpoint to go back to: the newest of those that get most of a source's latest events right.

        Of all its events, not only of those that speak against the tier: these are the ones on which the checkpoint
        that is compared with was right, so it would always win, however old it is. Events that a checkpoint has learned
        from say nothing for it, and what an earlier rollback has left does not come back.

        Args:
            base: of the tier.
            clean_from: epoch of the last rollback.
        """
        evidence = self.evidence.get(source, ())
        known = []
        for taken in self._store.lessons.checkpoints():
            ours = taken.base == base and (taken.epoch >= clean_from or taken.head == self.checkpoint)
            if ours and sum(seq > taken.upto for _, _, seq in evidence) >= guard.LEAST:
                known.append(taken)
        if not known:
            return self.checkpoint
        newest = max(taken.upto for taken in known)
        asked = [(embedding, label) for embedding, label, seq in evidence if seq > newest]
        rows = np.stack([embedding for embedding, _ in asked])
        right = []
        for taken in known:
            opened = self._opened(taken.head)
            said = opened[1].predict(rows) if opened is not None else [("", 0.0)] * len(rows)
            right.append(sum(answer == label for (answer, _), (_, label) in zip(said, asked, strict=True)))
        return known[guard.best(right)].head

    def _opened(self, head: str) -> tuple[str, AnyHead] | None:
        try:
            return head, read_head(self._registry.get_head(head))
        except ArtifactError as error:
            log.warning("the guard has nothing to compare with until the next checkpoint: %s", error)
            return None
