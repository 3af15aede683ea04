"""Serving against the bare model and against LitServe: MiniLM with a LoRA version active.

The arms take turns, each at its best thread count, on texts of Banking77's test file, none given to an arm twice.
LitServe (``pip install litserve``) is measured where it is installed, as two servers: with torch and its batching on,
and with ONNX Runtime, so that one sees what comes from the engine and what from the server.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter import lora, merged
from common import Benchmark, banking77, ratio
from http_load import closed_loop, free_port, wait_ready

from stream_ft.config import Settings
from stream_ft.model.base import MINILM, BaseFolder, Tokenizer, resolve
from stream_ft.model.engines import Engine
from stream_ft.model.engines.choose import open_engine
from stream_ft.model.engines.onnx_engine import OnnxEngine
from stream_ft.model.engines.torch_engine import TorchEngine
from stream_ft.model.heads import Head
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.slots import Answer, Slots, Version

CLIENTS = BATCH = 32
LABELS = 77
HERE = Path(__file__).parent


def main() -> None:
    """Measure and report."""
    bench = Benchmark("serving")
    rounds, singles, batches = (2, 40, 2) if bench.quick else (6, 120, 8)
    base = resolve(MINILM)
    with tempfile.TemporaryDirectory() as scratch:
        cache = Settings().cache_path()
        tokenizer = Tokenizer(base.path, 128)
        texts = [text for text, _ in banking77("test")]
        # All that torch computes here is computed on one thread: a second thread that ever ran a forward has OpenMP
        # workers of its own, and small forwards take half as long again as long as there are more workers than cores.
        torch_thread = ThreadPoolExecutor(1)
        files = torch_thread.submit(lora, base, Path(scratch) / "adapter", seed=bench.seed).result()
        plain = torch_thread.submit(merged, base, Path(scratch) / "adapter").result()
        threads = torch_thread.submit(_best_threads, plain, tokenizer, texts[:60]).result()
        engines: dict[str, Engine] = {
            "onnx": open_engine(base, cache=cache, kind="onnx", device="cpu"),
            "torch": open_engine(base, cache=cache, kind="torch", device="cpu", threads=threads["single"]),
        }
        head = head_of(engines["onnx"].dim)
        for engine in engines.values():
            engine.prepare("lora", files)
            engine.activate("lora")
        torch_thread.submit(_same, engines, plain, tokenizer, texts[:50]).result()
        single = torch_thread.submit(
            _singles, engines, plain, tokenizer, texts, threads["single"], rounds, singles
        ).result()
        torch_thread.shutdown()  # its workers end with it
        flow = asyncio.run(_flow(engines, head, plain, tokenizer, texts, threads["batch"], rounds, batches * BATCH))
        result: dict[str, Any] = {"raw_torch_threads": threads, "engines": {}}
        for kind, engine in engines.items():
            result["engines"][kind] = {
                **_ways(engine),
                "p50_ms": statistics.median(single[kind]["p50"]) * 1e3,
                "p50_ratio_to_torch": ratio(single[kind]["p50"], single["raw"]["p50"]),
                "cpu_ms": statistics.median(single[kind]["cpu"]) * 1e3,
                "cpu_ratio_to_torch": ratio(single[kind]["cpu"], single["raw"]["cpu"]),
                "texts_per_s": statistics.median(flow[kind]),
                "throughput_ratio_to_torch_batch32": ratio(flow[kind], flow["raw"]),
            }
        result["raw_torch"] = {
            "p50_ms": statistics.median(single["raw"]["p50"]) * 1e3,
            "cpu_ms": statistics.median(single["raw"]["cpu"]) * 1e3,
            "texts_per_s_batch32": statistics.median(flow["raw"]),
        }
        for name in ("p50_ratio_to_torch", "cpu_ratio_to_torch", "throughput_ratio_to_torch_batch32"):
            result[name] = result["engines"]["onnx"][name]["median"]
        del engines, plain
        result |= _http(Path(scratch), base, files, texts, rounds, 300 if bench.quick else 1_500)
    bench.finish(result)


# --- through the engine ----------------------------------------------------------------------------------------


def _ways(engine: Engine) -> dict[str, Any]:
    if isinstance(engine, OnnxEngine):
        return {"threads": engine.threads, "spinning": engine.spinning}
    return {"threads": engine.threads} if isinstance(engine, TorchEngine) else {}


def _same(engines: dict[str, Engine], plain: torch.nn.Module, tokenizer: Tokenizer, texts: list[str]) -> None:
    """What is compared answers alike, or the comparison says nothing."""
    expected = np.stack([_raw(plain, tokenizer([text])[0]).mean(1)[0].numpy() for text in texts])
    for kind, engine in engines.items():
        off = np.abs(engine.encode(texts).astype(np.float32) - expected).max()
        if not off < 0.01:
            sys.exit(f"The {kind} engine is off by {off:.3f} from the plain model.")


def _raw(plain: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        tokens = torch.tensor([ids])
        states: torch.Tensor = plain(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return states


def _raw_batch(plain: torch.nn.Module, rows: list[list[int]], pad: int) -> None:
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        plain(input_ids=tokens, attention_mask=mask)


def _best_threads(plain: torch.nn.Module, tokenizer: Tokenizer, texts: list[str]) -> dict[str, int]:
    """Of the raw model, for one text and for a batch."""
    counts = [n for n in (1, 2, 4, 8) if n <= (os.cpu_count() or 1)]
    ids = tokenizer(texts)
    single: dict[int, float] = {}
    batch: dict[int, float] = {}
    for n in counts:
        torch.set_num_threads(n)
        for _ in range(2):
            single[n] = _timed(lambda: [_raw(plain, row) for row in ids[:30]])
            batch[n] = _timed(lambda: _raw_batch(plain, ids[:BATCH], tokenizer.pad_id))
    return {"single": min(single, key=single.__getitem__), "batch": min(batch, key=batch.__getitem__)}


def _timed(job: Callable[[], object]) -> float:
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def _singles(
    engines: dict[str, Engine],
    plain: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: list[str],
    raw_threads: int,
    rounds: int,
    count: int,
) -> dict[str, dict[str, list[float]]]:
    """Median time and CPU of one request, back to back: ours with its tokenizer, the raw model's forward alone."""

    def ours(engine: Engine) -> Callable[[str], object]:
        return lambda text: engine.encode([text])

    ids = dict(zip(texts, tokenizer(texts), strict=True))
    arms: dict[str, Callable[[str], object]] = {"raw": lambda text: _raw(plain, ids[text])}
    arms |= {kind: ours(engine) for kind, engine in engines.items()}
    found: dict[str, dict[str, list[float]]] = {arm: {"p50": [], "cpu": []} for arm in arms}
    for turn in range(rounds + 1):  # the first warms up
        part = texts[turn * count : (turn + 1) * count]
        for arm, answer in arms.items():
            engine = engines.get(arm)
            torch.set_num_threads(engine.threads if isinstance(engine, TorchEngine) else raw_threads)
            cpu = time.process_time()
            times = []
            for text in part:
                begun = time.perf_counter()
                answer(text)
                times.append(time.perf_counter() - begun)
            if turn:
                found[arm]["cpu"].append((time.process_time() - cpu) / len(part))
                found[arm]["p50"].append(statistics.median(times))
    return found


def head_of(dim: int) -> Head:
    """A head of 77 random classes."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(LABELS, dim)).astype(np.float32)
    return Head(
        labels=tuple(f"label {n}" for n in range(LABELS)),
        weight=weight,
        bias=np.zeros(LABELS, np.float32),
        projection=None,
        dim=dim,
    )


async def _flow(
    engines: dict[str, Engine],
    head: Head,
    plain: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: list[str],
    raw_threads: int,
    rounds: int,
    count: int,
) -> dict[str, list[float]]:
    """Texts per second: 32 clients, each waiting for its answer, through batcher, engine and head; the raw model on
    batches of 32 in the order of the file, tokenized beforehand."""
    ids = dict(zip(texts, tokenizer(texts), strict=True))
    batchers: dict[str, Batcher[Answer]] = {}
    for kind, engine in engines.items():
        slots = Slots(engine)
        batchers[kind] = Batcher(slots.forward, max_batch=BATCH)
        batchers[kind].start()
        version = Version(name="v1.1.0", epoch=1, base="lora", start_head="", head=head)
        slots.check(version)
        batchers[kind].between(lambda slots=slots, version=version: slots.flip(version)).result()
    found: dict[str, list[float]] = {arm: [] for arm in ("raw", *engines)}
    for turn in range(rounds + 1):
        part = [texts[i % len(texts)] for i in range(turn * count, (turn + 1) * count)]

        def raw(part: list[str] = part) -> float:
            torch.set_num_threads(raw_threads)
            begun = time.perf_counter()
            for start in range(0, len(part), BATCH):
                _raw_batch(plain, [ids[text] for text in part[start : start + BATCH]], tokenizer.pad_id)
            return len(part) / (time.perf_counter() - begun)

        speed = batchers["torch"].between(raw).result()
        if turn:
            found["raw"].append(speed)
        for kind, batcher in batchers.items():
            engine = engines[kind]
            torch.set_num_threads(engine.threads if isinstance(engine, TorchEngine) else 1)
            waiting = iter(part)

            async def client(waiting: Iterator[str], batcher: Batcher[Answer]) -> None:
                for text in waiting:
                    await batcher.submit([text])

            begun = time.perf_counter()
            await asyncio.gather(*(client(waiting, batcher) for _ in range(CLIENTS)))
            if turn:
                found[kind].append(len(part) / (time.perf_counter() - begun))
    for batcher in batchers.values():
        batcher.close()
    return found


# --- over HTTP -------------------------------------------------------------------------------------------------


def _http(
    scratch: Path, base: BaseFolder, files: dict[str, bytes], texts: list[str], rounds: int, count: int
) -> dict[str, Any]:
    """Requests per second of 32 clients, in turns: our server process, and LitServe's two."""
    try:
        import litserve  # noqa: F401
    except ImportError:
        return {"http_ratio_to_litserve": None, "http": "LitServe is not installed: pip install litserve"}
    ports = {arm: free_port() for arm in ("stream_ft", "litserve_torch", "litserve_onnx")}
    adapter = str(scratch / "adapter")
    commands = [["served.py", str(scratch / "state"), adapter, str(ports["stream_ft"])]]
    commands += [["litserved.py", kind, adapter, str(ports[f"litserve_{kind}"])] for kind in ("torch", "onnx")]
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / name), *rest],
            start_new_session=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as the command line does for its processes
        )
        for name, *rest in commands
    ]
    try:
        for port in ports.values():
            wait_ready(port, texts[0])
        for process in processes:
            os.killpg(process.pid, signal.SIGSTOP)
        speeds: dict[str, list[float]] = {arm: [] for arm in ports}
        endless = itertools.cycle(texts)
        for turn in range(rounds + 1):
            part = list(itertools.islice(endless, count if turn else 100))
            for (arm, port), process in zip(ports.items(), processes, strict=True):
                os.killpg(process.pid, signal.SIGCONT)
                speed = closed_loop(port, part, CLIENTS)
                os.killpg(process.pid, signal.SIGSTOP)  # a server that waits may poll, at the cost of the one measured
                if turn:
                    speeds[arm].append(speed)
    finally:
        for process in processes:  # LitServe's workers outlive a SIGTERM to their parent
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    against = {name: ratio(speeds["stream_ft"], speeds[name]) for name in ("litserve_torch", "litserve_onnx")}
    return {
        "http_ratio_to_litserve": against["litserve_torch"]["median"],
        "http": {
            "requests_per_s": {arm: statistics.median(values) for arm, values in speeds.items()},
            "ratio_to": against,
        },
    }


if __name__ == "__main__":
    main()
