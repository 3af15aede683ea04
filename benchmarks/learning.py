"""How well and at what cost the learner follows streams that change: ours, and ours without one of its tiers.

`stream-ft simulate` as it is: store, holdout, gate, publication. Each stream is made from Banking77
(:mod:`benchmarks.streams`). Finished cells of the file given with ``--out`` are kept: a long run can be cut in parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import banking77, machine
from benchmarks.streams import STREAMS, Stream, make
from stream_ft.config import load
from stream_ft.connectors.files import Row
from stream_ft.wiring.measure import Meter
from stream_ft.wiring.simulate import AHEAD, Simulation, answer

LEARNERS: dict[str, dict[str, Any]] = {
    "stream_ft": {"fast.enabled": True},
    "stream_ft_no_slow": {"fast.enabled": True, "schedule.min_evaluation": 10**9},
    "stream_ft_no_fast": {"fast.enabled": False},
}
"""What each changes of the settings."""
WINDOW, BEFORE, SHARE = 300, 1_000, 0.95
QUICK = 600


def run(stream: Stream, settings: dict[str, Any], seed: int) -> dict[str, float | None]:
    """One learner on one stream."""
    rows = [Row(text=event.text, label=event.truth, phase=event.phase) for event in stream.events]
    with tempfile.TemporaryDirectory(prefix="stream-ft-bench-") as folder:
        simulation = Simulation(
            load(None, {"seed": seed} | settings),
            rows,
            [event.fed for event in stream.events],
            folder=Path(folder),
            label_delay=stream.delay,
        )
        try:
            with Meter() as meter:
                simulation.run()
            said: list[str] = []
            for start in range(0, len(stream.test), AHEAD):
                texts = [text for text, _ in stream.test[start : start + AHEAD]]
                said += [answer(simulation.core.head, each)[0] for each in simulation.engine.encode(texts)]
        finally:
            simulation.close()
    right = np.array([output == row.label for output, row in zip(simulation.outputs, rows, strict=True)], float)
    final = np.mean([output == label for output, (_, label) in zip(said, stream.test, strict=True)])
    spent = (meter.cpu_s - simulation.predict_cpu_s) / len(rows) * 1e3
    return {
        "prequential": float(right.mean()),
        **recovery(right, stream.changes[0] if stream.changes else None),
        "final": float(final),
        "learn_cpu_ms_per_event": spent,
    }


def recovery(right: np.ndarray, change: int | None) -> dict[str, float | None]:
    """Events until the rolling accuracy is back, and its minimum; of the first change."""
    if change is None or len(right) < change + WINDOW:
        return {"recovery_events": None, "dip": None}
    before = right[max(0, change - BEFORE) : change].mean()
    rolling = np.convolve(right[change:], np.ones(WINDOW) / WINDOW, "valid")
    back = np.flatnonzero(rolling >= SHARE * before)
    events = WINDOW + int(back[0]) if len(back) else len(right) - change
    return {"recovery_events": float(events), "dip": float(rolling.min())}


def spread(cells: list[dict[str, float | None]]) -> dict[str, Any]:
    """Mean and range over seeds."""
    result: dict[str, Any] = {}
    for name in cells[0]:
        values = [value for cell in cells if (value := cell[name]) is not None]
        result[name] = {"mean": statistics.mean(values), "low": min(values), "high": max(values)} if values else None
    return result


def main() -> None:
    """Run what is asked for, and print it."""
    parser = argparse.ArgumentParser(prog="benchmarks/learning.py")
    parser.add_argument("--out", type=Path, required=True, help="file for the JSON; its cells are kept")
    parser.add_argument("--quick", action="store_true", help="the first events only: does it run at all")
    parser.add_argument("--streams", default=",".join(STREAMS))
    parser.add_argument("--learners", default=",".join(LEARNERS))
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    kept = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    cells: dict[str, Any] = kept.get("cells", {})
    train, test = banking77("train"), banking77("test")
    begun = time.monotonic()
    for name in asked.streams.split(","):
        for learner in asked.learners.split(","):
            for seed in seeds:
                key = f"{name}/{learner}/{seed}" + ("/quick" if asked.quick else "")
                if key not in cells:
                    stream = make(
                        name, train, test[:300] if asked.quick else test, seed=seed, limit=QUICK * asked.quick
                    )
                    cells[key] = run(stream, LEARNERS[learner], seed)
                print(key, {figure: value and round(value, 3) for figure, value in cells[key].items()}, flush=True)
                _write(asked.out, cells, seeds, quick=asked.quick, seconds=time.monotonic() - begun)


def _write(path: Path, cells: dict[str, Any], seeds: list[int], *, quick: bool, seconds: float) -> None:
    streams: dict[str, dict[str, Any]] = {}
    for key in cells:
        name, learner, _, *was_quick = key.split("/")
        if bool(was_quick) != quick or learner in streams.get(name, {}):
            continue
        alike = [f"{name}/{learner}/{seed}" + ("/quick" if quick else "") for seed in seeds]
        if found := [cells[each] for each in alike if each in cells]:
            streams.setdefault(name, {})[learner] = spread(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "name": "learning",
        "command": " ".join(["benchmarks/learning.py", *sys.argv[1:]]),
        "seed": seeds[0],
        "seeds": seeds,
        "quick": quick,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "streams": streams,
        "cells": cells,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
