"""What the options of the engines bring, and cost: 8-bit and 4-bit weights, and ``torch.compile``.

Every arm serves MiniLM with the same LoRA version active, on one thread. They take turns on texts of Banking77's test
file. Accuracy is that of the learner's closed-form head on the arm's own embeddings; also of a head that was fitted on
the embeddings of plain torch, as if the option were set over a store that has examples already.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from adapter import lora
from common import Benchmark, banking77, ratio

from stream_ft.config import Settings
from stream_ft.model.base import MINILM, resolve
from stream_ft.model.closed_form import fit_head
from stream_ft.model.engines import Engine
from stream_ft.model.engines.variants import open_variant

ARMS: dict[str, dict[str, Any]] = {
    "torch": {"kind": "torch"},
    "torch_compile": {"kind": "torch", "compiled": True},
    "torch_int8_unmerged": {"kind": "torch", "quantize": "int8"},
    "torch_int4_unmerged": {"kind": "torch", "quantize": "int4"},
    "onnx": {"kind": "onnx"},
    "onnx_int8": {"kind": "onnx", "quantize": "int8"},
}
PLAIN = {"torch_compile": "torch", "torch_int8_unmerged": "torch", "torch_int4_unmerged": "torch", "onnx_int8": "onnx"}
"""What each option is compared with: the same engine without it."""
SCALE = 0.02
"""Of the adapter: it changes every embedding, and the model still understands."""
BATCH = 32
HERE = Path(__file__).parent


def main() -> None:
    """Measure and report."""
    bench = Benchmark("engine_options")
    rounds, singles, train, test = (2, 20, 300, 200) if bench.quick else (5, 60, 2_000, 1_000)
    base = resolve(MINILM)
    cache = Settings().cache_path()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{scratch}/compiled"  # or an earlier run's work is found there
        adapter = Path(scratch) / "adapter"
        files = lora(base, adapter, seed=bench.seed, scale=SCALE)
        opened("onnx_int8", cache)  # graphs are made once, not at each start
        result: dict[str, Any] = {arm: _alone(arm, cache, adapter) for arm in ARMS}
        engines = {arm: opened(arm, cache) for arm in ARMS}
        for engine in engines.values():
            engine.prepare("lora", files)
            engine.activate("lora")
        for arm, figures in _speed(engines, [text for text, _ in banking77("test")], rounds, singles).items():
            result[arm] |= figures
        for arm, figures in _accuracy(engines, bench.seed, train, test).items():
            result[arm] |= figures
    bench.finish({"threads": 1, "train_texts": train, "test_texts": test, "options": result})


def opened(arm: str, cache: Path) -> Engine:
    """The engine of an arm, on one thread."""
    return open_variant(resolve(MINILM), cache=cache, threads=1, device="cpu", **ARMS[arm])


def _alone(arm: str, cache: Path, adapter: Path) -> dict[str, float]:
    """What a process that holds only this arm takes, and how long it takes to start."""
    command = [sys.executable, str(HERE / "engine_alone.py"), str(cache), str(adapter), json.dumps(ARMS[arm])]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{arm}: {ran.stderr[-2_000:]}")
    figures: dict[str, float] = json.loads(ran.stdout)
    return figures


def _speed(engines: dict[str, Engine], texts: list[str], rounds: int, count: int) -> dict[str, dict[str, Any]]:
    """Median time and CPU of one text, back to back, and texts a second in batches; in turns."""
    times: dict[str, dict[str, list[float]]] = {arm: {"p50": [], "cpu": [], "batch": []} for arm in engines}
    for turn in range(rounds + 1):  # the first warms up
        part = [texts[i % len(texts)] for i in range(turn * count, (turn + 1) * count)]
        for arm, engine in engines.items():
            torch.set_num_threads(1)
            cpu, each = time.process_time(), []
            for text in part:
                begun = time.perf_counter()
                engine.encode([text])
                each.append(time.perf_counter() - begun)
            spent = time.process_time() - cpu
            begun = time.perf_counter()
            engine.encode(part[:BATCH])
            batch = time.perf_counter() - begun
            if turn:
                times[arm]["p50"].append(statistics.median(each))
                times[arm]["cpu"].append(spent / count)
                times[arm]["batch"].append(len(part[:BATCH]) / batch)
    found: dict[str, dict[str, Any]] = {}
    for arm, values in times.items():
        found[arm] = {
            "p50_ms": statistics.median(values["p50"]) * 1e3,
            "cpu_ms": statistics.median(values["cpu"]) * 1e3,
            "texts_per_s_batch32": statistics.median(values["batch"]),
        }
        if arm in PLAIN:
            plain = times[PLAIN[arm]]
            found[arm] |= {
                "p50_ratio_to_without": ratio(values["p50"], plain["p50"]),
                "cpu_ratio_to_without": ratio(values["cpu"], plain["cpu"]),
                "throughput_ratio_to_without": ratio(values["batch"], plain["batch"]),
            }
    return found


def _accuracy(engines: dict[str, Engine], seed: int, train: int, test: int) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    known, asked = (
        [rows[i] for i in rng.permutation(len(rows))[:count]]
        for rows, count in ((banking77("train"), train), (banking77("test"), test))
    )
    embeddings = {
        arm: (engine.encode([text for text, _ in known]), engine.encode([text for text, _ in asked]))
        for arm, engine in engines.items()
    }
    labels, right = [label for _, label in known], [label for _, label in asked]
    before = fit_head(embeddings["torch"][0], labels, seed=seed)
    found: dict[str, dict[str, Any]] = {}
    for arm, (learned, seen) in embeddings.items():
        near = cosine(seen, embeddings["torch"][1])
        head = fit_head(learned, labels, seed=seed)
        found[arm] = {
            "accuracy": share(head.predict(seen), right),
            "accuracy_with_head_of_torch": share(before.predict(seen), right),
            "cosine_to_torch_median": float(np.median(near)),
            "cosine_to_torch_least": float(near.min()),
        }
    for arm, plain in PLAIN.items():
        found[arm]["accuracy_minus_without"] = found[arm]["accuracy"] - found[plain]["accuracy"]
    return found


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Row by row."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def share(predicted: list[tuple[str, float]], right: list[str]) -> float:
    """Of the predictions that are right."""
    return sum(label == wanted for (label, _), wanted in zip(predicted, right, strict=True)) / len(right)


if __name__ == "__main__":
    sys.exit(main())
