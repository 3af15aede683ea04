"""Which rows of a matrix have a cosine of at least so much with a vector: exactly, at a fraction of the products.

Rows and vector are of length 1. With the orthonormal ``R`` ``[dim, k]`` of the directions in which most of the rows'
length lies, ``a = R'x``, and what is left of the length, ``r = sqrt(1 - |a|^2)``,

    cos(x, y) = a_x'a_y + (rest of x)'(rest of y) <= a_x'a_y + r_x r_y      (Cauchy-Schwarz)

so only rows whose bound reaches the threshold are multiplied in full. Cost per vector: ``N k`` instead of ``N dim``,
and ``dim`` for each row that is left: some dozens of 10,000 embeddings of texts. Rows that are no use to bound cost
one full product, as without.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
DIRECTIONS = 64
FITTED_AT = (256, 1_024)
"""Rows at which the directions are found, the first singular vectors of these rows. Fewer rows need no bound."""
SLACK = 1e-4
"""The bound is computed in single precision."""
MANY = 8
"""With one row in so many left, one product of them all is cheaper than to pick them."""


class Nearby:
    """Rows ``[N, dim]``, and what bounds their cosines.

    Args:
        dim: of a row.
        similarity: least cosine of a neighbour.
    """

    def __init__(self, dim: int, similarity: float) -> None:
        self.dim = dim
        self._similarity = np.float32(similarity)
        self._rows: Floats = np.zeros((0, dim), np.float32)
        self._low: Floats = np.zeros((0, 0), np.float32)
        self._rest: Floats = np.zeros(0, np.float32)
        self._directions: Floats | None = None
        self._fitted = 0
        self._set = 0

    def grow(self, more: int) -> None:
        """So many rows of zeros at the end."""
        self._rows = np.pad(self._rows, ((0, more), (0, 0)))
        self._low = np.pad(self._low, ((0, more), (0, 0)))
        self._rest = np.pad(self._rest, (0, more))

    def put(self, at: int, row: Floats) -> None:
        """Row ``at`` is ``row``, ``[dim]``, of length 1."""
        self._rows[at] = row
        self._set += 1
        if self._directions is not None:
            self._low[at] = row @ self._directions
            self._rest[at] = np.sqrt(max(0.0, 1.0 - float(self._low[at] @ self._low[at])))
        if self._fitted < len(FITTED_AT) and self._set >= FITTED_AT[self._fitted]:
            self._fit()

    def _fit(self) -> None:
        self._fitted += 1
        some = self._rows[np.any(self._rows, axis=1)][: FITTED_AT[-1]]
        self._directions = np.ascontiguousarray(np.linalg.svd(some, full_matrices=False)[2][:DIRECTIONS].T)
        self._low = self._rows @ self._directions
        self._rest = np.sqrt(np.maximum(0.0, np.any(self._rows, axis=1) - np.einsum("nk,nk->n", self._low, self._low)))

    def near(self, block: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """``[N, len(block)]``: which rows are neighbours of which of the block's; each is its own."""
        if self._directions is None:
            every: npt.NDArray[np.bool_] = (self._rows @ self._rows[block].T) >= self._similarity
            return every
        bound = self._low @ self._low[block].T
        bound += np.outer(self._rest, self._rest[block])
        close: npt.NDArray[np.bool_] = bound >= self._similarity - SLACK
        for column, at in enumerate(block.tolist()):
            left = np.flatnonzero(close[:, column])
            if len(left) * MANY > len(close):
                close[:, column] = (self._rows @ self._rows[at]) >= self._similarity
            else:
                close[left, column] = (self._rows[left] @ self._rows[at]) >= self._similarity
        return close
