from collections import Counter

import pytest

from stream_ft.learn.adapt.batches import Batches


def test_half_of_a_batch_is_fresh():
    fresh = [i >= 90 for i in range(100)]
    drawn = Batches(["a"] * 100, fresh, share=0.5, seed=0).draw(8)
    assert sum(fresh[i] for i in drawn) == 4
    assert len(set(drawn)) == 8


@pytest.mark.parametrize("fresh", [[True] * 20, [False] * 20])
def test_one_empty_part_leaves_the_batch_full(fresh):
    assert len(Batches(["a"] * 20, fresh, share=0.5, seed=0).draw(8)) == 8


def test_classes_are_drawn_alike_however_many_examples_they_have():
    labels = ["common"] * 950 + ["rare"] * 50
    draws = Batches(labels, [False] * 1_000, share=0.5, seed=0)
    seen = Counter(labels[i] for _ in range(300) for i in draws.draw(10))
    assert 0.4 < seen["rare"] / seen.total() < 0.6


def test_few_examples_are_not_repeated_within_a_batch():
    assert sorted(Batches(["a", "b", "c"], [True, False, False], share=0.5, seed=0).draw(32)) == [0, 1, 2]


def test_a_seed_fixes_the_draws():
    def five(seed):
        draws = Batches(["a", "b"] * 50, [i % 3 == 0 for i in range(100)], share=0.5, seed=seed)
        return [draws.draw(8) for _ in range(5)]

    assert five(1) == five(1)
    assert five(1) != five(2)
