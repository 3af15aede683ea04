"""Serving against the bare model and against LitServe: MiniLM with a LoRA version active.

The arms take turns, each at its best thread count, on texts of Banking77's test file: what is measured is measured on
texts that its arm has not seen, and those by which thread counts are sought and outputs compared are others again.
LitServe (``pip install litserve``) is measured where it is installed, as two servers: with torch and its batching on,
and with ONNX Runtime, so that one sees what comes from the engine and what from the server.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter import lora, merged
from common import Benchmark, banking77, completed, ratio
from serving_http import over_http
from threadpoolctl import threadpool_limits

from stream_ft.config import Settings
from stream_ft.model.base import MINILM, Tokenizer, resolve
from stream_ft.model.engines import Engine
from stream_ft.model.engines.choose import open_engine
from stream_ft.model.engines.onnx_engine import OnnxEngine
from stream_ft.model.engines.torch_engine import TorchEngine
from stream_ft.model.heads import Head
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.slots import Answer, Slots, Version

CLIENTS = BATCH = 32
LABELS = 77
SOUGHT, SAME = 60, 50
"""Texts by which thread counts are sought; by as many of them the arms are compared."""
SEARCH_TURNS = 5
P50, P50_TORCH, CPU = 0.50, 1.05, 1.0
"""Most of torch's time of a text, with ONNX and with torch, and most of its CPU."""
THROUGHPUT, HTTP = 0.95, 2.0
"""Least of torch's throughput, and of LitServe's with torch."""


def main() -> None:
    """Measure and report."""
    bench = Benchmark("serving")
    threadpool_limits(1, user_api="blas")  # as the command line does for its processes
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
            "onnx": open_engine(base, cache=cache, kind="onnx", device="cpu", whole=True),
            "torch": open_engine(base, cache=cache, kind="torch", device="cpu", threads=threads["single"]),
        }
        head = head_of(engines["onnx"].dim)
        for engine in engines.values():
            engine.prepare("lora", files)
            engine.activate("lora")
            completed(engine)
        torch_thread.submit(_same, engines, plain, tokenizer, texts[:SAME]).result()
        fresh = texts[SOUGHT:]
        single = torch_thread.submit(
            _singles, engines, plain, tokenizer, fresh, threads["single"], rounds, singles
        ).result()
        torch_thread.shutdown()  # its workers end with it
        fresh = fresh[(rounds + 1) * singles :]
        flow, in_flow = asyncio.run(
            _flow(engines, head, plain, tokenizer, fresh, threads["batch"], rounds, batches * BATCH)
        )
        # What a forward costs at its fastest is not the least that it can cost: a second thread burns more than it
        # saves.
        least_cpu = [min(each) for each in zip(single["raw"]["cpu"], single["raw_one_thread"]["cpu"], strict=True)]
        result: dict[str, Any] = {"raw_torch_threads": threads, "engines": {}}
        for kind, engine in engines.items():
            result["engines"][kind] = {
                **_ways(engine),
                "p50_ms": statistics.median(single[kind]["p50"]) * 1e3,
                "p50_ratio_to_torch": ratio(single[kind]["p50"], single["raw"]["p50"]),
                "cpu_ms": statistics.median(single[kind]["cpu"]) * 1e3,
                "cpu_ratio_to_torch": ratio(single[kind]["cpu"], least_cpu),
                "texts_per_s": statistics.median(flow[kind]),
                "throughput_ratio_to_torch_batch32": ratio(flow[kind], flow["raw"]),
            }
        result["engines"]["torch"]["threads_in_batches"] = in_flow
        result["raw_torch"] = {
            "p50_ms": statistics.median(single["raw"]["p50"]) * 1e3,
            "cpu_ms": statistics.median(single["raw"]["cpu"]) * 1e3,
            "cpu_ms_one_thread": statistics.median(single["raw_one_thread"]["cpu"]) * 1e3,
            "texts_per_s_batch32": statistics.median(flow["raw"]),
        }
        for name in ("p50_ratio_to_torch", "cpu_ratio_to_torch", "throughput_ratio_to_torch_batch32"):
            result[name] = result["engines"]["onnx"][name]["median"]
        del engines, plain
        result |= over_http(Path(scratch), texts, rounds=rounds, quick=bench.quick)
    result["reached"] = reached(result)
    result["passed"] = all(result["reached"].values())
    bench.finish(result)
    sys.exit(0 if result["passed"] else 1)


def reached(result: dict[str, Any]) -> dict[str, bool]:
    """Which of the bounds are kept; those without an engine's name by the one that is taken on a CPU, ONNX."""
    http = result["http_ratio_to_litserve"]
    return {
        "p50_onnx": result["p50_ratio_to_torch"] <= P50,
        "p50_torch": result["engines"]["torch"]["p50_ratio_to_torch"]["median"] <= P50_TORCH,
        "cpu": result["cpu_ratio_to_torch"] <= CPU,
        "throughput": result["throughput_ratio_to_torch_batch32"] >= THROUGHPUT,
        "http": http is not None and http >= HTTP,
    }


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
    """Of the raw model, for one text and for a batch: the least median of several turns."""
    counts = [n for n in (1, 2, 4, 8) if n <= (os.cpu_count() or 1)]
    ids = tokenizer(texts)
    single: dict[int, list[float]] = {n: [] for n in counts}
    batch: dict[int, list[float]] = {n: [] for n in counts}
    for turn in range(SEARCH_TURNS + 1):  # the first warms up
        for n in counts:
            torch.set_num_threads(n)
            one = _timed(lambda: [_raw(plain, row) for row in ids[:30]])
            many = _timed(lambda: _raw_batch(plain, ids[:BATCH], tokenizer.pad_id))
            if turn:
                single[n].append(one)
                batch[n].append(many)

    def fastest(found: dict[int, list[float]]) -> int:
        return min(found, key=lambda n: statistics.median(found[n]))

    return {"single": fastest(single), "batch": fastest(batch)}


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
    """Median time and CPU of one request, back to back: ours with its tokenizer, the raw model's forward alone, at its
    best thread count and at one thread."""

    def ours(engine: Engine) -> Callable[[str], object]:
        return lambda text: engine.encode([text])

    ids = dict(zip(texts, tokenizer(texts), strict=True))
    arms: dict[str, Callable[[str], object]] = {
        arm: lambda text: _raw(plain, ids[text]) for arm in ("raw", "raw_one_thread")
    }
    arms |= {kind: ours(engine) for kind, engine in engines.items()}
    found: dict[str, dict[str, list[float]]] = {arm: {"p50": [], "cpu": []} for arm in arms}
    for turn in range(rounds + 1):  # the first warms up
        part = texts[turn * count : (turn + 1) * count]
        for arm, answer in arms.items():
            engine = engines.get(arm)
            threads = 1 if arm == "raw_one_thread" else raw_threads
            torch.set_num_threads(engine.threads if isinstance(engine, TorchEngine) else threads)
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
) -> tuple[dict[str, list[float]], int]:
    """Texts per second: 32 clients, each waiting for its answer, through batcher, engine and head; the raw model on
    batches of 32 in the order of the file, tokenized beforehand. And the threads with which the torch engine ran."""
    if len(texts) < (rounds + 1) * count:
        sys.exit(f"{(rounds + 1) * count} texts are needed that nothing was measured on; there are {len(texts)}.")
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
    in_flow = 0
    for turn in range(rounds + 1):
        part = texts[turn * count : (turn + 1) * count]

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
            if isinstance(engine, TorchEngine):  # each thread of a process has a number of its own
                batcher.between(lambda engine=engine: torch.set_num_threads(engine.threads)).result()
            waiting = iter(part)

            async def client(waiting: Iterator[str], batcher: Batcher[Answer]) -> None:
                for text in waiting:
                    await batcher.submit([text])

            begun = time.perf_counter()
            await asyncio.gather(*(client(waiting, batcher) for _ in range(CLIENTS)))
            if turn:
                found[kind].append(len(part) / (time.perf_counter() - begun))
            if isinstance(engine, TorchEngine):
                in_flow = batcher.between(torch.get_num_threads).result()
    for batcher in batchers.values():
        batcher.close()
    return found, in_flow


if __name__ == "__main__":
    main()
