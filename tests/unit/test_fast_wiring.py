"""The fast tier in the learner: its heads, its restarts, and what the control log makes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from learning_parts import DIM, FAST, Learning, fast, labelled, names, text, tier

from stream_ft import control
from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction, to_json
from stream_ft.learn.fast.tier import FastTier
from stream_ft.model.mixture import read_head
from stream_ft.release.heads import HeadRecord
from stream_ft.testing import MemoryLog
from stream_ft.wiring.watch import Evidence


@pytest.fixture
def learning(tmp_path: Path) -> Iterator[Learning]:
    made = Learning(tmp_path, **FAST)
    made.step(2)
    yield made
    made.close()


def heads(learning: Learning) -> list[HeadRecord]:
    first, _ = learning.log.bounds(names("heads"), 0)
    records = learning.log.read(names("heads"), 0, first, 10_000)
    return [msgspec.msgpack.decode(record.value, type=HeadRecord) for record in records]


def test_every_example_is_learned_and_the_next_answer_is_of_the_new_head(learning: Learning) -> None:
    learning.label(0, 10)
    learning.step()
    assert tier(learning).learned == 10
    assert learning.core.head.labels == ("a", "b")
    assert learning.core.tiers.version == "v0.1.1"
    learning.label(10, 12)
    learning.step()
    learning.publish("labels", labelled(12, "new"))
    learning.step()
    assert learning.core.head.labels == ("a", "b", "new")
    example = learning.store.training()[-1]
    assert (example.predicted_version, example.predicted in {"a", "b"}) == ("v0.1.2", True)
    assert [(made.seq, made.epoch, made.labels) for made in heads(learning)] == [(1, 1, 2), (2, 1, 2), (3, 1, 3)]
    assert heads(learning)[-1].examples_upto == learning.store.max_seq()


def test_heads_are_published_at_most_once_a_second_and_only_when_something_was_learned(learning: Learning) -> None:
    for number in range(20):
        learning.label(number, number + 1)
        learning.step(seconds=0.25)
    learning.step(10)
    assert 5 <= len(heads(learning)) <= 6
    assert heads(learning)[-1].examples_upto == learning.store.max_seq()


def test_a_killed_learner_goes_on_exactly_and_learns_nothing_twice(tmp_path: Path) -> None:
    states = []
    for killed_at in ((), (7,), (3, 9, 10)):
        folder = tmp_path / str(killed_at)
        learning = Learning(folder, files=True, **FAST)
        learning.step(2)
        for part in range(12):
            learning.label(part * 9, part * 9 + 9, of=("a", "b", "c", "d"))
            learning.step()
            if part in killed_at:
                learning.close()  # nothing is saved at the end: this is what a kill leaves
                learning = Learning(folder, files=True, clock=learning.clock, **FAST)
                learning.step(2)
        learning.step(3)
        assert tier(learning).learned == 108
        states.append(tier(learning).to_bytes())
        learning.close()
    assert states[0] == states[1] == states[2]


def test_examples_for_which_there_is_no_room_are_learned_too(tmp_path: Path) -> None:
    learning = Learning(tmp_path, **FAST | {"replay.capacity": 20})
    learning.step(2)
    learning.label(0, 100)
    learning.step(5)
    assert (learning.store.count().train, tier(learning).learned) == (20, 100)
    learning.close()


def test_what_is_held_out_is_not_learned(tmp_path: Path) -> None:
    learning = Learning(tmp_path, **FAST | {"replay.holdout_share": 0.3, "replay.holdout_after": 5})
    learning.step(2)
    learning.label(0, 100)
    learning.step(5)
    held = learning.store.count().holdout
    assert held > 10
    assert tier(learning).learned == 100 - held
    learning.close()


def test_a_restart_begins_its_epoch_with_the_head_it_had(tmp_path: Path) -> None:
    learning = Learning(tmp_path, files=True, **FAST)
    learning.step(2)
    learning.label(0, 50)
    learning.step(3)
    learning.close()
    again = Learning(tmp_path, files=True, clock=learning.clock, follow=False, **FAST)
    again.step()
    again.step()
    assert again.core.state.epoch == 2
    assert (again.core.tiers.version, again.core.head.labels) == ("v0.2.1", ("a", "b"))
    assert again.core.tiers.examples_upto == 50, "what came after the checkpoint is in it"
    again.close()


def test_fault_29_who_does_not_lead_publishes_nothing_more(tmp_path: Path) -> None:
    log = MemoryLog()
    first = Learning(tmp_path / "1", log=log, **FAST)
    first.step(2)
    first.label(0, 10)
    first.step(2)
    published = len(heads(first))
    second = Learning(tmp_path / "2", log=log, name="b", **FAST)
    second.step(2)
    first.label(10, 20)
    first.step(3)
    assert first.core.tiers.version == "v0.2.0"
    assert [made.leader for made in heads(first)[published:]] == ["learner/b"] * len(heads(first)[published:])
    assert tier(first).learned == 20
    first.close()
    second.close()


def test_who_stands_by_keeps_its_state_and_forgets_the_lessons_behind_it(tmp_path: Path) -> None:
    log = MemoryLog()
    first, second = Learning(tmp_path / "1", log=log, **FAST), Learning(tmp_path / "2", log=log, name="b", **FAST)
    for each in (first, second, first):
        each.step(2)
    assert (first.core.learner.leading, second.core.learner.leading) == (False, True)
    for start in range(0, 200, 20):
        first.label(start, start + 20)
        first.step()
    waiting = first.store.lessons.after(0, 1_000)
    (newest, *_) = first.store.lessons.checkpoints()
    assert len(waiting) < 40 <= newest.upto
    first.close()
    second.close()


@pytest.mark.parametrize("command", [control.Pin, control.Pause])
def test_a_pinned_or_paused_version_stays_and_what_came_is_in_the_next_head(
    learning: Learning, command: type[control.Command]
) -> None:
    learning.label(0, 10)
    learning.step()
    learning.issue(command)
    learning.step()
    learning.label(10, 30)
    learning.step(3)
    assert learning.core.tiers.version == "v0.1.1"
    learning.issue(control.Unpin if command is control.Pin else control.Resume)
    learning.step(2)
    assert (learning.core.tiers.version, tier(learning).learned) == ("v0.1.2", 30)


def test_a_rollback_resets_the_tier_to_the_checkpoint_that_it_names_and_what_came_since_is_not_learned_again(
    learning: Learning,
) -> None:
    learning.label(0, 40)
    learning.step(2)
    (kept,) = [taken for taken in learning.store.lessons.checkpoints() if taken.upto == 40]
    learning.label(40, 70, of=("poison",))
    learning.step(2)
    assert "poison" in learning.core.head.labels
    learning.issue(control.Rollback, to_epoch=1, reason="poison", checkpoint=kept.head)
    learning.step()
    assert learning.core.state.start_head == kept.head
    assert tier(learning).to_bytes() == learning.store.lessons.data(kept)
    assert learning.core.head.labels == ("a", "b")
    learning.label(70, 80)
    learning.step(2)
    assert (tier(learning).learned, tier(learning).labels) == (50, ["a", "b"])
    assert learning.core.tiers.version == "v0.2.2"


def test_the_guard_sets_a_tier_back_that_is_surely_worse_than_its_checkpoint(learning: Learning) -> None:
    learning.label(0, 40)
    learning.step(2)
    kept = fast(learning).checkpoint
    assert kept
    learning.label(40, 50)
    learning.step()
    before = tier(learning).learned
    fast(learning).watch.pairs["desk"] = deque([(False, True)] * 60)
    learning.label(50, 60)
    learning.step(2)
    assert (learning.core.state.epoch, learning.core.state.start_head) == (2, kept)
    assert tier(learning).learned == 40 < before
    assert any("its checkpoint gets right" in said for said in learning.said("rollback"))
    learning.label(60, 70)
    learning.step(2)
    assert tier(learning).learned == 50


ABOUT = {"money": "please refund {} my money", "parcel": "the parcel {} is late again", "login": "no login {} today"}
SWAPPED = {"money": "parcel", "parcel": "login", "login": "money"}


def told(learning: Learning, start: int, stop: int, source: str, *, swapped: bool = False, times: int = 4) -> None:
    """Labelled events about three things, learned before it goes on."""
    for number in range(start, stop):
        kind = list(ABOUT)[number % 3]
        label = LabelCorrection(label=SWAPPED[kind] if swapped else kind)
        event = LabelledEvent(id=f"t{number}", input=ABOUT[kind].format(f"{number:x}"), correction=label, source=source)
        learning.publish("labels", to_json(event))
    learning.step(times)


def right(learning: Learning) -> bool:
    rows = learning.engine.encode([words.format("ffff") for words in ABOUT.values()])
    return [label for label, _ in learning.core.head.predict(rows)] == list(ABOUT)


def test_an_import_of_wrong_labels_is_undone_by_what_the_others_say(learning: Learning) -> None:
    told(learning, 0, 60, "desk")
    told(learning, 60, 120, "desk")
    assert right(learning)
    before = {taken.head for taken in learning.store.lessons.checkpoints()}
    newest = learning.store.lessons.checkpoints()[0].head
    assert newest != fast(learning).checkpoint
    epoch = learning.core.state.epoch
    told(learning, 1_000, 1_200, "import", swapped=True)
    assert not right(learning), "or there is nothing to undo"
    assert {taken.head for taken in learning.store.lessons.checkpoints()} - before, "one is of the wrong labels"
    assert learning.core.state.epoch == epoch, "those who sent them find it better"
    for start in range(120, 240, 20):
        told(learning, start, start + 20, "desk")
        if learning.core.state.epoch > epoch:
            break
        told(learning, 2_000 + start, 2_060 + start, "import", swapped=True)
    assert learning.core.state.start_head == newest, "not the old one that it was compared with: that knows less"
    assert start <= 180, "some dozens of events are enough"
    learning.step(2)
    assert right(learning)
    assert any("of a source" in said for said in learning.said("rollback"))


def test_the_guard_does_not_go_back_to_a_checkpoint_of_the_wrong_labels(learning: Learning) -> None:
    """Which knows more of what came lately than the clean one: that is not what the events say against the tier."""
    told(learning, 0, 60, "desk")
    told(learning, 60, 120, "desk")
    epoch = learning.core.state.epoch
    for number in range(30):
        label = LabelCorrection(label="card")
        event = LabelledEvent(id=f"c{number}", input=f"my card {number:x} is gone", correction=label, source="desk")
        learning.publish("labels", to_json(event))
    learning.step(2)
    told(learning, 1_000, 1_300, "import", swapped=True)
    for start in range(120, 360, 20):
        told(learning, start, start + 20, "desk")
        if learning.core.state.epoch > epoch:
            break
        told(learning, 2_000 + start, 2_060 + start, "import", swapped=True)
    assert learning.core.state.epoch > epoch
    head = read_head(learning.core.registry.get_head(learning.core.state.start_head))
    rows = learning.engine.encode([words.format("ffff") for words in ABOUT.values()])
    assert [label for label, _ in head.predict(rows)] == list(ABOUT)


def test_what_a_rollback_has_left_is_not_gone_back_to(learning: Learning) -> None:
    told(learning, 0, 60, "desk")
    told(learning, 60, 120, "desk")
    good = learning.store.lessons.checkpoints()[0].head
    told(learning, 120, 180, "desk")
    left = learning.store.lessons.checkpoints()[0].head
    assert left != good
    learning.issue(control.Rollback, to_epoch=learning.core.state.epoch, checkpoint=good, reason="by hand")
    learning.step(2)
    assert learning.core.state.start_head == good
    embedding = learning.engine.encode(["please refund ff my money"])[0]
    fast(learning).watch.evidence["desk"] = deque([Evidence(embedding, "money", 10**9, True)] * 30)
    assert fast(learning).best("desk") != left


class Says:
    """A head that is right on the first of the events for the tier and on the first of those against it."""

    def __init__(self, others: int, against: int) -> None:
        self.right = [*range(others), *range(60, 60 + against)]

    def predict(self, rows: np.ndarray) -> list[tuple[str, float]]:
        return [("money" if row in self.right else "", 0.5) for row in range(len(rows))]


def test_the_checkpoint_gone_back_to_is_without_the_fault_and_the_best_on_all_events(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in range(0, 240, 60):
        told(learning, start, start + 60, "desk")
    kept = {each.head: each.upto for each in learning.store.lessons.checkpoints()}
    watch = fast(learning).watch
    spoiled, newer, older, *_ = kept
    assert watch.checkpoint not in (spoiled, newer, older)
    embedding = learning.engine.encode(["please refund ff my money"])[0]

    def evidence(seq: int) -> deque[Evidence]:
        return deque(Evidence(embedding, "money", seq, against=at >= 60) for at in range(100))

    heads = {
        spoiled: Says(others=60, against=2),
        newer: Says(others=58, against=37),
        older: Says(others=40, against=40),
        watch.checkpoint: Says(others=20, against=40),
    }
    monkeypatch.setattr(watch, "_opened", lambda head: (head, heads.get(head, Says(0, 0))))
    watch.evidence["desk"] = evidence(10**9)
    assert fast(learning).best("desk") == newer
    heads[spoiled] = Says(others=60, against=40)
    assert fast(learning).best("desk") == spoiled
    watch.evidence["desk"] = evidence(kept[spoiled])
    assert fast(learning).best("desk") == newer, "the newest has learned from these"
    watch.evidence["desk"].clear()
    assert fast(learning).best("desk") == watch.checkpoint, "nothing is known"


def test_a_change_that_all_sources_tell_of_is_followed(learning: Learning) -> None:
    told(learning, 0, 120, "desk")
    epoch = learning.core.state.epoch
    for start in range(120, 420, 40):
        told(learning, start, start + 20, "desk", swapped=True)
        told(learning, start + 20, start + 40, "another desk", swapped=True)
    assert learning.core.state.epoch == epoch
    assert not right(learning)


def test_many_events_that_one_head_has_answered_are_not_held_against_the_tier(learning: Learning) -> None:
    """Something has changed, and the next head has learned it: an old checkpoint, by chance right, is no way back."""
    told(learning, 0, 120, "desk")
    reference = fast(learning).checkpoint
    for start in range(120, 180, 20):
        told(learning, start, start + 20, "desk", swapped=True)
    assert not right(learning)
    assert fast(learning).checkpoint == reference
    epoch = learning.core.state.epoch
    told(learning, 1_000, 1_300, "import")
    assert right(learning)
    assert learning.core.state.epoch == epoch


def test_a_checkpoint_is_compared_with_once_time_and_events_have_shown_nothing_against_it(learning: Learning) -> None:
    told(learning, 0, 60, "desk")
    first = fast(learning).checkpoint
    told(learning, 60, 120, "desk")
    newest = learning.store.lessons.checkpoints()[0].head
    assert fast(learning).checkpoint == first != newest
    learning.clock.advance(61)
    told(learning, 120, 140, "desk", times=2)
    assert fast(learning).checkpoint == first, "time is not enough"
    for start in range(140, 260, 20):
        told(learning, start, start + 20, "desk")
    assert fast(learning).checkpoint not in (first, "")


def promote(learning: Learning, marker: bytes) -> str:
    core = learning.core
    base = core.registry.put({"tensors.safetensors": marker})
    learning.issue(
        control.Promote,
        base=base,
        start_head=core.state.start_head,
        parent=core.state.base,
        expected_epoch=core.state.epoch,
    )
    learning.step()
    return base


def test_under_another_base_the_tier_is_built_anew_from_what_is_retained(learning: Learning) -> None:
    learning.label(0, 30)
    learning.step(2)
    old = tier(learning)
    promote(learning, b"other")
    learning.step(2)
    plain = FastTier(dim=DIM)
    for example in learning.store.training():
        plain.learn(learning.engine.encode([example.input])[0], example.label)
    assert tier(learning) is not old
    assert tier(learning).to_bytes() == plain.to_bytes()
    assert learning.core.tiers.version.startswith("v2.2.")
    assert learning.core.head.labels == ("a", "b")


def test_feedback_predicted_under_another_base_is_embedded_again(learning: Learning) -> None:
    old = learning.core.state.base
    learning.label(0, 20)
    learning.step(2)
    stale = learning.engine.encode([text(500)])[0]
    promote(learning, b"other")
    learning.step(2)
    seen: list[np.ndarray] = []
    learn = tier(learning).learn
    tier(learning).learn = lambda e, label, weight: (seen.append(e), learn(e, label, weight))[1]  # type: ignore[method-assign]
    learning.publish(
        "predictions",
        to_json(
            Prediction(
                id="p",
                time=learning.clock.now(),
                model="default",
                version="v0.1.1",
                base=old,
                input=text(500),
                output="b",
                embedding=stale.tobytes(),
            )
        ),
    )
    learning.publish(
        "feedback", to_json(Feedback(prediction_id="p", kind="correct", correction=LabelCorrection(label="a")))
    )
    learning.step(2)
    fresh = learning.engine.encode([text(500)])[0]
    assert len(seen) == 1
    assert np.array_equal(seen[0], fresh)
    assert not np.array_equal(fresh, stale)
    assert learning.store.training()[-1].input == text(500)


def test_a_return_to_an_earlier_base_takes_up_its_checkpoint(learning: Learning) -> None:
    learning.label(0, 40)
    learning.step(3)
    (kept, *_) = [taken for taken in learning.store.lessons.checkpoints() if taken.upto == 40]
    promote(learning, b"worse")
    learning.label(40, 60)
    learning.step(3)
    learning.issue(control.Rollback, to_epoch=1, reason="worse", checkpoint=kept.head)
    learning.step(2)
    assert tier(learning).to_bytes() == learning.store.lessons.data(kept)
    assert learning.core.tiers.version.startswith("v0.3.")
