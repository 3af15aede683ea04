"""The learners beside ours: each predicts an event, then is told its label, in one process and without a gate.

All but naive Bayes and the online LoRA read the embeddings of the pretrained encoder, which is never trained.
"""

from __future__ import annotations

import random
import re
import time
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
    """The standard recipe: LoRA on all linear layers and a linear head, a step per 32 events, on those and as many
    that are replayed from a reservoir of 2,000 (Chaudhry et al. 2019, arXiv:1902.10486)."""

    EVERY, REPLAYED, CAPACITY, RATE, HEAD_RATE = 32, 32, 2_000, 5e-4, 1e-2

    def __init__(self, model_path: str, *, max_tokens: int, seed: int) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel, AutoTokenizer

        torch.manual_seed(seed)
        torch.set_num_threads(1)
        self._tokenizer = AutoTokenizer.from_pretrained(model_path)
        model = AutoModel.from_pretrained(model_path, add_pooling_layer=False)
        self._model: Any = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")
        )
        self._max_tokens = max_tokens
        self._dim = int(model.config.hidden_size)
        self._head = torch.nn.Linear(self._dim, 0, bias=False)
        self._labels: list[str] = []
        self._new: list[tuple[str, str]] = []
        self._memory: list[tuple[str, str]] = []
        self._seen = 0
        self._draw = random.Random(seed)
        self._optimizer = torch.optim.AdamW([p for p in self._model.parameters() if p.requires_grad], lr=self.RATE)

    def _embedded(self, texts: Sequence[str]) -> torch.Tensor:
        import torch

        rows = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        hidden = self._model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).last_hidden_state
        mask = rows["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

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
            return [self._labels[int(row)] for row in self._head(self._embedded(texts)).argmax(1)]

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
        self._grow([label for _, label in rows])
        targets = torch.tensor([self._labels.index(label) for _, label in rows])
        # A cosine of at most 1 needs a scale to become a logit.
        loss = torch.nn.functional.cross_entropy(self._head(self._embedded([text for text, _ in rows])), targets)
        self._optimizer.zero_grad(set_to_none=True)
        self._head.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            self._head.weight -= 2.0 * self._head.weight.grad  # the rate of the plain online softmax

    def _grow(self, labels: Sequence[str]) -> None:
        import torch

        new = sorted(set(labels) - set(self._labels))
        if not new:
            return
        self._labels += new
        grown = torch.nn.Linear(self._dim, len(self._labels), bias=False)
        with torch.no_grad():
            grown.weight.zero_()
            grown.weight[: len(self._head.weight)] = self._head.weight
        self._head = grown


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
    head = Classification().fit(embeddings[first:], examples, features=2_000, seed=seed)
    return [label for label, _ in head.predict(test)]
