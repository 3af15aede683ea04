"""How good the answers are, from what is said of them: rolling numbers for the status and the metrics.

Accuracy is of answers whose label came regardless of whether they were right. Users correct errors, not successes: what
they say is a rate of its own and no part of the accuracy. What a version on trial answered is in the series by base
only, as ``other``: it says nothing of the version in force.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from stream_ft import metrics
from stream_ft.events import Example
from stream_ft.metrics.labels import BASES, TIERS, WORST, base_and_tier
from stream_ft.release.fold import TRIAL
from stream_ft.replay.store import Applied, Scored

WINDOW = 300
"""Answers, judgements of users and ratings that the rolling numbers are of."""
CLASS_WINDOW = 2_000
"""Answers that the recall of the classes is of."""
CLASS_SUPPORT = 10
"""Answers of a class in that window before it is told of."""
LEAST = 50
"""Answers before a rolling accuracy is shown: of fewer, chance alone would be an alarm."""
MARKS = 20_000
"""Examples that wait to be live; of more than that, the oldest are not timed."""


class Quality:
    """Takes in what each transaction of the store brought.

    Args:
        series: kept up to date.
    """

    def __init__(self, series: metrics.LearnMetrics) -> None:
        self._series = series
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._wrong: deque[bool] = deque(maxlen=WINDOW)
        self._ratings: deque[float] = deque(maxlen=WINDOW)
        self._of_version: OrderedDict[tuple[str, str], deque[bool]] = OrderedDict()
        self._classes: deque[tuple[str, bool]] = deque(maxlen=CLASS_WINDOW)
        self._unlearned: deque[tuple[int, float]] = deque(maxlen=MARKS)

    @property
    def accuracy(self) -> tuple[float | None, int]:
        """Of the last answers whose labels cover what they sample, and of how many."""
        return _mean(self._recent), len(self._recent)

    @property
    def corrections(self) -> tuple[float | None, int]:
        """Share of the last judged answers that users rejected or corrected, and of how many."""
        return _mean(self._wrong), len(self._wrong)

    def note(self, applied: Applied) -> None:
        """Take in one transaction."""
        series = self._series
        for scored in applied.scored:
            on_trial = scored.version.startswith(TRIAL)
            if scored.covers:
                self._note_covered(scored)
                if not on_trial:
                    self._recent.append(scored.correct)
                    if scored.label is not None:
                        self._classes.append((scored.label, scored.correct))
            elif not on_trial:
                self._wrong.append(not scored.correct)
                series.judged(scored.correct)
        self._ratings.extend(applied.ratings)
        series.rolling(
            accuracy=_mean(self._recent) if len(self._recent) >= LEAST else None,
            corrections=_mean(self._wrong),
            rating=_mean(self._ratings),
        )
        if any(scored.covers for scored in applied.scored):
            self._show_classes()
        self._mark(applied.examples)

    def live(self, examples_upto: int, now: float) -> None:
        """A version is in force that learned from the examples up to this sequence number."""
        while self._unlearned and self._unlearned[0][0] <= examples_upto:
            _, said = self._unlearned.popleft()
            self._series.to_live.observe(max(0.0, now - said))

    def _note_covered(self, scored: Scored) -> None:
        self._series.scored(scored.version, scored.correct)
        name = base_and_tier(scored.version)
        window = self._of_version.setdefault(name, deque(maxlen=WINDOW))
        self._of_version.move_to_end(name)
        while len(self._of_version) > BASES * len(TIERS):
            self._of_version.popitem(last=False)
        window.append(scored.correct)
        if len(window) >= LEAST:
            self._series.accuracy(*name, sum(window) / len(window))

    def _show_classes(self) -> None:
        total, right = Counter(label for label, _ in self._classes), Counter(label for label, ok in self._classes if ok)
        told = [label for label, count in total.items() if count >= CLASS_SUPPORT]
        worst = sorted(told, key=lambda label: (right[label] / total[label], label))[:WORST]
        rest = sum(total.values()) - sum(total[label] for label in worst)
        self._series.recall(
            {label: right[label] / total[label] for label in worst},
            (sum(right.values()) - sum(right[label] for label in worst)) / rest if rest else None,
        )

    def _mark(self, examples: list[Example]) -> None:
        self._unlearned.extend((example.seq, example.accepted_at) for example in examples if not example.holdout)


def _mean(values: deque[bool] | deque[float]) -> float | None:
    return sum(values) / len(values) if values else None
