"""The frozen copy beside the live version, and the course of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from serving_parts import DIM, base

from stream_ft.model.heads import Head
from stream_ft.release.registry import Registry
from stream_ft.replay.store import Scored
from stream_ft.testing import FakeEngine
from stream_ft.wiring.curve import MOST, Curve
from stream_ft.wiring.frozen import WAITING, Frozen


def head() -> Head:
    """Label ``left`` where the first number is positive, else ``right``."""
    weight = np.zeros((2, DIM), np.float32)
    weight[0, 0], weight[1, 0] = 1.0, -1.0
    return Head(labels=("left", "right"), weight=weight, bias=np.zeros(2, np.float32), projection=None, dim=DIM)


def scored(first: float, label: str, *, correct: bool = True, on: str = "b0", covers: bool = True) -> Scored:
    embedding = np.zeros(DIM, "<f2")
    embedding[0] = first
    return Scored(
        version="v0.1.0", correct=correct, covers=covers, label=label, output="left", input=f"text {first}",
        embedding=embedding.tobytes(), embedding_base=on,
    )  # fmt: skip


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def frozen(registry: Registry, *, after: int = 10, on: str = "b0", window: int = 100) -> Frozen:
    made = Frozen(after=after, window=window, engine=FakeEngine(DIM), registry=registry)
    assert made.take(version="v0.1.0", base=on, head=head(), labels=after)
    return made


def test_it_is_taken_once_when_enough_labels_have_come(registry: Registry) -> None:
    made = Frozen(after=10, window=100, engine=FakeEngine(DIM), registry=registry)
    assert not made.take(version="v0.1.0", base="b0", head=head(), labels=9)
    assert not made.take(version="v0.0.0", base="b0", head=Head.empty(DIM), labels=10), "it knows no label"
    assert made.take(version="v0.1.0", base="b0", head=head(), labels=12)
    assert not made.take(version="v0.2.0", base="b0", head=head(), labels=13)
    assert made.copy is not None
    assert (made.copy.version, made.copy.labels) == ("v0.1.0", 12)
    never = Frozen(after=0, window=100, engine=FakeEngine(DIM), registry=registry)
    assert not never.take(version="v0.1.0", base="b0", head=head(), labels=10**6)


def test_both_are_scored_on_the_same_events(registry: Registry) -> None:
    made = frozen(registry)
    made.see([scored(1, "left"), scored(-1, "left", correct=True), scored(-1, "right", correct=False)])
    assert (made.over, made.accuracy, made.live_accuracy) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    made.see([scored(1, "left", covers=False)])
    assert made.over == 3, "corrections are no sample"


def test_the_window_slides(registry: Registry) -> None:
    made = frozen(registry, window=4)
    made.see([scored(1, "right") for _ in range(10)])
    made.see([scored(1, "left") for _ in range(3)])
    assert (made.over, made.accuracy) == (4, 0.75)


def test_it_survives_a_restart(registry: Registry) -> None:
    made = Frozen(after=10, window=100, engine=FakeEngine(DIM), registry=registry)
    made.restore(None)
    made.restore(frozen(registry).snapshot())
    made.see([scored(1, "left")])
    assert (made.copy is not None and made.copy.version, made.accuracy) == ("v0.1.0", 1.0)


def test_under_another_base_events_are_encoded_once_more_in_their_order(registry: Registry) -> None:
    sha = registry.put(base("genesis"))
    made = frozen(registry, on=sha)
    engine = FakeEngine(DIM)
    made._engine = engine
    made.see([scored(n, "left", on="b9") for n in range(5)])
    made.see([scored(1, "left", on=sha)])
    assert made.over == 0, "in order: behind one that waits, all wait"
    assert made.catch_up(4) == 4
    assert made.catch_up(4) == 2
    assert made.catch_up(4) == 0
    engine.prepare(sha, registry.get(sha))
    rows = engine.trial(sha, [f"text {n}" for n in range(5)] + ["text 1"])
    expected = [said == "left" for said, _ in head().predict(rows)]
    assert (made.over, made.accuracy) == (6, pytest.approx(sum(expected) / 6))


def test_what_waits_is_bounded(registry: Registry) -> None:
    sha = registry.put(base("genesis"))
    made = frozen(registry, on=sha, window=10_000)
    made.see([scored(n, "left", on="b9") for n in range(WAITING + 50)])
    while made.catch_up(8):
        pass
    assert made.over == WAITING


def test_a_base_that_is_gone_ends_the_comparison_and_says_so(registry: Registry) -> None:
    made = frozen(registry, on="5" * 64)
    made.see([scored(1, "left", on="b9")])
    assert made.catch_up(8) == 0
    assert "cannot be loaded" in made.lost
    made.see([scored(1, "left", on="5" * 64)])
    assert made.over == 0


# --- the curve ---------------------------------------------------------------------------------------------------


def test_a_point_at_each_step_once_there_is_something_to_say() -> None:
    curve = Curve()
    for number in range(60):
        live = 0.5 if number > 28 else None
        curve.passed(1, live=live, frozen=0.5 if number > 40 else None, now=float(number))
    assert [point.events for point in curve.points] == list(range(30, 61, 5))
    assert curve.points[0].frozen is None
    assert curve.points[-1].frozen == 0.5
    assert curve.points[-1].live == 0.5


def test_it_never_has_more_points_than_can_be_drawn_and_keeps_its_ends() -> None:
    curve = Curve()
    for number in range(20_000):
        curve.passed(1, live=1.0, frozen=None, now=float(number))
    assert len(curve.points) <= MOST
    assert curve.points[0].events <= 5
    assert 20_000 - curve.points[-1].events < curve.every
    gaps = {b.events - a.events for a, b in zip(curve.points, curve.points[1:], strict=False)}
    assert len(gaps) <= 2
    again = Curve.load(curve.dump())
    assert (again.points, again.events, again.every) == (curve.points, curve.events, curve.every)


def test_a_batch_that_passes_several_steps_is_one_point() -> None:
    curve = Curve()
    curve.passed(100, live=1.0, frozen=None, now=1.0)
    curve.passed(2, live=1.0, frozen=None, now=2.0)
    assert [point.events for point in curve.points] == [100]
