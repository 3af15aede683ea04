"""Which label a concept goes by: what one label proves, what two prove, and what proves nothing."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ft.learn.fast.remap import Names

C = 10
KNOWN = np.zeros(C, np.float32)
"""Nothing is novel."""
NOVEL = np.ones(C, np.float32)


def names(**fields) -> Names:
    made = Names(**fields)
    for _ in range(C):
        made.grow()
    return made


def sure(concept: int, p: float = 0.97) -> np.ndarray:
    rest = np.full(C, (1 - p) / (C - 1), np.float32)
    rest[concept] = p
    return rest


def test_a_new_label_has_a_concept_of_its_own():
    made = names()
    np.testing.assert_array_equal(made.names, np.eye(C))
    assert made.observe(sure(3), KNOWN, 3, 1.0) == 3
    assert made.names[3, 3] > 0.99


def test_one_contradiction_changes_no_name_and_two_that_agree_do():
    made = names()
    assert made.observe(sure(3), KNOWN, 5, 1.0) == 5  # learned for the label's own concept
    assert made.names[3].argmax() == 3
    made.observe(sure(3), KNOWN, 5, 1.0)
    assert made.observe(sure(3), KNOWN, 5, 1.0) == 3  # now it is what concept 3 is called
    assert made.names[3].argmax() == 5
    assert made.names[5].argmax() == 5
    np.testing.assert_allclose(made.names.sum(axis=1), 1, rtol=1e-5)


def test_contradictions_that_do_not_agree_change_nothing():
    made = names()
    for label in (5, 6, 7, 8, 9, 0, 1, 2):
        made.observe(sure(3), KNOWN, label, 1.0)
        made.observe(sure(3), KNOWN, 3, 1.0)
    assert made.names[3].argmax() == 3


def test_noise_on_one_label_in_ten_changes_no_name():
    made = names()
    draw = np.random.default_rng(0)
    for _ in range(3_000):
        concept = int(draw.integers(C))
        label = int(draw.integers(C)) if draw.random() < 0.1 else concept
        made.observe(sure(concept), KNOWN, label, 1.0)
    assert (made.names.argmax(axis=1) == np.arange(C)).all()


def test_what_may_be_something_unknown_renames_nothing():
    made = names()
    for _ in range(50):
        assert made.observe(sure(3), NOVEL, 5, 1.0) == 5
    assert made.names[3].argmax() == 3


def test_what_another_concept_explains_renames_nothing():
    made = names()
    p = np.zeros(C, np.float32)
    p[3], p[5] = 0.6, 0.4  # near the border of two classes
    for _ in range(50):
        assert made.observe(p, KNOWN, 5, 1.0) == 5
        assert made.observe(p, KNOWN, 3, 1.0) == 3
    assert made.names[3].argmax() == 3


def test_a_few_mistaken_texts_of_another_label_do_not_rename_a_concept_whose_own_come_no_more():
    made = names()
    for _ in range(20):
        for _ in range(8):
            made.observe(sure(5), KNOWN, 5, 1.0)
        made.observe(sure(3), KNOWN, 5, 1.0)
    assert made.names[3].argmax() == 3
    np.testing.assert_allclose(made.names.sum(axis=1), 1, rtol=1e-5)


def test_a_label_that_takes_in_another_is_found():
    """Half of its examples are of the concept that went by the other label."""
    made = names()
    for _ in range(8):
        made.observe(sure(5), KNOWN, 5, 1.0)
        made.observe(sure(3), KNOWN, 5, 1.0)
    assert made.names[3].argmax() == made.names[5].argmax() == 5


def test_a_name_that_comes_back_is_believed_at_once():
    made = names()
    for _ in range(60):
        made.observe(sure(3), KNOWN, 5, 1.0)
    for _ in range(60):
        made.observe(sure(3), KNOWN, 3, 1.0)
    made.observe(sure(3), KNOWN, 5, 1.0)
    again = made.names[3, 5]
    fresh = names()
    for _ in range(120):
        fresh.observe(sure(3), KNOWN, 3, 1.0)
    fresh.observe(sure(3), KNOWN, 5, 1.0)
    assert again > 3 * fresh.names[3, 5]


def test_two_concepts_may_go_by_one_label_and_the_likelier_is_learned():
    made = names()
    for _ in range(5):
        made.observe(sure(3), KNOWN, 5, 1.0)
    assert made.names[3].argmax() == made.names[5].argmax() == 5
    assert made.observe(sure(3), KNOWN, 5, 1.0) == 3
    assert made.observe(sure(5), KNOWN, 5, 1.0) == 5


def test_changes_make_further_changes_likelier():
    calm, moved = names(), names()
    for concept in range(4):
        for _ in range(3):
            moved.observe(sure(concept), KNOWN, (concept + 1) % 4, 1.0)
    for each in (calm, moved):
        each.observe(sure(8), KNOWN, 9, 1.0)
    assert moved.names[8, 9] > 2 * calm.names[8, 9]


def test_a_label_that_is_trusted_less_proves_less():
    full, half = names(), names()
    full.observe(sure(3), KNOWN, 5, 1.0)
    half.observe(sure(3), KNOWN, 5, 0.5)
    assert half.names[3, 5] < 0.2 * full.names[3, 5]


def test_labels_are_numbers_only_another_order_gives_the_same():
    order = np.random.default_rng(1).permutation(C)
    plain, other = names(), names()
    for concept, label in [(3, 5), (3, 5), (4, 4), (3, 5), (8, 3), (5, 5)]:
        p = sure(concept)
        plain.observe(p, KNOWN, label, 1.0)
        moved = np.zeros_like(p)
        moved[order] = p
        other.observe(moved, KNOWN, int(order[label]), 1.0)
    np.testing.assert_allclose(other.names[np.ix_(order, order)], plain.names, atol=1e-6)


def test_state_of_another_shape_is_refused():
    made = names()
    with pytest.raises(ValueError, match="past"):
        made.restore(made.arrays() | {"past": np.zeros((2, 3), np.float32)})
