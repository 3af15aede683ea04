"""What a round of the encoder is given: how many steps, and how many examples it is judged by."""

from __future__ import annotations

from pathlib import Path

import pytest
from learning_parts import Learning

from stream_ft.wiring import starting


def planned(learning: Learning, kind: str) -> starting.Planned:
    core = learning.core
    found = starting.plan(
        kind,  # type: ignore[arg-type]
        starting.Champion(state=core.state, examples_upto=0, memory=core.learner.memory),
        settings=core.settings,
        store=core.store,
        registry=core.registry,
        base=core._base,
        embed_missing=core.embed_missing,
        deterministic=True,
    )
    assert isinstance(found, starting.Planned)
    return found


@pytest.mark.parametrize(("passes", "batch", "steps"), [(1.0, 4, 40), (2.0, 4, 80), (1.0, 32, 16), (0.5, 4, 20)])
def test_few_examples_are_not_passed_over_more_often_than_asked(
    tmp_path: Path, passes: float, batch: int, steps: int
) -> None:
    # 160 of 200 are left to train on: 40 are withheld.
    learning = Learning(tmp_path, **{"schedule.min_evaluation": 40, "round.passes": passes, "round.batch": batch})
    try:
        learning.step(2)
        learning.label(0, 200)
        learning.step(4)
        learning.core.learner.memory.adapts_in_vain = -1  # passes bound the steps
        assert planned(learning, "adapt").job.steps == pytest.approx(steps, abs=2)
    finally:
        learning.close()


@pytest.mark.parametrize(("upto", "in_vain", "steps"), [(0, 0, 20), (100, -1, 80), (100, 0, 20), (100, 1, 20)])
def test_until_a_round_of_the_encoder_gained_one_only_shows_whether_steps_pay(
    tmp_path: Path, upto: int, in_vain: int, steps: int
) -> None:
    learning = Learning(tmp_path, **{"schedule.min_evaluation": 40, "round.steps": 20, "round.batch": 2})
    try:
        learning.step(2)
        learning.label(0, 200)
        learning.step(4)
        memory = learning.core.learner.memory
        memory.adapts_in_vain, memory.adapt_upto = in_vain, upto
        assert planned(learning, "adapt").job.steps == steps
    finally:
        learning.close()


@pytest.mark.parametrize(("kind", "minimum", "judged"), [("adapt", 25, 50), ("adapt", 40, 40), ("head", 25, 25)])
def test_an_encoder_is_judged_by_twice_as_many_where_there_are_enough(
    tmp_path: Path, kind: str, minimum: int, judged: int
) -> None:
    learning = Learning(tmp_path, **{"schedule.min_evaluation": 1_000_000})
    try:
        learning.step(2)
        learning.label(0, 200)
        learning.step(4)
        learning.core.settings.schedule.min_evaluation = minimum
        found = planned(learning, kind)
        assert len(found.split.evaluate) == pytest.approx(judged, abs=2)
    finally:
        learning.close()
