"""Faults 2, 7, 10, 16 and 17: whatever comes again, late, with a wrong clock, twice over or with a new label."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_parts import ROUNDS, START, Learning, labelled, names, text
from store_kit import DAY, Feeder, labels, open_store, reasons, sentence

from stream_ft import control
from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction, to_json
from stream_ft.replay.store import Store

# --- fault 2 -------------------------------------------------------------------------------------------------------


def content(store: Store) -> tuple[object, ...]:
    """What must be the same again."""
    return store.training(), store.holdout(), store.offsets(), store.max_seq(), sorted(store.identities())


def test_fault_02_an_older_copy_of_the_store_is_caught_up_from_the_log(
    tmp_path: Path, learner: Callable[..., Learning]
) -> None:
    learning = learner(files=True)
    learning.label(0, 30)
    learning.publish("labels", b"{")
    learning.step(2)
    copy = tmp_path / "copy.db"
    with sqlite3.connect(tmp_path / "store.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    learning.label(30, 50)
    learning.publish("labels", b"[", labelled(31, "b"), labelled(32, "other"))
    learning.step(2)
    before = content(learning.store)
    letters = [record.value for record in learning.log.read(names("dlq"), 0, 0, 100)]
    assert letters == [b"{", b"[", labelled(32, "other")]
    learning.close()

    for leftover in tmp_path.glob("store.db-*"):
        leftover.unlink()
    copy.replace(tmp_path / "store.db")
    again = learner(files=True)
    assert again.store.offsets() == {(names("labels"), 0): 31}
    again.step(2)
    assert content(again.store) == before
    assert [record.value for record in again.log.read(names("dlq"), 0, 0, 100)] == letters


def test_fault_02_a_topic_read_again_from_its_start_is_absorbed(
    tmp_path: Path, learner: Callable[..., Learning]
) -> None:
    learning = learner()
    learning.label(0, 40)
    learning.step(2)
    before = content(learning.store)
    records = learning.log.read(names("labels"), 0, 0, 100)
    applied = learning.core.ingest(records, learning.clock.now())
    assert (applied.duplicates, applied.examples, applied.scored) == (40, [], [])
    assert content(learning.store) == before
    # Published anew, with other offsets: told apart by their ids, not by their place.
    learning.label(0, 40)
    learning.step(2)
    assert learning.store.training() == before[0]
    assert learning.store.count().duplicates == 80


# --- fault 7 -------------------------------------------------------------------------------------------------------

LABELS = ("refund", "delivery", "payment")
EVENTS: list[tuple[str, dict[str, Any]]] = [
    *(("predict", {"id": f"p{number}", "text": sentence(number)}) for number in range(4)),
    ("say", {"prediction": "p0", "label": "refund", "id": "f0", "time": START + 1}),
    ("say", {"prediction": "p0", "label": "delivery", "id": "f1", "time": START + 2}),
    ("say", {"prediction": "p1", "kind": "reject", "id": "f2", "time": START + 3}),
    ("say", {"prediction": "p1", "label": "payment", "id": "f3", "time": START + 4}),
    ("say", {"prediction": "p2", "label": "payment", "id": "f4", "time": START + 5}),
    ("say", {"prediction": "p2", "kind": "reject", "id": "f5", "time": START + 6}),
    ("say", {"prediction": "p3", "kind": "accept", "id": "f6", "time": START + 7}),
    ("label", {"text": sentence(0), "label": "payment", "id": "l0", "time": START + 1}),
    ("label", {"text": sentence(9), "label": "refund", "id": "l1", "time": START + 1}),
    ("label", {"text": sentence(9), "label": "delivery", "id": "l2", "time": START + 8}),
]
FINAL = {sentence(0): "payment", sentence(1): "payment", sentence(9): "delivery"}


def tell(feeder: Feeder, event: tuple[str, dict[str, Any]]) -> None:
    """Publish and apply one of :data:`EVENTS`."""
    kind, fields = event
    if kind == "predict":
        prediction = Prediction(
            id=fields["id"], time=START, model="m", version="v0.1.0", base="b", input=fields["text"], output="refund"
        )
        feeder.apply(feeder.item("predictions", prediction))
    elif kind == "say":
        given = dict(fields)
        feeder.say(given.pop("prediction"), given.pop("kind", "correct"), given.pop("label", None), **given)
    else:
        feeder.label(**fields)


def told(events: list[tuple[str, dict[str, Any]]]) -> Feeder:
    """A store that was told these events in this order."""
    feeder = Feeder(open_store(), start=START + 100)
    for label in LABELS:
        feeder.store.allow_label(label)
    for event in events:
        tell(feeder, event)
    return feeder


def test_fault_07_in_order_the_state_is_what_people_meant() -> None:
    assert labels(told(EVENTS).store.training()) == FINAL


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(EVENTS), again=st.lists(st.sampled_from(EVENTS), max_size=8))
def test_fault_07_any_order_and_any_duplicates_end_in_the_same_state(
    order: list[tuple[str, dict[str, Any]]], again: list[tuple[str, dict[str, Any]]]
) -> None:
    feeder = told([*order, *again])
    assert labels(feeder.store.training()) == FINAL
    counts = feeder.store.count()
    assert (counts.waiting, counts.outbox) == (0, 0)
    assert counts.duplicates == len(again)


def test_fault_07_feedback_without_its_prediction_waits_with_a_limit() -> None:
    feeder = Feeder(open_store(orphan_limit_s=50.0))
    feeder.store.allow_label("refund")
    feeder.say("lost", label="refund", id="f")
    for number in range(49):
        assert not feeder.predict(f"p{number}", sentence(number)).rejects
    assert feeder.store.count().orphans == 1
    expired = [feeder.predict(f"q{number}", sentence(100 + number)) for number in range(40)]
    assert [reason for applied in expired for reason in reasons(applied)] == ["orphan"]
    assert feeder.store.count().waiting == 0


# --- fault 10 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [START + 9e9, 1e300, -5.0, 0.0])
def test_fault_10_an_event_time_that_cannot_be_is_the_append_time(time: float) -> None:
    feeder = Feeder(open_store())
    feeder.label("where is it", "delivery", time=time)
    (example,) = feeder.store.training() or [None]
    if example is None:  # zero is a time, only one beyond the horizon
        assert reasons(feeder.applied[-1]) == ["too_old"]
        assert time == 0.0
    else:
        assert example.time == example.accepted_at == feeder.at


def test_fault_10_a_clock_that_runs_ahead_does_not_win_for_ever() -> None:
    feeder = Feeder(open_store())
    feeder.label("where is it", "refund", time=START + 30 * DAY)
    feeder.label("where is it", "delivery")
    assert labels(feeder.store.training()) == {"where is it": "delivery"}


def test_fault_10_what_expires_does_not_depend_on_the_wall_clock() -> None:
    stores = []
    for now in (0.0, START, START + 400 * DAY):
        feeder = Feeder(open_store(orphan_limit_s=10.0))
        items = [
            feeder.item("feedback", Feedback(prediction_id="lost", kind="accept", id="f")),
            *(
                feeder.item("predictions", event(f"p{number}", number), at=START + number * 6)
                for number in range(1, 60)
            ),
            feeder.item("labels", labelled_at("old", START - 31 * DAY)),
            feeder.item("labels", labelled_at("new", START - 29 * DAY)),
        ]
        applied = [feeder.store.apply(items[start : start + 10], now=now) for start in range(0, len(items), 10)]
        told = [reason for each in applied for reason in reasons(each)]
        stores.append((content(feeder.store), told, sum(each.orphans for each in applied)))
    assert stores[0] == stores[1] == stores[2]
    assert sorted(stores[0][1]) == ["orphan", "too_old"]


@pytest.mark.parametrize("ahead", [40 * DAY, 4_000 * DAY, -40 * DAY, -START])
def test_fault_10_a_clock_that_was_wrong_once_makes_nothing_else_too_old(ahead: float) -> None:
    feeder = Feeder(open_store())
    feeder.store.allow_label("refund")
    feeder.label("before it", "refund", id="e1")
    feeder.say("late", label="refund", id="f1")
    first = feeder.at
    assert not feeder.label("with a wrong clock", "delivery", at=first + ahead, id="e2").rejects
    feeder.predict("odd", "with another wrong clock", at=first + ahead)

    feeder.at = first + 60
    for number in range(5):
        assert not feeder.label(sentence(number), "refund", id=f"a{number}").rejects
        assert feeder.label("before it", "refund", id="e1").duplicates == 1
        assert feeder.label("with a wrong clock", "delivery", id="e2").duplicates == 1
    assert not feeder.say("odd", label="refund").orphans
    joined = feeder.predict("late", "it came late")
    assert [example.label for example in joined.examples] == ["refund"], "what waits is not given up"
    assert len(feeder.store.training()) == 9
    assert feeder.store.count().dead_letters == 0
    old = feeder.label("long ago", "refund", time=first - 31 * DAY)
    assert reasons(old) == ["too_old"]


def test_fault_10_a_clock_that_was_wrong_for_long_costs_what_was_past_its_time_and_then_learning_goes_on() -> None:
    feeder = Feeder(open_store())
    feeder.label("before it", "refund", id="e1")
    right = feeder.at
    feeder.pass_time(right + 40 * DAY)
    feeder.at = right + 60
    for number in range(5):
        assert not feeder.label(sentence(number), "refund", id=f"a{number}").rejects
        assert feeder.label(sentence(number), "refund", id=f"a{number}").duplicates == 1
    assert set(feeder.store.identities()) == {("labels", f"a{number}") for number in range(5)}
    assert len(feeder.store.training()) == 6


def test_fault_10_what_a_slow_clock_wrote_is_applied_once_as_well() -> None:
    feeder = Feeder(open_store())
    feeder.pass_time(START)
    feeder.label("with a slow clock", "refund", id="e1", time=START, at=0.0)
    feeder.predict("p", "with a slow clock, too", at=1.0)
    feeder.pass_time(START + DAY)
    assert feeder.label("with a slow clock", "refund", id="e1", time=START).duplicates == 1
    assert not feeder.say("p", label="refund").orphans


def event(id: str, number: int) -> Prediction:
    return Prediction(id=id, time=START, model="m", version="v", base="b", input=sentence(number), output="x")


def labelled_at(id: str, time: float) -> LabelledEvent:
    return LabelledEvent(id=id, input=f"text {id}", correction=LabelCorrection(label="x"), time=time)


def test_fault_10_a_wall_clock_that_is_put_back_stops_nothing(learner: Callable[..., Learning]) -> None:
    learning = learner(**ROUNDS)
    learning.label(0, 40)
    learning.step(2)
    assert learning.core.round is not None
    learning.core.finish(learning.core.round.wait(), learning.clock.now())
    learning.step()

    learning.clock.set(START - 10 * DAY)
    learning.label(40, 80)
    learning.publish("labels", b"{")
    learning.step(2)
    assert sorted(learning.applied()) == sorted(text(number) for number in range(80))
    assert [record.value for record in learning.log.read(names("dlq"), 0, 0, 9)] == [b"{"]
    assert learning.loop.ready() == (True, "")
    assert len(learning.said("round")) == 2, learning.core.learner.decision.reason
    status = msgspec.json.decode((learning.folder / "a.status.json").read_bytes())
    assert status["time"] == learning.clock.now()


# --- fault 16 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_fault_16_near_duplicates_are_never_on_both_sides(seed: int) -> None:
    feeder = Feeder(open_store(holdout_share=0.4, holdout_after=3, seed=seed))
    for number in range(60):
        group = f"{sentence(number)} and {sentence(number + 1_000)}"
        for variant in (group, group.upper() + "!", f"  {group}", group + " ok"):
            feeder.label(variant, "abc"[number % 3])
    sides: dict[str, set[bool]] = {}
    for example in (*feeder.store.training(), *feeder.store.holdout()):
        sides.setdefault(example.input.casefold().split()[0], set()).add(example.holdout)
    assert len(sides) == 60
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) >= 6


# --- fault 17 ------------------------------------------------------------------------------------------------------


def correct(learning: Learning, number: int, label: str, source: str) -> None:
    """Predict and correct, as the serving process records both."""
    prediction = Prediction(
        id=f"p{number}", time=START, model="default", version="v0.0.0", base="b", input=text(number), output="a"
    )
    said = Feedback(prediction_id=f"p{number}", kind="correct", correction=LabelCorrection(label=label), source=source)
    learning.publish("predictions", to_json(prediction))
    learning.publish("feedback", to_json(said))


def test_fault_17_a_new_label_of_a_user_waits_for_the_command(tmp_path: Path, learner: Callable[..., Learning]) -> None:
    learning = learner()
    correct(learning, 1, "payment", "ann")
    correct(learning, 2, "payment", "ann")
    learning.step(2)
    assert learning.store.training() == []
    assert learning.store.count().waiting == 2
    learning.issue(control.LabelAdd, label="payment")
    learning.step(2)
    assert labels(learning.store.training()) == {text(1): "payment", text(2): "payment"}


def test_fault_17_or_for_three_sources_and_the_label_topic_needs_neither(
    tmp_path: Path, learner: Callable[..., Learning]
) -> None:
    learning = learner()
    for number, source in enumerate(("ann", "bob", "ann")):
        correct(learning, number, "payment", source)
    learning.publish("labels", labelled(9, "refund"))
    learning.step(2)
    assert labels(learning.store.training()) == {text(9): "refund"}
    correct(learning, 3, "payment", "cy")
    learning.step(2)
    assert labels(learning.store.training()) == {text(9): "refund"} | {text(n): "payment" for n in range(4)}
