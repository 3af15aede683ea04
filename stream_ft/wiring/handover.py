"""Before a new base is promoted: what came since its round began is embedded and learned under it, too.

A round of the encoder takes a minute, in which a thousand examples may come and labels change their meaning. The live
fast tier has learned that, the one that the round taught has not: promoted as it is, it would answer as a minute ago
until it had caught up. On the way it predicts each before it learns from it, as the live tier had: a candidate that is
surely worse at that is refused after all.
"""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stream_ft import failpoints
from stream_ft.errors import ArtifactError, StoreFullError
from stream_ft.events import Example
from stream_ft.learn.fast.tier import FastTier, learnable, weight_of
from stream_ft.learn.learner import base_of
from stream_ft.model.engines import Engine
from stream_ft.replay.store import Store
from stream_ft.wiring.rounds import Outcome

CHUNK = 16
"""Examples learned in one go: a tenth of a second, in which the live tier waits."""
NAME = "candidate"
"""Under which the engine holds the base until it is promoted by its sha256."""
WAITS = "A new encoder was accepted: what came since its round began is learned under it, then it is promoted."
"""Why no other round starts meanwhile."""
LOOKS = 5
"""How often what came meanwhile is fetched: each time there is less, unless more comes than can be embedded."""


class Handover:
    """The fast tier of an accepted candidate, and what it has still to learn.

    Args:
        outcome: of the round, with a tier in its folder.
        store: where examples come from.
        engine: embeds under the candidate; its active base is not touched.
        live: name of the version that answers; answers of other bases are not held against the candidate.
    """

    def __init__(self, outcome: Outcome, *, store: Store, engine: Engine, live: str) -> None:
        self._outcome = outcome
        self._store, self._engine, self._live = store, engine, live
        self._upto = outcome.job.examples_upto
        self._tier: FastTier | None = None
        self._made: dict[int, npt.NDArray[np.float16]] = {}
        self._queue: deque[Example] = deque()
        self._looks = 0
        self._found: int | None = None
        self._met: list[tuple[float, float]] = []
        """Was the answer that was given right, and would the candidate's have been? Of events whose label came either
        way: people correct errors, so by corrections alone every candidate would look good."""

    def _opened(self) -> FastTier:
        if self._tier is None:
            folder = self._outcome.folder
            self._tier = FastTier.from_bytes((folder / "tier.safetensors").read_bytes())
            made = load_file(folder / "embeddings.safetensors")
            self._made = dict(zip(made["ids"].tolist(), made["embeddings"], strict=True))
        if not self._engine.prepared(NAME):
            files = {path.name: path.read_bytes() for path in (self._outcome.folder / "candidate").iterdir()}
            self._engine.prepare(NAME, files)
        return self._tier

    def step(self, limit: int) -> int:
        """Learn up to ``limit`` of what came since; 0 once there is nothing more.

        Raises:
            ArtifactError, OSError: the candidate cannot be read, or the engine does not take it.
        """
        tier = self._opened()
        if not self._queue and self._looks < LOOKS and self._store.max_seq() > self._upto:
            self._looks += 1
            found = [each for each in self._store.training() if each.seq > self._upto and learnable(each)]
            if self._found is not None and len(found) >= self._found:
                self._looks = LOOKS  # more comes than is learned here: the rest follows after the promotion
            self._found = len(found)
            self._queue.extend(found)
            self._upto = self._store.max_seq()
        some = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        missing = [example for example in some if example.id not in self._made]
        if missing:
            rows = self._engine.trial(NAME, [example.input for example in missing])
            self._made |= {example.id: row for example, row in zip(missing, rows, strict=True)}
        new = {example.id for example in missing}  # the others the round has seen: the gate has judged by them
        for example in some:
            row = self._made[example.id]
            ours = example.covers and base_of(example.predicted_version) == base_of(self._live)
            if ours and example.id in new and tier.labels:
                own, _ = tier.predict(row)
                self._met.append((float(example.predicted == example.label), float(own == example.label)))
            tier.learn(row, example.label, weight_of(example.trust))
        if some:
            failpoints.hit("handover.after_step")
        return len(some)

    def ended(self, limit: int, *, epoch: int) -> Outcome | None:
        """A step; once nothing is left, the outcome to release, or why there is none.

        Args:
            epoch: of now. A message that began another has overtaken the candidate.

        Raises:
            StoreFullError: the disk is full; the same call again goes on.
        """
        if epoch != self._outcome.job.epoch:
            return self._given_up(f"It was overtaken: the epoch is {epoch}, and was {self._outcome.job.epoch}")
        try:
            if self.step(limit):
                return None
        except (ArtifactError, OSError, SafetensorError) as error:
            return self._given_up(f"What came since the round could not be learned: {error}")
        return self._finished()

    def _given_up(self, why: str) -> Outcome:
        self.close()
        return msgspec.structs.replace(self._outcome, result=None, reason=f"{why.rstrip('.')}.")

    def _finished(self) -> Outcome:
        """The round's outcome, as if it had learned all of it. The tier, its head and the embeddings are written."""
        tier, folder = self._opened(), self._outcome.folder
        ids = np.array(list(self._made), np.int64)
        embeddings = np.stack(list(self._made.values()))
        try:
            (folder / "tier.safetensors").write_bytes(tier.to_bytes())
            (folder / "head.safetensors").write_bytes(tier.head().to_bytes())
            save_file({"ids": ids, "embeddings": embeddings}, folder / "embeddings.safetensors")
        except (OSError, SafetensorError) as error:
            raise StoreFullError(f"The folder of a round {folder} cannot be written: {error}.") from error
        self.close()
        result = self._outcome.result
        assert result is not None
        return msgspec.structs.replace(
            self._outcome,
            job=msgspec.structs.replace(self._outcome.job, examples_upto=self._upto),
            result=msgspec.structs.replace(
                result,
                examples_upto=self._upto,
                train_examples=tier.learned,
                met_live=[live for live, _ in self._met],
                met_candidate=[candidate for _, candidate in self._met],
            ),
        )

    def close(self) -> None:
        """The engine lets go of the candidate."""
        self._engine.drop(NAME)


def begun(outcome: Outcome, *, store: Store, engine: Engine, live: str) -> Handover | None:
    """The handover that a round's outcome needs; ``None`` for one that built no fast tier."""
    if outcome.result is None or not (outcome.folder / "tier.safetensors").exists():
        return None
    return Handover(outcome, store=store, engine=engine, live=live)
