"""`stream-ft ingest`: one of the workers that validate and redact before the learner, on Faust.

The numbered path of a record: it is read; made into one message (pure); sent; the broker confirms it; the record is
acknowledged. A worker keeps nothing: killed at any point, another reads again what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from stream_ft import logs, metrics
from stream_ft.clock import SystemClock
from stream_ft.config import Settings
from stream_ft.errors import ConfigError, LogAwayError
from stream_ft.events import Event, Reject
from stream_ft.ingest.forward import outcome
from stream_ft.ingest.receive import Redact
from stream_ft.metrics.ingest import IngestMetrics
from stream_ft.parent import follow_parent
from stream_ft.ports import Brokered, Clock, Outgoing, Record
from stream_ft.topics import topic
from stream_ft.wiring.broker import open_event_log
from stream_ft.wiring.probes import ProbeServer
from stream_ft.wiring.processes import StopSignal
from stream_ft.wiring.redacting import redaction

log = logging.getLogger("stream_ft.ingest")

READS = ("predictions", "feedback", "labels")
STOP_S = 8.0
"""So long after it was told to stop a worker ends, whatever Faust is doing: what is not acknowledged comes again."""
STILL_S = 60.0
"""A worker that has had records for so long and acknowledged none is not ready."""
AGAIN_S = 2.0
"""Before a worker that Faust gave up is made anew."""
MISSING = (
    "Faust is not installed.",
    "make setup installs it; by hand it takes two commands, see docs/publish.md.",
)


class Handler:
    """What a record becomes, with the time passed in.

    Args:
        model: name of the model.
        redact: replaces personal data.
        clock: stands in for the append time of a record that has none.
    """

    def __init__(self, model: str, *, redact: Redact | None, clock: Clock) -> None:
        self._outcome = partial(outcome, events=topic(model, "events"), dlq=topic(model, "dlq"), redact=redact)
        self._clock = clock

    def __call__(self, record: Record) -> tuple[Outgoing, Event | Reject]:
        """The one message, and the event or the reason."""
        return self._outcome(record, now=self._clock.now())


def run(settings: Settings) -> int:
    """Work until a signal comes. Returns the exit code.

    Raises:
        ConfigError: there is no broker, Faust is not installed, or a topic cannot be used as it is.
    """
    logs.setup(settings.log.level, settings.log.json_lines)
    if not settings.broker.startswith("kafka:"):
        raise ConfigError(
            f"Ingest workers need a Kafka broker, and broker is {settings.broker!r}.",
            "Set broker to kafka://host:port; without one, learn does what they do.",
        )
    try:
        from stream_ft.connectors.faust_worker import Worker, WorkerError
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("faust", "mode", "aiokafka", "aiohttp"):
            raise
        raise ConfigError(*MISSING) from error
    model = settings.model.name
    names = [topic(model, kind) for kind in READS]
    handler = Handler(model, redact=redaction(settings), clock=SystemClock())
    series = IngestMetrics(metrics.new_registry())
    state: list[Worker] = []
    stop = StopSignal(lambda: _end_by_itself(stop.exit_code))
    stop.install()
    follow_parent()

    def ready() -> tuple[bool, str]:
        if not state:
            return False, "The worker has not started."
        progress = state[0].progress()
        if not progress.assigned:
            return False, "No partition is assigned to this worker."
        if progress.still_s > STILL_S:
            return False, f"Nothing has been acknowledged for {progress.still_s:.0f} s."
        return True, ""

    probes = ProbeServer(settings.ingest.host, settings.ingest.port, series.registry, ready)
    probes.start()
    log.info("ingest; probes and metrics at http://%s:%s", settings.ingest.host, probes.port)
    partitions = _partitions(settings, names, stop)
    if partitions is None:
        return stop.exit_code

    async def work() -> None:
        worker = Worker(
            settings.broker,
            options=settings.kafka.model_dump(),
            group=f"stream_ft.{model}.ingest",
            topics=dict(zip(names, partitions, strict=True)),
            feedback=topic(model, "feedback"),
            dlq=topic(model, "dlq"),
            handle=handler,
            series=series,
        )
        state[:] = [worker]
        series.progress(lag=lambda: worker.progress().lag, still_s=lambda: worker.progress().still_s)
        # The signal arrives in the main thread, between two steps of its loop, which sleeps a second at most.
        watching = asyncio.create_task(_stop_with(stop, worker.stop))
        try:
            await worker.run()
        finally:
            watching.cancel()

    try:
        asyncio.run(work())
    except WorkerError as error:
        if not stop.number:
            log.error("%s The worker starts anew in %.0f s.", error, AGAIN_S)
            stop.event.wait(AGAIN_S)
        if not stop.number:
            # The same process from its beginning: what Faust leaves behind in this one is not to be trusted.
            probes.stop()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    finally:
        probes.stop()
    logging.shutdown()
    os._exit(stop.exit_code)  # threads of Faust may not end by themselves


def _partitions(settings: Settings, names: Sequence[str], stop: StopSignal) -> list[int] | None:
    """How many partitions each topic has, once the broker is there and all topics are; ``None`` if told to stop.

    Raises:
        ConfigError: a topic cannot be used as it is.
    """
    event_log = open_event_log(settings, writes=[])
    try:
        while not stop.event.is_set():
            try:
                if isinstance(event_log, Brokered):
                    model = settings.model.name
                    flaws = event_log.prepare([*names, topic(model, "events"), topic(model, "dlq")])
                    for flaw in flaws:
                        if flaw.serious:
                            raise ConfigError(flaw.text, flaw.remedy)
                        log.warning("%s %s", flaw.text, flaw.remedy)
                return [len(event_log.partitions(name)) for name in names]
            except LogAwayError as error:
                log.warning("%s The worker waits for it.", error)
                stop.event.wait(AGAIN_S)
        return None
    finally:
        event_log.close()


async def _stop_with(stop: StopSignal, tell: Callable[[], None]) -> None:
    while not stop.event.is_set():
        await asyncio.sleep(0.1)
    tell()


def _end_by_itself(code: int) -> None:
    """From now on this process has :data:`STOP_S` to live."""

    def wait() -> None:
        time.sleep(STOP_S)
        os._exit(code)

    threading.Thread(target=wait, name="deadline", daemon=True).start()
