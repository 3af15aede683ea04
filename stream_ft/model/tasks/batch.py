"""What one forward of training reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Padded examples.

    Attributes:
        tokens, mask: ``[B, T]`` int64.
        targets: right tokens ``[B, T]`` int64, -100 where none is asked for; ``None`` where the target is a label.
        labels: the right label of each row; empty where the target is text.
        weights: ``[B]`` float32.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor | None
    labels: tuple[str, ...]
    weights: torch.Tensor
