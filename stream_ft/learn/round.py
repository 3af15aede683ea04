"""One round: ``python -m stream_ft.learn.round JOBDIR``. From a job and its examples to a candidate and its scores.

A ``head`` round is numpy alone and takes well under a second; only a round that trains the encoder imports torch.
Champion and candidate are scored on the same evaluation examples, the candidate as it will be served: through the
bytes of its head and, where the encoder was trained, through the serving engine.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from stream_ft import failpoints
from stream_ft.errors import StreamFTError
from stream_ft.events import Example
from stream_ft.learn.job import Job, Result
from stream_ft.logs import where
from stream_ft.model import mixture
from stream_ft.model.heads import Head
from stream_ft.model.tasks.classification import Classification, correct
from stream_ft.parent import follow_parent
from stream_ft.priority import be_nice

NICE = 10


def main(arguments: Sequence[str]) -> int:
    """Run the job of a folder; 0 if it left a result, also one that says why there is no candidate."""
    if len(arguments) != 1:
        print("usage: python -m stream_ft.learn.round JOBDIR", file=sys.stderr)
        return 2
    follow_parent()
    be_nice(NICE)
    folder = Path(arguments[0])
    started = time.monotonic()
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    try:
        result = run(folder, job)
    except StreamFTError as error:
        result = failed(job, str(error))
    except Exception as error:  # the boundary of this process: what went wrong is told to the learner
        traceback.print_exc()
        result = failed(job, f"The round failed: {where(error)}. Its log.txt has the rest, which may quote examples.")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = msgspec.structs.replace(
        result,
        cpu_s=usage.ru_utime + usage.ru_stime,
        seconds=time.monotonic() - started,
        peak_rss_mb=usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    )
    failpoints.hit("round.before_result")
    write_result(folder, result)
    return 0


def run(folder: Path, job: Job) -> Result:
    """Do the job; everything but ``result.json`` is written when this returns.

    Raises:
        StreamFTError: the champion cannot be read, or the training was given up.
    """
    train, evaluate = read_examples(folder / "train.jsonl"), read_examples(folder / "evaluate.jsonl")
    if not train:
        return failed(job, "There are no examples to train on.")
    failpoints.hit("round.before_train")
    if job.kind == "head":
        return _head_round(folder, job, train, evaluate)
    from stream_ft.learn.adapt.candidate import adapt_round

    return adapt_round(folder, job, train, evaluate)


def _head_round(folder: Path, job: Job, train: list[Example], evaluate: list[Example]) -> Result:
    if job.task != Classification.name:
        return failed(job, f"A head has nothing to learn in the task {job.task}; only rounds of the model do.")
    task = Classification()
    usable, judged = (
        [example for example in with_embedding(rows, job.champion_base) if task.usable(example)]
        for rows in (train, evaluate)
    )
    left_out = len(train) + len(evaluate) - len(usable) - len(judged)
    if not usable:
        return failed(job, f"None of the {len(train)} examples has an embedding of the active base.")
    head = task.fit(embeddings_of(usable), usable, features=job.projection, seed=job.seed)
    failpoints.hit("round.after_step")
    data = head.to_bytes()
    (folder / "head.safetensors").write_bytes(data)
    classes = task.classes(judged)
    embeddings = embeddings_of(judged)
    return Result(
        ok=True,
        reason=f"{left_out} examples without an embedding of the active base were left out." if left_out else "",
        kind="head",
        examples_upto=job.examples_upto,
        train_examples=len(usable),
        scores_champion=correct(read_head(job.champion_head), embeddings, classes),
        scores_candidate=correct(Head.from_bytes(data), embeddings, classes),
        classes=classes,
        sources=[example.source for example in judged],
    )


def failed(job: Job, reason: str) -> Result:
    """A result without a candidate."""
    return Result(ok=False, reason=reason, kind=job.kind, examples_upto=job.examples_upto)


def read_examples(path: Path) -> list[Example]:
    """One example a line."""
    return msgspec.json.Decoder(Example).decode_lines(path.read_bytes())


def with_embedding(examples: Sequence[Example], base: str) -> list[Example]:
    """Those whose embedding was made by ``base``."""
    return [e for e in examples if e.embedding is not None and e.embedding_base == base]


def embeddings_of(examples: Sequence[Example]) -> npt.NDArray[np.float16]:
    """``[N, dim]``; ``[0, 0]`` for none. Every example must have one, all of the same base."""
    if not examples:
        return np.zeros((0, 0), np.float16)
    rows = b"".join(example.embedding or b"" for example in examples)
    return np.frombuffer(rows, np.float16).reshape(len(examples), -1)


def read_head(path: str) -> mixture.AnyHead | None:
    """The champion's head; ``None`` if there is none yet."""
    return mixture.read_head(Path(path).read_bytes()) if path else None


def write_result(folder: Path, result: Result) -> None:
    """Write ``result.json`` by rename, after everything else: who sees it sees the whole candidate."""
    temporary = folder / "result.json.tmp"
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(result))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / "result.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
