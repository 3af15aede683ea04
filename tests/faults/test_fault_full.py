"""Faults 4 and 9: the disk is full under the store, the log or the dead letters, and is so no more."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from learning_parts import ROUNDS, Learning, names, text

from stream_ft import control
from stream_ft.testing import MemoryLog
from stream_ft.wiring import learn

Start = Callable[..., Learning]


@contextmanager
def full(learning: Learning) -> Iterator[None]:
    """No page more for the store, as on a full disk."""
    database: sqlite3.Connection = learning.store._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count={pages}")
    try:
        yield
    finally:
        database.execute("PRAGMA max_page_count=1000000")


@contextmanager
def read_only(learning: Learning) -> Iterator[None]:
    """The store takes no write at all, not even one that fits into its free pages."""
    learning.store._db.execute("PRAGMA query_only=ON")
    try:
        yield
    finally:
        learning.store._db.execute("PRAGMA query_only=OFF")


def offset(learning: Learning) -> int:
    """The next offset that the store will read of the labels, as its file says."""
    found = learning.store._db.execute("SELECT next FROM offsets WHERE topic = ?", (names("labels"),)).fetchone()
    return 0 if found is None else int(found[0])


def letters(learning: Learning) -> list[bytes]:
    """Dead letters that were published."""
    return [record.value for record in learning.log.read(names("dlq"), 0, 0, 100_000)]


def test_fault_04_a_full_disk_pauses_the_learner_which_goes_on_by_itself(learner: Start) -> None:
    learning = learner(files=True)
    learning.label(0, 10)
    learning.step()
    assert learning.loop.ready() == (True, "")
    with full(learning):
        learning.label(10, 60, padding=200)
        for _ in range(5):
            learning.step()
            ready, why = learning.loop.ready()
            assert not ready
            assert "store.db cannot be written" in why
            assert offset(learning) == 10
            assert len(learning.applied()) == 10
    learning.step()
    assert learning.loop.ready() == (True, "")
    assert offset(learning) == 60
    assert sorted(learning.applied()) == sorted(
        [text(number) for number in range(10)] + [text(number, 200) for number in range(10, 60)]
    )
    assert learning.store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_fault_04_between_attempts_the_disk_is_left_alone(learner: Start) -> None:
    learning = learner()
    with full(learning):
        learning.label(0, 50, padding=200)
        learning.step()
        assert not learning.loop.ready()[0]
    learning.step(seconds=0.1)
    assert not learning.loop.ready()[0]
    learning.step(seconds=learn.RETRY_S)
    assert learning.loop.ready()[0]


def test_fault_04_a_round_that_ends_while_nothing_can_be_written_is_not_lost(learner: Start) -> None:
    learning = learner(**ROUNDS)
    learning.label(0, 40)
    learning.step(2)
    process = learning.core.round
    assert process is not None
    process._process.wait(60)
    with read_only(learning):
        learning.step(3)
        assert not learning.loop.ready()[0]
    assert learning.core.head.labels == ("a", "b"), "the log says so, full disk or not"
    learning.label(40, 90)
    learning.step(4)
    assert learning.loop.ready() == (True, "")
    assert len(learning.said("promotion")) == 1, "what the round brought is released, and once"
    assert len(learning.said("round")) == 2, learning.core.learner.decision.reason


def test_fault_04_a_round_that_could_not_start_starts_later(learner: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = learner(**ROUNDS)

    def refuse(limit: int) -> int:
        raise learn.StoreFullError("The store cannot be written: full.", "")

    monkeypatch.setattr(learning.core, "embed_missing", refuse)
    learning.label(0, 40)
    learning.step(3)
    assert learning.said("round") == []
    assert not learning.loop.ready()[0]
    monkeypatch.undo()
    learning.step(3)
    assert len(learning.said("round")) == 1, learning.core.learner.decision.reason
    assert learning.loop.ready() == (True, "")


def test_fault_04_a_lead_that_could_not_be_said_is_said_later(learner: Start) -> None:
    learning = learner()
    log = learning.log
    assert isinstance(log, MemoryLog)
    learning.step()
    learning.issue(control.Lead, by="learner/b", expected_epoch=learning.core.state.epoch)
    learning.step()
    again = learner(name="c", store="c.db", log=log, follow=False)
    log.full = True
    again.step()
    assert not again.loop.ready()[0]
    log.full = False
    again.step(2)
    assert again.core.learner.leading


def test_fault_04_a_round_whose_folder_cannot_be_written_starts_later(learner: Start) -> None:
    learning = learner(**ROUNDS)
    blocked = learning.folder / "jobs-a"
    blocked.write_bytes(b"")
    learning.label(0, 40)
    learning.step(2)
    ready, why = learning.loop.ready()
    assert not ready
    assert "folder of a round" in why
    blocked.unlink()
    learning.step(2)
    assert learning.loop.ready() == (True, "")
    assert learning.core.round is not None


@pytest.mark.parametrize("files", [False, True])
def test_fault_09_dead_letters_wait_in_the_outbox_and_consumption_goes_on(
    learner: Start, files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = learner(files=files)
    publish = learning.log.append

    def refuse(messages: object) -> list[int]:
        raise learn.StoreFullError("learn.db cannot be written.", "Free some space.")

    learning.label(0, 5)
    learning.publish("labels", b"{", b"[")
    monkeypatch.setattr(learning.log, "append", refuse)
    learning.step(2)
    monkeypatch.setattr(learning.log, "append", publish)
    learning.label(5, 9)
    learning.publish("labels", b"]")
    monkeypatch.setattr(learning.log, "append", refuse)
    learning.step(2)
    assert letters(learning) == []
    assert offset(learning) == 12
    assert learning.store.count().outbox == 3
    assert len(learning.applied()) == 9
    assert learning.loop.ready() == (True, "")
    monkeypatch.setattr(learning.log, "append", publish)
    learning.step(2)
    assert letters(learning) == [b"{", b"[", b"]"]
    assert learning.store.count().outbox == 0


def test_fault_09_consumption_pauses_only_when_the_outbox_is_full(
    learner: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "OUTBOX_CAP", 3)
    monkeypatch.setattr(learn, "BATCH", 2)
    learning = learner()
    log = learning.log
    assert isinstance(log, MemoryLog)
    bad = [b"{%d" % number for number in range(12)]
    learning.publish("labels", *bad)
    log.full = True
    learning.step(6)
    assert offset(learning) == 4
    assert learning.store.count().outbox == 4
    ready, why = learning.loop.ready()
    assert not ready
    assert "dead letters" in why
    log.full = False
    learning.step(8)
    assert learning.loop.ready() == (True, "")
    assert letters(learning) == bad
    assert offset(learning) == 12


def test_fault_09_a_letter_that_was_published_but_not_crossed_off_is_not_published_again(
    learner: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = learner()
    cross_off = learning.store.outbox_done

    def refuse(rows: object) -> None:
        raise learn.StoreFullError("The store cannot be written.", "Free some space.")

    monkeypatch.setattr(learning.store, "outbox_done", refuse)
    learning.publish("labels", b"{", b"[")
    learning.step(3)
    assert letters(learning) == [b"{", b"["]
    monkeypatch.setattr(learning.store, "outbox_done", cross_off)
    learning.publish("labels", b"]")
    learning.step(3)
    assert letters(learning) == [b"{", b"[", b"]"]
    assert learning.store.count().outbox == 0
