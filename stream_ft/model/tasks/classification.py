"""Sequence classification: pooled embeddings and a head over labels. torch is imported by what trains only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from stream_ft.events import Example, LabelCorrection
from stream_ft.model.base import Tokenizer
from stream_ft.model.closed_form import fit_head
from stream_ft.model.heads import Head
from stream_ft.model.mixture import AnyHead

if TYPE_CHECKING:
    import torch

    from stream_ft.model.engines.torch_engine import TorchEngine
    from stream_ft.model.tasks.batch import Batch
    from stream_ft.model.tasks.training_head import TrainingHead


def correct(head: AnyHead | None, embeddings: npt.NDArray[np.floating], labels: Sequence[str]) -> list[float]:
    """1 where the head gives the right label, else 0; all 0 for no head, or an empty one."""
    if head is None or not head.labels or not labels:
        return [0.0] * len(labels)
    return [float(answer == label) for (answer, _), label in zip(head.predict(embeddings), labels, strict=True)]


class Classification:
    """One label for each text."""

    name = "classification"
    architecture: Literal["encoder"] = "encoder"
    scale: Literal["accuracy"] = "accuracy"

    def usable(self, example: Example) -> bool:
        """Label corrections."""
        return isinstance(example.correction, LabelCorrection)

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example], device: torch.device) -> Batch:
        """Texts as padded tokens, with their labels."""
        import torch

        from stream_ft.model.engines.pooling import pad
        from stream_ft.model.tasks.batch import Batch

        tokens, mask = pad(tokenizer([example.input for example in examples]), tokenizer.pad_id, device)
        weights = torch.tensor([example.weight for example in examples], dtype=torch.float32, device=device)
        labels = tuple(example.label for example in examples)
        return Batch(tokens=tokens, mask=mask, targets=None, labels=labels, weights=weights)

    def training_head(self, dim: int) -> TrainingHead:
        """A cosine head that grows with the labels."""
        from stream_ft.model.tasks.training_head import TrainingHead

        return TrainingHead(dim)

    def loss(self, model: torch.nn.Module, head: TrainingHead | None, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the training head over mean-pooled states, ``[B]``."""
        from torch.nn.functional import cross_entropy

        from stream_ft.model.engines.pooling import mean_pool

        if head is None:
            raise ValueError("classification trains with a head")
        states = model(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
        logits = head(mean_pool(states, batch.mask))
        return cross_entropy(logits, head.targets(batch.labels).to(logits.device), reduction="none")

    def fit(
        self, embeddings: npt.NDArray[np.float16], examples: Sequence[Example], *, features: int, seed: int
    ) -> Head:
        """The closed-form head of :mod:`stream_ft.model.closed_form`."""
        weights = np.array([example.weight for example in examples], np.float32)
        labels = [example.label for example in examples]
        return fit_head(embeddings, labels, features=features, seed=seed, weights=weights)

    def predict(self, engine: TorchEngine, head: AnyHead, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The most probable label of each text and its probability."""
        return head.predict(engine.encode(texts))

    def score(
        self,
        engine: TorchEngine | None,
        head: AnyHead | None,
        embeddings: npt.NDArray[np.float16],
        examples: Sequence[Example],
    ) -> list[float]:
        """1 or 0 for each example."""
        return correct(head, embeddings, [example.label for example in examples])

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """The right labels."""
        return [example.label for example in examples]

    def metrics(self, scores: Sequence[float], classes: Sequence[str] | None) -> dict[str, float]:
        """``accuracy``, and ``mean_recall``: the mean over the classes of the share that is right."""
        if classes is None or not scores:
            return {}
        right: Counter[str] = Counter()
        for score, name in zip(scores, classes, strict=True):
            right[name] += int(score)
        count = Counter(classes)
        recalls = [right[name] / count[name] for name in count]
        return {"accuracy": sum(scores) / len(scores), "mean_recall": sum(recalls) / len(recalls)}
