"""Measures the ways to encode on this machine: ``python -m stream_ft.model.measure BASE FOLDER KIND THREADS``.

Beside it runs a busy process at the niceness of a round, for that is when requests must be answered too: what is best
on an idle machine (more threads, idle ones spinning) is not what is best on a busy one. The ways take turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from stream_ft.model.base import BaseFolder, resolve
from stream_ft.model.engines import Engine
from stream_ft.model.engines.choose import Trial, best, cores

ROUNDS, TEXTS = 4, 25
MOST_THREADS = 8
PAUSE_S = 0.005
_STORY = (
    "why is my card payment still pending and the top up twice in the app when can you help me please change a new"
    " address refund what exchange rate for an account with limit of cash from this machine charged fee"
)
_WORDS = _STORY.split()


def ways(kind: str, threads: int, most: int) -> list[tuple[str, int, bool]]:
    """``(engine, threads, spinning)`` to be tried.

    Args:
        kind: of the setting: where it is ``onnx``, torch on all cores is tried only to learn what that costs.
        threads: of the setting; 0 leaves them open.
        most: cores.
    """
    possible = [n for n in (1, 2, 4, MOST_THREADS) if n <= most] or [1]
    counts = [threads] if threads else possible
    found = [("onnx", n, spinning) for n in counts for spinning in ((False, True) if n > 1 else (False,))]
    if kind == "auto":
        return found + [("torch", n, False) for n in counts]
    return [*found, ("torch", possible[-1], False)] if len(found) > 1 else found


def texts(count: int, start: int) -> list[str]:
    """Sentences of 5 to 20 words, none twice."""
    return [
        " ".join(_WORDS[(i * 7 + k * (i % 5 + 1)) % len(_WORDS)] for k in range(5 + i % 16)) + f" {i}"
        for i in range(start, start + count)
    ]


def measure(base: BaseFolder, folder: Path, kind: str, threads: int) -> list[Trial]:
    """Each way's median time and CPU per text, beside a busy process."""
    engines = {way: _open(base, folder, *way) for way in ways(kind, threads, cores())}
    for engine in engines.values():
        engine.prepare("pretrained", {})
        engine.activate("pretrained")
    busy = subprocess.Popen([sys.executable, "-c", "import os\nos.nice(10)\nwhile True: pass"])
    try:
        wall: dict[tuple[str, int, bool], list[float]] = {way: [] for way in engines}
        cpu = dict.fromkeys(engines, 0.0)
        for turn in range(ROUNDS + 1):  # the first warms up
            for way, engine in engines.items():
                if way[0] == "torch":
                    import torch

                    torch.set_num_threads(way[1])
                before = time.process_time()
                for text in texts(TEXTS, turn * TEXTS):
                    started = time.perf_counter()
                    engine.encode([text])
                    if turn:
                        wall[way].append(time.perf_counter() - started)
                    time.sleep(PAUSE_S)  # a thread that spins after its work costs most when there is none
                if turn:
                    cpu[way] += time.process_time() - before
    finally:
        busy.kill()
        busy.wait()
    return [
        Trial(
            engine=way[0],
            threads=way[1],
            spinning=way[2],
            p50_ms=statistics.median(wall[way]) * 1_000,
            cpu_ms=cpu[way] / len(wall[way]) * 1_000,
        )
        for way in engines
    ]


def _open(base: BaseFolder, folder: Path, engine: str, threads: int, spinning: bool) -> Engine:
    if engine == "torch":
        from stream_ft.model.engines.torch_engine import TorchEngine

        return TorchEngine(base, threads=threads, device="cpu")
    from stream_ft.model.engines.onnx_engine import OnnxEngine

    return OnnxEngine(base, folder, threads=threads, spinning=spinning)


def main() -> int:
    """Print the choice as JSON."""
    name, folder, kind, threads = sys.argv[1:]
    os.environ["HF_HUB_OFFLINE"] = "1"
    trials = measure(resolve(name), Path(folder), kind, int(threads))
    print(msgspec.json.encode(best(trials, kind)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
