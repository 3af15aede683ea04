"""The stateless scale-out tier on Faust: each record becomes one message, and is acknowledged when the broker has that.

What Faust does by default and must not do here: an agent that raises has its event acknowledged and lost; it may commit
past an event that is not finished; its web server shows tables to whoever asks; and a worker may hang when it is told
to stop. So nothing is raised inside an agent, concurrency is one, events are acknowledged by hand in their order, the
web server is off, and whoever runs a :class:`Worker` sets the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any, Protocol

import faust
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from faust.contrib.asgi import bind_to_running_loop
from faust.exceptions import FaustError
from msgspec import Struct

from stream_ft import failpoints
from stream_ft.dead_letters import dead_letter
from stream_ft.errors import ConfigError, StreamFTError
from stream_ft.events import Event, Feedback, Reject
from stream_ft.ports import Outgoing, Record

from .faust_counts import SourceCounts
from .faust_order import Order

log = logging.getLogger("stream_ft.ingest")

IN_FLIGHT = 1_000
"""Most messages of one topic that the broker has not confirmed."""
RETRY_S = 0.5
SESSION_S = 20.0
"""A worker that has not been heard of for so long has its partitions given to another."""
MISSING_S = 5.0
"""A record that the broker has and that has not come for so long is asked for again."""
LOOK_S = 1.0
"""Between two looks at progress and counts."""
FINISH_S = 5.0
"""A worker that is told to stop waits so long for what it has sent, to commit that."""

Handle = Callable[[Record], tuple[Outgoing, Event | Reject]]
"""What a record becomes, and the event or the reason. Pure; given by :mod:`stream_ft.wiring`."""


class WorkerError(StreamFTError):
    """Faust gave up: the worker must be made anew."""


class Progress(Struct, frozen=True, kw_only=True):
    """How far a worker is."""

    assigned: int
    """Partitions that are its own."""
    lag: int
    """Records in them that are not acknowledged."""
    still_s: float
    """Seconds since something was acknowledged while something was there; 0 if nothing is."""


class Series(Protocol):
    """What the worker counts; :class:`stream_ft.metrics.ingest.IngestMetrics` is one."""

    def taken(self, event: Event | Reject) -> None:
        """One record was handled and confirmed."""
        ...

    def rates(self, *, corrections: int, busiest: Sequence[int], sources: int) -> None:
        """Of the last whole minute."""
        ...


class Worker:
    """One Faust worker. :meth:`run` works until it is told to stop.

    Args:
        url: ``kafka://host:port,...``.
        options: section ``kafka`` of the settings.
        group: consumer group, one for all workers of a model.
        topics: topics that are read, each with its number of partitions.
        feedback: the one of them of which the tables for monitoring are.
        dlq: topic of the dead letters.
        handle: what a record becomes.
        series: what counts.

    Raises:
        ConfigError: the options cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, object],
        group: str,
        topics: Mapping[str, int],
        feedback: str,
        dlq: str,
        handle: Handle,
        series: Series,
    ) -> None:
        self._handle = handle
        self._series = series
        self._dlq = dlq
        self._topics = frozenset(topics)
        self._stop = asyncio.Event()
        self._moved = time.monotonic()
        self._limit = 2 * int(str(options.get("max_message_bytes", 1_048_576)))
        self.app = faust.App(
            group,
            broker=_addresses(url),
            broker_credentials=credentials(options),
            store="memory://",
            cache="memory://",
            web_enabled=False,
            autodiscover=False,
            processing_guarantee="at_least_once",
            topic_disable_leader=True,
            topic_partitions=topics[feedback],
            topic_replication_factor=int(str(options.get("replication") or 1)),
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=self._limit,
            producer_acks=-1,
            producer_linger=0.005,
            producer_max_request_size=self._limit,
            broker_commit_interval=1.0,
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=SESSION_S / 6,
            stream_buffer_maxsize=2 * IN_FLIGHT,
            reply_create_topic=False,
        )
        self._counts = SourceCounts(self.app)
        self._order = Order()
        self._seen: dict[tuple[str, int], float] = {}
        self._unsettled = 0
        self._ending = False
        self.app.on_partitions_revoked.connect(self._revoked)
        for name in topics:
            self._agent(name, counts=self._counts if name == feedback else None)

    async def run(self) -> None:
        """Work until :meth:`stop`.

        Raises:
            WorkerError: Faust gave up, or a message cannot be written anywhere.
        """
        bind_to_running_loop(self.app)
        self.app.finalize()
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failed = failed
        try:
            await self._until(self.app.maybe_start())
            while not self._stop.is_set():
                if self.app.crashed or failed.done():
                    break
                self._look()
                await self._fetch_what_does_not_come()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), LOOK_S)
        except (KafkaError, FaustError) as error:
            raise WorkerError(f"Faust gave up: {type(error).__name__}: {error}.") from error
        finally:
            await self._finish()
            with contextlib.suppress(asyncio.CancelledError):
                await self.app.stop()
        if failed.done():
            failed.result()
        if self.app.crashed and not self._stop.is_set():
            raise WorkerError(f"Faust gave up: {self.app.crash_reason!r}.")

    def stop(self) -> None:
        """Let :meth:`run` end: what was sent is confirmed and committed first, within :data:`FINISH_S`.

        What is not by then is read again by whoever comes next.
        """
        self._stop.set()

    def progress(self) -> Progress:
        """How far it is."""
        consumer: Any = self.app.consumer if self.app.started else None
        assigned = [tp for tp in consumer.assignment() if tp.topic in self._topics] if consumer is not None else []
        lag = 0
        for tp in assigned:
            end = consumer.highwater(tp)
            done = consumer._committed_offset[tp]
            lag += max(0, (end or 0) - (done or 0))
        if not lag:
            self._moved = time.monotonic()
        return Progress(assigned=len(assigned), lag=lag, still_s=time.monotonic() - self._moved)

    # --- inside ------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Take nothing more, and commit what was sent.

        Faust's own stop ends the agents while messages are on their way, and does not commit what was acknowledged
        since a commit began that is still running: both would be read, and forwarded, again.
        """
        self._ending = True
        consumer: Any = self.app.consumer if self.app.started else None
        if consumer is None or self.app.crashed:
            return
        try:
            async with asyncio.timeout(FINISH_S):
                while self._unsettled and not self._failed.done():
                    await asyncio.sleep(0.01)
                while await consumer.maybe_wait_for_commit_to_finish():
                    pass
                await consumer.commit()
        except TimeoutError:
            log.warning("%s messages were not confirmed when the worker had to stop; they come again", self._unsettled)
        except (KafkaError, FaustError) as error:
            log.warning("the last commit failed (%r); what it was of comes again", error)

    async def _until(self, start: Any) -> None:
        """Wait for Faust to have started, or for the word to stop."""
        starting = asyncio.ensure_future(start)
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            starting.result()
        else:
            starting.cancel()

    def _agent(self, name: str, *, counts: SourceCounts | None) -> None:
        source = self.app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

        async def ingest(stream: Any) -> None:
            pending: asyncio.Queue[Pending] = asyncio.Queue(IN_FLIGHT)
            settling = asyncio.create_task(self._settle(pending))
            try:
                async for event in _events(stream):
                    if self._ending or not await self._in_order(event.message):
                        continue
                    record = record_of(event.message)
                    made, outcome = self._made(record)
                    failpoints.hit("forward.before_send")
                    self._unsettled += 1
                    sent = await self._send(made)
                    await pending.put(Pending(event, record, made, outcome, sent))
                    if counts is not None and isinstance(outcome, Feedback):
                        counts.add(outcome)
                        counts.write()
            finally:
                settling.cancel()
                self._unsettled = 0

        self.app.agent(source, name=f"{self.app.conf.id}.{name}", concurrency=1)(ingest)

    async def _in_order(self, message: Any) -> bool:
        """Whether to handle a message now; one that is left comes again, after what Faust had left out."""
        place = (message.topic, message.partition)
        consumer: Any = self.app.consumer
        await self._begin(message.tp)
        self._seen[place] = time.monotonic()
        verdict = self._order.check(place, message.offset)
        if verdict == "seek":
            wanted = self._order.next(place)
            log.warning("%s[%s]: after %s came %s; going back", *place, wanted - 1, message.offset)
            await consumer.seek(message.tp, wanted)
        return verdict == "take"

    async def _begin(self, tp: Any) -> None:
        """Find out where a partition begins, once it is ours."""
        place = (tp.topic, tp.partition)
        if self._order.knows(place):
            return
        consumer: Any = self.app.consumer
        # Asked of the broker: for a while after a rebalance Faust itself does not know yet what is committed.
        thread = consumer._thread
        committed = await thread.call_thread(
            thread._ensure_consumer().committed, TopicPartition(tp.topic, tp.partition)
        )
        first = committed or (await consumer.earliest_offsets(tp))[tp] or 0
        if not self._order.knows(place):
            self._order.begin(place, first)
            self._seen[place] = time.monotonic()

    async def _fetch_what_does_not_come(self) -> None:
        """Ask again for the last records of a partition: one that Faust left out shows only by what follows it."""
        consumer: Any = self.app.consumer
        if self._unsettled or self.app.rebalancing or consumer is None or not consumer.flow_active:
            return
        for tp in [tp for tp in consumer.assignment() if tp.topic in self._topics]:
            await self._begin(tp)
            place, now = (tp.topic, tp.partition), time.monotonic()
            wanted = self._order.next(place)
            if (consumer.highwater(tp) or 0) > wanted and now - self._seen[place] > MISSING_S:
                self._seen[place] = now
                log.warning("%s[%s]: %s and what follows does not come; going back", *place, wanted)
                await consumer.seek(tp, wanted)

    async def _revoked(self, _: Any, revoked: Any, **__: Any) -> None:
        for tp in revoked:
            self._order.forget((tp.topic, tp.partition))

    def _made(self, record: Record) -> tuple[Outgoing, Event | Reject]:
        try:
            return self._handle(record)
        except Exception as error:  # the boundary: what is raised here, Faust would acknowledge and lose
            log.exception("a record of %s[%s] at %s", record.topic, record.partition, record.offset)
            detail = f"Ingest failed on it: {type(error).__name__}."
            reject = Reject(stage="validate", reason="invalid_event", detail=detail)
            return dead_letter(record, reject, self._dlq), reject

    async def _send(self, made: Outgoing) -> Any:
        """A future of the broker's confirmation, or the error that prevented the sending."""
        try:
            return await self.app.producer.send(made.topic, made.key, made.value, None, None, list(made.headers))
        except (KafkaError, FaustError) as error:
            return error

    async def _settle(self, pending: asyncio.Queue[Pending]) -> None:
        """Acknowledge in order what the broker has; send again what it has not."""
        while True:
            each = await pending.get()
            while (error := await _result(each.sent)) is not None:
                if isinstance(error, MessageSizeTooLargeError) or isinstance(error.__cause__, MessageSizeTooLargeError):
                    if not self._shrink(each):
                        return
                else:
                    log.warning("%s is not confirmed (%r); it is sent again", each.made.topic, error)
                    await asyncio.sleep(RETRY_S)
                each.sent = await self._send(each.made)
            failpoints.hit("forward.before_ack")
            each.event.ack()
            failpoints.hit("forward.after_ack")
            self._moved = time.monotonic()
            self._unsettled -= 1
            self._series.taken(each.outcome)

    def _shrink(self, each: Pending) -> bool:
        """What is too large for its topic becomes a dead letter, whose topic takes twice as much."""
        record = each.record
        if each.made.topic == self._dlq:
            self._failed.set_exception(
                WorkerError(
                    f"The dead letter of {record.topic}[{record.partition}] at {record.offset} is too large for its"
                    " topic.",
                    "Raise max.message.bytes of the dead letters' topic to twice that of the others.",
                )
            )
            return False
        detail = f"With what ingest adds it has {len(each.made.value)} bytes, which the topic does not take."
        each.outcome = Reject(stage="store", reason="too_long", detail=detail)
        each.made = dead_letter(record, each.outcome, self._dlq)
        return True

    def _look(self) -> None:
        self.progress()  # whoever has nothing to do stands not still
        now, counts = time.time(), self._counts
        self._series.rates(
            corrections=counts.corrections(now), busiest=counts.busiest(now), sources=counts.sources(now)
        )


class Pending:
    """A message on its way."""

    __slots__ = ("event", "made", "outcome", "record", "sent")

    def __init__(self, event: Any, record: Record, made: Outgoing, outcome: Event | Reject, sent: Any) -> None:
        self.event, self.record, self.made, self.outcome, self.sent = event, record, made, outcome, sent


def record_of(message: Any) -> Record:
    """A message of Faust as a record; ``appended_at`` is the broker's time, in seconds."""
    headers = message.headers
    if isinstance(headers, Mapping):
        headers = headers.items()
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        value=message.value or b"",
        key=message.key,
        headers=tuple((name, value or b"") for name, value in headers or ()),
        appended_at=message.timestamp or 0.0,
    )


def credentials(options: Mapping[str, object]) -> Any:
    """How Faust shows who it is; ``None`` where the broker does not ask.

    Raises:
        ConfigError: a file of a certificate cannot be read.
    """
    security = str(options.get("security", "plaintext"))
    context = None
    if security.endswith("ssl"):
        try:
            context = ssl.create_default_context(cafile=str(options.get("ca_file") or "") or None)
            if options.get("cert_file"):
                context.load_cert_chain(str(options["cert_file"]), str(options.get("key_file") or "") or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"The certificates of kafka cannot be read: {error}.", "Check kafka.ca_file.") from error
    if security.startswith("sasl"):
        return faust.SASLCredentials(
            username=str(options.get("username", "")),
            password=str(options.get("password", "")),
            mechanism=str(options.get("sasl_mechanism", "PLAIN")),
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def _addresses(url: str) -> list[str]:
    scheme, separator, rest = url.partition("://")
    if scheme != "kafka" or not separator or not rest.strip("/"):
        raise ConfigError(f"{url!r} is no Kafka broker.", "Write kafka://host:port; ingest workers need one.")
    return [f"kafka://{address.strip()}" for address in rest.strip("/").split(",") if address.strip()]


async def _events(stream: Any) -> AsyncIterable[Any]:
    async for event in stream.noack().events():
        yield event


async def _result(sent: asyncio.Future[Any] | Exception) -> Exception | None:
    if isinstance(sent, Exception):
        return sent
    try:
        await sent
    except (KafkaError, FaustError) as error:
        failure: Exception = error
        return failure
    return None
