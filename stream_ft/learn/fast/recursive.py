"""Recursive least squares with several targets and a bounded memory: ridge regression, one example at a time.

With ``A`` the decayed sum of ``w h h'`` plus ``r I``, ``P = A^-1`` ``[M, M]`` and ``W`` ``[K, M]``: for features ``h``,
targets ``t`` ``[K]`` and a weight ``w``,

    u = P h,  g = w / (1 + w h'u),  W <- W + g (t - W h) u',  P <- P - g u u'

(Plackett 1950; Haykin, Adaptive Filter Theory, ch. 10). ``P`` takes the rank-one terms of a block of events at once;
until then they are applied to ``P h`` one by one, which is the same. After each block all examples are worth less by a
factor, so that about ``memory`` of the latest count; what the factor takes from ``r I`` is given back to one coordinate
per block in turn (a pseudo-example ``e_j`` with target 0), else ``P`` would grow without bound where nothing comes.

Cost per event: ``M^2 / 2`` for ``u`` and as much again for the block, ``2 K M`` for ``W``. Memory: ``4 M^2`` bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import sger, ssymm, ssymv, ssyrk

from stream_ft.learn.fast.expert import Arrays, longer, taken
from stream_ft.model.heads import Floats

BLOCK = 32


class RecursiveRidge:
    """Weights of ``K`` targets that grow one by one.

    Args:
        width: ``M``.
        ridge: ``r``.
        memory: examples that count, about; the decay is ``exp(-1 / memory)`` per example.
    """

    def __init__(self, *, width: int, ridge: float, memory: float) -> None:
        self.weight: Floats = np.zeros((0, width), np.float32)
        self._ridge, self._memory = ridge, memory
        # BLAS works on columns; only the lower triangle is kept up to date.
        self._inverse: Floats = np.asfortranarray(np.eye(width, dtype=np.float32) / np.float32(ridge))
        self._terms: Floats = np.zeros((BLOCK + 1, width), np.float32)
        self._count = 0
        self._turn = 0
        self._expected: deque[tuple[Floats, Floats]] = deque()

    def grow(self) -> None:
        """One more target, 0 on all examples so far."""
        self.weight = longer(self.weight)

    def expect(self, coming: Sequence[Floats]) -> None:
        """The examples ``[M]`` that are learned next, in this order: ``P`` is then read once for a block, not for each.

        It is good for no more than are left of the block (:attr:`left`).
        """
        if len(coming) > 1:
            rows: Floats = ssymm(1.0, self._inverse, np.stack(coming).T, lower=1).T
            self._expected = deque(zip(coming, rows, strict=True))

    @property
    def left(self) -> int:
        """Examples until ``P`` changes."""
        return BLOCK - self._count

    @property
    def expecting(self) -> bool:
        """Something of what was expected has still to come."""
        return bool(self._expected)

    def gain(self, features: Floats) -> Floats:
        """``u = P h``, ``[M]``."""
        expected, row = self._expected.popleft() if self._expected else (None, None)
        if row is not None and expected is features:
            u = row
        else:
            self._expected.clear()
            u = ssymv(1.0, self._inverse, features, lower=1)
        if self._count:
            terms = self._terms[: self._count]
            u -= (terms @ features) @ terms
        return u

    def learn(self, features: Floats, target: int, weight: float) -> None:
        """One example ``[M]`` whose target is 1 in row ``target`` and 0 in the others."""
        error = -(self.weight @ features)
        error[target] += 1
        self._absorb(features, error, weight)
        if self._count == BLOCK:
            self._settle()

    def correct(self, features: Floats, old: int, new: int, weight: float) -> None:
        """An example that was learned for row ``old`` belongs to ``new``: exact as long as it has not decayed."""
        u = self.gain(features) * np.float32(weight)
        self.weight[old] -= u
        self.weight[new] += u

    def _absorb(self, features: Floats, error: Floats, weight: float) -> None:
        u = self.gain(features)
        g = weight / (1 + weight * max(float(features @ u), 0.0))
        if len(self.weight):
            # In place: the transpose of rows is what BLAS calls columns.
            sger(g, u, error, a=self.weight.T, overwrite_a=1)
        self._terms[self._count] = u * np.float32(np.sqrt(g))
        self._count += 1

    def _settle(self) -> None:
        width = len(self._inverse)
        kept = float(np.exp(-BLOCK / self._memory))
        self._flush()
        self._inverse /= np.float32(kept)
        given = self._ridge * (1 - kept) * width
        unit = np.zeros(width, np.float32)
        unit[self._turn] = 1
        self._absorb(unit, -self.weight[:, self._turn], given)
        self._turn = (self._turn + 1) % width

    def _flush(self) -> None:
        terms = self._terms[: self._count]
        self._expected.clear()
        self._inverse = ssyrk(-1.0, terms.T, beta=1.0, c=self._inverse, lower=1, overwrite_c=1)
        self._count = 0

    def arrays(self) -> Arrays:
        """Its state; of ``P`` the lower triangle, row by row."""
        rows, columns = np.tril_indices(len(self._inverse))
        return {
            "weight": self.weight.copy(),
            "inverse": self._inverse[rows, columns],
            "terms": self._terms[: self._count].copy(),
            "turn": np.array([self._turn]),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`."""
        width = len(self._inverse)
        rows, columns = np.tril_indices(width)
        inverse = np.zeros((width, width), np.float32, order="F")
        inverse[rows, columns] = taken(arrays, "inverse", (len(rows),))
        terms = taken(arrays, "terms", (-1, width))
        if len(terms) > BLOCK:
            raise ValueError(f"terms has {len(terms)} rows; expected at most {BLOCK}")
        self.weight = taken(arrays, "weight", (-1, width))
        self._inverse, self._count = inverse, len(terms)
        self._terms[: self._count] = terms
        self._turn = int(taken(arrays, "turn", (1,))[0]) % width
