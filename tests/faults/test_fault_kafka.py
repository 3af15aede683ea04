"""Faults 5 and 24 on Kafka: the broker is killed, frozen, or not there when a process starts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Broker, missing
from house import House, wait_for

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
