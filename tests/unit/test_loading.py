"""What a version goes through before it answers, when something comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_parts import Serving

from stream_ft import control
from stream_ft.serve import follow, loading
from stream_ft.serve.challenger import OvertakenError


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as made:
        yield made


def test_a_base_that_the_engine_had_let_go_is_warmed_and_checked_anew(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials: list[str] = []
    trial = serving.engine.trial

    def noted(name: str, texts: Any) -> Any:
        trials.append(name)
        return trial(name, texts)

    monkeypatch.setattr(serving.engine, "trial", noted)
    first = serving.genesis("yes")
    second = serving.promote("second", "yes")
    serving.follower.step()
    assert trials == [first, second]
    serving.engine.drop(first)  # as an engine does that holds few
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    assert serving.version == "v0.2.0"
    assert trials == [first, second, first]


def test_what_is_overtaken_once_it_is_prepared_leaves_memory_like_any_other(serving: Serving) -> None:
    serving.genesis("yes")
    prepare = serving.engine.prepare

    def overtaken(name: str, files: dict[str, bytes], between: Callable[[], None]) -> None:
        prepare(name, files, between)
        serving.say(control.Rollback, to_epoch=0, reason="it was a mistake")

    for number in range(4):
        serving.promote(f"lost {number}", "yes")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serving.engine, "prepare", overtaken)
            serving.follower.step()
        serving.follower.step()
        assert serving.version.startswith("v0.")
    for number in range(3):
        serving.promote(f"good {number}", "yes")
        serving.follower.step()
    assert len(serving.engine.bases) == 2, "as many as are kept"


def test_a_version_that_replaces_a_withdrawn_one_is_prepared_without_pauses(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serving.genesis("yes")
    monkeypatch.setattr(serving.follower._pace, "pause_s", lambda: 0.03)
    pauses: list[float] = []
    monkeypatch.setattr(serving.follower._stop, "wait", pauses.append)
    serving.promote("worse", "yes")
    serving.follower.step()
    assert sum(pauses) == pytest.approx(0.06), "two pauses: before the piece, and after it"
    serving.engine.drop(first)
    pauses.clear()
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    assert serving.version == "v0.2.0"
    assert pauses == []


def test_the_share_of_a_trial_may_change_while_something_is_prepared(serving: Serving) -> None:
    serving.genesis("yes")
    serving.challenge("tried", "yes", share=0.1)
    prepare = serving.engine.prepare
    prepared: list[str] = []

    def changed(name: str, files: dict[str, bytes], between: Callable[[], None]) -> None:
        prepared.append(name)
        trial = serving.follower.state.trial
        assert trial is not None
        share = 0.2 + 0.1 * len(prepared)
        serving.say(control.Canary, base=trial.base, start_head=trial.start_head, share=share)
        between()
        prepare(name, files, between)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.engine, "prepare", changed)
        serving.follower.step()
        assert serving.slots.challenger is not None
        serving.promote("better", "yes")
        serving.follower.step()
    assert serving.version == "v1.1.0"
    assert len(prepared) == 2, "neither was begun again"


def test_a_trial_that_ends_while_its_challenger_is_prepared_is_let_go(serving: Serving) -> None:
    serving.genesis("yes")
    serving.challenge("tried", "yes")
    prepare = serving.engine.prepare

    def ended(name: str, files: dict[str, bytes], between: Callable[[], None]) -> None:
        serving.challenge("another", "yes")
        between()
        prepare(name, files, between)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.engine, "prepare", ended)
        serving.follower.step()
    assert serving.slots.challenger is None
    serving.follower.step()
    assert serving.slots.challenger is not None
    assert serving.slots.challenger.name == "trial-2"


def test_what_building_left_behind_goes_back_to_the_system_once_nobody_waits(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    pressed = True
    monkeypatch.setattr(loading, "give_back", lambda: given.append(serving.version))
    monkeypatch.setattr(serving.follower._batcher, "pressed", lambda within_s: pressed)
    serving.genesis("yes")
    serving.promote("second", "yes")
    serving.follower.step()
    assert given == [], "it would cost those who wait"
    pressed = False
    serving.follower.step()
    serving.follower.step()
    assert given == ["v1.1.0"]
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    assert given == ["v1.1.0"], "nothing was built"


def test_a_version_is_completed_when_nobody_waits_or_after_a_while(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed: list[str] = []
    pressed = True

    def complete() -> bool:
        completed.append(serving.version)
        return len(completed) % 2 == 0  # it takes until the next look

    monkeypatch.setattr(serving.engine, "complete", complete)
    monkeypatch.setattr(serving.follower._batcher, "pressed", lambda within_s: pressed)
    serving.genesis("yes")
    serving.promote("second", "yes")
    serving.follower.step()
    serving.clock.advance(0.9 * follow.COMPLETE_S)
    serving.follower.step()
    assert completed == [], "it would cost those who wait"
    serving.clock.advance(0.2 * follow.COMPLETE_S)
    for _ in range(3):
        serving.follower.step()
    assert completed == ["v1.1.0"] * 2, "a load that lasts is no reason to do without for ever"
    serving.promote("third", "yes")
    serving.follower.step()
    assert len(completed) == 2
    pressed = False
    for _ in range(3):
        serving.follower.step()
    assert completed[2:] == ["v2.2.0"] * 2
    serving.say(control.Rollback, to_epoch=1, reason="worse")
    for _ in range(3):
        serving.follower.step()
    assert completed[4:] == ["v1.3.0"] * 2, "it may have had no time for it before"
    for _ in range(3):
        serving.follower.step()
    assert len(completed) == 6


def test_a_base_that_was_prepared_for_a_version_that_was_overtaken_is_completed_for_the_next(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed: list[str] = []
    monkeypatch.setattr(serving.engine, "complete", lambda: completed.append(serving.version) or True)
    serving.genesis("yes")
    serving.follower.step()
    second = serving.promote("second", "yes")
    trial = serving.engine.trial

    def overtaken(name: str, texts: Any) -> Any:
        monkeypatch.setattr(serving.engine, "trial", trial)
        raise OvertakenError

    monkeypatch.setattr(serving.engine, "trial", overtaken)
    serving.follower.step()
    assert second in serving.engine.bases
    assert serving.version == "v0.0.0"
    completed.clear()
    for _ in range(2):
        serving.clock.advance(60.0)
        serving.follower.step()
    assert serving.version == "v1.1.0"
    assert completed == ["v1.1.0"]
