"""The learners beside ours: each predicts an event, then is told its label, in one process and without a gate.

All but naive Bayes and the online LoRA read the embeddings of the pretrained encoder, which is never trained.
"""

from __future__ import annotations

import random
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.streams import Stream
from stream_ft.learn.fast.tier import FastTier
from stream_ft.model.engines import Engine

if TYPE_CHECKING:
    import torch

Rows = npt.NDArray[np.float16]
AT_ONCE = 128
ASKED_EVERY = 50
"""What was learned of the first phase is asked at the next multiple, where a simulation tells how far it is."""
FROZEN_AFTER = 1_000
OFFLINE_FEATURES = 10_000
"""As many as RanPAC has: with fewer it is worse (Banking77: 2,000 end 1.5 points lower)."""


class Peer(Protocol):
    """A learner. ``embedding`` is ``[dim]``, of the pretrained encoder."""

    def predict(self, text: str, embedding: Rows) -> str:
        """A label, or ``""`` before any was learned."""
        ...

    def learn(self, text: str, embedding: Rows, label: str) -> None:
        """One event."""
        ...


class OneExpert:
    """A learner of our fast tier by itself.

    Args:
        expert: name of its file.
        stop: events after which it learns no more; 0 for never.
    """

    def __init__(self, expert: str, *, dim: int, seed: int, stop: int = 0) -> None:
        self._tier = FastTier(dim=dim, experts=[expert], seed=seed)
        self._stop = stop

    def predict(self, text: str, embedding: Rows) -> str:
        """The most probable label."""
        return self._tier.predict(embedding)[0]

    def learn(self, text: str, embedding: Rows, label: str) -> None:
        """One step."""
        if not self._stop or self._tier.learned < self._stop:
            self._tier.learn(embedding, label)


class RiverSoftmax:
    """river's own softmax regression over the embedding's values."""

    RATE = 2.0
    """As ours: with river's default of 0.01 it learns next to nothing from embeddings of length 1."""

    def __init__(self) -> None:
        from river.linear_model import SoftmaxRegression
        from river.optim import SGD

        self._model: Any = SoftmaxRegression(optimizer=SGD(self.RATE))

    @staticmethod
    def _features(embedding: Rows) -> dict[int, float]:
        x = embedding.astype(np.float32)
        return dict(enumerate((x / max(float(np.linalg.norm(x)), 1e-12)).tolist()))

    def predict(self, text: str, embedding: Rows) -> str:
        """The most probable label."""
        return self._model.predict_one(self._features(embedding)) or ""

    def learn(self, text: str, embedding: Rows, label: str) -> None:
        """One step."""
        self._model.learn_one(self._features(embedding), label)


class RiverNaiveBayes:
    """river's multinomial naive Bayes over words."""

    WORD = re.compile(r"\w+")

    def __init__(self) -> None:
        from river.naive_bayes import MultinomialNB

        self._model: Any = MultinomialNB(alpha=0.1)

    def _words(self, text: str) -> Counter[str]:
        return Counter(self.WORD.findall(text.lower()))

    def predict(self, text: str, embedding: Rows) -> str:
        """The most probable label."""
        return self._model.predict_one(self._words(text)) or ""

    def learn(self, text: str, embedding: Rows, label: str) -> None:
        """One count."""
        self._model.learn_one(self._words(text), label)


class LoraReplay:
    """The standard recipe: LoRA on all linear layers and a cosine head, a step of AdamW per 32 events, on those and as
    many that are replayed from a reservoir of 2,000 (Chaudhry et al. 2019, arXiv:1902.10486)."""

    EVERY, REPLAYED, CAPACITY, RATE, HEAD_RATE, SCALE = 32, 32, 2_000, 5e-4, 1e-2, 16.0
    MOST_LABELS = 512

    def __init__(self, model_path: str, *, max_tokens: int, seed: int) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        self._tokenizer = AutoTokenizer.from_pretrained(model_path)
        model = AutoModel.from_pretrained(model_path, add_pooling_layer=False)
        config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")
        with warnings.catch_warnings():
            # peft still asks transformers for an attribute by its former name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self._model: Any = get_peft_model(model, config)
        self._max_tokens = max_tokens
        self._head = torch.nn.Parameter(torch.zeros(self.MOST_LABELS, int(model.config.hidden_size)))
        self._labels: list[str] = []
        self._new: list[tuple[str, str]] = []
        self._memory: list[tuple[str, str]] = []
        self._seen = 0
        self._draw = random.Random(seed)
        adapters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [{"params": adapters, "lr": self.RATE}, {"params": [self._head], "lr": self.HEAD_RATE, "weight_decay": 0.0}]
        )

    def _logits(self, texts: Sequence[str]) -> torch.Tensor:
        """``[B, C]``."""
        import torch

        rows = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        hidden = self._model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).last_hidden_state
        mask = rows["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        embeddings = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        return self.SCALE * embeddings @ self._head[: len(self._labels)].T

    def predict(self, text: str, embedding: Rows) -> str:
        """The most probable label, by the encoder as it is now."""
        return self.predict_all([text])[0]

    def predict_all(self, texts: Sequence[str]) -> list[str]:
        """The same of several at once."""
        import torch

        if not self._labels:
            return [""] * len(texts)
        self._model.eval()
        with torch.inference_mode():
            return [self._labels[int(row)] for row in self._logits(texts).argmax(1)]

    def learn(self, text: str, embedding: Rows, label: str) -> None:
        """Remember it, and take a step when it is time."""
        self._new.append((text, label))
        if len(self._new) < self.EVERY:
            return
        self._step([*self._new, *self._draw.sample(self._memory, min(self.REPLAYED, len(self._memory)))])
        for row in self._new:
            self._seen += 1
            if len(self._memory) < self.CAPACITY:
                self._memory.append(row)
            elif (at := self._draw.randrange(self._seen)) < self.CAPACITY:
                self._memory[at] = row
        self._new.clear()

    def _step(self, rows: Sequence[tuple[str, str]]) -> None:
        import torch

        self._model.train()
        self._labels += sorted({label for _, label in rows} - set(self._labels))
        targets = torch.tensor([self._labels.index(label) for _, label in rows])
        loss = torch.nn.functional.cross_entropy(self._logits([text for text, _ in rows]), targets)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


PEERS: dict[str, Callable[..., Peer]] = {
    "frozen": lambda dim, seed, **_: OneExpert("ridge", dim=dim, seed=seed, stop=FROZEN_AFTER),
    "river_softmax": lambda **_: RiverSoftmax(),
    "river_nb": lambda **_: RiverNaiveBayes(),
    "lora_replay": lambda seed, model_path, max_tokens, **_: LoraReplay(model_path, max_tokens=max_tokens, seed=seed),
    "ncm": lambda dim, seed, **_: OneExpert("means", dim=dim, seed=seed),
    "softmax": lambda dim, seed, **_: OneExpert("softmax", dim=dim, seed=seed),
    "ridge": lambda dim, seed, **_: OneExpert("ridge", dim=dim, seed=seed),
    "concepts": lambda dim, seed, **_: OneExpert("concepts", dim=dim, seed=seed),
}
"""``ncm``, ``softmax``, ``ridge`` and ``concepts`` are our learners, each by itself."""


def encoded(engine: Engine, texts: Sequence[str]) -> Rows:
    """``[N, dim]``."""
    return np.concatenate([engine.encode(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)])


def follow(
    peer: Peer, stream: Stream, embeddings: Rows, test: Rows, ask: Callable[[], float | None]
) -> tuple[list[str], list[str], float, float | None]:
    """A peer on a stream.

    Args:
        embeddings, test: of its events and its test, ``[N, dim]``.
        ask: called once, after the first phase.

    Returns:
        Its answers to the events and to the test, CPU seconds of learning, and what ``ask`` said.
    """
    outputs: list[str] = []
    spent, asked = 0.0, None
    end = -(-stream.first_phase[0] // ASKED_EVERY) * ASKED_EVERY if stream.first_phase else -1

    def told(at: int) -> float:
        begun = time.process_time()
        peer.learn(stream.events[at].text, embeddings[at], stream.events[at].fed)
        return time.process_time() - begun

    for at, event in enumerate(stream.events):
        if at == end:
            asked = ask()
        outputs.append(peer.predict(event.text, embeddings[at]))
        if at >= stream.delay:
            spent += told(at - stream.delay)
    for at in range(max(0, len(stream.events) - stream.delay), len(stream.events)):
        spent += told(at)
    said = answers(peer, [text for text, _ in stream.test], test)
    return outputs, said, spent, asked


def answers(peer: Peer, texts: Sequence[str], embeddings: Rows) -> list[str]:
    """To texts that are not learned."""
    if isinstance(peer, LoraReplay):
        return [said for at in range(0, len(texts), AT_ONCE) for said in peer.predict_all(texts[at : at + AT_ONCE])]
    return [peer.predict(text, embedding) for text, embedding in zip(texts, embeddings, strict=True)]


def offline(stream: Stream, embeddings: Rows, test: Rows, *, seed: int) -> list[str]:
    """Answers to the test of the best head of the frozen encoder, fitted on all events at once.

    A label that changes its meaning is learned from the events after that alone: what is right at the end.
    """
    from stream_ft.events import Example, LabelCorrection
    from stream_ft.model.tasks.classification import Classification

    first = stream.changes[-1] if stream.changes and not stream.events[0].phase else 0
    examples = [
        Example(seq=at, id=at, input=event.text, correction=LabelCorrection(label=event.fed), source="file", trust=3)
        for at, event in enumerate(stream.events)
        if at >= first
    ]
    head = Classification().fit(embeddings[first:], examples, features=OFFLINE_FEATURES, seed=seed)
    return [label for label, _ in head.predict(test)]
