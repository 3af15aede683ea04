"""The task port: what is learned. It owns encode, loss, predict, score and metrics; the trainer, the round and the
gate know nothing of classes or of tokens to generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from stream_ft.errors import ConfigError
from stream_ft.events import Example
from stream_ft.model.base import Architecture, Tokenizer
from stream_ft.model.heads import Head
from stream_ft.model.mixture import AnyHead

if TYPE_CHECKING:
    import torch

    from stream_ft.model.engines.torch_engine import TorchEngine
    from stream_ft.model.tasks.batch import Batch
    from stream_ft.model.tasks.training_head import TrainingHead

Scale = Literal["accuracy", "loss"]


class Task(Protocol):
    """What a round needs to know of what is learned. Stateless.

    Embeddings are ``[N, dim]`` fp16, of the engine's active base, one row for each example.
    """

    @property
    def name(self) -> str:
        """As in the settings."""
        ...

    @property
    def architecture(self) -> Architecture:
        """How the pretrained model is loaded."""
        ...

    @property
    def scale(self) -> Scale:
        """What scores are: 0 or 1, or minus a loss in nats."""
        ...

    def usable(self, example: Example) -> bool:
        """Whether the example's correction is of this task's kind."""
        ...

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example], device: torch.device) -> Batch:
        """Examples as padded tensors, with their targets and weights."""
        ...

    def training_head(self, dim: int) -> TrainingHead | None:
        """What is trained beside the model and thrown away; ``None`` if nothing is."""
        ...

    def loss(self, model: torch.nn.Module, head: TrainingHead | None, batch: Batch) -> torch.Tensor:
        """Loss of each example, ``[B]``, in nats, with gradients."""
        ...

    def fit(
        self, embeddings: npt.NDArray[np.float16], examples: Sequence[Example], *, features: int, seed: int
    ) -> Head:
        """The head that is served over these embeddings; an empty one where the model itself answers."""
        ...

    def predict(self, engine: TorchEngine, head: AnyHead, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Output and confidence for each text, as served."""
        ...

    def score(
        self,
        engine: TorchEngine | None,
        head: AnyHead | None,
        embeddings: npt.NDArray[np.float16],
        examples: Sequence[Example],
    ) -> list[float]:
        """Score of each example under the engine's active base, greater is better.

        ``head`` is ``None`` where there is none yet; ``engine`` may be where embeddings are all that is needed.
        """
        ...

    def classes(self, examples: Sequence[Example]) -> list[str] | None:
        """The right class of each example, ``None`` where there are no classes."""
        ...

    def metrics(self, scores: Sequence[float], classes: Sequence[str] | None) -> dict[str, float]:
        """Named numbers for a person."""
        ...


def find_task(name: str) -> Task:
    """The task of a setting.

    Raises:
        ConfigError: there is none of this name.
    """
    if name == "classification":
        from stream_ft.model.tasks.classification import Classification

        return Classification()
    if name == "causal-lm":
        from stream_ft.model.tasks.causal import CausalLM

        return CausalLM()
    raise ConfigError(f"There is no task {name}.", "Set model.task to classification or causal-lm.")
