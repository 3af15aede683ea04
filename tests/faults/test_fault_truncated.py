"""Fault 6: retention has passed the learner, or the log is cut or another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from learning_parts import Learning, names, text

from stream_ft.testing import MemoryLog

Start = Callable[..., Learning]


def halted(learning: Learning) -> str:
    """Why the learner stands still; it stays so, and says so once."""
    learning.step(4)
    ready, why = learning.loop.ready()
    assert not ready
    return why


def behind(learner: Start) -> Learning:
    """A learner that has read ten events; ten more are on the log."""
    learning = learner()
    learning.label(0, 10)
    learning.step()
    learning.label(10, 20)
    return learning


def test_fault_06_retention_that_passed_the_learner_halts_it(learner: Start, caplog: pytest.LogCaptureFixture) -> None:
    learning = behind(learner)
    learning.log.trim(names("labels"), 0, 15)
    assert "Offset 10" in halted(learning)
    assert len(learning.applied()) == 10, "nothing after the gap was read"
    assert learning.store.offsets() == {(names("labels"), 0): 10}
    assert sum("halts" in record.message for record in caplog.records) == 1


def test_fault_06_retention_behind_the_learner_is_none_of_its_business(learner: Start) -> None:
    learning = behind(learner)
    learning.log.trim(names("labels"), 0, 10)
    learning.step()
    assert learning.loop.ready() == (True, "")
    assert sorted(learning.applied()) == sorted(text(number) for number in range(20))


def test_fault_06_a_log_that_was_cut_halts_the_learner_until_it_is_whole_again(learner: Start) -> None:
    learning = behind(learner)
    log = learning.log
    assert isinstance(log, MemoryLog)
    records = log._records[names("labels"), 0]
    whole = list(records)
    del records[5:]
    assert "Offset 10" in halted(learning)
    records[:] = whole
    learning.step(2)
    assert learning.loop.ready() == (True, "")
    assert sorted(learning.applied()) == sorted(text(number) for number in range(20))


def test_fault_06_another_log_is_noticed_even_if_it_is_longer(learner: Start, tmp_path: Path) -> None:
    learning = learner(files=True)
    learning.label(0, 10)
    learning.step()
    learning.close()
    for path in tmp_path.glob("serve.db*"):
        path.unlink()
    again = learner(files=True)
    again.label(100, 130)
    assert "was replaced" in halted(again)
    assert len(again.applied()) == 10
    assert again.store.offsets() == {(names("labels"), 0): 10}
