"""What every benchmark shares: its arguments, its data, the machine it ran on, the table and the JSON it leaves."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stream_ft.model.engines import Engine

PACKAGES = ("torch", "transformers", "peft", "numpy", "onnxruntime", "litserve", "starlette", "uvicorn")


class Benchmark:
    """One run of one benchmark.

    Args:
        name: of the file.
        seed: of whatever is drawn.
        more: arguments of this one alone, with what ``add_argument`` takes.
    """

    def __init__(self, name: str, *, seed: int = 0, more: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        parser = argparse.ArgumentParser(prog=f"benchmarks/{name}.py")
        parser.add_argument("--out", type=Path, help="file for the JSON")
        parser.add_argument("--quick", action="store_true", help="a fraction of the work: does it run at all")
        for flag, settings in (more or {}).items():
            parser.add_argument(flag, **settings)
        self.arguments = parser.parse_args()
        self.quick: bool = self.arguments.quick
        self.name, self.seed = name, seed
        self._begun = time.monotonic()

    def finish(self, result: dict[str, Any]) -> None:
        """Print the figures and write the JSON."""
        whole = {
            "name": self.name,
            "command": " ".join(["benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seed": self.seed,
            "quick": self.quick,
            "machine": machine(),
            "seconds": round(time.monotonic() - self._begun, 1),
        } | result
        table = Table(title=f"{self.name} ({whole['seconds']:.0f} s, {whole['machine']['cores']} cores)")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for name, value in _flat(result):
            table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
        Console().print(table)
        if self.arguments.out is not None:
            self.arguments.out.parent.mkdir(parents=True, exist_ok=True)
            self.arguments.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Cores, processor and versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": cpu,
        "python": platform.python_version(),
        "versions": versions,
    }


def banking77(part: str) -> list[tuple[str, str]]:
    """``(text, label)`` of a part, ``train`` or ``test``, each text once."""
    folder = os.environ.get("STREAM_FT_DATA")
    if not folder:
        sys.exit("Set STREAM_FT_DATA to the folder that holds banking77/.")
    with (Path(folder) / "banking77" / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    return list({text: (text, label) for text, label in rows}.values())


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median and extremes of what was measured in turns, ours by theirs."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def _flat(result: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in result.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            rows.append((prefix + name, value))
    return rows


def completed(engine: Engine) -> None:
    """Until it has done what a version can do without at first."""
    while not engine.complete():
        time.sleep(0.01)
