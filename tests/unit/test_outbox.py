"""Dead letters leave the outbox once, whatever is killed in between."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from stream_ft.errors import MessageTooLargeError, StoreFullError
from stream_ft.ports import Outgoing, Record
from stream_ft.replay.store import Store
from stream_ft.testing import MemoryLog
from stream_ft.wiring.outbox import BEGINNING, CUT_FROM, ORIGIN, Publisher, origin_of

TOPIC = "stream_ft.m.dlq"


class Rows:
    """The outbox of a store, in memory."""

    def __init__(self, count: int) -> None:
        self.rows = {i: letter(i) for i in range(count)}

    def outbox(self, limit: int) -> list[tuple[int, Outgoing]]:
        return sorted(self.rows.items())[:limit]

    def outbox_done(self, rows: list[int]) -> None:
        for row in rows:
            del self.rows[row]

    def count(self) -> SimpleNamespace:
        return SimpleNamespace(outbox=len(self.rows))


def letter(offset: int) -> Outgoing:
    values = (b"stream_ft.m.labels", b"0", str(offset).encode())
    return Outgoing(topic=TOPIC, value=b"%d" % offset, headers=tuple(zip(ORIGIN, values, strict=True)))


def publisher(log: MemoryLog, rows: Rows) -> Publisher:
    return Publisher(log, cast(Store, rows), TOPIC)


def published(log: MemoryLog) -> list[bytes]:
    return [record.value for record in log.read(TOPIC, 0, 0, 10_000)]


def test_all_that_waits_is_published_in_order_and_crossed_off() -> None:
    log, rows = MemoryLog(), Rows(1_200)
    assert publisher(log, rows).publish() == 1_200
    assert published(log) == [b"%d" % i for i in range(1_200)]
    assert rows.rows == {}


def test_what_a_killed_process_had_published_is_not_published_again() -> None:
    log, rows = MemoryLog(), Rows(3)
    log.append([letter(0), letter(1)])  # published, and killed before they were crossed off
    publisher(log, rows).publish()
    assert published(log) == [b"0", b"1", b"2"]
    assert rows.rows == {}


def test_a_full_log_leaves_the_messages_in_the_outbox() -> None:
    log, rows = MemoryLog(), Rows(2)
    one = publisher(log, rows)
    log.full = True
    with pytest.raises(StoreFullError):
        one.publish()
    assert len(rows.rows) == 2
    log.full = False
    assert one.publish() == 2
    assert published(log) == [b"0", b"1"]


def test_a_message_without_an_origin_is_never_taken_for_another() -> None:
    assert origin_of(()) == ()
    log, rows = MemoryLog(), Rows(0)
    log.append([Outgoing(topic=TOPIC, value=b"x")])
    rows.rows = {0: Outgoing(topic=TOPIC, value=b"y")}
    publisher(log, rows).publish()
    assert published(log) == [b"x", b"y"]


class NarrowLog(MemoryLog):
    """Takes values of at most so many bytes, and gives few records at a time, as a broker does."""

    limit = 10_000

    def append(self, messages: Sequence[Outgoing], *, now: float | None = None) -> list[int]:
        for index, message in enumerate(messages):
            if len(message.value) > self.limit:
                raise MessageTooLargeError("It is too large.", "Raise the limit.", index=index)
        return super().append(messages, now=now)

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        return super().read(topic, partition, offset, min(limit, 2))


def test_a_letter_too_large_for_its_topic_leaves_its_beginning_and_holds_up_no_other() -> None:
    log, rows = NarrowLog(), Rows(3)
    origin = rows.rows[1].headers
    rows.rows[1] = Outgoing(topic=TOPIC, key=b"k", value=b"x" * 20_000, headers=origin)
    publisher(log, rows).publish()
    assert rows.rows == {}
    found = [record for offset in range(3) for record in log.read(TOPIC, 0, offset, 1)]
    assert [len(record.value) for record in found] == [1, BEGINNING, 1]
    assert found[1].headers == (*origin, (CUT_FROM, b"20000"))
    assert found[1].key == b"k"


def test_a_log_that_takes_not_even_that_keeps_the_letters_waiting() -> None:
    log, rows = NarrowLog(), Rows(1)
    log.limit = 0
    with pytest.raises(StoreFullError, match="too large"):
        publisher(log, rows).publish()
    assert len(rows.rows) == 1


def test_a_log_that_gives_little_at_a_time_is_compared_to_its_end() -> None:
    log, rows = NarrowLog(), Rows(7)
    log.append([letter(i) for i in range(6)])
    publisher(log, rows).publish()
    assert [record.value for offset in range(0, 7, 2) for record in log.read(TOPIC, 0, offset, 2)] == [
        b"%d" % i for i in range(7)
    ]
