"""An adapter that changes what a model says: all linear layers, random, as plain peft writes it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from stream_ft.model.base import BaseFolder, base_files, load_model


def lora(base: BaseFolder, folder: Path, *, seed: int, rank: int = 8, scale: float = 0.05) -> dict[str, bytes]:
    """The files of a base whose adapter peft has saved in ``folder``.

    Args:
        scale: standard deviation of the matrices B, which an untrained adapter has at zero.
    """
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", lora_dropout=0.0)
    model = get_peft_model(load_model(base.path), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)
    model.save_pretrained(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in {".json", ".safetensors"}}
    return base_files(base) | files


def merged(base: BaseFolder, folder: Path) -> torch.nn.Module:
    """The plain transformers model with that adapter merged, as a user of peft would serve it."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_model(base.path), folder)
    module: torch.nn.Module = model.merge_and_unload()
    return module.eval()
