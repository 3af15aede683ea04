"""How far the reading of a topic is: what waits in its partitions, and since when one has stood still."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stream_ft import metrics
from stream_ft.ports import Record


class Consumption:
    """Watches the partitions of one topic.

    Args:
        kind: of the topic: ``predictions``, ``feedback``, ``labels`` or ``events``.
        series: kept up to date.
        monotonic: time.
    """

    def __init__(self, kind: str, series: metrics.LearnMetrics, monotonic: Callable[[], float]) -> None:
        self._kind = kind
        self._series = series
        self._monotonic = monotonic
        self._next: dict[int, int] = {}
        self._end: dict[int, int] = {}
        self._still: dict[int, float] = {}
        self._oldest: dict[int, float] = {}

    def read(self, partition: int, offset: int, found: Sequence[Record], end: int, now: float) -> None:
        """A partition was read.

        Args:
            partition: which.
            offset: the next one to take in, as the store has it.
            found: records from there on.
            end: the offset that the next record will get.
            now: seconds since the epoch.
        """
        self._next[partition], self._end[partition] = offset, end
        self._oldest[partition] = max(0.0, now - found[0].appended_at) if found else 0.0
        if offset >= end and not found:
            self._still.pop(partition, None)
        elif partition not in self._still:
            self._still[partition] = self._monotonic()

    def committed(self, partition: int, offset: int) -> None:
        """The store has taken in everything of a partition before this offset."""
        passed = offset - self._next.get(partition, offset)
        if passed <= 0:
            return
        self._next[partition] = offset
        self._series.consumed(self._kind, passed)
        if offset >= self._end.get(partition, offset):
            self._still.pop(partition, None)
        else:
            self._still[partition] = self._monotonic()

    @property
    def lag(self) -> int:
        """Records of the log that were not taken in yet, as far as it has been looked at."""
        return sum(max(0, end - self._next[partition]) for partition, end in self._end.items())

    def show(self) -> None:
        """Set the series."""
        self._series.consumer(
            self._kind,
            lag=self.lag,
            behind_s=max(self._oldest.values(), default=0.0),
            partitions=len(self._next),
            stalled_s=self.stalled_s,
        )

    def standing(self, seconds: float) -> str:
        """What has stood still with records waiting for longer than ``seconds``, in words; empty if nothing has."""
        now = self._monotonic()
        for partition, since in list(self._still.items()):
            if now - since > seconds:
                return f"{self._kind}[{partition}] has stood still for {now - since:.0f} s with records waiting."
        return ""

    def stalled_s(self) -> float:
        """Seconds for which one partition has stood still with records waiting, the longest; 0 if none has.

        Asked from the thread of the probes: a loop that hangs says nothing any more.
        """
        since = min(list(self._still.values()), default=None)
        return 0.0 if since is None else max(0.0, self._monotonic() - since)
