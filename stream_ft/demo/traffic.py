"""Customers who write, users who correct, and a back office that labels: the demo's stream at a steady rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from stream_ft.connectors.files import Row
from stream_ft.demo.client import Client

BACK_OFFICE_SHARE = 0.85
"""Share of the messages that a back office labels, whatever was answered; the other customers speak for themselves."""
DELAY_S = 1.0
"""From an answer to what is said of it."""
FLUSH_S = 0.5
LAST_TRIES = 5


class Traffic:
    """Sends rows at a steady rate, whether or not earlier ones were answered, and then tells the right answers.

    Args:
        client: that sends.
        rows: with their right labels.
        rate: messages a second.
        seed: of who labels which message.
        name: begins the ids of labelled events, which must never come twice.

    Attributes:
        outputs: label answered for each row; ``None`` while open or if it was dropped.
        sent_at: when each row that was sent was sent, seconds since the epoch, ascending.
        more_to_come: while true, it waits at the end of the rows for others.
        labelled: rows whose right label the server has acknowledged.
    """

    def __init__(
        self, client: Client, rows: Sequence[Row], *, rate: float, seed: int = 0, name: str = "message"
    ) -> None:
        self._client = client
        self._rate = rate
        self._name = name
        self._random = random.Random(seed)
        self._labels: list[tuple[int, dict[str, Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.rows = list(rows)
        self.outputs: list[str | None] = [None] * len(self.rows)
        self.sent_at: list[float] = []
        self.more_to_come = False
        self.labelled: set[int] = set()

    def extend(self, rows: Sequence[Row]) -> None:
        """More rows at the end of the stream."""
        self.rows += rows
        self.outputs += [None] * len(rows)

    async def run(self) -> None:
        """Send every row; returns once all are answered and every label is told."""
        begin = time.monotonic()
        flusher = asyncio.create_task(self._flush())
        try:
            index = 0
            while index < len(self.rows) or self.more_to_come:
                if index == len(self.rows):
                    await asyncio.sleep(FLUSH_S / 10)
                    continue
                await asyncio.sleep(max(0.0, begin + index / self._rate - time.monotonic()))
                self.sent_at.append(time.time())
                task = asyncio.create_task(self._one(index))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                index += 1
            while self._tasks:
                await asyncio.gather(*self._tasks)
        finally:
            flusher.cancel()
        for _ in range(LAST_TRIES):
            await self._tell_labels()
            if not self._labels:
                break
            await asyncio.sleep(FLUSH_S)

    async def _one(self, index: int) -> None:
        row = self.rows[index]
        answer = await self._client.predict(row.text)
        if answer is not None:
            self.outputs[index] = answer.label
        back_office = self._random.random() < BACK_OFFICE_SHARE
        await asyncio.sleep(DELAY_S)
        if back_office or answer is None:
            event = {"id": f"{self._name}-{index}", "input": row.text, "label": row.label, "source": "back-office"}
            self._labels.append((index, event))
            return
        said: dict[str, Any] = {"prediction_id": answer.id, "source": f"customer-{index % 97}"}
        said |= {"kind": "accept"} if answer.label == row.label else {"label": row.label}
        if await self._client.feedback([said]):
            self.labelled.add(index)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._tell_labels()

    async def _tell_labels(self) -> None:
        waiting, self._labels = self._labels, []
        if not waiting:
            return
        if await self._client.labels([event for _, event in waiting]):
            self.labelled.update(index for index, _ in waiting)
        else:
            self._labels += waiting


def spoiled(rows: Sequence[Row], count: int, seed: int) -> list[dict[str, Any]]:
    """A broken import: two messages of one label run together in each line, under the label that comes next.

    It takes the four most frequent labels and mistakes each for the next, as an import with a shifted table of codes
    would. Spread over all labels, its errors would thin out so far that a head fitted by least squares hardly minds
    them, and there would be nothing to refuse.

    Returns:
        Labelled events of the source ``bulk-import``.
    """
    random_ = random.Random(seed)
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    frequent = sorted(by_label.values(), key=len, reverse=True)[:4]
    events = []
    for i in range(count):
        first, second = random_.choices(frequent[i % len(frequent)], k=2)
        label = frequent[(i + 1) % len(frequent)][0].label
        events.append(
            {"id": f"import-{i}", "input": f"{first.text} {second.text}", "label": label, "source": "bulk-import"}
        )
    return events
