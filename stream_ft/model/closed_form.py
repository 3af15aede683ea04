"""A head in closed form: ridge regression on random features of frozen embeddings.

RanPAC (McDonnell et al. 2023, arXiv:2307.02251) without its first-session adapter: with features ``H`` ``[N, M]`` and
one-hot targets ``Y`` ``[N, C]``, ``W = (H'H + r I)^-1 H'Y``. The ridge ``r`` is chosen on a held-out fifth.
Cost: ``N M^2`` for the Gram matrix and ``M^3 / 3`` for each Cholesky factor; for ``N < M`` the dual,
``N^2 M + N^3 / 3``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from stream_ft.model.heads import Floats, Head, Projection, lift

RIDGES = (1e-1, 1.0, 1e1, 1e2, 1e3)
"""Candidates, relative to the mean squared norm of a feature row over the number of features."""

TEMPERATURE = 0.1
"""Least squares puts the right class near 1 and the others near 0; undivided, a softmax of that is almost flat."""

BLOCK = 1_024
"""Rows whose features exist at one time."""


def fit_head(
    embeddings: npt.NDArray[np.floating],
    labels: Sequence[str],
    *,
    features: int = 2_000,
    seed: int = 0,
    weights: npt.NDArray[np.floating] | None = None,
    ridge: float | None = None,
) -> Head:
    """Fit a head on all examples at once.

    Args:
        embeddings: ``[N, dim]``, as served (fp16).
        labels: the right label of each row.
        features: ``M``; 0 works on the embedding itself.
        seed: of the projection and of the held-out rows.
        weights: ``[N]``, weight of each example; all 1 if not given.
        ridge: ``r``; chosen on a held-out fifth if not given and there are at least 20 rows.

    Returns:
        A head over the labels seen, in sorted order. Deterministic for the same input and thread count.
    """
    dim = embeddings.shape[1] if embeddings.ndim == 2 else 0
    names = tuple(sorted(set(labels)))
    if not names:
        return Head.empty(dim)
    projection = Projection(seed=seed, features=features) if features else None
    index = {name: i for i, name in enumerate(names)}
    y = np.array([index[label] for label in labels])
    w = np.ones(len(y), np.float32) if weights is None else weights.astype(np.float32)
    rows = Lifted(embeddings, projection)
    scale = float(np.mean(np.concatenate([np.einsum("nm,nm->n", h, h) for _, h in rows.blocks()]))) / rows.width
    if ridge is None:
        ridge = _choose(rows, y, w, len(names), scale, seed) if len(y) >= 20 else RIDGES[2]
    matrix = _solve(rows, y, w, len(names), [ridge * scale])[0]
    return Head(
        labels=names,
        weight=np.ascontiguousarray(matrix.T, dtype=np.float32),
        bias=np.zeros(len(names), np.float32),
        projection=projection,
        dim=dim,
        temperature=TEMPERATURE,
    )


class Lifted:
    """Features ``[N, M]`` of embeddings, made a block of rows at a time: all of them may take more than the model.

    Args:
        embeddings: ``[N, dim]``.
        projection: as in :func:`stream_ft.model.heads.lift`.
    """

    def __init__(self, embeddings: npt.NDArray[np.floating], projection: Projection | None) -> None:
        self.embeddings = embeddings
        self.projection = projection
        self.width = embeddings.shape[1] if projection is None else projection.width(embeddings.shape[1])

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: npt.NDArray[np.intp]) -> Lifted:
        return Lifted(self.embeddings[rows], self.projection)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Which rows, and their features."""
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, lift(self.embeddings[rows], self.projection)


def _targets(y: npt.NDArray[np.intp], classes: int) -> Floats:
    targets = np.zeros((len(y), classes), np.float32)
    targets[np.arange(len(y)), y] = 1
    return targets


def _solve(
    rows: Lifted, y: npt.NDArray[np.intp], w: Floats, classes: int, ridges: Sequence[float]
) -> list[npt.NDArray[np.float32]]:
    """``[M, C]`` for each ridge; primal or dual, whichever is smaller."""
    root = np.sqrt(w)[:, None]
    targets = _targets(y, classes)
    targets *= root
    hw = None
    if len(rows) < rows.width:
        hw = lift(rows.embeddings, rows.projection)
        hw *= root
        gram, right = hw @ hw.T, targets
    else:
        gram, right = np.zeros((rows.width, rows.width), np.float32), np.zeros((rows.width, classes), np.float32)
        for some, h in rows.blocks():
            h *= root[some]
            gram += h.T @ h
            right += h.T @ targets[some]
    solutions = []
    for number, ridge in enumerate(ridges):
        system = gram if number == len(ridges) - 1 else gram.copy()
        system[np.diag_indices_from(system)] += np.float32(ridge)
        try:
            # The system is symmetric: its transpose is what LAPACK can factor in place.
            factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
            solved = cho_solve(factor, right, check_finite=False)
        except LinAlgError:  # not positive definite in float32: a ridge far too small for this data
            solutions.append(np.zeros((rows.width, classes), np.float32))
            continue
        solutions.append((solved if hw is None else hw.T @ solved).astype(np.float32, copy=False))
    return solutions


def _choose(rows: Lifted, y: npt.NDArray[np.intp], w: Floats, classes: int, scale: float, seed: int) -> float:
    """The ridge with the least squared error on held-out rows, at most 2,000 rows to bound the cost."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(y))[:2_500]
    cut = max(1, len(order) // 5)
    out, fit = order[:cut], order[cut:]
    share = len(fit) / len(y)
    ridges = [r * scale * share for r in RIDGES]
    solved = _solve(rows[fit], y[fit], w[fit], classes, ridges)
    held = lift(rows.embeddings[out], rows.projection)
    targets = _targets(y[out], classes)
    errors = [float(np.mean(((held @ m) - targets) ** 2)) for m in solved]
    return RIDGES[int(np.argmin(errors))]
