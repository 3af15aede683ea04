"""A supervisor that starts while processes of one before are still ending."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_ft import config
from stream_ft.lock import FolderLock
from stream_ft.wiring.processes import drain_s, stop_s
from stream_ft.wiring.up import PREDECESSORS_S, await_predecessors


class Time:
    """Passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stop = False

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.stop


def test_a_free_folder_waits_for_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    time = Time()
    await_predecessors(tmp_path, time.wait, monotonic=lambda: time.now)
    assert time.now == 100.0
    assert capsys.readouterr().err == ""


def test_a_process_that_is_ending_is_waited_for_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time = Time()
    left = FolderLock(tmp_path / "learn.lock", "stream-ft learn")
    left.acquire()

    def wait(seconds: float) -> bool:
        if time.now > 102:
            left.release()
        return time.wait(seconds)

    await_predecessors(tmp_path, wait, monotonic=lambda: time.now)
    assert 102 < time.now < 103
    assert capsys.readouterr().err.count("waiting for the end of one before") == 1
    left.acquire()  # nothing is held afterwards
    left.release()


def test_one_that_does_not_end_is_waited_for_no_longer_than_it_may_take(tmp_path: Path) -> None:
    time = Time()
    with FolderLock(tmp_path / "serve.lock", "stream-ft serve"):
        await_predecessors(tmp_path, time.wait, monotonic=lambda: time.now)
    assert time.now == pytest.approx(100 + PREDECESSORS_S, abs=0.2)


def test_a_signal_ends_the_waiting(tmp_path: Path) -> None:
    time = Time()
    time.stop = True
    with FolderLock(tmp_path / "serve.lock", "stream-ft serve"):
        await_predecessors(tmp_path, time.wait, monotonic=lambda: time.now)
    assert time.now == pytest.approx(100.1)


@pytest.mark.parametrize("deadline_s", [0.5, 10.0, 12.5, 300.0])
def test_nothing_that_is_under_way_is_cut_off_before_its_deadline(deadline_s: float) -> None:
    settings = config.load(flags={"serve.deadline_s": deadline_s})
    assert drain_s(settings) > deadline_s
    assert stop_s(settings) > drain_s(settings) + 2, "the server waits so long for its requests, then it has to end"


def test_by_default_a_process_that_does_not_end_is_killed_after_20_seconds() -> None:
    assert (drain_s(config.load()), stop_s(config.load())) == (12, 20)
