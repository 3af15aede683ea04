"""Three times as many requests as the server can answer: those that it takes are answered in time, the rest get 429.

Our serving process, MiniLM with a LoRA version active, over HTTP. Its capacity is what 32 clients that wait for their
answers get; then requests come by an open loop at a multiple of that. The client runs on the same cores, and what it
takes of them is not there for the server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from adapter import lora
from common import Benchmark, banking77
from http_load import HEAD, closed_loop, free_port, wait_ready

from stream_ft.config import Settings
from stream_ft.model.base import MINILM, resolve

CLIENTS = 32
TIMES = 3.0
SAMPLE_S = 0.25
SETTLED_S = 5.0
"""Before memory is watched: connections and buffers have been made by then."""
LEEWAY = 0.02
"""Of the resident size, which may come and go."""
AT_ONCE_S = 0.1
"""In which a refusal must come."""
REACHED = 0.95
"""Of the rate that was meant: a client that cannot keep up would measure another load."""
HERE = Path(__file__).parent


@dataclass(kw_only=True)
class Seen:
    """What came of the requests, and the server's resident size meanwhile."""

    codes: Counter[int] = field(default_factory=Counter)
    admitted_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    late_s: list[float] = field(default_factory=list)
    """By how much this client was late to send a request; counted as a part of what the request took."""
    seconds: float = 0.0
    """In which all were sent."""
    resident_mb: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and report; the exit code says whether the bound was held."""
    bench = Benchmark("overload")
    seconds = 6.0 if bench.quick else 60.0
    texts = [text for text, _ in banking77("test")]
    with tempfile.TemporaryDirectory() as scratch:
        lora(resolve(MINILM), Path(scratch) / "adapter", seed=bench.seed)
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, str(HERE / "served.py"), f"{scratch}/state", f"{scratch}/adapter", str(port)],
            start_new_session=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as the command line does for its processes
        )
        try:
            wait_ready(port, texts[0])
            closed_loop(port, texts[:200], CLIENTS)
            capacity = closed_loop(port, texts[200 : 1_000 if bench.quick else 3_000], CLIENTS)
            seen = asyncio.run(flood(port, endless(texts), TIMES * capacity, seconds, process.pid))
            after = closed_loop(port, texts[:400], CLIENTS)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    result = judged(seen, TIMES * capacity, Settings().serve.max_wait_s) | {
        "capacity_per_s": capacity,
        "capacity_after_per_s": after,
        "exit_code": process.returncode,
    }
    result["passed"] &= process.returncode == 128 + signal.SIGTERM  # it ended as it was told, after all that
    bench.finish(result)
    sys.exit(0 if result["passed"] else 1)


def endless(texts: list[str]) -> Iterator[str]:
    """The texts, over and over, none twice the same."""
    yield from texts
    for again in itertools.count(2):
        yield from (f"{text} ({again})" for text in texts)


def judged(seen: Seen, rate: float, bound_s: float) -> dict[str, Any]:
    """The figures, of requests that were meant to come at ``rate`` a second."""
    settled = seen.resident_mb[int(SETTLED_S / SAMPLE_S) :] or seen.resident_mb
    tenth = max(1, len(settled) // 10)
    growth = float(np.median(settled[-tenth:]) - np.median(settled[:tenth]))
    p99 = float(np.quantile(seen.admitted_s, 0.99))
    refused_p99 = float(np.quantile(seen.refused_s, 0.99)) if seen.refused_s else 0.0
    asked = len(seen.late_s) / seen.seconds
    others = {str(code): n for code, n in seen.codes.items() if code not in (200, 429)}
    return {
        "requests": sum(seen.codes.values()),
        "admitted": seen.codes[200],
        "refused": seen.codes[429],
        "other_answers": others,
        "refused_without_retry_after": seen.without_retry_after,
        "bound_s": bound_s,
        "admitted_p50_s": float(np.quantile(seen.admitted_s, 0.5)),
        "admitted_p99_s": p99,
        "refused_p50_ms": float(np.quantile(seen.refused_s, 0.5)) * 1e3 if seen.refused_s else None,
        "refused_p99_ms": refused_p99 * 1e3,
        "asked_per_s": asked,
        "client_late_p99_ms": float(np.quantile(seen.late_s, 0.99)) * 1e3,
        "rss_mb": float(np.median(settled)),
        "rss_growth_mb": growth,
        "passed": p99 <= bound_s
        and not others
        and not seen.without_retry_after
        and seen.codes[429] > 0
        and refused_p99 <= AT_ONCE_S
        and asked >= REACHED * rate
        and growth <= LEEWAY * float(np.median(settled)),
    }


async def flood(port: int, texts: Iterator[str], rate: float, seconds: float, pid: int) -> Seen:
    """Send ``rate`` requests a second, whatever the answers are; on as many connections as have to be open at once."""
    seen, free = Seen(), list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
    watching = asyncio.create_task(_watch(pid, seen.resident_mb))
    tasks = set[asyncio.Task[None]]()
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        while (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        if number % 8 == 0:
            await asyncio.sleep(0)  # a client that is late must read its answers nevertheless
        seen.late_s.append(time.perf_counter() - due)
        task = asyncio.create_task(_ask(port, next(texts), due, free, seen))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    seen.seconds = time.perf_counter() - begun
    await asyncio.gather(*tasks)
    watching.cancel()
    for _, writer in free:
        writer.close()
    return seen


async def _watch(pid: int, resident_mb: list[float]) -> None:
    process = psutil.Process(pid)
    while True:
        resident_mb.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(SAMPLE_S)


async def _ask(
    port: int, text: str, due: float, free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]], seen: Seen
) -> None:
    body = json.dumps({"inputs": text}).encode()
    reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD.format(len(body)).encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    lengths = [line.partition(b":")[2] for line in head if line.startswith(b"content-length")]
    await reader.readexactly(int(lengths[0]))
    took, code = time.perf_counter() - due, int(head[0].split(b" ", 2)[1])
    seen.codes[code] += 1
    if code == 200:
        seen.admitted_s.append(took)
    elif code == 429:
        seen.refused_s.append(took)
        seen.without_retry_after += not any(line.startswith(b"retry-after:") for line in head)
    free.append((reader, writer))


if __name__ == "__main__":
    main()
