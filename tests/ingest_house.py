"""Ingest workers as processes, with the topics of one model on a broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from house import free_port, wait_for
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_ft.config import KafkaSettings
from stream_ft.connectors.kafka import KafkaLog
from stream_ft.connectors.kafka_link import read_options
from stream_ft.topics import topic

KILLS = {"forward.before_send": (1, 40), "forward.before_ack": (1, 40), "forward.after_ack": (1, 40)}
"""The failpoints of a worker, and the hits at which one dies."""


class Ingest:
    """Workers of one model.

    Args:
        folder: for logs.
        address: of the broker.
        partitions: of the topics of events.
        settings: ``STREAM_FT_*`` of the workers, without the prefix.
    """

    def __init__(self, folder: Path, address: str, *, partitions: int = 2, **settings: str) -> None:
        self.model = f"m{uuid.uuid4().hex[:10]}"
        self.folder = folder
        self.address = address
        self.settings = {
            "BROKER": f"kafka://{address}",
            "MODEL__NAME": self.model,
            "STATE_DIR": str(folder / "state"),
            "KAFKA__PARTITIONS": str(partitions),
        } | settings
        self.workers: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []
        self._consumer: KafkaConsumer | None = None
        self.prepare(partitions)

    def prepare(self, partitions: int) -> None:
        """Make the topics."""
        log = KafkaLog(self.address, read_options(KafkaSettings(partitions=partitions).model_dump()))
        try:
            flaws = log.prepare([self.topic(kind) for kind in ("predictions", "feedback", "labels", "events", "dlq")])
            assert not flaws
        finally:
            log.close()

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait(30)
        if self._consumer is not None:
            self._consumer.close()
        if error is not None:
            for path in sorted(self.folder.glob("ingest-*.log")):
                print(f"--- {path.name}\n{path.read_text('utf-8', 'replace')[-3000:]}")

    def topic(self, kind: str) -> str:
        """Full name of a topic."""
        return topic(self.model, kind)

    def start(self, failpoint: str = "") -> subprocess.Popen[bytes]:
        """Start one more worker."""
        port = free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_FT_")} | {
            f"STREAM_FT_{name}": value for name, value in (self.settings | {"INGEST__PORT": str(port)}).items()
        }
        if failpoint:
            environment["STREAM_FT_FAILPOINT"] = failpoint
            environment["STREAM_FT_FAILPOINT_LOG"] = str(self.folder / "failpoints")
        with (self.folder / f"ingest-{len(self.workers)}.log").open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "stream_ft", "ingest"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers.append(worker)
        self.ports.append(port)
        return worker

    def ready(self, number: int = -1, seconds: float = 60.0) -> None:
        """Wait until a worker says that it works."""
        worker, port = self.workers[number], self.ports[number]

        def check() -> bool:
            assert worker.poll() is None, f"the worker ended with {worker.returncode}"
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2.0, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for("an ingest worker", check, seconds)

    def metrics(self, number: int = -1) -> str:
        """What a worker's metrics say."""
        return httpx.get(f"http://127.0.0.1:{self.ports[number]}/metrics", timeout=5.0, trust_env=False).text

    def stop(self, number: int = -1, seconds: float = 10.0) -> int:
        """End a worker as an operator does; its exit code."""
        worker = self.workers[number]
        worker.send_signal(signal.SIGTERM)
        return worker.wait(seconds)

    def publish(self, messages: Sequence[tuple[str, bytes | Mapping[str, Any]]]) -> None:
        """``(kind of topic, body)`` of each; on return the broker has them all."""
        producer = KafkaProducer(bootstrap_servers=self.address, linger_ms=5, delivery_timeout_ms=60_000)
        try:
            sent = [
                producer.send(self.topic(kind), body if isinstance(body, bytes) else json.dumps(body).encode())
                for kind, body in messages
            ]
            producer.flush()
            for each in sent:
                each.get(60)
        finally:
            producer.close()

    def read(self, kind: str) -> list[Any]:
        """Every record of a topic that is there now."""
        if self._consumer is None:
            self._consumer = KafkaConsumer(bootstrap_servers=self.address, enable_auto_commit=False)
        consumer, name = self._consumer, self.topic(kind)
        places = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning(*places)
        found: list[Any] = []
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(timeout_ms=500).values():
                found += records
        return found

    def behind(self) -> int:
        """Records of the topics that workers read which are not committed."""
        names = [self.topic(kind) for kind in ("predictions", "feedback", "labels")]
        consumer = KafkaConsumer(
            bootstrap_servers=self.address, group_id=f"stream_ft.{self.model}.ingest", enable_auto_commit=False
        )
        try:
            places = [TopicPartition(name, number) for name in names for number in consumer.partitions_for_topic(name)]
            ends = consumer.end_offsets(places)
            return sum(ends[place] - (consumer.committed(place) or 0) for place in places)
        finally:
            consumer.close()

    def wait_for_records(self, kind: str, count: int, seconds: float = 60.0) -> list[Any]:
        """The records of a topic once there are so many."""
        found: list[Any] = []

        def check() -> bool:
            found[:] = self.read(kind)
            return len(found) >= count

        wait_for(f"{count} records of {kind}, there are {len(found)}", check, seconds, every=0.2)
        return found


def placed(records: Sequence[Any]) -> set[tuple[str, str, str]]:
    """Topic, partition and offset of what became these forwarded records or dead letters."""
    found = set()
    for record in records:
        headers = {name: value.decode() for name, value in record.headers}
        if "stream_ft.original" in headers:
            name, partition, offset, _, _ = headers["stream_ft.original"].split("/")
        else:
            name, partition, offset = (headers[f"__connect.errors.{part}"] for part in ("topic", "partition", "offset"))
        found.add((name, partition, offset))
    return found
