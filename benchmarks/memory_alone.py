"""What a process holds that has one engine: ``memory_alone.py bare|torch|onnx CACHE ADAPTERS``, printed as JSON."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from common import completed

from stream_ft.memory import give_back, settle
from stream_ft.model.base import MINILM, Tokenizer, base_files, load_model, resolve
from stream_ft.model.engines.choose import open_engine
from stream_ft.model.engines.onnx_engine import OnnxEngine, Session

TEXT = "where is my card, it should have been here a week ago"
"""A first forward makes what every later one uses."""


def resident_mb() -> float:
    """Of this process, when what is free has gone back to the system, as it does in serving after each version.

    A page of a file counts once, however many sessions have mapped it: that is the proportional set size.
    """
    gc.collect()
    give_back()
    return float(psutil.Process().memory_full_info().pss) / 1e6


NOTHING = Session(spread=object())
"""What answers before anything does."""


def bare() -> dict[str, Any]:
    """The plain model, as a process holds it that only answers."""
    base = resolve(MINILM)
    tokenizer = Tokenizer(base.path, 128)
    model = load_model(base.path)
    ids = torch.tensor(tokenizer([TEXT]))
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return {
        "resident_mb": resident_mb(),
        "model_mb": sum(tensor.nbytes for tensor in {id(t): t for t in model.state_dict().values()}.values()) / 1e6,
    }


def _resident(engine: OnnxEngine) -> list[Session]:
    return [each for each in (*engine._sessions.values(), engine._active[1]) if each is not NOTHING]


def engine(kind: Any, cache: Path, adapters: Path) -> dict[str, Any]:
    """An engine, then each version after the other."""
    base = resolve(MINILM)
    # ONNX as it serves, with all that it keeps; torch on one thread, whose buffers are no part of a version.
    found = open_engine(base, cache=cache, kind=kind, threads=2 if kind == "onnx" else 1, device="cpu", whole=True)
    found.encode([TEXT])
    if isinstance(found, OnnxEngine):  # what there is without any session
        found._active = ("", NOTHING)
    settle()  # as serving does
    steps, sessions, versions, changed_mb = [resident_mb()], [0], [0], 0.0
    for folder in sorted(adapters.iterdir()):
        files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in {".json", ".safetensors"}}
        name = folder.name
        found.prepare(name, base_files(base) | files)
        if isinstance(found, OnnxEngine):
            found.trial(name, [TEXT])  # beside the one that answers: with both at work
            steps.append(resident_mb())
            there = {id(each): (each.one is not None) + (each.spread is not None) for each in _resident(found)}
            versions.append(len(there))
            sessions.append(sum(there.values()))
        found.activate(name)
        found.encode([TEXT])
        completed(found)
        if isinstance(found, OnnxEngine):
            found.encode([TEXT])
            steps.append(resident_mb())
            versions.append(versions[-1])
            sessions.append(sessions[-1] + 1)
        if not isinstance(found, OnnxEngine):
            changed_mb += sum(tensor.nbytes for tensor in found._sets[name].values()) / 1e6  # type: ignore[attr-defined]
            steps.append(resident_mb())
    return {"resident_mb": steps, "sessions": sessions, "versions": versions, "changed_mb": changed_mb}


def main() -> None:
    """Print the figures."""
    arm, cache, adapters = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    print(json.dumps(bare() if arm == "bare" else engine(arm, cache, adapters)))


if __name__ == "__main__":
    main()
