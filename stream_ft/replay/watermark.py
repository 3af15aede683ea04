"""How far a log has come, told by the append times of its records. Pure.

One record says little: the clock that stamped it may have been wrong, and partitions that are read side by side may be
days apart. So the mark is the lowest append time among the last records. A clock that was wrong for fewer records than
that moves nothing, and once it is right again, so is the mark.
"""

from __future__ import annotations

from msgspec import Struct

WINDOW = 1_000
"""Records, of all topics together, that must agree before anything is forgotten."""
PREDICTIONS_WINDOW = 20
"""Predictions that must agree before feedback that waits for one is given up."""


class Watermark(Struct, frozen=True, kw_only=True):
    """The lowest append time of the last window of records and of those since. Constant in size."""

    whole: float = 0.0
    """Lowest of the last window that is complete; 0 before there is one."""
    lowest: float | None = None
    """Lowest of the window that is filling."""
    count: int = 0
    """Records in that one."""

    @property
    def at(self) -> float:
        """Seconds since the epoch; 0 as long as too little has been seen."""
        return self.whole if self.lowest is None else min(self.whole, self.lowest)

    def passed(self, lowest: float, count: int, window: int) -> Watermark:
        """After ``count`` more records that were read together, the earliest of them appended at ``lowest``.

        What was read together stays together: a window ends only after all of it, so none sees half the partitions.
        """
        lowest = lowest if self.lowest is None else min(self.lowest, lowest)
        count += self.count
        if count >= window:
            return Watermark(whole=lowest)
        return Watermark(whole=self.whole, lowest=lowest, count=count)
