"""Which label does a concept go by now? A filter for each concept, so that a renaming costs a few events, not a class.

A learner that tells concepts apart need not learn anew when labels change their names. For concept ``k``, row ``k`` of
``names`` ``[K, C]`` is the belief that it goes by each label: a hidden Markov chain that is told labels through the
classifier. Per event with concept probabilities ``p`` ``[K]`` and label ``y``, for each ``k`` that may be meant:

    prior:       names_k <- (1 - h p_k) names_k + h p_k (uniform + past_k) / 2
    likelihood:  of y, if k goes by y:      (1 - e) (others + p_k) + e / C
                 of y, if it goes by another: (1 - e) (others + p_k novel_k) + e / C,
                 others = sum over j != k of p_j names_j[y]
    posterior:   names_k ~ prior * likelihood

(fixed share, Herbster and Warmuth 1998; mixing past posteriors, Bousquet and Warmuth 2002, by which names that come
back are found at once.) ``e`` is the share of wrong labels: one stray label changes nothing, two that agree do.
``novel_k`` is the chance that the example is no example of ``k`` at all but of something unknown: without it, a new
class would take the names of the classes that it resembles. And a concept whose texts come no more, but for a few
mistaken ones of a label that another concept bears, would take that label in time: so each example of ``y`` that a
bearer of ``y`` explains halves the belief that ``k`` bears it, too, where ``k`` is not meant and the belief is below
1/2. (If ``k`` bore it, half of the label's examples would be of ``k``.)

The hazard ``h`` rises while names change, for changes seldom come alone. Cost: ``O(C)`` for each concept
with ``p_k > 0.01``. Memory: ``2 K C``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ft.learn.fast.expert import Arrays, longer, taken
from stream_ft.model.heads import Floats

MEANT = 0.01
"""Concepts of lower probability are not told."""
PAST_RATE = 0.01
EXPLAINED, AGAINST, FAINT = 0.5, 0.5, 1e-6


class Names:
    """Beliefs over labels, a row per concept.

    Args:
        hazard: least and highest chance per example that a concept's label has changed.
        noise: share of labels that are wrong.
    """

    def __init__(self, *, hazard: tuple[float, float] = (1e-3, 0.02), noise: float = 0.02) -> None:
        self._low, self._high = hazard
        self._hazard = self._low
        self._noise = noise
        self.names: Floats = np.zeros((0, 0), np.float32)
        self._past: Floats = np.zeros((0, 0), np.float32)

    def grow(self) -> None:
        """One more label, and a concept that goes by it."""
        self.names, self._past = longer(self.names, columns=True), longer(self._past, columns=True)
        self.names[-1, -1] = self._past[-1, -1] = 1

    def observe(self, p: Floats, novel: Floats, label: int, weight: float) -> int:
        """Take in one example.

        Args:
            p: ``[K]``, the concepts' probabilities. novel: ``[K]``, as above, in [0, 1].
            label: its label.
            weight: in (0, 1]; a label that is trusted less is told as one that is oftener wrong.

        Returns:
            The concept that it is an example of: the most probable of those that go by the label, or else the
            label's own.
        """
        noise = 1 - (1 - self._noise) * weight
        count = len(p)
        told = np.flatnonzero(p > MEANT)
        meant, before = p[told], self.names[told]
        share = (np.float32(self._hazard) * meant)[:, None]
        past = self._past[told]
        prior = (1 - share) * before + share * (0.5 / count + 0.5 * past / past.sum(axis=1, keepdims=True))
        others = np.maximum(float(p @ self.names[:, label]) - meant * before[:, label], 0)
        if_not = (1 - noise) * (others + meant * novel[told]) + noise / count
        if_so = (1 - noise) * (others + meant) + noise / count
        after = prior * if_not[:, None]
        after[:, label] = prior[:, label] * if_so
        after /= after.sum(axis=1, keepdims=True)
        self.names[told] = after
        rate = np.float32(PAST_RATE) * meant[:, None]
        self._past[told] = (1 - rate) * past + rate * after
        changed = int(((after.argmax(axis=1) != before.argmax(axis=1)) & (meant > 0.3)).sum())
        self._hazard = min(max(self._hazard + 0.01 * (changed - self._hazard), self._low), self._high)
        bearers = told[after[:, label] > 0.5]
        if float(p[bearers].sum()) > EXPLAINED:
            self._doubt(p, label)
        return int(bearers[p[bearers].argmax()]) if len(bearers) else label

    def _doubt(self, p: Floats, label: int) -> None:
        """A bearer of the label explains an example of it: so much against all that are only suspected to bear it."""
        column = self.names[:, label]
        suspected = np.flatnonzero((column > FAINT) & (column < 0.5) & (p <= MEANT))
        lost = column[suspected] * np.float32(AGAINST)
        self.names[suspected, label] -= lost
        self.names[suspected] /= (1 - lost)[:, None]

    def arrays(self) -> Arrays:
        """Its state."""
        return {"names": self.names.copy(), "past": self._past.copy(), "hazard": np.array([self._hazard])}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`."""
        names = taken(arrays, "names", (-1, -1))
        past = taken(arrays, "past", names.shape)
        self._hazard = float(taken(arrays, "hazard", (1,))[0])
        self.names, self._past = names, past
