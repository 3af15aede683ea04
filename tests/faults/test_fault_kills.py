"""kill -9 at every named point, events in flight, then a restart: the ledger holds.

Faults 1, 3, 13, 20 and 23. A point that was not reached fails its test.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from house import House, wait_for
from ingest_house import KILLS as INGEST_KILLS

from stream_ft import failpoints
from stream_ft.model.mixture import read_head
from stream_ft.release.fold import INITIAL, Entry, fold
from stream_ft.release.registry import Registry
from stream_ft.topics import topic

pytestmark = pytest.mark.slow

# The hit at which the process dies. Preparing, flipping and keeping the state also happen at start, before any event.
# A round is a process of its own each time, so for rounds it is how many of them die, one after the other.
KILLS = {
    "serve": {
        "serve.before_append": (3, 9),
        "serve.after_append": (3, 9),
        "serve.before_prepare": (2, 3),
        "serve.before_flip": (2, 3),
        "serve.after_flip": (2, 3),
        "state.before_rename": (3, 4),
    },
    "learn": {
        "ingest.after_poll": (2, 7),
        "store.before_commit": (2, 7),
        "store.after_commit": (2, 7),
        "outbox.before_publish": (1, 2),
        "outbox.after_publish": (1, 2),
        "release.before_fsync": (1, 2),
        "release.before_rename": (1, 2),
        "release.after_rename": (1, 2),
        "release.before_promote": (1, 2),
    },
    "round": {"round.before_train": (1, 2), "round.after_step": (1, 2), "round.before_result": (1, 2)},
}
ENCODER = {
    "FAST__ENABLED": "true",
    "SCHEDULE__ADAPT_EVERY": "40",
    "SCHEDULE__ADAPT_FIRST": "40",
    "SCHEDULE__ADAPT_MISJUDGED": "0",
    "ROUND__STEPS": "1",
}
"""Rounds of the encoder soon, which end with a handover if a fast tier is there."""
HANDOVER = "handover.after_step"
AT_ONCE = 3
"""Points of one role that are killed at in one house, one after the other: starting processes is what takes time."""
CASES = [
    (role, dict(list(points.items())[start : start + AT_ONCE]))
    for role, points in KILLS.items()
    for start in range(0, len(points), AT_ONCE)
]


PAUSE_S = 0.1
"""Between two turns of the feed: a round takes longer with every example, and its size is not what is looked at."""


class Feed:
    """Sends events until told to stop, whatever the answers are."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            self._house.send(2)
            self._house.correct()
            if turn % 3 == 0:
                self._house.conflict()
            time.sleep(PAUSE_S)


def test_every_failpoint_is_killed_at() -> None:
    points = [*KILLS.values(), INGEST_KILLS]  # the latter in test_fault_ingest.py
    assert {name for each in points for name in each} | {HANDOVER} == set(failpoints.NAMES)
    assert all(len(hits) == 2 for each in points for hits in each.values())


@pytest.mark.parametrize(("role", "points"), CASES, ids=["-".join(points) for _, points in CASES])
def test_fault_13_kills_at_failpoints(tmp_path: Path, role: str, points: dict[str, tuple[int, int]]) -> None:
    process_role = "learn" if role == "round" else role
    other = "learn" if process_role == "serve" else "serve"
    with House(tmp_path) as house:
        house.start(other)
        with Feed(house):
            for name, hits in points.items():
                for hit in hits:
                    kill_at(house, role, name, hit)
                    time.sleep(0.3)  # events in flight while the process is away
            house.start(process_role)
            house.ready(other)
            house.ready(process_role)
            upto = house.learned()
            wait_for("a version that covers more", lambda: house.learned() > upto)
        settle(house)
        check_ledger(house)
        check_registry(house)


@pytest.mark.timeout(420)
def test_fault_13_killed_in_a_handover_the_round_comes_again(tmp_path: Path) -> None:
    with House(tmp_path, **ENCODER) as house:
        house.start("serve")
        house.ready("serve")
        base = house.answering()[0]
        with Feed(house):
            kill_at(house, "learn", HANDOVER, 1)
            assert house.answering()[0] == base, "what was handed over in part is no version"
            house.start("learn")
            house.ready("learn")
            wait_for("the base is promoted", lambda: house.answering()[0] != base)
        settle(house)
        check_ledger(house)
        check_registry(house)


def kill_at(house: House, role: str, name: str, hit: int) -> None:
    """Start the process that dies at the point, or whose rounds do, and see it die."""
    process_role = "learn" if role == "round" else role
    kills, at = (hit, 1) if role == "round" else (1, hit)
    reached, log = house.folder / "failpoints", house.folder / f"{process_role}.log"
    reached.unlink(missing_ok=True)
    before = log.stat().st_size if log.exists() else 0
    process = house.start(process_role, f"{name}:kill:{at}")
    wait_for(f"{name} reached", lambda: reached.exists() and len(reached.read_text().split()) >= kills)
    assert set(reached.read_text().split()) == {name}
    if role == "round":
        # The learner outlives its round; the round's folder never becomes a version.
        wait_for("the failed round noticed", lambda: b"no result" in log.read_bytes()[before:])
        assert process.poll() is None
        house.kill("learn")
    else:
        house.processes.pop(process_role).wait(30)


def settle(house: House) -> None:
    """Wait until everything acknowledged is in the store and nothing waits to be published."""
    wait_for("the store has everything", house.caught_up)
    wait_for("the outbox is empty", lambda: house.rows("SELECT count(*) FROM outbox") == [(0,)])


def check_ledger(house: House) -> None:
    """Every acknowledged event is in the store or the dead letters, exactly once."""
    applied, known = Counter(house.applied()), Counter(house.identities())
    letters = house.dead_letters()
    assert len(letters) == len(set(letters)), "a dead letter twice"
    assert len(house.accepted) > 20
    for ident, text in house.accepted.items():
        assert applied[text] == 1, f"{ident} was applied {applied[text]} times"
        assert known[ident] == 1, f"{ident} is known {known[ident]} times"
    for origin in house.conflicts:
        assert letters.count(origin) == 1, f"{origin} is {letters.count(origin)} times in the dead letters"
    assert house.rows("PRAGMA integrity_check") == [("ok",)]


def check_registry(house: House) -> None:
    """Whatever the registry shows is whole, and the version that answers is the one that the log says."""
    registry = Registry(house.state / "registry")
    for sha in registry.list():
        registry.get(sha)
    for sha in registry.list_heads():
        read_head(registry.get_head(sha))

    def right() -> bool:
        state = INITIAL
        with house.reading() as log:
            for record in log.read(topic("default", "control"), 0, 0, 10_000):
                state, _ = fold(state, Entry(offset=record.offset, appended_at=record.appended_at, value=record.value))
        return state.start_head in registry.list_heads() and house.version() == state.version

    wait_for("the version that the log says is served", right, 20)
