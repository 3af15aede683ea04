"""The Faust worker without a broker: what is sent, when it is acknowledged, and what it says of itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stream_ft.dead_letters import PREFIX
from stream_ft.errors import ConfigError
from stream_ft.events import Event, Feedback, Reject
from stream_ft.ingest.forward import outcome
from stream_ft.ports import Outgoing, Record

pytest.importorskip("faust", reason="Faust is not installed")
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from stream_ft.connectors import faust_counts, faust_worker
from stream_ft.connectors.faust_worker import Pending, Worker, WorkerError, credentials, record_of

FEEDBACK, LABELS = "stream_ft.m.feedback", "stream_ft.m.labels"
EVENTS, DLQ = "stream_ft.m.events", "stream_ft.m.dlq"
GOOD = b'{"prediction_id": "p", "label": "x", "source": "s"}'


def handle(record: Record) -> tuple[Outgoing, Event | Reject]:
    return outcome(record, now=1.7e9, events=EVENTS, dlq=DLQ)


class Counted:
    """What a worker counted."""

    def __init__(self) -> None:
        self.outcomes: list[Event | Reject] = []

    def taken(self, event: Event | Reject) -> None:
        self.outcomes.append(event)

    def rates(self, **_: Any) -> None:
        pass


class Producer:
    """Confirms what it is told to; the answers of one message are given one after the other."""

    def __init__(self, *answers: BaseException | None) -> None:
        self.sent: list[Outgoing] = []
        self._answers = list(answers)

    async def send(self, topic: str, key: Any, value: Any, partition: Any, timestamp: Any, headers: Any) -> Any:
        self.sent.append(Outgoing(topic=topic, key=key, value=value, headers=tuple(headers)))
        future = asyncio.get_running_loop().create_future()
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(None)
        return future


class FaustEvent:
    """Remembers when it was acknowledged."""

    def __init__(self, acked: list[int], offset: int) -> None:
        self._acked, self._offset = acked, offset

    def ack(self) -> None:
        self._acked.append(self._offset)


def worker(handler: Callable[[Record], tuple[Outgoing, Event | Reject]] = handle, **options: object) -> Worker:
    return Worker(
        "kafka://127.0.0.1:1,127.0.0.1:2",
        options=options,
        group=f"test-{time.monotonic_ns()}",
        topics={FEEDBACK: 2, LABELS: 1},
        feedback=FEEDBACK,
        dlq=DLQ,
        handle=handler,
        series=Counted(),
    )


def record(offset: int, value: bytes = GOOD) -> Record:
    return Record(topic=FEEDBACK, partition=0, offset=offset, value=value, appended_at=1.7e9)


def settle(worked: Worker, producer: Producer, *records: Record) -> list[int]:
    """Offsets in the order in which they were acknowledged."""
    acked: list[int] = []

    async def work() -> None:
        worked.app.producer = producer
        worked._failed = asyncio.get_running_loop().create_future()
        pending: asyncio.Queue[Pending] = asyncio.Queue()
        for each in records:
            made, event = worked._made(each)
            sent = await worked._send(made)
            pending.put_nowait(Pending(FaustEvent(acked, each.offset), each, made, event, sent))
        settling = asyncio.create_task(worked._settle(pending))
        while not (pending.empty() and len(acked) == len(records)) and not settling.done():
            await asyncio.sleep(0)
        settling.cancel()
        if worked._failed.done():
            worked._failed.result()

    asyncio.run(work())
    return acked


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust_worker, "RETRY_S", 0.0)


def test_each_record_is_sent_and_then_acknowledged_in_order() -> None:
    worked, producer = worker(), Producer()
    assert settle(worked, producer, record(4), record(5, b"{"), record(6)) == [4, 5, 6]
    assert [each.topic for each in producer.sent] == [EVENTS, DLQ, EVENTS]
    assert producer.sent[1].value == b"{"


def test_what_is_not_confirmed_is_sent_again_before_anything_after_it_is_acknowledged() -> None:
    worked = worker()
    producer = Producer(KafkaTimeoutError(), None, KafkaTimeoutError(), None)
    assert settle(worked, producer, record(1), record(2)) == [1, 2]
    assert len(producer.sent) == 4
    assert [each.value for each in producer.sent[2:]] == [each.value for each in producer.sent[:2]]


def test_a_handler_that_raises_makes_a_dead_letter() -> None:
    def broken(_: Record) -> tuple[Outgoing, Event | Reject]:
        raise KeyError("something of the event")

    worked, producer = worker(broken), Producer()
    assert settle(worked, producer, record(7)) == [7]
    (letter,) = producer.sent
    said = dict(letter.headers)
    assert (letter.topic, letter.value) == (DLQ, GOOD)
    assert said[PREFIX + "exception.class.name"] == b"invalid_event"
    assert said[PREFIX + "exception.message"] == b"Ingest failed on it: KeyError."


def test_what_the_topic_does_not_take_becomes_a_dead_letter() -> None:
    worked, producer = worker(), Producer(MessageSizeTooLargeError())
    assert settle(worked, producer, record(7)) == [7]
    assert [each.topic for each in producer.sent] == [EVENTS, DLQ]
    assert dict(producer.sent[1].headers)[PREFIX + "exception.class.name"] == b"too_long"


def test_a_dead_letter_that_cannot_be_written_ends_the_worker_and_acknowledges_nothing() -> None:
    producer = Producer(MessageSizeTooLargeError(), MessageSizeTooLargeError())
    with pytest.raises(WorkerError, match=r"max\.message\.bytes"):
        settle(worker(), producer, record(7))


def test_what_faust_would_do_by_default_and_must_not() -> None:
    conf = worker().app.conf
    assert conf.web_enabled is False
    assert str(conf.processing_guarantee) == "ProcessingGuarantee.AT_LEAST_ONCE"
    assert str(conf.store) == "memory:"
    assert conf.topic_disable_leader is True
    assert conf.consumer_auto_offset_reset == "earliest"
    assert conf.producer_acks == -1
    assert [str(url) for url in conf.broker] == ["kafka://127.0.0.1:1", "kafka://127.0.0.1:2"]
    assert {agent.concurrency for agent in worker().app.agents.values()} == {1}


def test_messages_become_records() -> None:
    message = SimpleNamespace(
        topic=FEEDBACK, partition=1, offset=9, value=b"v", key=b"k", headers=[("ce_id", b"1"), ("n", None)],
        timestamp=1_700_000_000.25,
    )  # fmt: skip
    assert record_of(message) == Record(
        topic=FEEDBACK, partition=1, offset=9, value=b"v", key=b"k", headers=(("ce_id", b"1"), ("n", b"")),
        appended_at=1_700_000_000.25,
    )  # fmt: skip
    bare = SimpleNamespace(topic="t", partition=0, offset=0, value=None, key=None, headers=None, timestamp=None)
    assert record_of(bare) == Record(topic="t", partition=0, offset=0, value=b"")


def test_credentials() -> None:
    assert credentials({}) is None
    sasl = credentials({"security": "sasl_plaintext", "username": "u", "password": "p", "sasl_mechanism": "PLAIN"})
    assert (sasl.username, sasl.password) == ("u", "p")
    assert credentials({"security": "ssl"}).context.check_hostname
    with pytest.raises(ConfigError, match="certificates"):
        credentials({"security": "ssl", "ca_file": "/nowhere.pem"})


@pytest.mark.parametrize("url", ["sqlite://", "kafka://", "localhost:9092"])
def test_only_a_kafka_broker_will_do(url: str) -> None:
    with pytest.raises(ConfigError, match="no Kafka broker"):
        Worker(
            url,
            options={},
            group="g",
            topics={FEEDBACK: 1},
            feedback=FEEDBACK,
            dlq=DLQ,
            handle=handle,
            series=Counted(),
        )


# --- counts for monitoring -------------------------------------------------------------------------------------


class Table:
    """A table of Faust in memory: one window, that of ``start``."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.counts: dict[str, int] = {}

    def tumbling(self, *_: Any, **__: Any) -> Table:
        return self

    @property
    def table(self) -> dict[tuple[str, tuple[float, float]], int]:
        return {(key, (self.start, self.start + 59.9)): count for key, count in self.counts.items()}

    def __getitem__(self, key: str) -> int:
        return self.counts.get(key, 0)

    def __setitem__(self, key: str, value: int) -> None:
        self.counts[key] = value


def counted(monkeypatch: pytest.MonkeyPatch, events: list[Feedback], start: float = 0.0) -> faust_counts.SourceCounts:
    monkeypatch.setattr(faust_counts, "WRITE_S", 0.0)
    counts = faust_counts.SourceCounts(SimpleNamespace(Table=lambda *_, **__: Table(start)))
    for event in events:
        counts.add(event)
    counts.write()
    return counts


def said(source: str, kind: Any = "accept") -> Feedback:
    return Feedback(prediction_id="p", kind=kind, source=source)


def test_the_last_whole_minute_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [said("a"), said("b", "correct"), said("b"), said("a"), said("a", "correct")]
    counts = counted(monkeypatch, events, start=60.0)
    assert (counts.corrections(130.0), counts.busiest(130.0), counts.sources(130.0)) == (2, [3, 2], 2)
    assert (counts.corrections(119.0), counts.busiest(119.0)) == (0, [])  # its minute is not over
    assert (counts.corrections(190.0), counts.sources(190.0)) == (0, 0)


def test_ten_thousand_sources_do_not_make_ten_thousand_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted(monkeypatch, [said(f"user-{n}") for n in range(10_000)])
    assert counts.sources(61.0) == faust_counts.SOURCES + 1
    assert counts.busiest(61.0)[0] == 10_000 - faust_counts.SOURCES
    assert len(counts.busiest(61.0)) == 5
