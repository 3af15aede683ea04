"""Two learners and an operator, each with its own, late view of the log; messages are delayed, doubled, reordered."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_ft import control
from stream_ft.release.fold import INITIAL, Entry, Release, State, Verdict, fold

LEARNERS = ["learner/one", "learner/two"]
OPERATOR = "operator/anna"


def sha(number: int) -> str:
    return f"{number:064x}"


class ControlLog(RuleBasedStateMachine):
    """The log is the truth; everybody else has folded some prefix of it."""

    flying = Bundle("flying")

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Entry] = []
        self.state: State = INITIAL
        self.views: dict[str, State] = {}
        self.serial = 0
        self.names: dict[str, Release] = {}
        self.gone: set[str] = set()
        """Bases that were rolled back or denied, as this test remembers it."""
        self.wanted: dict[str, tuple[str, int]] = {}
        """By message id: who issued it, and the epoch it saw."""

    @initialize()
    def begin(self) -> None:
        fields = {"log_id": "log", "base": sha(0), "start_head": sha(1)}
        self.deliver(self.write("genesis", OPERATOR, fields))
        self.views = dict.fromkeys((*LEARNERS, OPERATOR), self.state)

    def write(self, kind: str, who: str, fields: dict[str, Any]) -> bytes:
        self.serial += 1
        header = {"type": kind, "id": f"m{self.serial}", "issued_by": who, "issued_at": "2026-01-31T12:00:00Z"}
        self.wanted[f"m{self.serial}"] = (who, self.views[who].epoch if self.views else -1)
        return json.dumps(header | fields).encode()

    # --- what may happen ---------------------------------------------------------------------------------------

    @rule(who=st.sampled_from([*LEARNERS, OPERATOR]), behind=st.integers(0, 5))
    def catch_up(self, who: str, behind: int) -> None:
        view = INITIAL
        for entry in self.log[: max(1, len(self.log) - behind)]:
            view, _ = fold(view, entry)
        if view.offset > self.views[who].offset:
            self.views[who] = view

    @rule(target=flying, who=st.sampled_from(LEARNERS))
    def lead(self, who: str) -> bytes:
        return self.write("lead", who, {"expected_epoch": self.views[who].epoch})

    @rule(target=flying, who=st.sampled_from([*LEARNERS, OPERATOR]), fresh=st.booleans(), pick=st.integers(0, 20))
    def promote(self, who: str, fresh: bool, pick: int) -> bytes:
        view = self.views[who]
        base = sha(1000 + self.serial) if fresh else view.history[pick % len(view.history)][1].base
        fields = {"base": base, "start_head": sha(self.serial), "parent": view.base, "expected_epoch": view.epoch}
        return self.write("promote", who, fields)

    @rule(target=flying, who=st.sampled_from([*LEARNERS, OPERATOR]), back=st.integers(0, 4), head=st.booleans())
    def roll_back(self, who: str, back: int, head: bool) -> bytes:
        view = self.views[who]
        fields: dict[str, Any] = {"to_epoch": max(0, view.epoch - back), "reason": "worse"}
        if who != OPERATOR:
            fields |= {"automatic": True, "expected_epoch": view.epoch}
        if head:
            fields["checkpoint"] = sha(2000 + self.serial)
        return self.write("rollback", who, fields)

    @rule(target=flying, pick=st.integers(0, 20))
    def deny(self, pick: int) -> bytes:
        history = self.views[OPERATOR].history
        return self.write("deny", OPERATOR, {"sha256": history[pick % len(history)][1].base, "reason": "bad"})

    @rule(target=flying, kind=st.sampled_from(["pin", "unpin", "pause", "resume"]))
    def flag(self, kind: str) -> bytes:
        return self.write(kind, OPERATOR, {})

    @rule(
        target=flying,
        who=st.sampled_from([*LEARNERS, OPERATOR]),
        kind=st.sampled_from(["shadow", "canary"]),
        fresh=st.booleans(),
        pick=st.integers(0, 20),
        share=st.sampled_from([0, 0.1, 1]),
    )
    def try_out(self, who: str, kind: str, fresh: bool, pick: int, share: float) -> bytes:
        """Of a base that is new, or that was in force; its head says which trial of it is meant."""
        view = self.views[who]
        base = sha(3000 + pick % 4) if fresh else view.history[pick % len(view.history)][1].base
        return self.write(kind, who, {"base": base, "start_head": sha(4000 + pick % 2), "share": share})

    @rule(value=flying)
    def arrive(self, value: bytes) -> None:
        """A message reaches the log: perhaps late, perhaps for the second time."""
        self.deliver(value)

    @rule(
        kind=st.sampled_from(["lead", "promote", "promote again", "promote the trial", "rollback", "deny", "try"]),
        who=st.sampled_from([*LEARNERS, OPERATOR]),
        pick=st.integers(0, 20),
        head=st.booleans(),
    )
    def speak_up_to_date(self, kind: str, who: str, pick: int, head: bool) -> None:
        """A message of somebody who has folded everything, with nothing in between."""
        self.views[who] = self.state
        if kind == "lead" and who != OPERATOR:
            value = self.lead(who)
        elif kind == "promote the trial" and (trial := self.state.trial) is not None:
            fields = {"base": trial.base, "start_head": trial.start_head}
            value = self.write("promote", who, fields | {"parent": self.state.base, "expected_epoch": self.state.epoch})
        elif kind.startswith("promote"):
            value = self.promote(who, kind == "promote", pick)
        elif kind == "try":
            value = self.try_out(who, "canary" if head else "shadow", pick % 3 > 0, pick, (0.1, 1, 0.5)[pick % 3])
        elif kind == "rollback":
            value = self.roll_back(who, pick % 5, head)
        else:
            self.views[OPERATOR] = self.state
            value = self.deny(pick)
        self.deliver(value)

    # --- what must hold ----------------------------------------------------------------------------------------

    def deliver(self, value: bytes) -> None:
        before = self.state
        entry = Entry(offset=len(self.log), appended_at=float(len(self.log)), value=value)
        self.log.append(entry)
        self.state, verdict = fold(before, entry)
        assert self.state.epoch - before.epoch in (0, 1)
        assert verdict.id is not None
        assert not (verdict.accepted and verdict.id in before.ids)
        if not verdict.accepted:
            assert (self.state.epoch, self.state.release) == (before.epoch, before.release)
            assert (self.state.leader, self.state.trial) == (before.leader, before.trial)
            return
        self.check_accepted(before, verdict)
        self.check_trial(before, verdict)

    def check_accepted(self, before: State, verdict: Verdict) -> None:
        message, state = verdict.message, self.state
        assert verdict.id is not None
        who, seen = self.wanted[verdict.id]
        moved = state.epoch == before.epoch + 1
        if isinstance(message, control.Lead):
            assert moved
            assert seen == before.epoch
            assert (state.leader, state.release) == (who, before.release)
        elif isinstance(message, control.Promote):
            assert moved
            assert seen == before.epoch
            assert message.base not in self.gone
            assert who == OPERATOR or (who == before.leader and not before.paused and not before.pinned)
            assert state.release == Release(message.base, message.start_head)
        elif isinstance(message, control.Rollback):
            assert moved
            if who != OPERATOR:
                assert (who, seen) == (before.leader, before.epoch)
                assert not before.paused
                assert not before.pinned
            if state.base != before.base:
                self.gone.add(before.base)
        elif isinstance(message, control.Deny):
            assert moved == (message.sha256 == before.base)
            self.gone.add(message.sha256)
        elif isinstance(message, control.Shadow | control.Canary):
            assert not moved
            assert who in (OPERATOR, before.leader)
        else:
            assert moved == isinstance(message, control.Genesis)

    def check_trial(self, before: State, verdict: Verdict) -> None:
        """A trial begins and changes by its own messages only, and ends by them or because its base is settled."""
        message, trial, was = verdict.message, self.state.trial, before.trial
        if isinstance(message, control.Shadow | control.Canary):
            if not message.share:
                assert trial is None
                return
            assert trial is not None
            assert message.base not in self.gone
            assert (trial.base, trial.start_head, trial.share) == (message.base, message.start_head, message.share)
            assert trial.kind == ("shadow" if isinstance(message, control.Shadow) else "canary")
            goes_on = was is not None and was.release == trial.release
            assert trial.version == (was.version if goes_on and was is not None else f"trial-{self.state.offset}")
        elif trial != was:
            assert trial is None
            assert was is not None
            came = self.state.base == was.base != before.base or self.state.release == was.release
            assert came or was.base in self.gone

    @precondition(lambda self: self.state.log_id)
    @invariant()
    def what_is_gone_stays_gone(self) -> None:
        assert self.state.base not in self.gone
        assert set(self.state.denied) == self.gone

    @precondition(lambda self: self.state.log_id)
    @invariant()
    def a_name_has_one_content(self) -> None:
        assert self.names.setdefault(self.state.version, self.state.release) == self.state.release

    @precondition(lambda self: self.state.trial)
    @invariant()
    def a_trial_is_of_something_else_that_is_not_gone_and_its_name_has_one_content(self) -> None:
        trial = self.state.trial
        assert trial is not None
        assert trial.base not in self.gone
        assert trial.release != self.state.release
        assert self.names.setdefault(trial.version, trial.release) == trial.release

    @precondition(lambda self: self.state.log_id)
    @invariant()
    def whoever_folds_the_log_comes_to_the_same_state(self) -> None:
        state = INITIAL
        for entry in self.log:
            state, _ = fold(state, entry)
        assert state == self.state


ControlLog.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestControlLog = ControlLog.TestCase


def test_a_frozen_learner_that_thaws_is_fenced_off() -> None:
    """Learner one starts a round, freezes; learner two leads and promotes; one thaws and tries everything it has."""
    log: list[Entry] = []
    state = INITIAL

    def say(kind: str, who: str, **fields: Any) -> Verdict:
        nonlocal state
        header = {"type": kind, "id": f"m{len(log)}", "issued_by": who, "issued_at": "2026-01-31T12:00:00Z"}
        log.append(Entry(offset=len(log), appended_at=0.0, value=json.dumps(header | fields).encode()))
        state, verdict = fold(state, log[-1])
        return verdict

    one, two = LEARNERS
    assert say("genesis", OPERATOR, log_id="log", base=sha(0), start_head=sha(1)).accepted
    assert say("lead", one, expected_epoch=0).accepted
    assert say("lead", two, expected_epoch=1).accepted
    assert say("promote", two, base=sha(2), start_head=sha(3), parent=sha(0), expected_epoch=2).accepted
    for epoch in range(5):
        assert not say("promote", one, base=sha(4), start_head=sha(5), parent=sha(0), expected_epoch=epoch).accepted
        assert not say("promote", one, base=sha(4), start_head=sha(5), parent=sha(2), expected_epoch=epoch).accepted
        assert not say("rollback", one, to_epoch=0, reason="", automatic=True, expected_epoch=epoch).accepted
    assert not say("lead", one, expected_epoch=1).accepted
    assert (state.leader, state.base, state.epoch) == (two, sha(2), 3)
