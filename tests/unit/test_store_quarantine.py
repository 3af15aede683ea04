"""What is set aside neither trains nor tests, and the harm it did is undone."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_kit import START, Feeder, labels, open_store, reasons, sentence, vector


@pytest.fixture
def feeder() -> Feeder:
    return Feeder(open_store())


def test_a_source_no_longer_trains(feeder: Feeder) -> None:
    feeder.label(sentence(1), "a", source="good")
    feeder.label(sentence(2), "b", source="bad")
    assert feeder.store.quarantine("bad", None, None) == 1
    assert labels(feeder.store.training()) == {sentence(1): "a"}


def test_what_the_source_says_later_does_not_train_or_score(feeder: Feeder) -> None:
    feeder.store.quarantine("bad", None, None)
    applied = feeder.label(sentence(2), "b", source="bad", answer={"output": "b", "version": "v"})
    assert (applied.examples, applied.scored, applied.rejects) == ([], [], [])
    assert "b" not in feeder.store.labels()
    assert len(feeder.label(sentence(3), "b", source="good").examples) == 1


def test_a_range_of_append_times_is_set_aside_ends_included(feeder: Feeder) -> None:
    for second in range(1, 6):
        feeder.label(sentence(second), "a", at=START + second)
    assert feeder.store.quarantine(None, START + 2, START + 4) == 3
    assert set(labels(feeder.store.training())) == {sentence(1), sentence(5)}


def test_open_ends(feeder: Feeder) -> None:
    for second in range(1, 6):
        feeder.label(sentence(second), "a", at=START + second)
    feeder.store.quarantine("labels", START + 4, None)
    assert set(labels(feeder.store.training())) == {sentence(n) for n in (1, 2, 3)}
    feeder.store.quarantine("labels", None, START + 1)
    assert set(labels(feeder.store.training())) == {sentence(n) for n in (2, 3)}
    feeder.label(sentence(6), "a", at=START + 6)
    assert set(labels(feeder.store.training())) == {sentence(n) for n in (2, 3)}


def test_naming_nothing_sets_nothing_aside(feeder: Feeder) -> None:
    feeder.label(sentence(1), "a")
    assert feeder.store.quarantine(None, None, None) == 0
    assert len(feeder.label(sentence(2), "a").examples) == 1


def test_twice_is_as_once(feeder: Feeder) -> None:
    feeder.label(sentence(2), "b", source="bad")
    assert feeder.store.quarantine("bad", None, None) == 1
    assert feeder.store.quarantine("bad", None, None) == 0


def test_a_text_goes_back_to_what_others_said_of_it(feeder: Feeder) -> None:
    feeder.label(sentence(1), "a", source="good")
    feeder.label(sentence(1), "b", source="bad")
    assert labels(feeder.store.training()) == {sentence(1): "b"}
    feeder.store.quarantine("bad", None, None)
    assert labels(feeder.store.training()) == {sentence(1): "a"}


def test_what_it_contradicted_comes_back(feeder: Feeder) -> None:
    def answer(*values: float) -> dict[str, object]:
        return {"output": "?", "version": "v", "embedding": vector(*values), "embedding_base": "b"}

    feeder.label(sentence(1), "a", source="good", answer=answer(1))
    near = sentence(9) + " and some more words that make it long enough"
    feeder.label(near, "a", source="good", answer=answer(0, 1))
    for number in range(2, 5):
        feeder.label(sentence(number), "b", source="bad", answer=answer(1))
    feeder.label(near + "!", "b", source="bad", answer=answer(0, 0, 1))
    assert set(labels(feeder.store.training()).values()) == {"b"}
    feeder.store.quarantine("bad", None, None)
    assert labels(feeder.store.training()) == {sentence(1): "a", near: "a"}


def test_a_quarantined_correction_does_not_replace_an_honest_one(feeder: Feeder) -> None:
    for label in "ab":
        feeder.store.allow_label(label)
    feeder.store.quarantine("bad", None, None)
    feeder.predict("p", sentence(1))
    feeder.say("p", label="a", source="good")
    feeder.say("p", label="b", source="bad")
    assert labels(feeder.store.training()) == {sentence(1): "a"}


def test_quarantined_voices_do_not_make_a_quorum(feeder: Feeder) -> None:
    feeder.store.quarantine("bad", None, None)
    for number, source in enumerate(["bad", "ann", "bob"]):
        feeder.label(sentence(number), "new", origin="user", source=source)
    assert feeder.store.count().waiting == 3
    feeder.label(sentence(9), "new", origin="user", source="cy")
    assert set(labels(feeder.store.training())) == {sentence(n) for n in (1, 2, 9)}


def test_a_quarantine_outlives_a_restart(tmp_path: Path) -> None:
    feeder = Feeder(open_store(tmp_path / "store.db"))
    feeder.label(sentence(1), "a", source="bad")
    feeder.store.quarantine("bad", None, None)
    feeder.store.close()
    feeder.store = open_store(tmp_path / "store.db")
    assert not feeder.store.training()
    assert not feeder.label(sentence(2), "a", source="bad").examples
    feeder.store.close()


def test_quarantined_holdout_examples_leave_too() -> None:
    feeder = Feeder(open_store(holdout_share=1.0, holdout_after=0))
    feeder.label(sentence(1), "a", source="bad")
    assert feeder.store.count().holdout == 1
    feeder.store.quarantine("bad", None, None)
    assert feeder.store.count().holdout == 0


def test_bad_events_of_a_quarantined_source_are_still_dead_letters(feeder: Feeder) -> None:
    feeder.store.quarantine("labels", None, None)
    feeder.label(sentence(1), "a", id="one")
    assert reasons(feeder.label(sentence(1), "b", id="one")) == ["identity_conflict"]


def test_evicted_by_hand_stays_away(feeder: Feeder) -> None:
    (first,) = feeder.label(sentence(1), "a").examples
    feeder.store.evict([first.id, 999])
    assert feeder.store.training() == []
    assert feeder.store.example(first.id) is None
    feeder.label(sentence(1), "b", time=START - 100)
    assert feeder.store.training() == [], "an older voice does not bring it back"
