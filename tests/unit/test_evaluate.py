"""What a round trains on and is judged by: never the same examples, and as few withheld as will do."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.events import Example, LabelCorrection
from stream_ft.learn.evaluate import Split, TooFew, split


def examples(seqs: range | list[int], *, holdout: bool = False) -> list[Example]:
    return [
        Example(
            seq=seq,
            id=seq + (1_000_000 if holdout else 0),
            input=f"text {seq}",
            correction=LabelCorrection(label="a"),
            source="s",
            trust=2,
            holdout=holdout,
        )
        for seq in seqs
    ]


def divided(train: list[Example], holdout: list[Example], *, minimum: int, champion_upto: int) -> Split:
    found = split(train, holdout, minimum=minimum, champion_upto=champion_upto)
    assert isinstance(found, Split)
    return found


def test_to_a_genesis_every_example_is_unseen() -> None:
    found = divided(examples(range(1, 251)), [], minimum=200, champion_upto=0)
    assert [e.seq for e in found.train] == list(range(1, 51))
    assert [e.seq for e in found.evaluate] == list(range(51, 251))
    assert found.examples_upto == 50


def test_the_withheld_are_trained_on_in_the_next_round() -> None:
    train = examples(range(1, 301))
    first = divided(train[:250], [], minimum=200, champion_upto=0)
    second = divided(train, [], minimum=200, champion_upto=first.examples_upto)
    assert {e.seq for e in first.evaluate[:50]} <= {e.seq for e in second.train}
    assert second.examples_upto == 100


def test_a_full_holdout_leaves_only_a_fifth_of_the_new_withheld() -> None:
    found = divided(
        examples(range(1, 1_001)), examples(range(2_000, 2_200), holdout=True), minimum=200, champion_upto=900
    )
    assert found.examples_upto == 980
    assert len(found.evaluate) == 220
    assert [e.seq for e in found.evaluate if not e.holdout] == list(range(981, 1_001))


def test_what_the_holdout_lacks_is_made_up_by_new_examples() -> None:
    found = divided(
        examples(range(1, 1_001)), examples(range(2_000, 2_150), holdout=True), minimum=200, champion_upto=900
    )
    assert len(found.evaluate) == 200
    assert found.examples_upto == 950


def test_after_refusals_more_are_withheld_but_never_more_than_the_minimum() -> None:
    holdout = examples(range(9_000, 9_200), holdout=True)
    counts = []
    for upto in (2_900, 2_500, 2_000, 0):
        found = divided(examples(range(1, 3_001)), holdout, minimum=200, champion_upto=upto)
        counts.append(sum(not e.holdout for e in found.evaluate))
    assert counts == [20, 100, 200, 200]


def test_too_few_says_how_many_there_are() -> None:
    found = split(examples(range(1, 61)), examples(range(70, 90), holdout=True), minimum=200, champion_upto=30)
    assert found == TooFew(
        reason="Too few examples to judge a round by: 50 of 200"
        " (20 in the holdout, 30 that the live version was not trained on)."
    )


@pytest.mark.parametrize(("count", "enough"), [(200, False), (201, True)])
def test_something_must_be_left_to_train_on(count: int, enough: bool) -> None:
    found = split(examples(range(1, count + 1)), [], minimum=200, champion_upto=0)
    assert isinstance(found, Split) is enough
    assert enough or (isinstance(found, TooFew) and "none is left to train on" in found.reason)


def test_nothing_at_all_is_too_few() -> None:
    assert isinstance(split([], [], minimum=200, champion_upto=0), TooFew)
    assert isinstance(split([], examples(range(1, 300), holdout=True), minimum=200, champion_upto=0), TooFew)


def test_with_nothing_new_the_holdout_judges_and_all_is_covered() -> None:
    found = divided(examples(range(1, 101)), examples(range(101, 301), holdout=True), minimum=200, champion_upto=300)
    assert len(found.train) == 100
    assert found.examples_upto == 300


def test_a_revision_after_the_champion_is_unseen_again() -> None:
    train = examples([5, 1, 410, 3, 2])  # 410: an old example with a new label
    found = divided(train, examples(range(6, 210), holdout=True), minimum=200, champion_upto=400)
    assert [e.seq for e in found.evaluate if not e.holdout] == [410]


@settings(max_examples=100, deadline=None)
@given(
    st.sets(st.integers(1, 2_000), max_size=400),
    st.integers(0, 300),
    st.integers(1, 250),
    st.integers(0, 2_000),
    st.randoms(use_true_random=False),
)
def test_the_split_holds_its_promises(
    seqs: set[int], held: int, minimum: int, champion_upto: int, draw: random.Random
) -> None:
    train = examples(sorted(seqs))
    draw.shuffle(train)
    holdout = examples(range(3_000, 3_000 + held), holdout=True)
    found = split(train, holdout, minimum=minimum, champion_upto=champion_upto)
    unseen = sum(seq > champion_upto for seq in seqs)
    if isinstance(found, TooFew):
        assert held + unseen < minimum or max(minimum - held, math.ceil(unseen / 5)) >= len(seqs)
        return
    assert len(found.evaluate) >= minimum
    assert {e.id for e in found.train}.isdisjoint(e.id for e in found.evaluate)
    assert {e.id for e in found.train} | {e.id for e in found.evaluate} == {e.id for e in (*train, *holdout)}
    withheld = [e for e in found.evaluate if not e.holdout]
    assert all(e.seq > champion_upto for e in withheld)
    # covered: whatever is not later than examples_upto was available to the training
    assert {e.seq for e in train if e.seq <= found.examples_upto} == {e.seq for e in found.train}
    assert found.examples_upto >= champion_upto
    assert found == split(sorted(train, key=lambda e: -e.seq), holdout, minimum=minimum, champion_upto=champion_upto)
