"""How soon a correction is answered by, in the running system: ``up`` with its defaults, and ``replay`` against it.

Shuffled Banking77, at a fixed rate for some minutes, with whatever rounds come meanwhile: server, learner, rounds and
client share the machine's cores. A correction is live once an answer comes from a version that has learned it.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import Benchmark, banking77

P50_S, P99_S = 2.0, 5.0
"""Most seconds from a correction's acknowledgement until it is live."""
START_S = 120.0


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it says so."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"up ended with {process.returncode}: {log.read_text('utf-8', 'replace')[-2000:]}")
        try:
            if httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"up was not ready within {START_S:.0f} s.")


def main() -> None:
    """Measure and report."""
    bench = Benchmark(
        "live",
        more={
            "--rate": {"type": float, "default": 50.0, "help": "events per second"},
            "--as": {"dest": "as_", "choices": ("labels", "feedback"), "default": "labels"},
        },
    )
    rows = banking77("train")
    random.Random(bench.seed).shuffle(rows)
    with tempfile.TemporaryDirectory(prefix="stream-ft-bench-") as folder:
        scratch = Path(folder)
        with (scratch / "stream.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows[: 600 if bench.quick else None]])
        port, log = free_port(), scratch / "up.log"
        url = f"http://127.0.0.1:{port}"
        own = {name: value for name, value in os.environ.items() if not name.startswith("STREAM_FT_")}
        environment = own | {
            "STREAM_FT_STATE_DIR": str(scratch / "state"),
            "STREAM_FT_SERVE__PORT": str(port),
            "STREAM_FT_LEARN__PORT": str(free_port()),
        }
        program = [sys.executable, "-m", "stream_ft"]
        with log.open("wb") as output:
            up = subprocess.Popen(
                [*program, "up"], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            ready(url, up, log)
            played = subprocess.run(
                [*program, "replay", scratch / "stream.csv", "--text-column", "text", "--label-column", "label",
                 "--url", url, "--rate", str(bench.arguments.rate), "--as", bench.arguments.as_,
                 "--out", scratch / "out"],
                env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if played.returncode:
                sys.exit(f"replay ended with {played.returncode}: {(played.stdout + played.stderr)[-2000:]}")
            summary = json.loads((scratch / "out" / "summary.json").read_text("utf-8"))
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)
        told = log.read_text("utf-8", "replace")
    names = ("events", "prequential_accuracy", "dropped_requests", "corrections", "feedback_to_live_s", "latency_ms")
    live = summary["feedback_to_live_s"]
    bench.finish(
        {name: summary[name] for name in names}
        | {
            "rate": bench.arguments.rate,
            "versions": len(summary["versions_seen"]),
            "rounds": {kind: told.count(f"round: A {kind} round") for kind in ("head", "lora")},
            "promotions": told.count(" promotion: "),
            "passed": live["p50"] <= P50_S and live["p99"] <= P99_S,
        }
    )


if __name__ == "__main__":
    main()
