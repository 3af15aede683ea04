"""What `learn` and `simulate` share: everything between reading records and publishing.

The order in one call of :meth:`Core.ingest` is the contract:

1. bytes become events or rejects, and personal data is replaced if that is wanted (pure);
2. labelled events that bring their own input are embedded and answered by the active version: predicted before learned;
3. the store commits events, offsets, joins, examples and outgoing messages in one transaction;
4. the learner hears of it and says what to do.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from stream_ft import control, failpoints
from stream_ft.config import Settings
from stream_ft.errors import ArtifactError, LogTruncatedError, StoreFullError
from stream_ft.ingest.receive import Redact, received
from stream_ft.learn import evaluate
from stream_ft.learn.drift import detector
from stream_ft.learn.job import Result
from stream_ft.learn.learner import (
    AllowLabel,
    Controlled,
    DriftAlarm,
    Effect,
    Fact,
    GatePolicy,
    Lead,
    Learner,
    Quarantine,
    Refuse,
    Release,
    RoundEnded,
    StartRound,
)
from stream_ft.model.base import BaseFolder
from stream_ft.model.engines import Engine
from stream_ft.model.heads import Head
from stream_ft.model.mixture import AnyHead, read_head
from stream_ft.model.tasks import find_task
from stream_ft.ports import EventLog, Outgoing, Record
from stream_ft.release import dossier
from stream_ft.release.fold import INITIAL, Entry, State, Verdict, fold
from stream_ft.release.registry import Registry
from stream_ft.replay.store import Applied, Store
from stream_ft.topics import topic
from stream_ft.wiring import handover, starting
from stream_ft.wiring.answering import Embed, answered
from stream_ft.wiring.coverage import Coverage
from stream_ft.wiring.facts import learned
from stream_ft.wiring.fast import fast_tier
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.narration import narrated
from stream_ft.wiring.releasing import candidate_embeddings, file_sha256, forget_old, numbers_of, write_candidate
from stream_ft.wiring.rounds import Outcome, RoundProcess
from stream_ft.wiring.tiers import Tiers, built_tier

log = logging.getLogger("stream_ft.learn")


class Core:
    """The learner with its store, engine, registry and log.

    Args:
        settings: of the process.
        log: the event log; control messages are read from it and appended to it.
        store, registry, engine, base: the parts.
        name: the learner's name on the control log.
        jobs: folder in which rounds work.
        embed: embeddings of texts under the active base; the engine's own ``encode`` if not given.
        redact: replaces personal data in what is read; ``None`` leaves it.
        deterministic: rounds are bounded by steps alone, never by seconds.
        tell: called with every happening.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        log: EventLog,
        store: Store,
        registry: Registry,
        engine: Engine,
        base: BaseFolder,
        name: str,
        jobs: Path,
        embed: Embed | None = None,
        redact: Redact | None = None,
        deterministic: bool = False,
        tell: Callable[[Happening], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.engine = engine
        self.state: State = INITIAL
        self.dossier = dossier.Dossier()
        """Of the release's own head."""
        self.in_force: State = INITIAL
        """The latest folded state whose version is loaded here."""
        self._unchosen = False  # folded, and not yet in force: the store was full
        self.unloaded = ""
        """Why the wanted version is not the one in force; empty if it is."""
        self.round: RoundProcess | None = None
        self.learner = Learner(
            name=name,
            policy=starting.policy(settings),
            gate_policy=GatePolicy(**settings.gate.model_dump(), min_examples=settings.schedule.min_evaluation),
            detector=detector(settings.drift.detector, delta=settings.drift.delta),
            scale=find_task(settings.model.task).scale,
        )
        self.learner.restore(store.load("learner"))
        self._log = log
        self._base = base
        self._jobs = jobs
        self._embed = embed or engine.encode
        self._redact = redact
        self._deterministic = deterministic
        self._tell = tell
        self._control_topic = topic(settings.model.name, "control")
        self._control_offset = 0
        self._told = int(store.load("control_told") or 0)
        self._log_id = (store.load("control_log") or b"").decode()
        self._coverage = Coverage()
        self._max_seq = store.max_seq()
        self._pending: tuple[str, Path] | None = None
        self._releasing: Release | None = None
        self.handover: handover.Handover | None = None
        self.tiers = Tiers(
            fast_tier(settings, store, registry, log, self._embed, engine.dim, self._covered),
            start=Head.empty(engine.dim),
            issuer=self._issuer,
        )
        self._undone: deque[Effect] = deque()
        self._unsaved = False

    @property
    def head(self) -> AnyHead:
        """That answers: the newest one of the fast tier, or the release's own."""
        return self.tiers.head

    def tell_to(self, tell: Callable[[Happening], None]) -> None:
        """From now on ``tell`` hears of every happening."""
        self._tell = tell

    # --- events ------------------------------------------------------------------------------------------------

    def ingest(self, records: Sequence[Record], now: float) -> Applied:
        """Take in records of the topics that are learned from, in the order of each partition."""
        failpoints.hit("ingest.after_poll")
        taken = [received(record, now=now, redact=self._redact) for record in records]
        items = answered(
            [record for record, _ in taken],
            [event for _, event in taken],
            embed=self._embed,
            head=self.head,
            version=self.tiers.version,
            base=self.in_force.base,
            dim=self.engine.dim,
        )
        applied = self.store.apply(items, now=now)
        self._max_seq = max(self._max_seq, *(e.seq for e in applied.examples)) if applied.examples else self._max_seq
        self._coverage.mark(self._max_seq, self.store.offsets())
        for _ in range(applied.admitted):  # which one is not said: users named it, and what they write is in no log
            self._say("note", "A label that was new is learned: enough sources named it.", now)
        self.perform([learned(self.store, applied.scored, self._max_seq)], now)
        return applied

    def embed_missing(self, limit: int) -> int:
        """Embed up to ``limit`` retained examples that have no embedding of the active base; how many it did."""
        if self.unloaded:
            return 0
        rows = self.store.missing_embeddings(self.state.base, limit)
        if rows:
            embeddings = self._embed([row.input for row in rows])
            self.store.set_embeddings(
                self.state.base, [(row.id, e.tobytes()) for row, e in zip(rows, embeddings, strict=True)]
            )
        return len(rows)

    # --- control -----------------------------------------------------------------------------------------------

    def follow(self, now: float) -> list[tuple[Entry, Verdict]]:
        """Fold what is new on the control log and put the wanted version into force."""
        folded: list[tuple[Entry, Verdict]] = []
        before = self.state
        self._check_log()
        while records := self._log.read(self._control_topic, 0, self._control_offset, 500):
            for record in records:
                entry = Entry(offset=record.offset, appended_at=record.appended_at, value=record.value)
                previous = self.state
                self.state, verdict = fold(self.state, entry)
                folded.append((entry, verdict))
                self.tiers.began(previous, self.state, verdict)
                if entry.offset >= self._told:  # the rest was told before a restart
                    told = narrated(previous, self.state, verdict, mine=self._releasing, issuer=self._issuer)
                    if told is not None:
                        self._say(told[0], told[1], record.appended_at, **told[2])
            self._control_offset = records[-1].offset + 1
        self._remember_told()
        if folded and (self.state.base, self.state.start_head) != (before.base, before.start_head):
            self._put_into_force(now)
        elif folded and not self.unloaded:
            self.in_force = self.state
        self._unchosen |= bool(folded)
        try:
            if self._unchosen and not self.unloaded:
                self.tiers.choose(self.in_force)
            self._unchosen = False
        finally:  # what was ordered is done even where the store is full: a quarantine must not be lost
            if folded:
                self.perform([Controlled(state=self.state, champion_upto=self.dossier.examples_upto)], now)
        return folded

    def freshen(self, now: float) -> int:
        """Let the fast tier learn some of what waits, and its newest head answer; how many examples it learned."""
        handing, outcome = self.handover is not None, None
        if self.handover is not None:
            outcome = self.handover.ended(handover.CHUNK, epoch=self.state.epoch)
        if outcome is not None:
            self.handover = None
            self._ended(outcome, now)
        if self.unloaded:
            return int(handing)
        leading = self.learner.leading and self.in_force.epoch == self.state.epoch
        step = self.tiers.freshen(self.in_force, now, leading=leading)
        if step.breach is not None:
            self._append(step.breach)
        return step.learned + handing

    def _check_log(self) -> None:
        """Halt on a control log that is not the one folded so far.

        Raises:
            LogTruncatedError: it was replaced.
        """
        found = self._log.log_id(self._control_topic)
        if self._log_id and found and found != self._log_id:
            raise LogTruncatedError(
                "The control log was replaced: its identity is another one.",
                "Restore it, or run stream-ft reset to begin anew.",
            )
        if found and not self._log_id:
            self.store.save("control_log", found.encode())
            self._log_id = found

    def _remember_told(self) -> None:
        if self._control_offset <= self._told:
            return
        self._told = self._control_offset
        with contextlib.suppress(StoreFullError):  # it must not stop what is done: at worst it is told again
            self.store.save("control_told", str(self._told).encode())

    def _put_into_force(self, now: float) -> None:
        try:
            data = self.registry.get_head(self.state.start_head)
            head = read_head(data)
            self.engine.prepare(self.state.base, self.registry.get(self.state.base))
        except ArtifactError as error:
            # The learner goes on with what it has: examples are still stored, and serving judges for itself.
            why = f"{self.state.version} cannot be loaded by the learner ({error.step}): {error}"
            if why != self.unloaded:
                self._say("failure", why, now)
            self.unloaded = why
            return
        self.engine.activate(self.state.base)
        if self.in_force.base not in ("", self.state.base):
            # One set is enough here: a rollback, which is rare, reads the registry again.
            self.engine.drop(self.in_force.base)
        self.in_force, self.unloaded = self.state, ""
        self.dossier = dossier.read(data)
        self.tiers.loaded(head, self.dossier.examples_upto)
        if self._pending is not None and self._pending[0] == self.state.base:
            self.store.set_embeddings(self.state.base, candidate_embeddings(self._pending[1]))
        self._pending = None

    # --- effects -----------------------------------------------------------------------------------------------

    def perform(self, facts: Sequence[Fact], now: float) -> None:
        """Tell the learner, and do what it says."""
        effects = self.learner.step(facts, now)
        self._undone.extend(effects)
        self._unsaved = self._unsaved or bool(effects) or self.learner.stale
        while self._undone:
            effect = self._undone.popleft()
            try:
                self._do(effect, now)
            except StoreFullError:
                # The learner counts on what it has said: it is done once there is room.
                self._undone.appendleft(effect)
                raise
        if self._unsaved:
            # After all of them: what a killed process had not done yet is done again, and all are harmless twice.
            self.store.save("learner", self.learner.snapshot())
            self._unsaved = False

    def _do(self, effect: Effect, now: float) -> None:
        if isinstance(effect, Lead):
            self.tiers.ahead(self.in_force, now)
            self._append(control.new(control.Lead, by=self._issuer, now=now, expected_epoch=effect.expected_epoch))
        elif isinstance(effect, StartRound):
            self._start(effect, now)
        elif isinstance(effect, Release):
            self._release(effect, now)
        elif isinstance(effect, Refuse):
            numbers = {} if effect.verdict is None else numbers_of(effect.verdict)
            kind = "failure" if effect.verdict is None else "refusal"
            self._say(
                kind,
                f"A {effect.job.kind} round: {effect.reason}",
                now,
                numbers=numbers,
                result=effect.result,
                round_kind=effect.job.kind,
                sha256=file_sha256(self._jobs / "round" / "head.safetensors"),
                parent=self.state.version,
            )
        elif isinstance(effect, DriftAlarm):
            alarm = effect.alarm
            self._say(
                "drift",
                f"Errors rose from {alarm.before:.1%} to {alarm.after:.1%}.",
                now,
                numbers={"kind": alarm.kind, "direction": alarm.direction, "size": alarm.size},
            )
        elif isinstance(effect, Quarantine):
            count = self.store.quarantine(effect.source, effect.since, effect.until)
            self._say("note", f"{count} examples are quarantined and no longer train.", now)
        elif isinstance(effect, AllowLabel):
            self.store.allow_label(effect.label)

    def _start(self, effect: StartRound, now: float) -> None:
        settings = self.settings.round
        if self.unloaded:
            self._put_into_force(now)
        if self.unloaded:
            self.learner.not_started(self.unloaded, now)
            return
        planned = starting.plan(
            effect.kind,
            starting.Champion(state=self.state, examples_upto=self.dossier.examples_upto, memory=self.learner.memory),
            settings=self.settings,
            store=self.store,
            registry=self.registry,
            base=self._base,
            embed_missing=self.embed_missing,
            deterministic=self._deterministic,
        )
        if isinstance(planned, evaluate.TooFew):
            self.learner.not_started(planned.reason, now)
            return
        job, split = planned.job, planned.split
        self.round = RoundProcess(
            self._jobs / "round",
            job,
            split.train,
            split.evaluate,
            memory_mb=settings.memory_mb,
            seconds=None if self._deterministic else settings.seconds,
        )
        self._say("round", f"A {job.kind} round on {len(split.train)} examples began: {effect.reason}", now)

    def finish(self, outcome: Outcome, now: float) -> None:
        """Tell the learner of a round that ended; of an accepted base, once it has learned what came meanwhile."""
        self.round = None
        if outcome.result is not None and self.learner.judge(outcome.result).accepted:
            self.handover = handover.begun(outcome, store=self.store, engine=self.engine, live=self.state.version)
        if self.handover is None:
            self._ended(outcome, now)

    def _ended(self, outcome: Outcome, now: float) -> None:
        ended = RoundEnded(job=outcome.job, result=outcome.result, reason=outcome.reason, cpu_s=outcome.cpu_s)
        self.perform([ended], now)

    def _release(self, effect: Release, now: float) -> None:
        job = effect.job
        base, head = write_candidate(
            self.registry,
            self._jobs / "round",
            effect,
            base=self._base,
            offsets=self._covered(job.examples_upto),
            now=now,
        )
        if base != job.champion_base:
            self._pending = (base, self._jobs / "round" / "embeddings.safetensors")
            self.tiers.built = built_tier(base, self._jobs / "round")
        else:
            self.tiers.ahead(self.in_force, now, start_head=head)
        failpoints.hit("release.before_promote")
        self._append(
            control.new(
                control.Promote,
                by=self._issuer,
                now=now,
                base=base,
                start_head=head,
                parent=job.champion_base,
                expected_epoch=job.epoch,
            )
        )
        self._releasing = effect
        self.follow(now)
        self._releasing = None
        forget_old(self.registry, self.state, also=self.tiers.heads())

    def _covered(self, upto: int) -> dict[str, int]:
        return self._coverage.upto(upto, self.dossier.offsets)

    @property
    def _issuer(self) -> str:
        return f"learner/{self.learner.name}"

    def _append(self, message: control.Message) -> None:
        self._log.append([Outgoing(topic=self._control_topic, value=msgspec.json.encode(message))])

    def _say(
        self,
        kind: str,
        text: str,
        now: float,
        *,
        numbers: dict[str, object] | None = None,
        result: Result | None = None,
        round_kind: str = "",
        sha256: str = "",
        parent: str = "",
    ) -> None:
        happening = Happening(
            kind=kind,
            text=text,
            time=now,
            version=self.state.version,
            numbers=numbers or {},
            round_kind=round_kind or (result.kind if result is not None else ""),
            seconds=result.seconds if result is not None else 0.0,
            cpu_s=result.cpu_s if result is not None else 0.0,
            steps=result.steps if result is not None else 0,
            sha256=sha256,
            parent=parent,
        )
        log.info("%s: %s", kind, happening.line(), extra=happening.logged())
        self._tell(happening)
