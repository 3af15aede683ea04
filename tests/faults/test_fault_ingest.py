"""Ingest workers that are killed at every point of theirs: nothing is lost, and what comes twice has one identity."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from house import wait_for
from ingest_house import KILLS, Ingest, placed

pytest.importorskip("faust", reason="Faust is not installed")
pytestmark = [pytest.mark.kafka, pytest.mark.slow]

EVENTS = [
    ("feedback", {"id": f"f{n}", "prediction_id": f"p{n % 50}", "label": "x", "source": f"u{n % 7}"})
    for n in range(200)
]
BAD: list[tuple[str, bytes]] = [
    ("feedback", b"{"),
    ("labels", b'{"input": "hello"}'),
    ("labels", b'{"input": "hello", "label": "x", "schema_version": 2}'),
]


@pytest.mark.parametrize("number", [0, 1])
def test_fault_11_a_worker_killed_at_a_failpoint(tmp_path: Path, kafka_address: str, number: int) -> None:
    # All points at the same time: a group notices only after its session timeout that a worker was killed.
    with ExitStack() as stack:
        houses = {}
        for name in KILLS:
            (tmp_path / name).mkdir()
            houses[name] = stack.enter_context(Ingest(tmp_path / name, kafka_address))
            houses[name].publish([*EVENTS, *BAD])
        killed = {name: house.start(f"{name}:kill:{KILLS[name][number]}") for name, house in houses.items()}
        for name, worker in killed.items():
            assert worker.wait(60) == -signal.SIGKILL
            assert (tmp_path / name / "failpoints").read_text() == f"{name}\n"
        for house in houses.values():
            house.start()
        for name, house in houses.items():
            wait_for(f"all that was published before {name}", lambda house=house: not house.behind(), 90)
            check_ledger(house)
            assert house.stop() == 143


def check_ledger(house: Ingest) -> None:
    """Every record became messages of one identity, and no other identity is there."""
    events, letters = house.read("events"), house.read("dlq")
    assert len(placed(events)) == len(EVENTS)
    assert len(placed(letters)) == len(BAD)
    assert sorted({letter.value for letter in letters}) == sorted(body for _, body in BAD)
    by_place: dict[Any, set[str]] = {}
    for record in events:
        by_place.setdefault(frozenset(placed([record])), set()).add(json.loads(record.value)["id"])
    assert all(len(ids) == 1 for ids in by_place.values())
    assert {ident for ids in by_place.values() for ident in ids} == {body["id"] for _, body in EVENTS}
