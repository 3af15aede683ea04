from __future__ import annotations

import numpy as np
import pytest

from stream_ft.replay.nearby import FITTED_AT, Nearby

DIM, SIMILARITY = 96, 0.8


def drawn(count: int, spread: float, seed: int) -> np.ndarray:
    """Rows of length 1 around 20 centres; the greater the spread, the less the centres matter."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(20, DIM))[random.integers(20, size=count)] + spread * random.normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def filled(rows: np.ndarray) -> Nearby:
    nearby = Nearby(DIM, SIMILARITY)
    for at, row in enumerate(rows):
        if at % 300 == 0:
            nearby.grow(300)
        nearby.put(at, row)
    return nearby


def check(nearby: Nearby, rows: np.ndarray, block: list[int]) -> None:
    """As the full product says, but where a cosine is so near the threshold that rounding decides."""
    close = nearby.near(np.array(block))
    assert close.shape[1] == len(block)
    cosines = rows.astype(np.float64) @ rows[block].T.astype(np.float64)
    sure = np.abs(cosines - SIMILARITY) > 1e-6
    assert (close[: len(rows)] == (cosines >= SIMILARITY))[sure].all()
    assert not close[len(rows) :].any(), "rows that are not there are nobody's neighbours"


@pytest.mark.parametrize("spread", [0.2, 0.45, 1.0, 10.0])
@pytest.mark.parametrize("count", [3, FITTED_AT[0] - 1, FITTED_AT[0], FITTED_AT[0] + 100, FITTED_AT[1] + 200])
def test_the_neighbours_are_those_of_the_full_product(count: int, spread: float) -> None:
    rows = drawn(count, spread, seed=count)
    check(filled(rows), rows, [*range(0, count, 7), count - 1])


def test_some_rows_are_neighbours_and_few_are_looked_at() -> None:
    rows = drawn(1_500, 0.45, seed=1)
    nearby = filled(rows)
    close = nearby.near(np.array([5]))[:, 0]
    assert 10 < close.sum() < 200
    bound = nearby._low @ nearby._low[5] + nearby._rest * nearby._rest[5]
    assert (bound >= SIMILARITY).sum() < 300


def test_a_row_that_replaces_another_is_compared_as_itself() -> None:
    rows = drawn(1_300, 0.45, seed=2)
    nearby = filled(rows)
    for at, row in zip(range(0, 1_300, 3), drawn(434, 0.45, seed=3), strict=True):
        rows[at] = row
        nearby.put(at, row)
    check(nearby, rows, list(range(0, 1_300, 11)))


def test_rows_that_all_look_alike_are_all_neighbours() -> None:
    rows = np.repeat(drawn(1, 0.0, seed=4), 400, axis=0)
    assert filled(rows).near(np.array([7]))[:400].all()
