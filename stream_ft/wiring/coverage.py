"""How far the event log is covered by the examples up to a sequence number."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from operator import itemgetter

MARKS = 20_000
"""Transactions remembered; a round that began before the oldest of them claims no more than the version before it."""


class Coverage:
    """After each transaction of the store: its greatest sequence number, and the offsets it had passed.

    Not kept over a restart: until then a version claims what its predecessor claimed, never too much. An event that
    was passed while it still waited, for its prediction or for its label to be allowed, counts from the moment it was
    passed.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[int, dict[str, int]]] = deque(maxlen=MARKS)

    def mark(self, max_seq: int, offsets: Mapping[tuple[str, int], int]) -> None:
        """A transaction was committed.

        Args:
            max_seq: greatest sequence number given so far.
            offsets: next offset of each ``(topic, partition)``.
        """
        several = {topic for topic, partition in offsets if partition > 0}
        passed = {
            f"{topic}[{partition}]" if topic in several else topic: offset
            for (topic, partition), offset in offsets.items()
        }
        self._marks.append((max_seq, passed))

    def upto(self, seq: int, known: Mapping[str, int]) -> dict[str, int]:
        """Per topic, the offset before which every event is covered by examples up to ``seq``.

        A topic with several partitions has none of its own, but one for each, named ``topic[partition]``.

        Args:
            known: what a version that covers no more is known to cover.
        """
        found = bisect_right(self._marks, seq, key=itemgetter(0))
        return self._marks[found - 1][1] if found else dict(known)
