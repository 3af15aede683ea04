"""How the encoder is trained: each method says what of the model learns, from where it starts, and what it leaves.

Whatever the method, a candidate is told relative to the *pretrained* model, never to its parent: a folder stands by
itself, and plain peft or transformers can load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from stream_ft.errors import ConfigError
from stream_ft.learn.job import Job

if TYPE_CHECKING:
    import torch


class Method(Protocol):
    """One way to train. An object serves one round."""

    @property
    def rate(self) -> float:
        """Factor on the learning rate, which is set for LoRA."""
        ...

    def factor(self, name: str) -> float:
        """Another one, for the parameter of a name."""
        ...

    @property
    def continues(self) -> bool:
        """After :meth:`begin`: the model stands where the champion stands."""
        ...

    def begin(
        self,
        model: torch.nn.Module,
        champion: Mapping[str, bytes],
        changed: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Change the pretrained model in place into the one to train; only what learns requires gradients.

        Args:
            model: pretrained.
            champion: files of the active base.
            changed: the tensors that the champion changes, merged and checked.
        """
        ...

    def files(self) -> dict[str, bytes]:
        """What was learned, as files of a base; the same tensors give the same bytes."""
        ...


def method(job: Job, base_model: str) -> Method:
    """The method of a job.

    Args:
        job: of the round.
        base_model: name of the pretrained model, written into an adapter's configuration.

    Raises:
        ConfigError: the job's kind trains no encoder.
    """
    if job.kind == "lora":
        from stream_ft.learn.adapt.lora import Lora

        return Lora(rank=job.rank, base_model=base_model, task=job.task, seed=job.seed)
    if job.kind == "partial":
        from stream_ft.learn.adapt.partial import Partial

        return Partial(last_layers=job.last_layers)
    if job.kind in ("full", "scratch"):
        from stream_ft.learn.adapt.full import Full

        return Full(seed=job.seed if job.kind == "scratch" else None)
    raise ConfigError(f"There is no method {job.kind} that trains the model.", "See the setting round.method.")
