"""`stream-ft learn`: the learner with a real log and clock.

One pass of the loop: read what is new, commit it, fold the control log, publish the outbox, look after the round. The
loop never trains and never waits for a round.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from stream_ft import logs, metrics
from stream_ft.clock import SystemClock
from stream_ft.config import Settings
from stream_ft.errors import ConfigError, LogTruncatedError, StoreFullError
from stream_ft.ingest.receive import received
from stream_ft.lock import FolderLock
from stream_ft.model.base import resolve
from stream_ft.parent import follow_parent
from stream_ft.ports import Clock, EventLog, Record
from stream_ft.release import state_file
from stream_ft.release.registry import Registry
from stream_ft.replay.fate import fates
from stream_ft.replay.store import Applied, Store
from stream_ft.topics import topic
from stream_ft.wiring import encoding, gauges, genesis, handover, storing
from stream_ft.wiring.broker import check_topics, open_event_log, until_reached
from stream_ft.wiring.comparison import Comparison
from stream_ft.wiring.consumption import Consumption
from stream_ft.wiring.core import Core
from stream_ft.wiring.gauges import Gauges
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.otel import open_traces
from stream_ft.wiring.outbox import Publisher
from stream_ft.wiring.probes import ProbeServer
from stream_ft.wiring.processes import StopSignal
from stream_ft.wiring.quality import Quality
from stream_ft.wiring.redacting import redaction
from stream_ft.wiring.tracks import Tracks

log = logging.getLogger("stream_ft.learn")

TOPICS = {"published": ("predictions", "feedback", "labels"), "ingested": ("events",)}
"""By ``learn.reads``; in this order, so that a prediction is usually there before what is said of it."""
BATCH = 500
POLL_S = 0.02
TICK_S = 0.5
STATUS_S = 1.0
RETRY_S = 1.0
OUTBOX_CAP = 10_000
STALLED_S = 30.0
"""A partition that brings nothing for this long, while records wait in it, makes the learner not ready."""
VERDICT_OF = {"promotion": "accepted", "refusal": "refused", "failure": "failed"}
"""By the kind of happening that ends a round."""


class Loop:
    """The learner's loop, one pass at a time.

    Args:
        settings: of the process.
        core: the core.
        log: the event log; dead letters are appended to it.
        clock: time.
        series: series to keep.
        status: file to which the status is written.
        tracks: follows what is traced, if anything is.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        core: Core,
        log: EventLog,
        clock: Clock,
        series: metrics.LearnMetrics,
        status: Path,
        tracks: Tracks | None = None,
    ) -> None:
        self.core = core
        self.halted = ""
        self._settings = settings
        self._log = log
        self._clock = clock
        self._series = series
        self._status = status
        self._publisher = Publisher(log, core.store, topic(settings.model.name, "dlq"))
        self._topics = {
            topic(settings.model.name, kind): Consumption(kind, series, clock.monotonic)
            for kind in TOPICS[settings.learn.reads]
        }
        self._happenings: deque[Happening] = deque(maxlen=150)
        self._quality = Quality(series)
        self._gauges = Gauges(settings, core, series)
        self._comparison = Comparison(core, after=settings.learn.frozen_after, clock=clock.monotonic)
        self._tracks = tracks
        self._tracked = ""
        self._full_until = -math.inf
        self._log_full_until = -math.inf
        self._ticked = -math.inf
        self._written = -math.inf
        self._alarms = 0
        self._progress = clock.monotonic()
        series.pass_age.set_function(lambda: clock.monotonic() - self._progress)
        self._offsets = core.store.offsets()
        self._log_ids: dict[str, str] = msgspec.json.decode(core.store.load("event_logs") or b"{}", type=dict[str, str])
        if (kept := core.store.load("happenings")) is not None:
            self._happenings.extend(msgspec.json.decode(kept, type=list[Happening]))

    def tell(self, happening: Happening) -> None:
        """Remember a happening for the status, and count it."""
        self._happenings.append(happening)
        # What is told must not stop what is done; what cannot be kept now is kept with the next.
        with contextlib.suppress(StoreFullError):
            self.core.store.save("happenings", msgspec.json.encode(list(self._happenings)))
        series, verdict = self._series, VERDICT_OF.get(happening.kind)
        if happening.kind == "drift":
            series.drift_alarms.inc()
        elif happening.kind == "rollback":
            series.rollbacks.inc()
        elif happening.kind == "promotion":
            series.promoted(happening.round_kind or "operator")
        if verdict is not None and happening.round_kind:
            series.round(happening.round_kind, verdict)
            if verdict != "failed" and self.core.learner.verdict is not None:
                gauges.judged(series, happening.round_kind, self.core.learner.verdict)

    def step(self) -> bool:
        """One pass. True if there was something to do."""
        now = self._clock.now()
        paused = self._clock.monotonic() < self._full_until
        busy = False
        try:
            if paused:
                self._look_after_round(now)
            else:
                busy = self._pass(now)
        except StoreFullError as error:
            # Nothing was committed, so nothing is lost: consumption stands still until there is room.
            if not self.halted:
                log.error("%s %s Consumption pauses and goes on by itself.", error.message, error.remedy)
            self.halted = error.message
            self._full_until = self._clock.monotonic() + RETRY_S
        except LogTruncatedError as error:
            if not self.halted:
                log.error("%s %s Consumption halts.", error.message, error.remedy)
            self.halted = f"{error.message} {error.remedy}"
            self._full_until = self._clock.monotonic() + RETRY_S
        self._write_status(now)
        return busy

    def _pass(self, now: float) -> bool:
        if not self.core.state.base:
            self.core.follow(now)  # before the first event, which the version in force answers
        busy = self._consume(now)
        self.core.follow(now)
        self._look_after_round(now)
        busy = self.core.freshen(now) > 0 or busy
        self._quality.live(self.core.tiers.examples_upto, now)
        if self._tracks is not None and self.core.tiers.version != self._tracked:
            self._tracked = self.core.tiers.version
            self._tracks.in_force(self._tracked, self.core.tiers.examples_upto, at=self._clock.now())
        if self._clock.monotonic() - self._ticked >= TICK_S:
            self._ticked = self._clock.monotonic()
            self.core.perform([], now)
            busy = self._publish() or busy
        if not busy and self.core.round is None:
            busy = self._comparison.catch_up(8) > 0 or self.core.embed_missing(8) > 0
        self._full_until = -math.inf
        self.halted = ""
        self._progress = self._clock.monotonic()
        return busy

    def ready(self) -> tuple[bool, str]:
        """Whether consumption progresses, and if not, why."""
        if self.halted:
            return False, self.halted
        if self.core.unloaded:
            return False, self.core.unloaded
        for consumption in self._topics.values():
            if standing := consumption.standing(STALLED_S):
                return False, standing
        still = self._clock.monotonic() - self._progress
        return (False, f"The loop has stood still for {still:.0f} s.") if still > 30 else (True, "")

    def _consume(self, now: float) -> bool:
        records: list[Record] = []
        if (waiting := self._publisher.waiting()) >= OUTBOX_CAP and not self._publish():
            raise StoreFullError(
                f"{waiting} dead letters wait to be published, and no more can.", "Make room for the log."
            )
        for name, consumption in self._topics.items():
            self._check_log(name)
            for partition in self._log.partitions(name):
                key = (name, partition)
                offset = self._offsets.get(key, 0)
                found = self._log.read(name, partition, offset, BATCH)
                records += found
                consumption.read(partition, offset, found, self._log.bounds(name, partition)[1], now)
            consumption.show()
        if not records:
            return False
        with self._series.ingest_seconds.time():
            applied = self.core.ingest(records, now)
        self._offsets = self.core.store.offsets()
        for (name, partition), offset in self._offsets.items():
            if name in self._topics:
                self._topics[name].committed(partition, offset)
                self._topics[name].show()
        self._count(applied)
        self._comparison.note(applied.scored, self._quality.accuracy, now)
        if self._tracks is not None:
            self._tracks.taken(records, start=now, end=self._clock.now())
        if applied.rejects:
            self._publish()
        return True

    def _publish(self) -> bool:
        """Publish what waits; whether anything was. What the log does not take now waits on in the outbox."""
        if self._clock.monotonic() < self._log_full_until:
            return False
        try:
            return self._publisher.publish() > 0
        except (StoreFullError, LogTruncatedError) as error:  # nothing is read there: a topic made anew does as well
            log.warning("%s %s Dead letters wait in the outbox.", error.message, error.remedy)
            self._log_full_until = self._clock.monotonic() + RETRY_S
            return False

    def _check_log(self, name: str) -> None:
        """Offsets mean nothing on another log: one that has grown past them would be read from its middle.

        Raises:
            LogTruncatedError: the log behind a topic was replaced.
        """
        found, known = self._log.log_id(name), self._log_ids.get(name)
        if found and known is None:
            self.core.store.save("event_logs", msgspec.json.encode(self._log_ids | {name: found}))
            self._log_ids[name] = found
        elif found and found != known:
            raise LogTruncatedError(
                f"The log of {name} was replaced: its identity is another one.",
                "Restore it, or run stream-ft reset to begin anew.",
            )

    def _count(self, applied: Applied) -> None:
        series = self._series
        for kind, count in applied.kinds.items():
            series.event(kind, count)
        for kind, count in (("duplicate", applied.duplicates), ("orphan", applied.orphans)):
            if count:
                series.event(kind, count)
        for reject in applied.rejects:
            series.dead_letter(reject.reason)
        self._quality.note(applied)

    def _look_after_round(self, now: float) -> None:
        if self.core.round is not None and (outcome := self.core.round.poll()) is not None:
            gauges.ended(self._series, outcome)
            self.core.finish(outcome, now)

    def _write_status(self, now: float) -> None:
        if self._clock.monotonic() - self._written < STATUS_S:
            return
        self._written = self._clock.monotonic()
        core, learner = self.core, self.core.learner
        counts = core.store.count()
        ready, why = self.ready()
        self._gauges.show(counts, outbox=counts.outbox, halted=bool(self.halted), monotonic=self._written)
        accuracy, accuracy_over = self._quality.accuracy
        corrections, corrections_over = self._quality.corrections
        status: dict[str, Any] = {
            "time": now,
            "pid": os.getpid(),
            "name": learner.name,
            "ready": ready,
            "why": why,
            "leading": learner.leading,
            "version": core.tiers.version if core.in_force.epoch == core.state.epoch else core.state.version,
            "epoch": core.state.epoch,
            "paused": core.state.paused,
            "pinned": core.state.pinned,
            "next_round": {
                "reason": handover.WAITS if core.handover is not None else learner.decision.reason,
                "in_s": learner.decision.next_s,
            },
            "round": None
            if core.round is None
            else {"kind": core.round.job.kind, "examples_upto": core.round.job.examples_upto},
            "verdict": None if learner.verdict is None else msgspec.to_builtins(learner.verdict),
            "examples_upto": core.tiers.examples_upto,
            "counts": msgspec.to_builtins(counts),
            "accuracy": accuracy,
            "accuracy_over": accuracy_over,
            "correction_ratio": corrections,
            "corrections_over": corrections_over,
            **self._comparison.status(),
            "drift": self._drift_status(),
            "drift_alarms": learner.alarms,
            "lag": sum(consumption.lag for consumption in self._topics.values()),
            "happenings": [happening.told() for happening in self._happenings],
        }
        if not self.halted:
            self._comparison.keep()
        try:
            self._status.parent.mkdir(parents=True, exist_ok=True)
            state_file.write(self._status, msgspec.json.encode(status), durable=False)
        except OSError as error:
            log.warning("the status file cannot be written: %s", error.strerror)

    def _drift_status(self) -> dict[str, Any]:
        reading = self.core.learner.drift()
        pending = self.core.learner.memory.drift_at is not None
        if reading is None:
            return {"detector": self._settings.drift.detector, "error": None, "pending": pending}
        near = {"statistic": reading.statistic, "threshold": reading.threshold}
        finite = {name: value if math.isfinite(value) else None for name, value in near.items()}
        return {"detector": reading.detector, "error": reading.error, "pending": pending, **finite}


def known_logs(store: Store, model: str) -> dict[str, str]:
    """Identity of each log that this store has read from, by topic."""
    known = msgspec.json.decode(store.load("event_logs") or b"{}", type=dict[str, str])
    if control := store.load("control_log"):
        known[topic(model, "control")] = control.decode()
    return known


def check_source(settings: Settings) -> None:
    """Raise :class:`ConfigError` if what is to be read can never come."""
    if settings.learn.reads == "ingested" and settings.broker.startswith("sqlite:"):
        raise ConfigError(
            "learn.reads = ingested needs a broker: without one there are no ingest workers.",
            "Set broker, or learn.reads = published.",
        )


def run(settings: Settings) -> int:
    """Learn until a signal comes. Returns the exit code.

    Raises:
        AlreadyRunningError: another learner works on this state folder.
    """
    check_source(settings)
    logs.setup(settings.log.level, settings.log.json_lines)
    state = settings.state_path()
    state.mkdir(parents=True, exist_ok=True)
    stop = StopSignal()
    stop.install()
    follow_parent()
    clock = SystemClock()
    with FolderLock(state / "learn.lock", "stream-ft learn"), ExitStack() as opened:
        base = resolve(settings.model.base)
        event_log = open_event_log(settings, writes=["learn"], group=f"stream_ft.{settings.model.name}.learn")
        opened.callback(event_log.close)
        store = storing.open_store(settings, state / "store.db")
        opened.callback(store.close)
        registry = Registry(settings.registry_path())
        engine = encoding.open_engine(settings, base)
        series = metrics.LearnMetrics(metrics.new_registry())
        metrics.watch_process(series.registry)
        status = state / "learn.status.json"
        running: list[Loop] = []
        probes = ProbeServer(
            settings.learn.host,
            settings.learn.port,
            series.registry,
            lambda: running[0].ready() if running else (False, "The broker has not answered yet."),
            status=status.read_bytes,
        )
        opened.callback(probes.stop)
        probes.start()

        def begin() -> None:
            known = known_logs(store, settings.model.name)
            check_topics(event_log, settings.model.name, known=known)
            if topic(settings.model.name, "control") in known:
                genesis.artifacts(registry, base, dim=engine.dim)
            else:
                genesis.ensure(event_log, registry, base, model=settings.model.name, dim=engine.dim, now=clock.now())

        if not until_reached(begin, stop=stop.event):
            return stop.exit_code
        redact = redaction(settings)
        core = Core(
            settings=settings,
            log=event_log,
            store=store,
            registry=registry,
            engine=engine,
            base=base,
            name=settings.learn.name,
            jobs=state / "jobs",
            redact=redact,
        )
        traces = open_traces(settings, "learn")
        opened.callback(traces.close)
        tracks = None
        if settings.trace.endpoint:
            tracks = Tracks(
                traces,
                receive=lambda record, at: received(record, now=at, redact=redact),
                fates=lambda said: fates(state / "store.db", said),
            )
        loop = Loop(
            settings=settings,
            core=core,
            log=event_log,
            clock=clock,
            series=series,
            status=status,
            tracks=tracks,
        )
        core.tell_to(loop.tell)
        running.append(loop)
        log.info("learning; probes and metrics at http://%s:%s", settings.learn.host, probes.port)
        try:
            while not stop.event.is_set():
                if not loop.step():
                    stop.event.wait(POLL_S)
        finally:
            if core.round is not None:
                core.round.kill()
    return stop.exit_code
