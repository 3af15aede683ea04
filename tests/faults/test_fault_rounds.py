"""Faults 15 and 28: a stream that would ruin the model, and rounds that take too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from learning_parts import ROUNDS, START, Learning, labelled, names, outcome, text

from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction, to_json
from stream_ft.learn import gate
from stream_ft.learn.job import Job
from stream_ft.model.closed_form import fit_head
from stream_ft.model.heads import Head
from stream_ft.wiring import rounds

Start = Callable[..., Learning]
GATE = {"margin": 0.02, "confidence": 0.95, "class_floor": 0.2, "class_support": 10, "min_examples": 200}

# --- fault 15: one label -------------------------------------------------------------------------------------------


def cloud(rng: np.random.Generator, centre: int, count: int, spread: float) -> np.ndarray:
    """Embeddings around a unit vector: ``[count, 8]``."""
    return (np.eye(8)[centre] + rng.normal(0, spread, (count, 8))).astype(np.float16)


def scores(head: Head, embeddings: np.ndarray, labels: Sequence[str]) -> list[float]:
    return [float(said == label) for (said, _), label in zip(head.predict(embeddings), labels, strict=True)]


def judged(train: np.ndarray, labels: Sequence[str], seed: int) -> gate.Verdict:
    """A candidate fitted on these, against a champion that knows four classes, while the stream says `a` alone."""
    rng = np.random.Generator(np.random.PCG64(seed))
    history = np.concatenate([cloud(rng, centre, 60, 0.2) for centre in range(4)])
    champion = fit_head(history, [name for name in "abcd" for _ in range(60)], features=0)
    # Every new event is an `a`, partly in words that the champion takes for a `b`; the holdout still has all classes.
    stream = np.concatenate([cloud(rng, 0, 300, 0.2), cloud(rng, 1, 90, 0.2)])
    holdout = np.concatenate([cloud(rng, centre, 20, 0.2) for centre in range(1, 4)])
    evaluation = np.concatenate([stream, holdout])
    right = ["a"] * len(stream) + [name for name in "bcd" for _ in range(20)]
    candidate = fit_head(train, labels, features=0)
    return gate.judge(scores(champion, evaluation, right), scores(candidate, evaluation, right), right, **GATE)


@pytest.mark.parametrize("seed", range(5))
def test_fault_15_a_model_that_collapsed_onto_one_label_is_refused_though_it_scores_better(seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(100 + seed))
    verdict = judged(cloud(rng, 0, 200, 0.3), ["a"] * 200, seed)
    assert verdict.difference is not None
    assert verdict.difference > 0.02, "more of the stream is right: the mean alone would let it pass"
    assert verdict.lower_bound is not None
    assert verdict.lower_bound > -GATE["margin"]
    assert not verdict.accepted
    assert "Recall of" in verdict.reason
    assert verdict.worst_class in "bcd"
    assert verdict.worst_class_drop > 0.8


def test_fault_15_one_label_alone_does_not_push_the_others_out_of_the_store(learner: Start) -> None:
    learning = learner(**{"replay.capacity": 100})
    learning.label(0, 80, of=("a", "b", "c", "d"))
    learning.label(80, 600, of=("a",))
    learning.step(4)
    kept = [example.label for example in learning.store.training()]
    assert len(kept) == 100
    assert {name: kept.count(name) for name in "bcd"} == {"b": 20, "c": 20, "d": 20}


def test_fault_15_a_learner_that_collapsed_keeps_its_champion(learner: Start) -> None:
    learning = learner(**ROUNDS | {"gate.margin": 0.02, "schedule.min_evaluation": 100})
    learning.label(0, 120)
    learning.step(2)
    process = learning.core.round
    assert process is not None
    process.kill()
    active = learning.core.state.release
    ended = outcome(process.job, learning.folder / "jobs-a" / "round", champion=0.6, candidate=0.9)
    assert ended.result is not None
    collapsed = rounds.Outcome(
        job=ended.job,
        folder=ended.folder,
        result=type(ended.result)(
            ok=True,
            kind="head",
            examples_upto=ended.result.examples_upto,
            scores_champion=[1.0] * 20 + [0.7] * 180,
            scores_candidate=[0.0] * 20 + [1.0] * 180,
            classes=["b"] * 20 + ["a"] * 180,
        ),
    )
    learning.core.finish(collapsed, learning.clock.now())
    learning.step()
    assert learning.core.state.release == active
    (told,) = learning.said("refusal")
    assert "Recall of 'b' falls by 100 points" in told


# --- fault 15: the model's own outputs -----------------------------------------------------------------------------


def test_fault_15_what_a_model_says_never_trains_and_is_no_yardstick(learner: Start) -> None:
    learning = learner()
    learning.publish("labels", labelled(0, "a"))
    correction = LabelCorrection(label="a")
    for number in range(1, 30):
        learning.publish(
            "predictions",
            to_json(
                Prediction(
                    id=f"p{number}", time=START, model="default", version="v", base="b", input=text(number), output="a"
                )
            ),
        )
        learning.publish(
            "feedback",
            to_json(Feedback(prediction_id=f"p{number}", kind="correct", correction=correction, source="model")),
            to_json(Feedback(prediction_id=f"p{number}", kind="correct", correction=correction, origin="model")),
        )
        learning.publish(
            "labels",
            to_json(LabelledEvent(input=text(100 + number), correction=correction, source="model")),
            to_json(LabelledEvent(input=text(200 + number), correction=correction, origin="model")),
        )
    learning.step(3)
    assert [example.input for example in learning.store.training()] == [text(0)]
    assert learning.store.holdout() == []
    assert learning.store.count().outbox == 0
    assert learning.log.read(names("dlq"), 0, 0, 9) == []
    assert learning.loop._quality.accuracy[1] == 1, "accuracy counts what people said, not what a model did"


# --- fault 28 ------------------------------------------------------------------------------------------------------


def started(folder: Path, *, memory_mb: int, seconds: float | None) -> rounds.RoundProcess:
    """A round whose job it has no time to read."""
    job = Job(kind="head", base_model="m", champion_base="b" * 64, examples_upto=3)
    return rounds.RoundProcess(folder, job, [], [], memory_mb=memory_mb, seconds=seconds)


def gone(pid: int) -> bool:
    """The process ended and was waited for, so that not even a zombie is left."""
    return not psutil.pid_exists(pid)


def test_fault_28_a_round_over_its_memory_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path / "round", memory_mb=1, seconds=None)
    ended = process.wait()
    assert ended.result is None
    assert "its limit is 1 MB" in ended.reason
    assert gone(process.pid)
    assert not (tmp_path / "round" / "result.json").exists()


def test_fault_28_a_round_over_its_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "GRACE_S", 0.0)
    process = started(tmp_path / "round", memory_mb=10_000, seconds=0.01)
    ended = process.wait()
    assert ended.result is None
    assert "The round was killed after" in ended.reason
    assert gone(process.pid)


def test_fault_28_the_champion_stays_and_the_schedule_backs_off(learner: Start) -> None:
    others = set(psutil.Process().children())  # a broker that other tests started
    learning = learner(**ROUNDS | {"schedule.interval_s": 5.0})
    # Less than the setting allows, so that no round can ever do with it.
    learning.settings.round = learning.settings.round.model_copy(update={"memory_mb": 1})
    active = learning.core.state.release
    failed: list[float] = []
    events = 0
    while len(failed) < 5:
        learning.label(events, events + 40)
        events += 40
        if len(failed) > 1:
            learning.step(seconds=0.0)
            assert f"{len(failed)} rounds in a row brought no promotion" in learning.core.learner.decision.reason
        fail_a_round(learning, len(failed) + 1)
        assert set(psutil.Process().children()) <= others
        failed.append(learning.clock.now())
        assert learning.loop.ready() == (True, ""), "the learner itself is well"
    assert [later - earlier for earlier, later in pairwise(failed)] == [5, 10, 20, 40]
    assert learning.core.state.release == active
    assert sorted(learning.applied()) == sorted(text(number) for number in range(events))
    assert all("its limit is 1 MB" in told for told in learning.said("failure"))


def fail_a_round(learning: Learning, count: int) -> None:
    """Let the loop run, a second a pass, until a round has failed for the ``count``-th time."""
    for _ in range(400):
        learning.step(seconds=1.0)
        # Killed in the pass that started it, or in one of the next: no time passes meanwhile.
        for _ in range(2_000):
            if learning.core.round is None:
                break
            learning.step(seconds=0.0)
        if len(learning.said("failure")) == count:
            return
    raise AssertionError(learning.core.learner.decision.reason)
