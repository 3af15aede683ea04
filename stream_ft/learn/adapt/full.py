"""All of the encoder: from the champion's tensors, or (``scratch``) from random ones.

What cannot be written into a base (tied tensors, what the embedding does not pass through) stays pretrained in both
cases: it will be pretrained where the candidate is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stream_ft.learn.adapt.changed import apply, tensor_files, train_only, trainable


class Full:
    """Trains every parameter that is used and not tied.

    Args:
        seed: of the random start; ``None`` starts from the champion.
    """

    def __init__(self, *, seed: int | None) -> None:
        self.rate = 0.2 if seed is None else 1.0
        self.continues = seed is None
        self._seed = seed
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
        """Start from the champion or anew; everything learns."""
        names = set(trainable(model))
        if self._seed is None:
            apply(model, changed)
        else:
            torch.manual_seed(self._seed)
            config: Any = model.config
            fresh = type(model)(config).state_dict()
            model.load_state_dict({name: fresh[name] for name in names}, strict=False)
        train_only(model, names)
        self._model = model
        self._names = names | set(changed if self._seed is None else ())

    def files(self) -> dict[str, bytes]:
        """All tensors that were trained."""
        assert self._model is not None
        return tensor_files(self._model, self._names)
