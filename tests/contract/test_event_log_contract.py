"""One suite for every adapter of the event-log port."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_ft.config import KafkaSettings
from stream_ft.connectors.kafka import KafkaLog
from stream_ft.connectors.kafka_link import read_options
from stream_ft.connectors.local import LocalLog, SqliteLog
from stream_ft.errors import LogTruncatedError
from stream_ft.ports import EventLog, Outgoing, Record
from stream_ft.testing import MemoryLog

FEEDBACK = "stream_ft.m.feedback"
LABELS = "stream_ft.m.labels"
CONTROL = "stream_ft.m.control"

Make = Callable[[Path], EventLog]

ADAPTERS: dict[str, Make] = {
    "memory": lambda folder: MemoryLog(),
    "sqlite_wal": lambda folder: SqliteLog(folder / "log.db", wal=True, readonly=False),
    "sqlite_journal": lambda folder: SqliteLog(folder / "log.db", wal=False, readonly=False),
    "local": lambda folder: LocalLog(folder, writes=["serve", "learn"]),
}


@pytest.fixture(params=[*sorted(ADAPTERS), pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventLog]:
    if request.param == "kafka":
        made: EventLog = KafkaLog(request.getfixturevalue("kafka_address"), read_options(KafkaSettings().model_dump()))
        model = f"m{uuid.uuid4().hex}"  # the broker outlives the test
        for kind in ("feedback", "labels", "control"):
            monkeypatch.setitem(globals(), kind.upper(), f"stream_ft.{model}.{kind}")
    else:
        made = ADAPTERS[request.param](tmp_path)
    yield made
    made.close()


def messages(topic: str, start: int, count: int) -> list[Outgoing]:
    return [Outgoing(topic=topic, value=b"%d" % i) for i in range(start, start + count)]


def values(records: list[Record]) -> list[int]:
    return [int(record.value) for record in records]


def test_a_topic_nobody_has_written_is_empty(log: EventLog) -> None:
    assert log.partitions(FEEDBACK) == [0]
    assert log.bounds(FEEDBACK, 0) == (0, 0)
    assert log.read(FEEDBACK, 0, 0, 10) == []


def test_an_append_of_nothing_changes_nothing(log: EventLog) -> None:
    assert log.append([]) == []
    assert log.bounds(FEEDBACK, 0) == (0, 0)


def test_offsets_start_at_zero_and_grow_by_one(log: EventLog) -> None:
    assert log.append(messages(FEEDBACK, 0, 3)) == [0, 1, 2]
    assert log.append(messages(FEEDBACK, 3, 1)) == [3]
    assert log.bounds(FEEDBACK, 0) == (0, 4)


def test_order_and_positions(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 10))
    assert values(log.read(FEEDBACK, 0, 0, 4)) == [0, 1, 2, 3]
    part = log.read(FEEDBACK, 0, 4, 100)
    assert values(part) == [4, 5, 6, 7, 8, 9]
    assert [record.offset for record in part] == [4, 5, 6, 7, 8, 9]
    assert {(record.topic, record.partition) for record in part} == {(FEEDBACK, 0)}
    assert log.read(FEEDBACK, 0, 10, 5) == []
    assert log.read(FEEDBACK, 0, 3, 0) == []


def test_topics_do_not_mix(log: EventLog) -> None:
    both = [
        Outgoing(topic=FEEDBACK, value=b"0"),
        Outgoing(topic=LABELS, value=b"10"),
        Outgoing(topic=FEEDBACK, value=b"1"),
        Outgoing(topic=CONTROL, value=b"20"),
        Outgoing(topic=LABELS, value=b"11"),
    ]
    assert log.append(both) == [0, 0, 1, 0, 1]
    assert values(log.read(FEEDBACK, 0, 0, 9)) == [0, 1]
    assert values(log.read(LABELS, 0, 0, 9)) == [10, 11]
    assert values(log.read(CONTROL, 0, 0, 9)) == [20]


def test_several_readers_own_their_positions(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 6))
    seen: dict[str, list[int]] = {"slow": [], "fast": []}
    positions = {"slow": 0, "fast": 0}
    for reader, limit in [("fast", 4), ("slow", 1), ("fast", 4), ("slow", 2), ("slow", 9)]:
        records = log.read(FEEDBACK, 0, positions[reader], limit)
        seen[reader] += values(records)
        positions[reader] += len(records)
    assert seen["fast"] == seen["slow"] == [0, 1, 2, 3, 4, 5]
    assert values(log.read(FEEDBACK, 0, 2, 1)) == [2]


def test_keys_headers_and_bytes_come_back_as_they_were(log: EventLog) -> None:
    headers = (("ce_id", b"1"), ("ce_id", b"again"), ("空", b"\x00\xff"), ("empty", b""))
    sent = [
        Outgoing(topic=FEEDBACK, value=b"", key=b"", headers=()),
        Outgoing(topic=FEEDBACK, value=bytes(range(256)), key=b"k\x00", headers=headers),
        Outgoing(topic=FEEDBACK, value=b"x" * 1_000_000, key=None),
    ]
    log.append(sent)
    back = log.read(FEEDBACK, 0, 0, 9)
    assert [(r.value, r.key, r.headers) for r in back] == [(m.value, m.key, m.headers) for m in sent]


def test_the_log_gives_the_append_time(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 2))
    first, second = log.read(FEEDBACK, 0, 0, 2)
    assert 1.6e9 < first.appended_at <= second.appended_at < 1e10


def test_retention_that_passed_a_reader_is_an_error(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 10))
    log.trim(FEEDBACK, 0, 4)
    assert log.bounds(FEEDBACK, 0) == (4, 10)
    assert values(log.read(FEEDBACK, 0, 4, 2)) == [4, 5]
    for offset in (0, 3):
        with pytest.raises(LogTruncatedError, match=str(offset)):
            log.read(FEEDBACK, 0, offset, 2)


def test_retention_of_one_topic_leaves_the_others(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 3) + messages(LABELS, 0, 3))
    log.trim(FEEDBACK, 0, 3)
    assert log.bounds(LABELS, 0) == (0, 3)


def test_an_offset_beyond_the_end_is_an_error(log: EventLog) -> None:
    with pytest.raises(LogTruncatedError):
        log.read(FEEDBACK, 0, 1, 1)
    log.append(messages(FEEDBACK, 0, 2))
    assert log.read(FEEDBACK, 0, 2, 1) == []
    with pytest.raises(LogTruncatedError):
        log.read(FEEDBACK, 0, 3, 1)
    with pytest.raises(LogTruncatedError):
        log.read(FEEDBACK, 0, -1, 1)


def test_offsets_are_not_given_again_after_everything_was_trimmed(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 5))
    log.trim(FEEDBACK, 0, 5)
    assert log.bounds(FEEDBACK, 0) == (5, 5)
    assert log.read(FEEDBACK, 0, 5, 9) == []
    with pytest.raises(LogTruncatedError):
        log.read(FEEDBACK, 0, 4, 9)
    assert log.append(messages(FEEDBACK, 5, 1)) == [5]
    assert values(log.read(FEEDBACK, 0, 5, 9)) == [5]


def test_trimming_beyond_the_end_removes_no_future_record(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 2))
    log.trim(FEEDBACK, 0, 100)
    assert log.bounds(FEEDBACK, 0) == (2, 2)
    log.append(messages(FEEDBACK, 2, 1))
    log.trim(FEEDBACK, 0, 1)
    assert log.bounds(FEEDBACK, 0) == (2, 3)


def test_trimming_an_unknown_topic_is_harmless(log: EventLog) -> None:
    log.trim(FEEDBACK, 0, 10)
    assert log.bounds(FEEDBACK, 0) == (0, 0)


def test_changed_tells_of_appends_and_then_is_quiet(log: EventLog) -> None:
    log.changed()
    assert not log.changed()
    log.append(messages(FEEDBACK, 0, 1))
    assert log.changed()
    assert not log.changed()
    log.append(messages(CONTROL, 0, 1))
    assert log.changed()
    assert not log.changed()


def test_the_identity_stays(log: EventLog) -> None:
    before = log.log_id(FEEDBACK)
    assert before
    log.append(messages(FEEDBACK, 0, 2))
    log.trim(FEEDBACK, 0, 2)
    assert log.log_id(FEEDBACK) == before


def test_close_may_be_repeated_and_ends_the_log(log: EventLog) -> None:
    log.append(messages(FEEDBACK, 0, 1))
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append(messages(FEEDBACK, 1, 1))
    with pytest.raises(ValueError, match="closed"):
        log.read(FEEDBACK, 0, 0, 1)


def test_appends_of_several_threads_each_get_their_offset(log: EventLog) -> None:
    """Two writers and a reader that polls beside them: nothing is lost, doubled, or out of order."""
    given_offsets: dict[int, int] = {}
    failures: list[BaseException] = []
    count = 60

    def write(start: int) -> None:
        try:
            for i in range(start, start + count, 3):
                for shift, offset in enumerate(log.append(messages(FEEDBACK, i, 3))):
                    given_offsets[offset] = i + shift
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(n * count,)) for n in range(2)]
    for thread in writers:
        thread.start()
    read: list[Record] = []
    while any(thread.is_alive() for thread in writers) or len(read) < log.bounds(FEEDBACK, 0)[1]:
        read += log.read(FEEDBACK, 0, len(read), 7)
    for thread in writers:
        thread.join()
    assert failures == []
    assert [record.offset for record in read] == list(range(2 * count))
    assert {record.offset: int(record.value) for record in read} == given_offsets
    assert sorted(values(read)) == list(range(2 * count))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([FEEDBACK, CONTROL]), st.integers(0, 4)),
        st.tuples(st.just("trim"), st.sampled_from([FEEDBACK, CONTROL]), st.integers(0, 12)),
        st.tuples(st.just("read"), st.sampled_from([FEEDBACK, CONTROL]), st.integers(0, 12)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("name", ["local", "sqlite_wal"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_files_behave_as_the_memory(
    name: str, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    """Any sequence of appends, trims and reads gives the same on the fake as on the files."""
    real, fake = ADAPTERS[name](tmp_path_factory.mktemp("log")), MemoryLog()
    outcomes: list[list[object]] = []
    for log in (real, fake):
        seen: list[object] = []
        written = 0
        for action, topic, number in steps:
            if action == "append":
                seen.append(log.append(messages(topic, written, number)))
                written += number
            elif action == "trim":
                log.trim(topic, 0, number)
            else:
                try:
                    seen.append([(r.offset, r.value) for r in log.read(topic, 0, number, 3)])
                except LogTruncatedError:
                    seen.append("truncated")
            seen.append(log.bounds(topic, 0))
        log.close()
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
