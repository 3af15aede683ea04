"""Alarms when the live version's error rises: river's detectors behind a port of ours.

Worse only: ADWIN also fires when things get better. A value that is not finite is passed over, since one NaN poisons
ADWIN for good. After an alarm a detector starts afresh, so that one change is one alarm.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from stream_ft.errors import ConfigError

ALLOWANCE = 0.05
"""Page-Hinkley: a rise of the error below this is no drift."""
RECENT = 50
"""Events behind an alarm's ``after``."""
LEAST = 10
"""ADWIN: events that either side of a cut must have."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """The error rose. All but ``kind`` and ``direction`` are error rates in [0, 1]."""

    kind: str
    """Name of the detector."""
    direction: Literal["worse"]
    size: float
    """``after - before``."""
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a detector watches now, for an operator to see how near an alarm is."""

    detector: str
    statistic: float
    threshold: float
    """An alarm is due about where ``statistic`` reaches this; infinite while there is too little to tell."""
    error: float
    """Mean of the last :data:`RECENT` errors."""
    over: int = 0
    """Errors that this is the mean of: fewer at first."""


class Detector(Protocol):
    """Sees one error after the other."""

    def update(self, error: float) -> Alarm | None:
        """Take in one error in [0, 1]; an alarm if with it the error has risen."""
        ...

    def reset(self) -> None:
        """Forget everything: another version is live."""
        ...

    def reading(self) -> Reading | None:
        """What it watches now; ``None`` for one that watches nothing."""
        ...


class NoDrift:
    """Never an alarm: for ablations."""

    def update(self, error: float) -> None:
        """Nothing."""

    def reset(self) -> None:
        """Nothing."""

    def reading(self) -> None:
        """Nothing."""


class Adwin:
    """ADWIN (Bifet & Gavalda 2007, "Learning from time-changing data with adaptive windowing", SDM).

    Args:
        delta: confidence of one cut. With 1e-5 there is at most one alarm in 200,000 stable events (see the tests), and
            a rise from 0.1 to 0.4 is found within 300. river's default 0.002 alarms too often on a live stream.
    """

    def __init__(self, *, delta: float) -> None:
        self._delta = delta
        self.reset()

    def update(self, error: float) -> Alarm | None:
        """As :meth:`Detector.update`."""
        if not math.isfinite(error):
            return None
        self._means.add(error)
        self._river.update(error)
        if not self._river.drift_detected:
            return None
        before, after = self._means.compare()
        if after <= before:  # river cuts its window itself, one bucket after the other, and goes on
            return None
        self.reset()
        return _alarm("adwin", before, after)

    def reset(self) -> None:
        """Forget everything."""
        from river.drift import ADWIN

        self._river: Any = ADWIN(delta=self._delta, clock=16, min_window_length=LEAST, grace_period=30)
        self._means = _Means()

    def reading(self) -> Reading:
        """The rise of the last :data:`RECENT` errors over those before, and the rise at which ADWIN cuts there.

        ADWIN looks at other cuts too, so that an alarm may come before this one is reached.
        """
        before, after = self._means.compare()
        older, recent = self._means.sizes()
        threshold = math.inf
        if older > LEAST and recent > LEAST:
            mean = (before * older + after * recent) / (older + recent)
            confidence = math.log(2 * math.log(older + recent) / self._delta)
            harmonic = 1 / (older - LEAST + 1) + 1 / (recent - LEAST + 1)
            threshold = math.sqrt(2 * harmonic * mean * (1 - mean) * confidence) + 2 / 3 * confidence * harmonic
        return Reading(
            detector="adwin",
            statistic=after - before,
            threshold=threshold,
            error=self._means.recent(),
            over=self._means.count,
        )


class PageHinkley:
    """Page-Hinkley (Page 1954, "Continuous inspection schemes", Biometrika 41), upwards, without forgetting.

    Args:
        delta: about the chance of a false alarm per event. The threshold follows from it: a sum that falls by
            :data:`ALLOWANCE` per event and has the variance 1/4 exceeds ``ln(1 / delta) / (8 * ALLOWANCE)`` so rarely.
    """

    def __init__(self, *, delta: float) -> None:
        self._threshold = math.log(1 / delta) / (8 * ALLOWANCE)
        self.reset()

    def update(self, error: float) -> Alarm | None:
        """As :meth:`Detector.update`."""
        if not math.isfinite(error):
            return None
        self._means.add(error)
        self._follow(error)
        self._river.update(error)
        if not self._river.drift_detected:
            return None
        before, after = self._means.compare()
        self.reset()
        return _alarm("page_hinkley", before, after) if after > before else None

    def reset(self) -> None:
        """Forget everything."""
        from river.drift import PageHinkley as River

        # river's fading (alpha < 1) pulls the sum back to zero while its minimum stays: false alarms on long streams.
        self._river: Any = River(min_instances=30, delta=ALLOWANCE, threshold=self._threshold, alpha=1.0, mode="up")
        self._means = _Means()
        self._mean = self._sum = self._least = 0.0
        self._count = 0

    def reading(self) -> Reading:
        """How far the sum of the errors' excess has risen from its minimum."""
        return Reading(
            detector="page_hinkley",
            statistic=self._sum - self._least,
            threshold=self._threshold,
            error=self._means.recent(),
            over=self._means.count,
        )

    def _follow(self, error: float) -> None:
        """The same sum as river's, which keeps its own to itself."""
        self._count += 1
        self._mean += (error - self._mean) / self._count
        self._sum += error - self._mean - ALLOWANCE
        self._least = min(self._least, self._sum) if self._count > 1 else self._sum


class _Means:
    """Error of the last :data:`RECENT` events, and of those before them (at most ten times as many count as that).

    river cuts off one bucket at a time, so the mean of the window it keeps understates a change.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._older: deque[float] = deque(maxlen=10 * RECENT)

    def add(self, error: float) -> None:
        if len(self._recent) == RECENT:
            self._older.append(self._recent[0])
        self._recent.append(error)

    def compare(self) -> tuple[float, float]:
        """Mean before and mean after; before anything is old, the first half counts as before."""
        older, recent = list(self._older), list(self._recent)
        if not older:
            half = len(recent) // 2
            older, recent = recent[:half], recent[half:]
        return sum(older) / max(1, len(older)), sum(recent) / max(1, len(recent))

    def sizes(self) -> tuple[int, int]:
        """How many errors :meth:`compare` takes the two means of."""
        if self._older:
            return len(self._older), len(self._recent)
        half = len(self._recent) // 2
        return half, len(self._recent) - half

    @property
    def count(self) -> int:
        """Of the last errors; at most :data:`RECENT`."""
        return len(self._recent)

    def recent(self) -> float:
        """Mean of the last errors; 0 before the first."""
        return sum(self._recent) / max(1, len(self._recent))


def detector(name: str, *, delta: float) -> Detector:
    """The detector called ``adwin``, ``page_hinkley`` or ``none``; smaller ``delta`` alarms less.

    Raises:
        ConfigError: another name.
    """
    if name == "adwin":
        return Adwin(delta=delta)
    if name == "page_hinkley":
        return PageHinkley(delta=delta)
    if name == "none":
        return NoDrift()
    raise ConfigError(f"There is no drift detector {name!r}.", "Choose adwin, page_hinkley or none.")


def _alarm(kind: str, before: float, after: float) -> Alarm:
    return Alarm(kind=kind, direction="worse", size=after - before, before=before, after=after)
