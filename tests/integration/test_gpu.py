"""What needs a CUDA device: ``pytest -m gpu``."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import bert, examples, genesis, job_folder, llama, texts

from stream_ft.learn.adapt.candidate import read_folder
from stream_ft.learn.job import Job
from stream_ft.learn.round import run
from stream_ft.model.base import base_files
from stream_ft.model.engines.torch_engine import TorchEngine, pick_device
from stream_ft.model.tasks.classification import Classification

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

WORDS = [words for words, _ in texts(40)]


def engine_on(device, base, files):
    engine = TorchEngine(base, max_tokens=32, device=device)
    engine.prepare("genesis", base_files(base))
    engine.prepare("candidate", files)
    engine.activate("candidate")
    return engine


def test_auto_takes_the_gpu():
    assert pick_device("auto").type == "cuda"


@pytest.fixture
def trained_in(monkeypatch):
    """Whether each training forward ran under autocast, in which type, and what its states were."""
    seen = []
    loss = Classification.loss

    def watched(self, model, head, batch):
        def state(module, arguments, output):
            seen.append((torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"), output.dtype))

        layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
        hook = layer.register_forward_hook(state)
        try:
            return loss(self, model, head, batch)
        finally:
            hook.remove()

    monkeypatch.setattr(Classification, "loss", watched)
    return seen


def test_training_on_the_gpu_is_in_bf16(tmp_path, trained_in):
    base = bert(tmp_path / "bert")
    job = Job(
        kind="full",
        base_model=str(base.path),
        champion_base="genesis",
        champion_dir=str(genesis(base, tmp_path / "genesis")),
        steps=2,
        projection=0,
        max_tokens=32,
        device="cuda",
    )
    folder = job_folder(tmp_path / "job", job, examples(80), examples(20, start=80))
    assert run(folder, job).ok
    assert set(trained_in) == {(True, torch.bfloat16, torch.bfloat16)}
    tensors = load_file(folder / "candidate" / "tensors.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}, "what is kept is not rounded"


@pytest.mark.parametrize("kind", ["lora", "partial", "full", "scratch"])
def test_a_round_on_the_gpu_is_served_alike_on_both_devices(tmp_path, kind):
    base = bert(tmp_path / "bert")
    job = Job(
        kind=kind,
        base_model=str(base.path),
        champion_base="genesis",
        champion_dir=str(genesis(base, tmp_path / "genesis")),
        steps=8,
        batch=16,
        rank=4,
        last_layers=1,
        learning_rate=1e-3,
        projection=0,
        max_tokens=32,
        device="cuda",
    )
    folder = job_folder(tmp_path / "job", job, examples(160), examples(60, start=160))
    result = run(folder, job)
    assert result.ok, result.reason
    assert result.steps == 8
    assert sum(result.scores_candidate) / 60 > 0.5
    files = read_folder(str(folder / "candidate"))
    gpu, cpu = (engine_on(device, base, files) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(gpu.encode(WORDS).astype(np.float32), cpu.encode(WORDS).astype(np.float32), atol=5e-3)


def test_a_rollback_on_the_gpu_restores_every_bit(tmp_path):
    base = bert(tmp_path / "bert")
    engine = TorchEngine(base, max_tokens=32, device="cuda")
    engine.prepare("genesis", base_files(base))
    engine.activate("genesis")
    before = engine.encode(WORDS)
    job = Job(
        kind="full",
        base_model=str(base.path),
        champion_base="genesis",
        champion_dir=str(genesis(base, tmp_path / "genesis")),
        steps=2,
        projection=0,
        max_tokens=32,
        device="cuda",
    )
    folder = job_folder(tmp_path / "job", job, examples(80), examples(20, start=80))
    assert run(folder, job).ok
    engine.prepare("candidate", read_folder(str(folder / "candidate")))
    engine.activate("candidate")
    assert (engine.encode(WORDS) != before).any()
    engine.activate("genesis")
    assert (engine.encode(WORDS) == before).all()


def test_a_language_model_learns_on_the_gpu(tmp_path):
    base = llama(tmp_path / "llama")
    job = Job(
        kind="lora",
        base_model=str(base.path),
        champion_base="genesis",
        champion_dir=str(genesis(base, tmp_path / "genesis")),
        task="causal-lm",
        steps=30,
        batch=16,
        learning_rate=2e-3,
        projection=0,
        max_tokens=32,
        device="cuda",
    )
    result = run(job_folder(tmp_path / "job", job, examples(160, text=True), examples(60, start=160, text=True)), job)
    assert result.ok, result.reason
    assert np.mean(result.scores_candidate) > np.mean(result.scores_champion) + 1
