"""Swaps under load: nothing dropped, nothing mixed, nothing slower; and the same by peft's own means.

Follower, registry, control log, batcher and engine are the serving process' own, put together in this process, so that
the beginning and the end of each swap are known; requests come by an open loop at 70 % of capacity. Every answer is
compared afterwards with what plain peft makes of the same text under the version that the answer names.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import torch
from adapter import lora, merged
from common import Benchmark, banking77
from safetensors.numpy import load, save
from served import promote, release
from threadpoolctl import threadpool_limits

from stream_ft import control, metrics
from stream_ft.clock import SystemClock
from stream_ft.config import Settings
from stream_ft.connectors.local import LocalLog
from stream_ft.model.base import MINILM, BaseFolder, Tokenizer, base_files, load_model, resolve
from stream_ft.model.engines import Engine
from stream_ft.model.engines.choose import open_engine
from stream_ft.model.heads import Head
from stream_ft.ports import Outgoing
from stream_ft.release.registry import Registry
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Listed
from stream_ft.serve.follow import Failure, Follower
from stream_ft.serve.slots import Answer, Slots, Version
from stream_ft.topics import topic
from stream_ft.wiring import genesis

MODEL = "bench"
ADAPTERS = 8
LOAD = 0.7
FAILURES = {"corrupt": "hash", "wrong base": "base", "wrong labels": "labels", "not a number": "finite"}
"""What is wrong with a release, and the step that must catch it."""
DIFFERENT = 0.1
TOLERANCE = 0.02
RESAMPLES = 1_000


@dataclass
class Sample:
    """One request: when it came, when it was answered, and what was said."""

    text: int
    begun: float
    ended: float = 0.0
    version: str = ""
    embedding: bytes = b""
    label: str = ""
    score: float = 0.0
    error: str = ""


@dataclass
class Swap:
    """One attempt: from the announcement being read to the flip, or to the step that caught it."""

    begun: float
    ended: float
    step: str


class Watched(Follower):
    """The follower, with a note of when each swap began and ended."""

    swaps: list[Swap]

    def _load(self, wanted: Listed, *, put: Callable[[Version], None]) -> Failure | None:
        begun = time.perf_counter()
        failure = super()._load(wanted, put=put)
        self.swaps.append(Swap(begun=begun, ended=time.perf_counter(), step="" if failure is None else failure.step))
        return failure


@dataclass
class Served:
    """The parts under test, and what was promoted."""

    folder: Path
    base: BaseFolder
    engine: Engine
    registry: Registry
    log: LocalLog
    slots: Slots
    batcher: Batcher[Answer]
    follower: Watched
    series: Any
    versions: dict[str, tuple[int, Head]] = field(default_factory=dict)
    """Number of the adapter and head of each version, by its name."""

    def close(self) -> None:
        """End the threads."""
        self.follower.close()
        self.batcher.close()
        self.log.close()


def open_parts(folder: Path, base: BaseFolder) -> Served:
    """As the serving process puts them together."""
    engine = open_engine(base, cache=Settings().cache_path(), device="cpu", shared_pool=True)
    registry = Registry(folder / "registry")
    log = LocalLog(folder, writes=["serve"])
    genesis.ensure(log, registry, base, model=MODEL, dim=engine.dim, now=time.time())
    slots = Slots(engine)
    series = metrics.ServeMetrics(metrics.new_registry())
    batcher: Batcher[Answer] = Batcher(slots.forward, max_batch=32, queue=256)
    follower = Watched(
        model=MODEL,
        replica="bench",
        log=log,
        artifacts=registry,
        engine=engine,
        slots=slots,
        batcher=batcher,
        publish=lambda message: True,
        metrics=series,
        clock=SystemClock(),
        state_path=folder / "serve.state",
    )
    follower.swaps = []
    batcher.start()
    follower.start()
    if not follower.wait(60):
        raise TimeoutError("no version answers")
    return Served(folder, base, engine, registry, log, slots, batcher, follower, series)


# --- the load --------------------------------------------------------------------------------------------------


async def capacity(batcher: Batcher[Answer], texts: list[str], count: int) -> float:
    """Requests per second of a closed loop of 32 clients."""
    waiting = iter(texts[i % len(texts)] for i in range(count))

    async def client(waiting: Iterator[str]) -> None:
        for text in waiting:
            await batcher.submit([text])

    begun = time.perf_counter()
    await asyncio.gather(*(client(waiting) for _ in range(32)))
    return count / (time.perf_counter() - begun)


async def open_loop(
    batcher: Batcher[Answer], texts: list[str], rate: float, ended: Callable[[], bool], seed: int
) -> list[Sample]:
    """Requests at random times (Poisson), whether or not earlier ones were answered, until ``ended``."""
    draw = random.Random(seed)
    samples: list[Sample] = []
    tasks: set[asyncio.Task[None]] = set()

    async def ask(sample: Sample) -> None:
        try:
            (answer,) = await batcher.submit([texts[sample.text]])
        except Exception as error:  # whatever it is, this request was dropped
            sample.error = type(error).__name__
        else:
            sample.version, sample.embedding = answer.version.name, answer.embedding
            sample.label, sample.score = answer.label, answer.score
        sample.ended = time.perf_counter()

    due = time.perf_counter()
    while not ended():
        due += draw.expovariate(rate)
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        sample = Sample(text=draw.randrange(len(texts)), begun=time.perf_counter())
        samples.append(sample)
        task = asyncio.create_task(ask(sample))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return samples


# --- the swaps -------------------------------------------------------------------------------------------------


class Operator(threading.Thread):
    """Promotes one release after another; waits for what becomes of each.

    Args:
        parts: what is served.
        plan: what to promote: the number of an adapter, or what is wrong.
        bases: files of each adapter.
        grow: of every how many good swaps one adds a label.
    """

    def __init__(self, parts: Served, plan: list[int | str], bases: list[dict[str, bytes]], grow: int) -> None:
        super().__init__(name="operator", daemon=True)
        self.parts, self.plan, self.bases, self.grow = parts, plan, bases, grow
        self.caught: dict[str, list[str]] = {name: [] for name in FAILURES}
        self.good = self.grown = 0
        self.error: BaseException | None = None
        self._labels = 77
        self._rng = np.random.default_rng(1)
        self._rows = self._rng.normal(size=(2_000, parts.engine.dim)).astype(np.float32)

    def run(self) -> None:
        """Every step of the plan."""
        try:
            for step in self.plan:
                self._one(step)
        except BaseException as error:  # the benchmark fails with it
            self.error = error

    def head(self) -> Head:
        """With as many labels as there are now; the same rows for the same labels."""
        n = self._labels
        return Head(
            labels=tuple(f"label {i}" for i in range(n)),
            weight=self._rows[:n].astype(np.float16).astype(np.float32),
            bias=np.zeros(n, np.float32),
            projection=None,
            dim=self.parts.engine.dim,
        )

    def _one(self, step: int | str) -> None:
        parts = self.parts
        if isinstance(step, int) and self.good % self.grow == self.grow - 1:
            self._labels += 1
            self.grown += 1
        head = self.head()
        number = step if isinstance(step, int) else int(self._rng.integers(len(self.bases)))
        files = dict(self.bases[number])
        # Each promotion is a base of its own: what the engine may have kept must not be what is measured.
        files["note.json"] = json.dumps({"promotion": time.time_ns()}).encode()
        if step == "wrong base":
            name, head_name = self._of_another_model(files, head)
        elif step == "not a number":
            tensors = load(files["adapter_model.safetensors"])
            first = sorted(tensors)[0]
            tensors[first] = np.full_like(tensors[first], np.nan)
            files["adapter_model.safetensors"] = save(tensors)
            name, head_name = release(parts.registry, parts.base, files, head)
        elif step == "wrong labels":
            twice = Head(
                labels=(head.labels[1], *head.labels[1:]), weight=head.weight, bias=head.bias, projection=None,
                dim=head.dim,
            )  # fmt: skip
            name, head_name = release(parts.registry, parts.base, files, twice)
        else:
            name, head_name = release(parts.registry, parts.base, files, head)
        if step == "corrupt":
            path = parts.registry.path(name) / "adapter_model.safetensors"
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0xFF
            path.chmod(0o644)
            path.write_bytes(bytes(data))
        state = parts.follower.state
        before = len(parts.follower.swaps)
        if isinstance(step, int):
            parts.versions[f"v{state.epoch + 1}.{state.epoch + 1}.0"] = (number, head)
        promote(parts.log, MODEL, base=name, head=head_name, parent=state.base, epoch=state.epoch)
        end = time.monotonic() + 60
        while len(parts.follower.swaps) == before or parts.follower.state.epoch == state.epoch:
            if time.monotonic() > end:
                raise TimeoutError(f"nothing came of {step}")
            time.sleep(0.005)
        found = parts.follower.swaps[before].step
        if isinstance(step, int):
            if found:
                raise RuntimeError(f"a good release was refused at {found}")
            self.good += 1
        else:
            self.caught[step].append(found)
        parts.registry.delete(state.base) if state.epoch > 2 else None

    def _of_another_model(self, files: dict[str, bytes], head: Head) -> tuple[str, str]:
        other = BaseFolder(name=self.parts.base.name, path=self.parts.base.path, sha256="0" * 64)
        return release(self.parts.registry, other, files, head)


# --- what plain peft says --------------------------------------------------------------------------------------


def wrong_answers(parts: Served, samples: list[Sample], texts: list[str], folders: list[Path]) -> int:
    """Answers that are not those of the version they name, by peft's merged model and the version's head."""
    tokenizer = Tokenizer(parts.base.path, 128)
    needed: dict[int, set[int]] = {}
    for sample in samples:
        if not sample.error:
            needed.setdefault(parts.versions[sample.version][0], set()).add(sample.text)
    expected: dict[tuple[int, int], np.ndarray] = {}
    for number, wanted in needed.items():
        plain = merged(parts.base, folders[number])
        rows = sorted(wanted, key=lambda row: len(texts[row]))
        for start in range(0, len(rows), 32):
            part = rows[start : start + 32]
            expected |= zip(
                ((number, row) for row in part), _pooled(plain, tokenizer, [texts[r] for r in part]), strict=True
            )
    wrong = 0
    for sample in samples:
        if sample.error:
            continue
        number, head = parts.versions[sample.version]
        embedding = np.frombuffer(sample.embedding, "<f2").astype(np.float32)
        if np.abs(embedding - expected[number, sample.text]).max() > TOLERANCE:
            wrong += 1
            continue
        # The head reads the embedding as it was answered, so its label must be exactly this one.
        ((label, score),) = head.predict(embedding[None].astype(np.float16))
        wrong += label != sample.label or abs(score - sample.score) > 1e-3
    return wrong


def _pooled(plain: torch.nn.Module, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    ids = tokenizer(texts)
    longest = max(len(row) for row in ids)
    tokens = torch.tensor([row + [tokenizer.pad_id] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    with torch.inference_mode():
        states = plain(input_ids=tokens, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).float()
    found: np.ndarray = ((states * weight).sum(1) / weight.sum(1)).numpy()
    return found


def difference(parts: Served, folders: list[Path], texts: list[str]) -> float:
    """The least of the largest differences between the embeddings of any two adapters."""
    tokenizer = Tokenizer(parts.base.path, 128)
    rows = [_pooled(merged(parts.base, folder), tokenizer, texts) for folder in folders]
    return min(float(np.abs(rows[i] - rows[j]).max()) for i in range(len(rows)) for j in range(i + 1, len(rows)))


# --- latencies -------------------------------------------------------------------------------------------------


def overlapping(samples: list[Sample], swaps: list[Swap]) -> list[float]:
    """Latencies of the requests that were under way while a swap was."""
    found = []
    index = 0
    for sample in samples:
        while index < len(swaps) and swaps[index].ended < sample.begun:
            index += 1
        if index < len(swaps) and swaps[index].begun < sample.ended:
            found.append(sample.ended - sample.begun)
    return found


def quantile_ratio(swapping: list[float], calm: list[float], q: float, seed: int) -> dict[str, float]:
    """Of a quantile, with the 95 % interval of a bootstrap."""
    rng = np.random.default_rng(seed)
    a, b = np.array(swapping), np.array(calm)
    drawn = [np.quantile(rng.choice(a, len(a)), q) / np.quantile(rng.choice(b, len(b)), q) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"ratio": float(np.quantile(a, q) / np.quantile(b, q)), "low": float(low), "high": float(high)}


# --- peers -----------------------------------------------------------------------------------------------------


def peers(base: BaseFolder, folders: list[Path], count: int) -> dict[str, Any]:
    """How long the model cannot answer while peft changes the adapter, or while it is loaded anew: seconds, median."""
    from peft import PeftModel
    from peft.utils.hotswap import hotswap_adapter

    def of(job: Callable[[int], object]) -> dict[str, float]:
        times = []
        for i in range(count):
            begun = time.perf_counter()
            job(i)
            times.append(time.perf_counter() - begun)
        return {"median_s": statistics.median(times), "max_s": max(times)}

    model = PeftModel.from_pretrained(load_model(base.path), folders[0], adapter_name="a0")

    def load_set(i: int) -> None:
        model.load_adapter(folders[(i + 1) % len(folders)], adapter_name=f"n{i}")
        model.set_adapter(f"n{i}")
        if i:
            model.delete_adapter(f"n{i - 1}")

    hot = PeftModel.from_pretrained(load_model(base.path), folders[0], adapter_name="default")
    return {
        "peft_load_set": of(load_set),
        "peft_hotswap": of(
            lambda i: hotswap_adapter(hot, str(folders[(i + 1) % len(folders)]), adapter_name="default")
        ),
        "reload": of(lambda i: merged(base, folders[i % len(folders)])),
    }


# --- the run ---------------------------------------------------------------------------------------------------


def rollbacks(parts: Served, count: int) -> list[float]:
    """Seconds from an acknowledged rollback to the previous version to its first answer."""
    times = []
    for _ in range(count):
        state = parts.follower.state
        target = state.history[-2][0]
        message = control.new(
            control.Rollback, by="operator/bench", now=time.time(), to_epoch=target, reason="measured"
        )
        parts.log.append([Outgoing(topic=topic(MODEL, "control"), value=msgspec.json.encode(message))])
        begun = time.perf_counter()
        while True:
            (answer,) = asyncio.run(parts.batcher.submit(["hello"]))
            if answer.version.epoch > state.epoch:
                break
        times.append(time.perf_counter() - begun)
        # And forward again, by a promotion of another base: what was left by a rollback is denied.
        yielded = parts.follower.state
        files = {"note.json": json.dumps({"again": time.time_ns()}).encode(), **base_files(parts.base)}
        del files["base.json"]
        number, head = next(iter(parts.versions.values()))
        name, head_name = release(parts.registry, parts.base, {**files, **BASES[number]}, head)
        promote(parts.log, MODEL, base=name, head=head_name, parent=yielded.base, epoch=yielded.epoch)
        while parts.slots.current is None or parts.slots.current.epoch <= yielded.epoch:
            time.sleep(0.005)
    return times


BASES: list[dict[str, bytes]] = []


def main() -> None:
    """Measure and report."""
    bench = Benchmark("swap")
    threadpool_limits(1, user_api="blas")  # as the command line does for its processes
    good, failing, grow, calm_s = (40, 8, 10, 10) if bench.quick else (1_000, 200, 10, 120)
    base = resolve(MINILM)
    texts = [text for text, _ in banking77("test")]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / f"adapter{n}" for n in range(ADAPTERS)]
        BASES.extend(lora(base, folder, seed=n) for n, folder in enumerate(folders))
        parts = open_parts(Path(scratch) / "state", base)
        least = difference(parts, folders, texts[:32])
        if least <= DIFFERENT:
            raise SystemExit(f"two adapters differ by {least:.3f} only")
        draw = random.Random(bench.seed)
        plan: list[int | str] = [n % ADAPTERS for n in range(good)]
        for name in FAILURES:
            for _ in range(failing // len(FAILURES)):
                plan.insert(draw.randrange(1, len(plan)), name)
        first = Operator(parts, [0], BASES, grow)
        first.run()
        if first.error is not None:
            raise first.error
        process = psutil.Process()
        full = statistics.median(asyncio.run(capacity(parts.batcher, texts, 600)) for _ in range(3))
        rate = LOAD * full
        # Before and after, so that a machine that changes meanwhile is seen.
        calm = _for(parts, texts, rate, calm_s / 2, seed=bench.seed + 1)
        operator = Operator(parts, plan, BASES, grow)
        parts.follower.swaps.clear()
        gc.collect()
        resident = process.memory_info().rss
        operator.start()
        swapping = asyncio.run(open_loop(parts.batcher, texts, rate, lambda: not operator.is_alive(), bench.seed + 10))
        if operator.error is not None:
            raise operator.error
        gc.collect()
        grown_mb = (process.memory_info().rss - resident) / 1e6
        calm += _for(parts, texts, rate, calm_s / 2, seed=bench.seed + 2)
        swaps = list(parts.follower.swaps)
        flips = parts.series.flip_seconds
        back = rollbacks(parts, 5 if bench.quick else 100)
        wrong = wrong_answers(parts, swapping, texts, folders)
        parts.close()
        overlap = overlapping(swapping, [s for s in swaps if not s.step])
        calm_times = [s.ended - s.begun for s in calm if not s.error]
        p99 = quantile_ratio(overlap, calm_times, 0.99, bench.seed)
        p999 = quantile_ratio(overlap, calm_times, 0.999, bench.seed)
        missed = {name: [step for step in steps if step != FAILURES[name]] for name, steps in operator.caught.items()}
        result: dict[str, Any] = {
            "good_swaps": operator.good,
            "swaps_adding_a_label": operator.grown,
            "failing_swaps": sum(len(steps) for steps in operator.caught.values()),
            "failures_missed": sum(len(steps) for steps in missed.values()),
            "least_difference": least,
            "rate_per_s": rate,
            "requests": len(swapping),
            "requests_overlapping": len(overlap),
            "dropped_requests": sum(bool(s.error) for s in swapping),
            "wrong_version_responses": wrong,
            "p99_calm_ms": float(np.quantile(calm_times, 0.99)) * 1e3,
            "p99_overlap_ms": float(np.quantile(overlap, 0.99)) * 1e3,
            "p99_overlap_ratio": p99["ratio"],
            "p99_overlap_interval": [p99["low"], p99["high"]],
            "p999_overlap_ratio": p999["ratio"],
            "p999_overlap_interval": [p999["low"], p999["high"]],
            "swap_median_s": statistics.median(s.ended - s.begun for s in swaps if not s.step),
            "flip_ms_max": _max_ms(flips),
            "rollback_p99_s": float(np.quantile(back, 0.99)),
            "rss_growth_mb": grown_mb,
            "peers": peers(base, folders, 3 if bench.quick else 20),
        }
    bench.finish(result)


def _for(parts: Served, texts: list[str], rate: float, seconds: float, *, seed: int) -> list[Sample]:
    end = time.perf_counter() + seconds
    return asyncio.run(open_loop(parts.batcher, texts, rate, lambda: time.perf_counter() >= end, seed))


def _max_ms(histogram: Any) -> float:
    """Upper bound of the highest bucket of a histogram that holds anything."""
    samples = next(iter(histogram.collect())).samples
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
    total = max(value for _, value in buckets)
    return min(bound for bound, value in buckets if value == total) * 1e3


if __name__ == "__main__":
    main()
