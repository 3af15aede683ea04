"""What holds for every fast learner, found by its file, and what is special about some."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from stream_ft.errors import ConfigError
from stream_ft.learn import fast
from stream_ft.learn.fast.expert import Seen, load_expert
from stream_ft.learn.fast.mixing import Mixing
from stream_ft.model.mixture import Mixture, read_head

DIM, C = 32, 6
FILES = sorted(
    path.stem for path in Path(fast.__file__).parent.glob("*.py") if "def build(*, dim" in path.read_text("utf-8")
)
CENTRES = np.random.default_rng(0).normal(size=(C, DIM))


def examples(count: int, seed: int, spread: float = 0.6):
    draw = np.random.default_rng(seed)
    y = draw.integers(0, C, size=count)
    return (CENTRES[y] + spread * draw.normal(size=(count, DIM))).astype(np.float16), y


def grown(name: str, classes: int = C):
    expert = load_expert(name, dim=DIM, seed=1)
    for _ in range(classes):
        expert.grow()
    return expert


def taught(name: str, count: int = 90):
    """A learner that saw every label, each first in turn, then at random; a copy."""
    expert = load_expert(name, dim=DIM, seed=1)
    expert.restore(_taught(name, count))
    return expert


@cache
def _taught(name: str, count: int):
    expert = load_expert(name, dim=DIM, seed=1)
    x, y = examples(count, 2)
    for label in range(C):
        expert.grow()
        expert.learn(Seen(CENTRES[label].astype(np.float16)), label, 1.0)
    for row, label in zip(x, y, strict=True):
        expert.learn(Seen(row), int(label), 1.0)
    return expert.arrays()


def test_the_learners_are_those_that_the_tier_names():
    assert FILES == ["concepts", "means", "ridge", "softmax"]


@pytest.mark.parametrize("name", ["expert", "tier", "nothing", "", "../evil", "recursive", "os"])
def test_a_name_that_is_no_learner_is_refused(name):
    with pytest.raises(ConfigError):
        load_expert(name, dim=DIM, seed=0)


@pytest.mark.parametrize("name", FILES)
class TestEvery:
    def test_it_learns_what_can_be_told_apart(self, name):
        expert = taught(name)
        x, y = examples(100, 3)
        answers = [expert.probabilities(Seen(row)) for row in x]
        assert np.mean([p.argmax() == label for p, label in zip(answers, y, strict=True)]) > 0.95
        np.testing.assert_allclose([p.sum() for p in answers], 1, rtol=1e-4)
        assert min(p.min() for p in answers) >= 0

    def test_a_label_is_usable_after_its_first_example(self, name):
        expert = taught(name)
        new = np.random.default_rng(9).normal(size=DIM).astype(np.float16)
        expert.grow()
        assert expert.probabilities(Seen(new)).argmax() != C
        expert.learn(Seen(new), C, 1.0)
        assert expert.probabilities(Seen(new)).argmax() == C

    def test_what_it_publishes_answers_as_it_does(self, name):
        expert = taught(name)
        x, _ = examples(50, 4)
        labels = tuple(f"label {i}" for i in range(C))
        head = read_head(Mixture(labels=labels, parts=(expert.part(),), dim=DIM).to_bytes())
        live = np.array([expert.probabilities(Seen(row)) for row in x])
        np.testing.assert_allclose(head.probabilities(x), live, atol=0.01)
        assert (head.probabilities(x).argmax(axis=1) == live.argmax(axis=1)).mean() > 0.95

    def test_what_it_published_does_not_change_as_it_goes_on(self, name):
        expert = taught(name)
        part = expert.part()
        before = [array.copy() for array in (part.weight, part.bias, part.names) if array is not None]
        for row, label in zip(*examples(40, 5), strict=True):
            expert.learn(Seen(row), int(label), 1.0)
        after = [array for array in (part.weight, part.bias, part.names) if array is not None]
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_restored_it_goes_on_bit_by_bit(self, name):
        one, two = taught(name), load_expert(name, dim=DIM, seed=1)
        two.restore(one.arrays())
        for row, label in zip(*examples(40, 6), strict=True):
            np.testing.assert_array_equal(one.probabilities(Seen(row)), two.probabilities(Seen(row)))
            one.learn(Seen(row), int(label), 0.7)
            two.learn(Seen(row), int(label), 0.7)
        two.grow()
        two.learn(Seen(CENTRES[0].astype(np.float16)), C, 1.0)
        assert len(two.probabilities(Seen(CENTRES[0].astype(np.float16)))) == C + 1

    def test_its_state_does_not_grow_with_the_stream(self, name):
        def size(expert) -> int:
            # Up to a block of the recursion waits to be merged.
            return sum(array.nbytes for key, array in expert.arrays().items() if key != "terms")

        assert size(taught(name, 90)) == size(taught(name, 30))

    def test_another_state_is_refused(self, name):
        expert = taught(name)
        with pytest.raises((KeyError, ValueError)):
            load_expert(name, dim=DIM + 1, seed=1).restore(expert.arrays())
        with pytest.raises(KeyError):
            expert.restore({})

    def test_asking_does_not_change_it(self, name):
        one, two = taught(name), taught(name)
        for row in examples(20, 7)[0]:
            one.probabilities(Seen(row))
        for key, value in one.arrays().items():
            np.testing.assert_array_equal(value, two.arrays()[key])


def stream(name: str, change, count: int = 400, seed: int = 8):
    """Share of right answers soon after labels change in the middle of ``count`` events, and in the last 75."""
    expert = grown(name)
    right = []
    for at, (row, label) in enumerate(zip(*examples(count, seed), strict=True)):
        meant = change[label] if at >= count // 2 else int(label)
        seen = Seen(row)
        right.append(expert.probabilities(seen).argmax() == meant)
        expert.learn(seen, meant, 1.0)
    after = right[count // 2 :]
    return np.mean(after[25:75]), np.mean(after[-75:])


def test_concepts_follow_a_renaming_within_a_few_examples_of_each_class():
    soon, late = stream("concepts", [1, 2, 0, 3, 4, 5])
    assert soon > 0.9
    assert late > 0.95
    assert stream("ridge", [1, 2, 0, 3, 4, 5])[0] < soon - 0.2


def test_concepts_follow_two_labels_that_become_one():
    # Fifty events are few: one seed alone may have several that nobody gets right.
    soon, late = np.mean([stream("concepts", [0, 0, 2, 3, 4, 5], seed=seed) for seed in (8, 9, 10)], axis=0)
    assert soon >= 0.9
    assert late > 0.95


def test_concepts_do_not_give_a_new_class_the_name_of_its_neighbour():
    expert = load_expert("concepts", dim=DIM, seed=1)
    old, new = CENTRES[0], CENTRES[0] + 0.9 * CENTRES[1]  # a new class that resembles an old one
    draw = np.random.default_rng(3)

    def around(centre):
        return Seen((centre + 0.3 * draw.normal(size=DIM)).astype(np.float16))

    for label, centre in enumerate((old, CENTRES[2], CENTRES[3])):
        expert.grow()
        for _ in range(25):
            expert.learn(around(centre), label, 1.0)
    expert.grow()
    for _ in range(40):
        expert.learn(around(new), 3, 1.0)
    assert np.mean([expert.probabilities(around(old)).argmax() == 0 for _ in range(50)]) > 0.9
    assert np.mean([expert.probabilities(around(new)).argmax() == 3 for _ in range(50)]) > 0.9


def test_the_mixture_leans_to_who_was_right_lately_and_turns_when_that_changes():
    mixing = Mixing([1.0, 1.0])
    good, bad = np.array([0.9, 0.1], np.float32), np.array([0.2, 0.8], np.float32)
    np.testing.assert_allclose(mixing.shares(), [0.5, 0.5])
    for _ in range(200):
        mixing.learn([good, bad], 0, 1.0)
    assert mixing.shares()[0] > 0.95
    for _ in range(300):
        mixing.learn([good, bad], 1, 1.0)
    assert mixing.shares()[1] > 0.9
    assert mixing.shares().sum() == pytest.approx(1)


def test_one_wrong_label_costs_a_learner_little():
    mixing = Mixing([1.0, 1.0])
    mixing.learn([np.array([1.0, 0.0], np.float32), np.array([0.5, 0.5], np.float32)], 1, 1.0)
    assert mixing.shares()[0] > 0.4
