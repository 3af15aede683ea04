"""A trial of a challenger: which requests are for it, and what is counted of it.

A canary answers the requests whose keys it was dealt; its answers are issued like any other. A shadow scores a sample
of them after the champion has answered, while nobody waits; nobody gets its answers, and what differs is recorded.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

from stream_ft.metrics import ServeMetrics
from stream_ft.release.fold import Trial
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.slots import Answer, Slot, Slots, Version

log = logging.getLogger("stream_ft.serve.trial")


MOST_PAIRS = 1_000
"""Different pairs of answers that are told apart."""
TOLD_PAIRS = 10
"""Of them, the commonest, in ``/status``."""


def chosen(key: str, base: str, share: float) -> bool:
    """Whether the trial of ``base`` takes the requests of ``key`` at this share.

    The base salts the hash, so that it is not always the same people who are experimented on. A larger share takes
    everybody whom a smaller one took.
    """
    digest = sha256(f"{base}\n{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


@dataclass(kw_only=True)
class Counts:
    """What came of a trial in this process so far. Each field is written on one thread only."""

    version: str
    kind: str
    answered: int = 0
    """Requests that a canary answered, or that a shadow scored."""
    agreed: int = 0
    """Of what a shadow scored, how often it gave the champion's label."""
    failed: int = 0
    shed: int = 0
    """What a shadow was to score and did not, because requests waited."""
    pairs: dict[tuple[str, str], int] = field(default_factory=dict)
    """How often the champion gave one label and a shadow another."""

    def compared(self, champion: str, shadow: str) -> bool:
        """Record a shadow's answer; true if it is the champion's."""
        self.answered += 1
        if champion == shadow:
            self.agreed += 1
            return True
        pair = champion, shadow
        if pair in self.pairs or len(self.pairs) < MOST_PAIRS:
            self.pairs[pair] = self.pairs.get(pair, 0) + 1
        return False

    def disagreements(self) -> list[dict[str, Any]]:
        """The commonest pairs, in falling order."""
        pairs = self.pairs.copy()  # another thread adds to them
        found = heapq.nlargest(TOLD_PAIRS, pairs.items(), key=lambda item: item[1])
        return [{"champion": ours, "challenger": other, "requests": n} for (ours, other), n in found]


class Trials:
    """What the serving process knows of the trial that runs, if any.

    Args:
        trial: the one that the control log asks for.
        slots: where the challenger is, once it is loaded.
        batcher: scores for a shadow while it is idle.
    """

    def __init__(
        self, *, trial: Callable[[], Trial | None], slots: Slots, batcher: Batcher[Answer], metrics: ServeMetrics
    ) -> None:
        self._trial = trial
        self._slots = slots
        self._batcher = batcher
        self._metrics = metrics
        self._counts = Counts(version="", kind="")

    @property
    def challenger(self) -> Version | None:
        """The version on trial, once it is loaded."""
        return None if self._running() is None else self._slots.challenger

    def slot(self, key: str) -> Slot:
        """The slot of a request with this key."""
        trial = self._running()
        if trial is None or trial.kind != "canary" or not chosen(key, trial.base, trial.share):
            return "champion"
        return "challenger"

    def answered(self, text: str, answer: Answer, id: str) -> None:
        """A request was answered: count it, and let a shadow score its first text. ``id`` decides on the sample."""
        slot = answer.version.slot
        self._metrics.answered(slot)
        trial = self._running()
        if trial is None:
            return
        counts = self._counts_of(trial)
        if trial.kind == "canary":
            counts.answered += slot == "challenger"
        # One text only: a request that comes while it is scored waits for one short forward at most.
        elif (
            slot == "champion"
            and chosen(id, trial.base, trial.share)
            and not self._batcher.idle(partial(self._compare, text, answer.label, counts))
        ):
            counts.shed += 1
            self._metrics.shadowed("shed")

    def status(self) -> dict[str, Any] | None:
        """For ``/status``: the trial that the log asks for, and its counts; ``None`` if there is none."""
        trial = self._trial()
        if trial is None:
            return None
        counts = self._counts_of(trial)
        return {
            "kind": trial.kind,
            "version": trial.version,
            "base": trial.base,
            "start_head": trial.start_head,
            "share": trial.share,
            "loaded": self._running() is not None,
            "answered": counts.answered,
            "agreed": counts.agreed,
            "failed": counts.failed,
            "shed": counts.shed,
            "disagreements": counts.disagreements(),
        }

    def _running(self) -> Trial | None:
        """The trial, if its challenger is loaded."""
        trial, challenger = self._trial(), self._slots.challenger
        return trial if trial is not None and challenger is not None and challenger.name == trial.version else None

    def _counts_of(self, trial: Trial) -> Counts:
        if (self._counts.version, self._counts.kind) != (trial.version, trial.kind):
            self._counts = Counts(version=trial.version, kind=trial.kind)
        return self._counts

    def _compare(self, text: str, label: str, counts: Counts) -> None:
        """Score a text by the challenger; on the forward thread."""
        challenger = self._slots.challenger
        if challenger is None or challenger.name != counts.version:
            return  # the trial is over
        begun = time.perf_counter()
        try:
            [answer] = self._slots.forward_challenger([text])
        except Exception as error:  # nobody waits for it, and it must not look like a fault of what answers
            counts.failed += 1
            self._metrics.shadowed("failed")
            if counts.failed == 1:
                log.error("%s failed to score a request", counts.version, exc_info=error)
            return
        self._metrics.shadow_seconds.observe(time.perf_counter() - begun)
        self._metrics.shadowed("agreed" if counts.compared(label, answer.label) else "disagreed")
