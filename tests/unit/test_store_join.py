"""Predictions and what is said of them: join, revisions, trust, orphans, new labels."""

from __future__ import annotations

import pytest
from store_kit import DAY, START, Feeder, labels, open_store, reasons

from stream_ft.dead_letters import PREFIX
from stream_ft.events import Feedback, SpanCorrection


@pytest.fixture
def feeder() -> Feeder:
    store = open_store(orphan_limit_s=100.0)
    for label in ("old", "refund", "delivery", "change"):
        store.allow_label(label)
    return Feeder(store)


def test_a_correction_makes_an_example_with_what_was_served(feeder: Feeder) -> None:
    feeder.predict("p", "where is it", embedding=b"\x00\x3c")
    applied = feeder.say("p", label="delivery", source="ann")
    (example,) = applied.examples
    assert (example.label, example.trust, example.source, example.covers) == ("delivery", 1, "ann", False)
    assert (example.predicted, example.predicted_version) == ("old", "v0.1.0")
    assert (example.embedding, example.embedding_base) == (b"\x00\x3c", "b")
    assert example.accepted_at == feeder.at
    assert feeder.store.training() == [example]
    (scored,) = applied.scored
    assert (scored.version, scored.correct, scored.covers) == ("v0.1.0", False, False)


def test_accept_scores_and_never_trains(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    applied = feeder.say("p", "accept")
    assert [s.correct for s in applied.scored] == [True]
    assert not applied.examples
    assert not feeder.store.training()


def test_a_rating_neither_scores_nor_trains(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    applied = feeder.say("p", "rating", rating=5.0)
    assert not applied.scored
    assert not feeder.store.training()


def test_a_correction_that_agrees_scores_right_and_trains(feeder: Feeder) -> None:
    feeder.predict("p", "where is it", output="delivery")
    applied = feeder.say("p", label="delivery")
    assert [s.correct for s in applied.scored] == [True]
    assert len(applied.examples) == 1


def test_a_correction_of_a_correction_is_a_revision(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    (first,) = feeder.say("p", label="refund").examples
    applied = feeder.say("p", label="delivery")
    (second,) = applied.examples
    assert second.id == first.id
    assert second.seq > first.seq
    assert labels(feeder.store.training()) == {"where is it": "delivery"}
    assert not applied.scored, "one answer is scored once"
    assert not applied.evicted


def test_an_earlier_correction_that_arrives_late_changes_nothing(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    feeder.say("p", label="delivery", time=START + 2)
    applied = feeder.say("p", label="refund", time=START + 1)
    assert not applied.examples
    assert labels(feeder.store.training()) == {"where is it": "delivery"}


def test_corrections_of_one_moment_are_ordered_by_id(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    feeder.predict("q", "give it back")
    feeder.say("p", label="delivery", id="b", time=START)
    feeder.say("p", label="refund", id="a", time=START)
    feeder.say("q", label="refund", id="c", time=START)
    feeder.say("q", label="delivery", id="d", time=START)
    assert labels(feeder.store.training()) == {"where is it": "delivery", "give it back": "delivery"}


def test_the_same_correction_again_keeps_the_example(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    (first,) = feeder.say("p", label="refund").examples
    applied = feeder.say("p", label="refund")
    assert not applied.examples
    (kept,) = feeder.store.training()
    assert (kept.id, kept.seq) == (first.id, first.seq)
    assert kept.time > first.time


def test_a_rejection_scores_and_evicts(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    (example,) = feeder.say("p", label="refund").examples
    applied = feeder.say("p", "reject")
    assert applied.evicted == [example.id]
    assert not feeder.store.training()
    feeder.predict("q", "give it back", output="refund")
    assert [s.correct for s in feeder.say("q", "reject").scored] == [False]


def test_a_later_correction_overrides_a_rejection(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    feeder.say("p", "reject")
    feeder.say("p", label="delivery")
    assert labels(feeder.store.training()) == {"where is it": "delivery"}


def test_a_withdrawn_correction_lets_the_other_voice_be_heard(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    feeder.predict("q", "Where is it")
    feeder.say("p", label="refund", source="ann")
    feeder.say("q", label="delivery", source="bob")
    assert labels(feeder.store.training()) == {"Where is it": "delivery"}
    feeder.say("q", "reject", source="bob")
    assert labels(feeder.store.training()) == {"where is it": "refund"}


def test_what_a_model_says_is_neither_scored_nor_learned(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    by_source = feeder.say("p", label="refund", source="model")
    by_origin = feeder.say("p", label="refund", origin="model")
    own = feeder.label("give it back", "refund", source="model", answer={"output": "refund", "version": "v"})
    assert not any(a.examples or a.scored or a.rejects for a in (by_source, by_origin, own))
    assert not feeder.store.training()


def test_a_span_must_lie_in_the_input_of_its_prediction(feeder: Feeder) -> None:
    feeder.predict("p", "abc")
    inside = Feedback(prediction_id="p", kind="correct", correction=SpanCorrection(start=1, end=3))
    beyond = Feedback(prediction_id="p", kind="correct", correction=SpanCorrection(start=1, end=4))
    assert [e.label for e in feeder.apply(feeder.item("feedback", inside)).examples] == ["1:3"]
    assert reasons(feeder.apply(feeder.item("feedback", beyond))) == ["invalid_field"]


# --- either side may come first --------------------------------------------------------------------------------


def test_feedback_before_its_prediction_waits(feeder: Feeder) -> None:
    applied = feeder.say("p", label="refund")
    assert (applied.orphans, applied.examples, applied.scored) == (1, [], [])
    assert feeder.store.count().orphans == 1
    joined = feeder.predict("p", "where is it", at=START + 50)
    assert [e.label for e in joined.examples] == ["refund"]
    assert [s.correct for s in joined.scored] == [False]
    assert joined.examples[0].accepted_at == START + 1
    assert feeder.store.count().waiting == 0


def test_an_orphan_expires_by_the_predictions_watermark(feeder: Feeder) -> None:
    feeder.say("lost", label="refund", id="f-1")
    assert not any(applied.rejects for applied in feeder.pass_predictions(START + 101))
    gone = feeder.pass_predictions(START + 102)
    assert [reason for applied in gone for reason in reasons(applied)] == ["orphan"]
    ((_, letter),) = feeder.store.outbox(10)
    assert letter.topic == "stream_ft.m.dlq"
    assert b'"lost"' in letter.value
    assert dict(letter.headers)[PREFIX + "topic"] == b"stream_ft.m.feedback"
    assert feeder.store.count().waiting == 0
    late = feeder.predict("lost", "too late", at=START + 103)
    assert not late.examples


def test_an_orphan_does_not_expire_while_no_prediction_comes(feeder: Feeder) -> None:
    feeder.say("p", label="refund")
    applied = feeder.label("give it back", "refund", at=START + 20 * DAY)
    assert not applied.rejects
    assert feeder.store.count().orphans == 1


def test_two_predictions_of_one_id_conflict(feeder: Feeder) -> None:
    feeder.predict("p", "where is it")
    applied = feeder.predict("p", "something else", source="another")
    assert reasons(applied) == ["conflict"]


# --- labels nobody has seen ------------------------------------------------------------------------------------


def test_a_new_label_from_the_label_topic_counts_at_once(feeder: Feeder) -> None:
    assert len(feeder.label("can I pay by card", "payment").examples) == 1
    feeder.predict("p", "cash too?")
    assert len(feeder.say("p", label="payment").examples) == 1


def test_a_new_label_from_users_waits_until_it_is_allowed(feeder: Feeder) -> None:
    feeder.predict("p", "can I pay by card")
    applied = feeder.say("p", label="payment")
    assert not applied.examples
    assert [s.correct for s in applied.scored] == [False]
    assert feeder.store.count().waiting == 1
    feeder.store.allow_label("payment")
    assert labels(feeder.store.training()) == {"can I pay by card": "payment"}
    assert feeder.store.count().waiting == 0


def test_a_quorum_of_sources_introduces_a_label(feeder: Feeder) -> None:
    for number in range(4):
        feeder.predict(f"p{number}", f"can I pay with {number * 1111}")
    for number, source in enumerate(["ann", "ann", "bob"]):
        assert not feeder.say(f"p{number}", label="payment", source=source).examples
    applied = feeder.say("p3", label="payment", source="cy")
    assert len(applied.examples) == 4
    assert applied.admitted == 1
    assert {e.label for e in applied.examples} == {"payment"}
    assert "payment" in feeder.store.labels()


def test_votes_for_different_labels_do_not_add_up(feeder: Feeder) -> None:
    for number, (source, label) in enumerate([("ann", "a"), ("bob", "b"), ("cy", "c")]):
        feeder.predict(f"p{number}", f"text number {number}")
        assert not feeder.say(f"p{number}", label=label, source=source).examples
    assert feeder.store.count().waiting == 3


def test_users_may_not_introduce_labels_by_labelled_events_either(feeder: Feeder) -> None:
    feeder.label("can I pay by card", "payment", origin="user", source="ann")
    assert not feeder.store.training()
    feeder.store.allow_label("payment")
    (example,) = feeder.store.training()
    assert example.trust == 1


def test_a_new_label_that_nobody_allows_becomes_a_dead_letter(feeder: Feeder) -> None:
    feeder.predict("p", "can I pay by card")
    feeder.say("p", label="payment")
    feeder.label("later", "refund", at=START + 31 * DAY)
    assert feeder.store.count().waiting == 1
    feeder.pass_time(START + 31 * DAY)
    assert feeder.store.count().waiting == 0
    ((_, letter),) = feeder.store.outbox(10)
    assert (PREFIX + "exception.class.name", b"new_label") in letter.headers


# --- labelled events -------------------------------------------------------------------------------------------


def test_a_labelled_event_is_scored_against_the_answer_made_before(feeder: Feeder) -> None:
    answer = {"output": "refund", "version": "v0.2.0", "embedding": b"\x00\x3c", "embedding_base": "b"}
    applied = feeder.label("give it back", "refund", answer=answer)
    (scored,) = applied.scored
    assert (scored.version, scored.correct, scored.covers) == ("v0.2.0", True, True)
    (example,) = applied.examples
    assert (example.covers, example.predicted, example.embedding_base) == (True, "refund", "b")


def test_the_first_answer_to_a_text_stays_until_its_label_is_another(feeder: Feeder) -> None:
    """A second one is given after the text was learned: it says nothing of the version that gave it."""
    feeder.label("give it back", "refund", answer={"output": "delivery", "version": "v0.2.0"})
    feeder.label("give it back", "refund", answer={"output": "refund", "version": "v0.2.1"})
    (example,) = feeder.store.training()
    assert (example.predicted, example.predicted_version) == ("delivery", "v0.2.0")
    feeder.label("give it back", "return", answer={"output": "refund", "version": "v0.2.2"})
    (example,) = feeder.store.training()
    assert (example.label, example.predicted, example.predicted_version) == ("return", "refund", "v0.2.2")


def test_a_labelled_event_of_a_user_does_not_cover(feeder: Feeder) -> None:
    applied = feeder.label("give it back", "refund", origin="user", answer={"output": "refund", "version": "v"})
    assert [s.covers for s in applied.scored] == [False]


def test_the_label_topic_outranks_a_later_user(feeder: Feeder) -> None:
    feeder.label("where is it", "delivery")
    feeder.predict("p", "where is it")
    applied = feeder.say("p", label="refund")
    assert not applied.examples
    assert labels(feeder.store.training()) == {"where is it": "delivery"}


def test_corrected_texts_are_examples_too(feeder: Feeder) -> None:
    applied = feeder.translate("Good morning", "Bonjour")
    assert [e.label for e in applied.examples] == ["Bonjour"]
    (revised,) = feeder.translate("good  morning", "Salut").examples
    assert revised.label == "Salut"
    assert len(feeder.store.training()) == 1
