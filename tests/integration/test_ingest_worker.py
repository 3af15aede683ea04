"""Ingest workers against a real broker: every record becomes one message, whatever happens."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from house import wait_for
from ingest_house import Ingest, placed

pytest.importorskip("faust", reason="Faust is not installed")
pytestmark = pytest.mark.kafka


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


def test_a_backlog_is_drained_and_what_is_refused_is_kept(tmp_path: Path, kafka_address: str) -> None:
    with Ingest(tmp_path, kafka_address, INGEST__REDACT="true") as ingest:
        events = [feedback(n) for n in range(120)] + [labelled(n) for n in range(60)]
        ingest.publish([*events, *BAD])
        ingest.start()
        forwarded = ingest.wait_for_records("events", len(events))
        letters = ingest.wait_for_records("dlq", len(BAD))
        assert (len(forwarded), len(letters)) == (len(events), len(BAD))
        assert len(placed(forwarded) | placed(letters)) == len(events) + len(BAD)
        assert sorted(letter.value for letter in letters) == sorted(body for _, body in BAD)
        bodies = [json.loads(record.value) for record in forwarded]
        assert {body["id"] for body in bodies} == {str(body["id"]) for _, body in events}
        assert {body["input"][:15] for body in bodies if body["type"] == "labelled"} == {"write to [EMAIL"}
        by_prediction: dict[bytes, set[int]] = {}
        for record in forwarded:
            by_prediction.setdefault(record.key, set()).add(record.partition)
        assert all(len(partitions) == 1 for partitions in by_prediction.values())
        ingest.ready()
        told = ingest.metrics()
        assert 'stream_ft_ingest_events_total{kind="feedback"} 120.0' in told
        assert 'stream_ft_ingest_dead_letters_total{reason="unknown_schema_version"} 1.0' in told

        begun = time.monotonic()
        assert ingest.stop() == 143
        assert time.monotonic() - begun < 10
        assert ingest.behind() == 0
        ingest.publish([labelled(1000)])
        ingest.start()
        again = ingest.wait_for_records("events", len(events) + 1)
        assert len(again) == len(events) + 1  # what was acknowledged is not read again
        assert ingest.stop() == 143


@pytest.mark.slow
def test_a_worker_stopped_in_the_middle_commits_what_it_forwarded(tmp_path: Path, kafka_address: str) -> None:
    with Ingest(tmp_path, kafka_address) as ingest:
        ingest.publish([feedback(n) for n in range(3_000)])
        ingest.start()
        ingest.wait_for_records("events", 1)
        assert ingest.stop() == 143
        forwarded = ingest.read("events")
        assert len(forwarded) == len(placed(forwarded)) == 3_000 - ingest.behind()
        ingest.start()
        wait_for("all of them", lambda: len(placed(ingest.read("events"))) == 3_000, every=0.5)
        assert ingest.stop() == 143
        before = {(record.partition, record.offset) for record in forwarded}
        later = [record for record in ingest.read("events") if (record.partition, record.offset) not in before]
        # Of those, Faust may read some again after a rebalance at its start: each says which message it was.
        assert not placed(later) & placed(forwarded), "what the stop had committed is not forwarded again"


def test_a_worker_without_a_broker_waits_and_can_be_stopped(tmp_path: Path, kafka_address: str) -> None:
    with Ingest(tmp_path, kafka_address) as ingest:
        ingest.settings["BROKER"] = "kafka://127.0.0.1:1"
        worker = ingest.start()
        log = tmp_path / "ingest-0.log"
        wait_for("the worker to say that it waits", lambda: "waits for it" in log.read_text())
        assert worker.poll() is None
        assert ingest.stop() == 143
