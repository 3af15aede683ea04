"""From the wish for a round to its examples: what is judged by has no twin in the training."""

from __future__ import annotations

from stream_ft.events import Example, LabelCorrection
from stream_ft.learn.evaluate import Split
from stream_ft.wiring.starting import apart


def example(seq: int, text: str, *, holdout: bool = False) -> Example:
    return Example(
        seq=seq, id=seq, input=text, correction=LabelCorrection(label="a"), source="s", trust=2, holdout=holdout
    )


def flood(seq: int) -> Example:
    return example(seq, f"please tell me where my parcel is, it has not arrived yet, thank you {seq}")


def other(seq: int) -> Example:
    return example(seq, f"{seq * 7919} completely {chr(97 + seq % 26) * 9} different {seq * 31} words")


def test_new_training_examples_that_are_nearly_withheld_wait_for_the_next_round() -> None:
    train = [other(1), other(2), *(flood(seq) for seq in range(11, 21))]
    split = apart(Split(train=train, evaluate=[flood(21), flood(22)], examples_upto=20), champion_upto=10)
    assert [e.seq for e in split.train] == [1, 2]
    assert [e.seq for e in split.evaluate] == [21, 22]
    assert split.examples_upto == 20


def test_what_the_champion_was_trained_on_stays() -> None:
    train = [flood(1), other(2)]
    assert apart(Split(train=train, evaluate=[flood(21)], examples_upto=20), champion_upto=10).train == train


def test_the_holdout_is_kept_apart_by_the_store() -> None:
    held = example(5, flood(5).input, holdout=True)
    train = [other(11), flood(12)]
    assert apart(Split(train=train, evaluate=[held], examples_upto=12), champion_upto=10).train == train


def test_a_round_never_loses_all_it_trains_on() -> None:
    split = Split(train=[flood(11)], evaluate=[flood(12)], examples_upto=11)
    assert apart(split, champion_upto=10) == split
