"""Fault 17, the other way round: a round that an operator overtook."""

from __future__ import annotations

from collections.abc import Callable

from learning_parts import ROUNDS, Learning, outcome

from stream_ft import control
from stream_ft.wiring.rounds import RoundProcess


def running(learning: Learning, start: int) -> RoundProcess:
    """The round that new examples bring; its process is ended, so that the test says what came of it."""
    learning.label(start, start + 60)
    for _ in range(5):
        learning.step()
        if learning.core.round is not None:
            learning.core.round.kill()
            return learning.core.round
    raise AssertionError(learning.core.learner.decision.reason)


def finish(learning: Learning, process: RoundProcess, candidate: float) -> None:
    ended = outcome(process.job, process.folder, champion=candidate - 0.3, candidate=candidate)
    learning.core.finish(ended, learning.clock.now())


def test_fault_17_a_rollback_during_a_round_is_not_undone_by_its_promotion(learner: Callable[..., Learning]) -> None:
    learning = learner(**ROUNDS)
    genesis = learning.core.state
    finish(learning, running(learning, 0), 0.5)
    promoted = learning.core.state
    assert promoted.version != genesis.version

    process = running(learning, 60)
    assert process.job.epoch == promoted.epoch
    (first,) = [epoch for epoch, release in genesis.history]
    learning.issue(control.Rollback, to_epoch=first, reason="It greets people wrongly.")
    learning.core.follow(learning.clock.now())
    back = learning.core.state
    assert (back.base, back.epoch) == (process.job.champion_base, promoted.epoch + 1), "the same base, another version"
    assert back.start_head == genesis.start_head

    finish(learning, process, 0.9)
    learning.step()
    assert learning.core.state.release == back.release
    last = [v for v in learning.folded() if isinstance(v.message, control.Promote)][-1]
    assert not last.accepted
    assert any(told.startswith("promote was refused") for told in learning.said("note"))
