"""Publishes the store's outbox, each message once.

A message leaves the outbox after the log has it. A process killed between the two would publish it again, and so would
one whose store took no writes just then: the first batch after a start or a failure is compared with the end of the
log.
"""

from __future__ import annotations

import logging

from stream_ft import failpoints
from stream_ft.errors import MessageTooLargeError, StoreFullError
from stream_ft.ports import EventLog, Headers, Outgoing
from stream_ft.replay.store import Store

log = logging.getLogger("stream_ft.learn.outbox")

LIMIT = 500
BEGINNING = 4_096
"""Bytes that are kept of a dead letter too large for its topic."""
CUT_FROM = "stream_ft.cut_from_bytes"
"""Header of such a letter: how many bytes it had."""
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
                self._append(fresh)
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

    def _append(self, messages: list[Outgoing]) -> None:
        """Append them all; one that the log does not take goes there with its beginning alone."""
        while True:
            try:
                self._log.append(messages)
            except MessageTooLargeError as error:
                message = messages[error.index]
                if len(message.value) <= BEGINNING:
                    raise StoreFullError(error.message, error.remedy) from error
                log.error("%s Its first %d bytes are published. %s", error.message, BEGINNING, error.remedy)
                cut = (CUT_FROM, str(len(message.value)).encode())
                messages[error.index] = Outgoing(
                    topic=message.topic,
                    key=message.key,
                    value=message.value[:BEGINNING],
                    headers=(*message.headers, cut),
                )
            else:
                return

    def _tail(self) -> set[Origin]:
        first, end = self._log.bounds(self._topic, 0)
        offset = max(first, end - 2 * LIMIT)
        found: set[Origin] = set()
        while records := self._log.read(self._topic, 0, offset, 2 * LIMIT):
            found |= {origin_of(record.headers) for record in records}
            offset = records[-1].offset + 1
        return found - {()}


def origin_of(headers: Headers) -> Origin:
    """Topic, partition and offset of the record that became a dead letter; empty if it does not say."""
    values = dict(headers)
    return tuple(values[name] for name in ORIGIN) if all(name in values for name in ORIGIN) else ()
