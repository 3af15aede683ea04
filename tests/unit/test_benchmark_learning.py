"""The learning benchmark's arithmetic, and how its other learners are fed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import learning
from benchmarks.learning_peers import PEERS, follow
from benchmarks.streams import Event, Stream


def stream(truths: list[str], *, delay: int = 0, changes: tuple[int, ...] = (), phases: list[str] | None = None):
    phases = phases or [""] * len(truths)
    events = tuple(
        Event(text=f"t{i}", truth=y, fed=y, phase=p) for i, (y, p) in enumerate(zip(truths, phases, strict=True))
    )
    return Stream(
        name="s", seed=0, events=events, test=(("a1", "a"), ("a2", "a"), ("b1", "b")), changes=changes, delay=delay
    )


def test_recovery_is_counted_in_events_of_the_rolling_accuracy():
    right = np.array([1.0] * 1_000 + [0.0] * 100 + [1.0] * 900)
    found = learning.recovery(right, 1_000)
    assert (found["before"], found["dip"]) == (1.0, pytest.approx(2 / 3))
    # The window's share of the 100 wrong ones is 5 % when 285 of 300 are right.
    assert found["recovery_events"] == 385
    assert learning.recovery(np.array([1.0] * 1_000 + [0.0] * 900), 1_000)["recovery_events"] == 900, "never"
    assert learning.recovery(right, None)["dip"] is None


def test_what_is_forgotten_is_of_the_first_phases_classes():
    made = stream(["a"] * 4 + ["b"] * 4, phases=["1"] * 4 + ["2"] * 4)
    cell = learning.Cell(outputs=["a"] * 8, final=["a", "b", "b"], learn_cpu_s=0.08, after_first=1.0)
    figures = cell.figures(made)
    assert figures["prequential"] == 0.5
    assert figures["final"] == pytest.approx(2 / 3)
    assert figures["forgetting"] == 0.5
    assert figures["learn_cpu_ms_per_event"] == pytest.approx(10.0)


def test_means_and_ranges_are_over_the_seeds_that_are_there():
    cells = {f"s/x/{seed}": {"final": value, "dip": None, "curve": []} for seed, value in ((0, 0.5), (1, 0.7))}
    found = learning.by_stream(cells, [0, 1, 2], quick=False)["s"]["x"]
    assert found["final"] == {"mean": pytest.approx(0.6), "low": 0.5, "high": 0.7}
    assert (found["dip"], found["seeds"]) == (None, 2)


class Recorder:
    """Says how many labels it has been told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def predict(self, text: str, embedding: np.ndarray) -> str:
        return str(len(self.told))

    def learn(self, text: str, embedding: np.ndarray, label: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize("delay", [0, 2])
def test_each_event_is_predicted_before_its_label_comes_and_every_label_comes(delay: int):
    peer = Recorder()
    made = stream(["a"] * 60, delay=delay, phases=["1"] * 31 + ["2"] * 29)
    rows = np.zeros((60, 4), np.float16)
    outputs, said, _, asked = follow(peer, made, rows, rows[:3], lambda: float(len(peer.told)))
    assert outputs == [str(max(0, at - delay)) for at in range(60)]
    assert asked == 50 - delay
    assert peer.told == [f"t{at}" for at in range(60)]
    assert said == ["60"] * 3


@pytest.mark.parametrize("name", ["frozen", "river_softmax", "river_nb", "ncm", "softmax", "ridge", "concepts"])
def test_every_other_learner_learns_two_things(name: str):
    peer = PEERS[name](dim=16, seed=0)
    draw = np.random.default_rng(0)
    centres = {"card": draw.normal(size=16), "refund": draw.normal(size=16)}

    def row(kind: str) -> np.ndarray:
        return (centres[kind] + 0.1 * draw.normal(size=16)).astype(np.float16)

    for at in range(60):
        kind = ("card", "refund")[at % 2]
        peer.learn(f"my {kind} please", row(kind), kind)
    assert [peer.predict(f"my {kind} please", row(kind)) for kind in centres] == list(centres)
