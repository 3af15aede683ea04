"""The course of the accuracy: few enough points to be drawn and sent each second, over any length of time."""

from __future__ import annotations

import msgspec
from msgspec import Struct

MOST = 240
LEAST = 30
"""Events behind the first point: of fewer an accuracy says nothing."""


class Point(Struct, frozen=True, kw_only=True):
    """The two accuracies after so many labelled events."""

    events: int
    time: float
    live: float
    frozen: float | None = None


class Curve(Struct, kw_only=True):
    """Points at even distances in events, ascending. When there are too many, every second one leaves."""

    events: int = 0
    every: int = 5
    points: list[Point] = []

    @classmethod
    def load(cls, data: bytes | None) -> Curve:
        """Undo of :meth:`dump`; ``None`` is a fresh start."""
        return cls() if data is None else msgspec.json.decode(data, type=cls)

    def dump(self) -> bytes:
        """What must survive a restart."""
        return msgspec.json.encode(self)

    def passed(self, count: int, *, live: float | None, frozen: float | None, now: float) -> None:
        """So many labelled events came.

        Args:
            count: how many since the last call.
            live: accuracy of the live version over its last ones; ``None`` while they are too few to tell.
            frozen: the same of the frozen copy.
            now: seconds since the epoch.
        """
        before, self.events = self.events, self.events + count
        if live is None or before // self.every == self.events // self.every:
            return
        frozen = None if frozen is None else round(frozen, 4)
        self.points.append(Point(events=self.events, time=round(now, 3), live=round(live, 4), frozen=frozen))
        if len(self.points) > MOST:
            self.every *= 2
            del self.points[1::2]
