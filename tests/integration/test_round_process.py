"""What a round has cost is known however it ended, and memory is given back before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import examples

from stream_ft.learn.job import Job
from stream_ft.wiring import rounds
from stream_ft.wiring.rounds import RoundProcess

BUSY = """
import os, sys, time
while time.process_time() < 0.5: pass
open(os.path.join(sys.argv[3], "busy"), "w").close()
"""
"""Stands in for the interpreter: works for half a second, leaves no result."""


def program(folder: Path, end: str) -> str:
    path = folder / "python"
    path.write_text("#!/usr/bin/env -S python3 -S\n" + BUSY + end)
    path.chmod(0o755)
    return str(path)


def start(folder: Path, *, memory_mb: int = 10_000, seconds: float | None = None) -> RoundProcess:
    job = Job(kind="head", base_model="m", champion_base="b" * 64)
    return RoundProcess(folder / "round", job, examples(3), [], memory_mb=memory_mb, seconds=seconds)


def test_a_round_that_died_has_cost_what_it_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.sys, "executable", program(tmp_path, "os.kill(os.getpid(), 9)"))
    ended = start(tmp_path).wait()
    assert ended.result is None
    assert ended.reason == "The round ended with code -9 and no result."
    assert 0.5 <= ended.cpu_s < 5


def test_a_round_that_was_killed_has_cost_what_it_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.sys, "executable", program(tmp_path, "time.sleep(600)"))
    monkeypatch.setattr(rounds, "GRACE_S", 0.0)
    process = start(tmp_path, seconds=600.0)
    while not (tmp_path / "round" / "busy").exists():
        assert process.poll() is None
    process._seconds = 0.0
    ended = process.wait()
    assert "The round was killed after" in ended.reason
    assert 0.5 <= ended.cpu_s < 5


def test_a_round_that_something_else_has_waited_for_is_over_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds.sys, "executable", program(tmp_path, "sys.exit(3)"))
    process = start(tmp_path)
    process._process.wait(60)
    assert process.wait().reason == "The round ended with code 3 and no result."


def test_memory_is_given_back_before_a_round_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    popen = rounds.subprocess.Popen

    def started(*arguments: object, **more: object) -> object:
        order.append("start")
        return popen(*arguments, **more)

    monkeypatch.setattr(rounds, "give_back", lambda: order.append("give back"))
    monkeypatch.setattr(rounds.subprocess, "Popen", started)
    start(tmp_path).kill()
    assert order == ["give back", "start"]


def test_a_round_keeps_one_heap_unless_the_operator_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds.sys, "executable", program(tmp_path, "print(os.environ['MALLOC_ARENA_MAX'])"))
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    start(tmp_path).wait()
    assert (tmp_path / "round" / "log.txt").read_text() == "1\n"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    start(tmp_path).wait()
    assert (tmp_path / "round" / "log.txt").read_text() == "4\n"
