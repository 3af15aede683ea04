"""The fast tier where something is odd: what cannot be learned, a restart in the middle, a checkpoint that is gone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from learning_parts import DIM, FAST, Learning, fast, labelled, text, tier

from stream_ft import control
from stream_ft.errors import StoreFullError
from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction, TextCorrection, to_json
from stream_ft.model.heads import Head
from stream_ft.release import dossier
from stream_ft.wiring.fast import Fast


def released(learning: Learning, base: str) -> int:
    """Promote a head that covers all that is there, as a round of the head does; its epoch."""
    upto = learning.store.max_seq()
    data = dossier.stamp(Head.empty(DIM).to_bytes(), dossier.Dossier(kind="head", examples_upto=upto))
    state = learning.core.state
    head = learning.registry.put_head(data)
    learning.issue(control.Promote, base=base, start_head=head, parent=state.base, expected_epoch=state.epoch)
    learning.step(2)
    return learning.core.state.epoch


def past_all_checkpoints(learning: Learning, first: int) -> None:
    """So many examples that no checkpoint from before them is kept."""
    for start in range(first, first + 1_000, 40):
        learning.label(start, start + 40)
        learning.step()
    learning.step(12)


@pytest.mark.parametrize("width", [3, 32])
def test_an_embedding_of_another_width_is_made_again(tmp_path: Path, width: int) -> None:
    learning = Learning(tmp_path, **FAST)
    learning.step(2)
    learning.label(0, 20)
    learning.step(2)
    wide = np.ones(width, np.float16).tobytes()
    prediction = Prediction(
        id="p", model="default", version="v0.1.1", base=learning.core.state.base, input=text(900), output="b",
        embedding=wide, time=learning.clock.now(),
    )  # fmt: skip
    said = Feedback(prediction_id="p", kind="correct", correction=LabelCorrection(label="a"))
    learning.publish("predictions", to_json(prediction))
    learning.publish("feedback", to_json(said))
    learning.step(3)
    assert tier(learning).learned == 21
    learning.close()


def test_a_text_in_the_place_of_a_label_is_none(tmp_path: Path) -> None:
    learning = Learning(tmp_path, **FAST)
    learning.step(2)
    learning.label(0, 20)
    event = LabelledEvent(id="t", input="some words", correction=TextCorrection(text="better words"))
    learning.publish("labels", to_json(event))
    learning.step(3)
    assert tier(learning).labels == ["a", "b"]
    assert fast(learning).upto == learning.store.max_seq()
    learning.close()


@pytest.mark.parametrize("command", [control.Pin, control.Pause])
def test_what_is_pinned_or_paused_stays_through_a_restart(tmp_path: Path, command: type[control.Command]) -> None:
    learning = Learning(tmp_path, files=True, **FAST)
    learning.step(2)
    learning.label(0, 20)
    learning.step(2)
    learning.issue(command)
    learning.step(2)
    learning.label(20, 60, of=("late",))
    learning.step(3)
    head = learning.core.head.to_bytes()
    learning.close()
    for _ in range(2):
        again = Learning(tmp_path, files=True, clock=learning.clock, **FAST)
        again.step(3)
        assert again.core.learner.leading
        assert again.core.tiers.version.endswith(".1")
        assert again.core.head.labels == ("a", "b")
        assert np.array_equal(
            again.core.head.predict(again.engine.encode([text(3)])),
            learning.core.head.predict(again.engine.encode([text(3)])),
        )
        again.close()
    assert head == learning.core.head.to_bytes()
    last = Learning(tmp_path, files=True, clock=learning.clock, **FAST)
    last.step(2)
    last.issue(control.Unpin if command is control.Pin else control.Resume)
    last.step(3)
    assert "late" in last.core.head.labels
    last.close()


def test_a_version_that_was_pinned_before_any_head_answers_with_its_own_after_a_restart(tmp_path: Path) -> None:
    learning = Learning(tmp_path, files=True, **FAST)
    learning.step(2)
    learning.issue(control.Pin)
    learning.step(2)
    learning.label(0, 60)
    learning.step(3)
    assert learning.core.tiers.version == "v0.1.0"
    learning.close()
    again = Learning(tmp_path, files=True, clock=learning.clock, **FAST)
    again.step(3)
    assert again.core.learner.leading
    assert again.core.tiers.version == "v0.2.0"
    again.close()


def test_what_a_rollback_quarantines_is_not_learned_again(tmp_path: Path) -> None:
    learning = Learning(tmp_path, **FAST)
    learning.step(2)
    learning.label(0, 30)
    for number in range(100, 130):
        event = LabelledEvent(
            id=f"i{number}", input=text(number), correction=LabelCorrection(label="poison"), source="import"
        )
        learning.publish("labels", to_json(event))
    learning.step(3)
    target = released(learning, learning.core.state.base)
    learning.label(1_000, 1_040)
    learning.step(2)
    released(learning, learning.core.state.base)
    learning.store._db.execute("DELETE FROM checkpoints")  # as if long ago
    learning.issue(
        control.Rollback, to_epoch=target, reason="wrong import", quarantine=control.Quarantine(source="import")
    )
    learning.step(4)
    assert learning.core.state.epoch > target
    assert tier(learning).labels
    assert "poison" not in tier(learning).labels
    learning.close()


def poisoned(folder: Path) -> tuple[Learning, int]:
    """A release, then an import of one source and a new label of another; the epoch of the release."""
    learning = Learning(folder, files=True, **FAST)
    learning.step(2)
    learning.label(0, 60)
    learning.step(3)
    target = released(learning, learning.core.state.base)
    for number in range(100, 130):
        event = LabelledEvent(
            id=f"i{number}", input=text(number), correction=LabelCorrection(label="poison"), source="import"
        )
        learning.publish("labels", to_json(event))
        learning.publish("labels", labelled(2_000 + number, "late"))
    learning.step(3)
    assert {"poison", "late"} <= set(tier(learning).labels)
    released(learning, learning.core.state.base)
    return learning, target


def test_after_a_rollback_that_names_who_was_wrong_what_the_others_said_is_learned_again(tmp_path: Path) -> None:
    learned = []
    for killed in (False, True):
        learning, target = poisoned(tmp_path / str(killed))
        quarantine = control.Quarantine(source="import")
        learning.issue(control.Rollback, to_epoch=target, reason="wrong import", quarantine=quarantine)
        if killed:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Fast, "learn", lambda self, limit: 0)
                learning.step()
            assert fast(learning)._backlog
            learning.close()
            learning = Learning(tmp_path / str(killed), files=True, clock=learning.clock, **FAST)
        learning.step(6)
        assert "late" in tier(learning).labels
        assert "late" in learning.core.head.labels
        assert "poison" not in tier(learning).labels
        learned.append(tier(learning).learned)
        learning.close()
    assert learned[0] == learned[1] == 90


def test_a_restart_after_another_release_still_goes_back_to_what_the_rollback_named(tmp_path: Path) -> None:
    learning, target = poisoned(tmp_path)
    quarantine = control.Quarantine(source="import")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fast, "learn", lambda self, limit: 0)
        learning.issue(control.Rollback, to_epoch=target, reason="wrong import", quarantine=quarantine)
        learning.step()
        released(learning, learning.core.state.base)
    assert fast(learning)._backlog
    learning.close()
    again = Learning(tmp_path, files=True, clock=learning.clock, **FAST)
    again.step(6)
    assert again.core.state.epoch > target + 2
    assert "late" in tier(again).labels
    assert "poison" not in tier(again).labels
    assert tier(again).learned == 90
    again.close()


@pytest.mark.parametrize("known", [False, True])
def test_a_quarantine_that_sets_nothing_aside_gives_nothing_back(tmp_path: Path, known: bool) -> None:
    """Its name was mistyped, or was in quarantine before: somebody else is to blame."""
    learning, target = poisoned(tmp_path)
    slip = control.Quarantine(source="imprt")
    if known:
        event = LabelledEvent(id="k", input=text(900), correction=LabelCorrection(label="a"), source="imprt")
        learning.publish("labels", to_json(event))
        learning.issue(control.Rollback, to_epoch=target, reason="of before", quarantine=slip)
        learning.step(4)
        target = learning.core.state.epoch
        learning.label(4_000, 4_030)
        learning.publish("labels", *(labelled(5_000 + number, "poison") for number in range(20)))
        learning.step(3)
        released(learning, learning.core.state.base)
        assert "poison" in tier(learning).labels
    learning.issue(control.Rollback, to_epoch=target, reason="wrong import", quarantine=slip)
    learning.step(6)
    assert learning.core.state.epoch > target
    assert "poison" not in tier(learning).labels
    learning.close()


def test_a_second_rollback_to_the_same_head_that_names_who_was_wrong_gives_back_the_rest(tmp_path: Path) -> None:
    learning, target = poisoned(tmp_path)
    learning.issue(control.Rollback, to_epoch=target, reason="by hand")
    learning.step(4)
    assert "late" not in tier(learning).labels
    quarantine = control.Quarantine(source="import")
    learning.issue(control.Rollback, to_epoch=target, reason="found it", quarantine=quarantine)
    learning.step(6)
    assert "late" in tier(learning).labels
    assert "poison" not in tier(learning).labels
    learning.close()


def test_nothing_is_learned_again_before_the_quarantine_was_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning, target = poisoned(tmp_path)
    quarantine = learning.store.quarantine
    full = [True]

    def carry_out(*rule: object) -> int:
        if full[0]:
            raise StoreFullError("The disk is full.")
        return quarantine(*rule)

    monkeypatch.setattr(learning.store, "quarantine", carry_out)
    rule = control.Quarantine(source="import")
    learning.issue(control.Rollback, to_epoch=target, reason="wrong import", quarantine=rule)
    for _ in range(4):
        with suppress(StoreFullError):
            learning.step()
    assert fast(learning)._backlog
    assert not {"late", "poison"} & set(tier(learning).labels)
    full[0] = False
    learning.step(6)
    assert "late" in tier(learning).labels
    assert "poison" not in tier(learning).labels
    learning.close()


@pytest.mark.parametrize("what", ["save", "checkpoint"])
@pytest.mark.parametrize("named", [True, False])
def test_a_store_that_is_full_when_a_rollback_comes_loses_neither_it_nor_its_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, named: bool
) -> None:
    learning, target = poisoned(tmp_path)
    owner = learning.store if what == "save" else learning.store.lessons
    write = getattr(owner, what)
    full = [True]

    def written(*arguments: object, **more: object) -> object:
        if full[0]:
            raise StoreFullError("The disk is full.")
        return write(*arguments, **more)

    monkeypatch.setattr(owner, what, written)
    quarantine = control.Quarantine(source="import") if named else None
    learning.issue(control.Rollback, to_epoch=target, reason="wrong import", quarantine=quarantine)
    for _ in range(3):
        with suppress(StoreFullError):
            learning.step()
    full[0] = False
    learning.step(40)  # consumption has paused for a while
    learning.publish("labels", labelled(6_000, "fresh"))
    learning.step(4)
    assert "poison" not in tier(learning).labels
    assert "poison" not in learning.core.head.labels
    assert ("late" in tier(learning).labels) == named
    assert "fresh" in learning.core.head.labels
    learning.close()


def test_a_deeper_rollback_with_the_same_quarantine_gives_back_the_rest_too(tmp_path: Path) -> None:
    learning, target = poisoned(tmp_path)
    quarantine = control.Quarantine(source="import")
    for to in (learning.core.state.epoch - 1, target):
        learning.issue(control.Rollback, to_epoch=to, reason="wrong import", quarantine=quarantine)
        learning.step(6)
    assert "late" in tier(learning).labels
    assert "poison" not in tier(learning).labels
    learning.close()


def test_after_a_rollback_that_names_nobody_nothing_that_came_since_is_learned_again(tmp_path: Path) -> None:
    learning, target = poisoned(tmp_path)
    learning.issue(control.Rollback, to_epoch=target, reason="by hand")
    learning.step(6)
    assert not {"late", "poison"} & set(tier(learning).labels)
    learning.publish("labels", labelled(3_000, "fresh"))
    learning.step(2)
    assert "fresh" in tier(learning).labels
    learning.close()


def test_a_restart_while_the_tier_is_built_anew_loses_nothing(tmp_path: Path) -> None:
    learned = []
    for killed in (False, True):
        folder = tmp_path / str(killed)
        learning = Learning(folder, files=True, **FAST)
        learning.step(2)
        learning.label(0, 400)
        learning.step(10)
        first = learning.core.state.base
        target = released(learning, first)
        released(learning, learning.registry.put({"tensors.safetensors": b"other"}))
        past_all_checkpoints(learning, 1_000)
        learning.issue(control.Rollback, to_epoch=target, reason="by hand")
        learning.step()
        assert fast(learning)._backlog
        for number in range(20):
            learning.publish("labels", labelled(5_000 + number, "fresh"))
        learning.step()
        if killed:
            learning.close()
            learning = Learning(folder, files=True, clock=learning.clock, **FAST)
        learning.step(15)
        assert "fresh" in tier(learning).labels
        learned.append(tier(learning).learned)
        learning.close()
    assert learned[0] == learned[1] > 400


def test_where_the_newest_checkpoint_is_damaged_an_older_one_and_what_is_retained_do(tmp_path: Path) -> None:
    learning = Learning(tmp_path, files=True, **FAST)
    learning.step(2)
    for start in range(0, 200, 40):
        learning.label(start, start + 40)
        learning.step(2)
    newest = learning.store.lessons.checkpoints()[0]
    learning.store._db.execute("UPDATE checkpoints SET data = x'00' WHERE id = ?", (newest.id,))
    learning.close()
    again = Learning(tmp_path, files=True, clock=learning.clock, **FAST)
    again.step(6)
    assert tier(again).learned == 200
    again.close()


def test_what_came_while_the_fast_tier_was_off_is_learned_once_it_is_on_again(tmp_path: Path) -> None:
    on = Learning(tmp_path, files=True, **FAST)
    on.step(2)
    on.label(0, 100)
    on.step(4)
    on.close()
    off = Learning(tmp_path, files=True, clock=on.clock, **{"fast.enabled": False})
    off.step(2)
    off.label(100, 300, of=("new",))
    off.step(4)
    off.close()
    again = Learning(tmp_path, files=True, clock=on.clock, **FAST)
    again.step(8)
    assert tier(again).labels == ["a", "b", "new"]
    assert tier(again).learned == again.store.count().train == 300
    again.close()


def test_heads_of_forgotten_checkpoints_are_deleted(tmp_path: Path) -> None:
    learning = Learning(tmp_path, **FAST)
    learning.step(2)
    put = learning.registry.put({"tensors.safetensors": b"to be promoted by hand"})
    for start in range(0, 2_000, 40):
        learning.label(start, start + 40)
        learning.step()
    assert len(learning.store.lessons.checkpoints()) <= 21
    assert len(list(learning.registry.list_heads())) <= 25
    assert put in learning.registry.list(), "a base that somebody has put there is nobody's checkpoint"
    learning.close()


def test_the_checkpoint_that_the_guard_compares_with_is_kept_however_many_come_after_it(tmp_path: Path) -> None:
    learning = Learning(tmp_path, **FAST)
    learning.step(2)
    learning.label(0, 80)
    learning.step()
    first = fast(learning).checkpoint
    assert first
    for start in range(100, 1_300, 40):
        learning.label(start, start + 40)
        learning.step(seconds=0.1)
    assert fast(learning).checkpoint == first
    assert first in fast(learning).heads()
    assert learning.registry.get_head(first)
    learning.close()
