"""From scores to probabilities: a temperature, a bias for each class, and a scale for classes with few examples.

``p = softmax(beta * shots * s + b)`` for scores ``s`` ``[K]``, ``shots_k = sqrt(1 + 8 / n_k)``: least squares gives a
class of few examples low scores everywhere (its target is 0 almost always), which this undoes. ``beta`` and ``b`` take
one step of gradient descent on the log-loss per event; ``b`` leaks to 0, so that it follows what is frequent now and
does not hold against a class that it has not come for long. Cost: ``O(K)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ft.learn.fast.expert import Arrays, longer, softmax, taken
from stream_ft.model.heads import Floats

BETA_RANGE = (2.0, 60.0)


class Calibration:
    """Learned online, beside the scores.

    Args:
        beta: inverse temperature to begin with.
        rate: of a step of ``b``. leak: share of ``b`` that is lost per event.
        beta_rate: of a step of ``beta``.
        few: examples below which a class counts as having few; 0 scales nothing.
    """

    def __init__(
        self,
        *,
        beta: float = 10.0,
        rate: float = 0.5,
        leak: float = 0.003,
        beta_rate: float = 0.3,
        few: float = 8.0,
    ) -> None:
        self.beta = beta
        self._rate, self._leak, self._beta_rate, self._few = rate, leak, beta_rate, few
        self._bias: Floats = np.zeros(0, np.float32)
        self._seen: npt.NDArray[np.float64] = np.zeros(0)
        self._shots: Floats = np.zeros(0, np.float32)

    @property
    def seen(self) -> npt.NDArray[np.float64]:
        """``[K]``: weight of the examples of each class so far."""
        return self._seen

    def grow(self) -> None:
        """One more class."""
        self._bias = longer(self._bias)
        self._seen = longer(self._seen)
        self._shots = longer(self._shots, fill=float(self._scale(0.0)))

    def _scale(self, seen: float) -> np.float32:
        return np.float32(np.sqrt(1 + self._few / max(seen, 1)))

    def probabilities(self, scores: Floats) -> Floats:
        """``[K]`` to ``[K]``."""
        return softmax(np.float32(self.beta) * self._shots * scores + self._bias)

    def learn(self, scores: Floats, pull: Floats, target: int, weight: float) -> None:
        """One step.

        Args:
            scores: ``[K]``, as the probabilities were made from.
            pull: ``[K]``, what the probabilities should have been, minus what they were.
            target: class that has one example more.
            weight: of the example.
        """
        slope = float(np.dot(pull, self._shots * scores))
        self.beta = min(max(self.beta + self._beta_rate * weight * slope, BETA_RANGE[0]), BETA_RANGE[1])
        self._bias += np.float32(self._rate * weight) * pull - np.float32(self._leak) * self._bias
        self._seen[target] += weight
        self._shots[target] = self._scale(self._seen[target])

    def folded(self, weight: Floats) -> tuple[Floats, Floats, float]:
        """Rows ``[K, M]`` that gave the scores, as weight, bias and temperature of a served head."""
        return weight * self._shots[:, None], self._bias / np.float32(self.beta), 1 / self.beta

    def arrays(self) -> Arrays:
        """Its state."""
        return {
            "beta": np.array([self.beta]),
            "bias": self._bias.copy(),
            "seen": self._seen.copy(),
            "shots": self._shots.copy(),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`."""
        self.beta = float(taken(arrays, "beta", (1,))[0])
        self._bias = taken(arrays, "bias", (-1,))
        self._seen = taken(arrays, "seen", self._bias.shape)
        self._shots = taken(arrays, "shots", self._bias.shape)
