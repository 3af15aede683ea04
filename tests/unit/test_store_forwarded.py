"""Events that ingest forwarded: applied once, however often they come and whichever way."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_kit import Feeder, open_store, reasons, sentence

from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction
from stream_ft.ingest.forward import outcome
from stream_ft.ingest.receive import received
from stream_ft.ingest.redact import Redactor
from stream_ft.ports import Record
from stream_ft.replay.applied import Applied
from stream_ft.replay.store import Item, Store

EVENTS, DLQ = "stream_ft.m.events", "stream_ft.m.dlq"


class Worker:
    """Forwards records to a topic of its own and lets the store read it."""

    def __init__(self, store: Store, redactor: Redactor | None = None) -> None:
        self.store = store
        self._redact = None if redactor is None else redactor.event
        self._next = 0

    def forward(self, *items: Item, delay: float = 7.0) -> Applied:
        """One transaction of what was forwarded; dead letters of the worker itself are not read."""
        taken = []
        for item in items:
            record = item.record
            now = record.appended_at
            message, _ = outcome(record, now=now, events=EVENTS, dlq=DLQ, redact=self._redact)
            assert message.topic == EVENTS
            forwarded = Record(
                topic=EVENTS,
                partition=0,
                offset=self._next,
                value=message.value,
                key=message.key,
                headers=message.headers,
                appended_at=now + delay,
            )
            self._next += 1
            again, event = received(forwarded, now=now + delay)
            taken.append(Item(record=again, event=event))
        return self.store.apply(taken, now=0.0)


@pytest.fixture
def store() -> Store:
    return open_store()


@pytest.fixture
def feeder(store: Store) -> Feeder:
    return Feeder(store)


def named(number: int, label: str = "x") -> LabelledEvent:
    return LabelledEvent(id=f"e{number}", input=sentence(number), correction=LabelCorrection(label=label))


def nameless(number: int) -> LabelledEvent:
    return LabelledEvent(input=sentence(number), correction=LabelCorrection(label="x"))


@pytest.mark.parametrize("event", [named(1), nameless(1)])
def test_what_comes_twice_counts_once(store: Store, feeder: Feeder, event: LabelledEvent) -> None:
    worker = Worker(store)
    item = feeder.item("labels", event)
    assert len(worker.forward(item).examples) == 1
    again = worker.forward(item)
    assert (again.duplicates, again.examples, again.rejects) == (1, [], [])
    both = worker.forward(item, item)
    assert both.duplicates == 2


def test_two_nameless_events_of_the_same_words_are_two(store: Store, feeder: Feeder) -> None:
    worker = Worker(store)
    applied = worker.forward(feeder.item("labels", nameless(1)), feeder.item("labels", nameless(1)))
    assert applied.duplicates == 0
    assert store.count().events == 2


@pytest.mark.parametrize("event", [named(1), nameless(1)])
def test_from_published_topics_to_ingested(store: Store, feeder: Feeder, event: LabelledEvent) -> None:
    item = feeder.item("labels", event)
    feeder.apply(item)
    applied = Worker(store).forward(item, feeder.item("labels", named(2)))
    assert applied.duplicates == 1
    assert [example.input for example in applied.examples] == [sentence(2)]


@pytest.mark.parametrize("event", [named(1), nameless(1)])
def test_from_ingested_topics_to_published(tmp_path: Path, event: LabelledEvent) -> None:
    store = open_store(tmp_path / "store.db")
    feeder = Feeder(store)
    item = feeder.item("labels", event)
    Worker(store).forward(item)
    store.close()
    store = open_store(tmp_path / "store.db")
    applied = store.apply([item, feeder.item("labels", nameless(2))], now=0.0)
    assert applied.duplicates == 1
    assert [example.input for example in applied.examples] == [sentence(2)]


def test_other_settings_of_the_worker_make_no_other_event(store: Store, feeder: Feeder) -> None:
    event = LabelledEvent(id="e", input="I am jane@example.org", correction=LabelCorrection(label="x"))
    item = feeder.item("labels", event)
    Worker(store, Redactor()).forward(item)
    plain = Worker(store)
    plain._next = 10
    assert plain.forward(item).duplicates == 1
    assert [example.input for example in store.training()] == ["I am [EMAIL*********]"]


def test_the_same_id_with_other_bytes_is_one_dead_letter(store: Store, feeder: Feeder) -> None:
    worker = Worker(store)
    worker.forward(feeder.item("labels", named(1, "x")))
    other = feeder.item("labels", named(1, "y"))
    assert reasons(worker.forward(other)) == ["identity_conflict"]
    again = worker.forward(other)
    assert (again.rejects, again.duplicates) == ([], 1)
    assert store.count().dead_letters == 1


def test_what_is_too_old_is_one_dead_letter(store: Store, feeder: Feeder) -> None:
    worker = Worker(store)
    old = feeder.item("labels", LabelledEvent(input="hello there", correction=LabelCorrection(label="x"), time=1_000.0))
    assert reasons(worker.forward(old)) == ["too_old"]
    assert (worker.forward(old).duplicates, store.count().dead_letters) == (1, 1)


def test_an_event_counts_from_when_its_publisher_was_told(store: Store, feeder: Feeder) -> None:
    item = feeder.item("labels", nameless(1))
    (example,) = Worker(store).forward(item, delay=500.0).examples
    assert example.accepted_at == item.record.appended_at
    assert example.time == item.record.appended_at


def test_feedback_finds_its_prediction(store: Store, feeder: Feeder) -> None:
    worker = Worker(store)
    prediction = Prediction(
        id="p", time=feeder.at, model="m", version="v0.0.0", base="b", input="where is it", output="wrong"
    )
    store.allow_label("right")
    said = Feedback(prediction_id="p", kind="correct", correction=LabelCorrection(label="right"))
    first = worker.forward(feeder.item("feedback", said))
    assert first.orphans == 1
    item = feeder.item("predictions", prediction)
    applied = worker.forward(item, item)
    assert ([example.label for example in applied.examples], applied.duplicates) == (["right"], 1)
    assert applied.kinds == {"prediction": 1}


def test_an_orphan_that_came_twice_is_one_dead_letter(feeder: Feeder, store: Store) -> None:
    worker = Worker(store)
    item = feeder.item("feedback", Feedback(prediction_id="never", kind="accept"))
    worker.forward(item, item)
    feeder.pass_predictions(feeder.at + 10 * 86_400)
    assert store.count().dead_letters == 1
