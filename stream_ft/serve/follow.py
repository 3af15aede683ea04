"""A replica follows the control log: what should answer is a fold, what does answer is flipped between two batches.

Whatever goes wrong on the way (a folder that is broken, a log that is away or was replaced), the version from before
goes on answering, and it is said: by a metric, on ``.acks``, by readiness.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from stream_ft.errors import LogTruncatedError, StreamFTError
from stream_ft.logs import decision
from stream_ft.metrics import ServeMetrics
from stream_ft.model.engines import Engine
from stream_ft.ports import Brokered, Clock, EventLog, Outgoing
from stream_ft.priority import Pace
from stream_ft.release import state_file
from stream_ft.release.dossier import Dossier
from stream_ft.release.fold import INITIAL, Entry, State, fold
from stream_ft.release.heads import released
from stream_ft.serve.ack import Ack
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Listed, releases
from stream_ft.serve.challenger import Challenger, Failure, OvertakenError, pause_s
from stream_ft.serve.fresh import Fresh
from stream_ft.serve.loading import Artifacts, Loader
from stream_ft.serve.slots import Answer, Slots, Version
from stream_ft.topics import topic

log = logging.getLogger("stream_ft.serve.follow")

POLL_S = 0.02
LOOK_S = 1.0
"""The log is looked at this often even if it does not say that it changed."""
FALLBACKS = 10
"""Releases tried, newest first, when the wanted one cannot be loaded. Those whose files are gone cost no try."""
BATCH = 500
PRESSED_S = 0.2
"""A request that had to wait counts for so long: a version is then prepared with pauses."""

COMPLETE_S = 2.0
"""After a version came into force: what it could do without is done then, however many wait."""


class Kept(Struct, frozen=True, kw_only=True):
    """The replica's file: enough to serve the right version while the log is away."""

    log: str
    """The log's own identity when it was folded."""
    state: bytes


class Follower:
    """Folds the control log and keeps the wanted version in force. Every call of :meth:`step` is on one thread.

    Args:
        model: name in topics.
        replica: name of this process on ``.acks``.
        log: only read.
        artifacts: the registry.
        engine: ``prepare`` is called here; everything else through ``slots`` on the forward thread.
        publish: appends an ack in passing.
        state_path: file in which the folded state is kept.
        keep_versions: bases that stay prepared.
    """

    def __init__(
        self,
        *,
        model: str,
        replica: str,
        log: EventLog,
        artifacts: Artifacts,
        engine: Engine,
        slots: Slots,
        batcher: Batcher[Answer],
        publish: Callable[[Outgoing], bool],
        metrics: ServeMetrics,
        clock: Clock,
        state_path: Path,
        keep_versions: int = 4,
    ) -> None:
        self._topic = topic(model, "control")
        self._acks = topic(model, "acks")
        self._replica = replica
        self._log = log
        self._slots = slots
        self._batcher = batcher
        self._publish = publish
        self._metrics = metrics
        self._clock = clock
        self._path = state_path
        self._state: State = INITIAL
        self._log_id = ""
        self._halted = ""
        self._failure: Failure | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._left = ""
        self._look_at = 0.0
        self._wanted_since: tuple[int, float] = (-1, 0.0)
        self._challenger = Challenger(
            slots=slots,
            batcher=batcher,
            load=partial(self._load, put=slots.challenge),
            metrics=metrics,
            clock=clock,
        )
        self._fresh = Fresh(model=model, events=log, slots=slots, batcher=batcher, metrics=metrics, dim=engine.dim)
        self._loader = Loader(artifacts=artifacts, engine=engine, slots=slots, batcher=batcher, keep=keep_versions)
        self._pace = Pace(lambda: batcher.pressed(PRESSED_S))
        self._complete_at = 0.0
        self._stop = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    # --- what others ask ---------------------------------------------------------------------------------------

    @property
    def newest_head(self) -> tuple[str, Dossier]:
        """Name of the newest head of the fast tier, and what it says of itself; an empty name if there was none."""
        return self._fresh.newest

    @property
    def state(self) -> State:
        """The control log as folded so far."""
        return self._state

    @property
    def offset(self) -> int:
        """Next offset to fold."""
        return self._state.offset + 1

    @property
    def halted(self) -> str:
        """Why no commands are taken; ``""`` while they are."""
        return self._halted

    @property
    def failure(self) -> Failure | None:
        """Why the wanted version does not answer, if it could not be loaded."""
        return self._failure

    @property
    def challenger_failure(self) -> Failure | None:
        """Why there is no challenger, if the wanted one could not be loaded."""
        return self._challenger.failure

    def ready(self) -> tuple[bool, str]:
        """Some version that is not denied answers; else why not."""
        current = self._slots.current
        if current is None:
            return False, self._failure.reason if self._failure else "No version has been loaded yet."
        if current.base in self._state.denied:
            return False, f"{current.name} has been withdrawn, and {self._state.version} cannot be loaded yet."
        return True, ""

    # --- the thread --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restore what was kept and start to follow."""
        self.restore()
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the first version that answers."""
        return self._first.wait(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.step()
            except Exception as error:  # the boundary of this thread: serving goes on, and so does following
                log.error("following the control log failed", exc_info=error)
                self._stop.wait(LOOK_S)

    # --- one step ----------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take up the state that was kept before the last end, if there is one."""
        data = state_file.read(self._path)
        if data is None:
            return
        try:
            kept = msgspec.json.decode(data, type=Kept)
            state = state_file.decode_state(kept.state)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, StreamFTError) as error:
            log.warning("the kept state cannot be read; the control log is folded from its beginning: %s", error)
            return
        self._state, self._log_id = state, kept.log
        if isinstance(self._log, Brokered):
            self._log.expect({self._topic: kept.log})
        self._metrics.control_offset.set(self.offset)

    def step(self) -> None:
        """Fold what is new; put the wanted version into force, or try again."""
        now = self._clock.monotonic()
        if self._log_changed() or now >= self._look_at:
            self._look_at = now + LOOK_S
            self._fold_new()
        withdrawn = self._challenger.withdraw(self._state)
        try:
            self._pursue()
            self._fresh.pursue(self._state)
            tried = self._challenger.pursue(self._state)
        except OvertakenError:
            log.info("the control log wants another version; what was being prepared is let go")
            return
        if tried:
            failure = self._challenger.failure
            if failure is not None and self._state.trial is not None:
                self._loader.discard(self._state.trial.base)
            withdrawn = True
        if withdrawn:
            self._report(self._state.version, self._failure)
        self._metrics.ready.set(1 if self.ready()[0] else 0)
        idle = not self._batcher.pressed(PRESSED_S)
        if idle or self._clock.monotonic() >= self._complete_at:
            self._loader.complete()
        if idle:
            self._loader.tidy()

    def _log_changed(self) -> bool:
        try:
            return self._log.changed()
        except StreamFTError:
            return True  # reading says what is wrong

    def _fold_new(self) -> None:
        try:
            identity = self._log.log_id(self._topic)
            if self._log_id and identity != self._log_id:
                self._halt("The control log was replaced by another one.")
                return
            before = self.offset
            while records := self._log.read(self._topic, 0, self.offset, BATCH):
                self._log_id = identity
                for record in records:
                    entry = Entry(offset=record.offset, appended_at=record.appended_at, value=record.value)
                    self._state, verdict = fold(self._state, entry)
                    if not verdict.accepted:
                        log.info(
                            "a control message was refused: %s",
                            verdict.reason,
                            extra=decision("message_refused", id=verdict.id, offset=entry.offset),
                        )
        except LogTruncatedError as error:
            self._halt(error.message)
            return
        except StreamFTError as error:
            self._halt(f"The control log cannot be read: {error.message}")
            return
        if self._halted:
            log.info("the control log is back; commands are taken again")
            self._halted = ""
        self._metrics.control_halted.set(0)
        self._metrics.control_offset.set(self.offset)
        if self.offset != before:
            self._keep_state()

    def _halt(self, reason: str) -> None:
        self._metrics.control_halted.set(1)
        if reason != self._halted:
            self._halted = reason
            log.error("no commands are taken, serving goes on: %s", reason)

    def _keep_state(self) -> None:
        kept = Kept(log=self._log_id, state=state_file.encode_state(self._state))
        try:
            state_file.write(self._path, msgspec.json.encode(kept))
        except (OSError, StreamFTError) as error:
            log.error("the folded state could not be kept; a restart folds the log again", exc_info=error)

    # --- the wanted version ------------------------------------------------------------------------------------

    def _pursue(self) -> None:
        state = self._state
        if not state.base:
            return
        self._metrics.wanted_epoch.set(state.epoch)
        now = self._clock.monotonic()
        if self._wanted_since[0] != state.epoch:
            self._wanted_since = (state.epoch, now)
            self._failures, self._retry_at, self._failure, self._left = 0, 0.0, None, ""
        current = self._slots.current
        if current is not None and (current.epoch, released(current.name)) == (state.epoch, state.version):
            return
        withdrawn = self._withdrawn()
        # A stand-in that is denied in its turn must not answer until the pause is over.
        if now < self._retry_at and not (withdrawn and current is not None and current.base != self._left):
            return
        wanted = Listed(name=state.version, epoch=state.epoch, base=state.base, start_head=state.start_head)
        failure = self._load(wanted, put=self._flip)
        if self._stop.is_set():
            return
        self._failure = failure
        if failure is None:
            self._failures = 0
            took = max(0.0, self._clock.monotonic() - self._wanted_since[1])
            self._metrics.swapped(wanted.name, wanted.base, wanted.epoch, took)
            log.info("%s answers", wanted.name, extra=decision("swap", **wanted.logged(), seconds=round(took, 3)))
        else:
            self._failures += 1
            self._retry_at = self._clock.monotonic() + pause_s(self._failures)  # loading may have taken long
            self._metrics.swap_failed(failure.step)
            log.error(
                "%s cannot be loaded (%s): %s",
                wanted.name,
                failure.step,
                failure.reason,
                extra=decision("swap_failed", **wanted.logged(), step=failure.step),
            )
            self._loader.discard(wanted.base)
            if current is None or withdrawn:
                self._left = "" if current is None else current.base
                self._fall_back(wanted)
        if self._slots.current is not None:
            self._first.set()
        self._report(wanted.name, failure)

    def _fall_back(self, wanted: Listed) -> None:
        """Nothing answers yet, or only what was withdrawn: then an older release that is not denied is better."""
        tried = {(wanted.base, wanted.start_head)}
        tries = 0
        for row in reversed(releases(self._state)):
            if row.base in self._state.denied or (row.base, row.start_head) in tried:
                continue
            if tries >= FALLBACKS:
                return
            tried.add((row.base, row.start_head))
            failure = self._load(row, put=self._flip)
            if failure is None:
                log.warning("%s answers in its stead", row.name, extra=decision("fallback", **row.logged()))
                self._metrics.swapped(row.name, row.base, row.epoch, 0.0)
                return
            tries += failure.step != "missing"

    def _load(self, wanted: Listed, *, put: Callable[[Version], None]) -> Failure | None:
        wish = self._wish(wanted)
        self._pace.begin()
        failure = self._loader.load(
            wanted,
            put=put,
            newest=lambda: self._fresh.of(wanted, self._state),
            between=lambda: self._between(wanted, wish),
        )
        if failure is None:
            self._complete_at = self._clock.monotonic() + COMPLETE_S
        return failure

    def _wish(self, listed: Listed) -> tuple[int, str]:
        """What must stay as it is for ``listed`` to be wanted still; the share of a trial may change meanwhile."""
        trial = self._state.trial
        return self._state.epoch, trial.version if trial is not None and listed.name == trial.version else ""

    def _between(self, listed: Listed, wish: tuple[int, str]) -> None:
        """Between two pieces of preparing: let those who wait be answered, and see whether it is still wanted.

        Raises:
            OvertakenError: it is not, or the process is ending.
        """
        left = 0.0 if self._withdrawn() else self._pace.pause_s()
        while True:
            if self._log_changed():
                self._fold_new()
            if self._stop.is_set() or self._wish(listed) != wish:
                raise OvertakenError
            if left <= 0:
                return
            self._stop.wait(min(left, POLL_S))
            left -= POLL_S

    def _withdrawn(self) -> bool:
        """What answers must not: then whoever asks is served best by another version, soon."""
        current = self._slots.current
        return current is not None and current.base in self._state.denied

    def _flip(self, version: Version) -> None:
        started = time.perf_counter()
        self._slots.flip(version)
        self._metrics.flip_seconds.observe(time.perf_counter() - started)

    def _report(self, wanted: str, failure: Failure | None) -> None:
        current, challenger, lacking = self._slots.current, self._slots.challenger, self._challenger.failure
        ack = Ack(
            replica=self._replica,
            time=self._clock.now(),
            offset=self.offset,
            wanted=wanted,
            version="" if current is None else current.name,
            ok=failure is None,
            step="" if failure is None else failure.step,
            reason="" if failure is None else failure.reason,
            challenger="" if challenger is None else challenger.name,
            challenger_step="" if lacking is None else lacking.step,
            challenger_reason="" if lacking is None else lacking.reason,
        )
        self._publish(Outgoing(topic=self._acks, key=self._replica.encode(), value=msgspec.json.encode(ack)))
