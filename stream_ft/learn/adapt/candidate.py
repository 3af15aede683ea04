"""A round that trains the model, from the champion to a candidate folder with its head, embeddings and scores."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from stream_ft.errors import ArtifactError
from stream_ft.events import Example
from stream_ft.learn.adapt import Method, method
from stream_ft.learn.adapt.batches import Batches
from stream_ft.learn.adapt.trainer import Trained, make_optimizer, train
from stream_ft.learn.job import Job, Result
from stream_ft.learn.round import embeddings_of, failed, read_head, with_embedding
from stream_ft.model.base import BaseFolder, Tokenizer, load_model, resolve
from stream_ft.model.engines.pooling import mean_pool, pad
from stream_ft.model.engines.torch_engine import TorchEngine, batches, live_tensors, pick_device, tied_names
from stream_ft.model.heads import Head
from stream_ft.model.tasks import Task, find_task
from stream_ft.model.tasks.training_head import TrainingHead
from stream_ft.model.tensors import effective

TRAINING_STATE = "training_head.safetensors"
"""In a candidate's folder: the training head and its optimiser's moments, for the next round. Loaders ignore it."""
TRAINING_SHARE = 0.6
"""Of the seconds of a round; the rest is for embedding what is retained, and for judging."""
FIRST_EMBEDDINGS = 16
"""Examples of a label whose mean embedding its new row starts from."""


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
    champion = read_folder(job.champion_dir)
    scores_champion = _champion_scores(task, job, base, champion, evaluate)
    way = method(job, base.name)
    deadline = None if job.seconds is None else started + TRAINING_SHARE * job.seconds
    files, trained = _trained(task, job, base, champion, way, train_on, deadline)
    gc.collect()  # the trained model goes before the serving engine's copy comes
    _write_folder(folder / "candidate", files)
    engine = _engine(task, job, base, files)
    everything = [*train_on, *evaluate]
    embeddings = engine.encode([example.input for example in everything])
    save_file(
        {"ids": np.array([e.id for e in everything], np.int64), "embeddings": embeddings},
        folder / "embeddings.safetensors",
    )
    known, asked = embeddings[: len(train_on)], embeddings[len(train_on) :]
    data = task.fit(known, train_on, features=job.projection, seed=job.seed).to_bytes()
    (folder / "head.safetensors").write_bytes(data)
    return Result(
        ok=True,
        kind=job.kind,
        examples_upto=job.examples_upto,
        steps=trained.steps,
        skipped_steps=trained.skipped,
        losses=trained.losses,
        train_examples=len(train_on),
        scores_champion=scores_champion,
        scores_candidate=task.score(engine, Head.from_bytes(data), asked, evaluate),
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
    for name, data in files.items():
        (path / name).write_bytes(data)


def _engine(task: Task, job: Job, base: BaseFolder, files: dict[str, bytes]) -> TorchEngine:
    engine = TorchEngine(
        base, max_tokens=job.max_tokens, threads=job.threads, device=job.device, architecture=task.architecture
    )
    engine.prepare("set", files)
    engine.activate("set")
    return engine


def _champion_scores(
    task: Task, job: Job, base: BaseFolder, champion: dict[str, bytes], evaluate: list[Example]
) -> list[float]:
    """Scores of the active version; its embeddings are taken from the examples where they were made by it."""
    head = read_head(job.champion_head)
    if task.scale == "accuracy" and (head is None or not head.labels):
        return [0.0] * len(evaluate)
    cached = with_embedding(evaluate, job.champion_base)
    if task.scale == "accuracy" and len(cached) == len(evaluate):
        return task.score(None, head, embeddings_of(evaluate), evaluate)
    engine = _engine(task, job, base, champion)
    return task.score(engine, head, engine.encode([example.input for example in evaluate]), evaluate)


def _trained(
    task: Task,
    job: Job,
    base: BaseFolder,
    champion: dict[str, bytes],
    way: Method,
    examples: list[Example],
    deadline: float | None,
) -> tuple[dict[str, bytes], Trained]:
    """The candidate's files."""
    device = pick_device(job.device)
    model = load_model(base.path, task.architecture)
    way.begin(model, champion, _changed(model, base, champion))
    model.to(device)
    tokenizer = Tokenizer(base.path, job.max_tokens)
    head = task.training_head(int(model.config.hidden_size))  # type: ignore[union-attr, arg-type]
    optimizer = make_optimizer(model, head.to(device) if head is not None else None, job.learning_rate * way.rate)
    if head is not None:
        known = job.champion_base if way.continues else ""
        means = mean_embeddings(model, tokenizer, examples, known, device)
        state = Path(job.champion_dir, TRAINING_STATE) if job.champion_dir and way.continues else None
        start_head(head, optimizer, means, state)
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
    files = way.files()
    if head is not None:
        files[TRAINING_STATE] = head.to_bytes(optimizer)
    return files, trained


def _changed(
    model: torch.nn.Module, base: BaseFolder, champion: Mapping[str, bytes]
) -> dict[str, npt.NDArray[np.float32]]:
    live = live_tensors(model)
    return effective(
        champion,
        shapes={name: tuple(tensor.shape) for name, tensor in live.items()},
        tied=tied_names(model),
        pretrained=lambda name: live[name].detach().numpy(),
        base_sha256=base.sha256,
    )


def start_head(
    head: TrainingHead,
    optimizer: torch.optim.Optimizer,
    means: Mapping[str, npt.NDArray[np.float32]],
    state: Path | None,
) -> None:
    """Rows of the last round where they still fit, and new rows from the labels' mean embeddings.

    An old row fits if the label's mean embedding still falls to it. Where it does not, the label's meaning has
    changed, and training on from the old row would turn the encoder against it.
    """
    if state is not None and state.is_file():
        head.restore(str(state), optimizer)
        present = [label for label in head.labels if label in means]
        head.keep(present, optimizer)
        if present:
            with torch.no_grad():
                best = head(torch.from_numpy(np.stack([means[label] for label in present])).to(head.weight)).argmax(1)
            head.keep([label for row, label in enumerate(present) if int(best[row]) == row], optimizer)
    head.grow(dict(sorted(means.items())), optimizer)


def mean_embeddings(
    model: torch.nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], base: str, device: torch.device
) -> dict[str, npt.NDArray[np.float32]]:
    """Mean of the normalised embeddings ``[dim]`` of each label's latest examples under the model as it stands.

    Args:
        base: embeddings that the examples carry of this base are those of the model; ``""`` if none are.
    """
    latest: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda e: e.seq, reverse=True):
        if len(latest[example.label]) < FIRST_EMBEDDINGS:
            latest[example.label].append(example)
    chosen = [example for rows in latest.values() for example in rows]
    missing = [e for e in chosen if e.embedding is None or e.embedding_base != base]
    made = dict(zip([e.id for e in missing], _embed(model, tokenizer, missing, device), strict=True))
    means = {}
    for label, rows in latest.items():
        vectors = np.stack(
            [made[e.id] if e.id in made else np.frombuffer(e.embedding or b"", np.float16) for e in rows]
        ).astype(np.float32)
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
