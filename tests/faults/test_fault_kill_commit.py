"""Faults 1 and 3: kill -9 between reading and committing, and inside the transaction."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from learning_parts import Learning, names, text

TESTS = Path(__file__).parents[1]
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from learning_parts import Learning
learning = Learning(Path(sys.argv[1]), files=True)
for turn in range(6):
    learning.label(turn * 5, turn * 5 + 5)
    learning.publish("labels", b"{")
    learning.step()
    print(turn, flush=True)
"""


def killed(folder: Path, failpoint: str) -> int:
    """Let a learner die at a failpoint; how many passes it had finished."""
    reached = folder / "reached"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(TESTS)],
        env=os.environ
        | {"STREAM_FT_FAILPOINT": failpoint, "STREAM_FT_FAILPOINT_LOG": str(reached), "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert reached.read_text() == failpoint.partition(":")[0] + "\n"
    return len(done.stdout.split())


def check_all_applied_once(learning: Learning, events: int, letters: int) -> None:
    """After a restart everything on the log is in the store or the dead letters, exactly once."""
    learning.step(5)
    assert sorted(learning.applied()) == sorted(text(number) for number in range(events))
    published = learning.log.read(names("dlq"), 0, 0, 100)
    assert [record.value for record in published] == [b"{"] * letters
    assert learning.store.count().outbox == 0
    assert learning.store.offsets()[names("labels"), 0] == events + letters


def test_fault_01_killed_after_reading_it_is_read_again_and_applied_once(
    tmp_path: Path, learner: Callable[..., Learning]
) -> None:
    passes = killed(tmp_path, "ingest.after_poll:kill:4")
    assert passes == 3
    assert rows(tmp_path, "SELECT next FROM offsets") == [(18,)]
    check_all_applied_once(learner(files=True), events=20, letters=4)


@pytest.mark.parametrize(("point", "committed"), [("store.before_commit", 12), ("store.after_commit", 18)])
def test_fault_03_killed_around_the_commit_it_is_all_or_nothing(
    tmp_path: Path, learner: Callable[..., Learning], point: str, committed: int
) -> None:
    assert killed(tmp_path, f"{point}:kill:3") == 2
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(tmp_path, "SELECT next FROM offsets") == [(committed,)]
    assert rows(tmp_path, "SELECT count(*) FROM claims") == [(committed // 6 * 5,)]
    check_all_applied_once(learner(files=True), events=15, letters=3)


def test_fault_03_a_torn_tail_of_the_wal_costs_only_what_was_not_committed(
    tmp_path: Path, learner: Callable[..., Learning]
) -> None:
    killed(tmp_path, "store.after_commit:kill:5")
    wal = tmp_path / "store.db-wal"
    whole = wal.read_bytes()
    # The last frames are those of the last transaction: without its commit frame it never happened.
    wal.write_bytes(whole[: -4096 // 2])
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(tmp_path, "SELECT next FROM offsets") == [(24,)]
    check_all_applied_once(learner(files=True), events=25, letters=5)


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    """Rows of the store."""
    connection = sqlite3.connect(folder / "store.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
