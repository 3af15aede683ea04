"""The simple thing to beat: softmax regression on frozen embeddings, one gradient step per event, no gate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class OnlineSoftmax:
    """Multinomial logistic regression by stochastic gradient descent; a label seen for the first time gets a zero row.

    Without a bias: a step of one would follow the labels' order of arrival, which costs several points.

    Args:
        dim: width of an embedding; it is scaled to length 1, so that the rate means the same under any encoder.
        learning_rate: of each step.
    """

    def __init__(self, dim: int, learning_rate: float = 2.0) -> None:
        self._rate = np.float32(learning_rate)
        self._weight: Floats = np.zeros((8, dim), np.float32)
        self._index: dict[str, int] = {}
        self._labels: list[str] = []

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels seen so far, in order of their first sight."""
        return tuple(self._labels)

    def predict(self, embedding: npt.NDArray[np.floating]) -> str:
        """The most probable label of an embedding ``[dim]``; ``""`` before any was learned."""
        if not self._labels:
            return ""
        return self._labels[int(np.argmax(self._rows() @ _scaled(embedding)))]

    def learn(self, embedding: npt.NDArray[np.floating], label: str) -> None:
        """One step on one example. A value that is not finite is passed over."""
        x = _scaled(embedding)
        if not np.isfinite(x).all():
            return
        if label not in self._index:
            self._index[label] = len(self._labels)
            self._labels.append(label)
            if len(self._labels) > len(self._weight):
                self._weight = np.concatenate([self._weight, np.zeros_like(self._weight)])
        z = self._rows() @ x
        p = np.exp(z - z.max())
        p /= p.sum()
        p[self._index[label]] -= 1
        self._rows()[...] -= self._rate * np.outer(p, x)

    def _rows(self) -> Floats:
        return self._weight[: len(self._labels)]


def _scaled(embedding: npt.NDArray[np.floating]) -> Floats:
    x = embedding.astype(np.float32)
    return x / np.float32(max(float(np.linalg.norm(x)), 1e-12))
