"""A round that trains the model, from the champion to a candidate folder with its head, embeddings and scores."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from stream_ft.errors import ArtifactError
from stream_ft.events import Example
from stream_ft.learn.adapt import Method, method
from stream_ft.learn.adapt.batches import Batches
from stream_ft.learn.adapt.trainer import Trained, TrainingAborted, make_optimizer, train
from stream_ft.learn.fast.tier import taught
from stream_ft.learn.job import Job, Result
from stream_ft.learn.round import failed, read_head
from stream_ft.memory import give_back
from stream_ft.model import golden, mixture
from stream_ft.model.base import BaseFolder, Tokenizer, load_model, resolve
from stream_ft.model.engines import Engine
from stream_ft.model.engines.batching import batches
from stream_ft.model.engines.pooling import mean_pool, pad
from stream_ft.model.engines.torch_engine import TorchEngine, dtypes_of, live_tensors, pick_device, tied_names
from stream_ft.model.engines.variants import open_variant
from stream_ft.model.tasks import Task, find_task
from stream_ft.model.tasks.training_head import TrainingHead
from stream_ft.model.tensors import effective

TRAINING_STATE = "training_head.safetensors"
"""In a candidate's folder: the training head and its optimiser's moments, for the next round. Loaders ignore it."""
TRAINING_SHARE = 0.6
"""Of the seconds of a round; the rest is for embedding what is retained, and for judging."""
FIRST_EMBEDDINGS = 16
"""Examples of a label whose mean embedding its new row starts from, or is held against."""


def adapt_round(folder: Path, job: Job, train_on: list[Example], evaluate: list[Example]) -> Result:
    """Train, embed, refit, score; write ``candidate/``, ``embeddings.safetensors`` and ``head.safetensors``.

    Raises:
        StreamFTError: the champion cannot be read, or the training was given up.
    """
    started = time.monotonic()
    task = find_task(job.task)
    train_on, evaluate = ([e for e in rows if task.usable(e)] for rows in (train_on, evaluate))
    if not train_on:
        return failed(job, f"None of the examples can be learned from in the task {job.task}.")
    torch.set_num_threads(job.threads)
    base = resolve(job.base_model)
    scores_champion = _champion_scores(task, job, base, train_on, evaluate)
    _make_room()
    deadline = None if job.seconds is None else started + TRAINING_SHARE * job.seconds
    trained = _trained(folder / "candidate", task, job, base, train_on, deadline)
    _make_room()
    served = _engine(task, job, base, folder / "candidate")
    _write(folder / "candidate", golden.golden_file(served.encode(list(golden.TEXTS)), served.tolerance))
    everything = [*train_on, *evaluate]
    embeddings = _encoded(served, everything)
    save_file(
        {"ids": np.array([e.id for e in everything], np.int64), "embeddings": embeddings},
        folder / "embeddings.safetensors",
    )
    # A head is fitted and judged on embeddings alone: its engine makes room.
    engine = None if task.scale == "accuracy" else _whole(served)
    del served
    _make_room()
    known, asked = embeddings[: len(train_on)], embeddings[len(train_on) :]
    if job.experts and task.scale == "accuracy":
        tier = taught(known, train_on, experts=job.experts, seed=job.seed)
        (folder / "tier.safetensors").write_bytes(tier.to_bytes())
        data = tier.head().to_bytes()
    else:
        data = task.fit(known, train_on, features=job.projection, seed=job.seed).to_bytes()
    (folder / "head.safetensors").write_bytes(data)
    return Result(
        ok=True,
        kind=job.kind,
        examples_upto=job.examples_upto,
        steps=trained.steps,
        skipped_steps=trained.skipped,
        losses=trained.losses,
        train_s=trained.seconds,
        gpu_peak_mb=torch.cuda.max_memory_allocated() / 2**20 if pick_device(job.device).type == "cuda" else 0.0,
        train_examples=len(train_on),
        scores_champion=scores_champion,
        scores_candidate=task.score(engine, mixture.read_head(data), asked, evaluate),
        classes=task.classes(evaluate),
        sources=[example.source for example in evaluate],
    )


def read_folder(path: str) -> dict[str, bytes]:
    """Files of the champion's folder; none for a genesis without one.

    Raises:
        ArtifactError: step ``missing``.
    """
    if not path:
        return {}
    if not Path(path).is_dir():
        raise ArtifactError("missing", f"The active base {Path(path).name} is not in the registry.")
    return {file.name: file.read_bytes() for file in sorted(Path(path).iterdir()) if file.is_file()}


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    path.mkdir()
    _write(path, files)


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (path / name).write_bytes(data)


def _make_room() -> None:
    """Between two stages: what the last one held goes before the next one's copy of the model comes."""
    gc.collect()
    give_back()


def _engine(task: Task, job: Job, base: BaseFolder, changed: str | Path) -> Engine:
    engine: Engine
    if job.quantize == "none":
        engine = TorchEngine(
            base, max_tokens=job.max_tokens, threads=job.threads, device=job.device, architecture=task.architecture
        )
    else:
        engine = open_variant(
            base,
            cache=Path(job.cache),
            kind=job.engine,
            max_tokens=job.max_tokens,
            threads=job.threads,
            device=job.device,
            measured=False,
            quantize=job.quantize,
        )
    engine.prepare("set", read_folder(str(changed)))
    engine.activate("set")
    return engine


def _whole(engine: Engine | None) -> TorchEngine | None:
    """For a task that needs more than embeddings; such a model is not quantised."""
    return engine if isinstance(engine, TorchEngine) else None


def _champion_scores(
    task: Task, job: Job, base: BaseFolder, train_on: list[Example], evaluate: list[Example]
) -> list[float]:
    """Scores of the active base; its embeddings are taken from the examples where they were made by it.

    With its own head, or with a fast tier that has learned what the candidate's will: the live one has seen the
    evaluation examples that are withheld here.
    """
    head = read_head(job.champion_head)
    by_embedding = task.scale == "accuracy"
    teach = train_on if job.experts and by_embedding else []
    if by_embedding and not teach and (head is None or not head.labels):
        return [0.0] * len(evaluate)
    engine = None
    needed = [*teach, *evaluate]
    if not by_embedding or any(not _made_by(job.champion_base, example) for example in needed):
        engine = _engine(task, job, base, job.champion_dir)
    rows = _embeddings(needed, job.champion_base, lambda some: [] if engine is None else list(_encoded(engine, some)))
    stacked = np.stack(rows) if rows else np.zeros((0, 0), np.float16)
    if teach:
        tier = taught(stacked[: len(teach)], teach, experts=job.experts, seed=job.seed)
        head = mixture.read_head(tier.head().to_bytes())
    return task.score(_whole(engine), head, stacked[len(teach) :], evaluate)


def _encoded(engine: Engine, examples: Sequence[Example]) -> npt.NDArray[np.float16]:
    return engine.encode([example.input for example in examples])


def _made_by(base: str, example: Example) -> bool:
    return example.embedding is not None and example.embedding_base == base


def _embeddings(
    examples: Sequence[Example], base: str, make: Callable[[Sequence[Example]], Sequence[npt.NDArray[np.floating]]]
) -> list[npt.NDArray[np.floating]]:
    """Embedding ``[dim]`` of each example: the one it carries if ``base`` made it, else one that ``make`` makes."""
    made = iter(make([example for example in examples if not _made_by(base, example)]))
    return [
        np.frombuffer(example.embedding or b"", np.float16) if _made_by(base, example) else next(made)
        for example in examples
    ]


def _trained(
    folder: Path, task: Task, job: Job, base: BaseFolder, examples: list[Example], deadline: float | None
) -> Trained:
    """Train, and write the candidate's files into ``folder``; nothing of the training outlives the call."""
    device = pick_device(job.device)
    model = load_model(base.path, task.architecture)
    way = method(job, base.name)
    _begin(way, model, job, base)
    model.to(device)
    tokenizer = Tokenizer(base.path, job.max_tokens)
    head = task.training_head(int(model.config.hidden_size))  # type: ignore[union-attr, arg-type]
    optimizer = make_optimizer(
        model, head.to(device) if head is not None else None, job.learning_rate * way.rate, way.factor
    )
    if head is not None:
        state = Path(job.champion_dir, TRAINING_STATE) if job.champion_dir and way.continues else None
        if state is not None and state.is_file():
            head.restore(str(state), optimizer)
        known = job.champion_base if way.continues else ""
        means = mean_embeddings(model, tokenizer, examples, known, device, trained=head.labels)
        start_head(head, optimizer, means)
    _make_room()
    torch.manual_seed(job.seed)
    trained = train(
        task,
        model,
        head,
        optimizer,
        tokenizer,
        examples,
        Batches(
            [example.label for example in examples] if head is not None else [""] * len(examples),
            [example.seq > job.fresh_after_seq for example in examples],
            share=job.fresh_share,
            seed=job.seed + job.examples_upto,
        ),
        steps=job.steps,
        batch=job.batch,
        deadline=deadline,
        monotonic=time.monotonic,
        device=device,
    )
    if trained.steps == 0:
        # What was not trained could still pass the gate, by the new head on it, and would be released as learned.
        raise TrainingAborted(
            f"No step was taken in the time of the round; {trained.skipped} were skipped.", "Raise round.seconds."
        )
    files = way.files()
    if head is not None:
        files[TRAINING_STATE] = head.to_bytes(optimizer)
    _write_folder(folder, files)
    return trained


def _begin(way: Method, model: torch.nn.Module, job: Job, base: BaseFolder) -> None:
    champion = read_folder(job.champion_dir)
    live = live_tensors(model)
    changed = effective(
        champion,
        shapes={name: tuple(tensor.shape) for name, tensor in live.items()},
        dtypes=dtypes_of(live),
        tied=tied_names(model),
        pretrained=lambda name: live[name].detach().numpy(),
        base_sha256=base.sha256,
    )
    way.begin(model, champion, changed)


def start_head(
    head: TrainingHead, optimizer: torch.optim.Optimizer, means: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    """Rows of the last round where they still fit, and new rows from the labels' mean embeddings.

    An old row fits if the label's mean embedding still falls to it. Where it does not, the label's meaning has
    changed, and training on from the old row would turn the encoder against it.

    Args:
        head: as the last round left it, or new.
        optimizer: of the head; moments of the rows that stay are kept.
        means: of the labels to be trained, ``[dim]`` each.
    """
    if head.labels:
        present = [label for label in head.labels if label in means]
        head.keep(present, optimizer)
        if present:
            with torch.no_grad():
                best = head(torch.from_numpy(np.stack([means[label] for label in present])).to(head.weight)).argmax(1)
            head.keep([label for row, label in enumerate(present) if int(best[row]) == row], optimizer)
    head.grow(dict(sorted(means.items())), optimizer)


def mean_embeddings(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    base: str,
    device: torch.device,
    *,
    trained: Collection[str] = (),
) -> dict[str, npt.NDArray[np.float32]]:
    """Mean of the normalised embeddings ``[dim]`` of some examples of each label, under the model as it stands.

    They are the label's first examples, which its new row starts from. Of a label that has a row already they are the
    latest: those say whether it still means what it did, and if not, where its next row starts.

    Args:
        base: embeddings that the examples carry of this base are those of the model; ``""`` if none are.
        trained: labels that have a row.
    """
    of_label: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda e: e.seq):
        of_label[example.label].append(example)
    chosen = {
        label: rows[-FIRST_EMBEDDINGS:] if label in trained else rows[:FIRST_EMBEDDINGS]
        for label, rows in of_label.items()
    }
    flat = [example for rows in chosen.values() for example in rows]
    made = iter(_embeddings(flat, base, lambda missing: _embed(model, tokenizer, missing, device)))
    means = {}
    for label, rows in chosen.items():
        vectors = np.stack([next(made) for _ in rows]).astype(np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        means[label] = vectors.mean(0)
    return means


def _embed(
    model: torch.nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], device: torch.device
) -> list[npt.NDArray[np.float32]]:
    ids = tokenizer([example.input for example in examples])
    result: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(ids)
    model.eval()
    with torch.inference_mode():
        for rows in batches([len(row) for row in ids]):
            tokens, mask = pad([ids[row] for row in rows], tokenizer.pad_id, device)
            pooled = mean_pool(model(input_ids=tokens, attention_mask=mask).last_hidden_state, mask).cpu().numpy()
            for row, vector in zip(rows, pooled, strict=True):
                result[row] = vector
    return result
