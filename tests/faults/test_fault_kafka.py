"""Faults 5, 6, 8, 9 and 24 on Kafka: the broker is killed, frozen, or not there when a process starts; the log has lost
what was not read yet; what is on it is no event."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from broker import Broker, missing
from house import MODEL, House, wait_for
from kafka.admin import NewTopic
from test_fault_bytes import BAD

from stream_ft.config import load
from stream_ft.metrics.labels import DEAD_LETTERS
from stream_ft.ports import EventLog, Outgoing
from stream_ft.topics import topic
from stream_ft.wiring.broker import open_event_log

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]
PATIENT = {"KAFKA__DEADLINE_S": "3"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that may be disturbed."""
    if why := missing():
        pytest.skip(why)
    with Broker(tmp_path / "broker") as started:
        yield started


def settled(house: House) -> None:
    """Everything that was acknowledged is in the store or in the dead letters, each exactly once."""
    wait_for("the learner has read everything", house.caught_up, 90)
    applied = Counter(house.applied())
    assert {text: count for text, count in applied.items() if count > 1} == {}
    assert set(house.accepted.values()) <= set(applied), "an acknowledged event is lost"
    wait_for("the dead letters", lambda: len(house.dead_letters()) >= len(house.conflicts), 30)
    assert sorted(house.dead_letters()) == sorted(house.conflicts)


def test_fault_05_the_broker_is_killed_and_frozen_under_load(tmp_path: Path, broker: Broker) -> None:
    with House(tmp_path, BROKER=broker.url, **PATIENT) as house:
        house.start("learn")
        house.start("serve")
        house.ready("learn")
        house.ready("serve")
        house.send(40)
        house.correct()
        house.conflict()
        settled(house)
        wait_for("a promotion", lambda: house.learned() > 0, 60)
        version = house.version()

        broker.kill()
        before = dict(house.accepted)
        made = [house.predict(f"while the broker is away {number}") for number in range(20)]
        assert all(answer is not None for answer in made), "serving needs no broker"
        house.send(1)
        assert house.accepted == before, "nothing is acknowledged that is not on the log"
        wait_for("the learner says so", lambda: house.status_of("learn") == 503, 30)
        assert house.status_of("serve") == 200
        broker.start()
        wait_for("the learner is back", lambda: house.status_of("learn") == 200, 60)
        wait_for("its predictions are published", lambda: published(house, made), 60)
        house.send(10)
        house.correct()
        settled(house)

        broker.freeze()
        assert house.predict("while the broker is frozen") is not None
        wait_for("the learner says so", lambda: house.status_of("learn") == 503, 60)
        broker.thaw()
        wait_for("the learner is back", lambda: house.status_of("learn") == 200, 90)
        house.send(10)
        settled(house)
        assert house.version() >= version
        assert all(process.poll() is None for process in house.processes.values()), "no process ended"


def published(house: House, answers: list[dict[str, object] | None]) -> bool:
    """Whether all predictions of these answers are on the log."""
    ids = [row["id"] for answer in answers if answer for row in answer["predictions"]]  # type: ignore[attr-defined]
    log = b"".join(record.value for record in house.records("predictions"))
    return all(str(ident).encode() in log for ident in ids)


def test_fault_24_a_server_that_starts_without_its_broker_serves_what_it_served(tmp_path: Path, broker: Broker) -> None:
    with House(tmp_path, BROKER=broker.url, **PATIENT) as house:
        house.start("learn")
        house.start("serve")
        house.ready("serve")
        house.send(40)
        wait_for("a promotion", lambda: house.learned() > 0, 90)
        version = house.version()
        house.kill("serve")
        house.kill("learn")
        broker.kill()
        began = time.monotonic()
        house.start("serve")
        house.start("learn")
        house.ready("serve")
        assert house.version() == version
        assert house.predict() is not None
        assert time.monotonic() - began < 60
        wait_for("the learner's probe", lambda: house.status_of("learn") == 503)
        broker.start()
        wait_for("the learner is back", lambda: house.status_of("learn") == 200, 60)
        house.send(5)
        settled(house)


@contextmanager
def writing(house: House, broker: Broker) -> Iterator[EventLog]:
    """The log, by somebody who may write labels."""
    settings = load(None, {"broker": broker.url, "state_dir": str(house.state)})
    log = open_event_log(settings, writes=[topic(MODEL, "labels")])
    try:
        yield log
    finally:
        log.close()


def reason(house: House) -> str:
    """What the learner's probe says."""
    answer = httpx.get(f"http://127.0.0.1:{house.learn_port}/readyz", timeout=5.0, trust_env=False)
    return "" if answer.status_code == 200 else answer.text


@pytest.mark.parametrize("how", ["retention", "deleted"])
def test_fault_06_what_kafka_no_longer_has_halts_the_learner(tmp_path: Path, broker: Broker, how: str) -> None:
    labels = topic(MODEL, "labels")
    with House(tmp_path, BROKER=broker.url, **PATIENT) as house:
        house.start("learn")
        house.start("serve")
        house.ready("learn")
        house.ready("serve")
        house.send(30)
        settled(house)
        before = sorted(house.applied())
        house.kill("learn")
        house.send(30)
        with writing(house, broker) as log:
            if how == "retention":
                for part in log.partitions(labels):
                    log.trim(labels, part, log.bounds(labels, part)[1])
                log.append(
                    [Outgoing(topic=labels, key=b"n", value=b'{"id": "n", "input": "new", "label": "greeting"}')]
                )
        if how == "deleted":
            with closing(broker.admin()) as admin:
                admin.delete_topics([labels])
        house.start("learn")
        said = "Offset" if how == "retention" else "was deleted"
        wait_for("it halts", lambda: house.status_of("learn") == 503 and said in reason(house), 60)
        assert labels in reason(house)
        time.sleep(1)
        assert sorted(house.applied()) == before, "nothing after the gap is read"
        assert house.predict() is not None
        assert all(process.poll() is None for process in house.processes.values()), "no process ended"


def test_fault_08_on_kafka_what_is_no_event_is_a_dead_letter(tmp_path: Path, broker: Broker) -> None:
    labels = topic(MODEL, "labels")
    with House(tmp_path, BROKER=broker.url, **PATIENT) as house:
        house.start("learn")
        house.start("serve")
        house.ready("learn")
        house.ready("serve")
        with writing(house, broker) as log:
            log.append([Outgoing(topic=labels, key=b"k", value=value) for value in BAD])
        house.send(5)
        wait_for("what follows is read", lambda: len(house.applied()) == 5, 60)
        wait_for("the dead letters", lambda: len(house.records("dlq")) == len(BAD), 30)
        letters = {record.value: dict(record.headers) for record in house.records("dlq")}
        for value, wanted in BAD.items():
            headers = letters[value]
            assert headers["__connect.errors.exception.class.name"].decode() in DEAD_LETTERS
            assert wanted in (None, headers["__connect.errors.exception.class.name"].decode())
            assert headers["__connect.errors.topic"].decode() == labels
        assert house.status_of("learn") == 200


def test_fault_09_dead_letters_wait_for_their_topic_and_learning_goes_on(tmp_path: Path, broker: Broker) -> None:
    letters = topic(MODEL, "dlq")
    with House(tmp_path, BROKER=broker.url, **PATIENT) as house:
        house.start("learn")
        house.start("serve")
        house.ready("learn")
        house.ready("serve")
        house.send(10)
        with closing(broker.admin()) as admin:
            admin.delete_topics([letters])
        for _ in range(3):
            house.conflict()
        house.send(10)
        wait_for("everything else is applied", lambda: len(house.applied()) == 20, 90)
        wait_for("the dead letters wait", lambda: house.rows("SELECT count(*) FROM outbox") == [(3,)], 30)
        assert house.status_of("learn") == 200, "there is room for more"
        with closing(broker.admin()) as admin:
            admin.create_topics([NewTopic(letters, num_partitions=1, replication_factor=1)])
        settled(house)
        assert house.rows("SELECT count(*) FROM outbox") == [(0,)]
