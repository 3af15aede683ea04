"""Swaps under load: nothing dropped, nothing mixed, nothing slower; and the same by peft's own means.

Follower, registry, control log, batcher and engine are the serving process' own, put together in this process, so that
the beginning and the end of each swap are known; requests come by an open loop at 70 % of capacity. The machine's speed
changes while a run lasts: so windows with swaps and windows without take turns, the capacity is measured before each
pair, and intervals are drawn over pairs. A request counts from when it was due, and a swap from the announcement being
read; releases are made by another process, the next one a quarter of a second after a flip. What a version does without
until it answers (sessions that spread a forward over threads) is done in the windows with swaps, after the last one;
its requests are told apart, and no bound is set for them. Every answer is compared afterwards with what plain peft
makes of the same text under the version that the answer names.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from adapter import lora, merged
from common import Benchmark, banking77
from swap_answers import Answers, capacity, difference, open_loop, wrong_answers
from swap_parts import FAILURES, Operator, Served, any_of, head_of, open_parts, rollbacks
from threadpoolctl import threadpool_limits

from stream_ft.model.base import MINILM, BaseFolder, load_model, resolve
from stream_ft.model.heads import Head

ADAPTERS = 8
LOAD = 0.7
DIFFERENT = 0.1
RESAMPLES = 1_000
SWAPPING_S, CALM_S = 20.0, 6.0
"""Of a pair of windows."""
SETTLED = 100
"""Swaps after which memory is watched: what is allocated once has been by then."""
MOST_GROWTH = 1.0
"""MB in a thousand swaps, of some hundreds, that the slope may be, twice its error included."""
BLOCK = 50
"""Swaps taken together, as what one leaves depends on what the one before left."""


def main() -> None:
    """Measure and report."""
    bench = Benchmark("swap")
    threadpool_limits(1, user_api="blas")  # as the command line does for its processes
    good, failing, grow, memory = (40, 8, 10, 60) if bench.quick else (1_000, 200, 10, 2_000)
    base = resolve(MINILM)
    texts = [text for text, _ in banking77("test")]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / f"adapter{n}" for n in range(ADAPTERS)]
        bases = [lora(base, folder, seed=n) for n, folder in enumerate(folders)]
        parts = open_parts(Path(scratch) / "state", base)
        least = difference(base, folders, texts[:32])
        if least <= DIFFERENT:
            raise SystemExit(f"two adapters differ by {least:.3f} only")
        operator = Operator(parts, iter(_plan(good, failing, bench.seed)), bases, grow)
        operator.step(0)
        answers = Answers(Path(scratch) / "answers", parts.engine.dim)
        rates = load(parts, operator, answers, texts, bench.seed)
        rows, swaps = answers.rows(), list(parts.follower.swaps)
        good_swaps, grown = operator.good - 1, operator.grown
        times = 5 if bench.quick else 100
        phases = [len(operator.resident_mb)]
        back = rollbacks(operator, times)
        phases.append(len(operator.resident_mb))
        meanwhile = Answers(Path(scratch) / "meanwhile", parts.engine.dim)
        loaded = loaded_rollbacks(parts, operator, texts, rates[-1], times, bench.seed, meanwhile)
        phases.append(len(operator.resident_mb))
        while len(operator.resident_mb) < memory:
            operator.step(len(operator.resident_mb) % ADAPTERS)
        wrong = sum(
            wrong_answers(each.rows(), named(each, parts), base, folders, texts) for each in (answers, meanwhile)
        )
        operator.close()
        parts.close()
        missed = [step for name, steps in operator.caught.items() for step in steps if step != FAILURES[name]]
        result: dict[str, Any] = {
            **any_of(parts),
            "as_many_as_meant": good_swaps == good
            and grown >= good // grow
            and all(len(steps) == failing // len(FAILURES) for steps in operator.caught.values()),
            "good_swaps": good_swaps,
            "swaps_adding_a_label": grown,
            "failing_swaps": sum(len(steps) for steps in operator.caught.values()),
            "failures_missed": len(missed),
            "least_difference": least,
            "rate_per_s": statistics.median(rates),
            "windows": len(rates),
            "requests": len(rows),
            "dropped_requests": int(rows["error"].sum()),
            "late_p99_ms": {
                name: float(np.quantile(rows["late"][rows["window"] % 2 == odd], 0.99)) * 1e3
                for odd, name in enumerate(("calm", "swapping"))
            },
            "dropped_in_calm_windows": int(rows["error"][rows["window"] % 2 == 0].sum()),
            "errors": answers.errors,
            "wrong_version_responses": wrong,
            **latencies(rows, [(swap.begun, swap.ended) for swap in swaps if not swap.step], bench.seed),
            "completing": latencies(rows, list(parts.follower.completions), bench.seed),
            "failing": latencies(rows, [(swap.begun, swap.ended) for swap in swaps if swap.step], bench.seed),
            "swap_median_s": statistics.median(s.ended - s.begun for s in swaps if not s.step),
            "flip_ms_median": statistics.median(s.flip_s for s in swaps if not s.step) * 1e3,
            "flip_ms_p99": float(np.quantile([s.flip_s for s in swaps if not s.step], 0.99)) * 1e3,
            "flip_ms_max": max(s.flip_s for s in swaps if not s.step) * 1e3,
            "flips_over_1_ms": sum(s.flip_s > 1e-3 for s in swaps if not s.step),
            "rollback_p50_s": statistics.median(back),
            "rollback_p99_s": float(np.quantile(back, 0.99)),
            "dropped_beside_rollbacks": sum(meanwhile.errors.values()),
            "rollback_loaded_p50_s": statistics.median(loaded),
            "rollback_loaded_p99_s": float(np.quantile(loaded, 0.99)),
            **growth(operator.resident_mb, phases),
            "peers": peers(base, folders, 3 if bench.quick else 20),
        }
    result["fallen_short"] = [name for name, held in bars(result, quick=bench.quick).items() if not held]
    bench.finish(result)
    sys.exit(1 if result["fallen_short"] else 0)


def bars(found: dict[str, Any], *, quick: bool) -> dict[str, bool]:
    """What must hold; a quick run has too few requests for its p99 and its slope to say anything."""
    must = {
        "least_difference": found["least_difference"] > DIFFERENT,
        "failures_missed": found["failures_missed"] == 0,
        "as_many_as_meant": found["as_many_as_meant"],
        "dropped_requests": found["dropped_requests"] + found["dropped_beside_rollbacks"] == 0,
        "wrong_version_responses": found["wrong_version_responses"] == 0,
    }
    return (
        must
        if quick
        else must
        | {
            "requests_overlapping": found["requests_overlapping"] >= 20_000,
            "p99_overlap_ratio": found["p99_overlap_ratio"] <= 1.25,
            "flip_ms_max": found["flip_ms_max"] <= 1.0,
            "rollback_p99_s": max(found["rollback_p99_s"], found["rollback_loaded_p99_s"]) <= 1.0,
            "rss_slope_mb_per_1000": found["rss_slope_mb_per_1000"] + 2 * found["rss_slope_error"] <= MOST_GROWTH,
        }
    )


def loaded_rollbacks(
    parts: Served, operator: Operator, texts: list[str], rate: float, count: int, seed: int, answers: Answers
) -> list[float]:
    """Seconds of rollbacks while requests come at the rate of the windows."""
    times: list[float] = []
    operator.start_rollbacks(count, times)
    asyncio.run(open_loop(parts.batcher, texts, rate, lambda: not operator.busy(), random.Random(seed), answers, 0))
    return times


def named(answers: Answers, parts: Served) -> dict[int, tuple[int, Head]]:
    """Number of the adapter, and the head, of the versions that answered, by their numbers in the rows."""
    found = {number: parts.versions[name] for name, number in answers.versions.items()}
    return {number: (adapter, head_of(labels)) for number, (adapter, labels) in found.items()}


def _plan(good: int, failing: int, seed: int) -> list[int | str]:
    draw = random.Random(seed)
    plan: list[int | str] = [n % ADAPTERS for n in range(1, good + 1)]
    for name in FAILURES:
        for _ in range(failing // len(FAILURES)):
            plan.insert(draw.randrange(1, len(plan)), name)
    return plan


def load(parts: Served, operator: Operator, answers: Answers, texts: list[str], seed: int) -> list[float]:
    """Pairs of windows until the plan is carried out: an even one without swaps, an odd one with; the rate of each."""
    draw = random.Random(seed)
    asyncio.run(capacity(parts.batcher, texts, 600, draw))
    parts.follower.swaps.clear()
    gc.collect()
    rates = []
    for pair in itertools.count():
        rate = LOAD * asyncio.run(capacity(parts.batcher, texts, 300, draw))
        rates.append(rate)
        for swapping in (False, True) if pair % 2 else (True, False):
            parts.complete()  # a window without swaps has nothing of one, either
            if swapping:
                operator.start(SWAPPING_S)
            end = time.perf_counter() + CALM_S

            def ended(swapping: bool = swapping, end: float = end) -> bool:
                return not operator.busy() if swapping else time.perf_counter() >= end

            asyncio.run(open_loop(parts.batcher, texts, rate, ended, draw, answers, 2 * pair + swapping))
        if operator.done:
            return rates
    raise AssertionError("not reached")


# --- latencies -------------------------------------------------------------------------------------------------


def latencies(rows: npt.NDArray[np.void], spans: list[tuple[float, float]], seed: int) -> dict[str, Any]:
    """p99 and p99.9 of the answered requests that overlapped one of the spans, beside those of windows without swaps.

    Args:
        spans: of good swaps, or of what was completed after some; one after the other.
    """
    rows = rows[rows["error"] == 0]
    begun, ended = np.array(spans).reshape(-1, 2).T
    first = np.searchsorted(ended, rows["begun"])  # the first one that had not ended when the request came
    overlapping = (first < len(begun)) & (begun[np.minimum(first, len(begun) - 1)] < rows["ended"])
    overlapping &= rows["window"] % 2 == 1
    calm = rows["window"] % 2 == 0
    times = (rows["ended"] - rows["begun"]) * 1e3
    pairs = [
        (times[overlapping & (rows["window"] == 2 * pair + 1)], times[calm & (rows["window"] == 2 * pair)])
        for pair in range(int(rows["window"].max()) // 2 + 1)
    ]
    pairs = [pair for pair in pairs if all(map(len, pair))]
    found: dict[str, Any] = {"requests_overlapping": int(overlapping.sum()), "requests_calm": int(calm.sum())}
    # Also what came between two swaps: it may wait because of the one before.
    found["p99_of_windows_with_swaps_ms"] = float(np.quantile(times[~calm], 0.99))
    rng = np.random.default_rng(seed)
    for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        drawn = []
        for _ in range(RESAMPLES):
            chosen = rng.integers(len(pairs), size=len(pairs))
            a, b = (np.concatenate([pairs[i][side] for i in chosen]) for side in (0, 1))
            drawn.append(np.quantile(a, q) / np.quantile(b, q))
        swapping_ms, calm_ms = float(np.quantile(times[overlapping], q)), float(np.quantile(times[calm], q))
        found |= {
            f"{name}_overlap_ms": swapping_ms,
            f"{name}_calm_ms": calm_ms,
            f"{name}_overlap_ratio": swapping_ms / calm_ms,
            f"{name}_overlap_interval": [float(v) for v in np.quantile(drawn, (0.025, 0.975))],
        }
    return found


def growth(resident_mb: list[float], phases: Sequence[int] = ()) -> dict[str, float]:
    """How this process grew over the swaps: a slope that all phases have, with its error; each has a level of its own.

    Under load memory that is free is kept, and without it is given back: that is no growth, and hides none.

    Args:
        resident_mb: after each swap.
        phases: where another phase began.
    """
    settled = min(SETTLED, len(resident_mb) // 3)
    bounds = [settled, *(phase for phase in phases if phase > settled), len(resident_mb)]
    centred: list[tuple[float, float]] = []
    rows = 0
    for begin, end in itertools.pairwise(bounds):
        if end - begin < 2:
            continue
        size = min(BLOCK, max(1, (end - begin) // 4))
        blocks = [
            (at + size / 2, float(np.mean(resident_mb[at : at + size]))) for at in range(begin, end - size + 1, size)
        ]
        middle = np.mean(blocks, axis=0)
        centred += [(at - middle[0], mb - middle[1]) for at, mb in blocks]
        rows += 1
    x, y = np.array(centred).T
    x = x / 1_000
    slope = float((x * y).sum() / (x * x).sum())
    spread = float(((y - slope * x) ** 2).sum() / max(1, len(x) - rows - 1))
    return {
        "swaps_watched": len(resident_mb),
        "rss_mb": float(np.median(resident_mb[settled:])),
        "rss_growth_mb": slope * (len(resident_mb) - settled) / 1_000,
        "rss_slope_mb_per_1000": slope,
        "rss_slope_error": math.sqrt(spread / float((x * x).sum())),
    }


# --- peers -----------------------------------------------------------------------------------------------------


def peers(base: BaseFolder, folders: list[Path], count: int) -> dict[str, Any]:
    """How long the model cannot answer while peft changes the adapter, or while it is loaded anew: seconds, median."""
    from peft import PeftModel
    from peft.utils.hotswap import hotswap_adapter

    def of(job: Callable[[int], object], after: Callable[[int], object] = lambda i: None) -> dict[str, float]:
        times = []
        for i in range(count):
            begun = time.perf_counter()
            job(i)
            times.append(time.perf_counter() - begun)
            after(i)  # none of what a user waits for
        return {"median_s": statistics.median(times), "max_s": max(times)}

    model = PeftModel.from_pretrained(load_model(base.path), folders[0], adapter_name="a0")

    def load_set(i: int) -> None:
        model.load_adapter(folders[(i + 1) % len(folders)], adapter_name=f"n{i}")
        model.set_adapter(f"n{i}")

    def forget(i: int) -> None:
        if i:
            model.delete_adapter(f"n{i - 1}")

    hot = PeftModel.from_pretrained(load_model(base.path), folders[0], adapter_name="default")
    return {
        "peft_load_set": of(load_set, forget),
        "peft_hotswap": of(
            lambda i: hotswap_adapter(hot, str(folders[(i + 1) % len(folders)]), adapter_name="default")
        ),
        "reload": of(lambda i: merged(base, folders[i % len(folders)])),
    }


if __name__ == "__main__":
    main()
