"""One thread that polls Kafka and only hands over.

It owns the consumer, decodes nothing and computes nothing: records wait per partition until somebody takes them. A
partition with enough waiting is paused, and resumed when they have been taken. Every partition is assigned by hand, at
the position its reader asked for: no rebalance ever parts it from the store that holds its offset.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
)

from stream_ft.errors import LogAwayError, LogTruncatedError, StreamFTError
from stream_ft.ports import Record

from .kafka_link import Link

log = logging.getLogger("stream_ft.kafka")

POLL_MS = 50
"""Longest poll: what a reader that asks for another place may wait."""
CHUNK = 1_000
"""Records that one poll hands over at most."""
ENOUGH = 4_000
"""Records of a partition that may wait; beyond it the partition is paused."""
ENOUGH_BYTES = 16_000_000
RETRY_S = 0.5
HUNG_S = 30.0
"""A poll that takes this long has hung, and its consumer is thrown away."""


class Feed:
    """What is known of one partition. Every use is under the reader's lock.

    Args:
        topic_id: of the topic when the feed began.
        offset: where it begins.
        end: of the partition, as the cluster said then.
    """

    def __init__(self, topic_id: str, offset: int, end: int, now: float) -> None:
        self.topic_id = topic_id
        self.waiting: deque[Record] = deque()
        self.bytes = 0
        self.next = offset
        """Offset that the reader takes next."""
        self.position = offset
        """Offset that the consumer brings next."""
        self.seek: int | None = offset
        self.must = end
        """Records before it are known to be there: a reader waits for them."""
        self.end = end
        """End of the partition as far as anybody has told."""
        self.first = 0
        """Of the partition, as the cluster said last."""
        self.fetched_at = now
        self.paused = False
        self.error: StreamFTError | None = None

    def restart(self, offset: int) -> None:
        """Begin anew at an offset."""
        self.waiting.clear()
        self.bytes = 0
        self.next = self.position = self.seek = offset

    def skip(self, offset: int) -> bool:
        """Let the reader stand at ``offset``; false if that is not among what waits."""
        if not self.next <= offset <= self.position:
            return False
        while self.waiting and self.waiting[0].offset < offset:
            self.bytes -= len(self.waiting.popleft().value)
        self.next = offset
        return True


class Reader:
    """Feeds of partitions. Safe to use from threads; the network is touched by its own thread alone.

    Args:
        link: gives the consumer.
        on_news: called when a partition has grown.
        monotonic: time.
    """

    def __init__(
        self, link: Link, *, on_news: Callable[[], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._on_news = on_news
        self._monotonic = monotonic
        self._lock = threading.Condition()
        self._feeds: dict[TopicPartition, Feed] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._consumer: KafkaConsumer | None = None
        self._polled_at = monotonic()

    # --- what readers ask --------------------------------------------------------------------------------------

    def follows(self, key: TopicPartition, offset: int) -> bool:
        """Whether a feed can go on at ``offset``: nobody need be asked whether that is there."""
        with self._lock:
            feed = self._feeds.get(key)
            return feed is not None and feed.error is None and feed.skip(offset)

    def follow(self, key: TopicPartition, offset: int, *, topic_id: str, first: int, end: int) -> None:
        """Begin to read a partition at ``offset``, which the cluster has, up to ``end`` at least."""
        with self._lock:
            feed = self._feeds.get(key)
            if feed is not None and feed.topic_id == topic_id:
                feed.restart(offset)
                feed.error, feed.must, feed.end = None, end, max(end, offset)
            else:
                feed = self._feeds[key] = Feed(topic_id, offset, end, self._monotonic())
            feed.first = first
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="kafka-poll", daemon=True)
                self._thread.start()

    def await_records(self, key: TopicPartition, offset: int, wait_s: float) -> tuple[str, float] | None:
        """Wait for the records from ``offset`` on that are known to be there.

        Returns:
            Id of the topic behind the feed, and when the last of them came; ``None`` if there are none.

        Raises:
            LogTruncatedError: the partition was cut, or retention has passed the offset.
            LogAwayError: it may not be read, or what is there does not come.
        """
        deadline = self._monotonic() + wait_s
        with self._lock:
            while True:
                feed = self._feeds.get(key)
                if feed is None or self._closed.is_set():
                    return None
                if feed.error is not None:
                    raise feed.error
                if not feed.skip(offset):
                    return None
                if feed.waiting:
                    return feed.topic_id, feed.fetched_at
                if offset >= feed.must:
                    return None
                left = deadline - self._monotonic()
                if left <= 0 or self._link.given_up:
                    feed.must = offset  # what comes, comes; nobody waits for it again
                    raise self._link.away(f"{key.topic}[{key.partition}] does not deliver offset {offset}")
                self._lock.wait(min(left, 0.5))

    def take(self, key: TopicPartition, offset: int, limit: int) -> list[Record]:
        """Up to ``limit`` of the records that wait, from ``offset`` on."""
        with self._lock:
            feed = self._feeds.get(key)
            if feed is None or not feed.skip(offset) or not feed.waiting:
                return []
            records = [feed.waiting.popleft() for _ in range(min(limit, len(feed.waiting)))]
            feed.bytes -= sum(len(record.value) for record in records)
            feed.next = records[-1].offset + 1
            return records

    def forget(self, topic: str, partition: int | None = None) -> None:
        """Read a topic, or one partition of it, no more."""
        with self._lock:
            for key in [k for k in self._feeds if k.topic == topic and partition in (None, k.partition)]:
                del self._feeds[key]
            self._lock.notify_all()

    def appended(self, key: TopicPartition, end: int) -> None:
        """This process has made a partition reach to ``end``: its readers see that at once."""
        with self._lock:
            feed = self._feeds.get(key)
            news = feed is None or end > feed.end
            if feed is not None:
                feed.must, feed.end = max(feed.must, end), max(feed.end, end)
        if news:
            self._on_news()

    def bounds(self, key: TopicPartition) -> tuple[int, int] | None:
        """First offset and end of a partition that is read, as far as anybody has told; ``None`` for another."""
        with self._lock:
            feed = self._feeds.get(key)
            return None if feed is None or feed.error is not None else (feed.first, feed.end)

    def told_bounds(self, firsts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """What the cluster says of the partitions that are read."""
        with self._lock:
            for key, feed in self._feeds.items():
                feed.first = max(feed.first, firsts.get(key, 0))
                feed.end = max(feed.end, ends.get(key, 0))

    def positions(self) -> dict[TopicPartition, int]:
        """Where the readers stand: everything before was asked for, and so is in their stores."""
        with self._lock:
            return {key: feed.next for key, feed in self._feeds.items()}

    def mend(self) -> None:
        """Throw away a consumer whose poll does not come back. For the watch to call."""
        consumer = self._consumer
        if consumer is not None and self._monotonic() - self._polled_at >= HUNG_S:
            log.warning("a poll of Kafka's client did not come back; it connects anew")
            self._polled_at = self._monotonic()
            self._end(consumer)

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread. Idempotent."""
        self._closed.set()
        with self._lock:
            self._lock.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        consumer: KafkaConsumer | None = None
        assigned: set[TopicPartition] = set()
        while not self._closed.is_set():
            try:
                if consumer is None:
                    consumer, assigned = self._link.consumer(), set()
                    self._consumer = consumer
                    with self._lock:
                        for feed in self._feeds.values():
                            feed.seek = feed.position
                            feed.paused = False
                assigned = self._arrange(consumer, assigned)
                if not assigned:
                    self._closed.wait(POLL_MS / 1_000)
                    continue
                self._polled_at = self._monotonic()
                polled = consumer.poll(timeout_ms=POLL_MS, max_records=CHUNK)
                if polled:
                    self._hand_over(polled)
            except LogAwayError:
                self._closed.wait(RETRY_S)
            except OffsetOutOfRangeError as error:
                self._fail(_partitions(error), _truncated)
            except LogTruncationError as error:
                self._fail(list(error.divergent_offsets), _truncated)
            except AuthorizationError as error:
                self._refused(error, assigned)
                self._closed.wait(RETRY_S)
            except Exception as error:  # the boundary of this thread: another consumer goes on where this one stood
                log.error("reading from Kafka failed; it begins anew", exc_info=error)
                self._end(consumer)
                consumer = self._consumer = None
                self._closed.wait(RETRY_S)
        self._end(consumer)

    def _arrange(self, consumer: KafkaConsumer, assigned: set[TopicPartition]) -> set[TopicPartition]:
        """Assign, seek, pause and resume as the feeds want it."""
        with self._lock:
            # A feed that failed is not fetched: its error would come again with every poll, and stop the others.
            wanted = {key: feed for key, feed in self._feeds.items() if feed.error is None}
            if set(wanted) != assigned:
                consumer.assign(list(wanted))
                for key in wanted.keys() - assigned:
                    wanted[key].seek, wanted[key].paused = wanted[key].position, False
            for key, feed in wanted.items():
                if feed.seek is not None:
                    consumer.seek(key, feed.seek)
                    feed.position, feed.seek = feed.seek, None
                full = len(feed.waiting) >= ENOUGH or feed.bytes >= ENOUGH_BYTES
                if full and not feed.paused:
                    consumer.pause(key)
                elif feed.paused and len(feed.waiting) <= ENOUGH // 2 and feed.bytes <= ENOUGH_BYTES // 2:
                    consumer.resume(key)
                else:
                    continue
                feed.paused = not feed.paused
            return set(wanted)

    def _hand_over(self, polled: Mapping[TopicPartition, list[Any]]) -> None:
        news = False
        decoded = {key: [_record(raw) for raw in records] for key, records in polled.items()}
        now = self._monotonic()
        with self._lock:
            for key, records in decoded.items():
                feed = self._feeds.get(key)
                # Fetched before somebody asked for another place: it will be fetched again from there.
                if feed is None or feed.seek is not None or records[0].offset < feed.position:
                    continue
                feed.waiting.extend(records)
                feed.bytes += sum(len(record.value) for record in records)
                feed.position = records[-1].offset + 1
                feed.fetched_at = now
                news = news or feed.position > feed.end
                feed.end = max(feed.end, feed.position)
            self._lock.notify_all()
        if news:
            self._on_news()

    def _fail(self, keys: Iterable[TopicPartition], why: Callable[[TopicPartition, int], StreamFTError]) -> None:
        with self._lock:
            for key in keys:
                if (feed := self._feeds.get(key)) is not None and feed.error is None and feed.seek is None:
                    feed.error = why(key, feed.position)
            self._lock.notify_all()
        self._on_news()  # whoever polls finds out

    def _refused(self, error: AuthorizationError, assigned: set[TopicPartition]) -> None:
        topics = set(error.args[0]) if error.args and isinstance(error.args[0], set | frozenset) else set()
        told = self._link.refused(error)
        self._fail([key for key in assigned if not topics or key.topic in topics], lambda key, offset: told)

    def _end(self, consumer: KafkaConsumer | None) -> None:
        if consumer is not None:
            with contextlib.suppress(KafkaError, OSError, RuntimeError):
                consumer.close(autocommit=False, timeout_ms=1_000)


def _partitions(error: OffsetOutOfRangeError) -> list[TopicPartition]:
    found = error.args[0] if error.args else {}
    return list(found) if isinstance(found, dict) else []


def _truncated(key: TopicPartition, offset: int) -> StreamFTError:
    return LogTruncatedError(
        f"Offset {offset} of {key.topic}[{key.partition}] is not in Kafka any more.",
        "Retention has passed it, or the log was cut; find out which before its readers go on.",
    )


def _record(raw: Any) -> Record:
    """A record of ours from one of kafka-python. A tombstone has an empty value."""
    return Record(
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        value=b"" if raw.value is None else raw.value,
        key=raw.key,
        headers=tuple((name, b"" if value is None else value) for name, value in raw.headers),
        appended_at=raw.timestamp / 1_000,
    )
