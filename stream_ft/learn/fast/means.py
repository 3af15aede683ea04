"""The nearest class mean, streaming, with decay.

``m_y <- m_y + r (x - m_y)`` with ``r = max(1 / n_y, rate)``; ``p = softmax`` of the calibrated cosines of ``x`` and
the means (:mod:`stream_ft.learn.fast.calibration`). Right from the first example of a class, and it follows a class
that moves; cannot tell apart what only a boundary can. Cost: ``C dim`` multiplications.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ft.learn.fast.calibration import Calibration
from stream_ft.learn.fast.expert import Arrays, Seen, longer, taken
from stream_ft.model.heads import Floats
from stream_ft.model.mixture import Part

RATE = 0.02
LEAST_NORM = 1e-6


class Means:
    """Class means of normalised embeddings.

    Args:
        dim: size of the embedding.
        rate: least weight of an example in its class's mean.
    """

    prior = 1.0

    def __init__(self, *, dim: int, rate: float = RATE) -> None:
        self._rate = rate
        self._means: Floats = np.zeros((0, dim), np.float32)
        self._norms: Floats = np.zeros(0, np.float32)
        self._calibration = Calibration(few=0.0)

    def grow(self) -> None:
        """A mean at the origin: nothing is near it."""
        self._means = longer(self._means)
        self._norms = longer(self._norms, fill=LEAST_NORM)
        self._calibration.grow()

    def _cosines(self, seen: Seen) -> Floats:
        cosines: Floats = (self._means @ seen.features(None)) / self._norms
        return cosines

    def probabilities(self, seen: Seen) -> Floats:
        """Of calibrated cosines."""
        return self._calibration.probabilities(self._cosines(seen))

    def learn(self, seen: Seen, label: int, weight: float) -> None:
        """Move one mean."""
        x = seen.features(None)
        scores = self._cosines(seen)
        pull = -self._calibration.probabilities(scores)
        pull[label] += 1
        self._calibration.learn(scores, pull, label, weight)
        rate = max(weight / max(float(self._calibration.seen[label]), weight), self._rate * weight)
        mean = self._means[label]
        mean += np.float32(rate) * (x - mean)
        self._norms[label] = max(float(np.sqrt(mean @ mean)), LEAST_NORM)

    def part(self) -> Part:
        """Unit means as rows."""
        weight, bias, temperature = self._calibration.folded(self._means / self._norms[:, None])
        return Part(name="means", weight=weight, bias=bias, share=1.0, temperature=temperature)

    def arrays(self) -> Arrays:
        """Means and calibration."""
        return {"means": self._means.copy(), "norms": self._norms.copy()} | self._calibration.arrays()

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`."""
        self._means = taken(arrays, "means", (-1, self._means.shape[1]))
        self._norms = taken(arrays, "norms", (len(self._means),))
        self._calibration.restore(arrays)


def build(*, dim: int, seed: int) -> Means:
    """With its defaults; it draws nothing."""
    return Means(dim=dim)
