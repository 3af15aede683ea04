"""Applied once: offsets, identities, the horizon, dead letters."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_kit import DAY, START, Feeder, open_store, reasons, sentence

from stream_ft.dead_letters import PREFIX
from stream_ft.events import LabelCorrection, LabelledEvent
from stream_ft.ingest.validate import parse
from stream_ft.ports import Record
from stream_ft.replay.store import Item


def event(number: int, label: str = "x", source: str = "labels") -> LabelledEvent:
    return LabelledEvent(
        id=f"e{number}", input=sentence(number), correction=LabelCorrection(label=label), source=source
    )


@pytest.fixture
def feeder() -> Feeder:
    return Feeder(open_store())


def test_offsets_are_those_to_read_next(feeder: Feeder) -> None:
    assert feeder.store.offsets() == {}
    feeder.apply(feeder.item("labels", event(1)), feeder.item("labels", event(2)))
    feeder.predict("p", "a text")
    assert feeder.store.offsets() == {("stream_ft.m.labels", 0): 2, ("stream_ft.m.predictions", 0): 1}


def test_a_record_below_the_offset_is_absorbed(feeder: Feeder) -> None:
    items = [feeder.item("labels", event(n)) for n in range(3)]
    feeder.apply(*items)
    applied = feeder.apply(*items)
    assert (applied.duplicates, applied.examples, applied.scored) == (3, [], [])
    assert feeder.store.count().train == 3


def test_gaps_between_offsets_are_fine(feeder: Feeder) -> None:
    item = feeder.item("labels", event(1))
    record = Record(topic=item.record.topic, partition=0, offset=900, value=item.record.value, appended_at=START)
    applied = feeder.apply(Item(record=record, event=item.event))
    assert len(applied.examples) == 1
    assert feeder.store.offsets() == {("stream_ft.m.labels", 0): 901}


def test_partitions_have_offsets_of_their_own(feeder: Feeder) -> None:
    first = feeder.item("labels", event(1))
    other = Record(topic=first.record.topic, partition=3, offset=0, value=first.record.value + b" ", appended_at=START)
    moved = Item(record=other, event=event(2))
    assert len(feeder.apply(first, moved).examples) == 2
    assert feeder.store.offsets() == {("stream_ft.m.labels", 0): 1, ("stream_ft.m.labels", 3): 1}


def test_the_same_event_published_again_is_absorbed(feeder: Feeder) -> None:
    feeder.apply(feeder.item("labels", event(1)))
    applied = feeder.apply(feeder.item("labels", event(1)))
    assert (applied.duplicates, applied.examples) == (1, [])


def test_twice_in_one_transaction_counts_once(feeder: Feeder) -> None:
    applied = feeder.apply(feeder.item("labels", event(1)), feeder.item("labels", event(1)))
    assert (applied.duplicates, len(applied.examples)) == (1, 1)


def test_the_same_identity_with_other_bytes_is_a_dead_letter(feeder: Feeder) -> None:
    feeder.apply(feeder.item("labels", event(1, "x")))
    applied = feeder.apply(feeder.item("labels", event(1, "y")))
    assert reasons(applied) == ["identity_conflict"]
    assert [e.label for e in feeder.store.training()] == ["x"]


def test_ids_belong_to_their_source(feeder: Feeder) -> None:
    feeder.apply(feeder.item("labels", event(1, source="a")))
    assert not feeder.apply(feeder.item("labels", event(1, source="b"))).rejects
    # The border between source and id is part of the name.
    shifted = LabelledEvent(id="1", input=sentence(7), correction=LabelCorrection(label="x"), source="ae")
    assert not feeder.apply(feeder.item("labels", shifted)).rejects


def test_events_without_an_id_are_told_apart_by_their_place(feeder: Feeder) -> None:
    bare = LabelledEvent(input=sentence(1), correction=LabelCorrection(label="x"))
    feeder.apply(feeder.item("labels", bare))
    applied = feeder.apply(feeder.item("labels", bare))
    assert applied.duplicates == 0
    assert feeder.store.count().events == 2
    assert feeder.store.count().train == 1


def test_an_event_older_than_the_horizon_is_refused(feeder: Feeder) -> None:
    feeder.at = START + 40 * DAY
    old = feeder.label("long ago", "x", time=START + 9 * DAY)
    just = feeder.label("not so long ago", "x", time=START + 11 * DAY)
    assert reasons(old) == ["too_old"]
    assert not just.rejects


def test_identities_are_forgotten_day_by_day(feeder: Feeder) -> None:
    first = event(1)
    feeder.apply(feeder.item("labels", first, at=START))
    feeder.apply(feeder.item("labels", event(2), at=START + 29 * DAY))
    assert set(feeder.store.identities()) == {("labels", "e1"), ("labels", "e2")}
    feeder.pass_time(START + 32 * DAY)
    feeder.apply(feeder.item("labels", event(3), at=START + 32 * DAY))
    assert set(feeder.store.identities()) == {("labels", "e2"), ("labels", "e3")}
    again = feeder.apply(feeder.item("labels", event(2), at=START + 32 * DAY))
    assert again.duplicates == 1


def test_predictions_beyond_the_horizon_leave_and_their_examples_stay(feeder: Feeder) -> None:
    feeder.store.allow_label("x")
    feeder.predict("p", sentence(1))
    feeder.say("p", label="x")
    feeder.pass_time(START + 32 * DAY)
    feeder.predict("q", sentence(2), at=START + 32 * DAY)
    applied = feeder.say("p", label="y", at=START + 32 * DAY + 1)
    assert applied.orphans == 1, "the prediction is no longer known"
    assert [e.label for e in feeder.store.training()] == ["x"]


@pytest.mark.parametrize("value", [b"{", b"\xff", b"[]"])
def test_a_reject_goes_out_as_it_came_in_with_the_reason(feeder: Feeder, value: bytes) -> None:
    headers = (("trace", b"\x00\xff"), (PREFIX + "stage", b"forged"))
    record = feeder.record("labels", value, headers=headers)
    applied = feeder.apply(Item(record=record, event=parse(record, now=START)))
    assert len(applied.rejects) == 1
    ((_, letter),) = feeder.store.outbox(5)
    assert (letter.topic, letter.key, letter.value) == ("stream_ft.m.dlq", b"k", value)
    assert letter.headers[0] == ("trace", b"\x00\xff")
    told = dict(letter.headers[1:])
    assert told == {
        PREFIX + "topic": b"stream_ft.m.labels",
        PREFIX + "partition": b"0",
        PREFIX + "offset": b"0",
        PREFIX + "stage": b"decode",
        PREFIX + "exception.class.name": applied.rejects[0].reason.encode(),
        PREFIX + "exception.message": applied.rejects[0].detail.encode(),
    }
    assert feeder.store.offsets() == {("stream_ft.m.labels", 0): 1}


def test_the_outbox_keeps_order_and_is_crossed_off(feeder: Feeder) -> None:
    for value in (b"1", b"2", b"3"):
        feeder.apply(feeder.item("labels", value))
    first = feeder.store.outbox(2)
    assert [message.value for _, message in first] == [b"1", b"2"]
    assert feeder.store.count().outbox == 3
    feeder.store.outbox_done([row for row, _ in first])
    feeder.store.outbox_done([row for row, _ in first])
    assert feeder.store.count().outbox == 1
    assert [message.value for _, message in feeder.store.outbox(9)] == [b"3"]


def test_every_record_is_an_event_a_duplicate_or_a_dead_letter(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store.db", orphan_limit_s=10.0)
    feeder = Feeder(store)
    taken = 0
    for number in range(40):
        values = [event(number % 25), event(number % 7, "other"), b"{"]
        feeder.apply(*[feeder.item("labels", value) for value in values])
        feeder.say(f"p{number}", "accept", id=f"f{number}")
        feeder.predict(f"q{number}", sentence(number))
        taken += 5
    store.close()
    count = (again := open_store(tmp_path / "store.db")).count()
    assert count.events + count.duplicates + count.dead_letters == taken
    assert count.dead_letters == count.outbox
    again.close()
