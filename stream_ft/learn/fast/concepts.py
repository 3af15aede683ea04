"""Ridge regression on concepts, and a filter of the labels that they go by.

A concept is what one label meant when it was first seen. The regression (:mod:`stream_ft.learn.fast.ridge`) tells
concepts apart, the filter (:mod:`stream_ft.learn.fast.remap`) says what each is called now, and

    p(label | x) = sum_k p(concept k | x) names_k[label].

When labels are renamed, swapped, merged or come back, the evidence for the concepts stays good and only names change.
An example is learned for the concept that goes by its label and looks most like it.

Whether an example could be one of concept ``k`` at all: its score ``s_k`` is compared with mean and deviation of the
scores of the concept's own examples (``z``, decayed). ``novel_k = 1 - (1 - few) (1 - low / (1 + n / settled))`` with
``low = 1 / (1 + exp(slope (z + offset)))`` and ``few = (1 + n / 5)^-2`` for the ``n`` examples of the label so far: one
that is still being learned may well be mistaken for its neighbours. Cost: that of the ridge, and of the filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ft.learn.fast.calibration import Calibration
from stream_ft.learn.fast.expert import Arrays, Seen, longer, taken
from stream_ft.learn.fast.remap import Names
from stream_ft.learn.fast.ridge import FEATURES, Scores
from stream_ft.model.heads import Floats
from stream_ft.model.mixture import Part

SLOPE, OFFSET = 8.0, 0.25
LEARNING, SETTLED = 5.0, 100.0
SCORE_RATE = 0.05


class Concepts:
    """Rows are concepts.

    Args:
        dim: size of the embedding. seed: of the projection. features: random ones.
    """

    prior = 5.0
    """It comes close to what all examples at once would give, which takes the others long."""

    def __init__(self, *, dim: int, seed: int, features: int = FEATURES) -> None:
        self._scores = Scores(dim=dim, seed=seed, features=features)
        self._calibration = Calibration()
        self._names = Names()
        self._own: Floats = np.zeros((0, 3), np.float32)
        """Of each concept's own examples: mean and variance of the score, and how many."""
        self._labelled: Floats = np.zeros(0, np.float32)
        """Examples of each label."""

    def grow(self) -> None:
        """One more label, and its concept."""
        self._scores.regression.grow()
        self._calibration.grow()
        self._names.grow()
        self._own = longer(self._own)
        self._own[-1] = (0.5, 0.06, 0)
        self._labelled = longer(self._labelled)

    def probabilities(self, seen: Seen) -> Floats:
        """Of labels, through the concepts."""
        p: Floats = self._calibration.probabilities(self._scores.of(seen)) @ self._names.names
        return p

    def learn(self, seen: Seen, label: int, weight: float) -> None:
        """One example: what is the label's concept now, and what belongs to it."""
        scores = self._scores.of(seen)
        p = self._calibration.probabilities(scores)
        first = self._labelled[label] == 0
        self._labelled[label] += weight
        concept = label if first else self._names.observe(p, self._novel(scores, label), label, weight)
        if not first:
            self._remember(concept, float(scores[concept]))
        pull = p * self._names.names[:, label]
        pull /= max(float(pull.sum()), 1e-9)
        self._calibration.learn(scores, pull - p, concept, weight)
        self._scores.learn(seen, concept, weight)

    def _novel(self, scores: Floats, label: int) -> Floats:
        examples = float(self._labelled[label])
        z = (scores - self._own[:, 0]) / np.sqrt(self._own[:, 1])
        low = 1 / (1 + np.exp(np.clip(SLOPE * (z + OFFSET), -30, 30)))
        few = (1 + examples / LEARNING) ** -2
        novel: Floats = np.asarray(1 - (1 - few) * (1 - low / (1 + examples / SETTLED)), np.float32)
        return novel

    def _remember(self, concept: int, score: float) -> None:
        own = self._own[concept]
        own[2] += 1
        rate = max(1 / (own[2] + 4), SCORE_RATE)
        away = score - own[0]
        own[0] += rate * away
        own[1] = max(own[1] + rate * (away * away - own[1]), 1e-4)

    def part(self) -> Part:
        """Weight, bias and temperature of the concepts, and their names."""
        weight, bias, temperature = self._calibration.folded(self._scores.regression.weight)
        return Part(
            name="concepts",
            weight=weight,
            bias=bias,
            share=1.0,
            projection=self._scores.projection,
            temperature=temperature,
            names=self._names.names.copy(),
        )

    def arrays(self) -> Arrays:
        """Of all its pieces."""
        own = {"own": self._own.copy(), "labelled": self._labelled.copy()}
        return self._scores.regression.arrays() | self._calibration.arrays() | self._names.arrays() | own

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`."""
        self._scores.regression.restore(arrays)
        self._calibration.restore(arrays)
        self._names.restore(arrays)
        self._own = taken(arrays, "own", (-1, 3))
        self._labelled = taken(arrays, "labelled", (len(self._own),))


def build(*, dim: int, seed: int) -> Concepts:
    """With its defaults."""
    return Concepts(dim=dim, seed=seed)
