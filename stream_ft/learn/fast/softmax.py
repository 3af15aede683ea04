"""Multinomial logistic regression on the embedding, one gradient step per event (Robbins and Monro 1951).

``p = softmax(W x)``, then ``W <- W - rate * weight * (p - y) x'``, with ``x`` the normalised embedding ``[dim]``,
``W`` ``[C, dim]`` and ``y`` one-hot. A new label is a row of zeros. No bias: a rate as large as this would make it
follow the labels' order of arrival. Cost: ``2 C dim`` multiplications each for answering and learning.

It never stops moving, so it follows any drift, and forgets what no longer comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import sger

from stream_ft.learn.fast.expert import Arrays, Seen, longer, softmax, taken
from stream_ft.model.heads import Floats
from stream_ft.model.mixture import Part

RATE = 2.0


class Softmax:
    """Online softmax regression.

    Args:
        dim: size of the embedding.
        rate: of a step, at weight 1.
    """

    prior = 1.0

    def __init__(self, *, dim: int, rate: float = RATE) -> None:
        self._rate = rate
        self._weight: Floats = np.zeros((0, dim), np.float32)

    def grow(self) -> None:
        """A row of zeros."""
        self._weight = longer(self._weight)

    def probabilities(self, seen: Seen) -> Floats:
        """``softmax(W x)``."""
        return softmax(self._weight @ seen.features(None))

    def learn(self, seen: Seen, label: int, weight: float) -> None:
        """One step."""
        x = seen.features(None)
        slope = softmax(self._weight @ x)
        slope[label] -= 1
        # In place: the transpose of rows is what BLAS calls columns.
        sger(-self._rate * weight, x, slope, a=self._weight.T, overwrite_a=1)

    def part(self) -> Part:
        """The rows as they are."""
        rows = len(self._weight)
        return Part(name="softmax", weight=self._weight.copy(), bias=np.zeros(rows, np.float32), share=1.0)

    def arrays(self) -> Arrays:
        """``W``."""
        return {"weight": self._weight.copy()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over ``W``."""
        self._weight = taken(arrays, "weight", (-1, self._weight.shape[1]))


def build(*, dim: int, seed: int) -> Softmax:
    """With its defaults; it draws nothing."""
    return Softmax(dim=dim)
