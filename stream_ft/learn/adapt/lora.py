"""LoRA on all linear layers (Hu et al. 2021, arXiv:2106.09685), by peft.

``W + scaling * B @ A``; ``B`` starts at 0 and learns faster than ``A`` (LoRA+, Hayou et al. 2024, arXiv:2402.12354).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, save

from stream_ft.errors import ConfigError
from stream_ft.model.tensors import ADAPTER, CONFIG

ALPHA_PER_RANK = 2
B_RATE = 16.0
"""``B`` learns so many times as fast: the paper's value."""
_NOT_TRAINED = ("pooler", "lm_head", "classifier", "score")


class Lora:
    """Continues the champion's adapter where it has the same rank and layers, else starts a fresh one.

    Args:
        rank: of every adapter matrix. ``alpha`` is twice the rank.
        base_model: name for the adapter's configuration.
        task: ``causal-lm`` or an encoder's task, for the same.
        seed: of a fresh adapter.
    """

    rate = 1.0

    def __init__(self, *, rank: int, base_model: str, task: str, seed: int) -> None:
        self.continues = False
        self._rank = rank
        self._base_model = base_model
        self._task = task
        self._seed = seed
        self._peft: Any = None

    def factor(self, name: str) -> float:
        """``B`` learns faster."""
        return B_RATE if ".lora_B." in name else 1.0

    def begin(
        self,
        model: torch.nn.Module,
        champion: Mapping[str, bytes],
        changed: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Put adapters into the model's linear layers, in place.

        Raises:
            ConfigError: the model has no linear layer to adapt.
        """
        targets, transposed = linear_layers(model)
        if not targets:
            raise ConfigError("The model has no linear layers that LoRA could adapt.", "Set round.method to full.")
        torch.manual_seed(self._seed)
        with warnings.catch_warnings():
            # peft still asks transformers for an attribute by its former name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self._peft = get_peft_model(
                model,
                LoraConfig(
                    r=self._rank,
                    lora_alpha=ALPHA_PER_RANK * self._rank,
                    lora_dropout=0.0,
                    target_modules=targets,
                    fan_in_fan_out=transposed,
                    task_type="CAUSAL_LM" if self._task == "causal-lm" else "FEATURE_EXTRACTION",
                ),
            )
        own = self._parameters()
        old = load(champion[ADAPTER]) if ADAPTER in champion else {}
        same_scale = CONFIG in champion and self._same_scale(json.loads(champion[CONFIG]))
        # A fresh adapter leaves the model as pretrained: that is the champion only if the champion changes nothing.
        # Tensors changed in another way cannot be said by an adapter, and a candidate stands on the pretrained alone.
        self.continues = not changed
        if same_scale and {k: v.shape for k, v in old.items()} == {k: v.shape for k, v in own.items()}:
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(old[name])
            self.continues = True

    def _same_scale(self, config: dict[str, Any]) -> bool:
        return config.get("lora_alpha") == ALPHA_PER_RANK * self._rank and not config.get("use_rslora")

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        """Trained parameters by their name in an adapter's file."""
        return {n.replace(".default.", "."): p for n, p in self._peft.named_parameters() if p.requires_grad}

    def files(self) -> dict[str, bytes]:
        """``adapter_config.json`` and ``adapter_model.safetensors``, as plain peft reads them."""
        config = self._peft.peft_config["default"].to_dict()
        config |= {"inference_mode": True, "base_model_name_or_path": self._base_model}
        tensors = {name: p.detach().float().cpu().contiguous() for name, p in sorted(self._parameters().items())}
        return {
            CONFIG: json.dumps(config, sort_keys=True, indent=2, default=_plain).encode(),
            ADAPTER: save(tensors, {"format": "pt"}),
        }


def _plain(value: object) -> object:
    """Sets in sorted order: their own order changes from process to process, and files are named by their hash."""
    if isinstance(value, set):
        return sorted(value)
    return getattr(value, "value", str(value))


def linear_layers(model: torch.nn.Module) -> tuple[list[str], bool]:
    """Full names of the linear layers between embedding and output, and whether they store weights transposed.

    Layers that the pooled embedding does not pass through (a pooler) and output layers are left out.
    """
    from transformers.pytorch_utils import Conv1D

    plain, transposed = [], []
    for name, module in model.named_modules():
        if set(name.split(".")) & set(_NOT_TRAINED):
            continue
        if isinstance(module, torch.nn.Linear):
            plain.append(name)
        elif isinstance(module, Conv1D):
            transposed.append(name)
    return (sorted(transposed), True) if transposed else (sorted(plain), False)
