"""How much each learner is believed: by its log-loss on what came lately.

``loss_k <- decay * loss_k - log((1 - floor) p_k(y) + floor / C)``, ``share_k ~ prior_k exp(-sharpness * loss_k)``
(Vovk 1990's aggregating algorithm, with exponential forgetting). Far from sharp: learners that err on other examples
make a better mixture than the best of them alone. The floor bounds what one wrong label can cost. Cost: ``O(1)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ft.learn.fast.expert import Arrays, taken
from stream_ft.model.heads import Floats

LEAST = 1e-4
"""Shares below this are 0: what is not heard need not be computed."""


class Mixing:
    """Shares of ``K`` learners.

    Args:
        priors: ``[K]``, > 0: what each is worth before anything was heard.
        decay: per event. sharpness: 1 is Bayes' rule over what the decay leaves.
        floor: share of a uniform guess in each learner's answer.
    """

    def __init__(
        self, priors: Sequence[float], *, decay: float = 0.99, sharpness: float = 0.05, floor: float = 0.02
    ) -> None:
        self._decay, self._sharpness, self._floor = decay, sharpness, floor
        self._priors = np.array(priors)
        self._losses: npt.NDArray[np.float64] = np.zeros(len(priors))

    def shares(self) -> npt.NDArray[np.float64]:
        """``[K]``, summing to 1."""
        shares = self._priors * np.exp(-self._sharpness * (self._losses - self._losses.min()))
        shares /= shares.sum()
        shares[shares < LEAST] = 0
        result: npt.NDArray[np.float64] = shares / shares.sum()
        return result

    def learn(self, answers: list[Floats], label: int, weight: float) -> None:
        """What each answered, ``[C]``, and what was right."""
        right = np.array([float(p[label]) for p in answers])
        self._losses *= self._decay
        self._losses -= weight * np.log((1 - self._floor) * right + self._floor / len(answers[0]))
        self._losses -= self._losses.min()

    def arrays(self) -> Arrays:
        """Its state."""
        return {"losses": self._losses.copy()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`."""
        self._losses = taken(arrays, "losses", self._losses.shape)
