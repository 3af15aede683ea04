"""A version that the learner cannot load: nothing is said in its name until it can be."""

from __future__ import annotations

from pathlib import Path

from learning_parts import ROUNDS, Learning

from stream_ft import control

MISSING = "f" * 64


def promote_missing(learning: Learning) -> None:
    state = learning.core.state
    learning.issue(
        control.Promote, base=MISSING, start_head=state.start_head, parent=state.base, expected_epoch=state.epoch
    )
    learning.step()


def test_examples_are_answered_and_embedded_in_the_name_of_what_is_loaded(tmp_path: Path) -> None:
    learning = Learning(tmp_path)
    learning.step(2)
    before = learning.core.state
    promote_missing(learning)
    assert learning.core.state.base == MISSING
    assert learning.core.in_force.base == before.base
    learning.label(0, 10)
    learning.step()
    examples = learning.store.training()
    assert {example.embedding_base for example in examples} == {before.base}
    assert MISSING not in {example.embedding_base for example in examples}
    assert {example.predicted_version for example in examples} == {learning.core.in_force.version}
    assert learning.core.embed_missing(100) == 0
    ready, why = learning.loop.ready()
    assert not ready
    assert "cannot be loaded" in why
    learning.close()


def test_no_round_starts_until_the_version_can_be_loaded(tmp_path: Path) -> None:
    learning = Learning(tmp_path, **ROUNDS)
    learning.step(2)
    promote_missing(learning)
    learning.label(0, 40)
    learning.step(4)
    assert learning.core.round is None
    assert len(learning.said("failure")) == 1, "said once, not at every attempt"
    learning.issue(control.Rollback, to_epoch=0, reason="cannot be loaded")
    learning.step(4)
    assert learning.core.unloaded == ""
    assert learning.loop.ready()[0]
    assert learning.core.round is not None
    learning.close()


def test_a_learner_keeps_one_set_of_tensors_however_many_bases_come(tmp_path: Path) -> None:
    learning = Learning(tmp_path)
    learning.step(2)
    for number in range(4):
        state = learning.core.state
        base = learning.registry.put({"tensors.safetensors": bytes([number])})
        learning.issue(
            control.Promote, base=base, start_head=state.start_head, parent=state.base, expected_epoch=state.epoch
        )
        learning.step()
        assert learning.core.in_force.base == base
        assert learning.engine.bases == [base]
    learning.issue(control.Rollback, to_epoch=0, reason="back")
    learning.step()
    assert learning.engine.bases == [learning.core.in_force.base]
    learning.close()
