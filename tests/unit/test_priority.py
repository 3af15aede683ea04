"""Threads that give way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stream_ft import priority


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux only")
def test_only_the_calling_thread_gives_way() -> None:
    def give() -> tuple[int, int]:
        priority.give_way()
        priority.give_way()  # again: no further
        return niceness(), threading.get_native_id()

    before = niceness()
    with ThreadPoolExecutor(1) as pool:
        given, thread = pool.submit(give).result()
    assert given == max(priority.NICE, before)
    assert thread != threading.get_native_id()
    assert niceness() == before


@pytest.mark.skipif(sys.platform != "linux", reason="nothing happens elsewhere")
def test_a_thread_that_may_not_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbidden)
    with caplog.at_level(logging.WARNING, "stream_ft.priority"):
        priority.give_way()
    assert "cannot give way" in caplog.text


def test_a_pause_leaves_the_share_of_a_core_to_the_work() -> None:
    cpu, pressed = [10.0], [True]
    pace = priority.Pace(lambda: pressed[0], share=0.1, cpu=lambda: cpu[0])
    pace.begin()
    cpu[0] += 0.02
    assert pace.pause_s() == pytest.approx(0.18)
    assert pace.pause_s() == 0.0, "nothing was done since"
    cpu[0] += 0.0015
    assert pace.pause_s() == 0.0, "too little for a pause of its own"
    cpu[0] += 0.0015
    assert pace.pause_s() == pytest.approx(0.027), "but counted"
    pressed[0] = False
    cpu[0] += 5.0
    assert pace.pause_s() == 0.0
    pressed[0] = True
    cpu[0] += 0.01
    assert pace.pause_s() == pytest.approx(0.09), "what was done while nobody waited is not made up for"


GROUP = """
words = AUTOGROUP.read_text().split() if AUTOGROUP.exists() else []
print(os.getpriority(os.PRIO_PROCESS, 0), words[-1] if words else "none")
"""
"""The file is missing where the kernel has no such groups, and empty for a process that is in none."""

START = "import os\nfrom stream_ft.priority import AUTOGROUP, be_nice\n"


def niceness_after(code: str, leads: bool) -> tuple[int, str]:
    """Of a process after the code, and of its group; with a session of its own, or in the one of this process."""
    command = [sys.executable, "-c", START + code + GROUP]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=leads)
    nice, group = done.stdout.split()
    return int(nice), group


@pytest.mark.skipif(sys.platform != "linux", reason="sessions share the cores on Linux only")
@pytest.mark.parametrize("leads", [True, False])
def test_a_process_with_a_session_of_its_own_gives_way_to_other_sessions_too(leads: bool) -> None:
    before, untold = niceness_after("", leads)
    nice, told = niceness_after("be_nice(7)", leads)
    assert nice == min(19, before + 7)
    assert told == ("7" if leads and untold != "none" else untold), "others of a session are left as they are"


def test_where_the_session_cannot_be_told_the_process_gives_way_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[int] = []
    monkeypatch.setattr(priority.os, "nice", given.append)
    monkeypatch.setattr(priority.os, "getsid", lambda pid: os.getpid())
    monkeypatch.setattr(priority, "AUTOGROUP", tmp_path / "missing" / "autogroup")
    priority.be_nice(5)
    assert given == [5]
