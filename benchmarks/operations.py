"""What an operator sees of a system that runs: every panel has rows, every alert fires when its fault is made.

`stream-ft up` under replayed traffic, scraped by a real Prometheus: healthy minutes in which no alert may fire, then a
drift, promotions, refusals, a rollback and dead letters, then one fault for each alert; then every query of every panel
is asked over the whole run. Of the alerts only what they wait for (`for:`) is scaled down. The state folder is a small
disk that is filled, which needs root; without, that one fault is left out, and it is said.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import operations_pictures
from common import Benchmark
from operations_course import Course, Watched
from operations_house import mount
from watching import LONGEST_S, Prometheus

from stream_ft.demo.system import free_port

DISK_MB = 1_500
CONSOLE_BYTES, CONSOLE_MS = 200_000, 1_000
SCRAPE_COST = 0.01
"""Of the throughput, at a scrape every 5 s."""
QUICK_FOR_S = 8.0
"""In a quick run no alert waits longer than this."""
NO_INGEST = (
    "no ingest worker runs in an embedded system (tests/integration/test_compose_services.py asks where one does)"
)
WITHOUT_ROWS = {
    "training / GPU memory of the last round": "there is no GPU here",
    "streaming / Lag of the ingest workers": NO_INGEST,
    "streaming / Ingest workers that stand still": NO_INGEST,
    "streaming / Refused by the ingest workers": NO_INGEST,
}
"""Panels that need not have rows, and why."""
MAY_BE_ZERO = {
    "streaming / Outbox": "dead letters leave it within a second",
}
"""Panels whose values may all be zero, and why. All the others are driven by what happens in this run."""


def main() -> None:
    """Run it; the exit code says whether everything was as it should be."""
    bench = Benchmark(
        "operations",
        more={
            "--keep": {"type": Path, "help": "folder for what Prometheus has gathered"},
            "--pictures": {
                "type": Path,
                "help": "folder for a picture of each dashboard, as the preview draws the run",
            },
        },
    )
    try:
        result = asyncio.run(run(bench.quick, bench.arguments.keep, bench.arguments.pictures))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    bench.finish(result)
    sys.exit(0 if result["passed"] else 1)


async def run(quick: bool, keep: Path | None = None, pictured: Path | None = None) -> dict[str, Any]:
    """The whole course; what came of it. A SIGTERM ends it, and everything that it started."""
    if pictured is not None and (why := operations_pictures.missing()):
        sys.exit(f"No pictures can be made: {why}.")
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="stream-ft-operations-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        state = folder / "state"
        state.mkdir()
        if mounted := mount(state, DISK_MB):
            stack.callback(subprocess.run, ["umount", "-l", str(state)], check=False)
        if keep is not None:
            stack.callback(lambda: shutil.copytree(folder / "prometheus", keep, dirs_exist_ok=True))
        longest_s = QUICK_FOR_S if quick else LONGEST_S
        prometheus = Prometheus(folder / "prometheus", port=free_port(), longest_s=longest_s)
        stack.callback(prometheus.stop)
        ports = {name: free_port() for name in ("serve", "learn", "stale", "empty")}
        course = Course(folder, ports=ports, prometheus=prometheus, quick=quick, small_disk=mounted)
        watched = await course.run()
        if pictured is not None:
            # Prometheus goes on, and has the whole run.
            drawn = partial(operations_pictures.pictures, scratch=folder / "preview")
            sizes = await asyncio.to_thread(drawn, pictured, prometheus.url, watched.started, watched.ended)
            print(f"Pictures in {pictured}: {sum(sizes.values()) / 1e3:.0f} kB.")
        return judged(prometheus, watched, quick=quick)


def judged(prometheus: Prometheus, watched: Watched, *, quick: bool) -> dict[str, Any]:
    """The figures, and whether they are as they should be."""
    shown = prometheus.shown(watched.started, watched.ended)
    empty = sorted({s.panel for s in shown if not s.rows and s.panel not in WITHOUT_ROWS})
    # A panel with two lines is alive if one of them is: the other may count what did not happen.
    alive = {s.panel for s in shown if s.alive}
    dead = sorted({s.panel for s in shown} - alive - MAY_BE_ZERO.keys() - WITHOUT_ROWS.keys() - set(empty))
    names = [rule["alert"] for rule in prometheus.rules]
    silent = [
        rule["alert"]
        for rule in prometheus.rules
        if rule["alert"] not in watched.left_out
        and not prometheus.over(rule["expr"], watched.started, watched.ended, step=2)
    ]
    false = prometheus.firing(*watched.healthy)
    not_fired = [name for name in names if not watched.fired.get(name) and name not in watched.left_out]
    return {
        "panels": len({s.panel for s in shown if not s.panel.endswith(" marked")}),
        "queries": len(shown),
        "panels_without_rows": len(empty),
        "panels_without_rows_named": empty,
        "panels_that_show_nothing": dead,
        "exceptions": WITHOUT_ROWS | MAY_BE_ZERO,
        "alerts": len(names),
        "alerts_fired": sum(watched.fired.values()),
        "alerts_that_did_not_fire": not_fired,
        "alerts_left_out": watched.left_out,
        "alert_expressions_without_rows": len(silent),
        "alert_expressions_without_rows_named": silent,
        "healthy_s": watched.healthy[1] - watched.healthy[0],
        "fired_while_healthy": sorted(false),
        "cores_taken_by_others_while_healthy": watched.others_cores,
        "series_under_flood": watched.series,
        "scrape_ms": watched.scrape_s * 1e3,
        **watched.cost,
        "window": [watched.started, watched.ended],
        "passed": not (empty or dead or not_fired or silent or false)
        and watched.series <= 500
        and watched.cost.get("console_bytes", math.inf) <= CONSOLE_BYTES
        and watched.cost.get("console_load_ms", math.inf) < CONSOLE_MS
        # Two turns of seconds, as in a quick run, cannot tell what scrapes cost.
        and (quick or watched.cost["scrape_cost_ratio"] <= SCRAPE_COST),
    }


if __name__ == "__main__":
    main()
