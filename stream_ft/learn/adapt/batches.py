"""Which examples a training step sees: part fresh, part replayed, balanced over classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class Batches:
    """Draws batches without end.

    Each draw is experience replay (Chaudhry et al. 2019, arXiv:1902.10486): a share of examples that the last
    round of the encoder did not have, and the rest from those it had. Within each part an example is drawn with a
    chance inverse to the size of its class, without repetition within one batch while there are enough.

    Args:
        labels: of each example. fresh: of each, whether it is new.
        share: of fresh examples in a batch; where one part is empty the other fills the batch.
        seed: the same seed draws the same.
    """

    def __init__(self, labels: Sequence[str], fresh: Sequence[bool], *, share: float, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        new = np.array(fresh, bool)
        count = Counter(labels)
        chance = np.array([1.0 / count[label] for label in labels])
        self._parts = [
            (rows, chance[rows] / chance[rows].sum()) if len(rows) else (rows, chance[rows])
            for rows in (np.flatnonzero(new), np.flatnonzero(~new))
        ]
        full = [len(rows) > 0 for rows, _ in self._parts]
        self._share = share if all(full) else float(full[0])

    def draw(self, size: int) -> list[int]:
        """Numbers of ``size`` examples (fewer if there are not that many)."""
        wanted = round(size * self._share)
        picked = [self._pick(part, k) for part, k in zip(self._parts, (wanted, size - wanted), strict=True)]
        return np.concatenate(picked).tolist()  # type: ignore[no-any-return]

    def _pick(self, part: tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]], size: int) -> npt.NDArray[np.intp]:
        rows, chance = part
        size = min(size, len(rows))
        return self._random.choice(rows, size=size, replace=False, p=chance) if size else rows[:0]
