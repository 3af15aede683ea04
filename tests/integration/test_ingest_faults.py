"""Ingest workers that are killed, and brokers that go away: nothing is lost."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from broker import Broker
from house import wait_for
from ingest_house import Ingest, placed
from kafka.admin import ConfigResource, ConfigResourceType

pytest.importorskip("faust", reason="Faust is not installed")
pytestmark = [
    pytest.mark.kafka,
    # kafka-python, which only looks here, leaves a socket open when its broker is killed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def feedback(number: int) -> tuple[str, dict[str, Any]]:
    return "feedback", {
        "id": f"f{number}",
        "prediction_id": f"p{number % 50}",
        "label": "x",
        "source": f"u{number % 7}",
    }


def labelled(number: int) -> tuple[str, dict[str, Any]]:
    return "labels", {"id": f"l{number}", "input": f"write to user{number}@example.org", "label": "x"}


BAD: list[tuple[str, bytes]] = [
    ("feedback", b"{"),
    ("feedback", b"\xff\xfe"),
    ("labels", b'{"input": "hello"}'),
    ("labels", b'{"input": "hello", "label": "x", "schema_version": 2}'),
    ("predictions", b'{"prediction_id": "p", "kind": "accept"}'),
    ("feedback", b'{"prediction_id": "p", "label": NaN}'),
]


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["forward.before_send", "forward.before_ack", "forward.after_ack"])
def test_fault_11_a_killed_worker_loses_nothing(tmp_path: Path, kafka_address: str, failpoint: str) -> None:
    with Ingest(tmp_path, kafka_address) as ingest:
        events = [feedback(n) for n in range(200)]
        ingest.publish([*events, *BAD])
        assert ingest.start(f"{failpoint}:kill:40").wait(60) == -signal.SIGKILL
        assert (tmp_path / "failpoints").read_text() == f"{failpoint}\n"
        ingest.start()
        wait_for(
            "every record to have become a message",
            lambda: len(placed(ingest.read("events")) | placed(ingest.read("dlq"))) == len(events) + len(BAD),
        )
        assert len(placed(ingest.read("events"))) == len(events)
        assert len(placed(ingest.read("dlq"))) == len(BAD)


@pytest.mark.slow
def test_two_workers_share_and_the_other_takes_over(tmp_path: Path, kafka_address: str) -> None:
    with Ingest(tmp_path, kafka_address) as ingest:
        ingest.start()
        ingest.ready()
        ingest.start()
        ingest.ready()
        ingest.publish([feedback(n) for n in range(300)])
        ingest.wait_for_records("events", 100)
        ingest.workers[0].kill()
        ingest.publish([feedback(n) for n in range(300, 400)])
        wait_for("all to be forwarded", lambda: len(placed(ingest.read("events"))) == 400, 90)
        assert ingest.stop(1) == 143


@pytest.mark.slow
def test_a_broker_that_is_killed_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Ingest(tmp_path, broker.address) as ingest:
        worker = ingest.start()
        ingest.ready()
        ingest.publish([feedback(n) for n in range(500)])
        ingest.wait_for_records("events", 20)
        broker.kill()
        time.sleep(10)
        broker.start()
        ingest.publish([feedback(n) for n in range(500, 600)])
        wait_for("all to be forwarded", lambda: len(placed(ingest.read("events"))) == 600, 120)
        assert worker.poll() is None
        assert ingest.stop() == 143


@pytest.mark.slow
def test_a_frozen_broker_does_not_keep_a_worker_from_ending(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Ingest(tmp_path, broker.address) as ingest:
        ingest.publish([feedback(n) for n in range(500)])
        ingest.start()
        ingest.wait_for_records("events", 20)
        broker.freeze()
        begun = time.monotonic()
        assert ingest.stop(seconds=11) == 143
        assert time.monotonic() - begun < 10
        broker.thaw()


@pytest.mark.slow
def test_an_event_that_its_topic_does_not_take_is_a_dead_letter(tmp_path: Path) -> None:
    with (
        Broker(tmp_path / "broker") as broker,
        Ingest(tmp_path, broker.address, KAFKA__MAX_MESSAGE_BYTES="30000") as ingest,
    ):
        ingest.start()
        ingest.ready()
        admin = broker.admin()
        admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, ingest.topic("events"), {"max.message.bytes": "12000"})]
        )
        admin.close()
        large = {"id": "large", "input": "word " * 3_000, "label": "x"}
        ingest.publish([("labels", large), labelled(1)])
        (letter,) = ingest.wait_for_records("dlq", 1)
        assert dict(letter.headers)["__connect.errors.exception.class.name"] == b"too_long"
        assert json.loads(letter.value) == large
        assert len(ingest.wait_for_records("events", 1)) == 1
        assert ingest.stop() == 143
