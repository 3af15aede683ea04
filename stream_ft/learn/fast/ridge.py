"""RanPAC, one example at a time: ridge regression on random features of the embedding.

Features ``relu(x P) ++ sqrt(dim) x`` (McDonnell et al. 2023, arXiv:2307.02251, with orthogonal ``P`` and the embedding
itself beside them, which gives as much with fewer features; its values are then about as large as theirs, so that what
a plain linear head can tell costs no more to learn than what only they can), one-hot targets, recursive least squares
(:mod:`stream_ft.learn.fast.recursive`), and a calibration (:mod:`stream_ft.learn.fast.calibration`). Close to the best
head of the embedding while nothing drifts; forgets little, so old evidence stands against new. With ``M`` features and
``C`` labels it costs ``M^2 + 3 C M + dim M`` multiplications per event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from stream_ft.learn.fast.calibration import Calibration
from stream_ft.learn.fast.expert import Arrays, Seen
from stream_ft.learn.fast.recursive import RecursiveRidge
from stream_ft.model.heads import Floats, Projection
from stream_ft.model.mixture import Part

FEATURES = 1_536
RIDGE = 64.0
"""Strong, for at first there are fewer examples than features: with 1 it fits those too closely."""
MEMORY = 50_000.0


class Scores:
    """The regression on its features, without an opinion about what a row stands for.

    Args:
        dim: size of the embedding.
        seed: of the projection.
        features: random ones; ``M`` is ``dim`` more.
        ridge: relative to the mean squared norm of a feature row over ``M``.
        memory: examples that count, about.
    """

    def __init__(
        self, *, dim: int, seed: int, features: int = FEATURES, ridge: float = RIDGE, memory: float = MEMORY
    ) -> None:
        self.projection = Projection(seed=seed, features=features, orthogonal=True, raw=math.sqrt(dim))
        width = self.projection.width(dim)
        # A feature relu(z), z ~ N(0, 1), has the mean square 1/2; a value of the embedding, so scaled, 1.
        square = (features / 2 + dim) / width
        self.regression = RecursiveRidge(width=width, ridge=ridge * square, memory=memory)

    def of(self, seen: Seen) -> Floats:
        """``s``, ``[K]``: near 1 for the right row and 0 for the others."""
        scores = seen.kept.get(self)
        if scores is None:
            scores = seen.kept[self] = self.regression.weight @ seen.features(self.projection)
        return scores

    def learn(self, seen: Seen, row: int, weight: float) -> None:
        """One example of a row."""
        seen.kept.pop(self, None)
        if not self.regression.expecting:
            self.regression.expect(seen.coming(self.projection, self.regression.left))
        self.regression.learn(seen.features(self.projection), row, weight)


class Ridge:
    """Rows are labels.

    Args:
        dim, seed: as in :class:`Scores`.
        features: as there.
    """

    prior = 5.0
    """It comes close to what all examples at once would give, which takes the others long."""

    def __init__(self, *, dim: int, seed: int, features: int = FEATURES) -> None:
        self._scores = Scores(dim=dim, seed=seed, features=features)
        self._calibration = Calibration()

    def grow(self) -> None:
        """One more row."""
        self._scores.regression.grow()
        self._calibration.grow()

    def probabilities(self, seen: Seen) -> Floats:
        """Calibrated scores."""
        return self._calibration.probabilities(self._scores.of(seen))

    def learn(self, seen: Seen, label: int, weight: float) -> None:
        """One example."""
        scores = self._scores.of(seen)
        pull = -self._calibration.probabilities(scores)
        pull[label] += 1
        self._calibration.learn(scores, pull, label, weight)
        self._scores.learn(seen, label, weight)

    def part(self) -> Part:
        """Weight, bias and temperature."""
        weight, bias, temperature = self._calibration.folded(self._scores.regression.weight)
        return Part(
            name="ridge",
            weight=weight,
            bias=bias,
            share=1.0,
            projection=self._scores.projection,
            temperature=temperature,
        )

    def arrays(self) -> Arrays:
        """Of the regression and the calibration."""
        return self._scores.regression.arrays() | self._calibration.arrays()

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`."""
        self._scores.regression.restore(arrays)
        self._calibration.restore(arrays)


def build(*, dim: int, seed: int) -> Ridge:
    """With its defaults."""
    return Ridge(dim=dim, seed=seed)
