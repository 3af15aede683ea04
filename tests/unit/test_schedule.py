"""When a round starts: every reason to wait, who overrides what, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.config import ScheduleSettings
from stream_ft.errors import ConfigError
from stream_ft.learn.schedule import Decision, Facts, Policy, decide, patience

HOUR = 3600.0
POLICY = Policy(
    interval_s=5.0,
    min_new=50,
    min_evaluation=200,
    adapt_every=2_000,
    adapt_first=1_000,
    adapt_misjudged=200,
    adapt_gain=0.01,
    adapt_on_drift=True,
    adapt_after_drift=300,
    quiet_hours="",
    budget_cpu_s_per_hour=600.0,
)
DUE = Facts(
    now=12 * HOUR,
    new_examples=50,
    evaluable=200,
    since_last_round_s=5.0,
    total_examples=500,
    examples_since_adapt=50,
    misjudged_since_adapt=500,
    adapts_in_vain=0,
    adapted=False,
    drift_pending=False,
    examples_since_drift=0,
    train_now=False,
    paused=False,
    pinned=False,
    running=False,
    leading=True,
    cpu_s_last_hour=0.0,
    consecutive_refusals=0,
)


def waits(decision: Decision, reason: str) -> None:
    assert (decision.start, decision.kind) == (False, "")
    assert reason in decision.reason


def test_a_head_round_starts_when_all_is_there() -> None:
    assert decide(DUE, POLICY) == Decision(start=True, kind="head", reason="50 examples new or revised.", next_s=None)


def test_settings_make_a_policy() -> None:
    assert Policy(**ScheduleSettings().model_dump()).min_new == 50


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"running": True}, "A round is running."),
        ({"leading": False}, "stands by"),
        ({"paused": True}, "paused"),
        ({"pinned": True}, "pinned"),
        ({"total_examples": 0}, "first examples"),
        ({"evaluable": 199}, "Waiting for 1 example more to judge a round by: 199 of 200 are there."),
    ],
)
@pytest.mark.parametrize("commanded", [False, True])
def test_what_nothing_overrides(change: dict[str, object], reason: str, commanded: bool) -> None:
    waits(decide(replace(DUE, train_now=commanded, **change), POLICY), reason)


@pytest.mark.parametrize(
    ("change", "reason", "next_s"),
    [
        ({"new_examples": 27}, "Waiting for 23 more examples.", None),
        ({"new_examples": 49}, "Waiting for 1 more example.", None),
        ({"since_last_round_s": 2.0}, "3 s left of the interval", 3.0),
        ({"cpu_s_last_hour": 600.0}, "budget is spent: 600 of 600 s", 60.0),
        ({"consecutive_refusals": 3, "since_last_round_s": 5.0}, "3 rounds in a row", 15.0),
    ],
)
def test_what_a_command_overrides(change: dict[str, object], reason: str, next_s: float | None) -> None:
    facts = replace(DUE, **change)
    decision = decide(facts, POLICY)
    waits(decision, reason)
    assert decision.next_s == next_s
    assert decide(replace(facts, train_now=True), POLICY).start


@pytest.mark.parametrize(("total", "needed"), [(60, 50), (300, 150), (1_999, 999), (2_000, 1_000), (90_000, 1_000)])
def test_beside_a_fast_tier_heads_are_refitted_less_and_less_often(total: int, needed: int) -> None:
    policy = replace(POLICY, head_every=1_000)
    facts = replace(DUE, total_examples=total)
    assert decide(replace(facts, new_examples=needed), policy).kind == "head"
    waits(decide(replace(facts, new_examples=needed - 1), policy), "Waiting for 1 more example.")


def test_a_command_without_anything_new_starts_a_head_round() -> None:
    decision = decide(replace(DUE, new_examples=0, train_now=True), POLICY)
    assert (decision.start, decision.kind, decision.reason) == (True, "head", "An operator asked for a round.")


def test_the_first_round_waits_for_no_interval() -> None:
    assert decide(replace(DUE, since_last_round_s=None), POLICY).start


@pytest.mark.parametrize(
    ("refusals", "pause"), [(0, 5), (1, 5), (2, 10), (3, 20), (5, 80), (7, 300), (8, 300), (10_000, 300)]
)
def test_the_back_off_doubles_up_to_five_minutes(refusals: int, pause: float) -> None:
    facts = replace(DUE, consecutive_refusals=refusals)
    assert not decide(replace(facts, since_last_round_s=pause - 0.1), POLICY).start
    assert decide(replace(facts, since_last_round_s=float(pause)), POLICY).start


def test_an_interval_longer_than_the_back_off_stands() -> None:
    policy = replace(POLICY, interval_s=1_000.0)
    assert not decide(replace(DUE, consecutive_refusals=9, since_last_round_s=999.0), policy).start
    assert decide(replace(DUE, consecutive_refusals=9, since_last_round_s=1_000.0), policy).start


def test_without_an_interval_failures_still_back_off() -> None:
    policy = replace(POLICY, interval_s=0.0)
    assert decide(replace(DUE, since_last_round_s=0.0), policy).start
    assert not decide(replace(DUE, consecutive_refusals=4, since_last_round_s=7.9), policy).start


# --- encoder rounds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "kind"), [(999, "head"), (1_000, "adapt")])
def test_the_first_encoder_round(count: int, kind: str) -> None:
    assert decide(replace(DUE, total_examples=count, examples_since_adapt=count), POLICY).kind == kind


@pytest.mark.parametrize(("since", "kind"), [(1_999, "head"), (2_000, "adapt")])
def test_later_encoder_rounds(since: int, kind: str) -> None:
    facts = replace(DUE, total_examples=5_000, examples_since_adapt=since, adapted=True)
    assert decide(facts, POLICY).kind == kind


def test_without_errors_there_is_nothing_to_train_the_encoder_for() -> None:
    facts = replace(DUE, total_examples=5_000, examples_since_adapt=5_000)
    assert decide(replace(facts, misjudged_since_adapt=199), POLICY).kind == "head"
    decision = decide(replace(facts, misjudged_since_adapt=200), POLICY)
    assert decision.kind == "adapt"
    assert decision.reason.endswith("trained, and 200 answers that were wrong.")


@pytest.mark.parametrize(("in_vain", "times"), [(-1, 0.5), (0, 1), (1, 4), (2, 16), (3, 64), (4, 64), (10_000, 64)])
def test_rounds_that_gained_too_little_make_the_next_wait_longer(in_vain: int, times: float) -> None:
    assert patience(in_vain) == times
    enough = replace(
        DUE,
        total_examples=5_000,
        examples_since_adapt=round(times * 2_000),
        misjudged_since_adapt=round(times * 200),
        adapted=True,
        adapts_in_vain=in_vain,
    )
    assert decide(enough, POLICY).kind == "adapt"
    assert decide(replace(enough, examples_since_adapt=round(times * 2_000) - 1), POLICY).kind == "head"
    assert decide(replace(enough, misjudged_since_adapt=round(times * 200) - 1), POLICY).kind == "head"


def test_errors_that_stay_up_after_an_alarm_have_no_patience() -> None:
    facts = replace(DUE, adapted=True, adapts_in_vain=3, drift_pending=True, examples_since_drift=300)
    assert decide(facts, POLICY).kind == "adapt"


def test_revisions_of_few_examples_are_no_first_encoder_round() -> None:
    facts = replace(DUE, total_examples=1_000, examples_since_adapt=1_500, adapted=True)
    assert decide(facts, POLICY).kind == "head"


def test_zero_never_adapts_by_count() -> None:
    policy = replace(POLICY, adapt_every=0)
    assert decide(replace(DUE, total_examples=9_000, examples_since_adapt=9_000), policy).kind == "head"


@pytest.mark.parametrize(("since", "kind"), [(299, "head"), (300, "adapt")])
def test_drift_brings_the_encoder_round_forward(since: int, kind: str) -> None:
    facts = replace(DUE, drift_pending=True, examples_since_drift=since)
    assert decide(facts, POLICY).kind == kind
    assert decide(facts, replace(POLICY, adapt_on_drift=False)).kind == "head"


def test_an_encoder_round_that_is_due_does_not_wait_for_new_examples() -> None:
    facts = replace(DUE, new_examples=0, drift_pending=True, examples_since_drift=400)
    assert decide(facts, POLICY).kind == "adapt"


def test_an_encoder_round_obeys_interval_and_budget() -> None:
    facts = replace(DUE, drift_pending=True, examples_since_drift=400)
    assert not decide(replace(facts, since_last_round_s=1.0), POLICY).start
    assert not decide(replace(facts, cpu_s_last_hour=700.0), POLICY).start


# --- quiet hours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quiet", "hour", "left_h"),
    [
        ("22-06", 21.99, None),
        ("22-06", 22, 8),
        ("22-06", 3, 3),
        ("22-06", 6, None),
        ("9-17", 8.99, None),
        ("9-17", 9, 8),
        (" 9 - 17 ", 16.5, 0.5),
        ("9-17", 17, None),
        ("00-24", 13, 11),
        ("7-7", 7, None),
    ],
)
def test_quiet_hours(quiet: str, hour: float, left_h: float | None) -> None:
    facts = replace(DUE, now=20_000 * 24 * HOUR + hour * HOUR)
    decision = decide(facts, replace(POLICY, quiet_hours=quiet))
    if left_h is None:
        assert decision.start
        return
    waits(decision, "Quiet hours")
    assert decision.next_s == pytest.approx(left_h * HOUR)
    assert decide(replace(facts, train_now=True), replace(POLICY, quiet_hours=quiet)).start


@pytest.mark.parametrize("quiet", ["22", "25-06", "22:00-06:00", "night", "-1-5"])
def test_quiet_hours_that_cannot_be_read_are_told_at_once(quiet: str) -> None:
    with pytest.raises(ConfigError, match="HH-HH"):
        replace(POLICY, quiet_hours=quiet)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Facts,
        now=st.floats(0, 4e9),
        new_examples=st.integers(0, 5_000),
        evaluable=st.integers(0, 1_000),
        since_last_round_s=st.none() | st.floats(0, 1_000),
        total_examples=st.integers(0, 5_000),
        examples_since_adapt=st.integers(0, 5_000),
        misjudged_since_adapt=st.integers(0, 5_000),
        adapts_in_vain=st.integers(-1, 30),
        adapted=st.booleans(),
        drift_pending=st.booleans(),
        examples_since_drift=st.integers(0, 1_000),
        train_now=st.booleans(),
        paused=st.booleans(),
        pinned=st.booleans(),
        running=st.booleans(),
        leading=st.booleans(),
        cpu_s_last_hour=st.floats(0, 2_000),
        consecutive_refusals=st.integers(0, 50),
    )
)
def test_every_decision_is_whole(facts: Facts) -> None:
    decision = decide(facts, replace(POLICY, quiet_hours="1-5"))
    assert decision.start is (decision.kind != "")
    assert decision.reason.endswith(".")
    assert decision.next_s is None or decision.next_s > 0
    if decision.start:
        assert facts.leading
        assert (facts.paused, facts.pinned, facts.running) == (False, False, False)
        assert facts.evaluable >= POLICY.min_evaluation
