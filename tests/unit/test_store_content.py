"""Texts that are the same, nearly the same, or close in meaning: one label, one side."""

from __future__ import annotations

import numpy as np
import pytest
from store_kit import START, Feeder, labels, open_store, sentence, vector

from stream_ft.events import LabelCorrection, LabelledEvent
from stream_ft.replay.neardup import NEAR, grams, similarity

LONG = "could you please tell me when the red shoes that I ordered last monday are going to arrive at my house"


def feeder(**settings: object) -> Feeder:
    return Feeder(open_store(**settings))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Where is it?", "  where  IS it? "),
        ("Straße", "STRASSE"),
        ("ｗｈｅｒｅ is it", "where is it"),
        ("我要退货", "我要退货 "),
        ("ﬁne", "fine"),
    ],
)
def test_texts_that_read_the_same_are_one_example(first: str, second: str) -> None:
    box = feeder()
    (original,) = box.label(first, "a").examples
    applied = box.label(second, "a")
    assert not applied.examples
    (kept,) = box.store.training()
    assert (kept.id, kept.seq, kept.input) == (original.id, original.seq, first)
    assert kept.time > original.time


def test_the_same_text_with_another_label_evicts_the_older() -> None:
    box = feeder()
    (old,) = box.label("我要退货", "a").examples
    applied = box.label("我要退货 ", "b")
    assert applied.evicted == [old.id]
    (new,) = applied.examples
    assert new.id != old.id
    assert labels(box.store.training()) == {"我要退货 ": "b"}


def test_a_late_statement_does_not_undo_a_newer_one() -> None:
    box = feeder()
    box.label("where is it", "new", at=START + 10)
    applied = box.label("where is it", "old", at=START + 11, time=START + 5)
    assert not applied.examples
    assert not applied.evicted
    assert labels(box.store.training()) == {"where is it": "new"}


def test_a_user_does_not_undo_the_label_topic() -> None:
    box = feeder()
    box.label("where is it", "a")
    box.label("other", "b")
    box.label("where is it", "b", origin="user")
    assert labels(box.store.training()) == {"where is it": "a", "other": "b"}


def test_near_duplicates_with_another_label_evict_the_older() -> None:
    box = feeder()
    (old,) = box.label(LONG, "a").examples
    applied = box.label(LONG + "!!", "b")
    assert applied.evicted == [old.id]
    assert labels(box.store.training()) == {LONG + "!!": "b"}


def test_a_late_near_duplicate_of_a_newer_text_is_not_learned() -> None:
    box = feeder()
    box.label(LONG, "new", at=START + 10)
    applied = box.label(LONG + "s", "old", at=START + 11, time=START + 5)
    assert not applied.examples
    assert labels(box.store.training()) == {LONG: "new"}


def test_near_duplicates_with_one_label_both_stay() -> None:
    box = feeder()
    box.label(LONG, "a")
    assert len(box.label(LONG + " now", "a").examples) == 1
    assert box.store.count().train == 2


# --- holdout ---------------------------------------------------------------------------------------------------


def test_a_class_is_held_out_from_only_after_it_has_trained() -> None:
    box = feeder(holdout_share=1.0, holdout_after=20)
    sides = [box.label(sentence(n), "a").examples[0].holdout for n in range(30)]
    assert sides == [False] * 20 + [True] * 10
    assert box.label(sentence(99), "b").examples[0].holdout is False


def test_the_holdout_share_is_about_what_was_asked() -> None:
    box = feeder(holdout_share=0.2, holdout_after=0)
    for start in range(0, 1_000, 100):
        box.apply(*[box.item("labels", _event(n)) for n in range(start, start + 100)])
    assert 150 <= box.store.count().holdout <= 250
    assert {e.input for e in box.store.holdout()}.isdisjoint(e.input for e in box.store.training())


def _event(number: int) -> LabelledEvent:
    return LabelledEvent(input=sentence(number), correction=LabelCorrection(label="a"))


@pytest.mark.parametrize("held", [True, False])
def test_near_duplicates_take_the_side_of_what_is_stored(held: bool) -> None:
    box = feeder(holdout_share=1.0 if held else 0.0, holdout_after=0)
    assert box.label(LONG, "a").examples[0].holdout is held
    # The other side would be its own, by its hash and the class.
    box.store._examples._share = 0.0 if held else 1.0
    assert box.label(LONG + " now", "a").examples[0].holdout is held
    assert box.label("我想知道我上个星期一买的红色鞋子什么时候送到我家", "a").examples[0].holdout is not held


def test_a_text_near_both_sides_trains_and_purges_the_holdout() -> None:
    left, right = LONG + " in the old town square", "hello there " + LONG
    middle = "hello there " + LONG + " in the old town square"
    box = feeder(holdout_after=0)
    assert similarity(grams(left), grams(right)) < NEAR
    assert min(similarity(grams(middle), grams(side)) for side in (left, right)) >= NEAR
    assert not box.label(left, "a").examples[0].holdout
    box.store._examples._share = 1.0
    (held,) = box.label(right, "a").examples
    assert held.holdout
    applied = box.label(middle, "a")
    assert applied.evicted == [held.id]
    assert {e.input for e in box.store.training()} == {left, middle}


def test_what_once_trained_is_never_tested_on() -> None:
    box = feeder(holdout_share=0.0, holdout_after=2)
    (early,) = box.label(sentence(1), "a").examples
    for number in range(2, 6):
        box.label(sentence(number), "a")
    box.store.evict([early.id])
    box.store._examples._share = 1.0
    assert box.label(sentence(6), "a").examples[0].holdout, "the class has enough: any other text would be held out"
    (again,) = box.label(sentence(1), "a").examples
    assert again.holdout is False


def test_what_trained_is_known_by_the_newest_claim_when_the_first_is_forgotten() -> None:
    box = feeder(holdout_share=0.0, holdout_after=2)
    (first,) = box.label(sentence(1), "a").examples
    for number in range(2, 6):
        box.label(sentence(number), "a")
    box.label(sentence(1), "a")
    box.store._db.execute("DELETE FROM claims WHERE id = (SELECT min(id) FROM claims)")
    box.store.evict([first.id])
    box.store._examples._share = 1.0
    (again,) = box.label(sentence(1), "a").examples
    assert again.holdout is False


def test_what_trained_under_a_source_in_quarantine_is_never_tested_on_either() -> None:
    box = feeder(holdout_share=0.0, holdout_after=2)
    box.label(sentence(1), "a", source="bad")
    for number in range(2, 6):
        box.label(sentence(number), "a", source="good")
    box.store.quarantine("bad", None, None)
    box.store._examples._share = 1.0
    (again,) = box.label(sentence(1), "a", source="good").examples
    assert again.holdout is False


def test_the_oldest_holdout_examples_leave() -> None:
    box = feeder(holdout_share=1.0, holdout_after=0, holdout_capacity=3)
    evicted = [box.label(sentence(n), "a").evicted for n in range(5)]
    assert [len(ids) for ids in evicted] == [0, 0, 0, 1, 1]
    assert {e.input for e in box.store.holdout()} == {sentence(n) for n in (2, 3, 4)}


def test_a_revised_holdout_example_stays_held_out() -> None:
    box = feeder(holdout_share=1.0, holdout_after=0)
    box.store.allow_label("b")
    box.store.allow_label("c")
    box.predict("p", "where is it")
    box.say("p", label="b")
    (example,) = box.say("p", label="c").examples
    assert example.holdout
    assert box.store.count().train == 0


# --- neighbours in meaning -------------------------------------------------------------------------------------


def _answer(*values: float, base: str = "b") -> dict[str, object]:
    return {"output": "?", "version": "v", "embedding": vector(*values), "embedding_base": base}


def test_newer_neighbours_that_agree_evict_an_example() -> None:
    box = feeder(contradictions=3)
    (old,) = box.label(sentence(0), "a", answer=_answer(1, 0)).examples
    (far,) = box.label(sentence(9), "a", answer=_answer(0, 1)).examples
    assert not box.label(sentence(1), "b", answer=_answer(1, 0.1)).evicted
    assert not box.label(sentence(2), "b", answer=_answer(1, 0.2)).evicted
    assert box.label(sentence(3), "b", answer=_answer(1, 0.3)).evicted == [old.id]
    assert far.id in {e.id for e in box.store.training()}


def test_supporters_outweigh_contradictions() -> None:
    box = feeder(contradictions=2)
    (old,) = box.label(sentence(0), "a", answer=_answer(1, 0)).examples
    # Supporters and contradictors lie on opposite sides: both near the old one, not near each other.
    for number in range(1, 4):
        box.label(sentence(number), "a", answer=_answer(0.87, -0.5))
    for number in range(4, 7):
        assert not box.label(sentence(number), "b", answer=_answer(0.87, 0.5)).evicted
    assert box.label(sentence(7), "b", answer=_answer(0.87, 0.5)).evicted == [old.id]


def test_holdout_examples_fall_as_well() -> None:
    box = feeder(contradictions=2, holdout_share=1.0, holdout_after=0)
    (held,) = box.label(sentence(0), "a", answer=_answer(1, 0)).examples
    box.store._examples._share = 0.0
    box.label(sentence(1), "b", answer=_answer(1, 0))
    assert box.label(sentence(2), "b", answer=_answer(1, 0)).evicted == [held.id]
    assert box.store.count().holdout == 0


def test_embeddings_under_a_new_base_decide_anew() -> None:
    box = feeder(contradictions=2)
    ids = [
        box.label(sentence(n), label, answer=_answer(*([0.0] * n), 1.0)).examples[0].id
        for n, label in enumerate(["a", "b", "b"])
    ]
    assert [e.id for e in box.store.missing_embeddings("new", 10)] == ids[::-1]
    box.store.set_embeddings("new", [(id, vector(1)) for id in ids] + [(999, vector(1))])
    assert [e.id for e in box.store.training()] == ids[1:]
    assert box.store.missing_embeddings("new", 10) == []
    assert all(e.embedding_base == "new" for e in box.store.training())


def test_a_drift_of_meaning_leaves_the_new_meaning() -> None:
    box = feeder(contradictions=3)
    rng = np.random.Generator(np.random.PCG64(1))

    def answer(side: int) -> dict[str, object]:
        center = np.eye(8)[side] + rng.normal(0, 0.08, 8)
        return _answer(*center)

    for number in range(40):
        box.label(sentence(number), "ab"[number % 2], answer=answer(number % 2))
    for number in range(40, 80):
        box.label(sentence(number), "ba"[number % 2], answer=answer(number % 2))
    stale = [e for e in box.store.training() if e.time <= START + 40]
    fresh = [e for e in box.store.training() if e.time > START + 40]
    assert len(stale) == 0
    assert len(fresh) == 40
