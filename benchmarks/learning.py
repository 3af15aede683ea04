"""How well and at what cost learners follow streams that change: ours, ours without one of its tiers, and others.

Ours is `stream-ft simulate` as it is: store, holdout, guard, gate, publication. Each stream is made from Banking77
(:mod:`benchmarks.streams`), the others are in :mod:`benchmarks.learning_peers`. Finished cells of the file given with
``--out`` are kept: a long run can be cut in parts. ``--plot`` draws the rolling accuracy over each stream, of the first
seed; it takes what the cells kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command line does: threads that wait for work would count as learning

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import banking77, machine
from benchmarks.learning_peers import PEERS, answers, encoded, follow, offline
from benchmarks.streams import STREAMS, Stream, make
from stream_ft.config import load
from stream_ft.connectors.files import Row
from stream_ft.model.base import resolve
from stream_ft.wiring import encoding
from stream_ft.wiring.measure import Meter
from stream_ft.wiring.simulate import AHEAD, Simulation, answer

OURS: dict[str, dict[str, Any]] = {
    "stream_ft": {"fast.enabled": True},
    "stream_ft_no_slow": {"fast.enabled": True, "schedule.min_evaluation": 10**9},
    "stream_ft_no_fast": {"fast.enabled": False},
}
"""What each changes of the default settings."""
LEARNERS = (*OURS, *PEERS, "offline")
WINDOW, BEFORE, SHARE = 300, 1_000, 0.95
QUICK = 600
POINTS = 120
"""Of a curve."""


@dataclass(kw_only=True)
class Cell:
    """One learner on one stream."""

    outputs: Sequence[str] | None
    """To the events; ``None`` for one that saw them all before."""
    final: Sequence[str]
    """To the test."""
    learn_cpu_s: float | None
    after_first: float | None
    """Accuracy on the first phase's classes of the test, right after it."""
    bases: int | None = None
    """Encoders that were promoted."""

    def figures(self, stream: Stream) -> dict[str, Any]:
        """What the table says."""
        right = None
        if self.outputs is not None:
            right = np.array(
                [out == event.truth for out, event in zip(self.outputs, stream.events, strict=True)], float
            )
        final = np.mean([out == label for out, (_, label) in zip(self.final, stream.test, strict=True)])
        forgetting = None
        if self.after_first is not None and stream.first_phase is not None:
            forgetting = self.after_first - _on(stream.first_phase[1], stream, self.final)
        change = stream.changes[0] if stream.changes else None
        return {
            "prequential": None if right is None else float(right.mean()),
            **({"recovery_events": None, "dip": None, "before": None} if right is None else recovery(right, change)),
            "final": float(final),
            "forgetting": forgetting,
            "learn_cpu_ms_per_event": None if self.learn_cpu_s is None else self.learn_cpu_s / len(stream.events) * 1e3,
            "bases": self.bases,
        }

    def curve(self, stream: Stream) -> list[float]:
        """Accuracy of the last :data:`WINDOW` events at some events; empty without answers."""
        if self.outputs is None or len(self.outputs) < WINDOW:
            return []
        right = [out == event.truth for out, event in zip(self.outputs, stream.events, strict=True)]
        rolling = np.convolve(right, np.ones(WINDOW) / WINDOW, "valid")
        return [round(float(rolling[at]), 4) for at in np.linspace(0, len(rolling) - 1, POINTS).astype(int)]


def _on(classes: frozenset[str], stream: Stream, said: Sequence[str]) -> float:
    """Accuracy on the test's texts of some classes."""
    right = [out == label for out, (_, label) in zip(said, stream.test, strict=True) if label in classes]
    return float(np.mean(right))


def run(stream: Stream, settings: dict[str, Any], seed: int) -> Cell:
    """Ours on one stream."""
    rows = [Row(text=event.text, label=event.truth, phase=event.phase) for event in stream.events]
    end = stream.first_phase[0] if stream.first_phase else -1
    after_first, aside_s = None, 0.0

    def tested(simulation: Simulation) -> list[str]:
        said: list[str] = []
        for start in range(0, len(stream.test), AHEAD):
            texts = [text for text, _ in stream.test[start : start + AHEAD]]
            said += [answer(simulation.core.head, each)[0] for each in simulation.engine.encode(texts)]
        return said

    def progress(done: int, total: int, accuracy: float) -> None:
        nonlocal after_first, aside_s
        if after_first is None and 0 < end <= done and stream.first_phase is not None:
            begun = time.process_time()
            after_first = _on(stream.first_phase[1], stream, tested(simulation))
            aside_s = time.process_time() - begun

    with tempfile.TemporaryDirectory(prefix="stream-ft-bench-") as folder:
        simulation = Simulation(
            load(None, {"seed": seed} | settings),
            rows,
            [event.fed for event in stream.events],
            folder=Path(folder),
            label_delay=stream.delay,
            progress=progress,
        )
        try:
            with Meter() as meter:
                simulation.run()
            final = tested(simulation)
        finally:
            simulation.close()
    return Cell(
        outputs=simulation.outputs,
        final=final,
        learn_cpu_s=meter.cpu_s - simulation.predict_cpu_s - aside_s,
        after_first=after_first,
        bases=len({release.base for _, release in simulation.core.state.history}) - 1,
    )


class Embeddings:
    """Of the pretrained encoder, which the others never train: each text is encoded once in a run."""

    def __init__(self) -> None:
        self.settings = load(None, {})
        self.base = resolve(self.settings.model.base)
        self.engine = encoding.open_engine(self.settings, self.base, threads=1)
        self._known: dict[str, np.ndarray] = {}

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """``[N, dim]``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, encoded(self.engine, new), strict=True)
        return np.stack([self._known[text] for text in texts])


def run_other(name: str, stream: Stream, seed: int, known: Embeddings) -> Cell:
    """Another learner on one stream."""
    embeddings = known.of([event.text for event in stream.events])
    test = known.of([text for text, _ in stream.test])
    if name == "offline":
        final = offline(stream, embeddings, test, seed=seed)
        after_first = None
        if stream.first_phase is not None:  # what anybody loses once there are more classes to confuse with
            end, classes = stream.first_phase
            first = replace(stream, events=stream.events[:end])
            after_first = _on(classes, stream, offline(first, embeddings[:end], test, seed=seed))
        return Cell(outputs=None, final=final, learn_cpu_s=None, after_first=after_first)
    peer = PEERS[name](
        dim=known.engine.dim, seed=seed, model_path=str(known.base.path), max_tokens=known.settings.model.max_tokens
    )

    def ask() -> float | None:
        if stream.first_phase is None:
            return None
        return _on(stream.first_phase[1], stream, answers(peer, [text for text, _ in stream.test], test))

    outputs, final, spent, after_first = follow(peer, stream, embeddings, test, ask)
    return Cell(outputs=outputs, final=final, learn_cpu_s=spent, after_first=after_first)


def recovery(right: np.ndarray, change: int | None) -> dict[str, float | None]:
    """Events until the rolling accuracy is back, its minimum, and what it was before; of the first change."""
    if change is None or len(right) < change + WINDOW:
        return {"recovery_events": None, "dip": None, "before": None}
    before = right[max(0, change - BEFORE) : change].mean()
    # Sums of whole numbers are exact, means are not.
    rolling = np.convolve(right[change:], np.ones(WINDOW), "valid")
    back = np.flatnonzero(rolling >= SHARE * before * WINDOW)
    events = WINDOW + int(back[0]) if len(back) else len(right) - change
    return {"recovery_events": float(events), "dip": float(rolling.min() / WINDOW), "before": float(before)}


def spread(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and range over seeds."""
    result: dict[str, Any] = {}
    for name in cells[0]:
        if name == "curve":
            continue
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
    parser.add_argument("--plot", type=Path, help="file for a picture of the first seed's curves (.svg or .png)")
    asked = parser.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    chosen = asked.learners.split(",")
    if wrong := (set(chosen) - set(LEARNERS)) | (set(asked.streams.split(",")) - set(STREAMS)):
        parser.error(f"there is no {', '.join(sorted(wrong))}; learners: {', '.join(LEARNERS)}")
    kept = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    cells: dict[str, Any] = kept.get("cells", {})
    train, test = banking77("train"), banking77("test")
    known: Embeddings | None = None
    begun = time.monotonic()
    for name in asked.streams.split(","):
        for learner in chosen:
            for seed in seeds:
                key = f"{name}/{learner}/{seed}" + ("/quick" if asked.quick else "")
                if key not in cells:
                    stream = make(
                        name, train, test[:300] if asked.quick else test, seed=seed, limit=QUICK * asked.quick
                    )
                    if learner in OURS:
                        cell = run(stream, OURS[learner], seed)
                    else:
                        known = known or Embeddings()
                        cell = run_other(learner, stream, seed, known)
                    cells[key] = cell.figures(stream) | {"curve": cell.curve(stream)}
                told = {name: value and round(value, 3) for name, value in cells[key].items() if name != "curve"}
                print(key, told, flush=True)
                _write(asked.out, cells, seeds, quick=asked.quick, seconds=time.monotonic() - begun)
    for name, learners in by_stream(cells, seeds, quick=asked.quick).items():
        _print(name, learners)
    if asked.plot is not None:
        _draw(asked.plot, cells, seeds[0], quick=asked.quick)


def by_stream(cells: dict[str, Any], seeds: Sequence[int], *, quick: bool) -> dict[str, dict[str, Any]]:
    """Stream to learner to figures, over the seeds that are there; the number of those is ``seeds``."""
    streams: dict[str, dict[str, Any]] = {}
    for key in cells:
        name, learner, _, *was_quick = key.split("/")
        if bool(was_quick) != quick or learner in streams.get(name, {}):
            continue
        alike = [f"{name}/{learner}/{seed}" + ("/quick" if quick else "") for seed in seeds]
        if found := [cells[each] for each in alike if each in cells]:
            streams.setdefault(name, {})[learner] = spread(found) | {"seeds": len(found)}
    return streams


SHOWN = {
    "prequential": "{:.3f}",
    "before": "{:.3f}",
    "dip": "{:.3f}",
    "recovery_events": "{:.0f}",
    "final": "{:.3f}",
    "forgetting": "{:+.3f}",
    "learn_cpu_ms_per_event": "{:.2f}",
    "bases": "{:.1f}",
}


def _print(name: str, learners: dict[str, Any]) -> None:
    table = Table(title=f"{name}: mean (low - high)")
    for column in ("learner", *SHOWN):
        table.add_column(column.replace("_", " "), justify="left" if column == "learner" else "right")
    for learner, figures in learners.items():
        row = []
        for figure, form in SHOWN.items():
            found = figures.get(figure)
            text = "" if found is None else form.format(found["mean"])
            if found is not None and found["low"] != found["high"]:
                text += f" ({form.format(found['low'])} - {form.format(found['high'])})"
            row.append(text)
        table.add_row(learner, *row)
    Console(width=160).print(table)


def _draw(path: Path, cells: dict[str, Any], seed: int, *, quick: bool) -> None:
    """A panel for each stream, a line for each learner."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    curves: dict[str, dict[str, list[float]]] = {}
    for key, cell in cells.items():
        name, learner, of, *was_quick = key.split("/")
        if int(of) == seed and bool(was_quick) == quick and cell.get("curve"):
            curves.setdefault(name, {})[learner] = cell["curve"]
    columns = min(2, len(curves)) or 1
    rows = -(-len(curves) // columns) or 1
    figure, axes = pyplot.subplots(rows, columns, figsize=(6.5 * columns, 3.4 * rows), squeeze=False, sharey=True)
    everyone = list(dict.fromkeys(learner for found in curves.values() for learner in found))
    # Ten colours can be told apart; where there are more learners, the line differs.
    looks = {name: (pyplot.colormaps["tab10"](at % 10), "-" if at < 10 else "--") for at, name in enumerate(everyone)}
    named: dict[str, Any] = {}
    for axis, (name, found) in zip(axes.flat, curves.items(), strict=False):
        for learner, curve in found.items():
            ours = learner == "stream_ft"
            colour, style = ("black", "-") if ours else looks[learner]
            (named[learner],) = axis.plot(
                np.linspace(0, 1, len(curve)), curve, style, color=colour, linewidth=2.2 if ours else 1.1
            )
        axis.set_title(name)
        axis.set_xlabel("share of the stream")
        axis.set_ylabel(f"accuracy of the last {WINDOW}")
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(curves) :]:
        axis.remove()
    figure.tight_layout()
    figure.legend(named.values(), named, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _write(path: Path, cells: dict[str, Any], seeds: list[int], *, quick: bool, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "name": "learning",
        "command": " ".join(["benchmarks/learning.py", *sys.argv[1:]]),
        "seed": seeds[0],
        "seeds": seeds,
        "quick": quick,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "streams": by_stream(cells, seeds, quick=quick),
        "cells": cells,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
