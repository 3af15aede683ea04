"""Every task goes through the same round, gate, swap and stamp: nothing in the house assumes classes."""

import msgspec
import numpy as np
import pytest
from tiny import bert, examples, genesis, job_folder, llama

from stream_ft.errors import ConfigError
from stream_ft.events import Example, LabelCorrection, SpanCorrection, TextCorrection
from stream_ft.learn import gate
from stream_ft.learn.adapt.candidate import read_folder
from stream_ft.learn.job import Job
from stream_ft.learn.round import run
from stream_ft.model.base import base_files
from stream_ft.model.engines.torch_engine import TorchEngine
from stream_ft.model.heads import Head
from stream_ft.model.tasks import find_task
from stream_ft.release import dossier

TASKS = {"classification": bert, "causal-lm": llama}


@pytest.fixture(scope="module", params=list(TASKS))
def done(request, tmp_path_factory):
    """One LoRA round of each task."""
    root = tmp_path_factory.mktemp(request.param)
    base = TASKS[request.param](root / "model")
    text = request.param == "causal-lm"
    train, evaluate = examples(160, text=text), examples(80, start=160, text=text)
    job = Job(
        kind="lora",
        base_model=str(base.path),
        champion_base="genesis",
        champion_dir=str(genesis(base, root / "genesis")),
        task=request.param,
        steps=30,
        batch=16,
        rank=8,
        learning_rate=2e-3,
        projection=0,
        max_tokens=32,
        device="cpu",
    )
    folder = job_folder(root / "job", job, train, evaluate)
    return find_task(request.param), base, folder, run(folder, job), evaluate


def engine_of(task, base, files):
    engine = TorchEngine(base, max_tokens=32, threads=1, device="cpu", architecture=task.architecture)
    engine.prepare("genesis", base_files(base))
    engine.activate("genesis")
    engine.prepare("candidate", files)
    return engine


def judged(champion, candidate, result, scale):
    return gate.judge(
        champion,
        candidate,
        result.classes,
        margin=0.02,
        confidence=0.95,
        class_floor=0.2,
        class_support=10,
        min_examples=50,
        scale=scale,
    )


def test_the_round_scores_both_sides_on_the_same_examples(done):
    _, _, _, result, evaluate = done
    assert result.ok, result.reason
    assert len(result.scores_champion) == len(result.scores_candidate) == len(evaluate)
    assert np.mean(result.scores_candidate) > np.mean(result.scores_champion)


def test_the_gate_lets_what_was_learned_pass_and_refuses_the_way_back(done):
    task, _, _, result, _ = done
    assert judged(result.scores_champion, result.scores_candidate, result, task.scale).accepted
    assert not judged(result.scores_candidate, result.scores_champion, result, task.scale).accepted


def test_the_swap_serves_the_scores_that_were_judged(done):
    task, base, folder, result, evaluate = done
    engine = engine_of(task, base, read_folder(str(folder / "candidate")))
    head = Head.from_bytes((folder / "head.safetensors").read_bytes())
    texts = [e.input for e in evaluate]
    before = engine.encode(texts)
    engine.activate("candidate")
    again = task.score(engine, head, engine.encode(texts), evaluate)
    assert again == pytest.approx(result.scores_candidate, abs=1e-4)
    engine.activate("genesis")
    assert (engine.encode(texts) == before).all()


def test_predictions_are_the_right_outputs(done):
    task, base, folder, _, evaluate = done
    engine = engine_of(task, base, read_folder(str(folder / "candidate")))
    engine.activate("candidate")
    head = Head.from_bytes((folder / "head.safetensors").read_bytes())
    some = evaluate[:12]
    answers = task.predict(engine, head, [e.input for e in some])
    assert sum(output == e.label for (output, _), e in zip(answers, some, strict=True)) >= 10
    assert all(0 < confidence <= 1 for _, confidence in answers)


def test_the_stamp_takes_the_head_of_any_task(done):
    task, _, folder, result, _ = done
    verdict = msgspec.to_builtins(judged(result.scores_champion, result.scores_candidate, result, task.scale))
    head = dossier.stamp(
        (folder / "head.safetensors").read_bytes(), dossier.Dossier(kind="lora", examples_upto=160, verdict=verdict)
    )
    assert dossier.read(head).verdict == verdict
    assert Head.from_bytes(head).dim == 32


def test_metrics_are_named_and_finite(done):
    task, _, _, result, _ = done
    metrics = task.metrics(result.scores_candidate, result.classes)
    assert metrics
    assert all(np.isfinite(value) for value in metrics.values())
    assert task.metrics([], None) == {}


def test_only_corrections_of_its_own_kind_are_usable(done):
    task, *_ = done
    corrections = [LabelCorrection(label="a"), TextCorrection(text="a"), SpanCorrection(start=0, end=1)]
    rows = [Example(seq=1, id=1, input="x", correction=c, source="s", trust=1) for c in corrections]
    usable = [task.usable(row) for row in rows]
    assert usable == ([True, False, False] if task.name == "classification" else [False, True, False])


def test_mean_recall_does_not_hide_a_class_that_is_always_wrong():
    metrics = find_task("classification").metrics([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert metrics == {"accuracy": 0.75, "mean_recall": 0.5}


def test_a_task_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="translation"):
        find_task("translation")
