"""Whether anything was left out between two records of a partition. Pure.

When Faust has restored its tables after a rebalance it goes back to the committed offset of each partition, but not
where that is none or 0; a record that was on its way at that moment is then never seen. So whoever handles records
checks that each follows the one before, and asks for what is missing.
"""

from __future__ import annotations

from typing import Literal

Place = tuple[str, int]
Verdict = Literal["take", "seek", "wait"]


class Order:
    """The next offset of each partition."""

    def __init__(self) -> None:
        self._next: dict[Place, int] = {}
        self._sought: dict[Place, int] = {}

    def knows(self, place: Place) -> bool:
        """Whether :meth:`begin` was called for a partition since it was last forgotten."""
        return place in self._next

    def begin(self, place: Place, offset: int) -> None:
        """A partition begins at the offset that is committed, or else at the first that is there."""
        self._next[place] = offset

    def forget(self, place: Place) -> None:
        """A partition has gone to another worker."""
        self._next.pop(place, None)
        self._sought.pop(place, None)

    def next(self, place: Place) -> int:
        """The offset that should come."""
        return self._next[place]

    def check(self, place: Place, offset: int) -> Verdict:
        """``take`` a record, ``seek`` to :meth:`next` and leave it, or ``wait`` for what was sought and leave it.

        One that is left comes again. One that comes again with nothing before it had nothing before it: retention and
        transactions leave gaps as well.
        """
        expected, sought = self._next[place], self._sought.get(place)
        if offset > expected:
            if sought is None:
                self._sought[place] = offset
                return "seek"
            if offset > sought:
                return "wait"
        self._next[place] = max(expected, offset + 1)
        if sought is not None and self._next[place] > sought:
            del self._sought[place]
        return "take"
