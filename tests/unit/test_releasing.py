"""What is kept in the registry: the last releases, and whatever denials could bring back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream_ft import control
from stream_ft.events import to_json
from stream_ft.release.fold import INITIAL, Entry, State, fold
from stream_ft.release.registry import Registry
from stream_ft.wiring.releasing import KEEP_RELEASES, forget_old, kept

LEARNER = "learner/a"


class History:
    """A control log whose releases lie in a registry."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder)
        self.state: State = INITIAL
        base, head = self.make("genesis", "genesis")
        self.say(control.Genesis, LEARNER, log_id="log", base=base, start_head=head)
        self.say(control.Lead, LEARNER, expected_epoch=0)

    def make(self, base: str, head: str) -> tuple[str, str]:
        return self.registry.put({"base.json": base.encode()}), self.registry.put_head(head.encode())

    def say(self, kind: type[control.Command], by: str, **fields: Any) -> None:
        value = to_json(control.new(kind, by=by, now=1.7e9, **fields))
        self.state, verdict = fold(self.state, Entry(offset=self.state.offset + 1, appended_at=1.7e9, value=value))
        assert verdict.accepted, verdict.reason

    def promote(self, base: str, head: str) -> str:
        sha, start = self.make(base, head)
        state = self.state
        self.say(control.Promote, LEARNER, base=sha, start_head=start, parent=state.base, expected_epoch=state.epoch)
        return sha

    def there(self) -> bool:
        """Whether what is in force can be loaded."""
        return self.state.base in self.registry.list() and self.state.start_head in self.registry.list_heads()


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


def test_the_last_releases_stay_and_older_ones_go(history: History) -> None:
    for number in range(KEEP_RELEASES + 20):
        history.promote("genesis", f"head {number}")
    forget_old(history.registry, history.state)
    assert len(history.registry.list_heads()) == KEEP_RELEASES + 1, "and the genesis"


def test_what_is_on_trial_stays_and_goes_when_the_trial_is_over(history: History) -> None:
    base, head = history.make("challenger", "its head")
    trial = {"base": base, "start_head": head}
    history.say(control.Canary, LEARNER, **trial, share=0.1)
    forget_old(history.registry, history.state)
    assert base in history.registry.list()
    assert head in history.registry.list_heads()
    history.say(control.Canary, LEARNER, **trial, share=0)
    forget_old(history.registry, history.state)
    assert base not in history.registry.list()


def test_fault_21_what_a_deny_would_bring_back_stays_however_many_heads_came_since(history: History) -> None:
    first = history.promote("first", "first")
    for number in range(KEEP_RELEASES + 20):
        second = history.promote("second", f"head {number}")
    forget_old(history.registry, history.state)
    for bad in (second, first):
        history.say(control.Deny, "operator/ann", sha256=bad, reason="bad")
        assert history.there()
    assert history.state.release == history.state.history[0][1]


def test_fault_21_a_release_counts_once_however_often_a_learner_took_the_lead(history: History) -> None:
    history.promote("first", "first")
    history.promote("second", "second")
    for _ in range(2 * KEEP_RELEASES):
        history.say(control.Lead, LEARNER, expected_epoch=history.state.epoch)
    forget_old(history.registry, history.state)
    assert len(history.registry.list()) == 3
    history.say(control.Rollback, "operator/ann", to_epoch=2, reason="back")
    assert history.there()


def test_bases_that_are_kept_have_a_bound(history: History) -> None:
    for number in range(3 * KEEP_RELEASES):
        history.promote(f"base {number}", f"head {number}")
    assert len(kept(history.state)) <= KEEP_RELEASES + 1
