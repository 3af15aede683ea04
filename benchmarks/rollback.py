"""From an operator's rollback on Kafka to three replicas that all answer by the version before.

A real broker, three serving processes on these cores, MiniLM; before each rollback a new LoRA version is promoted and
answered by all of them. Measured from before the command is written until each replica has given an answer by the
version before; each is asked one text after the other all the time, as its users would.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from adapter import lora
from common import Benchmark
from http_load import free_port, wait_ready
from safetensors.numpy import load, save
from served import promote, release
from serving import head_of

from stream_ft import control
from stream_ft.config import load as load_settings
from stream_ft.model.base import MINILM, base_files, resolve
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release.fold import INITIAL, Entry, State, fold
from stream_ft.release.registry import Registry
from stream_ft.topics import topic
from stream_ft.wiring import genesis
from stream_ft.wiring.broker import check_topics, open_event_log

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from broker import Broker, missing

REPLICAS = 3
EVERY_S = 0.02
"""Between two questions to a replica."""
PATIENCE_S = 60.0
BOUND_S = 1.0


class Replica:
    """A serving process that is asked all the time; knows when each version first answered."""

    def __init__(self, folder: Path, broker: Broker, registry: Path) -> None:
        folder.mkdir()
        self._port = free_port()
        settings = broker.environment() | {
            "STATE_DIR": str(folder), "REGISTRY_DIR": str(registry), "SERVE__PORT": str(self._port),
            "MODEL__THREADS": "1",
        }  # fmt: skip
        own = {name: value for name, value in os.environ.items() if not name.startswith("STREAM_FT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stream_ft", "serve"],
            env=own | {f"STREAM_FT_{name}": value for name, value in settings.items()},
            stdout=subprocess.DEVNULL,
        )
        self._answered: dict[str, float] = {}
        self._failed = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def start(self) -> None:
        """Wait until it answers, then go on asking."""
        wait_ready(self._port, "hello")
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._stop.set()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def failed(self) -> int:
        """Questions that were not answered."""
        return self._failed

    def first(self, version: str) -> float:
        """When the version first answered, on ``perf_counter``.

        Raises:
            TimeoutError: it did not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: version in self._answered, PATIENCE_S):
                raise TimeoutError(f"{version} did not answer on port {self._port}")
            return self._answered[version]

    def _ask(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._port}", trust_env=False, timeout=10) as http:
            while not self._stop.wait(EVERY_S):
                try:
                    response = http.post("/predict", json={"inputs": "where is my parcel"})
                    response.raise_for_status()
                except httpx.HTTPError:
                    self._failed += not self._stop.is_set()
                    continue
                with self._changed:
                    self._answered.setdefault(response.headers["stream-ft-version"], time.perf_counter())
                    self._changed.notify_all()


def main() -> None:
    """Measure and report; the exit code says whether the bound was held."""
    bench = Benchmark("rollback")
    if why := missing():
        sys.exit(why)
    count = 4 if bench.quick else 100
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end as well
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(Broker(folder / "broker"))
        settings = load_settings(
            None,
            {"broker": broker.url, "state_dir": str(folder / "operator"), "registry_dir": str(folder / "registry")},
        )
        settings.state_path().mkdir()
        log = open_event_log(settings, writes=[])
        stack.callback(log.close)
        result = measured(bench, settings.model.name, log, folder, broker, stack, count)
    bench.finish(result)
    sys.exit(0 if result["passed"] else 1)


def measured(
    bench: Benchmark, model: str, log: EventLog, folder: Path, broker: Broker, stack: ExitStack, count: int
) -> dict[str, Any]:
    """Promote and roll back ``count`` times."""
    base, registry, head = resolve(MINILM), Registry(folder / "registry"), head_of(384)
    check_topics(log, model, known={})
    genesis.ensure(log, registry, base, model=model, dim=head.dim, now=time.time())
    files = lora(base, folder / "adapter", seed=bench.seed)
    replicas = [Replica(folder / f"replica{n}", broker, folder / "registry") for n in range(REPLICAS)]
    for replica in replicas:
        stack.callback(replica.close)
    for replica in replicas:
        replica.start()
    parent = registry.put(base_files(base))
    times, each = [], []
    for number in range(count):
        name, head_name = release(registry, base, scaled(files, 1 + number / 1_000), head)
        before = folded(log, model)
        promote(log, model, base=name, head=head_name, parent=parent, epoch=before.epoch)
        promoted = folded(log, model)
        for replica in replicas:
            replica.first(promoted.version)
        message = control.new(
            control.Rollback, by="operator/bench", now=time.time(), to_epoch=promoted.history[-2][0], reason="measured"
        )
        begun = time.perf_counter()
        log.append([Outgoing(topic=topic(model, "control"), value=msgspec.json.encode(message))])
        acknowledged = time.perf_counter()
        back = folded(log, model)
        answered = [replica.first(back.version) for replica in replicas]
        times.append(max(answered) - begun)
        each += [moment - acknowledged for moment in answered]
    failed = sum(replica.failed for replica in replicas)
    p99 = float(np.quantile(times, 0.99))
    return {
        "rollbacks": len(times),
        "replicas": REPLICAS,
        "all_replicas_p50_s": statistics.median(times),
        "all_replicas_p99_s": p99,
        "all_replicas_max_s": max(times),
        "one_replica_after_acknowledgement_p50_s": statistics.median(each),
        "unanswered_requests": failed,
        "bound_s": BOUND_S,
        "passed": p99 <= BOUND_S and not failed,
    }


def scaled(files: dict[str, bytes], factor: float) -> dict[str, bytes]:
    """The same adapter, a little stronger: a version of its own."""
    name = "adapter_model.safetensors"
    tensors = {key: value * np.float32(factor) for key, value in load(files[name]).items()}
    return files | {name: save(tensors, metadata={"format": "pt"})}


def folded(log: EventLog, model: str) -> State:
    """The control log as every replica folds it."""
    state = INITIAL
    offset = 0
    while records := log.read(topic(model, "control"), 0, offset, 10_000):
        for record in records:
            entry = Entry(offset=record.offset, appended_at=record.appended_at, value=record.value)
            state, _ = fold(state, entry)
        offset = records[-1].offset + 1
    return state


if __name__ == "__main__":
    main()
