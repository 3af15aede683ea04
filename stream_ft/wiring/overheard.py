"""What a client hears of the learner: the happenings that ``GET /status`` lists, gathered while it plays."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import msgspec
from msgspec import Struct, field

from stream_ft.wiring.happening import Happening
from stream_ft.wiring.summary import Story, Told, outcome

EVERY_S = 10.0
"""The learner lists its latest happenings only, so it is asked now and then."""


class _Learner(Struct):
    time: float
    happenings: list[Happening] = field(default_factory=list)


class _Status(Struct):
    learn: _Learner | None = None


class Overheard:
    """Collects what happens from the first question on.

    Args:
        rate: events a second, by which the event of a happening is told from its time.
        events: that will be played.
    """

    def __init__(self, *, rate: float, events: int) -> None:
        self._rate = rate
        self._last = max(0, events - 1)
        self._start: float | None = None
        self._old: set[tuple[float, str, str]] = set()
        self._found: dict[tuple[float, str, str], Happening] = {}
        self._heard = False

    def note(self, status: bytes, now: float) -> None:
        """Take in an answer of ``/status``. One that cannot be read is passed over.

        Args:
            now: seconds since the epoch; the first event's time if the learner has not told its own.
        """
        try:
            learner = msgspec.json.decode(status, type=_Status).learn
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        rows = {} if learner is None else {(row.time, row.kind, row.text): row for row in learner.happenings}
        if self._start is None:
            self._start = now if learner is None else learner.time
            self._old = set(rows)
        self._heard = self._heard or learner is not None
        self._found |= {key: row for key, row in rows.items() if key not in self._old}

    async def ask(self, client: httpx.AsyncClient) -> None:
        """Ask once."""
        try:
            response = await client.get("/status")
        except httpx.HTTPError:
            return
        if response.is_success:
            self.note(response.content, time.time())

    async def listen(self, client: httpx.AsyncClient) -> None:
        """Ask now and then, until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.ask(client)

    def told(self) -> list[Told]:
        """What happened, in order, each at the event that was due then."""
        start = self._start or 0.0
        return [
            Told(event=min(self._last, max(0, int((row.time - start) * self._rate))), happening=row)
            for row in sorted(self._found.values(), key=lambda row: row.time)
        ]

    def summary(self) -> dict[str, Any]:
        """What of ``summary.json`` comes of rounds and commands; empty if the learner told nothing of itself."""
        return outcome(Story(rate=self._rate, start=0.0, told=self.told())) if self._heard else {}
