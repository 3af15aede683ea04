"""Faults 11, 12, 22 and 29: more than one learner, and commands that come again, late or out of order."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from house import House, wait_for
from learning_parts import DIM, ROUNDS, Learning, names, outcome

from stream_ft import control
from stream_ft.errors import AlreadyRunningError
from stream_ft.learn.job import Job
from stream_ft.lock import FolderLock
from stream_ft.model.heads import Head
from stream_ft.ports import Outgoing
from stream_ft.release.explain import explain

Start = Callable[..., Learning]


# --- fault 11 ------------------------------------------------------------------------------------------------------


def test_fault_11_a_second_learner_on_a_store_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        first = house.start("learn")
        lock = house.state / "learn.lock"
        wait_for("the lock is held", lambda: lock.exists() and lock.read_text().strip() == str(first.pid))
        second = subprocess.run(
            house.command("learn"), env=house.environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode != 0
        told = second.stdout + second.stderr
        assert f"process {first.pid} holds it" in told
        assert "Traceback" not in told
        assert first.poll() is None
        # Nor may anybody pass while the holder is frozen: it may thaw.
        os.kill(first.pid, signal.SIGSTOP)
        with pytest.raises(AlreadyRunningError):
            FolderLock(lock, "stream-ft learn").acquire()
        house.kill("learn")
        with FolderLock(lock, "stream-ft learn") as taken:
            assert taken.held


def test_fault_11_after_kill_9_of_up_another_starts_at_once(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.start("up")
        lock = house.state / "learn.lock"
        wait_for("the learner holds its lock", lambda: lock.exists() and lock.read_text().strip())
        left = int(lock.read_text())
        house.kill("up")  # while the learner loads its model, and heeds no signal
        house.start("up")
        house.ready("learn")
        house.ready("serve")
        assert int(lock.read_text()) != left
        assert house.stop("up") == 143


# --- fault 12 and 29 -----------------------------------------------------------------------------------------------


def two(learner: Start) -> tuple[Learning, Learning]:
    """A learner that leads and is in the middle of a round, and another on the same logs that has just started."""
    first = learner(files=True, name="a", **ROUNDS)
    first.label(0, 40)
    first.step(2)
    assert first.core.learner.leading
    assert first.core.round is not None
    second = learner(log=first.log, name="b", store="b.db", clock=first.clock, **ROUNDS)
    return first, second


def finish(learning: Learning, job: Job) -> None:
    """The round ends with a candidate that the gate lets pass."""
    ended = outcome(job, learning.folder / f"jobs-{learning.settings.learn.name}" / "round")
    learning.core.finish(ended, learning.clock.now())


def test_fault_12_the_late_promotion_of_a_frozen_learner_is_refused_by_the_epoch(learner: Start) -> None:
    frozen, other = two(learner)
    process = frozen.core.round
    assert process is not None
    process.kill()
    other.step(2)
    assert other.core.learner.leading
    promoted = other.core.state
    assert other.core.round is not None
    other.core.finish(other.core.round.wait(), other.clock.now())
    other.step()
    assert other.core.state.epoch > promoted.epoch
    active = other.core.state.release

    # It thaws exactly where it was: between the end of its round and the promotion, having read nothing since.
    finish(frozen, process.job)
    late = frozen.folded()[-1]
    assert isinstance(late.message, control.Promote)
    assert late.message.issued_by == "learner/a"
    assert not late.accepted
    assert "expects epoch" in late.reason
    for learning in (frozen, other):
        learning.step(2)
        assert learning.core.state.release == active
        assert learning.core.state.leader == "learner/b"
    assert any("promote was refused" in text for text in frozen.said("note"))
    assert not any("by a head round" in text for text in frozen.said("promotion")), "it never says that it promoted"


def test_fault_12_a_process_of_the_same_name_is_fenced_as_well(learner: Start) -> None:
    frozen = learner(files=True, name="a", **ROUNDS)
    frozen.label(0, 40)
    frozen.step(2)
    process = frozen.core.round
    assert process is not None
    process.kill()
    restarted = learner(log=frozen.log, name="a", store="again.db", clock=frozen.clock)
    restarted.step()
    assert restarted.core.learner.leading
    before = restarted.core.state.release
    finish(frozen, process.job)
    assert not frozen.folded()[-1].accepted
    restarted.step()
    assert restarted.core.state.release == before


def test_fault_29_the_learner_that_came_later_leads_and_the_other_stands_by(learner: Start) -> None:
    first, second = two(learner)
    assert first.core.round is not None
    first.core.finish(first.core.round.wait(), first.clock.now())
    second.step(2)
    began = len(first.said("round"))
    first.label(40, 200)
    for _ in range(4):
        first.step()
        second.step()
    assert not first.core.learner.leading
    assert "stands by" in first.core.learner.decision.reason
    assert len(first.said("round")) == began
    assert second.core.learner.leading
    assert second.said("round")
    # Both have learned of every event: whoever leads next has all of them.
    assert first.applied() == second.applied()
    assert first.core.state.release == second.core.state.release
    assert [v.message.issued_by for v in first.folded() if isinstance(v.message, control.Lead) and v.accepted] == [
        "learner/a",
        "learner/b",
    ]


def test_fault_29_whatever_the_late_one_still_publishes_changes_nothing(learner: Start) -> None:
    first, second = two(learner)
    second.step()
    state = second.core.state
    head = first.registry.put_head(Head.empty(DIM).to_bytes())
    for epoch in range(state.epoch + 1):
        first.issue(
            control.Promote,
            by="learner/a",
            base=state.base,
            start_head=head,
            parent=state.base,
            expected_epoch=epoch,
        )
        first.issue(
            control.Rollback,
            by="learner/a",
            to_epoch=0,
            automatic=True,
            expected_epoch=epoch,
            reason="late",
        )
    count = 2 * (state.epoch + 1)
    assert not any(verdict.accepted for verdict in first.folded()[-count:])
    second.step()
    assert (second.core.state.release, second.core.state.epoch) == (state.release, state.epoch)
    assert second.core.learner.leading


# --- fault 22 ------------------------------------------------------------------------------------------------------


def test_fault_22_commands_that_come_again_late_or_out_of_order_are_refused_and_shown(learner: Start) -> None:
    learning = learner(files=True)
    learning.step(2)
    state = learning.core.state
    now = learning.clock.now()

    def command(kind: type[control.Command], by: str = "operator/x", **fields: object) -> bytes:
        return msgspec.json.encode(control.new(kind, by=by, now=now, **fields))

    pause, resume = command(control.Pause), command(control.Resume)
    expired = command(control.Deny, sha256="f" * 64, reason="old", expires_at=moment(now - 1))
    head = learning.registry.put_head(Head.empty(DIM).to_bytes())
    promotions = [
        command(
            control.Promote,
            by="learner/a",
            base=state.base,
            start_head=head,
            parent=state.base,
            expected_epoch=state.epoch + number,
        )
        for number in (0, 1)
    ]
    # The second of two promotions overtakes the first; the pause comes again after it was taken back.
    values = [pause, resume, pause, expired, promotions[1], promotions[0], promotions[0]]
    for value in values:
        learning.log.append([Outgoing(topic=names("control"), value=value)])
        learning.step()
    verdicts = learning.folded()[-len(values) :]
    assert [verdict.accepted for verdict in verdicts] == [True, True, False, False, False, True, False]
    assert "seen before" in verdicts[2].reason
    assert "expired" in verdicts[3].reason
    assert f"expects epoch {state.epoch + 1}" in verdicts[4].reason
    assert "seen before" in verdicts[6].reason
    assert not learning.core.state.paused
    assert "f" * 64 not in learning.core.state.denied
    assert learning.core.state.epoch == state.epoch + 1
    refused = [text for text in learning.said("note") if "was refused" in text]
    assert len(refused) == 4
    assert [row["accepted"] for row in explain(lines(learning))][-len(values) :] == [v.accepted for v in verdicts]


def moment(seconds: float) -> datetime:
    """RFC 3339 once it is JSON."""
    return datetime.fromtimestamp(seconds, UTC)


def lines(learning: Learning) -> list[str]:
    """The control log as `stream-ft control explain` reads it."""
    return [
        msgspec.json.encode(msgspec.json.decode(record.value) | {"appended_at": moment(record.appended_at)}).decode()
        for record in learning.log.read(names("control"), 0, 0, 1_000)
    ]
