"""How fast events come in: the direct consumer against a bare kafka-python loop, ingest workers against a bare agent.

    python benchmarks/ingest.py --out FILE [--quick]

Needs KAFKA_HOME. What is measured has one core, the broker another one if there is one. "Stored" means validated,
deduplicated, split into training and holdout, and committed with ``synchronous=FULL``, one transaction for each read
(500 records at most) as the learner does; the embedding of a text, which costs more than all of this, is not part of
it. Every pair is measured in turns on the same topic.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from common import Benchmark, ratio
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from broker import Broker, missing

from stream_ft.config import KafkaSettings, load
from stream_ft.connectors.kafka import KafkaLog
from stream_ft.connectors.kafka_link import read_options
from stream_ft.ingest.receive import received
from stream_ft.ports import Record
from stream_ft.replay.store import Item, Store
from stream_ft.topics import topic
from stream_ft.wiring.storing import open_store

BATCH = 500
TURNS = 5
START_S = 90.0


class Topics:
    """A model's topics on the broker."""

    def __init__(self, address: str, *, partitions: int = 1) -> None:
        self.address = address
        self.model = f"b{uuid.uuid4().hex[:8]}"
        self.partitions = partitions
        log = self.log()
        log.prepare([self.name(kind) for kind in ("predictions", "feedback", "labels", "events", "dlq")])
        log.close()

    def log(self) -> KafkaLog:
        """Our connector."""
        return KafkaLog(self.address, read_options(KafkaSettings(partitions=self.partitions).model_dump()))

    def name(self, kind: str) -> str:
        """Of a topic."""
        return topic(self.model, kind)

    def publish(self, kind: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None) -> None:
        """Append; on return the broker has all."""
        producer = KafkaProducer(bootstrap_servers=self.address, linger_ms=20)
        sent = [
            producer.send(self.name(kind), value, key=key)
            for value, key in zip(values, keys or [None] * len(values), strict=True)
        ]
        producer.flush()
        for each in sent:
            each.get(60)
        producer.close()


# --- what is published ---------------------------------------------------------------------------------------------


def texts(count: int, draw: random.Random) -> list[str]:
    """Sentences of 12 words that are like no other."""
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(5_000)]
    return [" ".join(draw.choices(words, k=12)) for _ in range(count)]


def labelled(count: int, draw: random.Random) -> list[bytes]:
    """Labelled events with random identities."""
    return [
        json.dumps(
            {"id": f"{draw.getrandbits(96):024x}", "input": text, "label": f"label-{n % 77}", "source": "crm"}
        ).encode()
        for n, text in enumerate(texts(count, draw))
    ]


def predicted(count: int, draw: random.Random) -> tuple[list[bytes], list[bytes]]:
    """Predictions, without embeddings, and a correction of each."""
    predictions, feedback = [], []
    for n, text in enumerate(texts(count, draw)):
        ident = f"{draw.getrandbits(96):024x}"
        event = {"id": ident, "time": time.time(), "model": "m", "version": "v0.1.0", "base": "b", "input": text}
        predictions.append(json.dumps(event | {"output": f"label-{n % 76}"}).encode())
        said = {"id": f"f{ident}", "prediction_id": ident, "label": f"label-{n % 77}", "source": f"user-{n % 997}"}
        feedback.append(json.dumps(said).encode())
    return predictions, feedback


# --- the direct consumer -------------------------------------------------------------------------------------------


def bare_loop(address: str, names: Sequence[str], total: int) -> float:
    """Records a second of a kafka-python loop that only reads."""
    consumer = KafkaConsumer(
        bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest", max_poll_records=BATCH
    )
    consumer.assign([TopicPartition(name, 0) for name in names])
    seen, begun = 0, 0.0
    while seen < total:
        for records in consumer.poll(timeout_ms=1_000).values():
            begun = begun or time.perf_counter()
            seen += len(records)
    taken = time.perf_counter() - begun
    consumer.close()
    return total / taken


def stored_loop(topics: Topics, names: Sequence[str], total: int, folder: Path) -> float:
    """Records a second of our connector, validation and store, in the learner's order."""
    store = fresh_store(folder, topics.model)
    store.allow_label("label-0")
    log = topics.log()
    offsets = dict.fromkeys(names, 0)
    seen, begun = 0, 0.0
    while seen < total:
        items: list[Item] = []
        now = time.time()
        for name in names:
            records = log.read(name, 0, offsets[name], BATCH)
            if records:
                begun = begun or time.perf_counter()
                offsets[name] = records[-1].offset + 1
                items += [item(record, now) for record in records]
        if items:
            store.apply(items, now=now)
            seen += len(items)
        else:
            time.sleep(0.001)
    taken = time.perf_counter() - begun
    counts = store.count()
    assert (counts.events, counts.dead_letters) == (total, 0), counts
    store.close()
    log.close()
    return total / taken


def item(record: Record, now: float) -> Item:
    """What goes into the store."""
    again, event = received(record, now=now)
    return Item(record=again, event=event)


def fresh_store(folder: Path, model: str) -> Store:
    """A store on disk, with the default settings."""
    path = folder / f"store-{uuid.uuid4().hex[:8]}.db"
    return open_store(load(None, {"model.name": model}), path)


def direct(broker: Broker, folder: Path, count: int, draw: random.Random) -> tuple[Any, Any, dict[str, float]]:
    """The two ratios of the direct consumer, and the bare loop's rates."""
    topics = Topics(broker.address)
    topics.publish("labels", labelled(count, draw))
    predictions, feedback = predicted(count // 2, draw)
    keys = [json.loads(value)["id"].encode() for value in predictions]
    topics.publish("predictions", predictions, keys)
    topics.publish("feedback", feedback, keys)
    rates: dict[str, list[float]] = {"labels_bare": [], "labels": [], "joined_bare": [], "joined": []}
    for _ in range(TURNS):
        one, two = [topics.name("labels")], [topics.name("predictions"), topics.name("feedback")]
        rates["labels_bare"].append(bare_loop(broker.address, one, count))
        rates["labels"].append(stored_loop(topics, one, count, folder))
        rates["joined_bare"].append(bare_loop(broker.address, two, count // 2 * 2))
        rates["joined"].append(stored_loop(topics, two, count // 2 * 2, folder))
    told = {f"{name}_events_per_s": sorted(found)[len(found) // 2] for name, found in rates.items()}
    return ratio(rates["labels"], rates["labels_bare"]), ratio(rates["joined"], rates["joined_bare"]), told


# --- ingest workers ------------------------------------------------------------------------------------------------


@contextmanager
def running(command: list[str], environment: dict[str, str], core: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process on one core."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        psutil.Process(process.pid).cpu_affinity([core])
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(12)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def drained(topics: Topics, name: str, count: int) -> float:
    """Records a second that come to a topic between its first tenth and its last."""
    log = topics.log()
    first = last = (0.0, 0)
    deadline = time.monotonic() + START_S + count / 50
    try:
        while True:
            done = sum(log.bounds(name, partition)[1] for partition in log.partitions(name))
            now = time.perf_counter()
            if done >= count // 10 and not first[1]:
                first = (now, done)
            if done >= count * 9 // 10:
                last = (now, done)
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} has {done} of {count} records after {START_S + count / 50:.0f} s")
            time.sleep(0.05)
    finally:
        log.close()
    return (last[1] - first[1]) / (last[0] - first[0])


def worker(topics: Topics, folder: Path, cores: Sequence[int], count: int, *, redact: bool = False) -> float:
    """Records a second of ``stream-ft ingest``, one process on each of ``cores``."""
    environment = os.environ | {
        "STREAM_FT_BROKER": f"kafka://{topics.address}",
        "STREAM_FT_MODEL__NAME": topics.model,
        "STREAM_FT_STATE_DIR": str(folder / "state"),
        "STREAM_FT_INGEST__PORT": "0",
        "STREAM_FT_INGEST__REDACT": str(redact).lower(),
        "STREAM_FT_KAFKA__PARTITIONS": str(topics.partitions),
    }
    command = [sys.executable, "-m", "stream_ft", "ingest"]
    with ExitStack() as stack:
        for number, core in enumerate(cores):
            stack.enter_context(running(command, environment, core, folder / f"worker-{number}.log"))
        return drained(topics, topics.name("events"), count)


def agent(topics: Topics, folder: Path, core: int, count: int) -> float:
    """Records a second of the bare agent."""
    bare = Topics(topics.address, partitions=topics.partitions)
    script = str(Path(__file__).with_name("bare_agent.py"))
    command = [sys.executable, script, topics.address, topics.name("labels"), bare.name("events")]
    with running(command, dict(os.environ), core, folder / "agent.log"):
        return drained(bare, bare.name("events"), count)


def faust_workers(
    broker: Broker, folder: Path, count: int, draw: random.Random, cores: tuple[int, int]
) -> tuple[Any, Any, Any, dict[str, float]]:
    """Ratios of workers to the bare agent, without and with redaction; of two workers to one; and rates."""
    rates: dict[str, list[float]] = {"agent": [], "worker": [], "redacting": [], "one": [], "two": []}
    values = labelled(count, draw)
    for _ in range(TURNS):
        plain, redacting = Topics(broker.address), Topics(broker.address)
        plain.publish("labels", values)
        redacting.publish("labels", values)
        rates["agent"].append(agent(plain, folder, cores[0], count))
        rates["worker"].append(worker(plain, folder, cores[:1], count))
        rates["redacting"].append(worker(redacting, folder, cores[:1], count, redact=True))
        keys = [f"{n}".encode() for n in range(count)]
        for name, used in (("one", cores[:1]), ("two", cores)):
            shared = Topics(broker.address, partitions=2)
            shared.publish("labels", values, keys)
            rates[name].append(worker(shared, folder, used, count))
    told = {f"{name}_events_per_s": sorted(found)[len(found) // 2] for name, found in rates.items()}
    return (
        ratio(rates["worker"], rates["agent"]),
        ratio(rates["redacting"], rates["agent"]),
        ratio(rates["two"], rates["one"]),
        told,
    )


# --- the cost of an event by how many are stored -------------------------------------------------------------------


def costs(folder: Path, levels: Sequence[int], draw: random.Random) -> dict[str, float]:
    """Microseconds of CPU for one event when so many are stored, identities being random."""
    store = fresh_store(folder, "m")
    found: dict[str, float] = {}
    offset = 0

    def feed(count: int) -> float:
        nonlocal offset
        records = [
            Record(
                topic=topic("m", "labels"), partition=0, offset=offset + n, value=value, appended_at=1.7e9 + offset + n
            )
            for n, value in enumerate(labelled(count, draw))
        ]
        offset += count
        begun = time.process_time()
        for start in range(0, count, BATCH):
            store.apply([item(record, 1.7e9) for record in records[start : start + BATCH]], now=1.7e9)
        return (time.process_time() - begun) / count * 1e6

    for level in levels:
        probe = max(BATCH, min(10_000, level // 2) // BATCH * BATCH)
        while offset < level - probe // 2:
            feed(min(20_000, level - probe // 2 - offset))
        found[str(level)] = feed(probe)
        print(f"{level:>9,} stored: {found[str(level)]:.0f} us an event", flush=True)
    store.close()
    return found


def main() -> None:
    bench = Benchmark("ingest", seed=1)
    if why := missing():
        sys.exit(why)
    draw = random.Random(bench.seed)
    cores = sorted(os.sched_getaffinity(0))
    mine, other = cores[0], cores[-1]
    folder = Path(tempfile.mkdtemp(prefix="ingest-"))
    count = 2_000 if bench.quick else 20_000
    levels = (1_000, 5_000) if bench.quick else (10_000, 100_000, 1_000_000)
    try:
        with Broker(folder / "broker") as broker:
            assert broker._process is not None
            psutil.Process(broker._process.pid).cpu_affinity([other])
            os.sched_setaffinity(0, {mine})
            first, joined, direct_rates = direct(broker, folder, count, draw)
            os.sched_setaffinity(0, set(cores))
            plain, redacting, two, rates = faust_workers(broker, folder, count, draw, (mine, other))
        os.sched_setaffinity(0, {mine})
        curve = costs(folder, levels, draw)
        os.sched_setaffinity(0, set(cores))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bench.finish(
        {
            "direct_ratio_to_kafka_python": first,
            "joined_ratio_to_kafka_python": joined,
            "faust_ratio_to_bare_agent": plain,
            "faust_redacting_ratio_to_bare_agent": redacting,
            "two_workers_ratio": two,
            "cost_us_by_stored_events": curve,
            "cost_ratio_1m_to_10k": curve[str(levels[-1])] / curve[str(levels[0])],
            "rates": direct_rates | rates,
            "events": count,
        }
    )


if __name__ == "__main__":
    main()
