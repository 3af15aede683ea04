"""A causal language model on corrected texts. Complete as a task, not served yet: it keeps classes out of the house.

The score of an example is minus the mean loss of its right text's tokens given the input: paired, so that the gate
compares the same texts under both models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stream_ft.events import Example, TextCorrection
from stream_ft.model.base import Tokenizer
from stream_ft.model.heads import Head
from stream_ft.model.mixture import AnyHead

if TYPE_CHECKING:
    import torch

    from stream_ft.model.engines.torch_engine import TorchEngine
    from stream_ft.model.tasks.batch import Batch
    from stream_ft.model.tasks.training_head import TrainingHead

IGNORED = -100
SCORED_AT_ONCE = 16


class CausalLM:
    """The right text after the input."""

    name = "causal-lm"
    architecture: Literal["causal-lm"] = "causal-lm"
    scale: Literal["loss"] = "loss"

    def usable(self, example: Example) -> bool:
        """Text corrections."""
        return isinstance(example.correction, TextCorrection)

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example], device: torch.device) -> Batch:
        """Input and right text as one sequence; targets are the right text's tokens only.

        A long input loses its beginning, so that at least half of the sequence is left for the text.
        """
        import torch

        from stream_ft.model.engines.pooling import pad
        from stream_ft.model.tasks.batch import Batch

        sequences, targets = [], []
        for example, prompt in zip(examples, tokenizer([example.input for example in examples]), strict=True):
            prompt = prompt[-max(1, tokenizer.max_tokens // 2) :]
            text = tokenizer.plain(example.label) + ([] if tokenizer.end_id is None else [tokenizer.end_id])
            text = text[: tokenizer.max_tokens - len(prompt)]
            sequences.append(prompt + text)
            targets.append([IGNORED] * len(prompt) + text)
        tokens, mask = pad(sequences, tokenizer.pad_id, device)
        longest = tokens.shape[1]
        return Batch(
            tokens=tokens,
            mask=mask,
            targets=torch.tensor([row + [IGNORED] * (longest - len(row)) for row in targets], device=device),
            labels=(),
            weights=torch.tensor([example.weight for example in examples], dtype=torch.float32, device=device),
        )

    def training_head(self, dim: int) -> TrainingHead | None:
        """The model answers by itself."""
        return None

    def loss(self, model: torch.nn.Module, head: TrainingHead | None, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the right text's tokens, ``[B]``; 0 for a text without tokens."""
        from torch.nn.functional import cross_entropy

        if batch.targets is None:
            raise ValueError("a causal language model trains on target tokens")
        logits = model(input_ids=batch.tokens, attention_mask=batch.mask).logits[:, :-1].float()
        wanted = batch.targets[:, 1:]
        losses = cross_entropy(logits.transpose(1, 2), wanted, reduction="none", ignore_index=IGNORED)
        return losses.sum(1) / (wanted != IGNORED).sum(1).clamp(min=1)

    def fit(
        self, embeddings: npt.NDArray[np.float16], examples: Sequence[Example], *, features: int, seed: int
    ) -> Head:
        """An empty head: a release names one, but nothing reads it."""
        return Head.empty(embeddings.shape[1])

    def predict(self, engine: TorchEngine, head: AnyHead, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The greedy continuation of each text, and the geometric mean of its tokens' probabilities."""
        import torch

        model: Any = engine.module
        answers = []
        for prompt in engine.tokenizer(list(texts)):
            tokens = prompt[-max(1, engine.tokenizer.max_tokens // 2) :] or [engine.tokenizer.pad_id]
            start, total = len(tokens), 0.0
            with torch.inference_mode():
                while len(tokens) < engine.tokenizer.max_tokens:
                    logits = model(input_ids=torch.tensor([tokens], device=engine.device)).logits[0, -1].float()
                    best = int(logits.argmax())
                    total += float(logits.log_softmax(0)[best])
                    tokens.append(best)
                    if best == engine.tokenizer.end_id:
                        break
            made = tokens[start:]
            answers.append((engine.tokenizer.decode(made), math.exp(total / max(1, len(made)))))
        return answers

    def score(
        self,
        engine: TorchEngine | None,
        head: AnyHead | None,
        embeddings: npt.NDArray[np.float16],
        examples: Sequence[Example],
    ) -> list[float]:
        """Minus the loss of each example, in nats per token."""
        import torch

        if engine is None:
            raise ValueError("a causal language model is scored by its own forward")
        scores: list[float] = []
        for start in range(0, len(examples), SCORED_AT_ONCE):
            batch = self.encode(engine.tokenizer, examples[start : start + SCORED_AT_ONCE], engine.device)
            with torch.inference_mode():
                scores += (-self.loss(engine.module, None, batch)).tolist()
        return scores

    def classes(self, examples: Sequence[Example]) -> None:
        """There are none."""
        return

    def metrics(self, scores: Sequence[float], classes: Sequence[str] | None) -> dict[str, float]:
        """``loss`` in nats per token and ``perplexity``."""
        if not scores:
            return {}
        loss = -sum(scores) / len(scores)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
