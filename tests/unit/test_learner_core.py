"""The learning core without I/O: facts and times go in, effects come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.learn.drift import Alarm, NoDrift, Reading, detector
from stream_ft.learn.job import Job, Kind, Result
from stream_ft.learn.learner import (
    AllowLabel,
    Controlled,
    DriftAlarm,
    Effect,
    Fact,
    GatePolicy,
    Lead,
    Learned,
    Learner,
    Quarantine,
    Refuse,
    Release,
    RoundEnded,
    StartRound,
)
from stream_ft.learn.schedule import Policy
from stream_ft.release.fold import Quarantined, State
from stream_ft.release.grown import Register

BASE, HEAD = "b" * 64, "c" * 64
OTHER = "d" * 64
NUMBERS = Register({BASE: 0, OTHER: 2})
JOB = Job(kind="head", base_model="m", champion_base=BASE, examples_upto=50, epoch=1)
POLICY = Policy(
    interval_s=5.0,
    min_new=50,
    min_evaluation=200,
    adapt_every=2_000,
    adapt_first=1_000,
    adapt_misjudged=0,
    adapt_gain=0.01,
    adapt_on_drift=True,
    adapt_after_drift=300,
    quiet_hours="",
    budget_cpu_s_per_hour=100.0,
)


class AlarmAt:
    """A detector that alarms at given updates, and counts resets."""

    def __init__(self, *at: int) -> None:
        self.at = set(at)
        self.errors: list[float] = []
        self.resets = 0

    def update(self, error: float) -> Alarm | None:
        self.errors.append(error)
        if len(self.errors) not in self.at:
            return None
        return Alarm(kind="fake", direction="worse", size=0.3, before=0.1, after=0.4)

    def reset(self) -> None:
        self.resets += 1

    def reading(self) -> Reading:
        recent = self.errors[-50:]
        error = sum(recent) / max(1, len(recent))
        return Reading(detector="fake", statistic=0.0, threshold=1.0, error=error, over=len(recent))


def learner(found: Any = None, *, leads: bool = True, **policy: Any) -> Learner:
    """A learner; one that ``leads`` has asked to, and hears so from the next :func:`controlled`."""
    made = Learner(
        name="a",
        policy=replace(POLICY, **policy),
        gate_policy=GatePolicy(margin=0.02, confidence=0.95, class_floor=0.2, class_support=10, min_examples=200),
        detector=found or NoDrift(),
    )
    if leads:
        assert kinds(made.step([controlled(epoch=0, leader="")], 0.0)) == [Lead]
    return made


def state(**changes: Any) -> State:
    here = State(log_id="log", offset=1, epoch=1, leader="learner/a", base=BASE, start_head=HEAD, numbers=NUMBERS)
    return replace(here, **changes)


def controlled(upto: int = 0, **changes: Any) -> Controlled:
    return Controlled(state=state(**changes), champion_upto=upto)


def learned(seq: int, *, errors: Sequence[bool] = (), holdout: int = 0) -> Learned:
    return Learned(errors=errors, versions=["v0.1.0"] * len(errors), max_seq=seq, train=seq - holdout, holdout=holdout)


def wrong(seq: int, misjudged: int) -> Learned:
    return replace(learned(seq), misjudged=misjudged)


def scores(share: float, n: int) -> list[float]:
    return [1.0] * round(n * share) + [0.0] * (n - round(n * share))


def ended(champion: float, candidate: float, *, n: int = 300, cpu_s: float = 1.0, kind: Kind = "head") -> RoundEnded:
    """A round whose candidate has this accuracy, and whose champion has that one."""
    judged = [scores(share, n) for share in (champion, candidate)]
    result = Result(
        ok=True,
        kind=kind,
        examples_upto=50,
        scores_champion=judged[0],
        scores_candidate=judged[1],
        classes=["x"] * n,
    )
    return RoundEnded(job=msgspec.structs.replace(JOB, kind=kind), result=result, reason="", cpu_s=cpu_s)


FAILED = RoundEnded(job=JOB, result=None, reason="The round was killed.", cpu_s=3.0)


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


# --- leading -------------------------------------------------------------------------------------------------------


def test_it_says_once_that_it_leads() -> None:
    core = learner(leads=False)
    assert core.step([controlled(leader=None, epoch=0)], 0.0) == [Lead(expected_epoch=0)]
    assert core.step([controlled(leader=None, epoch=0)], 1.0) == []
    assert core.step([controlled(epoch=1)], 2.0) == []
    assert core.leading


def test_a_restarted_learner_leads_anew_so_that_its_zombie_is_fenced() -> None:
    core = learner(leads=False)
    assert core.step([controlled(epoch=5)], 0.0) == [Lead(expected_epoch=5)]
    assert not core.leading
    core.step([controlled(epoch=6)], 1.0)
    assert core.leading


def test_a_lead_that_was_overtaken_is_said_again() -> None:
    core = learner(leads=False)
    core.step([controlled(leader=None, epoch=3)], 0.0)
    assert core.step([controlled(leader="learner/b", epoch=4)], 1.0) == [Lead(expected_epoch=4)]


def test_one_that_led_stands_by_once_another_leads() -> None:
    core = learner()
    core.step([controlled(leader=None, epoch=0)], 0.0)
    core.step([controlled(epoch=1), learned(100)], 1.0)
    effects = core.step([controlled(leader="learner/b", epoch=2), learned(600)], 100.0)
    assert effects == []
    assert not core.leading
    assert "stands by" in core.decision.reason


def test_nothing_starts_before_the_control_log_was_folded() -> None:
    core = learner()
    assert core.step([learned(1_000)], 0.0) == []
    assert kinds(core.step([controlled()], 0.0)) == [StartRound]


# --- rounds --------------------------------------------------------------------------------------------------------


def test_one_round_at_a_time() -> None:
    core = learner()
    effects = core.step([controlled(), learned(250)], 0.0)
    assert effects == [StartRound(kind="head", reason="250 examples new or revised.")]
    assert core.step([learned(900)], 50.0) == []
    assert core.decision.reason == "A round is running."


def test_a_good_candidate_is_released_with_its_verdict() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    (effect,) = core.step([ended(0.5, 0.9)], 10.0)
    assert isinstance(effect, Release)
    assert effect.job == JOB
    assert effect.verdict.accepted
    assert effect.verdict.candidate == pytest.approx(0.9)
    assert core.verdict == effect.verdict


def test_a_bad_candidate_is_refused_with_its_verdict() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    (effect,) = core.step([ended(0.9, 0.6)], 10.0)
    assert isinstance(effect, Refuse)
    assert effect.verdict is not None
    assert effect.reason == effect.verdict.reason
    assert "Not shown to be as good" in effect.reason


def test_a_round_that_failed_has_a_reason_and_no_verdict() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    assert core.step([FAILED], 10.0) == [Refuse(job=JOB, verdict=None, reason="The round was killed.")]


def test_the_next_round_waits_for_new_examples_and_the_interval() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    core.step([ended(0.5, 0.9)], 10.0)
    assert core.step([controlled(upto=50, epoch=2, start_head="d" * 64), learned(299)], 20.0) == []
    assert core.decision.reason == "Waiting for 1 more example."
    assert core.step([learned(300)], 14.9) == []
    assert kinds(core.step([], 15.0)) == [StartRound]


def test_what_the_champion_has_learned_cannot_judge_it() -> None:
    core = learner()
    assert core.step([controlled(upto=100), learned(290)], 0.0) == []
    assert "190 of 200" in core.decision.reason
    assert kinds(core.step([learned(300)], 1.0)) == [StartRound]


def test_the_holdout_counts_for_judging() -> None:
    core = learner()
    assert kinds(core.step([controlled(upto=1_000), learned(1_010, holdout=195)], 0.0)) == [StartRound]


def test_refusals_in_a_row_back_off_and_a_release_ends_that() -> None:
    core = learner()
    now = 0.0
    core.step([controlled(), learned(250)], now)
    for i in range(4):
        core.step([ended(0.9, 0.5)], now)
        core.step([learned(300 + 50 * i)], now)
        pause = 5.0 * 2 ** max(0, i)
        assert core.step([], now + pause - 0.1) == []
        now += pause
        assert kinds(core.step([], now)) == [StartRound]
    core.step([ended(0.5, 0.9)], now)
    assert kinds(core.step([learned(600)], now + 5.0)) == [StartRound]


def test_a_round_that_could_not_start_may_start_later() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    core.not_started("Too few.", 1.0)
    assert core.decision.reason == "Too few."
    assert core.step([learned(320)], 5.9) == []
    assert kinds(core.step([], 6.0)) == [StartRound]


def test_the_budget_of_the_hour() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    core.step([ended(0.5, 0.9, cpu_s=100.0)], 100.0)
    assert core.step([learned(400)], 3_000.0) == []
    assert "budget" in core.decision.reason
    assert kinds(core.step([], 3_701.0)) == [StartRound]


@pytest.mark.parametrize("flag", ["paused", "pinned"])
def test_a_flag_stops_rounds_until_it_is_gone(flag: str) -> None:
    core = learner()
    assert core.step([controlled(**{flag: True}), learned(400)], 0.0) == []
    assert kinds(core.step([controlled()], 1.0)) == [StartRound]


def test_train_now_is_answered_once() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    core.step([ended(0.9, 0.5)], 10.0)
    assert kinds(core.step([controlled(train_now=1)], 10.5)) == [StartRound]
    core.step([ended(0.9, 0.5)], 11.0)
    assert core.step([controlled(train_now=1)], 11.5) == []
    assert kinds(core.step([controlled(train_now=3)], 12.0)) == [StartRound]


def test_train_now_waits_until_there_is_something_to_judge_by() -> None:
    core = learner()
    assert core.step([controlled(train_now=1), learned(100)], 0.0) == []
    assert kinds(core.step([learned(200)], 1.0)) == [StartRound]


def test_the_encoder_is_trained_when_due_and_then_not_at_once_again() -> None:
    core = learner()
    (effect,) = core.step([controlled(), learned(1_000)], 0.0)
    assert isinstance(effect, StartRound)
    assert effect.kind == "adapt"
    core.step([ended(0.5, 0.9)], 60.0)
    (effect,) = core.step([learned(1_100)], 70.0)
    assert isinstance(effect, StartRound)
    assert effect.kind == "head"


# --- drift ---------------------------------------------------------------------------------------------------------


def test_errors_reach_the_detector_in_order_and_an_alarm_comes_out() -> None:
    found = AlarmAt(3)
    core = learner(found)
    (effect,) = core.step([learned(10, errors=[True, False]), learned(12, errors=[True, True])], 0.0)
    assert isinstance(effect, DriftAlarm)
    assert effect.alarm.size == 0.3
    assert found.errors == [1.0, 0.0, 1.0, 1.0]
    assert core.alarms == 1


def test_an_alarm_brings_an_encoder_round_once_it_has_something_to_learn() -> None:
    core = learner(AlarmAt(1), min_new=10_000)
    core.step([controlled(), learned(500, errors=[True])], 0.0)
    assert core.step([learned(799)], 10.0) == []
    (effect,) = core.step([learned(800)], 11.0)
    assert isinstance(effect, StartRound)
    assert effect.kind == "adapt"
    core.step([ended(0.5, 0.9)], 60.0)
    assert core.step([learned(1_300)], 100.0) == []


def test_a_new_base_resets_the_detector() -> None:
    found = AlarmAt()
    core = learner(found)
    core.step([controlled()], 0.0)
    core.step([controlled(train_now=0, offset=2)], 1.0)
    assert found.resets == 0
    core.step([controlled(base="e" * 64, start_head="d" * 64, epoch=2)], 2.0)
    assert found.resets == 1


# --- operators -----------------------------------------------------------------------------------------------------


def test_quarantines_and_labels_are_carried_out_once() -> None:
    core = learner()
    first = Quarantined(source="bulk", since=None, until=5.0)
    second = Quarantined(source=None, since=1.0, until=2.0)
    assert core.step([controlled(quarantines=(first,), labels_added=("new",))], 0.0) == [
        Quarantine(source="bulk", since=None, until=5.0),
        AllowLabel(label="new"),
    ]
    assert core.step([controlled(quarantines=(first, second), labels_added=("new", "newer"))], 1.0) == [
        Quarantine(source=None, since=1.0, until=2.0),
        AllowLabel(label="newer"),
    ]
    assert core.step([controlled(quarantines=(first, second), labels_added=("new", "newer"))], 2.0) == []


def test_a_restart_remembers_what_was_carried_out() -> None:
    core = learner()
    wanted = controlled(quarantines=(Quarantined(source="s", since=None, until=None),), labels_added=("new",))
    core.step([wanted], 0.0)
    again = learner()
    again.restore(core.snapshot())
    assert again.memory == core.memory
    assert all(isinstance(effect, Lead) for effect in again.step([wanted], 1.0))


def test_a_fresh_start_remembers_nothing() -> None:
    core = learner()
    core.restore(None)
    assert core.memory.adapt_upto == 0


# --- properties ----------------------------------------------------------------------------------------------------

FACTS = st.one_of(
    st.tuples(st.just("learn"), st.integers(0, 120), st.lists(st.booleans(), max_size=20)),
    st.tuples(st.just("end"), st.sampled_from([0.2, 0.9]), st.sampled_from([0.2, 0.9])),
    st.tuples(st.just("fail"), st.none(), st.none()),
    st.tuples(st.just("lead"), st.sampled_from(["learner/a", "learner/b", None]), st.booleans()),
    st.tuples(st.just("none"), st.none(), st.none()),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(FACTS, st.floats(0, 400)), max_size=60))
def test_the_same_facts_give_the_same_effects_and_rounds_never_overlap(steps: list[tuple[Any, float]]) -> None:
    cores = [learner(detector("page_hinkley", delta=1e-3)) for _ in range(2)]
    now, seq, epoch, running = 0.0, 0, 1, False
    leader: str | None = "learner/a"
    for (kind, first, second), pause in steps:
        now += pause
        facts: list[Fact] = []
        if kind == "learn":
            seq += first
            facts = [learned(seq, errors=second)]
        elif kind in ("end", "fail") and running:
            facts = [ended(first, second) if kind == "end" else FAILED]
            running = False
        elif kind == "lead":
            leader, epoch = first, epoch + 1
            facts = [controlled(leader=leader, epoch=epoch, paused=second)]
        one, other = (core.step(facts, now) for core in cores)
        assert one == other
        starts = [effect for effect in one if isinstance(effect, StartRound)]
        assert len(starts) <= 1
        if starts:
            assert not running
            assert leader == "learner/a"
            assert seq >= 200
            running = True
        assert cores[0].decision.reason


# --- what a killed learner still knows ---------------------------------------------------------------------------


def test_a_round_that_died_with_its_learner_starts_again() -> None:
    core = learner()
    assert kinds(core.step([controlled(), learned(250)], 0.0)) == [StartRound]
    again = learner()
    again.restore(core.snapshot())
    assert kinds(again.step([controlled(), learned(250)], 0.0)) == [StartRound]


def test_a_round_that_ended_does_not_start_again_with_the_learner() -> None:
    core = learner()
    core.step([controlled(), learned(250)], 0.0)
    core.step([ended(0.5, 0.2)], 1.0)
    again = learner()
    again.restore(core.snapshot())
    assert again.step([controlled(), learned(250)], 100.0) == []


# --- whose errors count ------------------------------------------------------------------------------------------


def test_a_refitted_head_goes_on_with_the_detector_and_another_base_does_not() -> None:
    found = AlarmAt()
    core = learner(found)
    core.step([controlled()], 0.0)
    core.step([controlled(start_head="e" * 64, epoch=2)], 1.0)
    assert found.resets == 0
    core.step([controlled(base=OTHER, epoch=3)], 2.0)
    assert found.resets == 1


def test_a_late_label_of_another_base_says_nothing_of_this_one() -> None:
    found = AlarmAt()
    core = learner(found)
    core.step([controlled()], 0.0)
    late = Learned(errors=[True, False], versions=["v2.2.0", "v0.1.0"], max_seq=2, train=2, holdout=0)
    core.step([late], 1.0)
    assert found.errors == [0.0]


# --- rounds that died ----------------------------------------------------------------------------------------------


def test_a_round_that_died_starts_again_without_news() -> None:
    core = learner(adapt_first=10_000, adapt_every=10_000)
    assert StartRound in kinds(core.step([controlled(), learned(900)], 0.0))
    assert kinds(core.step([FAILED], 10.0)) == [Refuse]
    assert StartRound in kinds(core.step([], 10_000.0))


def test_an_encoder_round_that_died_is_tried_again_once_and_its_alarm_stays() -> None:
    core = learner(AlarmAt(3), adapt_first=10_000, adapt_every=10_000, adapt_after_drift=0)
    (_, started) = core.step([controlled(), learned(900, errors=[True] * 3)], 0.0)
    assert isinstance(started, StartRound)
    assert started.kind == "adapt"
    core.step([FAILED], 10.0)
    assert core.memory.drift_at == 900
    (again,) = core.step([], 10_000.0)
    assert isinstance(again, StartRound)
    assert again.kind == "adapt"
    core.step([FAILED], 10_010.0)
    (head,) = core.step([], 20_000.0)
    assert isinstance(head, StartRound)
    assert head.kind == "head", "an encoder that cannot be trained must not keep heads from being refitted"


# --- whether the encoder is worth training --------------------------------------------------------------------------


def test_an_alarm_whose_errors_fell_again_is_answered() -> None:
    """A rise from 0.1 to 0.4: below 0.25 the heads have answered it."""
    for later, kind in (([True, False] * 25, "adapt"), ([True, False, False, False, False] * 10, "head")):
        core = learner(AlarmAt(3), adapt_first=10_000, adapt_every=10_000, adapt_after_drift=300)
        core.step([controlled(), learned(900, errors=[True] * 3)], 0.0)
        core.step([ended(0.5, 0.5)], 1.0)
        (started,) = core.step([learned(1_200, errors=later)], 10.0)
        assert isinstance(started, StartRound)
        assert started.kind == kind
        assert (core.memory.drift_at is None) == (kind == "head")


def test_an_alarm_is_not_answered_before_anything_was_learned_since() -> None:
    core = learner(AlarmAt(3), adapt_first=10_000, adapt_every=10_000, adapt_after_drift=300)
    core.step([controlled(), learned(900, errors=[True] * 3)], 0.0)
    core.step([learned(950, errors=[False] * 60)], 1.0)
    assert core.memory.drift_at == 900


def test_an_alarm_is_not_answered_by_errors_of_which_nothing_is_known() -> None:
    """After a restart, or where few labels cover what they sample."""
    core = learner(AlarmAt(3), adapt_first=10_000, adapt_every=10_000, adapt_after_drift=300)
    core.step([controlled(), learned(900, errors=[True] * 3)], 0.0)
    again = learner(AlarmAt(), adapt_first=10_000, adapt_every=10_000, adapt_after_drift=300)
    again.restore(core.snapshot())
    (started,) = again.step([controlled(), learned(1_300, errors=[False] * 5)], 10.0)
    assert isinstance(started, StartRound)
    assert started.kind == "adapt"


def test_an_alarm_that_came_during_a_round_is_not_answered_by_it() -> None:
    core = learner(AlarmAt(3), adapt_after_drift=300)
    (started,) = core.step([controlled(), learned(2_000)], 0.0)
    assert isinstance(started, StartRound)
    assert started.kind == "adapt"
    core.step([learned(2_050, errors=[True] * 3)], 1.0)
    core.step([ended(0.5, 0.2, kind="lora")], 2.0)
    assert core.memory.drift_at == 2_050


@pytest.mark.parametrize(
    ("candidate", "before", "in_vain"),
    [
        (0.6, 2, -1),
        (0.515, 2, 2),  # not surely
        (0.502, 2, 3),
        (0.2, 2, 3),
        (0.5, 2, 3),
        (0.515, -1, -1),
        (0.502, -1, 0),
    ],
)
def test_an_encoder_round_counts_as_a_gain_once_it_is_sure(candidate: float, before: int, in_vain: int) -> None:
    core = learner()
    core.memory.adapts_in_vain = before
    core.step([controlled(), learned(2_000)], 0.0)
    core.step([ended(0.5, candidate, n=1_000, kind="lora")], 1.0)
    assert core.memory.adapts_in_vain == in_vain
    again = learner()
    again.restore(core.snapshot())
    assert again.memory.adapts_in_vain == in_vain


@pytest.mark.parametrize(("met", "in_vain"), [(0.5, 2), (0.515, 2), (0.55, -1)])
def test_what_came_meanwhile_makes_a_gain_sure(met: float, in_vain: int) -> None:
    core = learner()
    core.memory.adapts_in_vain = 2
    core.step([controlled(), learned(2_000)], 0.0)
    judged = ended(0.5, 0.515, n=1_000, kind="lora")
    assert judged.result is not None
    result = msgspec.structs.replace(judged.result, met_live=scores(0.5, 1_000), met_candidate=scores(met, 1_000))
    core.step([replace(judged, result=result)], 1.0)
    assert core.memory.adapts_in_vain == in_vain


@pytest.mark.parametrize(("before", "in_vain"), [(0, 0), (2, 2), (-1, 0)])
def test_a_round_on_too_few_examples_to_tell_is_not_in_vain(before: int, in_vain: int) -> None:
    core = learner()
    core.memory.adapts_in_vain = before
    core.step([controlled(), learned(2_000)], 0.0)
    judged = ended(0.5, 0.5, n=300, kind="lora")
    assert judged.result is not None
    undecided = [0.0] * 60 + [1.0] * 55 + [1.0] * 185, [1.0] * 60 + [0.0] * 55 + [1.0] * 185
    result = msgspec.structs.replace(judged.result, scores_champion=undecided[0], scores_candidate=undecided[1])
    (refused,) = core.step([replace(judged, result=result)], 1.0)
    assert isinstance(refused, Refuse)
    assert core.memory.adapts_in_vain == in_vain


def test_a_round_of_the_head_or_one_that_died_says_nothing_of_the_encoder() -> None:
    core = learner()
    core.step([controlled(), learned(900)], 0.0)
    core.step([ended(0.5, 0.5)], 1.0)
    core.step([learned(2_000)], 10.0)
    core.step([FAILED], 20.0)
    assert core.memory.adapts_in_vain == 0


def test_wrong_answers_count_from_the_start_of_the_last_encoder_round() -> None:
    core = learner(adapt_misjudged=100)
    core.step([controlled(), wrong(1_000, 40)], 0.0)
    assert core.decision.kind == "head", "40 wrong answers are too few"
    core.step([ended(0.5, 0.6)], 1.0)
    (started,) = core.step([wrong(1_100, 70)], 10.0)
    assert isinstance(started, StartRound)
    assert started.kind == "adapt"
    core.step([wrong(1_150, 30)], 11.0)
    core.step([ended(0.5, 0.6, kind="lora")], 12.0)
    assert core.memory.misjudged == 30


def test_a_restart_forgets_few_wrong_answers() -> None:
    core = learner(adapt_misjudged=1_000)
    core.step([controlled(), wrong(10, 49)], 0.0)
    assert not core.stale
    core.step([wrong(20, 1)], 1.0)
    assert core.stale
    again = learner()
    again.restore(core.snapshot())
    assert again.memory.misjudged == 50
    assert not core.stale
    assert not again.stale


def test_an_alarm_outlives_a_restart() -> None:
    core = learner(AlarmAt(3), adapt_first=10_000, adapt_every=10_000, adapt_after_drift=300)
    core.step([controlled(), learned(900, errors=[True] * 3)], 0.0)
    again = learner(adapt_first=10_000, adapt_every=10_000, adapt_after_drift=300)
    again.restore(core.snapshot())
    assert again.memory.drift_at == 900


def test_a_command_that_cannot_be_carried_out_is_not_asked_for_at_every_step() -> None:
    core = learner(interval_s=5.0, adapt_first=10_000, adapt_every=10_000)
    assert StartRound in kinds(core.step([controlled(train_now=1), learned(900)], 0.0))
    core.not_started("Too few.", 0.0)
    assert core.step([], 1.0) == []
