"""What a round is judged by does not train it, and what it starts from is what was asked for."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny import FILLERS, TOPICS, bert, examples, genesis, job_folder, llama

from stream_ft.events import Example, LabelCorrection
from stream_ft.learn.adapt import candidate
from stream_ft.learn.adapt.candidate import FIRST_EMBEDDINGS, mean_embeddings
from stream_ft.learn.adapt.full import Full
from stream_ft.learn.job import Job, Result
from stream_ft.learn.round import run
from stream_ft.model import golden
from stream_ft.model.base import BaseFolder, Tokenizer, load_model
from stream_ft.model.engines.torch_engine import TorchEngine, tied_names

CPU = torch.device("cpu")
NAMES = list(TOPICS)
USED, UNSEEN = 4, slice(4, 9)
"""Words of a topic that training texts are made of, and those that only evaluation texts are."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return bert(tmp_path_factory.mktemp("bert"))


def example(number: int, text: str, label: str, **more: object) -> Example:
    fields = {"seq": number, "id": number, "input": text, "correction": LabelCorrection(label=label)}
    return Example(**fields, source="test", trust=2, **more)  # type: ignore[arg-type]


def training() -> list[Example]:
    rows = []
    for label, words in TOPICS.items():
        for one, two, three in itertools.permutations(words.split()[:USED], 3):
            rows.append((f"{one} {two} {three}", label))
    return [example(number, *row) for number, row in enumerate(rows, 1)]


def at_random() -> list[Example]:
    """Each unseen word has a label drawn by chance: who has not read them cannot know it."""
    random = np.random.Generator(np.random.PCG64(3))
    unseen = [word for words in TOPICS.values() for word in words.split()[UNSEEN]] + FILLERS
    labels = {word: NAMES[random.integers(len(NAMES))] for word in unseen}
    rows = [(" ".join([word] * times), labels[word]) for word in unseen for times in (1, 2, 3, 4)]
    return [example(number, *row) for number, row in enumerate(rows, 1_000)]


def adapt(base: BaseFolder, root: Path, kind: str = "full", **fields: object) -> tuple[Job, Path]:
    genesis(base, root / "genesis")
    values: dict[str, object] = {
        "kind": kind, "base_model": str(base.path), "champion_base": "genesis", "champion_dir": str(root / "genesis"),
        "steps": 120, "batch": 32, "learning_rate": 2e-2, "projection": 256, "max_tokens": 32, "device": "cpu",
    }  # fmt: skip
    return Job(**(values | fields)), root / "job"  # type: ignore[arg-type]


def test_what_is_judged_by_trains_neither_the_encoder_nor_its_head(base: BaseFolder, tmp_path: Path) -> None:
    job, folder = adapt(base, tmp_path)
    judged = at_random()
    result = run(job_folder(folder, job, training(), judged), job)
    assert result.ok, result.reason
    assert np.mean(result.losses[-10:]) < 0.3, "what it may learn it has learned"
    assert np.mean(result.scores_candidate) < 0.45, "of four labels drawn at random a quarter is right by chance"


def test_the_test_above_would_notice(base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = at_random()
    job, folder = adapt(base, tmp_path)
    result = run(job_folder(folder, job, training() + judged, judged), job)
    assert np.mean(result.scores_candidate) > 0.6

    # The encoder alone has read them; its head has not.
    def fitted(self: object, rows: object, seen: list[Example], **more: object) -> object:
        count = len(training())
        return fit(self, rows[:count], seen[:count], **more)  # type: ignore[index]

    fit = candidate.find_task("classification").__class__.fit
    monkeypatch.setattr(candidate.find_task("classification").__class__, "fit", fitted)
    job, folder = adapt(base, tmp_path / "encoder")
    result = run(job_folder(folder, job, training() + judged, judged), job)
    assert np.mean(result.scores_candidate) > 0.6


# --- where rows start ------------------------------------------------------------------------------------------


def carrying(number: int, label: str, side: int) -> Example:
    vector = np.eye(4, dtype=np.float16)[side] * 3
    return example(number, f"text {number}", label, embedding=vector.tobytes(), embedding_base="b")


def means(rows: list[Example], trained: tuple[str, ...]) -> dict[str, np.ndarray]:
    nobody: torch.nn.Module = torch.nn.Identity()
    return mean_embeddings(nobody, lambda texts: [], rows, "b", CPU, trained=trained)  # type: ignore[arg-type]


def test_the_row_of_a_new_label_starts_from_its_first_embeddings() -> None:
    rows = [carrying(number, "new", 0) for number in range(FIRST_EMBEDDINGS)]
    rows += [carrying(number, "new", 1) for number in range(100, 200)]
    (mean,) = means(list(reversed(rows)), ()).values()
    assert mean.tolist() == [1, 0, 0, 0]


def test_a_label_that_has_a_row_is_held_against_what_it_means_now() -> None:
    rows = [carrying(number, "old", 0) for number in range(100)]
    rows += [carrying(number, "old", 1) for number in range(100, 100 + FIRST_EMBEDDINGS)]
    (mean,) = means(rows, ("old",)).values()
    assert mean.tolist() == [0, 1, 0, 0]


# --- the champion ----------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call encoded."""
    counts: list[int] = []
    encode = TorchEngine.encode

    def counted(self: TorchEngine, texts: list[str]) -> object:
        counts.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(TorchEngine, "encode", counted)
    return counts


def test_only_missing_embeddings_of_the_champion_are_made(base: BaseFolder, tmp_path: Path, encoded: list[int]) -> None:
    job, folder = adapt(base, tmp_path, steps=1)
    train, judged = examples(120), examples(40, start=120)
    first = run(job_folder(folder, job, train, judged), job)
    engine = TorchEngine(base, max_tokens=32, device="cpu")
    engine.prepare("champion", candidate.read_folder(str(folder / "candidate")))
    engine.activate("champion")
    rows = engine.encode([e.input for e in judged])
    known = [
        msgspec.structs.replace(e, embedding=row.tobytes(), embedding_base="first")
        for e, row in zip(judged, rows, strict=True)
    ]
    known[7] = judged[7]
    known[9] = msgspec.structs.replace(known[9], embedding_base="another")
    del encoded[:]
    job, _ = adapt(
        base,
        tmp_path / "second",
        steps=1,
        champion_base="first",
        champion_dir=str(folder / "candidate"),
        champion_head=str(folder / "head.safetensors"),
    )
    second: Result = run(job_folder(tmp_path / "second" / "job", job, train, known), job)
    texts = len(golden.TEXTS)
    assert encoded == [2, texts, 160], "two for the champion; for the candidate the golden texts, and all of them"
    assert second.scores_champion == first.scores_candidate


# --- tied tensors ----------------------------------------------------------------------------------------------


def test_from_scratch_tensors_that_cannot_be_served_stay_pretrained_in_training(tmp_path: Path) -> None:
    base = llama(tmp_path / "tied", tied=True)
    model = load_model(base.path, "causal-lm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    way = Full(seed=5)
    way.begin(model, {}, {})
    tied = tied_names(model)
    assert tied
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in tied)
    layer = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(after[layer], before[layer])


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_judged_and_served_is_what_was_trained_from_scratch(tmp_path: Path, tied: bool) -> None:
    base = llama(tmp_path / "llama", tied=tied)
    job, folder = adapt(base, tmp_path, "scratch", task="causal-lm", learning_rate=1e-2, projection=0)
    rows, judged = examples(160, text=True), examples(60, start=160, text=True)
    result = run(job_folder(folder, job, rows, judged), job)
    assert result.ok, result.reason
    trained = float(np.mean(result.losses[-5:]))
    assert -np.mean(result.scores_candidate) < trained + 0.5
    assert trained < result.losses[0] - 1
    assert Tokenizer(base.path, 32).max_tokens == 32
