"""The last layers alone: the rest of the encoder stays pretrained, and the backward pass ends early."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from stream_ft.errors import ConfigError
from stream_ft.learn.adapt.changed import apply, tensor_files, train_only, trainable


class Partial:
    """Trains the last ``last_layers`` layers, from the champion's tensors on."""

    rate = 0.4
    continues = True

    def __init__(self, *, last_layers: int) -> None:
        self._last = last_layers
        self._names: set[str] = set()
        self._model: torch.nn.Module | None = None

    def factor(self, name: str) -> float:
        """The same for all."""
        return 1.0

    def begin(
        self,
        model: torch.nn.Module,
        champion: Mapping[str, bytes],
        changed: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Start from the champion and freeze all but the last layers.

        Raises:
            ConfigError: the model has no list of layers.
        """
        apply(model, changed)
        stacks = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)]
        if not stacks:
            raise ConfigError("The model has no list of layers to train the last of.", "Set round.method to full.")
        name, layers = max(stacks, key=lambda stack: len(stack[1]))
        last = range(max(0, len(layers) - self._last), len(layers))
        starts = tuple(f"{name}.{i}." for i in last)
        trained = {n for n in trainable(model) if n.startswith(starts)}
        train_only(model, trained)
        self._model = model
        # What the champion changed elsewhere (merged, if it was an adapter) is part of where this stands.
        self._names = trained | set(changed)

    def files(self) -> dict[str, bytes]:
        """The tensors that differ from the pretrained model."""
        assert self._model is not None
        return tensor_files(self._model, self._names)
