"""What versions take in memory: MiniLM with several all-linear adapters, in torch and in ONNX Runtime.

Each arm is a process of its own. The torch engine is held against a process with the plain model: it may take a
twentieth of the model more, and for each version the tensors that it changes. ONNX Runtime holds the sessions of two
versions (each has one for forwards in lanes and one for a forward that is alone), however many come.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from adapter import lora
from common import Benchmark

from stream_ft.config import Settings
from stream_ft.model.base import MINILM, resolve

VERSIONS = 8
TORCH_MORE = 0.05
"""Of the plain model's size."""
VERSIONS_THERE, VERSION_MB = 2, 120.0
"""Of ONNX Runtime, and what all sessions of one may take."""
HERE = Path(__file__).parent


def main() -> None:
    """Measure and report; the exit code says whether the bounds were kept."""
    bench = Benchmark("memory")
    base, cache = resolve(MINILM), Settings().cache_path()
    with tempfile.TemporaryDirectory() as scratch:
        adapters = Path(scratch)
        torch.set_num_threads(1)
        for n in range(3 if bench.quick else VERSIONS):
            lora(base, adapters / f"v{n}", seed=bench.seed + n)
        found = {arm: _alone(arm, cache, adapters) for arm in ("bare", "torch", "onnx")}
    result = judged(found)
    bench.finish(result)
    sys.exit(0 if result["passed"] else 1)


def _alone(arm: str, cache: Path, adapters: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "memory_alone.py"), arm, str(cache), str(adapters)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{arm}: {ran.stderr[-2_000:]}")
    figures: dict[str, Any] = json.loads(ran.stdout)
    return figures


def judged(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures, in MB, and which bounds they keep."""
    bare, ours, onnx = found["bare"], found["torch"], found["onnx"]
    more = ours["resident_mb"][-1] - bare["resident_mb"]
    may = TORCH_MORE * bare["model_mb"] + ours["changed_mb"]
    taken = [resident - onnx["resident_mb"][0] for resident in onnx["resident_mb"]]
    reached = {
        "torch": more <= may,
        "onnx_versions": max(onnx["versions"]) <= VERSIONS_THERE,
        "onnx_megabytes": all(mb <= n * VERSION_MB for mb, n in zip(taken, onnx["versions"], strict=True)),
    }
    return {
        "versions": len(ours["resident_mb"]) - 1,
        "model_mb": bare["model_mb"],
        "plain_resident_mb": bare["resident_mb"],
        "torch": {
            "resident_mb": ours["resident_mb"],
            "more_than_plain_mb": more,
            "may_be_more_mb": may,
            "changed_tensors_mb": ours["changed_mb"],
            "times_model": (ours["resident_mb"][-1] - bare["resident_mb"] - ours["changed_mb"]) / bare["model_mb"]
            + 1.0,
        },
        "onnx": {
            "resident_mb": onnx["resident_mb"],
            "most_versions": max(onnx["versions"]),
            "most_sessions": max(onnx["sessions"]),
            "one_version_mb": max(mb for mb, n in zip(taken, onnx["versions"], strict=True) if n <= 1),
            "two_versions_mb": max(taken),
        },
        "reached": reached,
        "passed": all(reached.values()),
    }


if __name__ == "__main__":
    main()
