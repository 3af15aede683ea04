"""Windowed tables of Faust, for monitoring only: how much feedback each source gives, corrections a minute.

A table writes every change to a topic of its own. So what an agent counts is put in twice a second, and the number of
sources that are told apart is bounded: whoever comes after them counts as one.
"""

from __future__ import annotations

import time
from typing import Any

from stream_ft.events import Feedback

MINUTE_S = 60.0
KEEP_S = 300.0
WRITE_S = 0.5
SOURCES = 1_000
"""Sources told apart in one worker."""
REST = "\0rest"
ALL = "corrections"
BUSIEST = 5


class SourceCounts:
    """Counts of one worker's share of the feedback.

    Args:
        app: the Faust application; not yet started.
    """

    def __init__(self, app: Any) -> None:
        self._feedback = self._table(app, "feedback_by_source")
        self._corrections = self._table(app, "corrections")
        self._by_source: dict[str, int] = {}
        self._corrected = 0
        self._known: set[str] = set()
        self._known_since = time.monotonic()
        self._written = time.monotonic()

    def _table(self, app: Any, name: str) -> Any:
        table = app.Table(name, default=int, key_type=str, value_type=int)
        return table.tumbling(MINUTE_S, expires=KEEP_S)

    def add(self, event: Feedback) -> None:
        """Count one feedback event."""
        source = event.source
        if source not in self._known:
            if len(self._known) >= SOURCES:
                source = REST
            else:
                self._known.add(source)
        self._by_source[source] = self._by_source.get(source, 0) + 1
        self._corrected += event.kind == "correct"

    def write(self) -> None:
        """Put what was counted into the tables, if it is time. Only inside an agent: Faust asks for its event."""
        now = time.monotonic()
        if now - self._written < WRITE_S:
            return
        self._written = now
        for source, count in self._by_source.items():
            self._feedback[source] += count
        if self._corrected:
            self._corrections[ALL] += self._corrected
        self._by_source, self._corrected = {}, 0
        if now - self._known_since > KEEP_S:
            self._known, self._known_since = set(), now

    def corrections(self, now: float) -> int:
        """Corrections in the last whole minute."""
        return sum(self._last_minute(self._corrections, now))

    def busiest(self, now: float) -> list[int]:
        """Feedback events in the last whole minute of the sources that gave most, without their names."""
        return sorted(self._last_minute(self._feedback, now), reverse=True)[:BUSIEST]

    def sources(self, now: float) -> int:
        """Sources that gave feedback in the last whole minute."""
        return len(self._last_minute(self._feedback, now))

    @staticmethod
    def _last_minute(windowed: Any, now: float) -> list[int]:
        end = now - now % MINUTE_S
        return [count for (_, (start, _)), count in windowed.table.items() if end - MINUTE_S <= start < end]
