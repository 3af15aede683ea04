"""The fold, row by row of its table: when a message is accepted, and what it does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from stream_ft.release.fold import INITIAL, Entry, Quarantined, Release, State, Trial, Verdict, fold

A, B, C, D = (letter * 64 for letter in "abcd")
H0, H1, H2, H3 = (digit * 64 for digit in "0123")
ANNA, ONE, TWO = "operator/anna", "learner/one", "learner/two"
_ids = count()


def message(kind: str, by: str = ANNA, **fields: Any) -> dict[str, Any]:
    header = {"type": kind, "id": f"m{next(_ids)}", "issued_by": by, "issued_at": "2026-01-31T12:00:00Z"}
    return header | fields


def say(state: State, kind: str, by: str = ANNA, at: float = 1000.0, **fields: Any) -> tuple[State, Verdict]:
    value = json.dumps(message(kind, by, **fields)).encode()
    return fold(state, Entry(offset=state.offset + 1, appended_at=at, value=value))


def accepted(state: State, kind: str, by: str = ANNA, **fields: Any) -> State:
    after, verdict = say(state, kind, by, **fields)
    assert verdict.accepted, verdict.reason
    assert verdict.reason == ""
    return after


def refused(state: State, kind: str, by: str = ANNA, **fields: Any) -> str:
    after, verdict = say(state, kind, by, **fields)
    assert not verdict.accepted
    assert replace(after, offset=state.offset, ids=state.ids) == state
    assert verdict.id in after.ids
    assert verdict.reason.endswith(".")
    return verdict.reason


@pytest.fixture
def begun() -> State:
    return accepted(INITIAL, "genesis", log_id="log", base=A, start_head=H0)


@pytest.fixture
def led(begun: State) -> State:
    return accepted(begun, "lead", ONE, expected_epoch=0)


@pytest.fixture
def promoted(led: State) -> State:
    """Epoch 2: base B; the history is A, A, B."""
    return accepted(led, "promote", ONE, base=B, start_head=H1, parent=A, expected_epoch=1)


# --- genesis ---------------------------------------------------------------------------------------------------


def test_genesis_begins_the_log(begun: State) -> None:
    assert (begun.log_id, begun.epoch, begun.leader) == ("log", 0, None)
    assert begun.release == Release(A, H0)
    assert list(begun.history) == [(0, Release(A, H0))]
    assert begun.version == "v0.0.0"


def test_a_second_genesis_is_refused(begun: State) -> None:
    refused(begun, "genesis", log_id="other", base=B, start_head=H1)


def test_a_genesis_must_be_the_first_message() -> None:
    state, _ = fold(INITIAL, Entry(offset=0, appended_at=1.0, value=b"noise"))
    refused(state, "genesis", log_id="log", base=A, start_head=H0)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("lead", {"expected_epoch": 0}),
        ("promote", {"base": B, "start_head": H1, "parent": A, "expected_epoch": 0}),
        ("rollback", {"to_epoch": 0, "reason": ""}),
        ("deny", {"sha256": A, "reason": ""}),
        ("pin", {}),
        ("train_now", {}),
    ],
)
def test_nothing_is_accepted_before_the_genesis(kind: str, fields: dict[str, Any]) -> None:
    assert "genesis" in refused(INITIAL, kind, ONE if kind == "lead" else ANNA, **fields)


# --- lead ------------------------------------------------------------------------------------------------------


def test_lead_starts_an_epoch_with_the_same_release(begun: State, led: State) -> None:
    assert (led.epoch, led.leader, led.release) == (1, ONE, begun.release)
    assert led.version == "v0.1.0"
    assert list(led.history) == [(0, begun.release), (1, begun.release)]


def test_lead_is_taken_from_whoever_led(led: State) -> None:
    after = accepted(led, "lead", TWO, expected_epoch=1)
    assert (after.leader, after.epoch) == (TWO, 2)


def test_a_lead_that_was_overtaken_is_refused(led: State) -> None:
    assert refused(led, "lead", TWO, expected_epoch=0) == "It expects epoch 0; the epoch is 1."
    refused(led, "lead", TWO, expected_epoch=2)


def test_an_operator_does_not_lead(begun: State) -> None:
    refused(begun, "lead", ANNA, expected_epoch=0)


def test_lead_is_possible_while_pinned_and_paused(begun: State) -> None:
    state = accepted(accepted(begun, "pin"), "pause")
    assert accepted(state, "lead", ONE, expected_epoch=0).leader == ONE


# --- promote ---------------------------------------------------------------------------------------------------


def test_promote_puts_a_base_into_force(promoted: State) -> None:
    assert (promoted.epoch, promoted.leader, promoted.release) == (2, ONE, Release(B, H1))
    assert promoted.version == "v2.2.0"


def test_a_base_keeps_its_number_when_only_its_head_is_new(promoted: State) -> None:
    after = accepted(promoted, "promote", ONE, base=B, start_head=H2, parent=B, expected_epoch=2)
    assert after.version == "v2.3.0"
    assert after.release == Release(B, H2)


def test_the_base_of_the_genesis_keeps_number_0(promoted: State) -> None:
    after = accepted(promoted, "promote", ONE, base=A, start_head=H2, parent=B, expected_epoch=2)
    assert after.version == "v0.3.0"


def test_a_promotion_that_was_overtaken_is_refused(promoted: State) -> None:
    for expected in (0, 1, 3):
        reason = refused(promoted, "promote", ONE, base=C, start_head=H1, parent=B, expected_epoch=expected)
        assert reason == f"It expects epoch {expected}; the epoch is 2."
        refused(promoted, "promote", ANNA, base=C, start_head=H1, parent=B, expected_epoch=expected)


def test_the_parent_must_be_the_active_base(promoted: State) -> None:
    for issuer in (ONE, ANNA):
        refused(promoted, "promote", issuer, base=C, start_head=H1, parent=A, expected_epoch=2)


def test_only_the_leader_promotes(promoted: State) -> None:
    assert "does not lead" in refused(promoted, "promote", TWO, base=C, start_head=H1, parent=B, expected_epoch=2)


def test_nobody_promotes_before_anybody_leads(begun: State) -> None:
    assert "nobody" in refused(begun, "promote", ONE, base=B, start_head=H1, parent=A, expected_epoch=0)


@pytest.mark.parametrize("flag", ["pin", "pause"])
def test_the_leader_does_not_promote_while_pinned_or_paused_but_an_operator_does(led: State, flag: str) -> None:
    state = accepted(led, flag)
    promotion = {"base": B, "start_head": H1, "parent": A, "expected_epoch": 1}
    refused(state, "promote", ONE, **promotion)
    assert accepted(state, "promote", ANNA, **promotion).base == B
    released = accepted(state, {"pin": "unpin", "pause": "resume"}[flag])
    assert accepted(released, "promote", ONE, **promotion).base == B


def test_a_denied_base_is_promoted_by_nobody(led: State) -> None:
    state = accepted(led, "deny", sha256=B, reason="bad")
    for issuer in (ONE, ANNA):
        assert "denied" in refused(state, "promote", issuer, base=B, start_head=H1, parent=A, expected_epoch=1)


def test_a_zombie_cannot_promote_after_another_took_the_lead(led: State) -> None:
    state = accepted(led, "lead", TWO, expected_epoch=1)
    for expected in (1, 2):
        refused(state, "promote", ONE, base=B, start_head=H1, parent=A, expected_epoch=expected)


# --- rollback --------------------------------------------------------------------------------------------------


def test_an_operator_goes_back_and_the_base_that_is_left_is_denied(promoted: State) -> None:
    after = accepted(promoted, "rollback", to_epoch=1, reason="worse")
    assert (after.epoch, after.leader, after.release) == (3, ONE, Release(A, H0))
    assert after.version == "v0.3.0"
    assert set(after.denied) == {B}
    assert after.history[-1] == (3, Release(A, H0))


def test_going_back_to_an_earlier_head_denies_no_base(promoted: State) -> None:
    state = accepted(promoted, "promote", ONE, base=B, start_head=H2, parent=B, expected_epoch=2)
    after = accepted(state, "rollback", to_epoch=2, reason="worse")
    assert (after.release, len(after.denied), after.version) == (Release(B, H1), 0, "v2.4.0")


def test_a_rollback_to_the_current_or_a_later_epoch_is_refused(promoted: State) -> None:
    for epoch in (2, 3, 10**30):
        refused(promoted, "rollback", to_epoch=epoch, reason="worse")


def test_a_rollback_to_a_denied_base_is_refused(promoted: State) -> None:
    state = accepted(promoted, "rollback", to_epoch=0, reason="worse")
    assert "denied" in refused(state, "rollback", to_epoch=2, reason="no, it was good")


def test_a_checkpoint_becomes_the_start_head(promoted: State) -> None:
    assert accepted(promoted, "rollback", to_epoch=0, reason="", checkpoint=H3).release == Release(A, H3)


def test_with_a_checkpoint_the_current_epoch_can_be_named(promoted: State) -> None:
    after = accepted(promoted, "rollback", to_epoch=2, reason="heads went wrong", checkpoint=H3)
    assert (after.epoch, after.release, len(after.denied)) == (3, Release(B, H3), 0)
    refused(promoted, "rollback", to_epoch=3, reason="", checkpoint=H3)


def test_an_operator_rolls_back_even_while_pinned_and_paused(promoted: State) -> None:
    state = accepted(accepted(promoted, "pin"), "pause")
    after = accepted(state, "rollback", to_epoch=0, reason="worse", expected_epoch=77)
    assert (after.base, after.pinned, after.paused) == (A, True, True)


def test_the_leader_rolls_back_automatically_in_the_epoch_that_it_names(promoted: State) -> None:
    after = accepted(promoted, "rollback", ONE, to_epoch=0, reason="", automatic=True, expected_epoch=2)
    assert after.base == A
    assert set(after.denied) == {B}


@pytest.mark.parametrize(
    ("issuer", "fields"),
    [
        (ONE, {"expected_epoch": 2}),
        (ONE, {"automatic": False, "expected_epoch": 2}),
        (ONE, {"automatic": True}),
        (ONE, {"automatic": True, "expected_epoch": 1}),
        (TWO, {"automatic": True, "expected_epoch": 2}),
    ],
)
def test_any_other_rollback_of_a_learner_is_refused(promoted: State, issuer: str, fields: dict[str, Any]) -> None:
    refused(promoted, "rollback", issuer, to_epoch=0, reason="", **fields)


@pytest.mark.parametrize("flag", ["pin", "pause"])
def test_no_automatic_rollback_while_pinned_or_paused(promoted: State, flag: str) -> None:
    state = accepted(promoted, flag)
    refused(state, "rollback", ONE, to_epoch=0, reason="", automatic=True, expected_epoch=2)


def test_a_quarantine_is_remembered_in_seconds(promoted: State) -> None:
    since = datetime.fromtimestamp(500, UTC).isoformat()
    first = accepted(promoted, "rollback", to_epoch=1, reason="", quarantine={"source": "bulk", "since": since})
    second = accepted(first, "rollback", to_epoch=0, reason="", quarantine={"since": 1.5, "until": 7})
    assert second.quarantines == (
        Quarantined(source="bulk", since=500.0, until=None),
        Quarantined(source=None, since=1.5, until=7.0),
    )


def test_a_quarantine_that_names_nothing_quarantines_nothing(promoted: State) -> None:
    assert accepted(promoted, "rollback", to_epoch=0, reason="", quarantine={}).quarantines == ()


# --- deny ------------------------------------------------------------------------------------------------------


def test_denying_another_base_starts_no_epoch(promoted: State) -> None:
    for sha in (A, C):
        after = accepted(promoted, "deny", sha256=sha, reason="")
        assert (after.epoch, after.release, set(after.denied)) == (2, promoted.release, {sha})
    again = accepted(after, "deny", sha256=C, reason="once more")
    assert again.denied == after.denied


def test_denying_the_active_base_brings_back_the_latest_that_is_not_denied(promoted: State) -> None:
    state = accepted(promoted, "promote", ONE, base=C, start_head=H2, parent=B, expected_epoch=2)
    state = accepted(state, "deny", sha256=B, reason="")
    after = accepted(state, "deny", sha256=C, reason="")
    assert (after.epoch, after.release, after.leader) == (4, Release(A, H0), ONE)
    assert after.history[-1] == (4, Release(A, H0))
    assert set(after.denied) == {B, C}


def test_the_last_base_that_is_not_denied_cannot_be_denied(promoted: State) -> None:
    state = accepted(promoted, "deny", sha256=A, reason="")
    refused(state, "deny", sha256=B, reason="")


def test_the_only_base_cannot_be_denied(begun: State) -> None:
    refused(begun, "deny", sha256=A, reason="")


def test_a_learner_denies_nothing(promoted: State) -> None:
    refused(promoted, "deny", ONE, sha256=A, reason="")


# --- flags and notes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on", "off", "flag"), [("pin", "unpin", "pinned"), ("pause", "resume", "paused")])
def test_flags_go_on_and_off_without_an_epoch(promoted: State, on: str, off: str, flag: str) -> None:
    state = accepted(accepted(promoted, on, checkpoint=H3), on)
    assert getattr(state, flag) is True
    after = accepted(state, off)
    assert getattr(after, flag) is False
    assert (after.epoch, after.release, after.history) == (promoted.epoch, promoted.release, promoted.history)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("pin", {}),
        ("unpin", {}),
        ("pause", {}),
        ("resume", {}),
        ("train_now", {}),
        ("label_add", {"label": "x"}),
        ("erase", {"subject_hmac": "0f"}),
    ],
)
def test_these_are_for_operators_only(promoted: State, kind: str, fields: dict[str, Any]) -> None:
    accepted(promoted, kind, ANNA, **fields)
    refused(promoted, kind, ONE, **fields)


@pytest.mark.parametrize(
    ("kind", "fields"), [("shadow", {}), ("canary", {"base": B, "start_head": H1, "share": 0}), ("shadow", {"base": B})]
)
def test_trials_are_for_operators_and_the_leader(promoted: State, kind: str, fields: dict[str, Any]) -> None:
    for issuer in (ANNA, ONE):
        assert accepted(promoted, kind, issuer, **fields).epoch == promoted.epoch
    refused(promoted, kind, TWO, **fields)


CANARY = {"base": C, "start_head": H2, "share": 0.1}


@pytest.fixture
def tried(promoted: State) -> State:
    """C is tried beside B."""
    return accepted(promoted, "canary", **CANARY)


def test_a_trial_is_kept_beside_what_is_in_force(promoted: State, tried: State) -> None:
    assert tried.trial == Trial(kind="canary", base=C, start_head=H2, share=0.1, offset=3)
    assert tried.trial.version == "trial-3"
    assert (tried.epoch, tried.release, tried.version) == (promoted.epoch, promoted.release, promoted.version)


def test_another_share_or_kind_leaves_the_name_another_release_does_not(tried: State) -> None:
    for kind, share in (("canary", 0.5), ("shadow", 0.1), ("canary", 1)):
        tried = accepted(tried, kind, **CANARY | {"share": share})
        assert tried.trial == Trial(kind=kind, base=C, start_head=H2, share=share, offset=3)  # type: ignore[arg-type]
    assert accepted(tried, "canary", **CANARY | {"start_head": H3}).trial.version == "trial-7"  # type: ignore[union-attr]


def test_a_shadow_takes_every_request_unless_told(promoted: State) -> None:
    assert accepted(promoted, "shadow", base=C, start_head=H2).trial.share == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("canary", CANARY | {"share": 0}),
        ("shadow", {"share": 0}),
        ("canary", {"base": D, "start_head": H0, "share": 0}),
    ],
)
def test_share_0_ends_it(tried: State, kind: str, fields: dict[str, Any]) -> None:
    assert accepted(tried, kind, **fields).trial is None


@pytest.mark.parametrize("fields", [{}, {"base": D}, {"start_head": H0}])
def test_a_shadow_that_names_no_release_changes_nothing(tried: State, fields: dict[str, Any]) -> None:
    assert accepted(tried, "shadow", **fields).trial == tried.trial


def test_a_promotion_ends_the_trial_of_its_base_and_no_other(tried: State) -> None:
    promotion = {"start_head": H3, "parent": B, "expected_epoch": 2}
    assert accepted(tried, "promote", ONE, base=C, **promotion).trial is None
    for base in (B, D):
        assert accepted(tried, "promote", ONE, base=base, **promotion).trial == tried.trial
    assert accepted(tried, "lead", TWO, expected_epoch=2).trial == tried.trial


def test_going_back_to_it_ends_a_trial(promoted: State) -> None:
    state = accepted(promoted, "shadow", base=A, start_head=H0)
    assert accepted(state, "rollback", to_epoch=0, reason="").trial is None
    assert accepted(state, "deny", sha256=B, reason="").trial is None


def test_a_denial_ends_it(tried: State) -> None:
    assert accepted(tried, "deny", sha256=C, reason="").trial is None
    assert accepted(tried, "deny", sha256=A, reason="").trial == tried.trial


def test_a_rollback_that_leaves_its_base_ends_it(promoted: State) -> None:
    state = accepted(promoted, "canary", base=B, start_head=H3, share=0.1)
    assert accepted(state, "rollback", to_epoch=0, reason="").trial is None


def test_another_head_of_the_active_base_is_tried_until_just_that_is_in_force(promoted: State) -> None:
    state = accepted(promoted, "canary", base=B, start_head=H3, share=0.1)
    promotion = {"base": B, "parent": B, "expected_epoch": 2}
    assert accepted(state, "promote", ONE, start_head=H2, **promotion).trial == state.trial
    assert accepted(state, "promote", ONE, start_head=H3, **promotion).trial is None


def test_what_is_denied_or_in_force_is_not_tried(tried: State) -> None:
    state = accepted(tried, "deny", sha256=A, reason="")
    assert "denied" in refused(state, "canary", base=A, start_head=H0, share=0.1)
    assert "in force" in refused(state, "shadow", base=B, start_head=H1)


def test_train_now_counts_and_labels_gather_once_each(begun: State) -> None:
    state = accepted(accepted(begun, "train_now"), "train_now")
    for label in ("refund", "换货", "refund"):
        state = accepted(state, "label_add", label=label)
    assert (state.train_now, state.labels_added, state.epoch) == (2, ("refund", "换货"), 0)


# --- for every message -----------------------------------------------------------------------------------------


def test_an_id_is_taken_once_even_by_another_message(begun: State) -> None:
    state = accepted(begun, "pin", id="twice")
    assert "seen before" in refused(state, "unpin", id="twice")


def test_the_id_of_a_refused_message_counts_as_seen(begun: State) -> None:
    state, verdict = say(begun, "lead", ANNA, id="x", expected_epoch=0)
    assert not verdict.accepted
    refused(state, "pin", id="x")


def test_the_id_of_a_message_that_cannot_be_read_counts_as_seen_where_it_can_be_told(begun: State) -> None:
    state, verdict = say(begun, "dance", id="x")
    assert verdict.message is None
    refused(state, "pin", id="x")


def test_expiry_is_compared_with_the_append_time(begun: State) -> None:
    expires = datetime.fromtimestamp(1000, UTC).isoformat()
    accepted(begun, "pin", at=1000.0, expires_at=expires)
    assert "expired" in refused(begun, "pin", at=1000.001, expires_at=expires)


def test_without_an_append_time_nothing_is_accepted(begun: State) -> None:
    value = json.dumps(message("pin")).encode()
    state, verdict = fold(begun, Entry(offset=1, appended_at=None, value=value))
    assert not verdict.accepted
    assert not state.pinned


def test_an_entry_that_was_folded_already_changes_nothing_at_all(begun: State) -> None:
    value = json.dumps(message("pin")).encode()
    for offset in (0, -5):
        state, verdict = fold(begun, Entry(offset=offset, appended_at=1.0, value=value))
        assert state is begun
        assert not verdict.accepted


def test_offsets_may_have_gaps(begun: State) -> None:
    state, verdict = fold(begun, Entry(offset=40, appended_at=1.0, value=json.dumps(message("pin")).encode()))
    assert verdict.accepted
    assert state.offset == 40


def test_a_verdict_brings_the_message_and_its_id(begun: State) -> None:
    _, verdict = say(begun, "rollback", id="r1", to_epoch=5, reason="because")
    assert verdict.id == "r1"
    assert getattr(verdict.message, "reason", None) == "because"


def test_before_anything_was_said_there_is_no_version() -> None:
    assert INITIAL.version == ""
