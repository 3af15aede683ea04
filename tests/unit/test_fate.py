"""What the store's file tells, beside the store that writes it, of what became of a statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_kit import Feeder, open_store, sentence

from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Reject
from stream_ft.ingest.forward import outcome
from stream_ft.ingest.receive import received
from stream_ft.ingest.validate import parse
from stream_ft.ports import Record
from stream_ft.replay.fate import Fate, fates
from stream_ft.replay.store import Item


class Kept(Feeder):
    """Remembers each record of feedback and labels, with what it says."""

    def __init__(self, path: Path, **settings: object) -> None:
        super().__init__(open_store(path, **settings))
        self.path = path
        self.said: list[tuple[Record, Feedback | LabelledEvent]] = []

    def record(self, kind: str, value: bytes, **more: object) -> Record:  # type: ignore[override]
        made = super().record(kind, value, **more)  # type: ignore[arg-type]
        event = parse(made, now=self.at)
        if isinstance(event, Feedback | LabelledEvent):
            self.said.append((made, event))
        return made

    def fates(self) -> list[Fate]:
        return fates(self.path, self.said)

    def last(self) -> Fate:
        return self.fates()[-1]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "store.db")
    for label in ("old", "refund", "delivery"):
        made.store.allow_label(label)
    yield made
    made.store.close()


def test_a_correction_trains_and_tells_what_was_answered(kept: Kept) -> None:
    kept.predict("p", "where is it")
    kept.say("p", label="delivery")
    assert kept.last() == Fate(what="trains", seq=1, input="where is it", predicted="old", version="v0.1.0")


def test_a_labelled_event_trains_and_tells_what_was_answered(kept: Kept) -> None:
    kept.label("where is it", "delivery", answer={"output": "refund", "version": "v0.2.0"}, id="e-1")
    assert kept.last() == Fate(what="trains", seq=1, input="where is it", predicted="refund", version="v0.2.0")
    kept.label("another", "delivery")
    assert (kept.last().what, kept.last().seq) == ("trains", 2)


def test_what_does_not_train_says_so(kept: Kept) -> None:
    kept.predict("p", "where is it")
    kept.predict("q", "give it back")
    kept.say("p", "accept")
    assert kept.last() == Fate(what="not_trained", input="where is it", predicted="old", version="v0.1.0")
    kept.say("p", "rating", rating=3.0)
    assert kept.last().what == "not_trained"
    kept.say("q", "reject")
    assert kept.last().what == "not_trained"


def test_a_word_on_an_answer_gives_way_to_the_next(kept: Kept) -> None:
    kept.predict("p", "where is it")
    kept.say("p", label="refund")
    kept.say("p", label="delivery")
    assert [fate.what for fate in kept.fates()] == ["outranked", "trains"]
    kept.say("p", "rating", rating=1.0)
    assert kept.last().what == "not_trained"


def test_another_statement_on_the_same_text_counts(kept: Kept) -> None:
    kept.predict("p", "where is it")
    kept.say("p", label="refund")
    kept.label("where is it", "delivery")
    assert [fate.what for fate in kept.fates()] == ["outranked", "trains"]


def test_it_waits_for_its_prediction_or_for_its_label(kept: Kept) -> None:
    kept.say("p", label="delivery")
    assert kept.last() == Fate(what="waits_for_prediction")
    kept.predict("p", "where is it")
    assert kept.last().what == "trains"
    kept.predict("q", "a new thing")
    kept.say("q", label="invoice", source="ann")
    assert kept.last() == Fate(what="waits_for_label", input="a new thing", predicted="old", version="v0.1.0")
    kept.label("another new thing", "invoice", origin="user", source="ann")
    assert kept.last().what == "waits_for_label"
    kept.store.allow_label("invoice")
    assert [fate.what for fate in kept.fates()][-2:] == ["trains", "trains"]


def test_it_is_held_out(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "store.db", holdout_share=1.0, holdout_after=0)
    kept.label(sentence(1), "delivery")
    assert (kept.last().what, kept.last().seq) == ("held_out", 1)
    kept.store.close()


def test_it_is_sampled_out_or_set_aside(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "store.db", capacity=1, sampler="recent")
    kept.label(sentence(1), "delivery", source="ann")
    kept.label(sentence(2), "delivery", source="bob")
    assert [fate.what for fate in kept.fates()] == ["sampled_out", "trains"]
    kept.store.quarantine("bob", None, None)
    assert kept.last().what == "quarantined"
    kept.store.close()


def test_what_the_learner_has_not_read_is_unread(kept: Kept) -> None:
    kept.predict("p", "where is it")
    event = Feedback(prediction_id="p", kind="accept")
    kept.item("feedback", event)
    assert kept.last() == Fate(what="unread", input="where is it", predicted="old", version="v0.1.0")


def test_a_dead_letter_is_unknown_to_the_store(kept: Kept) -> None:
    kept.label("where is it", "delivery", id="one")
    applied = kept.label("something else", "refund", id="one")
    assert isinstance(applied.rejects[0], Reject)
    # One identity, two contents: the first is what it names.
    assert [fate.what for fate in kept.fates()] == ["trains", "unknown"]


def test_without_a_store_nothing_is_known(tmp_path: Path, kept: Kept) -> None:
    kept.label("where is it", "delivery")
    assert fates(tmp_path / "none.db", kept.said) == [Fate(what="unknown")]
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    assert fates(tmp_path / "broken.db", kept.said) == [Fate(what="unknown")]


def test_it_reads_a_store_that_was_closed_and_writes_nothing(kept: Kept) -> None:
    kept.label("where is it", "delivery")
    kept.store.close()
    before = kept.path.read_bytes()
    assert kept.last().what == "trains"
    assert kept.path.read_bytes() == before
    with sqlite3.connect(kept.path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_ingest_forwarded_is_known_where_it_was_published(kept: Kept) -> None:
    """Another topic is read, so its own offsets say nothing."""
    item = kept.item("labels", LabelledEvent(input="where is it", correction=LabelCorrection(label="delivery")))
    kept.item("labels", LabelledEvent(input="not forwarded yet", correction=LabelCorrection(label="delivery")))
    message, _ = outcome(item.record, now=kept.at, events="stream_ft.m.events", dlq="stream_ft.m.dlq", redact=None)
    forwarded = Record(
        topic="stream_ft.m.events", partition=0, offset=0, value=message.value, headers=message.headers,
        appended_at=kept.at + 5,
    )  # fmt: skip
    again, event = received(forwarded, now=kept.at)
    kept.store.apply([Item(record=again, event=event)], now=kept.at)
    assert [fate.what for fate in kept.fates()] == ["trains", "unread"]
