"""What a round costs those who ask meanwhile: serving alone, and beside a training round on the same cores.

Our serving process, MiniLM with a LoRA version active, is asked over HTTP at half of its capacity by an open loop.
Beside it trains, in turns: nothing; a round as the learner starts it (one thread, niceness 10); the same without
niceness; the same with two threads. The rounds are real ones (LoRA, Banking77) whose training does not end; they are
stopped and continued by signals, so that each window meets a round in the middle of its training.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
from adapter import lora
from common import Benchmark, banking77
from http_load import closed_loop, free_port, wait_ready
from overload import endless, flood

from stream_ft.events import Example, LabelCorrection
from stream_ft.learn.job import Job
from stream_ft.model.base import MINILM, resolve
from stream_ft.wiring.rounds import ALLOCATOR

CLIENTS = 32
LOAD = 0.5
ARMS = {"nothing": None, "round": (10, 1), "round_without_nice": (0, 1), "round_with_two_threads": (10, 2)}
"""What runs beside serving: niceness and threads."""
ROUND = """
import sys
from stream_ft.learn import round as rounds
from stream_ft.priority import be_nice
nice = int(sys.argv[1])
rounds.be_nice = lambda usual: be_nice(nice) if nice else None
from stream_ft.learn.round import main
"""
WARM_CPU_S = 20.0
"""Of a round: by then it has read its model and trains."""
HERE = Path(__file__).parent


def main() -> None:
    """Measure and report."""
    bench = Benchmark("beside")
    turns, seconds = (1, 4.0) if bench.quick else (8, 8.0)
    texts = [text for text, _ in banking77("test")]
    with tempfile.TemporaryDirectory() as scratch:
        lora(resolve(MINILM), Path(scratch) / "adapter", seed=bench.seed)
        port = free_port()
        served = subprocess.Popen(
            [sys.executable, str(HERE / "served.py"), f"{scratch}/state", f"{scratch}/adapter", str(port)],
            start_new_session=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as the command line does for its processes
        )
        rounds: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for arm, way in ARMS.items():
                if way is not None:
                    rounds[arm] = start(Path(scratch) / arm, *way, seed=bench.seed)
                    warm(rounds[arm])
            wait_ready(port, texts[0])
            closed_loop(port, texts[:200], CLIENTS)
            took, refused, used, rates = measure(port, served.pid, rounds, texts, turns, seconds, bench.seed)
        finally:
            for process in (served, *rounds.values()):
                process.send_signal(signal.SIGKILL)
                process.wait()
    calm = took["nothing"]
    bench.finish(
        {
            "capacity_per_s": statistics.median(rates),
            "load": LOAD,
            "answered": {arm: len(times) for arm, times in took.items()},
            "refused": refused,
            **{
                f"{name}_ms": {arm: float(np.quantile(times, q)) * 1e3 for arm, times in took.items()}
                for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
            },
            "p99_ratio": {
                arm: float(np.quantile(times, 0.99) / np.quantile(calm, 0.99)) for arm, times in took.items()
            },
            "round_cores": used,
        }
    )


def start(folder: Path, nice: int, threads: int, *, seed: int) -> subprocess.Popen[bytes]:
    """A round that trains until it is killed."""
    rows = banking77("train")
    random.Random(seed).shuffle(rows)
    folder.mkdir()
    for name, part in (("train.jsonl", rows[:512]), ("evaluate.jsonl", rows[512:544])):
        examples = [
            Example(seq=i, id=i, input=text, correction=LabelCorrection(label=label), source="bench", trust=1)
            for i, (text, label) in enumerate(part, 1)
        ]
        (folder / name).write_bytes(msgspec.json.Encoder().encode_lines(examples))
    job = Job(
        kind="lora", base_model=str(resolve(MINILM).path), champion_base="", steps=10**6, threads=threads, device="cpu"
    )
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    return subprocess.Popen(
        [sys.executable, "-c", f"{ROUND}main(sys.argv[2:])", str(nice), str(folder)],
        stdin=subprocess.PIPE,  # its end would end the round
        start_new_session=True,
        env=ALLOCATOR | os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
    )


def warm(process: subprocess.Popen[bytes]) -> None:
    """Let it work until it trains, then stop it.

    Raises:
        RuntimeError: it ended.
    """
    seen = psutil.Process(process.pid)
    while cpu_s(seen) < WARM_CPU_S:
        if process.poll() is not None:
            raise RuntimeError(f"a round ended with {process.returncode}")
        time.sleep(0.1)
    process.send_signal(signal.SIGSTOP)


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU that it has had."""
    times = process.cpu_times()
    used: float = times.user + times.system
    return used


def measure(
    port: int,
    pid: int,
    rounds: dict[str, subprocess.Popen[bytes]],
    texts: list[str],
    turns: int,
    seconds: float,
    seed: int,
) -> tuple[dict[str, list[float]], dict[str, int], dict[str, float], list[float]]:
    """By what ran beside: seconds of each answer, how many requests got a 429, cores that the round had; and the
    capacity of each turn.

    Raises:
        RuntimeError: a request was answered otherwise, or a round ended.
    """
    took: dict[str, list[float]] = {arm: [] for arm in ARMS}
    refused = dict.fromkeys(ARMS, 0)
    used: dict[str, list[float]] = {arm: [] for arm in rounds}
    rates, asked, draw = [], endless(texts), random.Random(seed)
    for _ in range(turns):
        rates.append(closed_loop(port, list(itertools.islice(asked, 300)), CLIENTS))
        for arm in draw.sample(list(ARMS), len(ARMS)):
            process = rounds.get(arm)
            if process is not None:
                process.send_signal(signal.SIGCONT)
                began = cpu_s(psutil.Process(process.pid))
            seen = asyncio.run(flood(port, asked, LOAD * rates[-1], seconds, pid))
            if process is not None:
                used[arm].append((cpu_s(psutil.Process(process.pid)) - began) / seconds)
                process.send_signal(signal.SIGSTOP)
                if process.poll() is not None:
                    raise RuntimeError(f"a round ended with {process.returncode}")
            if not set(seen.codes) <= {200, 429}:
                raise RuntimeError(f"beside {arm}: {dict(seen.codes)}")
            took[arm] += seen.admitted_s
            refused[arm] += seen.codes[429]
    return took, refused, {arm: statistics.median(values) for arm, values in used.items()}, rates


if __name__ == "__main__":
    main()
