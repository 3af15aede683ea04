"""The swap benchmark's own arithmetic: growth is seen, whatever else memory does, and so are longer waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

ASKED = """
import json, sys
import numpy as np
import swap
kind, given = json.load(sys.stdin)
if kind == "growth":
    print(json.dumps(swap.growth(*given)))
else:
    fields = [("window", "i4"), ("begun", "f8"), ("ended", "f8"), ("error", "i1")]
    print(json.dumps(swap.latencies(np.array([tuple(row) for row in given[0]], fields), given[1], 0)))
"""


def ask(kind: str, *given: Any) -> dict[str, Any]:
    """In a process of its own, as its imports are those of a benchmark."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED], cwd=BENCHMARKS, input=json.dumps([kind, given]), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def resident(slope: float) -> list[float]:
    """MB after each of 2,000 swaps: kept under load, given back after the first 1,200 of them."""
    noise = np.random.default_rng(0).normal(0, 3, 2_000)
    return [float(800 + noise[n] - 40 * (n >= 1_200) + slope * n / 1_000) for n in range(2_000)]


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.0, 4.0])
def test_growth_is_seen_though_memory_was_given_back_meanwhile(slope: float) -> None:
    found = ask("growth", resident(slope), [1_200])
    assert found["rss_slope_mb_per_1000"] == pytest.approx(slope, abs=0.6)
    assert found["rss_slope_error"] < 0.6
    assert found["rss_growth_mb"] == pytest.approx(1.9 * slope, abs=1.2)


@pytest.mark.slow
def test_requests_beside_a_swap_are_compared_with_those_of_windows_without() -> None:
    rows = [[0, n / 10, n / 10 + 0.010, 0] for n in range(100)]  # without swaps: 10 ms
    rows += [[1, 20 + n / 10, 20 + n / 10 + (0.030 if n < 50 else 0.010), 0] for n in range(100)]
    rows += [[1, 21.0, 29.0, 1]]  # dropped, and no time of anything
    found = ask("latencies", rows, [[20.0, 24.95]])
    assert (found["requests_overlapping"], found["requests_calm"]) == (50, 100)
    assert found["p99_overlap_ratio"] == pytest.approx(3.0)
    assert found["p50_calm_ms"] == pytest.approx(10.0)
