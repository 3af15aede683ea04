"""Requests of the swap benchmark: an open loop, a file of every answer, and what plain peft says of each."""

from __future__ import annotations

import asyncio
import itertools
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from adapter import merged

from stream_ft.model.base import BaseFolder, Tokenizer
from stream_ft.model.heads import Head
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.slots import Answer

TOLERANCE = 0.02
"""Largest difference of an embedding from plain peft's; adapters differ from each other by more than 0.1."""


class Answers:
    """Every request and its answer, in a file: kept in memory they would hide what the swaps leave there.

    Args:
        path: of the file.
        dim: width of an embedding.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self._row = np.dtype(
            [
                ("window", "<i4"), ("text", "<i4"), ("error", "<i4"), ("version", "<i4"), ("label", "<i4"),
                ("score", "<f4"), ("late", "<f4"), ("begun", "<f8"), ("ended", "<f8"), ("embedding", "<f2", dim),
            ]
        )  # fmt: skip
        self._packed = struct.Struct(f"<5i2f2d{2 * dim}s")
        assert self._packed.size == self._row.itemsize
        self._nothing = bytes(2 * dim)
        self._path = path
        self._file = path.open("wb")
        self.versions: dict[str, int] = {}
        """Number in the file of each version that answered."""
        self.errors: dict[str, int] = {}

    def put(self, window: int, text: int, begun: float, late: float, ended: float, answer: Answer | Exception) -> None:
        """One request, answered or dropped; ``begun`` is when it was due, ``late`` by how much it was sent later."""
        if isinstance(answer, Exception):
            name = type(answer).__name__
            self.errors[name] = self.errors.get(name, 0) + 1
            row = self._packed.pack(window, text, 1, -1, -1, 0.0, late, begun, ended, self._nothing)
        else:
            version = self.versions.setdefault(answer.version.name, len(self.versions))
            label = int(answer.label.split()[-1])
            row = self._packed.pack(window, text, 0, version, label, answer.score, late, begun, ended, answer.embedding)
        self._file.write(row)

    def rows(self) -> npt.NDArray[np.void]:
        """All of them, as a structured array."""
        self._file.flush()
        return np.fromfile(self._path, self._row)


async def capacity(batcher: Batcher[Answer], texts: list[str], count: int, draw: random.Random) -> float:
    """Requests per second of a closed loop of 32 clients."""
    waiting = iter(draw.sample(texts, count))

    async def client(waiting: Iterator[str]) -> None:
        for text in waiting:
            await batcher.submit([text])

    begun = time.perf_counter()
    await asyncio.gather(*(client(waiting) for _ in range(32)))
    return count / (time.perf_counter() - begun)


async def open_loop(
    batcher: Batcher[Answer],
    texts: list[str],
    rate: float,
    ended: Callable[[], bool],
    draw: random.Random,
    answers: Answers,
    window: int,
) -> None:
    """Requests at random times (Poisson), whether or not earlier ones were answered, until ``ended``.

    Each counts from when it was due: what holds this thread up holds up those who ask.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def ask(text: int, due: float) -> None:
        late = time.perf_counter() - due
        found: Answer | Exception
        try:
            (found,) = await batcher.submit([texts[text]])
        except Exception as error:  # whatever it is, this request was dropped
            found = error
        answers.put(window, text, due, late, time.perf_counter(), found)

    due = time.perf_counter()
    while not ended():
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))  # one that is late must read its answers, too
        task = asyncio.create_task(ask(draw.randrange(len(texts)), due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


def wrong_answers(
    rows: npt.NDArray[np.void],
    versions: dict[int, tuple[int, Head]],
    base: BaseFolder,
    folders: list[Path],
    texts: list[str],
) -> int:
    """Answers that are not those of the version they name, by peft's merged model and the version's head.

    Args:
        rows: of :meth:`Answers.rows`.
        versions: number of the adapter and head, by the version's number in the rows.
        base: the pretrained model.
        folders: of the adapters.
        texts: by their number in the rows.
    """
    tokenizer = Tokenizer(base.path, 128)
    rows = rows[rows["error"] == 0]
    numbers = np.array([versions[v][0] for v in range(len(versions))])[rows["version"]]
    wrong = np.zeros(len(rows), bool)
    for number, folder in enumerate(folders):
        mine = np.flatnonzero(numbers == number)
        if not len(mine):
            continue
        needed, where = np.unique(rows["text"][mine], return_inverse=True)
        plain = merged(base, folder)
        order = sorted(range(len(needed)), key=lambda i: len(texts[needed[i]]))
        expected: npt.NDArray[np.float32] | None = None
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            found = pooled(plain, tokenizer, [texts[needed[i]] for i in part])
            if expected is None:
                expected = np.empty((len(needed), found.shape[1]), np.float32)
            expected[part] = found
        assert expected is not None
        off = np.abs(rows["embedding"][mine].astype(np.float32) - expected[where]).max(axis=1)
        wrong[mine] |= ~(off <= TOLERANCE)
    for version, (_, head) in versions.items():
        mine = np.flatnonzero(rows["version"] == version)
        # A head reads the embedding as it was answered, so its label must be exactly this one.
        for row, (label, score) in zip(mine, head.predict(rows["embedding"][mine]), strict=True):
            wrong[row] |= int(label.split()[-1]) != rows["label"][row] or abs(score - rows["score"][row]) > 1e-3
    return int(wrong.sum())


def pooled(plain: torch.nn.Module, tokenizer: Tokenizer, texts: list[str]) -> npt.NDArray[np.float32]:
    """Mean-pooled embeddings ``[B, dim]`` by a plain transformers model."""
    ids = tokenizer(texts)
    longest = max(len(row) for row in ids)
    tokens = torch.tensor([row + [tokenizer.pad_id] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    with torch.inference_mode():
        states = plain(input_ids=tokens, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).float()
    found: npt.NDArray[np.float32] = ((states * weight).sum(1) / weight.sum(1)).numpy()
    return found


def difference(base: BaseFolder, folders: list[Path], texts: list[str]) -> float:
    """The least, over texts and pairs of adapters, of the largest difference between two embeddings of a text."""
    tokenizer = Tokenizer(base.path, 128)
    rows = [pooled(merged(base, folder), tokenizer, texts) for folder in folders]
    return min(float(np.abs(one - other).max(axis=1).min()) for one, other in itertools.combinations(rows, 2))
