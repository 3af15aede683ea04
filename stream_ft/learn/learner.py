"""The learning core, without I/O: facts and a time go in, effects come out.

``learn`` drives it with a real log, clock and subprocesses, ``simulate`` with a file and a simulated clock; both
through :class:`stream_ft.wiring.core.Core`. Decisions are made by pure functions (:mod:`schedule`, :mod:`gate`,
:mod:`drift`); this module remembers what they need to know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from stream_ft.learn import gate, schedule
from stream_ft.learn.drift import RECENT, Alarm, Detector, Reading
from stream_ft.learn.job import Job, Result
from stream_ft.release.fold import State

FORGETTABLE = 50
"""Wrong answers that a restart may forget: the memory is not saved for each."""

# --- facts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A transaction of the store was committed."""

    errors: Sequence[bool]
    """In order, for every scored event whose label covers what it samples: was the live version wrong?"""
    versions: Sequence[str]
    """The version that made each of those predictions."""
    max_seq: int
    train: int
    holdout: int
    misjudged: int = 0
    """Scored events of any kind whose answer was wrong."""


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """The control log was folded further."""

    state: State
    champion_upto: int
    """``examples_upto`` of the active head's dossier."""


@dataclass(frozen=True, kw_only=True)
class RoundEnded:
    """A round is over. ``result`` is ``None`` when it failed, with the reason."""

    job: Job
    result: Result | None
    reason: str
    cpu_s: float


Fact = Learned | Controlled | RoundEnded

# --- effects ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Say on the control log that this learner leads."""

    expected_epoch: int


@dataclass(frozen=True, kw_only=True)
class StartRound:
    """Start a round of this kind. The driver answers with ``not_started`` if there is too little to judge it by."""

    kind: schedule.Kind
    reason: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """The gate let the candidate pass: write it and promote it."""

    job: Job
    result: Result
    verdict: gate.Verdict


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """The gate refused the candidate, or the round failed (then without a verdict)."""

    job: Job
    verdict: gate.Verdict | None
    reason: str
    result: Result | None = None


@dataclass(frozen=True, kw_only=True)
class DriftAlarm:
    """The live version's error rose."""

    alarm: Alarm


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Examples that must not train any more."""

    source: str | None
    since: float | None
    until: float | None


@dataclass(frozen=True, kw_only=True)
class AllowLabel:
    """A label that users may introduce from now on."""

    label: str


Effect = Lead | StartRound | Release | Refuse | DriftAlarm | Quarantine | AllowLabel


class Memory(Struct, kw_only=True):
    """What the learner must still know after a restart; saved by the driver."""

    adapt_upto: int = 0
    """Store sequence number up to which examples have been offered to an encoder round."""
    tried_upto: int = 0
    """Store sequence number at the start of the last round of any kind that ended."""
    quarantines: int = 0
    """How many quarantines of the control log have been carried out."""
    labels: int = 0
    train_now: int = 0
    drift_at: int | None = None
    """Store sequence number at the last alarm that is not answered yet."""
    drift_level: float = 0.0
    """Error below which that alarm counts as answered: half way back."""
    misjudged: int = 0
    """Wrong answers that no encoder round was offered yet."""
    adapts_in_vain: int = 0
    """Encoder rounds in a row that gained too little; -1 if the last one gained."""


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """Flat copy of the gate's settings."""

    margin: float
    confidence: float
    class_floor: float
    class_support: int
    min_examples: int
    source_support: int = 30


class Learner:
    """Remembers, and asks the pure functions.

    Args:
        name: who leads (``learner/NAME`` on the control log).
        policy: of the schedule.
        gate_policy: of the gate.
        detector: of drift, on the live version's error.
        scale: what the task's scores are: ``accuracy`` in [0, 1] or ``loss`` (minus a loss, in nats).
    """

    def __init__(
        self,
        *,
        name: str,
        policy: schedule.Policy,
        gate_policy: GatePolicy,
        detector: Detector,
        scale: gate.Scale = "accuracy",
    ) -> None:
        self.name = name
        self.memory = Memory()
        self.decision = schedule.Decision(start=False, kind="", reason="Starting.", next_s=None)
        self.verdict: gate.Verdict | None = None
        self.alarms = 0
        self._policy = policy
        self._gate = gate_policy
        self._detector = detector
        self._scale: gate.Scale = scale
        self._state: State | None = None
        self._asked_to_lead: int | None = None
        self._has_led = False
        self._champion_upto = 0
        self._max_seq = 0
        self._train = 0
        self._holdout = 0
        self._running = False
        self._started = Memory()
        self._ended: float | None = None
        self._failures = 0
        self._died = 0
        self._costs: deque[tuple[float, float]] = deque()
        self._snapshot_misjudged = 0

    @property
    def leading(self) -> bool:
        """True while the folded log says that this learner leads."""
        return self._has_led and self._state is not None and self._state.leader == f"learner/{self.name}"

    @property
    def fruitless(self) -> int:
        """Rounds in a row that brought no promotion."""
        return self._failures

    @property
    def unlearned(self) -> int:
        """Examples, new or revised, that the active version has not learned from."""
        return max(0, self._max_seq - self._champion_upto)

    def drift(self) -> Reading | None:
        """What the drift detector watches now."""
        return self._detector.reading()

    @property
    def stale(self) -> bool:
        """The last snapshot lacks so many wrong answers that they would be missed."""
        return self.memory.misjudged - self._snapshot_misjudged >= FORGETTABLE

    def snapshot(self) -> bytes:
        """What must survive a restart."""
        self._snapshot_misjudged = self.memory.misjudged
        return msgspec.json.encode(self.memory)

    def restore(self, data: bytes | None) -> None:
        """Undo of :meth:`snapshot`; ``None`` is a fresh start."""
        self.memory = msgspec.json.decode(data, type=Memory) if data else Memory()
        self._snapshot_misjudged = self.memory.misjudged

    def step(self, facts: Sequence[Fact], now: float) -> list[Effect]:
        """Take in what happened and say what to do. The same facts and times give the same effects."""
        effects: list[Effect] = []
        for fact in facts:
            if isinstance(fact, Learned):
                effects += self._learned(fact)
            elif isinstance(fact, Controlled):
                effects += self._controlled(fact)
            else:
                effects += self._round_ended(fact, now)
        effects += self._schedule(now)
        return effects

    def not_started(self, reason: str, now: float) -> None:
        """The driver could not start the round that :class:`StartRound` asked for."""
        self._running = False
        self._ended = now
        if self._state is not None:  # a command is carried out once; left standing, it would override the interval
            self.memory.train_now = self._state.train_now
        self.decision = schedule.Decision(start=False, kind="", reason=reason, next_s=self._policy.interval_s)

    def _learned(self, fact: Learned) -> list[Effect]:
        self._max_seq, self._train, self._holdout = fact.max_seq, fact.train, fact.holdout
        self.memory.misjudged += fact.misjudged
        effects: list[Effect] = []
        live = "" if self._state is None else base_of(self._state.version)
        for wrong, version in zip(fact.errors, fact.versions, strict=True):
            if base_of(version) != live:
                continue  # a late label scores a model that has been replaced
            if (alarm := self._detector.update(float(wrong))) is not None:
                self.alarms += 1
                self.memory.drift_at = self._max_seq
                self.memory.drift_level = (alarm.before + alarm.after) / 2
                effects.append(DriftAlarm(alarm=alarm))
        return effects

    def _controlled(self, fact: Controlled) -> list[Effect]:
        old, state = self._state, fact.state
        self._state = state
        self._champion_upto = fact.champion_upto
        effects: list[Effect] = []
        # A refitted head continues the same model, and worse-only alarms are not misled by its being better. Another
        # base is another model, whose errors say nothing about the ones before.
        if old is not None and old.base != state.base:
            self._detector.reset()
        for wanted in state.quarantines[self.memory.quarantines :]:
            effects.append(Quarantine(source=wanted.source, since=wanted.since, until=wanted.until))
            self._failures = 0
        self.memory.quarantines = len(state.quarantines)
        effects += [AllowLabel(label=label) for label in state.labels_added[self.memory.labels :]]
        self.memory.labels = len(state.labels_added)
        # Said once, at start, whoever led, so that an earlier process of the same name is fenced too. A `lead` that
        # another message overtook was refused, so it is said again with the epoch of now.
        named = state.leader == f"learner/{self.name}"
        if self._asked_to_lead is not None and named and state.epoch > self._asked_to_lead:
            self._has_led = True
        if not self._has_led and self._asked_to_lead != state.epoch:
            self._asked_to_lead = state.epoch
            effects.append(Lead(expected_epoch=state.epoch))
        return effects

    def _round_ended(self, fact: RoundEnded, now: float) -> list[Effect]:
        self._running = False
        # Remembered at the end, not at the start: a learner that is killed meanwhile starts the round again. So does
        # one whose round died, after the interval; an encoder round that died twice must not hold up the heads.
        self._died = self._died + 1 if fact.result is None else 0
        if self._died != 1:
            if self._started.adapt_upto > self.memory.adapt_upto:
                if self.memory.drift_at is not None and self.memory.drift_at <= self._started.adapt_upto:
                    self.memory.drift_at = None  # one that came during the round was not answered by it
                self.memory.misjudged = max(0, self.memory.misjudged - self._started.misjudged)
                self._snapshot_misjudged = self.memory.misjudged
            self.memory.adapt_upto = self._started.adapt_upto
        if fact.result is not None:
            self.memory.tried_upto = self._started.tried_upto
        self.memory.train_now = self._started.train_now
        self._ended = now
        self._costs.append((now, fact.cpu_s))
        if fact.result is None:
            self._failures += 1
            return [Refuse(job=fact.job, verdict=None, reason=fact.reason)]
        verdict = self.judge(fact.result)
        self.verdict = verdict
        if fact.job.kind != "head":
            self.memory.adapts_in_vain = self._in_vain(verdict, fact.result)
        if not verdict.accepted:
            self._failures += 1
            return [Refuse(job=fact.job, verdict=verdict, reason=verdict.reason, result=fact.result)]
        self._failures = 0
        return [Release(job=fact.job, result=fact.result, verdict=verdict)]

    def _in_vain(self, verdict: gate.Verdict, result: Result) -> int:
        """Encoder rounds in vain after this one.

        It counts as a gain once it is sure, by the examples that judge it or by what came meanwhile, for one in a few
        seems to gain by chance; while rounds gain, it is enough that one seems to.
        """
        now, wanted = self.memory.adapts_in_vain, self._policy.adapt_gain
        if not verdict.accepted and (verdict.difference or 0.0) > 0:
            return max(now, 0)  # too few examples to tell: not shown to be in vain
        if not verdict.accepted or verdict.difference is None or verdict.difference < wanted:
            return now + 1
        met = [b - a for a, b in zip(result.met_live, result.met_candidate, strict=True)]
        bounds = [gate.lower_bound(met, confidence=verdict.confidence, scale="accuracy")] if met else []
        sure = max([*bounds, verdict.lower_bound or 0.0]) >= wanted
        return -1 if now < 0 or sure else now

    def judge(self, result: Result) -> gate.Verdict:
        """What the gate says of a round's result."""
        verdict = gate.judge(
            result.scores_champion,
            result.scores_candidate,
            result.classes,
            margin=self._gate.margin,
            confidence=self._gate.confidence,
            class_floor=self._gate.class_floor,
            class_support=self._gate.class_support,
            min_examples=self._gate.min_examples,
            scale=self._scale,
            sources=result.sources,
            source_support=self._gate.source_support,
        )
        if result.kind == "head" or self._scale == "loss":  # no embeddings are made anew for one of these
            return verdict
        return gate.worth_it(verdict, result.met_live, result.met_candidate)

    def _schedule(self, now: float) -> list[Effect]:
        if self._state is None:
            return []
        # A wall clock that was put back must not stretch the interval, nor keep the hour's costs for longer.
        self._ended = None if self._ended is None else min(self._ended, now)
        if self._costs and self._costs[-1][0] > now:
            self._costs = deque((min(at, now), cost) for at, cost in self._costs)
        while self._costs and self._costs[0][0] < now - 3600:
            self._costs.popleft()
        commanded = self._state.train_now > self.memory.train_now
        self.decision = schedule.decide(
            schedule.Facts(
                now=now,
                new_examples=self._max_seq - self.memory.tried_upto,
                evaluable=self._holdout + max(0, self._max_seq - self._champion_upto),
                since_last_round_s=None if self._ended is None else now - self._ended,
                total_examples=self._train,
                examples_since_adapt=self._max_seq - self.memory.adapt_upto,
                misjudged_since_adapt=self.memory.misjudged,
                adapts_in_vain=self.memory.adapts_in_vain,
                adapted=self.memory.adapt_upto > 0,
                drift_pending=self._drift_pending(),
                examples_since_drift=0 if self.memory.drift_at is None else self._max_seq - self.memory.drift_at,
                train_now=commanded,
                paused=self._state.paused,
                pinned=self._state.pinned,
                running=self._running,
                leading=self.leading,
                cpu_s_last_hour=sum(cost for _, cost in self._costs),
                consecutive_refusals=self._failures,
            ),
            self._policy,
        )
        if not self.decision.start or self.decision.kind == "":
            return []
        self._running = True
        self._started = Memory(
            adapt_upto=self._max_seq if self.decision.kind == "adapt" else self.memory.adapt_upto,
            tried_upto=self._max_seq,
            train_now=self._state.train_now,
            misjudged=self.memory.misjudged,
        )
        return [StartRound(kind=self.decision.kind, reason=self.decision.reason)]

    def _drift_pending(self) -> bool:
        """An alarm stands, and errors have not fallen half way back since, which heads can bring about too."""
        if self.memory.drift_at is None:
            return False
        reading = self._detector.reading()
        # After a restart, or where few labels cover what they sample, nothing is known of the errors since.
        known = reading is not None and reading.over >= RECENT
        if reading is None or not known or self._max_seq - self.memory.drift_at < self._policy.adapt_after_drift:
            return True
        if reading.error < self.memory.drift_level:
            self.memory.drift_at = None
            return False
        return True


def base_of(version: str) -> str:
    """``v3.7.0`` is of base ``v3``."""
    return version.partition(".")[0]
