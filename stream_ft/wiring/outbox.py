"""Publishes the store's outbox, each message once.

A message leaves the outbox after the log has it. A process killed between the two would publish it again, and so would
one whose store took no writes just then: the first batch after a start or a failure is compared with the end of the
log.
"""

from __future__ import annotations

from stream_ft import failpoints
from stream_ft.ports import EventLog, Headers, Outgoing
from stream_ft.replay.store import Store

LIMIT = 500
ORIGIN = ("__connect.errors.topic", "__connect.errors.partition", "__connect.errors.offset")
Origin = tuple[bytes, ...]


class Publisher:
    """From the outbox to the log.

    Args:
        log: where the messages go.
        store: whose outbox.
        topic: the dead letters' topic.
    """

    def __init__(self, log: EventLog, store: Store, topic: str) -> None:
        self._log = log
        self._store = store
        self._topic = topic
        self._published: set[Origin] | None = None

    def waiting(self) -> int:
        """Messages in the outbox."""
        return self._store.count().outbox

    def publish(self) -> int:
        """Publish what waits; how many messages that was.

        Raises:
            StoreFullError: the log took nothing; the messages wait on.
        """
        total = 0
        while batch := self._store.outbox(LIMIT):
            if self._published is None:
                self._published = self._tail()
            published = self._published
            fresh = [message for _, message in batch if self._is_new(message)]
            # Until the batch is crossed off: if that fails, the next attempt asks the log what it has, as after a kill.
            self._published = None
            failpoints.hit("outbox.before_publish")
            if fresh:
                self._log.append(fresh)
            failpoints.hit("outbox.after_publish")
            self._store.outbox_done([row for row, _ in batch])
            self._published = published
            total += len(batch)
        if total:
            # Whatever a killed predecessor had published without crossing it off has been compared by now.
            self._published = set()
        return total

    def _is_new(self, message: Outgoing) -> bool:
        origin = origin_of(message.headers)
        return not origin or not self._published or origin not in self._published

    def _tail(self) -> set[Origin]:
        first, end = self._log.bounds(self._topic, 0)
        start = max(first, end - 2 * LIMIT)
        return {origin_of(record.headers) for record in self._log.read(self._topic, 0, start, 2 * LIMIT)} - {()}


def origin_of(headers: Headers) -> Origin:
    """Topic, partition and offset of the record that became a dead letter; empty if it does not say."""
    values = dict(headers)
    return tuple(values[name] for name in ORIGIN) if all(name in values for name in ORIGIN) else ()
