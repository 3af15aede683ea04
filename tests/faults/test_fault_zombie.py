"""Faults 12 and 29 with real processes on Kafka: a learner is frozen, another leads and promotes, the first one thaws.

It freezes at a failpoint, between what it has decided and what it publishes: so it publishes too late.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from broker import Broker, missing
from house import MODEL, WORDS, House, wait_for

from stream_ft import control
from stream_ft.config import load
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release.fold import INITIAL, Entry, State, Verdict, fold
from stream_ft.release.heads import HeadRecord
from stream_ft.topics import topic
from stream_ft.wiring.broker import open_event_log

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Pair:
    """Two replicas, each with a learner of its own, on one broker."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        broker = stack.enter_context(Broker(folder / "broker"))
        self._settings = {"BROKER": broker.url, "REGISTRY_DIR": str(folder / "registry")}
        self._folder, self._stack = folder, stack

    def open(self, name: str, **settings: str) -> House:
        """One of them, with its server running."""
        folder = self._folder / name
        folder.mkdir()
        house = self._stack.enter_context(House(folder, LEARN__NAME=name, **self._settings, **settings))
        house.start("serve")
        return house


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    if why := missing():
        pytest.skip(why)
    with ExitStack() as stack:
        yield Pair(tmp_path, stack)


def folded(house: House) -> tuple[State, list[Verdict]]:
    """The control log as everybody folds it."""
    state, verdicts = INITIAL, []
    with house.reading() as log:
        for record in log.read(topic(MODEL, "control"), 0, 0, 10_000):
            entry = Entry(offset=record.offset, appended_at=record.appended_at, value=record.value)
            state, verdict = fold(state, entry)
            verdicts.append(verdict)
    return state, verdicts


def frozen_at(house: House) -> None:
    """Wait until the learner of this one has reached its failpoint and stands still."""
    process = house.processes["learn"]
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for("the learner frozen", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    assert (house.folder / "failpoints").exists()


@contextmanager
def publishing(house: House) -> Iterator[EventLog]:
    """The log, as a learner writes to it."""
    settings = load(None, {"broker": house.environment()["STREAM_FT_BROKER"], "state_dir": str(house.state)})
    log = open_event_log(settings, writes=["learn"])
    try:
        yield log
    finally:
        log.close()


def answers(house: House) -> list[tuple[str, str]]:
    """Label and version of one answer for each topic."""
    found = []
    for words in WORDS.values():
        told = house.http.post("/predict", json={"inputs": [words.format(4_711)]}).json()
        found.append((str(told["predictions"][0]["label"]), str(told["version"])))
    return found


@pytest.mark.timeout(400)
def test_fault_12_no_replica_takes_the_promotion_of_a_learner_that_thaws(pair: Pair) -> None:
    first, second = pair.open("a"), pair.open("b")
    first.start("learn", "release.before_promote:stop")
    first.ready("learn")
    for house in (first, second):
        house.ready()
    first.send(45)
    frozen_at(first)
    late = first.processes["learn"]

    second.start("learn")
    second.ready("learn")
    first.send(30)
    wait_for("a promotion by the other", lambda: folded(first)[0].leader == "learner/b" and second.learned() > 45)
    wait_for("both replicas follow", lambda: first.version() == second.version() == folded(first)[0].version)
    os.kill(late.pid, signal.SIGCONT)

    def refused() -> list[Verdict]:
        return [
            verdict
            for verdict in folded(first)[1]
            if isinstance(verdict.message, control.Promote) and verdict.message.issued_by == "learner/a"
        ]

    wait_for("the promotion of the one that thawed", refused, 60)
    # One whose answer did not come in time is published again, and refused again.
    assert all(not verdict.accepted and "epoch" in verdict.reason for verdict in refused())
    wait_for("both replicas have read it", lambda: answers(first) == answers(second), 30)
    state, _ = folded(first)
    assert state.leader == "learner/b"
    assert {version for _, version in answers(first)} == {state.version}
    assert [label for label, _ in answers(first)] == list(WORDS)
    wait_for("it stands by", lambda: b"stands by" in (first.state / "learn.status.json").read_bytes(), 30)
    assert late.poll() is None


@pytest.mark.timeout(400)
def test_fault_29_no_replica_takes_a_head_of_a_learner_that_thaws(pair: Pair) -> None:
    fast = {"FAST__ENABLED": "true", "SCHEDULE__MIN_EVALUATION": "100000"}
    first, second = pair.open("a", **fast), pair.open("b", **fast)
    first.start("learn", "store.after_commit:stop:4")
    first.ready("learn")
    for house in (first, second):
        house.ready()
    for _ in range(40):
        first.send(1)
        if (first.folder / "failpoints").exists():
            break
        wait_for("the label is read", lambda: (first.folder / "failpoints").exists() or first.caught_up(), 30)
    frozen_at(first)
    late = first.processes["learn"]

    second.start("learn")
    second.ready("learn")
    second.send(6)
    wait_for("the other leads", lambda: folded(second)[0].leader == "learner/b")
    epoch = folded(second)[0].epoch
    right = [(label, True) for label in WORDS]

    def led(house: House) -> list[tuple[str, bool]]:
        return [(label, version.startswith(f"v0.{epoch}.")) for label, version in answers(house)]

    wait_for("both replicas answer by its heads", lambda: led(first) == led(second) == right, 60)
    before = len(second.records("heads"))
    os.kill(late.pid, signal.SIGCONT)

    def late_heads() -> list[HeadRecord]:
        heads = [msgspec.msgpack.decode(record.value, type=HeadRecord) for record in second.records("heads")[before:]]
        return [head for head in heads if head.leader == "learner/a"]

    # If it looked at the control log before it came to publish, nothing of it is late; so one of its heads is, by hand.
    stands_by = first.state / "learn.status.json"
    wait_for("it goes on", lambda: late_heads() or b"stands by" in stands_by.read_bytes(), 60)
    newest = msgspec.msgpack.decode(second.records("heads")[-1].value, type=HeadRecord)
    late_one = msgspec.structs.replace(newest, leader="learner/a", epoch=epoch - 1, seq=newest.seq + 1_000)
    with publishing(second) as log:
        key, value = str(late_one.epoch).encode(), msgspec.msgpack.encode(late_one)
        log.append([Outgoing(topic=topic(MODEL, "heads"), key=key, value=value)])
    assert late_one in late_heads()
    assert {head.epoch < epoch for head in late_heads()} == {True}
    second.send(3)
    for house in (first, second):
        wait_for("the newest head", lambda house=house: answers(house)[0][1] == answers(second)[0][1], 30)
        assert led(house) == right
    assert folded(second)[0].leader == "learner/b"
    assert late.poll() is None
