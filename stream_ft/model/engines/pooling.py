"""From token ids to padded batches, from token states to one embedding per text, and all the way from texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stream_ft.model.base import Architecture, Tokenizer
from stream_ft.model.engines.batching import TOKENIZED_AT_ONCE, batches


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


def states_of(module: torch.nn.Module, architecture: Architecture) -> Any:
    """The part of a module that gives token states."""
    return getattr(module, "base_model", None) if architecture == "causal-lm" else module


def embedded(
    decoder: Any, tokenizer: Tokenizer, texts: Sequence[str], *, dim: int, device: torch.device
) -> npt.NDArray[np.float16]:
    """Mean-pooled embeddings ``[B, dim]`` of ``texts``, fp16.

    Args:
        decoder: gives token states: see :func:`states_of`.
    """
    result = np.zeros((len(texts), dim), np.float16)
    starts = range(0, len(texts), TOKENIZED_AT_ONCE)
    ids = [row for start in starts for row in tokenizer(list(texts[start : start + TOKENIZED_AT_ONCE]))]
    with torch.inference_mode():
        for rows in batches([len(row) for row in ids]):
            tokens, mask = pad([ids[row] for row in rows], tokenizer.pad_id, device)
            states = decoder(input_ids=tokens, attention_mask=mask).last_hidden_state
            pooled = mean_pool(states, mask).clamp(-65_504, 65_504)
            result[rows] = pooled.to(torch.float16).cpu().numpy()
    return result
