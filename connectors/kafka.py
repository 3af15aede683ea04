"""The event log on Apache Kafka, by kafka-python.

Three threads at most: one polls and only hands over (:mod:`.kafka_reader`), one watches what the cluster says of the
topics in use (are they the same, how far do they reach), and the producer's own. Positions are those of the caller;
offsets are committed to the broker for lag displays only, and never read back. No transactions: a repeated message is
known by its id.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError
from kafka.protocol.consumer import OffsetSpec

from stream_ft.errors import ConfigError, LogAwayError, LogTruncatedError
from stream_ft.ports import Flaw, Outgoing, Record

from .kafka_catalog import Catalog, Topic, deleted
from .kafka_link import Link, Options, read_options
from .kafka_reader import Reader
from .kafka_sender import Sender

__all__ = ["KafkaLog", "open_log"]

log = logging.getLogger("stream_ft.kafka")

WATCH_S = 1.0
"""The topics in use are looked at this often."""
CHECK_S = 0.2
"""Records are handed out only if their topic was seen, unchanged, after they came, or less than this before."""
COMMIT_S = 5.0


class KafkaLog:
    """An :class:`stream_ft.ports.EventLog` and :class:`stream_ft.ports.Brokered`. Safe to use from threads.

    Nothing is connected before it is needed. A call waits ``deadline_s`` for a cluster that does not answer, counted
    from when it was lost (or the log was opened): while it is away for longer, every call is refused at once.

    Args:
        address: ``host:port``, several separated by commas.
        options: section ``kafka`` of the settings.
        monotonic: time.
    """

    def __init__(self, address: str, options: Options, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._monotonic = monotonic
        self._link = Link(address, options, monotonic=monotonic)
        self._reader = Reader(self._link, on_news=self._news, monotonic=monotonic)
        self._lock = threading.RLock()
        self._catalog = Catalog(self._link, options, monotonic=monotonic)
        self._sender = Sender(self._link, options, on_appended=self._appended, monotonic=monotonic)
        self._changed = True
        self._committed: dict[TopicPartition, int] = {}
        self._commit_at = 0.0
        self._watch: threading.Thread | None = None
        self._closed = threading.Event()

    # --- the port ----------------------------------------------------------------------------------------------

    def append(self, messages: Sequence[Outgoing]) -> list[int]:
        """See the port. Every message is confirmed by all in-sync replicas.

        Messages of one call keep their order within a partition; they are not atomic.

        Raises:
            LogAwayError: some were not confirmed in time. Those that were are on the log; of the others nobody knows.
            MessageTooLargeError: nothing was appended.
        """
        self._check_open()
        self._sender.check(messages)
        for name in dict.fromkeys(message.topic for message in messages):
            self._existing(name)
        return self._sender.send(messages) if messages else []

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """See the port. What this process appended is there at once; what others append comes within a poll."""
        self._check_open()
        seen = self._seen(topic)
        key = TopicPartition(topic, partition)
        if not self._reader.follows(key, offset):
            first, end = self._ask_bounds(topic, partition)
            if not first <= offset <= end:
                raise LogTruncatedError(
                    f"Offset {offset} of {topic}[{partition}] is not in Kafka, which holds {first} to {end}.",
                    "The log was cut or replaced, or retention has passed; find out which before its readers go on.",
                )
            if not seen.id or partition not in seen.partitions:
                return []
            self._reader.follow(key, offset, topic_id=seen.id, first=first, end=end)
        if limit <= 0:
            return []
        if (waiting := self._reader.await_records(key, offset, self._options.deadline_s)) is None:
            return []
        self._check_same(topic, *waiting)
        return self._reader.take(key, offset, limit)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See the port. Of a partition that is read here, what others appended in the last second may be missing."""
        self._check_open()
        self._seen(topic)
        return self._reader.bounds(TopicPartition(topic, partition)) or self._ask_bounds(topic, partition)

    def partitions(self, topic: str) -> list[int]:
        """See the port."""
        self._check_open()
        return list(self._seen(topic).partitions)

    def log_id(self, topic: str) -> str:
        """See the port: of cluster and topic. Creates the topic if it was never seen."""
        self._check_open()
        seen = self._existing(topic)
        return f"{self._catalog.cluster}/{seen.id}"

    def changed(self) -> bool:
        """See the port. Tells of the topics that were read here, and of own appends."""
        self._check_open()
        with self._lock:
            changed, self._changed = self._changed, False
        return changed

    def trim(self, topic: str, partition: int, before: int) -> None:
        """See the port."""
        self._check_open()
        first, end = self._ask_bounds(topic, partition)
        if (cut := min(before, end)) > first:
            self._link.call(lambda admin: admin.delete_records({TopicPartition(topic, partition): cut}))
            self._reader.forget(topic, partition)

    def close(self) -> None:
        """See the port."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._reader.close()
        if self._watch is not None:
            self._watch.join(2.0)
        self._sender.close()
        self._link.close()

    # --- what a broker can do besides --------------------------------------------------------------------------

    def connect(self) -> None:
        """See the port."""
        self._check_open()
        self._start_watch()

    def expect(self, known: Mapping[str, str]) -> None:
        """See the port."""
        for name, identity in known.items():
            self._catalog.expect(name, identity.rpartition("/")[2])

    def prepare(self, topics: Sequence[str]) -> list[Flaw]:
        """See the port."""
        self._check_open()
        self._start_watch()
        for name in topics:
            with contextlib.suppress(LogTruncatedError):  # one that is expected and gone; who reads it is told
                self._existing(name)
        return self._catalog.examine(topics)

    def examine(self, topics: Sequence[str]) -> list[Flaw]:
        """See the port."""
        self._check_open()
        return self._catalog.examine(topics)

    # --- topics ------------------------------------------------------------------------------------------------

    def _seen(self, name: str) -> Topic:
        self._start_watch()
        return self._catalog.seen(name)

    def _existing(self, name: str) -> Topic:
        self._start_watch()
        return self._catalog.existing(name)

    def _ask_bounds(self, topic: str, partition: int) -> tuple[int, int]:
        seen = self._seen(topic)
        if not seen.id or partition not in seen.partitions:
            return 0, 0
        key = TopicPartition(topic, partition)
        try:
            first = self._link.call(lambda admin: _offset(admin, key, OffsetSpec.EARLIEST))
            return first, self._link.call(lambda admin: _offset(admin, key, OffsetSpec.LATEST))
        except UnknownTopicOrPartitionError as error:
            raise deleted(topic) from error

    def _check_same(self, name: str, topic_id: str, fetched_at: float) -> None:
        """Records come by the topic's name: make sure that it is still the same topic.

        Raises:
            LogTruncatedError: it was deleted, or another one has its name.
        """
        seen = self._seen(name)
        if seen.seen_at < fetched_at and self._monotonic() - seen.seen_at > CHECK_S:
            self._catalog.look([name])
            seen = self._seen(name)
        if seen.id != topic_id:
            self._reader.forget(name)
            raise LogTruncatedError(
                f"The topic {name} was replaced by another of that name.",
                "Restore it, or run stream-ft reset to begin anew.",
            )

    # --- the watch ---------------------------------------------------------------------------------------------

    def _start_watch(self) -> None:
        with self._lock:
            if self._watch is None and not self._closed.is_set():
                self._watch = threading.Thread(target=self._watching, name="kafka-watch", daemon=True)
                self._watch.start()

    def _watching(self) -> None:
        while not self._closed.is_set():
            try:
                self._reader.mend()
                self._look_around()
            except (LogAwayError, UnknownTopicOrPartitionError) as error:
                log.debug("the watch on Kafka: %s", error)
            except Exception as error:  # the boundary of this thread: it goes on watching
                log.error("the watch on Kafka failed", exc_info=error)
            self._closed.wait(WATCH_S)

    def _look_around(self) -> None:
        if self._catalog.look_again():
            self._news()  # whoever polls finds out
        positions = self._reader.positions()
        there = [key for key in positions if self._catalog.there(key.topic)]
        if there:
            firsts, ends = (self._offsets(there, spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST))
            self._reader.told_bounds(firsts, ends)
        self._show_lag(positions)

    def _offsets(self, keys: Sequence[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, int]:
        asked = dict.fromkeys(keys, spec)
        told = self._link.call(lambda admin: admin.list_partition_offsets(asked), probe=True)
        return {key: row.offset for key, row in told.items()}

    def _show_lag(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions under the group, for whoever displays lag. Nobody reads them back."""
        moved = {key: at for key, at in positions.items() if self._committed.get(key) != at}
        if not self._options.group or not moved or self._monotonic() < self._commit_at:
            return
        self._commit_at = self._monotonic() + COMMIT_S
        offsets = {key: OffsetAndMetadata(at, "", -1) for key, at in moved.items()}
        try:
            self._link.call(lambda admin: admin.alter_group_offsets(self._options.group, offsets), probe=True)
        except (LogAwayError, KafkaError) as error:
            log.debug("positions could not be shown to lag displays: %s", error)
            return
        self._committed |= moved

    def _appended(self, topic: str, partition: int, end: int) -> None:
        self._reader.appended(TopicPartition(topic, partition), end)

    def _news(self) -> None:
        with self._lock:
            self._changed = True

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise ValueError("the log is closed")


def open_log(url: str, *, folder: Path, writes: Sequence[str], options: Mapping[str, object]) -> KafkaLog:
    """The log behind a ``kafka://host:port[,host:port]`` URL.

    Args:
        url: addresses of some brokers of the cluster.
        folder, writes: of no use here: what a process may write is a matter of its principal.
        options: section ``kafka`` of the settings.

    Raises:
        ConfigError: the URL or an option is wrong.
    """
    scheme, separator, address = url.partition("://")
    parts = [part.strip() for part in address.rstrip("/").split(",")]
    if scheme != "kafka" or not separator or not all(_is_address(part) for part in parts):
        raise ConfigError(f"{url!r} is not the URL of a Kafka cluster.", "Use kafka://host:port, or several: a:1,b:2.")
    return KafkaLog(",".join(parts), read_options(options))


def _is_address(part: str) -> bool:
    host, separator, port = part.rpartition(":")
    return bool(host and separator and port.isdecimal() and 0 < int(port) < 65_536 and "/" not in host)


def _offset(admin: KafkaAdminClient, key: TopicPartition, spec: OffsetSpec) -> int:
    return int(admin.list_partition_offsets({key: spec})[key].offset)
