"""Appends to Kafka: every message is waited for, and nothing that was told to have failed is sent later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from kafka import KafkaProducer
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from stream_ft.errors import MessageTooLargeError
from stream_ft.ports import Outgoing

from .kafka_link import Link, Options
from .kafka_topics import limit_of


class Sender:
    """An idempotent producer that is thrown away after a failure. Safe to use from threads.

    Args:
        link: gives the producer.
        options: limits.
        on_appended: called with topic, partition and new end for every message that was confirmed.
        monotonic: time.
    """

    def __init__(
        self,
        link: Link,
        options: Options,
        *,
        on_appended: Callable[[str, int, int], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._link = link
        self._options = options
        self._on_appended = on_appended
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def check(self, messages: Sequence[Outgoing]) -> None:
        """Refuse a message that is too large before anything is sent.

        Raises:
            MessageTooLargeError: the first of them.
        """
        for index, message in enumerate(messages):
            self._check_size(index, message)

    def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Send them and wait for all; their offsets.

        Raises:
            LogAwayError: one was not confirmed in time, or may not be sent.
            MessageTooLargeError: the topic takes less than it should.
        """
        if self._link.given_up:
            raise self._link.away()
        with self._lock:
            producer = self._producer = self._producer or self._link.producer()
        deadline = self._monotonic() + self._options.deadline_s + 1.0
        failure: Exception | None = None
        futures = []
        try:
            for message in messages:
                futures.append(
                    producer.send(message.topic, value=message.value, key=message.key, headers=list(message.headers))
                )
        except (KafkaError, ValueError) as error:
            failure = error
        offsets = []
        for future in futures:  # every one, whatever became of the others
            try:
                done = future.get(timeout=max(0.0, deadline - self._monotonic()))
            except KafkaError as error:
                failure = failure or error
            else:
                offsets.append(done.offset)
                self._on_appended(done.topic, done.partition, done.offset + 1)
        if failure is not None:
            self._drop(producer)
            raise self._told(failure, messages) from failure
        return offsets

    def close(self, timeout_s: float = 2.0) -> None:
        """End the producer. Idempotent."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            _end(producer, timeout_s)

    def _check_size(self, index: int, message: Outgoing) -> None:
        size = len(message.value) + len(message.key or b"")
        size += sum(len(name.encode()) + len(value) for name, value in message.headers)
        if size > (limit := limit_of(message.topic, self._options.max_message_bytes)):
            raise MessageTooLargeError(
                f"A message of {size} bytes is too large for {message.topic}, which takes {limit}.",
                "Send less, or raise kafka.max_message_bytes and max.message.bytes of the topic.",
                index=index,
            )

    def _told(self, failure: Exception, messages: Sequence[Outgoing]) -> Exception:
        if isinstance(failure, AuthorizationError):
            return self._link.refused(failure)
        if isinstance(failure, MessageSizeTooLargeError | RecordListTooLargeError):
            index = max(range(len(messages)), key=lambda i: len(messages[i].value))
            return MessageTooLargeError(
                f"Kafka refuses a message of {len(messages[index].value)} bytes for {messages[index].topic}.",
                "Raise max.message.bytes of the topic; stream-ft doctor says to how much.",
                index=index,
            )
        return self._link.away("it did not confirm in time" if isinstance(failure, KafkaTimeoutError) else failure)

    def _drop(self, producer: KafkaProducer) -> None:
        """Nothing that was told to have failed may be sent later: the next append has another producer."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
        _end(producer, 0.0)


def _end(producer: KafkaProducer, timeout_s: float) -> None:
    try:
        producer.close(timeout=timeout_s)
    except (KafkaError, RuntimeError):
        # It could not send what it has, and would go on trying for as long as it lives.
        producer._sender.force_close()
