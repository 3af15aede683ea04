"""From token states to one embedding per text, and from token ids to padded batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pad(ids: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """``(input_ids, attention_mask)``, both ``[B, T]`` int64, padded on the right to the longest of the batch.

    A text without any token stands as one padding token that is attended to.
    """
    rows = [list(row) or [pad_id] for row in ids]
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return tokens, mask


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the attended states: ``[B, T, D]`` and ``[B, T]`` to ``[B, D]`` float32.

    As Sentence-BERT pools (Reimers & Gurevych 2019, arXiv:1908.10084), without the final normalisation.
    """
    weight = mask.unsqueeze(-1).to(torch.float32)
    return (states.to(torch.float32) * weight).sum(1) / weight.sum(1).clamp(min=1.0)
