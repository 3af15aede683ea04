"""The live version beside its frozen copy, over time: for the status, and kept over a restart."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from stream_ft.errors import StoreFullError
from stream_ft.replay.store import Scored
from stream_ft.wiring.core import Core
from stream_ft.wiring.curve import LEAST, Curve
from stream_ft.wiring.frozen import Frozen
from stream_ft.wiring.quality import WINDOW

SHARE = 0.05
"""Of the time, for encoding what the frozen copy is asked."""


class Comparison:
    """Takes in what was scored.

    Args:
        core: whose version is live.
        after: labels after which the copy is frozen; 0 for never.
        clock: seconds that never go back.
    """

    def __init__(self, core: Core, *, after: int, clock: Callable[[], float]) -> None:
        self._core = core
        self._clock = clock
        self._rest_until = -math.inf
        self._frozen = Frozen(after=after, window=WINDOW, engine=core.engine, registry=core.registry)
        self._frozen.restore(core.store.load("frozen"))
        self._curve = Curve.load(core.store.load("curve"))
        self._kept = self._curve.events

    def note(self, scored: Sequence[Scored], accuracy: tuple[float | None, int], now: float) -> None:
        """One transaction was committed.

        Args:
            scored: what it scored.
            accuracy: of the live version over its last answers that labels cover, and over how many.
            now: seconds since the epoch.
        """
        covering = [one for one in scored if one.covers]
        if not covering:
            return
        self._frozen.see(covering)
        live, over = accuracy
        frozen = self._frozen.accuracy if self._frozen.over >= LEAST else None
        self._curve.passed(len(covering), live=live if over >= LEAST else None, frozen=frozen, now=now)
        core = self._core
        version = core.tiers.version
        if self._frozen.take(version=version, base=core.in_force.base, head=core.head, labels=self._curve.events):
            core.store.save("frozen", self._frozen.snapshot())

    def catch_up(self, limit: int) -> int:
        """Score up to ``limit`` events that wait to be encoded for the copy; how many that were.

        Encoding has a small share of the time, because requests may need the same cores: where more events come than
        that is enough for, the oldest of those that wait are let go, and the rest is a sample.
        """
        began = self._clock()
        if began < self._rest_until:
            return 0
        done = self._frozen.catch_up(limit)
        ended = self._clock()
        self._rest_until = ended + (ended - began) * (1.0 / SHARE - 1.0)
        return done

    def keep(self) -> None:
        """Keep the curve, if it has grown."""
        if self._curve.events - self._kept < self._curve.every:
            return
        with contextlib.suppress(StoreFullError):  # what is told must not stop what is done
            self._core.store.save("curve", self._curve.dump())
            self._kept = self._curve.events

    def status(self) -> dict[str, Any]:
        """``frozen``, ``curve`` and ``labels`` of the learner's status."""
        frozen, copy = self._frozen, self._frozen.copy
        told: dict[str, Any] = {"version": "", "after": frozen.after}
        if copy is not None:
            told = {
                "version": copy.version,
                "after": copy.labels,
                "accuracy": frozen.accuracy,
                "live_accuracy": frozen.live_accuracy,
                "over": frozen.over,
                "lost": frozen.lost,
            }
        return {"frozen": told, "curve": msgspec.to_builtins(self._curve.points), "labels": self._curve.events}
