"""Rounds that train the model, as real subprocesses on a tiny BERT, compared with plain transformers and peft."""

import json
import os
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from tiny import bert, examples, genesis, job_folder
from transformers import AutoModel, AutoTokenizer

from stream_ft.errors import ArtifactError
from stream_ft.learn.adapt.candidate import TRAINING_STATE, read_folder
from stream_ft.learn.adapt.trainer import TrainingAborted
from stream_ft.learn.fast.tier import FastTier, taught
from stream_ft.learn.job import Job, Result
from stream_ft.learn.round import run
from stream_ft.model import golden
from stream_ft.model.base import base_files
from stream_ft.model.engines.torch_engine import TorchEngine
from stream_ft.model.heads import Head
from stream_ft.model.mixture import read_head

METHODS = ("lora", "partial", "full", "scratch")
TRAIN, EVALUATE = examples(160), examples(60, start=160)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"))


def order(base, root, kind, **fields):
    return Job(
        **(
            {
                "kind": kind,
                "base_model": str(base.path),
                "champion_base": "genesis",
                "champion_dir": str(root / "genesis"),
                "steps": 8,
                "batch": 16,
                "last_layers": 1,
                "rank": 4,
                "learning_rate": 5e-3,
                "projection": 0,
                "max_tokens": 32,
                "device": "cpu",
                "examples_upto": 160,
            }
            | fields
        )
    )


def start(folder, environment=None):
    command = [sys.executable, "-m", "stream_ft.learn.round", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment or ENVIRONMENT, check=False)


def finished(folder):
    done = start(folder)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode((folder / "result.json").read_bytes(), type=Result)


@pytest.fixture(scope="module", params=METHODS)
def round_of(request, base, tmp_path_factory):
    """One round of each method: its kind, its folder and its result."""
    root = tmp_path_factory.mktemp(request.param)
    genesis(base, root / "genesis")
    folder = job_folder(root / "job", order(base, root, request.param), TRAIN, EVALUATE)
    return request.param, folder, finished(folder)


def served(base, folder):
    engine = TorchEngine(base, max_tokens=32, threads=1, device="cpu")
    engine.prepare("genesis", base_files(base))
    engine.activate("genesis")
    engine.prepare("candidate", read_folder(str(folder / "candidate")))
    return engine


def plain(base, kind, folder):
    """The candidate as somebody without this project would load it."""
    model = AutoModel.from_pretrained(base.path)
    if kind == "lora":
        return PeftModel.from_pretrained(model, folder / "candidate").eval()
    rest = model.load_state_dict(load_torch(folder / "candidate" / "tensors.safetensors"), strict=False)
    assert not rest.unexpected_keys
    return model.eval()


def test_the_result_tells_what_was_done(round_of):
    kind, _, result = round_of
    assert result.ok, result.reason
    assert result.kind == kind
    assert result.steps == len(result.losses) == 8
    assert result.skipped_steps == 0
    assert result.train_examples == 160
    assert result.examples_upto == 160
    assert result.scores_champion == [0.0] * 60
    assert len(result.scores_candidate) == len(result.classes) == 60
    assert sum(result.scores_candidate) / 60 > 0.5
    assert result.cpu_s > 0
    assert 50 < result.peak_rss_mb < 1_100


# peft still asks transformers for an attribute by its former name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_served_embeddings_are_those_of_plain_loading(round_of, base):
    kind, folder, _ = round_of
    engine = served(base, folder)
    engine.activate("candidate")
    found = engine.encode([e.input for e in EVALUATE]).astype(np.float32)
    model, tokenizer = plain(base, kind, folder), AutoTokenizer.from_pretrained(base.path)
    for row, example in zip(found, EVALUATE, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(example.input, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(row, states.mean(0).numpy(), atol=3e-3)


def test_the_candidate_differs_and_a_rollback_restores_every_bit(round_of, base):
    _, folder, _ = round_of
    engine = served(base, folder)
    words = [e.input for e in EVALUATE]
    before = engine.encode(words)
    engine.activate("candidate")
    assert (engine.encode(words) != before).any()
    engine.activate("genesis")
    assert (engine.encode(words) == before).all()


def test_stored_embeddings_are_those_that_will_be_served(round_of, base):
    _, folder, result = round_of
    stored = load_file(folder / "embeddings.safetensors")
    assert stored["ids"].dtype == np.int64
    assert stored["embeddings"].dtype == np.float16
    assert stored["ids"].tolist() == [e.id for e in (*TRAIN, *EVALUATE)]
    engine = served(base, folder)
    engine.activate("candidate")
    again = engine.encode([e.input for e in EVALUATE])
    np.testing.assert_allclose(stored["embeddings"][160:].astype(np.float32), again.astype(np.float32), atol=3e-3)
    head = Head.from_bytes((folder / "head.safetensors").read_bytes())
    right = [
        float(label == e.label)
        for (label, _), e in zip(head.predict(stored["embeddings"][160:]), EVALUATE, strict=True)
    ]
    assert right == result.scores_candidate


def test_the_folder_holds_what_the_method_learned_and_no_manifest(round_of, base):
    kind, folder, _ = round_of
    names = {path.name for path in (folder / "candidate").iterdir()}
    learned = (
        {"adapter_config.json", "adapter_model.safetensors"}
        if kind == "lora"
        else {"config.json", "tensors.safetensors"}
    )
    assert names == learned | {TRAINING_STATE, golden.FILE}
    if kind == "lora":
        targets = json.loads((folder / "candidate/adapter_config.json").read_bytes())["target_modules"]
        assert targets == sorted(targets)
        assert len(targets) == 12
    else:
        changed = set(load_file(folder / "candidate/tensors.safetensors"))
        assert not any("pooler" in name for name in changed)
        layers = {name.split(".")[2] for name in changed if name.startswith("encoder.layer.")}
        assert layers == ({"1"} if kind == "partial" else {"0", "1"})
        assert any(name.startswith("embeddings") for name in changed) == (kind != "partial")


def test_the_next_round_goes_on_from_this_one(round_of, base, tmp_path):
    kind, folder, first = round_of
    job = order(
        base,
        tmp_path,
        kind,
        champion_base="first",
        champion_dir=str(folder / "candidate"),
        champion_head=str(folder / "head.safetensors"),
        steps=1,
        learning_rate=1e-6,
    )
    second = run(job_folder(tmp_path / "job", job, TRAIN, EVALUATE), job)
    assert second.ok, second.reason
    assert second.scores_champion == first.scores_candidate, "the champion is scored as the candidate was"
    now, then = (
        load_file(f / "embeddings.safetensors")["embeddings"].astype(np.float32) for f in (tmp_path / "job", folder)
    )
    apart = np.abs(now - then).max()
    assert (apart > 0.05) if kind == "scratch" else (apart < 0.01)


def test_a_method_can_follow_another(base, tmp_path):
    """The candidate is told relative to the pretrained model, whatever the champion was."""
    genesis(base, tmp_path / "genesis")
    champion = tmp_path / "genesis"
    for kind in ("lora", "partial", "full", "lora"):
        folder = job_folder(
            tmp_path / f"{kind}-{champion.parent.name}", order(base, tmp_path, kind, steps=2), TRAIN, EVALUATE
        )
        job = order(base, tmp_path, kind, steps=2, champion_base="x", champion_dir=str(champion))
        result = run(folder, job)
        assert result.ok
        if kind == "partial":
            changed = set(load_file(folder / "candidate/tensors.safetensors"))
            assert "encoder.layer.0.output.dense.weight" in changed, "the champion's merged adapter is part of it"
        champion = folder / "candidate"


def test_a_base_is_served_only_where_it_gives_what_its_round_had(round_of, base):
    kind, folder, _ = round_of
    files = read_folder(str(folder / "candidate"))
    engine = TorchEngine(base, max_tokens=32, threads=1, device="cpu")
    engine.prepare("made", files)
    golden.check(files, engine.trial("made", list(golden.TEXTS)), engine.tolerance)
    if kind == "lora":  # merged by another rule
        config = json.loads(files["adapter_config.json"])
        wrong = files | {"adapter_config.json": json.dumps(config | {"lora_alpha": 50 * config["lora_alpha"]}).encode()}
    else:
        wrong = base_files(base)
    engine.prepare("wrong", wrong)
    with pytest.raises(ArtifactError, match="off by"):
        golden.check(files, engine.trial("wrong", list(golden.TEXTS)), engine.tolerance)


def test_a_seed_fixes_every_byte(base, tmp_path):
    genesis(base, tmp_path / "genesis")
    folders = []
    for name in ("one", "two"):
        job = order(base, tmp_path, "lora", steps=3, seed=5)
        folders.append(job_folder(tmp_path / name, job, TRAIN, EVALUATE))
        assert run(folders[-1], job).ok
    names = ["head.safetensors", "embeddings.safetensors"] + [
        f"candidate/{p.name}" for p in (folders[0] / "candidate").iterdir()
    ]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_with_a_fast_tier_both_bases_are_judged_with_one_that_learned_the_same(base, tmp_path):
    experts = ["softmax", "means", "concepts"]
    genesis(base, tmp_path / "genesis")
    folder = job_folder(tmp_path / "job", order(base, tmp_path, "lora", experts=experts), TRAIN, EVALUATE)
    result = finished(folder)
    assert result.ok
    embedded = load_file(folder / "embeddings.safetensors")["embeddings"]
    tier = FastTier.from_bytes((folder / "tier.safetensors").read_bytes())
    same = taught(embedded[: len(TRAIN)], TRAIN, experts=experts, seed=0)
    assert (tier.learned, tier.labels) == (len(TRAIN), same.labels)
    assert np.allclose(tier.probabilities(embedded[-1]), same.probabilities(embedded[-1]), atol=1e-3)
    head = read_head((folder / "head.safetensors").read_bytes())
    right = [label for label, _ in head.predict(embedded[len(TRAIN) :])]
    assert result.scores_candidate == [float(x == e.label) for x, e in zip(right, EVALUATE, strict=True)]
    champion = TorchEngine(base, max_tokens=32, threads=1, device="cpu")
    champion.prepare("genesis", base_files(base))
    champion.activate("genesis")
    made = champion.encode([example.input for example in (*TRAIN, *EVALUATE)])
    old = read_head(taught(made[: len(TRAIN)], TRAIN, experts=experts, seed=0).head().to_bytes())
    right = [label for label, _ in old.predict(made[len(TRAIN) :])]
    assert result.scores_champion == [float(x == e.label) for x, e in zip(right, EVALUATE, strict=True)]


def test_a_training_that_diverges_leaves_no_candidate(base, tmp_path):
    genesis(base, tmp_path / "genesis")
    job = order(base, tmp_path, "full", learning_rate=1e30, steps=40)
    folder = job_folder(tmp_path / "job", job, TRAIN, EVALUATE)
    with pytest.raises(TrainingAborted, match="loss"):
        run(folder, job)
    assert not (folder / "candidate").exists()
    assert not (folder / "head.safetensors").exists()


def test_a_missing_champion_is_named(base, tmp_path):
    job = order(base, tmp_path, "lora")
    with pytest.raises(ArtifactError, match="registry"):
        run(job_folder(tmp_path / "job", job, TRAIN, EVALUATE), job)


def test_a_round_without_time_for_a_step_has_no_candidate(base, tmp_path):
    genesis(base, tmp_path / "genesis")
    job = order(base, tmp_path, "lora", steps=100_000, seconds=1e-3)
    folder = job_folder(tmp_path / "job", job, TRAIN, EVALUATE)
    with pytest.raises(TrainingAborted, match="No step was taken"):
        run(folder, job)
    assert not (folder / "head.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["round.before_train", "round.after_step:3", "round.before_result"])
def test_fault_13_a_round_that_is_killed_leaves_no_result(base, tmp_path, point):
    genesis(base, tmp_path / "genesis")
    folder = job_folder(tmp_path / "job", order(base, tmp_path, "lora", steps=4), TRAIN, EVALUATE)
    name, _, count = point.partition(":")
    log = tmp_path / "failpoints"
    environment = ENVIRONMENT | {
        "STREAM_FT_FAILPOINT": f"{name}:kill:{count or 1}",
        "STREAM_FT_FAILPOINT_LOG": str(log),
    }
    assert start(folder, environment).returncode == -signal.SIGKILL
    assert log.read_text() == name + "\n"
    assert not (folder / "result.json").exists()
