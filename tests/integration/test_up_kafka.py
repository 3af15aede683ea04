"""``stream-ft up`` with a broker instead of its own files: it learns, stops, and goes on where it stood."""

from __future__ import annotations

from pathlib import Path

import pytest
from broker import Broker
from house import House, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def test_up_learns_from_a_broker_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, House(tmp_path, BROKER=broker.url) as house:
        house.start("up")
        house.ready("serve")
        house.ready("learn")
        first = house.version()
        house.send(45)
        for _ in range(5):
            house.correct()
        wait_for("a promotion", lambda: house.version() != first, 60)
        assert house.stop("up") == 143
        assert not (house.state / "serve.db").exists(), "events belong on the broker"
        house.start("up")
        house.ready("serve")
        house.ready("learn")
        house.send(3)
        wait_for("all of it in the store", lambda: house.caught_up() and len(house.applied()) == 53, 30)
        assert sorted(house.applied()) == sorted(house.accepted.values())
        assert house.dead_letters() == []
        assert house.stop("up") == 143
