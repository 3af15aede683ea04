"""Recursive ridge regression against the same regression solved at once."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ft.learn.fast.recursive import BLOCK, RecursiveRidge

M, K, R = 24, 3, 0.7
FOREVER = 1e12


def examples(count: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    h = draw.normal(size=(count, M)).astype(np.float32)
    return h, draw.integers(0, K, size=count), draw.uniform(0.2, 1.0, size=count)


def fed(h, y, w, memory=FOREVER) -> RecursiveRidge:
    regression = RecursiveRidge(width=M, ridge=R, memory=memory)
    for _ in range(K):
        regression.grow()
    for features, row, weight in zip(h, y, w, strict=True):
        regression.learn(features, int(row), float(weight))
    return regression


def solved(h, y, w, ridge=R):
    h64, t = h.astype(np.float64), np.eye(K)[y]
    return np.linalg.solve((h64 * w[:, None]).T @ h64 + ridge * np.eye(M), (h64 * w[:, None]).T @ t).T


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_it_is_the_regression_on_all_examples(count):
    h, y, w = examples(count)
    np.testing.assert_allclose(fed(h, y, w).weight, solved(h, y, w), atol=2e-5)


def test_a_target_that_comes_later_was_zero_before():
    h, y, w = examples(100)
    y[:60] %= 2
    late = RecursiveRidge(width=M, ridge=R, memory=FOREVER)
    late.grow()
    late.grow()
    for at in range(100):
        if at == 60:
            late.grow()
        late.learn(h[at], int(y[at]), float(w[at]))
    np.testing.assert_allclose(late.weight, solved(h, y, w), atol=2e-5)


def test_a_corrected_example_is_as_if_it_had_been_right_at_once():
    h, y, w = examples(100)
    regression = fed(h, y, w)
    other = (y[7] + 1) % K
    regression.correct(h[7], int(y[7]), int(other), float(w[7]))
    y[7] = other
    np.testing.assert_allclose(regression.weight, solved(h, y, w), atol=2e-5)


def test_old_examples_are_worth_less_and_new_ones_win():
    h, y, w = examples(2_000)
    flipped = np.where(np.arange(2_000) < 1_000, y, (y + 1) % K)
    # Labels that depend on the features, or there is nothing to fit.
    h[np.arange(2_000), y] += 4
    recent = fed(h, flipped, w, memory=100)
    right = (h[1_000:] @ recent.weight.T).argmax(axis=1) == flipped[1_000:]
    never = (h[1_000:] @ fed(h, flipped, w).weight.T).argmax(axis=1) == flipped[1_000:]
    assert right.mean() > 0.95
    assert never.mean() < 0.9


def test_it_stays_sound_long_after_its_memory_and_where_nothing_comes():
    h, y, w = examples(20_000)
    h[:, M // 2 :] = 0  # directions in which nothing ever comes
    regression = fed(h, y, w, memory=300)
    decay = np.exp(-1 / 300) ** np.arange(len(h) - 1, -1, -1)
    expected = solved(h, y, w * decay)
    # What comes back of the ridge comes in turns, so it is the same on average only.
    np.testing.assert_allclose(regression.weight, expected, atol=0.01)
    gains = regression.gain(np.ones(M, np.float32))
    assert np.isfinite(gains).all()
    assert 0.3 / R < gains[-1] < 4 / R


def test_a_restored_one_goes_on_bit_by_bit():
    h, y, w = examples(200)
    one = fed(h[:77], y[:77], w[:77], memory=50)
    two = RecursiveRidge(width=M, ridge=R, memory=50)
    two.restore(one.arrays())
    for at in range(77, 200):
        for each in (one, two):
            each.learn(h[at], int(y[at]), float(w[at]))
    np.testing.assert_array_equal(one.weight, two.weight)
    for name, value in one.arrays().items():
        np.testing.assert_array_equal(value, two.arrays()[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", np.zeros((3, M + 1), np.float32)),
        ("inverse", np.zeros(3, np.float32)),
        ("terms", np.zeros((BLOCK + 1, M), np.float32)),
        ("turn", np.zeros((1, 1))),
    ],
)
def test_arrays_of_another_shape_are_refused(name, value):
    regression = RecursiveRidge(width=M, ridge=R, memory=50)
    with pytest.raises(ValueError, match="expected"):
        regression.restore(regression.arrays() | {name: value})


@pytest.mark.parametrize("others", [False, True])
def test_examples_that_were_expected_are_learned_as_any_others(others):
    h, y, w = examples(3 * BLOCK + 5)
    rows = list(h)
    one, two = fed(h, y, w, memory=500.0), RecursiveRidge(width=M, ridge=R, memory=500.0)
    for _ in range(K):
        two.grow()
    for at, (features, row, weight) in enumerate(zip(rows, y, w, strict=True)):
        if not two.expecting:
            coming = rows[at : at + two.left]
            # What is expected and does not come, costs nothing but the work.
            two.expect(coming[::-1] if others else coming)
        two.learn(features, int(row), float(weight))
    np.testing.assert_allclose(one.weight, two.weight, atol=1e-5)
    np.testing.assert_allclose(one.gain(h[0]), two.gain(h[0]), atol=1e-5)
