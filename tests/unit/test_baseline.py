"""The plain online softmax learns, grows and forgets nothing by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stream_ft.learn.baseline import OnlineSoftmax


def stream(count: int, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.Generator(np.random.PCG64(seed))
    centres = np.random.Generator(np.random.PCG64(42)).standard_normal((classes, 32))
    y = rng.integers(0, classes, count)
    return (centres[y] + 0.5 * rng.standard_normal((count, 32))).astype(np.float16), [f"c{i}" for i in y]


def test_it_answers_nothing_before_it_has_learned() -> None:
    assert OnlineSoftmax(32).predict(np.ones(32, np.float16)) == ""


def test_it_learns_a_stream() -> None:
    model = OnlineSoftmax(32)
    embeddings, labels = stream(1_000)
    hits = []
    for embedding, label in zip(embeddings, labels, strict=True):
        hits.append(model.predict(embedding) == label)
        model.learn(embedding, label)
    assert not hits[0]
    assert sum(hits[-500:]) / 500 > 0.95


def test_labels_grow_in_the_order_of_their_first_sight() -> None:
    model = OnlineSoftmax(32)
    embeddings, labels = stream(600, classes=20)
    for embedding, label in zip(embeddings, labels, strict=True):
        model.learn(embedding, label)
    assert model.labels == tuple(dict.fromkeys(labels))
    test_x, test_y = stream(300, classes=20, seed=9)
    assert sum(model.predict(x) == y for x, y in zip(test_x, test_y, strict=True)) / 300 > 0.9


def test_one_step_is_the_gradient_of_the_cross_entropy() -> None:
    model = OnlineSoftmax(2, learning_rate=1.0)
    x = np.array([3.0, 4.0])
    model.learn(x, "a")  # alone: probability 1, no step
    model.learn(x, "b")  # from zero rows: probabilities 1/2, so rows move by (0.6, 0.8, 1) / 2
    np.testing.assert_allclose(model._rows(), [[-0.3, -0.4], [0.3, 0.4]], atol=1e-6)


def test_the_length_of_an_embedding_does_not_matter() -> None:
    one, other = OnlineSoftmax(32), OnlineSoftmax(32)
    embeddings, labels = stream(200)
    for embedding, label in zip(embeddings.astype(np.float32), labels, strict=True):
        one.learn(embedding, label)
        other.learn(embedding * 50, label)
    np.testing.assert_allclose(one._rows(), other._rows(), atol=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_passed_over(bad: float) -> None:
    model = OnlineSoftmax(4)
    model.learn(np.ones(4), "a")
    model.learn(-np.ones(4), "b")
    before = model._rows().copy()
    with np.errstate(invalid="ignore"):
        model.learn(np.array([1.0, bad, 0.0, 0.0]), "a")
    np.testing.assert_array_equal(model._rows(), before)
