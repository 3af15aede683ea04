"""Tensors of a module as files of a base, and back: what ``partial`` and ``full`` have in common."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save

from stream_ft.model.engines.torch_engine import live_tensors, tied_names
from stream_ft.model.tensors import TENSORS

NOT_USED = ("pooler",)
"""Modules that the pooled embedding does not pass through: they get no gradient and are not written."""


def apply(model: torch.nn.Module, changed: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Copy a base's tensors into a model."""
    live = live_tensors(model)
    with torch.no_grad():
        for name, value in changed.items():
            live[name].copy_(torch.tensor(value))


def trainable(model: torch.nn.Module) -> list[str]:
    """Parameters that may be trained: used, and not tied, since a set cannot change one of two tied names."""
    tied = tied_names(model)
    return [n for n, _ in model.named_parameters() if n not in tied and not set(n.split(".")) & set(NOT_USED)]


def train_only(model: torch.nn.Module, names: Collection[str]) -> None:
    """Let exactly these parameters require gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def tensor_files(model: torch.nn.Module, names: Collection[str]) -> dict[str, bytes]:
    """``tensors.safetensors`` with these tensors, float32, and the model's ``config.json``."""
    live = live_tensors(model)
    tensors = {name: live[name].detach().float().cpu().contiguous() for name in sorted(names)}
    config: Any = model.config
    described = config.to_diff_dict()
    described.pop("_name_or_path", None)  # a path of this machine would change the folder's hash
    return {
        TENSORS: save(tensors, {"format": "pt"}),
        "config.json": json.dumps(described, sort_keys=True, indent=2, default=str).encode(),
    }
